"""The module of a teacher: built and filled, converted, or run because the user said so."""

import importlib.util
import math
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn

from edgekd.distill.models import architectures
from edgekd.distill.models.parameter_names import canonical
from edgekd.distill.teachers import architecture_matching
from edgekd.distill.teachers.checkpoints.checkpoint_contents import WeightSet
from edgekd.distill.teachers.hugging_face import CONFIG
from edgekd.distill.teachers.inspection.kinds import (
    FactoryNetwork,
    Inspection,
    Known,
    NamedNetwork,
    Network,
    OnnxFileFound,
    PickledModule,
    Pt2File,
    ScriptFile,
    WeightsFile,
    name_network,
    require_network,
)
from edgekd.distill.teachers.logits import LogitsAlone, place_of_logits
from edgekd.distill.teachers.state_dict import canonical_keys, state_of
from edgekd.errors import InputFileError, UsageError
from edgekd.records import Architecture


def silent(_: str) -> None:
    """Where nobody listens."""


@dataclass(frozen=True, kw_only=True)
class BuiltModule:
    """A module with the weights in it, and its network as a record."""

    module: nn.Module
    architecture: Architecture
    because: str = "by its own code"
    notes: tuple[str, ...] = ()


def build_module(found: Inspection, say: Callable[[str], None]) -> BuiltModule:
    """The module of a file whose questions are answered.

    Args:
        found: what is known of the file.
        say: told before code of the user's is run.

    Raises:
        InputFileError: the file's weights or code do not give a classifier of images.
        UsageError: something must be known that no source says, or was said wrongly.
    """
    match found:
        case Pt2File():
            return _build_pt2(found)
        case OnnxFileFound():
            from edgekd.distill.teachers.onnx.loader import load_onnx

            return _build_program(found, load_onnx(found.known.path), source="onnx")
        case PickledModule():
            return _build_pickled(found.known)
        case ScriptFile():
            return _build_scripted(found)
        case WeightsFile():
            return _build_named(require_network(found), say)


def _build_named(found: NamedNetwork | FactoryNetwork, say: Callable[[str], None]) -> BuiltModule:
    if isinstance(found, FactoryNetwork):
        return _build_from_factory(found, say)
    if found.network.source == "transformers":
        return _build_transformers(found)
    return _build_network(found)


def _build_transformers(found: NamedNetwork) -> BuiltModule:
    """A network of transformers, from the configuration beside the weights."""
    from edgekd.distill.teachers.transformers_network import build_classifier

    weights = found.taken.weights
    state = state_of(found.taken.checkpoint, weights)
    module = build_classifier(
        found.known.path.with_name(CONFIG),
        {f"{weights.prefix}{name}": tensor for name, tensor in state.items()},
        name=found.network.name,
    )
    made = _with_classes(found.known, module, source="transformers", name=found.network.name)
    return replace(made, because=found.network.because)


def _build_pt2(found: Pt2File) -> BuiltModule:
    """A program that edgekd runs itself, or that torch may unpickle."""
    from edgekd.distill.teachers.pt2.loader import load_program

    path = found.known.path
    try:
        module = load_program(path)
    except InputFileError:
        if not found.known.metadata.options.trust_pickle:
            raise
    else:
        return _build_program(found, module, source="pt2")
    notes = ("loaded by torch it shows its answers alone: batch-norm cannot be watched",)
    made = _build_program(found, _unpickle_program(path), source="pt2")
    return replace(made, notes=(*made.notes, *notes))


def _build_program(
    found: Pt2File | OnnxFileFound, module: nn.Module, *, source: Literal["pt2", "onnx"]
) -> BuiltModule:
    """A graph that is run by edgekd or converted; none of its code is."""
    made = _with_classes(found.known, module, source=source, name=found.known.path.stem)
    return replace(made, because=found.network.because)


def _unpickle_program(path: Path) -> nn.Module:
    try:
        module: nn.Module = torch.export.load(path).module()
    except Exception as error:  # whatever its code raises
        raise InputFileError(
            f"{path}: torch.export.load failed: {type(error).__name__}: {error}"
        ) from error
    return _Frozen(module)


class _Frozen(nn.Module):
    """Around a module of torch.export, which refuses to be told of training and evaluation."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, K)
        answers: Tensor = self.inner(images)
        return answers

    def train(self, mode: bool = True) -> "_Frozen":
        self.training = mode
        return self


def _architecture(known: Known, *, source: str, name: str, classes: int) -> Architecture:
    channels, height, width = known.preprocessing().shape
    return Architecture(
        source=cast("Any", source),
        name=name,
        channels=channels,
        classes=classes,
        height=height,
        width=width,
    )


def _build_network(found: NamedNetwork) -> BuiltModule:
    """A network of ours or of a library, with the file's weights."""
    known, weights = found.known, found.taken.weights
    source, name = found.network.source, found.network.name
    if source == "edgekd" and name == "lenet5":
        _, name = _lenet(known, weights)
    architecture = _architecture(known, source=source, name=name, classes=found.classes)
    _check_against(known, replace(architecture, channels=found.channels))
    module = architectures.build(architecture)
    state = state_of(found.taken.checkpoint, weights)
    if source == "edgekd":
        state = canonical_keys(state)
    elif found.network.original_names:
        state = {f"{weights.prefix}{part}": tensor for part, tensor in state.items()}
    load_state(known.path, module, state, what=str(architecture))
    return BuiltModule(module=module, architecture=architecture, because=found.network.because)


def _lenet(known: Known, weights: WeightSet) -> tuple[str, str]:
    """Which LeNet-5: its shapes depend on the input's size, which is known only now."""
    spelt = {canonical(part): shape for part, shape in weights.shapes.items()}
    found = architecture_matching.match_architecture(
        known.path, weights, spelt, known.metadata.options
    )
    if found is None:
        raise UsageError(
            f"{known.path}: the weights look like LeNet-5, but not for this --input. "
            "Is --input what it was trained on? Another network goes with --arch."
        )
    return found[0].source, found[0].name


def load_state(path: Path, module: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Put weights into a network, as float32, every one of them.

    Raises:
        InputFileError: names or shapes differ; how is said.
    """
    plain: OrderedDict[str, Tensor] = OrderedDict(
        (name, tensor.float() if tensor.is_floating_point() else tensor)
        for name, tensor in state.items()
    )
    # Some modules (torchvision's MNASNet) look at versions that torch keeps beside the names.
    plain._metadata = getattr(module.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    try:
        # Counters of old checkpoints may be absent; all else was compared by name and shape.
        missing, unexpected = module.load_state_dict(plain, strict=False)
    except RuntimeError as error:
        raise InputFileError(f"{path}: does not load into {what}: {error}") from error
    lacking = [name for name in missing if not name.endswith("num_batches_tracked")]
    if lacking or unexpected:
        raise InputFileError(
            f"{path}: does not load into {what}: {architecture_matching.difference(module, architectures.shapes_of(plain))}."
        )


def _build_from_factory(found: FactoryNetwork, say: Callable[[str], None]) -> BuiltModule:
    """The user's own network: `factory()` of a file of theirs, which is run."""
    known, weights = found.known, found.taken.weights
    file, _, factory = found.network.name.rpartition(":")
    say(
        f"runs {file}, as the {'options say' if known.metadata.arch_from == 'options' else 'TOML file says'}"
    )
    module = _call_factory(Path(file), factory)
    state = state_of(found.taken.checkpoint, weights)
    expected = architectures.shapes_of(module.state_dict())
    prefixed = {f"{weights.prefix}{part}": tensor for part, tensor in state.items()}
    fits = [each for each in (prefixed, state) if each.keys() <= expected.keys()]
    load_state(known.path, module, (fits or [state])[0], what=f"what {file}:{factory} made")
    made = _with_classes(known, module, source="file", name=f"{Path(file).name}:{factory}")
    return replace(made, because=found.network.because)


def _call_factory(file: Path, factory: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location(f"edgekd_teacher_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up
    sys.modules[spec.name] = code
    # A file beside it may be imported by it, as when it is run as a script.
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(code)
        made = getattr(code, factory)()
    except Exception as error:
        raise UsageError(
            f"--arch {file}:{factory}: the code failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"--arch {file}:{factory}: {factory}() gave a {type(made).__name__}, not a torch.nn.Module."
        )
    return made


def _build_pickled(known: Known) -> BuiltModule:
    """A module that was saved whole, run because the user said so."""
    try:
        content = torch.load(known.path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever its code raises
        raise InputFileError(
            f"{known.path}: its code failed: {type(error).__name__}: {error}. Are the packages that it was "
            "saved with installed, in their versions?"
        ) from error
    values = [content, *(content.values() if isinstance(content, dict) else ())]
    module = next((value for value in values if isinstance(value, nn.Module)), None)
    if module is None:
        raise InputFileError(f"{known.path}: holds no torch.nn.Module, though it was trusted.")
    # DataParallel
    inner = getattr(module, "module", module)
    module = inner if isinstance(inner, nn.Module) else module
    return _with_classes(known, module.float(), source="pickle", name=type(module).__name__)


def _build_scripted(found: ScriptFile) -> BuiltModule:
    """A scripted module, run because the user said so; as the network itself where that is known."""
    known = found.known
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, and the user knows
            warnings.simplefilter("ignore")
            script = torch.jit.load(str(known.path), map_location="cpu")  # type: ignore[no-untyped-call]
            script = script.float().eval()
    except RuntimeError as error:
        raise InputFileError(f"{known.path}: torch.jit.load failed: {error}") from error
    name = str(getattr(script, "original_name", "module"))
    made = _with_classes(known, script, source="torchscript", name=name)
    images = torch.randn(
        4, *known.preprocessing().shape, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        expected = made.module(images)
    scale = max(1.0, float(expected.abs().max()))
    if found.taken is None:
        return replace(made, notes=(*made.notes, _ANSWERS_ALONE))
    for candidate in found.candidates:
        source, _, bare = candidate.partition(":")
        network = Network(source=source, name=bare, because="by the answers of the script")
        built = _build_named(name_network(known, found.taken, network), silent)
        with torch.no_grad():
            apart = float((built.module.eval()(images) - expected).abs().max())
        if apart <= _SCRIPT_TOLERANCE * scale:
            note = f"the script answers as {candidate} with its weights: that is used, with its batch-norm"
            return replace(built, notes=(note,))
    return replace(made, notes=(*made.notes, _ANSWERS_ALONE))


_ANSWERS_ALONE: Final = (
    "a scripted module shows its answers alone: batch-norm statistics cannot be watched in it"
)
# Of the largest answer; scripts may be fused or folded
_SCRIPT_TOLERANCE: Final = 1e-3


def _with_classes(known: Known, module: nn.Module, *, source: str, name: str) -> BuiltModule:
    """Run the module once for what its answers look like."""
    channels, height, width = known.preprocessing().shape
    module = module.eval()
    try:
        with torch.no_grad():
            answer = module(torch.zeros(2, channels, height, width))
    except Exception as error:  # whatever the user's code raises
        raise UsageError(
            f"{known.path}: the network cannot take images of {channels} x {height} x {width} ({error}). "
            "Is --input what it was trained on?"
        ) from error
    notes: tuple[str, ...] = ()
    place = None if isinstance(answer, Tensor) else place_of_logits(answer)
    if place is not None:
        notes = (
            f"the network answers with a {type(answer).__name__}: its {_place_text(place)} is taken as logits, the rest is left",
        )
        module = LogitsAlone(module, place)
        with torch.no_grad():
            answer = module(torch.zeros(2, channels, height, width))
    if not isinstance(answer, Tensor):
        raise InputFileError(
            f"{known.path}: refused, the network answers with a {type(answer).__name__}. edgekd compresses classifiers "
            "of one row of logits per image; detection and segmentation networks answer so."
        )
    if answer.ndim != 2 or len(answer) != 2:
        raise InputFileError(
            f"{known.path}: refused, the network answers two images with shape {tuple(answer.shape)}. edgekd compresses "
            "classifiers of one row of logits per image; a map for each image is segmentation."
        )
    last = list(module.modules())[-1]
    if isinstance(last, nn.Sigmoid):
        raise InputFileError(
            f"{known.path}: refused, the network ends in a sigmoid: it is multi-label. edgekd compresses classifiers "
            "of one class per image."
        )
    classes = answer.shape[1]
    architecture = _architecture(known, source=source, name=name, classes=classes)
    _check_against(known, architecture)
    return BuiltModule(module=module, architecture=architecture, notes=notes)


def _place_text(place: str | int) -> str:
    return f"entry {place + 1}" if isinstance(place, int) else f".{place}"


def _check_against(known: Known, found: Architecture) -> None:
    path, options = known.path, known.metadata.options
    channels = known.preprocessing().shape[0]
    if channels != found.channels:
        raise UsageError(
            f"{path}: the network takes {found.channels} channels, but --input says {channels}."
        )
    if options.classes is not None and options.classes != found.classes:
        raise UsageError(
            f"{path}: the network has {found.classes} classes, but --classes says {options.classes}."
        )
    if found.classes < 2:
        raise InputFileError(
            f"{path}: the network has one output; edgekd compresses classifiers of two classes or more."
        )
    for option, values in (("--mean", options.mean), ("--std", options.std)):
        if not all(math.isfinite(value) for value in values or ()):
            raise UsageError(f"{option} has values that are NaN or infinite.")
        if values is not None and len(values) not in {1, found.channels}:
            raise UsageError(
                f"{option} has {len(values)} values for {found.channels} channels; give one, or one per channel."
            )
