"""What the doctor finds: records, without a judgement of how they came to be."""

from typing import Annotated, Final

from pydantic import Field

from edgekd.doctor.host import Machine
from edgekd.records import record

GIB: Final = 2**30


@record
class Library:
    """A dependency: its version, or what is wrong with it."""

    name: str
    # ">=2.9"; "" where edgekd does not say
    needs: str
    version: str | None = None
    problem: str | None = None
    # To import it, where that was done
    took_s: float | None = None


@record
class Gpu:
    name: str
    compute_capability: str
    memory_bytes: int
    bf16: bool


@record
class Cuda:
    # The CUDA version that torch was built for
    build: str | None
    gpus: tuple[Gpu, ...]
    # Why there is no device
    reason: str | None


@record
class TensorRt:
    """Not needed: edgekd writes ONNX, and engines are built on the board."""

    # The version that this Python imports
    bindings: str | None
    trtexec: str | None  # its path
    reason: str | None
    # The version of TensorRT-RTX, whose parser judges ONNX files here; None: not installed
    rtx: str | None = None
    rtx_reason: str | None = None


@record
class EnergySensor:
    name: str
    # What its joules cover; None: not usable
    scope: str | None
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
    # Of torch; None: torch cannot be asked
    torchscript_exporter: bool | None
    energy: tuple[EnergySensor, ...]
    commands: tuple[CommandState, ...]
    took_s: Annotated[float, Field(ge=0)]

    @property
    def works(self) -> bool:
        return all(state.works for state in self.commands)
