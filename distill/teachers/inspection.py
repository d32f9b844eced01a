"""What a teacher file is, found out without running it and without a framework where that can be.

`understand` answers for the command that describes a teacher and for the one that loads it, so
that both say the same. Whatever is not known for certain becomes a question, never a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from edgekd.distill.models.parameter_names import (
    Shape,
    canonical,
    channels_of,
    classes_of,
)
from edgekd.distill.teachers import (
    architecture_recognition,
    checkpoint_contents,
    file_formats,
    fingerprints,
)
from edgekd.distill.teachers.architecture_recognition import (
    EquivalentNetworks,
    PublishedPreprocessing,
)
from edgekd.distill.teachers.checkpoint_contents import Checkpoint, WeightSet
from edgekd.distill.teachers.file_formats import Format
from edgekd.distill.teachers.metadata import (
    Metadata,
    TeacherOptions,
    merge_metadata,
    toml_path,
)
from edgekd.distill.teachers.safe_unpickle import TensorRef
from edgekd.errors import InputFileError, UsageError

Form: TypeAlias = Literal["weights", "module", "torchscript", "pt2", "onnx"]


@dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """What no source says, with the answers that are possible."""

    option: str  # "--arch"
    text: str
    choices: tuple[tuple[str, str], ...] = ()  # value of the option, what sets it apart


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network the weights are of, and who says so."""

    source: str  # edgekd, timm, torchvision, file; of programs their format
    name: str
    because: str
    same_as: tuple[str, ...] = ()
    original_names: bool = False  # the network has the file's own names, wrapper's prefix and all

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
class Inspection:
    """Everything that is known of a teacher file before it is loaded."""

    path: Path
    format: Format
    form: Form
    said: Metadata
    checkpoint: Checkpoint | None
    weights: WeightSet | None
    network: Network | None
    channels: int | None
    classes: int | None
    input: SourcedValue | None
    mean: SourcedValue | None
    std: SourcedValue | None
    parameters: int
    macs: int | None  # where the index knows them for this input
    batch_norm_layers: int
    batch_norm_trained: bool | None  # None: only loading tells
    candidates: tuple[str, ...]  # source:name of each function with these names and shapes
    questions: tuple[OpenQuestion, ...]
    notes: tuple[str, ...]

    @property
    def origin(self) -> str:
        """Where input, mean and std came from, for people."""
        told = [each.origin for each in (self.input, self.mean, self.std) if each is not None]
        return " and ".join(dict.fromkeys(told)) or "the weights alone"

    @property
    def others(self) -> tuple[str, ...]:
        """Keys of the sets of weights that were not taken."""
        if self.checkpoint is None or self.weights is None:
            return ()
        return tuple(each.key for each in _apart(self.checkpoint, self.weights))

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


def inspect_teacher(path: Path, options: TeacherOptions) -> Inspection:
    """Find out what a file is.

    Raises:
        InputFileError: it cannot be read, is refused, or is no classifier of images.
        UsageError: an option names what is not there.
    """
    trusted = bool(options.trust_pickle)
    file = file_formats.open_file(path, trusted=trusted)
    if file.format in {"pt2", "onnx"}:
        from edgekd.distill.teachers import program_inspection

        return program_inspection.understood(
            path, "pt2" if file.format == "pt2" else "onnx", options
        )
    if file.content is None and trusted:
        said = merge_metadata(path, {}, options)
        return _Inquiry(path, file.format, "module", said).finish()
    checkpoint = checkpoint_contents.examine(file)
    said = merge_metadata(path, checkpoint.metadata, options)
    form: Form = "weights"
    if file.format == "torchscript":
        form = "torchscript"
    elif checkpoint.module is not None:
        form = "module"
    inquiry = _Inquiry(path, file.format, form, said)
    inquiry.examine(checkpoint)
    return inquiry.finish()


class Clarifications:
    """What has to be asked, and what should be said, of how images are fed."""

    def __init__(self, said: Metadata) -> None:
        self.said = said
        self.options = said.options
        self.questions: list[OpenQuestion] = []
        self.notes: list[str] = []

    def input(
        self, known: PublishedPreprocessing | None, *, channels: int | None, origin: str
    ) -> SourcedValue | None:
        """Channels, height and width: said, or the library's where its weights agree."""
        if self.options.input is not None:
            return SourcedValue(value=self.options.input, origin=self.said.origin)
        if known is None:
            self._ask(
                f"--input {channels or 'C'}xHxW",
                "(channels, height and width of the images it was trained on)",
            )
            return None
        sizes = [f"{shape[0]}x{shape[1]}x{shape[2]}" for shape in known.inputs]
        if len(known.inputs) > 1:
            self._ask("--input CxHxW", "(published weights differ)", [(size, "") for size in sizes])
            return None
        if known.others:
            others = ", ".join(f"{shape[1]}x{shape[2]}" for shape in known.others)
            self.notes.append(
                f"other published weights of this network take {others}: --input, if it was trained so"
            )
        return SourcedValue(value=known.inputs[0], origin=origin)

    def normalisation(
        self, known: PublishedPreprocessing | None, origin: str
    ) -> tuple[SourcedValue | None, SourcedValue | None]:
        """Mean and standard deviation, likewise."""
        mean, std = self.options.mean, self.options.std
        pairs = known.normalisations if known is not None else ()
        if len(pairs) > 1 and mean is None and std is None:
            self._ask(
                "--mean M,... --std S,...",
                "(published weights differ)",
                [(_pair(*pair), _COMMON.get(pair, "")) for pair in pairs],
            )
            return None, None
        words = "(what is subtracted from 0..1 pixels, one value per channel)"
        return (
            self._resolve_values("--mean M,...", words, mean, [pair[0] for pair in pairs], origin),
            self._resolve_values(
                "--std S,...",
                "(what they are divided by)",
                std,
                [pair[1] for pair in pairs],
                origin,
            ),
        )

    def _resolve_values(
        self,
        option: str,
        words: str,
        said: tuple[float, ...] | None,
        known: list[tuple[float, ...]],
        origin: str,
    ) -> SourcedValue | None:
        if said is not None:
            return SourcedValue(value=said, origin=self.said.origin)
        if len(set(known)) == 1:
            return SourcedValue(value=known[0], origin=origin)
        self._ask(option, words)
        return None

    def _ask(self, option: str, text: str, choices: list[tuple[str, str]] | None = None) -> None:
        self.questions.append(OpenQuestion(option=option, text=text, choices=tuple(choices or ())))


class _Inquiry:
    """Collects what is known, and what has to be asked."""

    def __init__(self, path: Path, format_: Format, form: Form, said: Metadata) -> None:
        self.path = path
        self.format: Format = format_
        self.form: Form = form
        self.said = said
        self.options = said.options
        self.checkpoint: Checkpoint | None = None
        self.weights: WeightSet | None = None
        self.network: Network | None = None
        self.functions: tuple[EquivalentNetworks, ...] = ()
        self.channels: int | None = None
        self.classes: int | None = None
        self.asked = Clarifications(said)

    # --- the weights and the network --------------------------------------------------------------

    def examine(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.asked.notes += checkpoint.opened.notes
        if not checkpoint.sets:
            return
        default = checkpoint_contents.select_weights(checkpoint, self.options.weights)
        tried = [default]
        if self.options.weights is None:
            # Lightning keeps the parts of a criterion beside `model.`: the network is what is below.
            tried += [
                each
                for each in checkpoint.sets
                if each.key.startswith(f"{default.key}.".lstrip("."))
            ]
        arch = self.options.arch
        if arch is not None and arch.rpartition(":")[0].endswith(".py"):
            self.weights = default
            self._factory(arch)
            return
        for each in tried:
            found = architecture_recognition.recognise(each)
            if found is not None:
                self.weights = each
                self.channels, self.classes = found.channels, found.classes
                self._of_libraries(found, arch)
                return
        self.weights = default
        self._of_ours(arch)

    def _factory(self, arch: str) -> None:
        file, _, factory = arch.rpartition(":")
        from_toml = self.said.arch_from not in {None, "options"}
        folder = Path(str(self.said.arch_from)).parent if from_toml else Path()
        found = folder / file
        if from_toml and not found.resolve().is_relative_to(folder.resolve()):
            raise InputFileError(
                f"{self.said.arch_from}: arch = {arch!r} leads out of the folder; keep the file beside the weights."
            )
        if not found.is_file() or not factory.isidentifier():
            raise UsageError(
                f"--arch {arch}: write path/to/file.py:factory, where factory() returns the network; "
                + ("no such file." if not found.is_file() else f"{factory!r} is no name.")
            )
        self.network = Network(source="file", name=f"{found}:{factory}", because=self._because())
        self.channels = self.options.input[0] if self.options.input else None
        self.classes = self.options.classes
        self.asked.notes.append(f"the network is made by your own code: {found} is run")

    def _who(self) -> str:
        return {"options": "options", "inside": "file itself"}.get(
            str(self.said.arch_from), Path(str(self.said.arch_from)).name
        )

    def _because(self) -> str:
        if self.options.arch is not None:
            return f"named in the {self._who()}"
        return "by the names and shapes of its weights"

    def _of_libraries(self, found: architecture_recognition.Recognition, arch: str | None) -> None:
        functions = found.functions
        if arch is not None:
            named = [
                name for each in functions for name in each.names if arch in {name, _bare(name)}
            ]
            functions = tuple(
                replace(each, names=(named[0], *(n for n in each.names if n != named[0])))
                for each in functions
                if named and named[0] in each.names
            )
            if not functions:
                self._of_ours(arch)  # says how the weights differ from what was named
                return
        self.functions = functions
        if len(functions) > 1:
            self.asked.questions.append(
                OpenQuestion(
                    option="--arch NAME",
                    text="(names and shapes fit networks that answer differently; which was trained?)",
                    choices=tuple((each.names[0], each.apart) for each in functions),
                )
            )
            return
        first, *same = functions[0].names
        source, _, name = first.partition(":")
        self.network = Network(
            source=source,
            name=name,
            because=self._because(),
            same_as=tuple(same),
            original_names=found.original,
        )

    def _of_ours(self, arch: str | None) -> None:
        """Our own networks, or what was named; a refusal where the parts say another task."""
        assert self.weights is not None
        shapes = self.weights.shapes
        if arch is None:
            task = architecture_recognition.other_task(
                self.weights.original
            ) or architecture_recognition.other_task(shapes)
            if task is not None:
                raise InputFileError(
                    f"{self.path}: refused, a network for {task}. edgekd compresses classifiers of images that "
                    "answer with one row of logits; a classifier that looks like this goes with --arch."
                )
        if self.form == "torchscript" and not any(len(shape) > 1 for shape in shapes.values()):
            return
        if arch is None and _ours_depends_on_input(shapes) and self.options.input is None:
            self.channels, self.classes = channels_of(shapes), classes_of(shapes)
            self.network = Network(
                source="edgekd", name="lenet5", because="by names; the input tells which"
            )
            return
        from edgekd.distill.teachers import architecture_matching

        spelt = {canonical(name): shape for name, shape in shapes.items()}
        spelt = spelt if len(spelt) == len(shapes) else shapes
        found = architecture_matching.match_architecture(
            self.path, self.weights, spelt, self.options
        )
        if found is not None:
            network, original = found
            self.channels, self.classes = network.channels, network.classes
            self.network = Network(
                source=network.source,
                name=network.name,
                because=self._because(),
                original_names=original,
            )
            return
        self.channels = next((shape[1] for shape in shapes.values() if len(shape) == 4), None)
        self.classes = next(
            (shape[0] for shape in reversed(list(shapes.values())) if len(shape) == 2), None
        )
        if self.form == "torchscript" and self.options.trust_pickle:
            return
        bodies = fingerprints.with_body(self.weights.original) or fingerprints.with_body(shapes)
        text = "(no network of ours, of timm or of torchvision has these names and shapes"
        if bodies:
            text += f"; all but the head is {', '.join(bodies[:3])}: write a factory that puts your head on it"
        self.asked.questions.append(
            OpenQuestion(option="--arch NAME", text=text + "), or --arch path/to/file.py:factory")
        )

    # --- what else is known ------------------------------------------------------------------------

    def finish(self) -> Inspection:
        self._programs()
        input_, mean, std = self._spec()
        weights = self.weights
        shapes = weights.shapes if weights is not None else {}
        layers = architecture_recognition.batch_norm_layers(shapes)
        if weights is not None:
            assert self.checkpoint is not None
            self._say_weights(weights)
        return Inspection(
            path=self.path,
            format=self.format,
            form=self.form,
            said=self.said,
            checkpoint=self.checkpoint,
            weights=weights,
            network=self.network,
            channels=self.channels,
            classes=self.classes,
            input=input_,
            mean=mean,
            std=std,
            parameters=architecture_recognition.parameters(shapes) or self._constants(),
            macs=self._macs(input_),
            batch_norm_layers=len(layers),
            batch_norm_trained=self._trained(layers),
            candidates=tuple(each.names[0] for each in self.functions),
            questions=tuple(self.asked.questions),
            notes=tuple(self.asked.notes),
        )

    def _programs(self) -> None:
        """Modules and programs run code: only where told to; their weights alone are harmless."""
        if self.form == "weights":
            return
        named = self.options.arch is not None and self.network is not None
        checkpoint = self.checkpoint
        what = (
            f"a whole pickled module ({checkpoint.module})"
            if self.form == "module" and checkpoint is not None
            else "a TorchScript program"
            if self.form == "torchscript"
            else "a pickle that asks for code"
        )
        if named:
            self.asked.notes.append(f"{what}: only its weights were read, none of its code was run")
        elif self.options.trust_pickle:
            self.asked.notes.append(f"{what}: its code is run, as --trust-pickle says")
            self.asked.questions = []  # the code says which network it is
        else:
            likely = [
                (name, "reads only the weights")
                for each in self.functions
                for name in each.names[:1]
            ]
            if self.network is not None and not likely:
                likely = [(str(self.network), "reads only the weights")]
            self.network = None
            self.asked.questions = [
                OpenQuestion(
                    option="--arch NAME or --trust-pickle",
                    text=(
                        f"({what}: loading it runs code, so it is left alone; "
                        + (
                            "by its weights it is one of these"
                            if likely
                            else "its weights fit no network that edgekd knows"
                        )
                        + ", and --trust-pickle runs it if you trust its author)"
                    ),
                    choices=tuple(likely),
                )
            ]

    def _spec(self) -> tuple[SourcedValue | None, SourcedValue | None, SourcedValue | None]:
        names: tuple[str, ...] = ()
        if self.network is not None:
            # Whoever names a network means that library's settings, not those of its doubles.
            names = self.network.names[: 1 if self.options.arch is not None else None]
        channels = self.channels or (self.options.input[0] if self.options.input else 3)
        known = architecture_recognition.settings(names, channels=channels) if names else None
        if self.network is None and self.functions:
            known = architecture_recognition.settings(
                [name for each in self.functions for name in each.names], channels=channels
            )
        origin = self._configuration()
        input_ = self.asked.input(known, channels=self.channels, origin=origin)
        return (input_, *self.asked.normalisation(known, origin))

    def _configuration(self) -> str:
        network = self.network
        if network is None:
            return "the library's configuration"
        return f"{network.source}'s configuration of {network.name}"

    def _say_weights(self, weights: WeightSet) -> None:
        assert self.checkpoint is not None
        others = [each.key for each in _apart(self.checkpoint, weights)]
        if others:
            named = ", ".join(key or "(the whole file)" for key in others)
            self.asked.notes.append(
                f"several sets of weights: {weights.key or '(the whole file)'!r} was taken, --weights chooses among {named}"
            )
        if weights.left:
            self.asked.notes.append(
                f"{len(weights.left)} other tensors were left: {', '.join(weights.left[:3])}"
            )

    def _constants(self) -> int:
        return self.checkpoint.opened.constants if self.checkpoint is not None else 0

    def _macs(self, input_: SourcedValue | None) -> int | None:
        if self.network is None or input_ is None:
            return None
        entry = fingerprints.load_index().entries.get(str(self.network))
        if entry is None or not entry.configurations:
            return None
        return entry.macs if entry.configurations[0].input == input_.value else None

    def _trained(self, layers: list[str]) -> bool:
        """Whether every layer's statistics moved from where they start (mean 0, variance 1)."""
        if self.checkpoint is None or self.weights is None:
            return False
        for layer in layers:
            mean = self.weights.tensors[f"{layer}.running_mean"]
            variance = self.weights.tensors.get(f"{layer}.running_var")
            if not isinstance(mean, TensorRef) or not isinstance(variance, TensorRef):
                return False
            read = checkpoint_contents.values
            still = not np.any(read(self.checkpoint, mean)) and np.all(
                read(self.checkpoint, variance) == 1
            )
            if still:
                return False
        return bool(layers)


_COMMON: Final[dict[tuple[tuple[float, ...], tuple[float, ...]], str]] = {
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): "ImageNet's",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "pixels to -1..1",
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)): "pixels of 0..1",
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)): "CLIP's",
}


def _pair(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    return f"--mean {','.join(map(str, mean))} --std {','.join(map(str, std))}"


def _apart(checkpoint: Checkpoint, taken: WeightSet) -> list[WeightSet]:
    """The other sets, but for those that contain or are part of the one that was taken."""

    def related(first: str, second: str) -> bool:
        return f"{first}.".startswith(f"{second}.".lstrip(".")) or first == second

    return [
        each
        for each in checkpoint.sets
        if not related(each.key, taken.key) and not related(taken.key, each.key)
    ]


def _bare(name: str) -> str:
    return name.partition(":")[2]


def _ours_depends_on_input(shapes: Mapping[str, Shape]) -> bool:
    return "fc3.weight" in shapes and "conv2.weight" in shapes
