"""TensorRT by its command, for boards whose Python has no module for it: JetPack 4 above all."""

import array
import ctypes
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
from typing import Any, Dict, List, Optional, Tuple

from edgekd.bench.agent.build_request import Built, Tool, Wish
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.golden_vectors import LETTERS, Tensor, Vectors
from edgekd.bench.agent.trt_messages import distinct, refusal

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec")
LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8")
Version = Tuple[int, ...]
# The first version that has a flag, and the first that no longer has it. From sampleOptions.cpp of NVIDIA/TensorRT
# (8.6.1, 10.3.0, 10.16, 11.1) and from what trtexec 8.2 and 8.4 print of themselves.
FLAGS: Dict[str, Tuple[Version, Optional[Version]]] = {
    "--onnx": ((8, 2), None),
    "--saveEngine": ((8, 2), None),
    "--loadEngine": ((8, 2), None),
    "--timingCacheFile": ((8, 2), None),
    "--shapes": ((8, 2), None),
    "--loadInputs": ((8, 2), None),
    "--exportOutput": ((8, 2), None),
    "--iterations": ((8, 2), None),
    "--duration": ((8, 2), None),
    "--warmUp": ((8, 2), None),
    "--exportTimes": ((8, 2), None),
    "--includeDataTransfers": ((11, 0), None),
    "--noSpinWait": ((11, 0), None),
    "--noCudaGraph": ((11, 0), None),
    "--noTF32": ((8, 2), None),
    "--useDLACore": ((8, 2), None),
    "--allowGPUFallback": ((8, 2), None),
    "--workspace": ((8, 2), (10, 0)),
    "--memPoolSize": ((8, 4), None),
    "--buildOnly": ((8, 2), (10, 0)),
    "--skipInference": ((8, 6), None),
    "--fp16": ((8, 2), (11, 0)),
    "--int8": ((8, 2), (11, 0)),
    "--precisionConstraints": ((8, 4), (11, 0)),
    "--layerPrecisions": ((8, 4), (11, 0)),
    "--layerOutputTypes": ((8, 4), (11, 0)),
    "--stronglyTyped": ((10, 0), None),
}
# Internal error, error, warning, information, verbose (`severityPrefix` in logging.h of the samples)
_MESSAGE = re.compile(r"\[([FEWIV])\]\s*(.*)")
_BANNER = re.compile(r"TensorRT\.trtexec \[TensorRT v(\d+)\]")


def has(flag: str, version: Version) -> bool:
    """Whether trtexec of that version takes a flag."""
    since, until = FLAGS[flag]
    return version >= since and (until is None or version < until)


def find_trtexec(path: Optional[str] = None) -> str:
    """The program.

    Args:
        path: of it; None: on the search path, or where JetPack puts it.

    Raises:
        RefusedError: it is not there.
    """
    found = path or shutil.which("trtexec") or next(filter(os.path.exists, PLACES), None)
    if found is None or not os.access(found, os.X_OK):
        raise RefusedError(
            "missing-runtime", "trtexec: neither on the search path nor {}".format(PLACES[0])
        )
    return found


def version_of(number: int) -> str:
    """NV_TENSORRT_VERSION as text: 8201 is 8.2.1, and since version 10 100300 is 10.3.0."""
    thousand = 1000 if number < 10000 else 10000
    return "{}.{}.{}".format(number // thousand, number % thousand // 100, number % 100)


def tool_of(program: str) -> Tool:
    """Trtexec as a tool.

    Raises:
        RefusedError: it does not say its version.
    """
    text = _version(program)
    version = tuple(int(part) for part in text.split("."))

    def build(wish: Wish) -> Built:
        return _build(program, version, wish)

    def answers(plan: bytes, vectors: Vectors) -> List[List[bytes]]:
        return _answers(program, plan, vectors)

    return Tool("trtexec", text, build, answers)


def _version(program: str) -> str:
    _, lines = run([program, "--help"])
    for line in lines:
        found = _BANNER.search(line)
        if found:
            return version_of(int(found.group(1)))
    # Some builds print no banner for --help
    for name in LIBRARIES:
        try:
            return version_of(int(ctypes.CDLL(name).getInferLibVersion()))
        except (OSError, AttributeError):
            continue
    raise RefusedError("missing-runtime", "{} does not say which TensorRT it is of".format(program))


def build_flags(version: Version, wish: Wish, plan: str, cache: str) -> List[str]:
    """The flags of a build, as that version has them.

    Raises:
        RefusedError: it builds no such engine.
    """
    mebibytes = max(1, wish.workspace_bytes >> 20)
    flags = ["--onnx=" + wish.model, "--saveEngine=" + plan, "--timingCacheFile=" + cache]
    if has("--memPoolSize", version):
        flags.append("--memPoolSize=workspace:{}".format(mebibytes))
    else:
        flags.append("--workspace={}".format(mebibytes))
    flags.append("--skipInference" if has("--skipInference", version) else "--buildOnly")
    flags += _type_flags(version, wish)
    if wish.open_inputs:
        shapes = [
            "{}:{}".format(name, "x".join(map(str, shape))) for name, shape in wish.open_inputs
        ]
        flags.append("--shapes=" + ",".join(shapes))
    if wish.dla is not None:
        flags += ["--useDLACore={}".format(wish.dla), "--allowGPUFallback"]
    return flags


def _type_flags(version: Version, wish: Wish) -> List[str]:
    if wish.compute_capabilities:
        raise _other(version, "builds for the GPU that is here alone")
    if wish.typing == "strong":
        if not has("--stronglyTyped", version):
            raise _other(version, "takes no types from the graph")
        return ["--stronglyTyped"]
    if wish.precision == "fp32":
        return ["--noTF32"]
    if not has("--fp16", version):
        raise _other(version, "takes types from the graph alone")
    flags = ["--fp16"] + (["--int8"] if wish.precision == "int8" else [])
    if wish.pinned and has("--layerPrecisions", version):
        named = ",".join("{}:fp32".format(name) for name in wish.pinned)
        flags += ["--precisionConstraints=obey", "--layerPrecisions=" + named]
        flags.append("--layerOutputTypes=" + named)
    return flags


def _other(version: Version, why: str) -> RefusedError:
    text = ".".join(str(part) for part in version)
    return RefusedError("other-version", "TensorRT {} {}; export for its JetPack".format(text, why))


def _build(program: str, version: Version, wish: Wish) -> Built:
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        plan, cache = os.path.join(folder, "plan"), os.path.join(folder, "cache")
        if wish.timing_cache is not None:
            with open(cache, "wb") as stream:
                stream.write(wish.timing_cache)
        flags = build_flags(version, wish, plan, cache)
        code, lines = run([program, *flags])
        if code or not os.path.exists(plan):
            raise refusal("trtexec cannot build the engine", errors(lines))
        unpinned = (
            [] if has("--layerPrecisions", version) or wish.precision == "fp32" else wish.pinned
        )
        return Built(
            _read(plan) or b"", _read(cache), list(unpinned), distinct(_messages(lines, "FEW"))
        )


def _answers(program: str, plan: bytes, vectors: Vectors) -> List[List[bytes]]:
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        engine, out = os.path.join(folder, "plan"), os.path.join(folder, "out.json")
        with open(engine, "wb") as stream:
            stream.write(plan)
        answers = []
        for number in range(vectors.count):
            given = []
            for place, tensor in enumerate(vectors.inputs):
                path = os.path.join(folder, "input-{}.bin".format(place))
                with open(path, "wb") as stream:
                    stream.write(tensor.values[number])
                given.append("{}:{}".format(tensor.name, path))
            flags = ["--loadEngine=" + engine, "--loadInputs=" + ",".join(given)]
            flags += ["--exportOutput=" + out, "--iterations=1", "--duration=0", "--warmUp=0"]
            code, lines = run([program, *flags])
            if code:
                raise refusal("trtexec cannot run the engine", errors(lines))
            answers.append(_read_outputs(out, vectors.outputs))
        return answers


def _read_outputs(path: str, outputs: List[Tensor]) -> List[bytes]:
    """What `--exportOutput` wrote, as bytes."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = {str(each["name"]): each["values"] for each in json.load(stream)}
        return [_pack(tensor, found[tensor.name]) for tensor in outputs]
    except (OSError, ValueError, KeyError, TypeError, struct.error, OverflowError) as error:
        raise RefusedError(
            "deviates", "trtexec's output cannot be read: {}".format(error)
        ) from error


def _pack(tensor: Tensor, values: List[Any]) -> bytes:
    letter = LETTERS[tensor.dtype]
    return array.array(letter, [float(v) if letter == "f" else int(v) for v in values]).tobytes()


def run(command: List[str]) -> Tuple[int, List[str]]:
    """The exit code, and all lines."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace").splitlines()


def warnings(lines: List[str]) -> List[str]:
    """What TensorRT warned of, each line once; what trtexec itself says of its figures is not of the engine."""
    said = _messages(lines, "W")
    return distinct([line[len("[TRT]") :] for line in said if line.startswith("[TRT]")])


def errors(lines: List[str]) -> List[str]:
    return _messages(lines, "FE") or lines[-5:]


def _messages(lines: List[str], letters: str) -> List[str]:
    """What was said so loudly; the lines of one message after its first have no letter."""
    found: List[str] = []
    heard = False
    for line in lines:
        match = _MESSAGE.search(line)
        if match:
            heard = match.group(1) in letters
            if heard:
                found.append(match.group(2))
        elif line.startswith("&&&&"):
            heard = False
        elif heard:
            found[-1] += "\n" + line
    return found


def _read(path: str) -> Optional[bytes]:
    if not os.path.exists(path):
        return None
    with open(path, "rb") as stream:
        return stream.read()
