"""An engine from an ONNX file: built here, tried on golden vectors, kept until something that it hangs on changes."""

import contextlib
import json
import os
import tempfile
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from edgekd.bench.agent import (
    board,
    cuda,
    trt_python,
    trtexec,
)
from edgekd.bench.agent.build_request import (
    Built,
    Tool,
    Wish,
    digest_of,
    signature,
)
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.golden_vectors import (
    Found,
    Vectors,
    compare,
    read_vectors,
)

FORMAT = 1
# After the engine's name
RECORD = ".json"
CACHE = ".timing"
PROGRESS_EVERY_S = 0.5

KEYS = ("tensorrt", "sm", "l4t", "signature")
RECORDED = (
    "key",
    "digest",
    "made_from",
    "precision",
    "size_bytes",
    "build_s",
    "unpinned",
    "warnings",
    "timing_cache_digest",
    "tactics_replayed",
)

Emit = Callable[..., None]
Key = Dict[str, Optional[str]]
Kept = NamedTuple("Kept", [("plan", bytes), ("record", Dict[str, Any])])


def build(options: Any, emit: Emit, library: Any = None) -> None:
    """Build, or find that the engine which is there is the one that is asked for; then try it.

    Args:
        options: of the command line.
        emit: writes an answer.
        library: CUDA's runtime; None: the one that is found here.

    Raises:
        RefusedError: nothing can build or run it here, or it answers otherwise than the golden vectors.
    """
    vectors = read_vectors(options.vectors)
    kept = _find_cached(options.engine)
    wish = None if options.model is None else wish_of(options, kept)
    with contextlib.ExitStack() as stack:
        device = open_device(options, library, stack)
        tool, key = tool_and_key(options, device, wish, kept, emit)
        if kept is not None and kept.record["key"] == key and not options.rebuild:
            found = check_vectors(tool.answers(kept.plan, vectors), vectors)
            emit("engine", reused=True, parity=dict(found._asdict()), **kept.record)
        elif wish is None:
            raise _stale(options.engine, kept, key)
        else:
            build_engine(options, vectors, tool, key, wish, emit)


def tool_and_key(
    options: Any, device: cuda.Cuda, wish: Optional[Wish], kept: Optional[Kept], emit: Emit
) -> Tuple[Tool, Key]:
    """What builds here, and all that an engine hangs on.

    Raises:
        RefusedError: nothing can, or this is not the board that was asked for.
    """
    tool = _tool(options, device, emit)
    key: Key = {
        "tensorrt": tool.tensorrt,
        "sm": device.sm(),
        "l4t": board.l4t(options.root),
        "signature": _signature(options, wish, tool, kept),
    }
    emit("board", tool=tool.name, **key)
    _check_expected(options, key)
    return tool, key


def build_engine(
    options: Any, vectors: Vectors, tool: Tool, key: Key, wish: Wish, emit: Emit
) -> Found:
    """Build, try, and write what answers as the golden vectors.

    Raises:
        RefusedError: it cannot be built, or answers otherwise.
    """
    started = time.monotonic()
    built = tool.build(wish)
    seconds = time.monotonic() - started
    found = check_vectors(tool.answers(built.plan, vectors), vectors)
    record = {
        "key": key,
        "digest": digest_of(built.plan),
        "made_from": _digest_of_file(wish.model),
        "precision": wish.precision,
        "size_bytes": len(built.plan),
        "build_s": round(seconds, 3),
        "unpinned": built.unpinned,
        "warnings": built.warnings,
        "timing_cache_digest": None
        if built.timing_cache is None
        else digest_of(built.timing_cache),
        # Whether TensorRT measured nothing anew: the same tactics as in the build that the cache is from.
        "tactics_replayed": wish.timing_cache is not None
        and wish.timing_cache == built.timing_cache,
    }
    _write(options.engine, built, record)
    emit("engine", reused=False, parity=dict(found._asdict()), **record)
    return found


def _check_expected(options: Any, key: Key) -> None:
    """Raise where this is not the kind of board that the engine is for.

    Raises:
        RefusedError: another GPU, or another TensorRT.
    """
    here = (key["tensorrt"] or "").split(".")
    for what, wanted, found in (
        ("SM", options.expect_sm, key["sm"]),
        ("TensorRT", options.expect_tensorrt, ".".join(here[:2])),
    ):
        if wanted is not None and wanted != found:
            raise RefusedError(
                "other-version",
                "the target has {0} {1} and this machine {0} {2}: an engine that is built here would not run there. "
                "Build it on the board".format(what, wanted, found),
            )


def _signature(
    options: Any, wish: Optional[Wish], tool: Tool, kept: Optional[Kept]
) -> Optional[str]:
    if wish is not None:
        return signature(wish, _digest_of_file(wish.model), tool.name, options.workspace_mb)
    # Only an engine was brought: it may be run where all else is the same.
    return None if kept is None else kept.record["key"]["signature"]


def open_device(options: Any, library: Any, stack: contextlib.ExitStack) -> cuda.Cuda:
    """The device, until the stack ends.

    Raises:
        RefusedError: CUDA's runtime or a GPU is not here; what lacks of TensorRT is said with it, not at the next try.
    """
    try:
        return stack.enter_context(cuda.Cuda(library or cuda.find_library(options.cudart)))
    except RefusedError as refused:
        if refused.kind != "missing-runtime":
            raise
        raise RefusedError(refused.kind, "; ".join([str(refused), *_lacking(options)])) from refused


def _lacking(options: Any) -> List[str]:
    """Why nothing here can build; empty where something can."""
    looks: List[Callable[[], Any]] = []
    if options.tool in ("auto", "python"):
        looks.append(trt_python.import_tensorrt)
    if options.tool in ("auto", "trtexec"):
        looks.append(lambda: trtexec.find_trtexec(options.trtexec))
    reasons: List[str] = []
    for look in looks:
        try:
            look()
        except RefusedError as refused:
            reasons.append(str(refused))
        else:
            return []
    return reasons


def _tool(options: Any, device: cuda.Cuda, emit: Emit) -> Tool:
    """TensorRT's Python module where it is there and new enough, else trtexec.

    Raises:
        RefusedError: neither is, and why.
    """
    reasons: List[str] = []
    if options.tool in ("auto", "python"):
        try:
            return trt_python.tool_of(trt_python.import_tensorrt(), device, _progress(emit))
        except RefusedError as refused:
            if options.tool == "python":
                raise
            reasons.append(str(refused))
    try:
        return trtexec.tool_of(trtexec.find_trtexec(options.trtexec))
    except RefusedError as refused:
        reasons.append(str(refused))
        raise RefusedError(refused.kind, "; ".join(reasons)) from refused


def _progress(emit: Emit) -> trt_python.Progress:
    """Not every step: TensorRT has thousands."""
    last = [0.0]

    def say(phase: str, step: int, of: int) -> None:
        now = time.monotonic()
        if step == of or now - last[0] >= PROGRESS_EVERY_S:
            last[0] = now
            emit("progress", phase=phase, step=step, of=of)

    return say


def wish_of(options: Any, kept: Optional[Kept]) -> Wish:
    workspace = options.workspace_mb
    return Wish(
        model=options.model,
        precision=options.precision,
        typing=options.typing,
        workspace_bytes=board.workspace_bytes(options.proc)
        if workspace is None
        else workspace * board.MIB,
        open_inputs=[_open_input(text) for text in options.open_input],
        dla=options.dla,
        pinned=list(options.pin),
        timing_cache=_timing_cache(options, kept),
        compute_capabilities=[],
    )


def _open_input(text: str) -> Tuple[str, List[int]]:
    name, _, shape = text.rpartition(":")
    try:
        return name, [int(size) for size in shape.split("x")]
    except ValueError as error:
        raise RefusedError(
            "inputs", "--open-input {!r}: not NAME:1x3x32x32".format(text)
        ) from error


def _timing_cache(options: Any, kept: Optional[Kept]) -> Optional[bytes]:
    """The cache that was given, or the one that the last build kept; pinned by its digest.

    Raises:
        RefusedError: it is another than the digest says.
    """
    path, pinned = options.timing_cache, options.timing_cache_digest
    if path is None:
        path = options.engine + CACHE
        pinned = None if kept is None else kept.record["timing_cache_digest"]
        if pinned is None or not os.path.exists(path):
            return None
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise RefusedError("inputs", "{}: {}".format(path, error.strerror)) from error
    if pinned is not None and digest_of(data) != pinned:
        raise RefusedError(
            "inputs",
            "{}: its digest is {}, not {}. Delete it, or give the one that was pinned".format(
                path, digest_of(data)[:12], pinned[:12]
            ),
        )
    return data


def check_vectors(answers: List[List[bytes]], vectors: Vectors) -> Found:
    """Hold what an engine answers against the golden vectors.

    Raises:
        RefusedError: it answers otherwise.
    """
    found = compare(vectors, answers)
    if not found.passed:
        raise RefusedError(
            "deviates",
            "the engine top-1 matches the golden vectors on {:.1%} of {} (at least {:.1%}), and is off by {:.3g} at most "
            "({}). It was not kept".format(
                found.top1_agreement,
                found.vectors,
                found.top1_tolerance,
                found.max_abs_error,
                "not limited"
                if found.max_abs_tolerance is None
                else "{:.3g} allowed".format(found.max_abs_tolerance),
            ),
        )
    return found


def _find_cached(path: str) -> Optional[Kept]:
    """The engine that is there, with its record; None where one of them is not, or is damaged."""
    try:
        with open(path + RECORD, encoding="utf-8") as stream:
            record = json.load(stream)
        with open(path, "rb") as stream_of_plan:
            plan = stream_of_plan.read()
        # Records of before warnings were kept
        record.setdefault("warnings", [])
        whole = sorted(record) == sorted([*RECORDED, "format"]) and sorted(record["key"]) == sorted(
            KEYS
        )
        if whole and record.pop("format") == FORMAT and record["digest"] == digest_of(plan):
            return Kept(plan, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def _stale(path: str, kept: Optional[Kept], key: Key) -> RefusedError:
    if kept is None:
        return RefusedError(
            "inputs", "{}: no engine with its record, and no model to build one of".format(path)
        )
    was = kept.record["key"]
    other = [
        "{} {} here {}".format(name, was.get(name), key[name])
        for name in sorted(key)
        if was.get(name) != key[name]
    ]
    return RefusedError(
        "other-version",
        "the engine was built for {}. Give the model, and it is built again".format(
            ", ".join(other)
        ),
    )


def _write(path: str, built: Built, record: Dict[str, Any]) -> None:
    """Engine, cache and record, each whole or not at all; the record last, for its digests say that the others hold."""
    _replace(path, built.plan)
    if built.timing_cache is not None:
        _replace(path + CACHE, built.timing_cache)
    text = json.dumps(dict(record, format=FORMAT), indent=1, sort_keys=True)
    _replace(path + RECORD, (text + "\n").encode("ascii"))


def _replace(path: str, data: bytes) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder, prefix="." + os.path.basename(path))
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder_handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)


def _digest_of_file(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return digest_of(stream.read())
    except OSError as error:
        raise RefusedError("not-a-model", "{}: {}".format(path, error.strerror)) from error
