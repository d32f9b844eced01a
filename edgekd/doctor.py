"""What of edgekd can run on this machine, what cannot, and what to do about it.

Libraries are asked in processes of their own (`edgekd/probes.py`), so that one that is broken is a
finding and not a crash. timm is looked up and never imported: it takes seconds and decides nothing.
"""

import importlib.metadata
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from edgekd import __version__, machine
from edgekd.bench.agent import sensors
from edgekd.machine import Machine
from edgekd.records import record

PROBES: Final = Path(__file__).with_name("probes.py")
TIMEOUT_S: Final = 60.0  # torch from a cold SD card
TRTEXEC: Final = Path("/usr/src/tensorrt/bin/trtexec")  # where JetPack puts it, not on PATH
GIB: Final = 2**30


@record
class Library:
    """A dependency: its version, or what is wrong with it."""

    name: str
    needs: str  # ">=2.9"; "" where edgekd does not say
    version: str | None = None
    problem: str | None = None
    took_s: float | None = None  # to import it, where that was done


@record
class Gpu:
    name: str
    compute_capability: str
    memory_bytes: int
    bf16: bool


@record
class Cuda:
    build: str | None  # the CUDA version that torch was built for
    gpus: tuple[Gpu, ...]
    reason: str | None  # why there is no device


@record
class TensorRt:
    """Not needed: edgekd writes ONNX, and engines are built on the board."""

    bindings: str | None  # the version that this Python imports
    trtexec: str | None  # its path
    reason: str | None


@record
class EnergySensor:
    name: str
    scope: str | None  # what its joules cover; None: not usable
    reason: str | None


@record
class CommandState:
    """Whether a command can run, what it cannot do here, and what to run to change that."""

    command: str
    works: bool
    missing: tuple[str, ...]
    limits: tuple[str, ...]
    todo: tuple[str, ...]


@record
class Doctor:
    """What `edgekd doctor --json` prints."""

    made_with: str
    machine: Machine
    libraries: tuple[Library, ...]
    cuda: Cuda
    tensorrt: TensorRt
    onnxruntime_providers: tuple[str, ...]
    energy: tuple[EnergySensor, ...]
    commands: tuple[CommandState, ...]
    took_s: Annotated[float, Field(ge=0)]

    @property
    def works(self) -> bool:
        return all(state.works for state in self.commands)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Distributions that a command cannot start without, and what is lost without others."""

    libraries: tuple[str, ...]
    optional: Mapping[str, str]


_PIPELINE: Final = ("torch", "numpy", "safetensors", "onnx", "onnx-ir")
_TEACHERS: Final = {
    "timm": "no teachers or students of timm (--arch timm:NAME)",
    "torchvision": "no teachers or students of torchvision (--arch torchvision:NAME)",
}
_FOLDERS: Final = {"pillow": "--eval takes no folders of images, only .npz and idx files"}
_EXPORT: Final = (*_PIPELINE, "onnxscript", "onnxruntime")
# By command; a test compares this with what the commands import.
NEEDS: Final[dict[str, Needs]] = {
    "compress": Needs(libraries=(*_EXPORT, "accelerate"), optional=_TEACHERS | _FOLDERS),
    "distill": Needs(libraries=(*_PIPELINE, "accelerate"), optional=_TEACHERS),
    "synthesize": Needs(libraries=(*_PIPELINE, "accelerate"), optional=_TEACHERS),
    "export": Needs(libraries=_EXPORT, optional=_TEACHERS),
    "bench": Needs(libraries=(*_PIPELINE, "onnxruntime"), optional={}),
    "eval": Needs(libraries=(*_PIPELINE, "onnxruntime"), optional=_TEACHERS | _FOLDERS),
    "teacher": Needs(libraries=_PIPELINE, optional=_TEACHERS | _FOLDERS),
    "bundle": Needs(libraries=("numpy",), optional={}),
    "targets": Needs(libraries=(), optional={}),
}
MODULES: Final = {"pillow": "PIL", "onnx-ir": "onnx_ir"}
INSTALL_TORCH: Final = (
    "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu   "
    "(for the CPU; both from the same index)"
)
# From benchmarks/results/cifar10.csv; a test compares.
SLOWER: Final = (
    "no CUDA device: distillation runs on the CPU. In the CIFAR-10 benchmark 2 CPU cores made "
    "10,800 student steps in 15 minutes, an H200 made 20,147 in 4.5"
)


def examine(
    *,
    proc: Path = machine.PROC,
    sysfs: Path = machine.SYSFS,
    timeout_s: float = TIMEOUT_S,
) -> Doctor:
    """Ask this machine and its libraries; never raises for what is missing or broken.

    Args:
        proc: where the kernel says what processes have.
        sysfs: where the kernel says what devices there are.
        timeout_s: for each library; one that has not answered by then counts as broken.
    """
    started = time.perf_counter()
    names = ("torch", "torchvision", "onnxruntime", "tensorrt", "light")
    answers = ask(names, timeout_s=timeout_s)
    found_machine = machine.examine(proc=proc, sysfs=sysfs)
    libraries = tuple(_libraries(answers))
    cuda = _cuda(answers["torch"])
    energy = tuple(_energy(sysfs))
    return Doctor(
        made_with=f"edgekd {__version__}",
        machine=found_machine,
        libraries=libraries,
        cuda=cuda,
        tensorrt=_tensorrt(answers["tensorrt"]),
        onnxruntime_providers=tuple(answers["onnxruntime"].get("providers", ())),
        energy=energy,
        commands=tuple(_judged(found_machine, libraries, cuda, energy)),
        took_s=round(time.perf_counter() - started, 3),
    )


# --- asking ---------------------------------------------------------------------------------------


def ask(names: Sequence[str], *, timeout_s: float) -> dict[str, dict[str, Any]]:
    """The answers of the probes that are named, run side by side; a `problem` where there is none."""
    deadline = time.monotonic() + timeout_s
    with tempfile.TemporaryFile() as errors:
        # -P: nothing in the folder that this was started in is taken for a library.
        processes = {
            name: subprocess.Popen(
                [sys.executable, "-P", str(PROBES), name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            for name in names
        }
        try:
            return {
                name: _answer(process, max(0.1, deadline - time.monotonic()), timeout_s)
                for name, process in processes.items()
            }
        finally:
            for process in processes.values():
                if process.poll() is None:
                    process.kill()
                    process.wait()


def _answer(process: subprocess.Popen[bytes], left_s: float, timeout_s: float) -> dict[str, Any]:
    try:
        out, _ = process.communicate(timeout=left_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"problem": f"did not answer within {timeout_s:g} s"}
    try:
        answer = json.loads(out.splitlines()[-1])
        return answer if isinstance(answer, dict) else {"problem": "answered nonsense"}
    except (ValueError, IndexError):
        return {"problem": f"its process {_end(process.returncode)} while it was imported"}


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _libraries(answers: Mapping[str, dict[str, Any]]) -> list[Library]:
    floors = requirements()
    found = []
    names = dict.fromkeys(
        [*floors, *(name for needs in NEEDS.values() for name in needs.libraries)]
    )
    light = answers["light"]
    for name in sorted(names):
        module = MODULES.get(name, name)
        problem = _not_found(module)
        version = _installed(name)
        answer = answers.get(name) or light.get(module) or {}
        if problem is None:
            # A probe that failed as a whole answers for each of its libraries.
            problem = answer.get("problem") or (module in _LIGHT and light.get("problem")) or None
            version = answer.get("version") or version
        floor = floors.get(name, "")
        if problem is None and version is not None and _is_older(version, floor):
            problem = f"too old: edgekd needs {floor}"
        found.append(
            Library(
                name=name,
                needs=floor,
                version=version,
                problem=problem,
                took_s=answer.get("took_s"),
            )
        )
    return found


_LIGHT: Final = frozenset({"numpy", "onnx", "onnx_ir", "PIL", "safetensors"})


def requirements() -> dict[str, str]:
    """What edgekd depends on, by name, as its installed metadata says; nothing if it has none."""
    try:
        lines = importlib.metadata.requires("edgekd") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)\s*(>=[0-9.]+)?", line)
        if match is not None:  # those of an extra have a condition, and are not needed to run
            found[match[1]] = match[2] or ""
    return found


def _not_found(module: str) -> str | None:
    try:
        there = importlib.util.find_spec(module) is not None
    except Exception as error:  # whatever stands in the way of imports is the finding
        return f"{type(error).__name__}: {error}"
    return None if there else "not installed"


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except Exception:  # missing, or its metadata are damaged
        return None


def _is_older(version: str, floor: str) -> bool:
    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])

    return bool(floor) and numbers(version) < numbers(floor)


def _cuda(answer: Mapping[str, Any]) -> Cuda:
    if answer.get("problem"):
        return Cuda(build=None, gpus=(), reason="torch cannot be imported")
    gpus = tuple(Gpu(**found) for found in answer["gpus"])
    build = answer["cuda_build"]
    reason = None
    if answer["cuda_problem"]:
        reason = answer["cuda_problem"]
    elif not gpus:
        reason = (
            "this torch is built for the CPU only"
            if build is None
            else f"torch, built for CUDA {build}, sees no device; see whether nvidia-smi does"
        )
    return Cuda(build=build, gpus=gpus, reason=reason)


def _tensorrt(answer: Mapping[str, Any]) -> TensorRt:
    path = shutil.which("trtexec") or (str(TRTEXEC) if TRTEXEC.is_file() else None)
    return TensorRt(bindings=answer.get("version"), trtexec=path, reason=answer.get("problem"))


def _energy(sysfs: Path) -> list[EnergySensor]:
    finders: dict[str, Callable[[str], tuple[sensors.Sensor | None, str]]] = {
        "INA3221": sensors.find_ina3221,
        "RAPL": sensors.find_rapl,
    }
    found = []
    for name, find in finders.items():
        try:
            sensor, reason = find(str(sysfs))
        except Exception as error:  # a driver that answers nonsense
            sensor, reason = None, f"{type(error).__name__}: {error}"
        found.append(
            EnergySensor(
                name=name,
                scope=None if sensor is None else sensor.scope,
                reason=reason.removeprefix(f"{name}: ") or None,
            )
        )
    return found


# --- judging --------------------------------------------------------------------------------------


def _judged(
    found: Machine, libraries: Sequence[Library], cuda: Cuda, energy: Sequence[EnergySensor]
) -> list[CommandState]:
    broken = {library.name: library for library in libraries if library.problem is not None}
    states = []
    for command, needs in NEEDS.items():
        missing = tuple(name for name in needs.libraries if name in broken)
        limits = [limit for name, limit in needs.optional.items() if name in broken]
        todo = [name for name in (*missing, *needs.optional) if name in broken]
        if "accelerate" in needs.libraries:
            limits += _learning_limits(found, cuda)
        if command == "bench":
            limits.append("only ONNX Runtime on the CPU is measured")
            if not any(sensor.scope for sensor in energy):
                limits.append("energy is not measured: no sensor that this user can read")
        states.append(
            CommandState(
                command=command,
                works=not missing,
                missing=missing,
                limits=tuple(limits),
                todo=install_lines([broken[name] for name in todo]),
            )
        )
    return states


def _learning_limits(found: Machine, cuda: Cuda) -> list[str]:
    limits = []
    if not cuda.gpus:
        limits.append(SLOWER)
        if not found.bf16_instructions:
            limits.append("this processor does not multiply in bfloat16: float32 is used")
    if found.available_bytes is not None and found.available_bytes < 2 * GIB:
        limits.append(
            f"{found.available_bytes / GIB:.1f} GiB of memory free: the MNIST example needs about 1 GiB"
        )
    if found.disk_free_bytes is not None and found.disk_free_bytes < GIB:
        limits.append(
            f"{found.disk_free_bytes / GIB:.1f} GiB of disk free here: choose another --out"
        )
    return limits


def install_lines(libraries: Sequence[Library]) -> tuple[str, ...]:
    """The commands that bring what is missing; torch and torchvision must fit each other."""
    names = {library.name for library in libraries}
    lines = [INSTALL_TORCH] if names & {"torch", "torchvision"} else []
    others = [
        f"'{library.name}{library.needs}'"
        for library in libraries
        if library.name not in {"torch", "torchvision"}
    ]
    if others:
        # What is there and does not work is not put right by a plain install.
        flag = " --force-reinstall" if any(library.version for library in libraries) else ""
        lines.append(f"pip install{flag} {' '.join(sorted(others))}")
    return tuple(lines)
