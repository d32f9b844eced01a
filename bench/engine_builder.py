"""A TensorRT engine, built by the agent on this machine and tried on golden vectors."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from edgekd.bench.protocol.responses import (
    BoardResponse,
    EngineResponse,
    ParityResponse,
    ProgressResponse,
    Response,
)
from edgekd.bench.transport import agent_process
from edgekd.bench.transport.agent_access import AGENT, Access, LocalAccess
from edgekd.errors import DeviceError
from edgekd.files import digest_of
from edgekd.records import (
    Engine,
    OnnxModel,
    Parity,
    Precision,
    TensorSpec,
    record,
)

TIMEOUT_S: Final = 3600.0


@record
class EngineOptions:
    """How an engine is built; what is None is found out on the board."""

    workspace_mb: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    # A core; FP16 alone
    dla: Annotated[int, Field(ge=0, le=15)] | None = None
    tool: Literal["auto", "python", "trtexec"] = "auto"
    trtexec: Path | None = None
    cudart: Path | None = None
    timing_cache: Path | None = None
    timing_cache_digest: str | None = None
    rebuild: bool = False
    # "10.3": refuse to build for another
    expect_tensorrt: str | None = None
    expect_sm: str | None = None
    root: Path = Path("/")
    proc: Path = Path("/proc")


DEFAULT: Final = EngineOptions()


def build(
    model: Path,
    described: OnnxModel,
    vectors: Path,
    *,
    out: Path,
    precision: Precision,
    typing: Literal["weak", "strong"],
    options: EngineOptions = DEFAULT,
    progress: Callable[[ProgressResponse], None] = lambda _: None,
    agent: Sequence[str] = AGENT,
) -> Engine:
    """Build an engine of an ONNX file, or find that the one at `out` is it, and run the golden vectors through it.

    Args:
        model: the ONNX file.
        described: its record.
        vectors: JSON of what it must answer.
        out: the engine; its record (`.json`) and timing cache (`.timing`) lie beside it. It appears only when it passed.
        precision: of the engine: an FP16 engine of a builder that chooses types is made of the FP32 file.
        typing: whether types are in the graph (strong) or the builder's choice.
        options: how.
        progress: is told of phases of the build.
        agent: the command of the building program.

    Raises:
        MissingToolError: neither TensorRT's Python module nor trtexec is here, or CUDA's runtime or a GPU is not.
        IncompatibleError: TensorRT cannot read, build or load it; its memory ran out.
        QualityError: the engine answers otherwise than the golden vectors.
        DeviceError: the agent died, ran too long, or answered nonsense.
    """
    access = LocalAccess(agent)
    board, found = _built(
        access,
        _arguments(
            model,
            described.inputs,
            described.fp32_nodes,
            vectors,
            out=str(out),
            precision=precision,
            typing=typing,
        ),
        options,
        progress,
    )
    if digest_of(out) != found.digest:
        raise DeviceError(f"{out.name} is not the engine that the agent says it built.")
    _require(found, precision, digest_of(model))
    return _engine(board, found, name=out.name, vectors=vectors)


def build_on(
    access: Access,
    model: Path,
    inputs: Sequence[TensorSpec],
    vectors: Path,
    *,
    precision: Precision,
    typing: Literal["weak", "strong"],
    fp32_nodes: Sequence[str] = (),
    options: EngineOptions = DEFAULT,
    progress: Callable[[ProgressResponse], None] = lambda _: None,
) -> tuple[Engine, str]:
    """Build an engine on a board, where it stays; the next run finds it there.

    Args:
        access: to the board.
        model: the ONNX file.
        inputs: of it.
        vectors: JSON of what it must answer.
        precision: of the engine.
        typing: whether types are in the graph (strong) or the builder's choice.
        fp32_nodes: layers that stay in FP32.
        options: how.
        progress: is told of phases of the build.

    Returns:
        Its record, and its path there.

    Raises:
        As `build`; and IntegrityError where a file did not arrive as it is here.
    """
    out = access.engine_path(f"{digest_of(model)[:16]}-{precision}.engine")
    with tempfile.TemporaryDirectory() as folder:
        sent = _vectors_there(access, vectors, Path(folder))
        words = _arguments(
            model, inputs, fp32_nodes, vectors, out=out, precision=precision, typing=typing
        )
        there = {str(model): access.place(model), str(vectors): sent}
        board, found = _built(access, [there.get(word, word) for word in words], options, progress)
    _require(found, precision, digest_of(model))
    return _engine(board, found, name=Path(out).name, vectors=vectors), out


def _vectors_there(access: Access, vectors: Path, folder: Path) -> str:
    """Bring golden vectors to a board: their bytes lie beside their description by digest there."""
    record = json.loads(vectors.read_text(encoding="utf-8"))
    tensors = [*record["inputs"], *record["outputs"]]
    files = [vectors.parent / tensor["file"] for tensor in tensors]
    placed = [Path(access.place(file)) for file in files]
    if placed == files:
        # The agent is here, and reads them where they are
        return str(vectors)
    for tensor, path in zip(tensors, placed, strict=True):
        tensor["file"] = path.name
    described = folder / vectors.name
    described.write_text(json.dumps(record, sort_keys=True), encoding="ascii")
    return access.place(described)


def _built(
    access: Access,
    words: list[str],
    options: EngineOptions,
    progress: Callable[[ProgressResponse], None],
) -> tuple[BoardResponse, EngineResponse]:
    def on_answer(answer: Response) -> None:
        if isinstance(answer, ProgressResponse):
            progress(answer)

    answers = access.ask([*words, *_settings(options)], timeout_s=TIMEOUT_S, heard=on_answer)
    return agent_process.one(BoardResponse, answers), agent_process.one(EngineResponse, answers)


def _require(found: EngineResponse, precision: Precision, made_from: str) -> None:
    if found.precision != precision or found.made_from != made_from:
        raise DeviceError("The agent built another engine than was asked for.")


def _arguments(
    model: Path,
    inputs: Sequence[TensorSpec],
    fp32_nodes: Sequence[str],
    vectors: Path,
    *,
    out: str,
    precision: Precision,
    typing: Literal["weak", "strong"],
) -> list[str]:
    record = json.loads(vectors.read_text(encoding="utf-8"))
    shapes = {each["name"]: each["shape"] for each in record["inputs"]}
    arguments = ["build", "--model", str(model), "--engine", out, "--vectors", str(vectors)]
    arguments += ["--precision", precision, "--typing", typing]
    for tensor in inputs:
        if any(isinstance(size, str) for size in tensor.shape):
            shape = "x".join(str(size) for size in shapes[tensor.name])
            arguments += ["--open-input", f"{tensor.name}:{shape}"]
    for name in fp32_nodes:
        arguments += ["--pin", name]
    return arguments


def _settings(options: EngineOptions) -> list[str]:
    given = {
        "--workspace-mb": options.workspace_mb,
        "--dla": options.dla,
        "--trtexec": options.trtexec,
        "--cudart": options.cudart,
        "--timing-cache": options.timing_cache,
        "--timing-cache-digest": options.timing_cache_digest,
        "--expect-tensorrt": options.expect_tensorrt,
        "--expect-sm": options.expect_sm,
    }
    arguments = ["--tool", options.tool, "--root", str(options.root), "--proc", str(options.proc)]
    for name, value in given.items():
        arguments += [] if value is None else [name, str(value)]
    return [*arguments, *(["--rebuild"] if options.rebuild else [])]


def _engine(board: BoardResponse, found: EngineResponse, *, name: str, vectors: Path) -> Engine:
    if found.key.signature is None:
        raise DeviceError(f"The agent does not say what {name} hangs on.")
    return Engine(
        path=name,
        digest=found.digest,
        made_from=found.made_from,
        precision=found.precision,
        tensorrt=board.tensorrt,
        sm=board.sm,
        l4t=board.l4t,
        build_key=found.key.signature,
        tool=board.tool,
        parity=_parity(found.parity, vectors),
        size_bytes=found.size_bytes,
        build_s=found.build_s,
        reused=found.reused,
        timing_cache_digest=found.timing_cache_digest,
        tactics_replayed=found.tactics_replayed,
        not_kept_in_fp32=found.unpinned,
        warnings=found.warnings,
    )


def _parity(found: ParityResponse, vectors: Path) -> Parity:
    return Parity(
        against=vectors.name,
        images=found.vectors,
        max_abs_error=found.max_abs_error,
        max_abs_tolerance=found.max_abs_tolerance,
        top1_agreement=found.top1_agreement,
        top1_tolerance=found.top1_tolerance,
        passed=found.passed,
    )
