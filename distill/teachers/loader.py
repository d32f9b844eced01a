"""The teacher: loading it safely, understanding it, and leaving it as it was."""

import importlib.util
import math
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import pydantic
import torch
from torch import Tensor, nn

from edgekd.distill.models import architectures
from edgekd.distill.models.batch_norm import batch_norms
from edgekd.distill.models.parameter_names import canonical
from edgekd.distill.teachers import architecture_matching
from edgekd.distill.teachers.file_formats import NAMES
from edgekd.distill.teachers.inspection import Inspection, Network, inspect_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.teachers.state_dict import canonical_keys, state_digest, state_of
from edgekd.errors import InputFileError, IntegrityError, UsageError
from edgekd.files import digest_of
from edgekd.records import (
    Architecture,
    InputSpec,
    NoiseResponse,
    TeacherInfo,
)

ALIKE: Final = 1e-6  # of the largest logit: answers that differ by less are the same
NOISE_IMAGES: Final = 256


def _silent(_: str) -> None:
    """Where nobody listens."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A loaded teacher: evaluation mode, no gradients to parameters. Not a record."""

    module: nn.Module
    info: TeacherInfo
    flip: bool

    def verify_unchanged(self) -> None:
        """Check that nothing has touched the teacher since it was loaded.

        Raises:
            IntegrityError: a parameter or buffer differs.
        """
        if state_digest(self.module.state_dict()) != self.info.state_digest:
            raise IntegrityError(
                "the teacher changed during the run; its batch-norm statistics or weights were written to. "
                "This is a fault of edgekd: please report it with the log."
            )


def load_teacher(
    path: Path,
    options: TeacherOptions,
    *,
    generator: torch.Generator,
    say: Callable[[str], None] = _silent,
) -> Teacher:
    """Load a teacher on the CPU and find out what it is.

    Args:
        path: of any file that `containers.opened` knows.
        options: what the command line says; a TOML file beside `path` and an `edgekd` entry inside
            it fill in the rest, in that order, and then what the network's library says.
        generator: for the noise of the preflight.
        say: told before code of the user's is run.

    Raises:
        InputFileError: the file cannot be used, or fits no architecture.
        UsageError: something must be known that no source says; the message names every such option.
    """
    known = inspect_teacher(path, options)
    known.require_answers()
    made = _build(known, say)
    architecture, module = made.architecture, made.module.eval()
    for parameter in module.parameters():  # scripted modules lack the method for all at once
        parameter.requires_grad_(False)
    spec = _input_spec(architecture, known)
    names = known.said.options.class_names
    if names is not None and len(names) != architecture.classes:
        raise UsageError(
            f"{known.said.origin}: {len(names)} class_names for {architecture.classes} classes."
        )
    size = _size(path, architecture, module)
    layers = batch_norms(module)
    info = TeacherInfo(
        file=path.name,
        file_digest=digest_of(path),
        state_digest=state_digest(module.state_dict()),
        architecture=architecture,
        input=spec,
        classes=architecture.classes,
        class_names=names,
        format=NAMES[known.format],
        weights_key=known.weights.key if known.weights is not None else "",
        metadata_from=known.origin,
        architecture_from=made.because,
        parameters=size.parameters or known.parameters,  # a frozen script has constants alone
        macs=size.macs,
        batch_norm_layers=len(layers),
        batch_norm_trained=_trained(layers),
        noise=_noise_response(module, spec, generator=generator),
        notes=(*known.notes, *made.notes),
    )
    # A mirrored digit is another sign, a mirrored photograph is not; grey images tend to be signs.
    said = known.said.options.flip
    return Teacher(module=module, info=info, flip=said if said is not None else spec.channels == 3)


# --- the module ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _BuiltModule:
    """A module with the weights in it, and its network as a record."""

    module: nn.Module
    architecture: Architecture
    because: str = "by its own code"
    notes: tuple[str, ...] = ()


def _build(known: Inspection, say: Callable[[str], None]) -> _BuiltModule:
    if known.form in {"pt2", "onnx"}:
        return _program(known)
    if known.form == "module" and known.said.options.trust_pickle and not _by_name(known):
        return _build_pickled(known)
    if known.form == "torchscript" and known.said.options.trust_pickle and not _by_name(known):
        return _build_scripted(known)
    assert known.network is not None  # a question otherwise
    if known.network.source == "file":
        return _from_factory(known, say)
    return _built(known)


def _program(known: Inspection) -> _BuiltModule:
    """A `.pt2` or ONNX file, whose graph is run by edgekd or converted; none of its code is."""
    assert known.network is not None  # a program always has one
    notes: tuple[str, ...] = ()
    if known.form == "onnx":
        from edgekd.distill.teachers.onnx_loader import load_onnx

        module = load_onnx(known.path)
    else:
        from edgekd.distill.teachers.pt2_loader import load_program

        try:
            module = load_program(known.path)
        except InputFileError:
            if not known.said.options.trust_pickle:
                raise
            module = _unpickle_program(known.path)
            notes = ("loaded by torch it shows its answers alone: batch-norm cannot be watched",)
    made = _with_classes(known, module, source=known.form, name=known.path.stem)
    return replace(made, because=known.network.because, notes=notes)


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


def _by_name(known: Inspection) -> bool:
    return known.said.options.arch is not None and known.network is not None


def _architecture(known: Inspection, *, source: str, name: str, classes: int) -> Architecture:
    assert known.input is not None
    channels, height, width = (int(size) for size in known.input.value)
    return Architecture(
        source=cast("Any", source),
        name=name,
        channels=channels,
        classes=classes,
        height=height,
        width=width,
    )


def _built(known: Inspection) -> _BuiltModule:
    """A network of ours or of a library, with the file's weights."""
    assert known.network is not None
    assert known.checkpoint is not None
    assert known.weights is not None
    assert known.channels is not None
    assert known.classes is not None
    source, name = known.network.source, known.network.name
    if source == "edgekd" and name == "lenet5":
        _, name = _lenet(known)
    architecture = _architecture(known, source=source, name=name, classes=known.classes)
    _check_against(known.path, replace(architecture, channels=known.channels), known)
    module = architectures.build(architecture)
    state = state_of(known.checkpoint, known.weights)
    if source == "edgekd":
        state = canonical_keys(state)
    elif known.network.original_names:
        state = {f"{known.weights.prefix}{part}": tensor for part, tensor in state.items()}
    load_state(known.path, module, state, what=str(architecture))
    return _BuiltModule(module=module, architecture=architecture, because=known.network.because)


def _lenet(known: Inspection) -> tuple[str, str]:
    """Which LeNet-5: its shapes depend on the input's size, which is known only now."""
    assert known.weights is not None
    spelt = {canonical(part): shape for part, shape in known.weights.shapes.items()}
    found = architecture_matching.match_architecture(
        known.path, known.weights, spelt, known.said.options
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


def _from_factory(known: Inspection, say: Callable[[str], None]) -> _BuiltModule:
    """The user's own network: `factory()` of a file of theirs, which is run."""
    assert known.network is not None
    assert known.checkpoint is not None
    assert known.weights is not None
    file, _, factory = known.network.name.rpartition(":")
    say(
        f"runs {file}, as the {'options say' if known.said.arch_from == 'options' else 'TOML file says'}"
    )
    module = _call_factory(Path(file), factory)
    state = state_of(known.checkpoint, known.weights)
    expected = architectures.shapes_of(module.state_dict())
    prefixed = {f"{known.weights.prefix}{part}": tensor for part, tensor in state.items()}
    fits = [each for each in (prefixed, state) if each.keys() <= expected.keys()]
    load_state(known.path, module, (fits or [state])[0], what=f"what {file}:{factory} made")
    made = _with_classes(known, module, source="file", name=f"{Path(file).name}:{factory}")
    return replace(made, because=known.network.because)


def _call_factory(file: Path, factory: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location(f"edgekd_teacher_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = code  # dataclasses and pickles look their module up
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


def _build_pickled(known: Inspection) -> _BuiltModule:
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
    inner = getattr(module, "module", module)  # DataParallel
    module = inner if isinstance(inner, nn.Module) else module
    return _with_classes(known, module.float(), source="pickle", name=type(module).__name__)


def _build_scripted(known: Inspection) -> _BuiltModule:
    """A scripted module, run because the user said so; as the network itself where that is known."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and the user knows
            script = torch.jit.load(str(known.path), map_location="cpu")  # type: ignore[no-untyped-call]
            script = script.float().eval()
    except RuntimeError as error:
        raise InputFileError(f"{known.path}: torch.jit.load failed: {error}") from error
    name = str(getattr(script, "original_name", "module"))
    made = _with_classes(known, script, source="torchscript", name=name)
    images = torch.randn(4, *input_shape(known), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = script(images)
    scale = max(1.0, float(expected.abs().max()))
    for candidate in known.candidates:
        source, _, bare = candidate.partition(":")
        network = Network(source=source, name=bare, because="by the answers of the script")
        built = _built(replace(known, network=network))
        with torch.no_grad():
            apart = float((built.module.eval()(images) - expected).abs().max())
        if apart <= _SCRIPT_TOLERANCE * scale:
            note = f"the script answers as {candidate} with its weights: that is used, with its batch-norm"
            return replace(built, notes=(note,))
    note = (
        "a scripted module shows its answers alone: batch-norm statistics cannot be watched in it"
    )
    return replace(made, notes=(note,))


_SCRIPT_TOLERANCE: Final = 1e-3  # of the largest answer; scripts may be fused or folded


def input_shape(known: Inspection) -> tuple[int, ...]:
    assert known.input is not None
    return tuple(int(size) for size in known.input.value)


def _with_classes(known: Inspection, module: nn.Module, *, source: str, name: str) -> _BuiltModule:
    """Run the module once for what its answers look like."""
    channels, height, width = input_shape(known)
    module = module.eval()
    try:
        with torch.no_grad():
            answer = module(torch.zeros(2, channels, height, width))
    except Exception as error:  # whatever the user's code raises
        raise UsageError(
            f"{known.path}: the network cannot take images of {channels} x {height} x {width} ({error}). "
            "Is --input what it was trained on?"
        ) from error
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
    _check_against(known.path, architecture, known)
    return _BuiltModule(module=module, architecture=architecture)


def _check_against(path: Path, found: Architecture, known: Inspection) -> None:
    said = known.said.options
    channels = input_shape(known)[0]
    if channels != found.channels:
        raise UsageError(
            f"{path}: the network takes {found.channels} channels, but --input says {channels}."
        )
    if said.classes is not None and said.classes != found.classes:
        raise UsageError(
            f"{path}: the network has {found.classes} classes, but --classes says {said.classes}."
        )
    if found.classes < 2:
        raise InputFileError(
            f"{path}: the network has one output; edgekd compresses classifiers of two classes or more."
        )
    for option, values in (("--mean", said.mean), ("--std", said.std)):
        if not all(math.isfinite(value) for value in values or ()):
            raise UsageError(f"{option} has values that are NaN or infinite.")
        if values is not None and len(values) not in {1, found.channels}:
            raise UsageError(
                f"{option} has {len(values)} values for {found.channels} channels; give one, or one per channel."
            )


def _input_spec(architecture: Architecture, known: Inspection) -> InputSpec:
    assert known.mean is not None
    assert known.std is not None
    channels = architecture.channels
    mean = known.mean.value * channels if len(known.mean.value) == 1 else known.mean.value
    std = known.std.value * channels if len(known.std.value) == 1 else known.std.value
    try:
        return InputSpec(
            channels=channels,
            height=architecture.height,
            width=architecture.width,
            mean=mean,
            std=std,
            colour_order={1: "gray", 3: "rgb"}.get(channels, "other"),  # type: ignore[arg-type]
        )
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"input, mean or std cannot be used: {where}: {first['msg']}.") from error


def _size(path: Path, architecture: Architecture, module: nn.Module) -> architectures.Size:
    """Parameters and multiply-accumulates; the first pass tells whether the network takes this input."""
    height, width = architecture.height, architecture.width
    try:
        return architectures.size_of(module, shape=(architecture.channels, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"{path}: {architecture} cannot take images of {height} x {width} pixels ({error}). "
            "Is --input what it was trained on?"
        ) from error


# --- preflight ------------------------------------------------------------------------------------


def _trained(layers: Mapping[str, nn.Module]) -> bool:
    """Whether the statistics moved from where they start (mean 0, variance 1) in every layer."""
    for layer in layers.values():
        mean, variance = layer.running_mean, layer.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        if bool((mean == 0).all()) and bool((variance == 1).all()):
            return False
    return bool(layers)


@torch.no_grad()
def _noise_response(
    module: nn.Module, spec: InputSpec, *, generator: torch.Generator
) -> NoiseResponse:
    noise = torch.randn(NOISE_IMAGES, *spec.shape, generator=generator)
    logits = torch.cat([module(part) for part in torch.split(noise, 64)])
    if logits.ndim != 2 or not bool(torch.isfinite(logits).all()):
        raise InputFileError(
            f"the teacher answers noise with shape {tuple(logits.shape)} or values that are not finite; "
            "edgekd compresses classifiers that return one row of logits per image."
        )
    confidence, decided = logits.softmax(1).max(1)
    return NoiseResponse(
        images=NOISE_IMAGES,
        distinct_classes=len(torch.unique(decided)),
        mean_confidence=min(1.0, float(confidence.mean())),
        logit_std=float(logits.std()),
    )


@torch.no_grad()
def refuse_constant(teacher: Teacher, *, generator: torch.Generator) -> None:
    """Look whether anything can be learned from a teacher at all.

    Raises:
        InputFileError: it answers noise of every strength alike.
    """
    spec = teacher.info.input
    strengths = torch.tensor([0.0, 0.3, 1.0, 3.0]).repeat(4).view(-1, 1, 1, 1)
    images = strengths * torch.randn(len(strengths), *spec.shape, generator=generator)
    logits = teacher.module(images)
    apart = float((logits.amax(0) - logits.amin(0)).max())
    if apart <= ALIKE * (1 + float(logits.abs().max())):
        raise InputFileError(
            "the teacher answers every image alike: nothing can be inverted out of it, or learned from it. Are its "
            "weights those of a training that ended well, and are --mean and --std those that it was trained with?"
        )
