"""A bundle's model as this board runs it: made on the first boot, tried, and made again when what it hangs on changes.

On TensorRT that is an engine; on ONNX Runtime the graph that it optimises for this processor. Both are tried on the
bundle's golden vectors at every start. When the new one fails, the last good one stays current, and the exit code says so.
"""

import contextlib
import copy
import json
import os
import platform
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from edgekd.bench.agent import engine_build, ort_runtime
from edgekd.bench.agent.build_request import digest_of
from edgekd.bench.agent.commands import Emit, check_digest
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.generations import CURRENT, PREVIOUS, Generations
from edgekd.bench.agent.golden_vectors import Found, Vectors, read_vectors

# Both say the same of what is read here.
MANIFEST_FORMATS = (1, 2)
# Goes up when the same bundle makes something else.
RECIPE = 1
SIGNATURE_LETTERS = 16
# Of /proc/cpuinfo: what ONNX Runtime chooses its kernels and layouts by.
PROCESSOR = ("model name", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")

Bundle = NamedTuple(
    "Bundle",
    [
        ("digest", str),  # of its content
        ("runtime", str),
        ("typing", str),
        ("precision", str),  # of what is made
        ("model", str),
        ("model_digest", str),
        ("pinned", List[str]),
        (
            "open_inputs",
            List[str],
        ),  # whose batch the model leaves open; here it is that of the vectors
        ("vectors", str),
    ],
)
Maker = NamedTuple(
    "Maker",
    [
        ("key", Dict[str, Optional[str]]),  # all that the made thing hangs on, but for the bundle
        ("file", str),
        ("make", Callable[[str], Found]),  # into a file; raises where it answers otherwise
        ("try_again", Callable[[str], Found]),
    ],
)


def firstboot(options: Any, emit: Emit, library: Any = None) -> None:
    """Have what a bundle's model runs as, checked, under `current`.

    Args:
        options: of the command line.
        emit: writes an answer.
        library: CUDA's runtime; None: the one that is found here.

    Raises:
        RefusedError: it cannot be had here; what was current stays.
    """
    state = Generations(options.state)
    with state.lock():
        # Also where the board resets while it builds, this says that the last start did not end.
        state_record: Dict[str, Any] = {"wanted": None, "bundle": None}
        state.say(ok=False, reason="it did not end", **state_record)
        try:
            bundle = read_bundle(options.bundle, options.runtime, options.precision)
            state_record["bundle"] = bundle.digest
            vectors = read_vectors(bundle.vectors)
            with _maker(options, bundle, vectors, library, emit) as maker:
                state_record["wanted"] = _signature(bundle, maker)
                name, found, reused = _had(state, state_record["wanted"], bundle, maker, emit)
                state.point(name)
                state.prune()
        except (RefusedError, OSError) as problem:
            # What is half made takes room, on a full disk the last of it
            state.clean()
            state.say(ok=False, reason=str(problem), **state_record)
            emit("kept", current=state.target(CURRENT), wanted=state_record["wanted"])
            raise
        state.say(ok=True, reason=None, **state_record)
        emit(
            "firstboot",
            current=name,
            previous=state.target(PREVIOUS),
            file=state.file(name),
            reused=reused,
            parity=dict(found._asdict()),
            **maker.key,
        )


def _had(
    state: Generations, wanted: str, bundle: Bundle, maker: Maker, emit: Emit
) -> Tuple[str, Found, bool]:
    """One that is there and still answers rightly, else a new one."""
    for name in state.list_kept(wanted):
        try:
            return name, maker.try_again(state.file(name)), True
        except RefusedError as refused:
            emit("damaged", name=name, reason=str(refused))
    check_digest(bundle.model, bundle.model_digest)
    folder = state.begin()
    file = os.path.join(folder, maker.file)
    found = maker.make(file)
    with open(file, "rb") as stream:
        digest = digest_of(stream.read())
    record = {
        "file": maker.file,
        "digest": digest,
        "bundle": bundle.digest,
        "made_from": bundle.model_digest,
        "precision": bundle.precision,
        "key": maker.key,
        "parity": dict(found._asdict()),
    }
    return state.publish(folder, wanted, record), found, False


def _signature(bundle: Bundle, maker: Maker) -> str:
    fields = {
        "recipe": RECIPE,
        "bundle": bundle.digest,
        "model": bundle.model_digest,
        "precision": bundle.precision,
        "key": maker.key,
    }
    return digest_of(json.dumps(fields, sort_keys=True).encode("ascii"))[:SIGNATURE_LETTERS]


# --- the bundle -----------------------------------------------------------------------------------


def read_bundle(folder: str, wanted_runtime: Optional[str], precision: Optional[str]) -> Bundle:
    """What a bundle's manifest says of the model that is to run here.

    Args:
        folder: of the bundle.
        wanted_runtime: None: that of the bundle's target.
        precision: None: that of the bundle's last model.

    Raises:
        RefusedError: it cannot be read, is of another format, or has no such model.
    """
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path, encoding="utf-8") as stream:
            manifest = json.load(stream)
        if manifest["schema"] != "manifest" or manifest["schema_version"] not in MANIFEST_FORMATS:
            raise ValueError(
                "not a manifest of format {}".format(" or ".join(map(str, MANIFEST_FORMATS)))
            )
        software = manifest["target"]["software"]
        runs_on, typing = wanted_runtime or software["runtime"], software["typing"] or "weak"
        # FP16 is a flag of the builder
        flagged = runs_on != "onnxruntime" and typing == "weak"
        last = manifest["models"][-1]["precision"]
        if precision is None:
            precision = "fp16" if flagged and last == "fp32" else last
        made_of = "fp32" if flagged and precision == "fp16" else precision
        models = [each for each in manifest["models"] if each["precision"] == made_of]
        if not models or precision not in manifest["golden"]["vectors"]:
            raise ValueError("no {} model with golden vectors".format(precision))
        digests = {each["path"]: each["sha256"] for each in manifest["files"]}
        vectors = manifest["golden"]["vectors"][precision]
        check_digest(os.path.join(folder, vectors), digests[vectors])
        return Bundle(
            manifest["content_digest"],
            runs_on,
            typing,
            precision,
            os.path.join(folder, models[0]["path"]),
            models[0]["digest"],
            list(models[0]["fp32_nodes"]),
            [each["name"] for each in models[0]["inputs"] if not isinstance(each["shape"][0], int)],
            os.path.join(folder, vectors),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RefusedError("inputs", "{}: {}".format(path, error)) from error


# --- what makes it --------------------------------------------------------------------------------


@contextlib.contextmanager
def _maker(
    options: Any, bundle: Bundle, vectors: Vectors, library: Any, emit: Emit
) -> Iterator[Maker]:
    if bundle.runtime == "onnxruntime":
        yield _by_onnxruntime(options, bundle, vectors)
        return
    asked = copy.copy(options)
    asked.model, asked.vectors = bundle.model, bundle.vectors
    asked.precision, asked.typing, asked.pin = bundle.precision, bundle.typing, bundle.pinned
    asked.open_input = [
        "{}:{}".format(tensor.name, "x".join(map(str, tensor.shape)))
        for tensor in vectors.inputs
        if tensor.name in bundle.open_inputs
    ]
    if bundle.runtime == "trtexec":
        asked.tool = "trtexec"
    asked.engine = ""
    wish = engine_build.wish_of(asked, None)
    with contextlib.ExitStack() as stack:
        device = engine_build.open_device(asked, library, stack)
        tool, key = engine_build.tool_and_key(asked, device, wish, None, emit)

        def make(file: str) -> Found:
            asked.engine = file
            return engine_build.build_engine(asked, vectors, tool, key, wish, emit)

        def try_again(file: str) -> Found:
            with open(file, "rb") as stream:
                plan = stream.read()
            return engine_build.check_vectors(tool.answers(plan, vectors), vectors)

        yield Maker(dict(key, runtime="tensorrt", tool=tool.name), "model.engine", make, try_again)


def _by_onnxruntime(options: Any, bundle: Bundle, vectors: Vectors) -> Maker:
    module = ort_runtime.import_runtime()

    def make(file: str) -> Found:
        ort_runtime.optimise(module, bundle.model, file)
        return try_again(file)

    def try_again(file: str) -> Found:
        session = ort_runtime.open_session(module, file, options.threads)
        return engine_build.check_vectors(ort_runtime.answers(session, vectors), vectors)

    key: Dict[str, Optional[str]] = {
        "runtime": "onnxruntime",
        "onnxruntime": str(module.__version__),
        "machine": platform.machine(),
        "processor": _processor(options.proc),
    }
    return Maker(key, "model.onnx", make, try_again)


def _processor(proc: str) -> str:
    """A digest of what a processor is and can do: a graph that is optimised for one may not run on another."""
    identities = set()
    try:
        with open(os.path.join(proc, "cpuinfo"), encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.partition(":")[0].strip() in PROCESSOR:
                    identities.add(line.strip())
    except OSError:  # nothing is told apart then; what is made is tried on the golden vectors at every start all the same
        pass
    return digest_of("\n".join(sorted(identities)).encode("utf-8"))[:SIGNATURE_LETTERS]
