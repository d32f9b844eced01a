"""What each command needs, and from that what can run here and what to install."""

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgekd.bench.sensor_names import NOT_OF_THE_MACHINE
from edgekd.doctor.findings import (
    GIB,
    CommandState,
    Cuda,
    EnergySensor,
    Library,
)
from edgekd.doctor.host import Machine
from edgekd.errors import MissingToolError


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """Distributions that a command cannot start without, and what is lost without others."""

    libraries: tuple[str, ...]
    optional: Mapping[str, str]


_PIPELINE: Final = ("torch", "numpy", "safetensors", "onnx", "onnx-ir")
_TEACHERS: Final = {
    "timm": "no teachers or students of timm (--arch timm:NAME)",
    "torchvision": "no teachers or students of torchvision (--arch torchvision:NAME)",
}
_CUTS: Final = {"torch-pruning": "no students cut out of the teacher (--student cut:SHARE)"}
_FOLDERS: Final = {"pillow": "--eval takes no folders of images, only .npz and idx files"}
_FOLDERS_AND_SAMPLES: Final = {
    "pillow": "--eval and --samples take no folders of images, only .npz and idx files"
}
_EXPORT: Final = (*_PIPELINE, "onnxscript", "onnxruntime")
# By command; a test compares this with what the commands import.
NEEDS: Final[dict[str, Requirements]] = {
    "compress": Requirements(
        libraries=(*_EXPORT, "accelerate"), optional=_TEACHERS | _CUTS | _FOLDERS_AND_SAMPLES
    ),
    "distill": Requirements(
        libraries=(*_PIPELINE, "accelerate"), optional=_TEACHERS | _CUTS | _FOLDERS_AND_SAMPLES
    ),
    "search": Requirements(
        libraries=(*_EXPORT, "accelerate", "pillow", "matplotlib"),
        optional=_TEACHERS | {"ray": "no search on several machines"},
    ),
    "gate": Requirements(libraries=("numpy",), optional={}),
    "config": Requirements(libraries=("numpy",), optional={}),
    "synthesize": Requirements(
        libraries=(*_PIPELINE, "accelerate", "pillow"),
        optional=_TEACHERS,
    ),
    "condense": Requirements(
        libraries=("torch", "numpy", "accelerate"),
        optional={"pillow": "no folders of images, only .npz and idx files"},
    ),
    "recipes": Requirements(libraries=(), optional={}),
    "export": Requirements(libraries=_EXPORT, optional=_TEACHERS),
    "bench": Requirements(libraries=(*_PIPELINE, "onnxruntime"), optional={}),
    "eval": Requirements(libraries=(*_PIPELINE, "onnxruntime"), optional=_TEACHERS | _FOLDERS),
    "teacher": Requirements(libraries=("torch", "numpy", "onnx"), optional=_TEACHERS | _FOLDERS),
    "bundle": Requirements(
        libraries=("numpy",),
        optional={"cryptography": "no signatures (bundle sign, bundle verify --key)"},
    ),
    "targets": Requirements(libraries=(), optional={}),
}
# After the command a comment of the shell, so that the line can be copied as it stands.
INSTALL_TORCH: Final = (
    "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
    "  # for the CPU; for CUDA without --index-url; both from the same index"
)
# From benchmarks/results/cifar10.csv; a test compares.
SLOWER: Final = (
    "no CUDA device: distillation runs on the CPU. In the CIFAR-10 benchmark 2 CPU cores made "
    "10,800 student steps in 15 minutes, an H200 made 20,147 in 4.5"
)


# By distribution, where the module is called otherwise.
_MODULES: Final = {"pillow": "PIL"}


def module_of(name: str) -> str:
    """What a distribution is imported as."""
    return _MODULES.get(name, name.replace("-", "_"))


def require_libraries(command: str) -> None:
    """Check that the libraries of a command are installed, without importing any.

    Raises:
        MissingToolError: naming every one that is not.
    """
    missing = [
        name
        for name in NEEDS[command].libraries
        if importlib.util.find_spec(module_of(name)) is None
    ]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise MissingToolError(
            f"{', '.join(missing)} {are} not installed. See what to install with: edgekd doctor"
        )


def judge_commands(
    found: Machine,
    libraries: Sequence[Library],
    cuda: Cuda,
    energy: Sequence[EnergySensor],
    *,
    torchscript_exporter: bool | None,
) -> list[CommandState]:
    """Each command, from what was found.

    Args:
        found: the machine.
        libraries: every dependency, with what is wrong with it.
        cuda: its devices.
        energy: the sensors.
        torchscript_exporter: whether torch has it; None if torch could not be asked.
    """
    broken = {library.name: library for library in libraries if library.problem is not None}
    states = []
    for command, needs in NEEDS.items():
        missing = tuple(name for name in needs.libraries if name in broken)
        limits = [limit for name, limit in needs.optional.items() if name in broken]
        todo = [name for name in (*missing, *needs.optional) if name in broken]
        if "accelerate" in needs.libraries and "torch" not in broken:
            limits += _learning_limits(found, cuda)
        if "onnxscript" in needs.libraries and torchscript_exporter is False:
            limits.append(
                "no models for JetPack 6.0 and older: this torch has no TorchScript exporter"
            )
        if command == "bench":
            limits.append("without TensorRT here, it measures ONNX Runtime on the CPU")
            if shutil.which("ssh") is None:
                limits.append("no boards over ssh (--device): install OpenSSH's client")
            if not any(sensor.scope for sensor in energy if sensor.name not in NOT_OF_THE_MACHINE):
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
    # What is there and does not work is not put right by a plain install.
    again = " --force-reinstall" if any(library.version for library in libraries) else ""
    lines = []
    if names & {"torch", "torchvision"}:
        lines.append(INSTALL_TORCH.replace("pip install", f"pip install{again}"))
    others = [
        f"'{library.name}{library.needs}'"
        for library in libraries
        if library.name not in {"torch", "torchvision"}
    ]
    if others:
        lines.append(f"pip install{again} {' '.join(sorted(others))}")
    return tuple(lines)
