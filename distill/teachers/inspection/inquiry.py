"""Which network weights are of, what of them is taken, and what only the user can say.

Whatever is not known for certain becomes a question, never a guess.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from edgekd.distill.models.parameter_names import Shape, canonical, channels_of, classes_of
from edgekd.distill.teachers import architecture_recognition, fingerprints, respelling
from edgekd.distill.teachers.architecture_recognition import EquivalentNetworks
from edgekd.distill.teachers.checkpoints import checkpoint_contents
from edgekd.distill.teachers.checkpoints.checkpoint_contents import Checkpoint, WeightSet
from edgekd.distill.teachers.checkpoints.file_contents import Format
from edgekd.distill.teachers.checkpoints.file_words import names_in
from edgekd.distill.teachers.checkpoints.pickle_values import TensorRef
from edgekd.distill.teachers.hugging_face import CONFIG, HuggingFaceFolder
from edgekd.distill.teachers.inspection.clarifications import Clarifications
from edgekd.distill.teachers.inspection.kinds import (
    Inspection,
    Known,
    Network,
    OpenQuestion,
    PickledModule,
    ScriptFile,
    SourcedValue,
    TakenWeights,
    WeightsFile,
)
from edgekd.distill.teachers.metadata import Metadata
from edgekd.errors import InputFileError, UsageError

# Of the weights that timm 1.0 and torchvision 0.29 publish
_PUBLISHED_CLASSES: Final = frozenset({1000, 11221, 11821, 19168, 21841, 21842, 21843})

_NO_POOL: Final = "no pool behind the 3x3 stem"
_POOL: Final = "torchvision's pool of stride 2 stands behind it"

Form: TypeAlias = Literal["weights", "module", "torchscript"]


class Inquiry:
    """Collects what is known, and what has to be asked."""

    def __init__(
        self,
        path: Path,
        format_: Format,
        form: Form,
        metadata: Metadata,
        folder: HuggingFaceFolder | None = None,
    ) -> None:
        """Nothing is known yet.

        Args:
            path: of the file.
            format_: of it.
            form: what is in it.
            metadata: by the user, beside the file and inside it.
            folder: what `save_pretrained` of transformers or timm wrote beside it.
        """
        self.folder = folder
        self.path = path
        self.format: Format = format_
        self.form: Form = form
        self.metadata = metadata
        self.options = metadata.options
        self.checkpoint: Checkpoint | None = None
        self.weights: WeightSet | None = None
        self.network: Network | None = None
        self.functions: tuple[EquivalentNetworks, ...] = ()
        self.channels: int | None = None
        self.classes: int | None = None
        # Text of a factory to look through, where only the head is not known
        self.factory: str | None = None
        self.asked = Clarifications(metadata)

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
        folder = self.folder
        if arch is None and folder is not None:
            folder.require_plain()
        # A whole network with a layer beside it answers otherwise
        tried = [each for each in tried if not respelling.layers_outside(default, each)]
        for each in tried:
            found = architecture_recognition.recognise(each)
            if found is not None:
                self.weights = each
                self.channels, self.classes = found.channels, found.classes
                self._of_libraries(each, found, arch)
                return
        classifier = folder.classifier if folder is not None else None
        if folder is not None and classifier is not None:
            # As `describe` writes it into the TOML file
            if arch in {None, f"transformers:{classifier}"}:
                self.weights = default
                self._of_transformers(default, folder, classifier)
                return
        elif arch is not None and arch.startswith("transformers:"):
            raise UsageError(
                f"--arch {arch}: a network of transformers is read from the {CONFIG} beside its weights, and {self.path} has none "
                "of a classifier."
            )
        for each in tried:
            other = architecture_recognition.recognise_respelt(each)
            if other is not None:
                found, respelt = other
                self.weights = respelt.weights
                self.channels, self.classes = found.channels, found.classes
                self.asked.notes.append(
                    f"found by other names than the library's: {respelt.said}. What the code around it does besides is not in "
                    "the file: `edgekd teacher check` on labelled images tells"
                )
                self._of_libraries(respelt.weights, found, arch)
                return
        self.weights = default
        self._of_ours(default, arch)

    def _factory(self, arch: str) -> None:
        file, _, factory = arch.rpartition(":")
        from_toml = self.metadata.arch_from not in {None, "options"}
        folder = Path(str(self.metadata.arch_from)).parent if from_toml else Path()
        found = folder / file
        if from_toml and not found.resolve().is_relative_to(folder.resolve()):
            raise InputFileError(
                f"{self.metadata.arch_from}: arch = {arch!r} leads out of the folder; keep the file beside the weights."
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
            str(self.metadata.arch_from), Path(str(self.metadata.arch_from)).name
        )

    def _because(self) -> str:
        if self.options.arch is not None:
            return f"named in the {self._who()}"
        return "by the names and shapes of its weights"

    def _of_libraries(
        self, weights: WeightSet, found: architecture_recognition.Recognition, arch: str | None
    ) -> None:
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
                # Says how the weights differ from what was named
                self._of_ours(weights, arch)
                return
        because = self._because()
        if len(functions) > 1 and arch is None:
            said = architecture_recognition.named_by(functions, self._words())
            if said is not None:
                functions = (said[0],)
                because += f", and by the file's own words ({said[1]})"
        self.functions = functions
        if len(functions) > 1:
            self.asked.which(*((each.names[0], each.apart) for each in functions))
            return
        first, *same = functions[0].names
        source, _, name = first.partition(":")
        self.network = Network(
            source=source,
            name=name,
            because=because,
            same_as=tuple(same),
            original_names=found.original,
        )

    def _words(self) -> tuple[str, ...]:
        """What is said of the network beside the file, and in it."""
        beside = self.folder.timm_name if self.folder is not None else None
        inside = () if self.checkpoint is None else names_in(self.checkpoint.opened.content)
        return inside if beside is None else (beside, *inside)

    def _of_transformers(
        self, weights: WeightSet, folder: HuggingFaceFolder, classifier: str
    ) -> None:
        """What the configuration beside the weights names."""
        first = next((shape for shape in weights.shapes.values() if len(shape) == 4), None)
        self.channels = self.options.input[0] if self.options.input else first[1] if first else None
        self.classes = self.options.classes
        self.network = Network(
            source="transformers",
            name=classifier,
            because=f"by {folder.config.name} beside its weights",
        )

    def _of_ours(self, weights: WeightSet, arch: str | None) -> None:
        """Our own networks, or what was named; a refusal where the parts say another task."""
        shapes = weights.shapes
        if arch is None:
            task = architecture_recognition.other_task(
                weights.original
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
        from edgekd.distill.models.architectures import pooled_namesake
        from edgekd.distill.teachers import architecture_matching

        spelt = {canonical(name): shape for name, shape in shapes.items()}
        spelt = spelt if len(spelt) == len(shapes) else shapes
        found = architecture_matching.match_architecture(self.path, weights, spelt, self.options)
        if found is not None:
            network, original = found
            self.channels, self.classes = network.channels, network.classes
            pooled = pooled_namesake(network.name, shapes) if arch is None else None
            if pooled is not None:
                self.asked.which((network.name, _NO_POOL), (pooled, _POOL))
                return
            self.network = Network(
                source=network.source,
                name=network.name,
                because=self._because(),
                original_names=original,
            )
            return
        # By the order of layers, which a file of torch keeps; safetensors has its names by the alphabet
        if self.format != "safetensors":
            self.channels = next((shape[1] for shape in shapes.values() if len(shape) == 4), None)
            self.classes = next(
                (shape[0] for shape in reversed(list(shapes.values())) if len(shape) == 2), None
            )
        if self.form == "torchscript" and self.options.trust_pickle:
            return
        self.factory = self.asked.network(self.path, weights)

    # --- what else is known ------------------------------------------------------------------------

    def finish(self) -> Inspection:
        self._programs()
        input_, mean, std = self._spec()
        taken = self._take_weights()
        shapes = taken.weights.shapes if taken is not None else {}
        layers = architecture_recognition.batch_norm_layers(shapes)
        if taken is not None:
            self._say_weights(taken)
        known = Known(
            path=self.path,
            format=self.format,
            metadata=self.metadata,
            channels=self.channels,
            classes=self.classes,
            input=input_,
            mean=mean,
            std=std,
            parameters=architecture_recognition.parameters(shapes) or self._constants(),
            macs=self._macs(input_),
            batch_norm_layers=len(layers),
            batch_norm_trained=False if taken is None else _are_trained(taken, layers),
            questions=tuple(self.asked.questions),
            notes=tuple(self.asked.notes),
            factory=self.factory,
        )
        named = self.options.arch is not None and self.network is not None
        # Code runs only where the user lets it, and where no network is named that weights can go into.
        if self.form == "weights" or named or not self.options.trust_pickle:
            return WeightsFile(known=known, taken=taken, network=self.network)
        if self.form == "module":
            return PickledModule(known=known, taken=taken, network=self.network)
        return ScriptFile(
            known=known,
            taken=taken,
            network=self.network,
            candidates=tuple(each.names[0] for each in self.functions),
        )

    def _take_weights(self) -> TakenWeights | None:
        if self.checkpoint is None or self.weights is None:
            return None
        return TakenWeights(checkpoint=self.checkpoint, weights=self.weights)

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
            # The code says which network it is
            self.asked.questions = []
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
        # Of a head of its own the training was another, and so may its images have been
        anew = self.classes is not None and self.classes not in _PUBLISHED_CLASSES
        input_ = self.asked.input(known, channels=self.channels, origin=origin, anew=anew)
        return (input_, *self.asked.normalisation(known, origin, anew=anew))

    def _configuration(self) -> str:
        network = self.network
        if network is None:
            return "the library's configuration"
        return f"{network.source}'s configuration of {network.name}"

    def _say_weights(self, taken: TakenWeights) -> None:
        weights = taken.weights
        if taken.others:
            named = ", ".join(key or "(the whole file)" for key in taken.others)
            self.asked.notes.append(
                f"several sets of weights: {weights.key or '(the whole file)'!r} was taken, --weights chooses among {named}"
            )
        if weights.left:
            own = any(name.rpartition(".")[2] in {"mean", "std"} for name in weights.left)
            what = (
                "; if the network normalises by them, they are what --mean and --std are"
                if own
                else ""
            )
            self.asked.notes.append(
                f"{len(weights.left)} other tensors were left: {', '.join(weights.left[:3])}{what}"
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


def _are_trained(taken: TakenWeights, layers: list[str]) -> bool:
    """Whether every layer's statistics moved from where they start (mean 0, variance 1)."""
    for layer in layers:
        mean = taken.weights.tensors[f"{layer}.running_mean"]
        variance = taken.weights.tensors.get(f"{layer}.running_var")
        if not isinstance(mean, TensorRef) or not isinstance(variance, TensorRef):
            return False
        read = checkpoint_contents.values
        still = not np.any(read(taken.checkpoint, mean)) and np.all(
            read(taken.checkpoint, variance) == 1
        )
        if still:
            return False
    return bool(layers)


def _bare(name: str) -> str:
    return name.partition(":")[2]


def _ours_depends_on_input(shapes: Mapping[str, Shape]) -> bool:
    return "fc3.weight" in shapes and "conv2.weight" in shapes
