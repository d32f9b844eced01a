"""The teacher: loading it safely, understanding it, and leaving it as it was."""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import pydantic
import torch
from torch import Tensor, nn

from edgekd.distill import architectures
from edgekd.distill.architectures import shapes_of
from edgekd.distill.statistics import batch_norms
from edgekd.distill.weights import WeightFile, read_weights, state_digest
from edgekd.errors import InputFileError, IntegrityError, UsageError
from edgekd.files import digest_of, read_text
from edgekd.records import Architecture, InputSpec, NoiseResponse, TeacherInfo, record

Source: TypeAlias = Literal["edgekd", "timm", "torchvision"]

NOISE_IMAGES: Final = 256
METADATA_VERSION: Final = 1


@record
class TeacherOptions:
    """What a user can say of a teacher: on the command line, in `teacher.toml`, inside the file."""

    arch: str | None = None
    input: tuple[int, int, int] | None = None  # channels, height, width
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    flip: bool | None = None  # whether a mirrored image keeps its class


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A loaded teacher: evaluation mode, no gradients to parameters. Not a record."""

    module: nn.Module
    info: TeacherInfo
    flip: bool

    def unchanged(self) -> None:
        """Check that nothing has touched the teacher since it was loaded.

        Raises:
            IntegrityError: a parameter or buffer differs.
        """
        if state_digest(self.module.state_dict()) != self.info.state_digest:
            raise IntegrityError(
                "the teacher changed during the run; its batch-norm statistics or weights were written to. "
                "This is a fault of edgekd: please report it with the log."
            )


def load_teacher(path: Path, options: TeacherOptions, *, generator: torch.Generator) -> Teacher:
    """Load a teacher on the CPU and find out what it is.

    Args:
        path: `.pt`, `.pth`, `.th` or `.safetensors`; see `weights.read_weights`.
        options: what the command line says; a TOML file beside `path` and an `edgekd` entry inside
            it fill in the rest, in that order.
        generator: for the noise of the preflight.

    Raises:
        InputFileError: the file cannot be used, or fits no architecture.
        UsageError: something must be known that no source says; the message names every such option.
    """
    weights = read_weights(path)
    said, origin = _gathered(path, weights, options)
    architecture = _architecture(path, weights, said)
    spec = _input_spec(architecture, said)
    module = _loaded(path, architecture, weights)
    names = said.class_names
    if names is not None and len(names) != architecture.classes:
        raise UsageError(f"{origin}: {len(names)} class_names for {architecture.classes} classes.")
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
        weights_key=weights.key,
        metadata_from=origin,
        parameters=size.parameters,
        macs=size.macs,
        batch_norm_layers=len(layers),
        batch_norm_trained=_trained(layers),
        noise=_noise_response(module, spec, generator=generator),
    )
    # A mirrored digit is another sign, a mirrored photograph is not; grey images tend to be signs.
    flip = said.flip if said.flip is not None else spec.channels == 3
    return Teacher(module=module, info=info, flip=flip)


# --- what the sources say -----------------------------------------------------------------------


def _gathered(
    path: Path, weights: WeightFile, options: TeacherOptions
) -> tuple[TeacherOptions, str]:
    beside = next(
        (p for p in (path.with_suffix(".toml"), path.with_name("teacher.toml")) if p.is_file()),
        None,
    )
    sources: list[tuple[str, TeacherOptions]] = [("options", options)]
    if beside is not None:
        sources.append((beside.name, _from_toml(beside)))
    if weights.metadata:
        origin = f"the edgekd entry of {path.name}"
        sources.append((origin, _validated(weights.metadata, origin=origin)))
    merged: dict[str, Any] = {}
    used: list[str] = []
    for origin, source in sources:
        new = {
            name: getattr(source, name)
            for name in source.__dataclass_fields__
            if name not in merged and getattr(source, name) is not None
        }
        if new:
            used.append(origin)
        merged |= new
    return TeacherOptions(**merged), " and ".join(used) or "the weights alone"


def _from_toml(path: Path) -> TeacherOptions:
    try:
        content = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputFileError(f"{path}: not valid TOML ({error}).") from error
    return _validated(content, origin=str(path))


def _validated(content: Mapping[str, Any], *, origin: str) -> TeacherOptions:
    plain = dict(content)
    version = plain.pop("schema_version", METADATA_VERSION)
    if version != METADATA_VERSION:
        raise InputFileError(
            f"{origin}: schema_version {version!r}; this edgekd reads {METADATA_VERSION}."
        )
    try:
        return pydantic.TypeAdapter(TeacherOptions).validate_python(plain)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(TeacherOptions.__dataclass_fields__)
        raise InputFileError(f"{origin}: {where}: {first['msg']}. Known keys: {known}.") from error


# --- the architecture ---------------------------------------------------------------------------


def _architecture(path: Path, weights: WeightFile, said: TeacherOptions) -> Architecture:
    shapes = shapes_of(weights.state)
    # Only LeNet-5 depends on the input size; every other network of ours is found without it.
    _, height, width = said.input or (0, 32, 32)
    found = None if said.arch else architectures.recognise(shapes, height=height, width=width)
    lenet_like = "fc3.weight" in shapes and "conv2.weight" in shapes
    missing = []
    if said.arch is None and found is None and not (said.input is None and lenet_like):
        missing.append("--arch NAME (no network of ours has these names and shapes)")
    if said.input is None:
        channels = found.channels if found else "C"
        missing.append(
            f"--input {channels}xHxW (channels, height and width of the images it was trained on)"
        )
    if said.mean is None:
        missing.append("--mean M,... (what is subtracted from 0..1 pixels, one value a channel)")
    if said.std is None:
        missing.append("--std S,... (what they are divided by)")
    if missing:
        raise UsageError(
            f"{path}: the weights do not say everything. Missing:\n  " + "\n  ".join(missing) + "\n"
            f"Give them as options, or write them once into {path.with_suffix('.toml').name} beside the file "
            "(see docs/teachers.md)."
        )
    assert said.input is not None  # among the missing otherwise
    if found is None:
        found = _named(path, weights, said)
    _check_against(path, found, said)
    return found


def _named(path: Path, weights: WeightFile, said: TeacherOptions) -> Architecture:
    assert said.arch is not None
    assert said.input is not None
    shapes = shapes_of(weights.state)
    _, height, width = said.input
    tried: list[str] = []
    # What the file says, not what the options say: a contradiction gets a message of its own.
    shape = {"channels": architectures.channels_of(shapes), "height": height, "width": width}
    # Some networks (SqueezeNet) end in a convolution, and only the user knows the classes.
    matrices = any(len(part) == 2 for part in shapes.values())
    told = None if matrices else said.classes
    shape["classes"] = architectures.classes_of(shapes) if told is None else told
    for source, name in _sources(said.arch):
        candidate = Architecture(source=source, name=name, **shape)
        module = _skeleton(candidate)
        state = weights.state if source == "edgekd" else _raw(weights)
        if architectures.matches(module, shapes_of(state)):
            return candidate
        tried.append(_difference(candidate, module, shapes_of(state)))
    raise InputFileError(
        f"{path}: the weights do not fit --arch {said.arch}.\n  " + "\n  ".join(tried)
    )


def _sources(arch: str) -> Iterator[tuple[Source, str]]:
    """Where a name may come from: ours first, then the libraries that have it (slow to import)."""
    source, colon, name = arch.partition(":")
    if colon:
        if source not in ("edgekd", "timm", "torchvision"):
            raise UsageError(f"--arch {arch}: write NAME, timm:NAME or torchvision:NAME.")
        yield cast("Source", source), name
        return
    ours = architectures.family_of(arch) is not None
    if ours:
        yield "edgekd", arch
    import timm
    from torchvision import models

    in_timm = arch in timm.list_models()
    in_torchvision = arch in models.list_models(module=models)
    if in_timm:
        yield "timm", arch
    if in_torchvision:
        yield "torchvision", arch
    if not (ours or in_timm or in_torchvision):
        raise architectures.unknown(arch)


def _skeleton(candidate: Architecture) -> nn.Module:
    """The network for its names and shapes: without memory for weights, where the library can."""
    try:
        with torch.device("meta"):
            return architectures.build(candidate)
    except NotImplementedError:  # torchvision's RegNets copy values while they are built
        return architectures.build(candidate)


def _raw(weights: WeightFile) -> dict[str, Tensor]:
    return dict(zip(weights.raw_names, weights.state.values(), strict=True))


def _difference(
    candidate: Architecture, module: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> str:
    expected = shapes_of(module.state_dict())
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    lacking = sorted(set(expected) - set(shapes) - counters)
    extra = sorted(set(shapes) - set(expected) - counters)
    unequal = sorted(name for name in set(shapes) & set(expected) if shapes[name] != expected[name])
    parts = []
    if unequal:
        name = unequal[0]
        parts.append(
            f"{len(unequal)} shapes differ ({name}: file {shapes[name]}, network {expected[name]})"
        )
    if lacking:
        parts.append(f"{len(lacking)} are not in the file ({', '.join(lacking[:3])})")
    if extra:
        parts.append(f"{len(extra)} are not in the network ({', '.join(extra[:3])})")
    return f"{candidate}: " + "; ".join(parts)


def _check_against(path: Path, found: Architecture, said: TeacherOptions) -> None:
    assert said.input is not None
    if said.input[0] != found.channels:
        raise UsageError(
            f"{path}: the network takes {found.channels} channels, but --input says {said.input[0]}."
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
                f"{option} has {len(values)} values for {found.channels} channels; give one, or one a channel."
            )


def _input_spec(architecture: Architecture, said: TeacherOptions) -> InputSpec:
    assert said.mean is not None
    assert said.std is not None
    channels = architecture.channels
    mean = said.mean * channels if len(said.mean) == 1 else said.mean
    std = said.std * channels if len(said.std) == 1 else said.std
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


def _loaded(path: Path, architecture: Architecture, weights: WeightFile) -> nn.Module:
    module = architectures.build(architecture)
    state = weights.state if architecture.source == "edgekd" else _raw(weights)
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    try:
        # Counters of old checkpoints may be absent; all else was compared by name and shape.
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputFileError(f"{path}: does not load into {architecture}: {error}") from error
    lacking = [name for name in missing if not name.endswith("num_batches_tracked")]
    if lacking or unexpected:
        raise InputFileError(
            f"{path}: does not load into {architecture}: {[*lacking, *unexpected][:3]}."
        )
    return module.eval().requires_grad_(False)


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
            "edgekd compresses classifiers that return one row of logits an image."
        )
    confidence, decided = logits.softmax(1).max(1)
    return NoiseResponse(
        images=NOISE_IMAGES,
        distinct_classes=len(torch.unique(decided)),
        mean_confidence=min(1.0, float(confidence.mean())),
        logit_std=float(logits.std()),
    )
