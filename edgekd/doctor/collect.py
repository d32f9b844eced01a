"""What of edgekd can run on this machine, what cannot, and what to do about it.

Libraries are asked in processes of their own (`edgekd/doctor/probes.py`), so that one that is broken is a
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgekd import __version__
from edgekd.bench.agent import sensor_discovery
from edgekd.bench.agent.sensor import Place
from edgekd.doctor import host
from edgekd.doctor.findings import (
    Cuda,
    Doctor,
    EnergySensor,
    Gpu,
    Library,
    TensorRt,
)
from edgekd.doctor.requirements import NEEDS, judge_commands, module_of

PROBES: Final = Path(__file__).with_name("probes.py")
# torch from a cold SD card
TIMEOUT_S: Final = 60.0
# Where JetPack puts it, not on PATH
TRTEXEC: Final = Path("/usr/src/tensorrt/bin/trtexec")


def examine(
    *,
    proc: Path = host.PROC,
    sysfs: Path = host.SYSFS,
    timeout_s: float = TIMEOUT_S,
) -> Doctor:
    """Ask this machine and its libraries; never raises for what is missing or broken.

    Args:
        proc: where the kernel says what processes have.
        sysfs: where the kernel says what devices there are.
        timeout_s: for each library; one that has not answered by then counts as broken.
    """
    started = time.perf_counter()
    names = ("torch", "torchvision", "onnxruntime", "tensorrt", "tensorrt-rtx", "light")
    answers = ask(names, timeout_s=timeout_s)
    found_machine = host.examine(proc=proc, sysfs=sysfs)
    libraries = tuple(_libraries(answers))
    cuda = _cuda(answers["torch"])
    energy = tuple(_energy(sysfs, proc))
    exporter = answers["torch"].get("torchscript_exporter")
    return Doctor(
        made_with=f"edgekd {__version__}",
        machine=found_machine,
        libraries=libraries,
        cuda=cuda,
        tensorrt=_tensorrt(answers["tensorrt"], answers["tensorrt-rtx"]),
        onnxruntime_providers=tuple(answers["onnxruntime"].get("providers", ())),
        torchscript_exporter=exporter,
        energy=energy,
        commands=tuple(
            judge_commands(found_machine, libraries, cuda, energy, torchscript_exporter=exporter)
        ),
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
        module = module_of(name)
        problem = _not_found(module)
        version = _find_version(name)
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
        # Those of an extra have a condition, and are not needed to run
        if match is not None:
            found[match[1]] = match[2] or ""
    return found


def _not_found(module: str) -> str | None:
    try:
        there = importlib.util.find_spec(module) is not None
    except Exception as error:  # whatever stands in the way of imports is the finding
        return f"{type(error).__name__}: {error}"
    return None if there else "not installed"


def _find_version(name: str) -> str | None:
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


def _tensorrt(answer: Mapping[str, Any], rtx: Mapping[str, Any]) -> TensorRt:
    path = shutil.which("trtexec") or (str(TRTEXEC) if TRTEXEC.is_file() else None)
    return TensorRt(
        bindings=answer.get("version"),
        trtexec=path,
        reason=answer.get("problem"),
        rtx=rtx.get("version"),
        rtx_reason=rtx.get("problem"),
    )


def _energy(sysfs: Path, proc: Path) -> list[EnergySensor]:
    place = Place(str(sysfs), str(proc), "/")
    found = []
    for name, find in sensor_discovery.FINDERS.items():
        try:
            sensor, reason = find(place)
        except Exception as error:  # a driver that answers nonsense
            sensor, reason = None, f"{type(error).__name__}: {error}"
        if sensor is not None:
            sensor.close()
        found.append(
            EnergySensor(
                name=name,
                scope=None if sensor is None else sensor.scope,
                reason=reason.removeprefix(f"{name}: ") or None,
            )
        )
    return found
