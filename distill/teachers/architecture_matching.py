"""Which network a name means and whether weights fit it; needs the frameworks that build it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import torch
from torch import nn

from edgekd.distill.models import architectures
from edgekd.distill.models.architectures import shapes_of
from edgekd.distill.models.parameter_names import Shape, channels_of, classes_of
from edgekd.distill.teachers.checkpoints.checkpoint_contents import WeightSet
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import InputFileError, UsageError
from edgekd.records import Architecture

Source: TypeAlias = Literal["edgekd", "timm", "torchvision"]

# Pixels; of ours only LeNet-5 depends on it, and is asked for it before
_ANY_SIZE: Final = 32


def match_architecture(
    path: Path, weights: WeightSet, spelt: Mapping[str, Shape], options: TeacherOptions
) -> tuple[Architecture, bool] | None:
    """The network that was named, or the one of ours that has these names and shapes.

    Args:
        path: for messages.
        weights: names and shapes as the file has them.
        spelt: the same in our spelling.
        options: `arch`, `input` and `classes` are looked at.

    Returns:
        The network, at `options.input` or a size of ours, and whether it has the file's own names,
        wrapper's prefix and all. None where nothing was named and none of ours fits.

    Raises:
        InputFileError: the weights do not fit what was named; how they differ is said.
        UsageError: the name is unknown.
    """
    _, height, width = options.input or (0, _ANY_SIZE, _ANY_SIZE)
    if options.arch is None:
        found = architectures.recognise(spelt, height=height, width=width)
        return (found, False) if found is not None else None
    tried: list[str] = []
    # What the file says, not what the options say: a contradiction gets a message of its own.
    shape: dict[str, Any] = {"channels": channels_of(spelt), "height": height, "width": width}
    # Some networks (SqueezeNet) end in a convolution, and only the user knows the classes.
    matrices = any(len(part) == 2 for part in spelt.values())
    known_classes = None if matrices else options.classes
    shape["classes"] = classes_of(spelt) if known_classes is None else known_classes
    for source, name in _sources(options.arch):
        side = None
        if source == "timm" and options.input is None:
            side = architectures.required_size(name)
        known = {} if side is None else {"height": side[0], "width": side[1]}
        candidate = Architecture(source=source, name=name, **{**shape, **known})
        module = skeleton(candidate)
        named = (spelt,) if source == "edgekd" else (weights.original, weights.shapes)
        for shapes in named:
            if architectures.matches(module, shapes):
                return candidate, shapes is weights.original or shapes == weights.original
            # The order of layers says what is first and last; safetensors has none
            other = _by_difference(candidate, module, shapes, classes=options.classes)
            if other != candidate and architectures.matches(skeleton(other), shapes):
                return other, shapes is weights.original or shapes == weights.original
        tried.append(_difference(candidate, module, named[-1]))
    raise InputFileError(
        f"{path}: the weights do not fit --arch {options.arch}.\n  " + "\n  ".join(tried)
    )


def _by_difference(
    candidate: Architecture,
    module: nn.Module,
    shapes: Mapping[str, Shape],
    *,
    classes: int | None,
) -> Architecture:
    """The network with the channels and classes that its first and last layers have in the file.

    Args:
        candidate: with those that the file's order of layers says.
        module: of it.
        shapes: of the file.
        classes: that a user said.
    """
    channels, rows = candidate.channels, candidate.classes
    for name, ours in shapes_of(module.state_dict()).items():
        theirs = shapes.get(name)
        if theirs is None or len(theirs) != len(ours) or theirs == ours:
            continue
        if len(ours) == 4 and ours[1] == candidate.channels and theirs[0] == ours[0]:
            channels = theirs[1]
        elif ours[0] == candidate.classes and theirs[1:] == ours[1:] and classes is None:
            rows = theirs[0]
    return replace(candidate, channels=channels, classes=rows)


def _sources(arch: str) -> Iterator[tuple[Source, str]]:
    """Where a name may come from: ours first, then the libraries that have it (slow to import)."""
    source, colon, name = arch.partition(":")
    if colon:
        if source not in ("edgekd", "timm", "torchvision"):
            raise UsageError(
                f"--arch {arch}: write NAME, timm:NAME, torchvision:NAME or path/to/file.py:factory."
            )
        yield cast("Source", source), name
        return
    ours = architectures.family_of(arch) is not None
    if ours:
        yield "edgekd", arch
    import timm
    from torchvision import models

    in_timm = arch in timm.list_models()
    in_torchvision = arch.partition("+")[0] in models.list_models(module=models)
    if in_timm:
        yield "timm", arch
    if in_torchvision:
        yield "torchvision", arch
    if not (ours or in_timm or in_torchvision):
        raise architectures.unknown(arch)


def skeleton(candidate: Architecture) -> nn.Module:
    """The network for its names and shapes: without memory for weights, where the library can."""
    try:
        with torch.device("meta"):
            return architectures.build(candidate)
    except NotImplementedError:  # torchvision's RegNets copy values while they are built
        return architectures.build(candidate)


def _difference(candidate: Architecture, module: nn.Module, shapes: Mapping[str, Shape]) -> str:
    sized = (
        candidate.source == "timm"
        and architectures.required_size(candidate.name) is not None
        and shapes_of(module.state_dict()).keys() == shapes.keys()
    )
    hint = (
        f". Its weights depend on the size of its images ({candidate.height} x {candidate.width} here): say it with "
        "--input"
    )
    return f"{candidate}: {difference(module, shapes)}{hint if sized else ''}"


def difference(module: nn.Module, shapes: Mapping[str, Shape]) -> str:
    """How the names and shapes of a file differ from those of a network."""
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
    return "; ".join(parts)
