"""What is known of a teacher file before it is loaded: a record for each kind of file.

`Known` has what every kind has. A kind that was asked everything that it needs is made `ready`: the same
without a gap, so that loading it has nothing to check again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from edgekd.distill.teachers.checkpoints.checkpoint_contents import Checkpoint, WeightSet
from edgekd.distill.teachers.checkpoints.file_contents import Format
from edgekd.distill.teachers.metadata import Metadata, toml_path
from edgekd.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """What no source says, with the answers that are possible."""

    option: str  # "--arch"
    text: str
    # Value of the option, what sets it apart
    choices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network the weights are of, and who says so."""

    # edgekd, timm, torchvision, file; of programs their format
    source: str
    name: str
    because: str
    same_as: tuple[str, ...] = ()
    # The network has the file's own names, wrapper's prefix and all
    original_names: bool = False

    def __str__(self) -> str:
        return self.name if self.source == "edgekd" else f"{self.source}:{self.name}"

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.source}:{self.name}", *self.same_as)


@dataclass(frozen=True, kw_only=True)
class SourcedValue:
    """A value and where it came from."""

    value: tuple[float, ...]
    origin: str


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a file of any kind. None: no source says it."""

    path: Path
    format: Format
    metadata: Metadata
    channels: int | None
    classes: int | None
    input: SourcedValue | None
    mean: SourcedValue | None
    std: SourcedValue | None
    parameters: int
    # Where the index knows them for this input.
    macs: int | None
    batch_norm_layers: int
    # None: only loading tells.
    batch_norm_trained: bool | None
    questions: tuple[OpenQuestion, ...]
    notes: tuple[str, ...]
    # Text of a factory to look through, where only the head is not known
    factory: str | None = None

    @property
    def origin(self) -> str:
        """Where input, mean and std came from, for people."""
        told = [each.origin for each in (self.input, self.mean, self.std) if each is not None]
        return " and ".join(dict.fromkeys(told)) or "the weights alone"

    def require_answers(self) -> None:
        """Raise when something must be known that no source says.

        Raises:
            UsageError: naming every option at once.
        """
        if not self.questions:
            return
        lines = []
        for question in self.questions:
            lines.append(f"{question.option} {question.text}")
            lines += [
                f"    {value}{f'  ({apart})' if apart else ''}" for value, apart in question.choices
            ]
        raise UsageError(
            f"{self.path}: the weights do not say everything. Missing:\n  "
            + "\n  ".join(lines)
            + f"\nGive them as options, or write them once into {toml_path(self.path).name} beside the file "
            f"(edgekd teacher describe {self.path.name} prepares it; see docs/teachers.md)."
        )

    def preprocessing(self) -> "Preprocessing":
        """How images are fed, which the answers to the questions say.

        Raises:
            UsageError: a question is open.
        """
        self.require_answers()
        if self.input is None or self.mean is None or self.std is None:
            raise UsageError(f"{self.path}: --input, --mean and --std are not known.")
        channels, height, width = (int(size) for size in self.input.value)
        return Preprocessing(
            shape=(channels, height, width), mean=self.mean.value, std=self.std.value
        )


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are fed."""

    # Channels, height and width.
    shape: tuple[int, int, int]
    # One value, or one for each channel.
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TakenWeights:
    """A set of weights in a file, and the file that it is in."""

    checkpoint: Checkpoint
    weights: WeightSet

    @property
    def others(self) -> tuple[str, ...]:
        """Keys of the sets of weights that were not taken."""
        return tuple(each.key for each in list_apart(self.checkpoint, self.weights))


# --- what is open -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Weights without a network, or with one that is not run: a state dict by whatever wrapper."""

    known: Known
    taken: TakenWeights | None
    # None: a question.
    network: Network | None


@dataclass(frozen=True, kw_only=True)
class PickledModule:
    """A module that was saved whole, and that the user lets run."""

    known: Known
    # None: what is in it is known to whoever runs it.
    taken: TakenWeights | None
    network: Network | None


@dataclass(frozen=True, kw_only=True)
class ScriptFile:
    """A TorchScript program that the user lets run."""

    known: Known
    taken: TakenWeights | None
    network: Network | None
    # source:name of each function with its names and shapes.
    candidates: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pt2File:
    """A program of torch.export."""

    known: Known
    network: Network

    @property
    def taken(self) -> None:
        """Its weights are a part of its program."""
        return


@dataclass(frozen=True, kw_only=True)
class OnnxFileFound:
    """An ONNX graph."""

    known: Known
    network: Network

    @property
    def taken(self) -> None:
        """Its weights are a part of its graph."""
        return


Inspection: TypeAlias = WeightsFile | PickledModule | ScriptFile | Pt2File | OnnxFileFound


@dataclass(frozen=True, kw_only=True)
class NamedNetwork:
    """Weights and the network that they go into: nothing is open."""

    known: Known
    taken: TakenWeights
    network: Network
    # Of the network's first layer and its head.
    channels: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class FactoryNetwork:
    """Weights and the user's own code that makes their network."""

    known: Known
    taken: TakenWeights
    network: Network


def require_network(found: WeightsFile) -> NamedNetwork | FactoryNetwork:
    """The network of weights whose questions are answered.

    Raises:
        UsageError: a question is open.
    """
    known = found.known
    known.require_answers()
    if found.network is None or found.taken is None:
        raise UsageError(f"{known.path}: which network its weights are of is not known: --arch.")
    return name_network(known, found.taken, found.network)


def name_network(
    known: Known, taken: TakenWeights, network: Network
) -> NamedNetwork | FactoryNetwork:
    """Weights with a network that is theirs.

    Raises:
        UsageError: its channels and classes are not known.
    """
    if network.source == "file":
        return FactoryNetwork(known=known, taken=taken, network=network)
    if known.channels is None or known.classes is None:
        raise UsageError(f"{known.path}: the weights do not say how many classes {network} has.")
    return NamedNetwork(
        known=known,
        taken=taken,
        network=network,
        channels=known.channels,
        classes=known.classes,
    )


def list_apart(checkpoint: Checkpoint, taken: WeightSet) -> list[WeightSet]:
    """The other sets, but for those that contain or are part of the one that was taken."""

    def related(first: str, second: str) -> bool:
        return f"{first}.".startswith(f"{second}.".lstrip(".")) or first == second

    return [
        each
        for each in checkpoint.sets
        if not related(each.key, taken.key) and not related(taken.key, each.key)
    ]
