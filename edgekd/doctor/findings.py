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
    torchscript_exporter: bool | None  # of torch; None: torch cannot be asked
    energy: tuple[EnergySensor, ...]
    commands: tuple[CommandState, ...]
    took_s: Annotated[float, Field(ge=0)]

    @property
    def works(self) -> bool:
        return all(state.works for state in self.commands)
