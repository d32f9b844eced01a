"""Architectures by name: building them, recognising ours from a state dict, choosing a student.

Ours are named by a small grammar (`GRAMMAR`); `timm:NAME` and `torchvision:NAME` build theirs. With `@SIDE` behind the
name a network first scales its images to SIDE x SIDE.
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn

from edgekd.distill.models import networks
from edgekd.distill.models.parameter_names import channels_of, classes_of
from edgekd.errors import UsageError
from edgekd.records import Architecture

Shape = tuple[int, ...]

# Sources whose networks are built again from their names alone, without the teacher's file
BUILDABLE: Final = frozenset({"edgekd", "timm", "torchvision"})
GRAMMAR: Final = (
    "lenet5, lenet5-half, resnet8|14|20|32|44|56 (a: option-A shortcuts; -wN: first width N instead of 16), "
    "resnet18, resnet34 (-pool: with torchvision's pool behind the stem), wrn-D-K, vgg11, mobilenetv2-F"
)
# Below, three halvings leave nothing to see; of these families, what their layers need.
LEAST_SIDE: Final = 16
LEAST_SIDES: Final = {"lenet": 28, "vgg": 28}
# What `auto` chooses from, and what a typing error is compared with. First widths are multiples of
# four, since accelerators pad channels to that anyway.
_DEPTHS: Final = (8, 14, 20, 32, 44, 56)
NAMES: Final[tuple[str, ...]] = (
    "lenet5-half",
    "lenet5",
    *(f"resnet{depth}-w{width}" for depth in _DEPTHS for width in (4, 8, 12)),
    *(f"resnet{depth}" for depth in _DEPTHS),
    *(f"resnet{depth}a" for depth in _DEPTHS),
    "resnet18-w16",
    "resnet18-w32",
    "resnet18",
    "resnet34",
    *(f"wrn-{depth}-{factor}" for depth in (16, 28, 40) for factor in (1, 2, 4, 10)),
    "vgg11",
    *(f"mobilenetv2-{factor}" for factor in ("0.25", "0.5", "0.75", "1.0")),
)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a network's name does not say."""

    channels: int
    classes: int
    height: int
    width: int


def build(architecture: Architecture) -> nn.Module:
    """A freshly built module in the architecture's shape; parameters as the library draws them.

    Raises:
        UsageError: the name is unknown, or the library cannot build it in this shape.
        ValueError: it is a part of a network: see `pruning.build_network`.
    """
    if architecture.cut:
        raise ValueError(f"{architecture} is built from the record of its cut")
    bare, side = _at_side(architecture)
    if side is not None:
        return networks.ResizedInput(build(bare), side=side)
    if architecture.source == "edgekd":
        return _ours(architecture.name, _signature(architecture))
    if architecture.source == "timm":
        return _timm(architecture)
    return _torchvision(architecture)


def _at_side(architecture: Architecture) -> tuple[Architecture, int | None]:
    """A network without its `@SIDE`, and that."""
    name, at, text = architecture.name.partition("@")
    if not at:
        return architecture, None
    side = int(text) if text.isdecimal() else 0
    if not LEAST_SIDE <= side < max(architecture.height, architecture.width):
        raise UsageError(
            f"{architecture}: @SIDE should be a number of pixels from {LEAST_SIDE} to below the input's "
            f"{architecture.height} x {architecture.width}."
        )
    return replace(architecture, name=name, height=side, width=side), side


def find_architecture(
    asked: str, *, channels: int, classes: int, height: int, width: int
) -> Architecture:
    """A network that a user named, for images of that shape.

    Raises:
        UsageError: it is none that can be built.
    """
    source, colon, name = asked.partition(":")
    shape: dict[str, Any] = {
        "channels": channels,
        "classes": classes,
        "height": height,
        "width": width,
    }
    if colon and source in {"timm", "torchvision"}:
        found = Architecture(
            source=cast(Literal["timm", "torchvision"], source), name=name, **shape
        )
    elif colon or family_of(asked.partition("@")[0]) is None:
        raise unknown(asked)
    else:
        found = Architecture(source="edgekd", name=asked, **shape)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            # Whose own checks say what is wrong
            module = build(found)
            _check_patches(module, height, width)
            answer = module.eval()(torch.zeros(1, channels, height, width))
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
        raise UsageError(
            f"{found} takes no images of {channels}x{height}x{width} ({error})."
        ) from error
    if answer.shape != (1, classes):
        raise UsageError(f"{found} answers {tuple(answer.shape)}, not {classes} logits per image.")
    return found


def _check_patches(module: nn.Module, height: int, width: int) -> None:
    """That the patches of a transformer cover its images: what is over at the edge, its convolution drops without a word.

    Raises:
        ValueError: they do not.
    """
    sizes = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if isinstance(sizes, tuple) and (height % sizes[0] or width % sizes[1]):
        raise ValueError(
            f"its patches of {sizes[0]} x {sizes[1]} pixels leave out what is over at the edge"
        )


def _signature(architecture: Architecture) -> Signature:
    return Signature(
        channels=architecture.channels,
        classes=architecture.classes,
        height=architecture.height,
        width=architecture.width,
    )


def _lenet(match: re.Match[str], at: Signature) -> nn.Module:
    return networks.LeNet5(
        channels=at.channels,
        classes=at.classes,
        height=at.height,
        width=at.width,
        scale=0.5 if match["half"] else 1.0,
    )


_FOUR_STAGES: Final = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def _resnet(match: re.Match[str], at: Signature) -> nn.Module:
    depth = int(match["depth"])
    deep = _FOUR_STAGES.get(depth)
    return networks.ResNet(
        channels=at.channels,
        classes=at.classes,
        blocks=deep or ((depth - 2) // 6,) * 3,
        base_width=int(match["base"] or (64 if deep else 16)),
        shortcut="pad" if match["pad"] else "projection",
        pooled=bool(match["pool"]),
    )


def _wide(match: re.Match[str], at: Signature) -> nn.Module:
    depth, factor = int(match["depth"]), int(match["factor"])
    return networks.WideResNet(channels=at.channels, classes=at.classes, depth=depth, factor=factor)


def _vgg(_: re.Match[str], at: Signature) -> nn.Module:
    return networks.Vgg11(channels=at.channels, classes=at.classes)


def _mobile(match: re.Match[str], at: Signature) -> nn.Module:
    return networks.MobileNetV2(
        channels=at.channels, classes=at.classes, factor=float(match["factor"])
    )


FAMILIES: Final[
    dict[str, tuple[re.Pattern[str], Callable[[re.Match[str], Signature], nn.Module]]]
] = {
    "lenet": (re.compile(r"lenet5(?P<half>-half)?"), _lenet),
    "resnet": (
        re.compile(
            r"resnet(?P<depth>8|14|18|20|32|34|44|56)(?P<pad>a)?(-w(?P<base>[1-9]\d{0,2}))?"
            r"(?P<pool>(?<=resnet18)-pool|(?<=resnet34)-pool)?"
        ),
        _resnet,
    ),
    "wrn": (re.compile(r"wrn-(?P<depth>10|16|22|28|34|40)-(?P<factor>[1-9]\d?)"), _wide),
    "vgg": (re.compile(r"vgg11"), _vgg),
    "mobilenetv2": (re.compile(r"mobilenetv2-(?P<factor>[0-2]\.\d{1,2})"), _mobile),
}


def family_of(name: str) -> str | None:
    """Which of our families a name belongs to; None when it is not one of our names."""
    return next(
        (family for family, (pattern, _) in FAMILIES.items() if pattern.fullmatch(name)), None
    )


def _ours(name: str, at: Signature) -> nn.Module:
    family = family_of(name)
    if family is None:
        raise unknown(name)
    least = LEAST_SIDES.get(family, LEAST_SIDE)
    if min(at.height, at.width) < least:
        raise UsageError(
            f"{name} needs an input of at least {least} x {least} pixels, not {at.height} x {at.width}."
        )
    pattern, builder = FAMILIES[family]
    match = pattern.fullmatch(name)
    # Family_of found it
    assert match is not None
    return builder(match, at)


def unknown(name: str) -> UsageError:
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(
        f"unknown architecture {name!r}.{hint} Ours: {GRAMMAR}. Others: timm:NAME, torchvision:NAME."
    )


def _timm(architecture: Architecture) -> nn.Module:
    import timm

    if architecture.name not in timm.list_models():
        near = difflib.get_close_matches(architecture.name, timm.list_models(), n=3)
        raise UsageError(
            f"timm has no model {architecture.name!r}. Near: {', '.join(near) or 'none'}."
        )
    shape: dict[str, Any] = {
        "in_chans": architecture.channels,
        "num_classes": architecture.classes,
    }
    side, wanted = required_size(architecture.name), (architecture.height, architecture.width)
    if side is not None and wanted != side:
        shape["img_size"] = wanted
    try:
        module: nn.Module = timm.create_model(architecture.name, pretrained=False, **shape)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if "img_size" not in shape:
            raise
        raise UsageError(
            f"timm:{architecture.name} takes images of {side[0] if side else 0} pixels and cannot be built for "
            f"{wanted[0]} x {wanted[1]} ({error})."
        ) from error
    return module


def required_size(name: str) -> tuple[int, int] | None:
    """Height and width that a timm network is built for, where its weights depend on them (transformers); else None."""
    import timm

    known = timm.get_pretrained_cfg(name)
    if known is None or not known.fixed_input_size:
        return None
    _, height, width = known.input_size
    return height, width


def _torchvision(architecture: Architecture) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    bare, *options = architecture.name.split("+")
    if bare not in known or architecture.name not in variants(bare):
        near = difflib.get_close_matches(architecture.name, known, n=3)
        raise UsageError(
            f"torchvision has no classifier {architecture.name!r}. Near: {', '.join(near) or 'none'}."
        )
    if architecture.channels != 3:
        raise UsageError(
            f"torchvision:{architecture.name} takes 3 channels, not {architecture.channels}. "
            "timm has most of these networks with any number of channels."
        )
    arguments = {}
    if bare in _WITH_OPTIONS:
        # These two warn at every construction unless told not to draw their slow initial weights.
        arguments = {option: option in options for option in _WITH_OPTIONS[bare]}
        arguments["init_weights"] = False
    module: nn.Module = models.get_model(
        bare, weights=None, num_classes=architecture.classes, **arguments
    )
    return module


# torchvision's published weights of these two have auxiliary heads and change mean and std inside.
_WITH_OPTIONS: Final = {
    "googlenet": ("aux_logits", "transform_input"),
    "inception_v3": ("aux_logits", "transform_input"),
}


def variants(name: str) -> tuple[str, ...]:
    """A torchvision network by name, with each combination of the options that change it."""
    options = _WITH_OPTIONS.get(name, ())
    return tuple(
        "+".join((name, *chosen))
        for count in range(len(options) + 1)
        for chosen in itertools.combinations(options, count)
    )


# --- recognising ------------------------------------------------------------------------------


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def matches(module: nn.Module, shapes: Mapping[str, Shape]) -> bool:
    """Same names and shapes, but for the counters that old checkpoints lack."""
    return _drop_counters(shapes_of(module.state_dict())) == _drop_counters(shapes)


def _drop_counters(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {
        name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")
    }


def recognise(shapes: Mapping[str, Shape], *, height: int, width: int) -> Architecture | None:
    """Which of our networks has exactly these (canonical) names and shapes, at this input size.

    Args:
        shapes: of a state dict, names in our spelling.
        height: of the input; only LeNet-5's depend on it.
        width: likewise.
    """
    for name in _guesses(shapes):
        found = Architecture(
            source="edgekd",
            name=name,
            channels=channels_of(shapes),
            classes=classes_of(shapes),
            height=height,
            width=width,
        )
        with torch.device("meta"):
            module = build(found)
        if matches(module, shapes):
            return found
    return None


def pooled_namesake(name: str, shapes: Mapping[str, Shape]) -> str | None:
    """The network of the same names and shapes with a pool behind its stem, where the file may be of either.

    Args:
        name: one of ours.
        shapes: as the file has them; only torchvision's own code, with another first layer, names parts so.
    """
    spelt_as_torchvision = "fc.weight" in shapes and any(
        ".downsample.0." in each for each in shapes
    )
    pooled = f"{name}-pool"
    return pooled if spelt_as_torchvision and family_of(pooled) is not None else None


def _guesses(shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Names whose network could have these shapes: read off depth and width, then compared whole."""
    first = next((shape[0] for shape in shapes.values() if len(shape) == 4), 0)
    if "conv1.weight" in shapes and "fc3.weight" in shapes:
        yield from ("lenet5", "lenet5-half")
    if "layer1.0.conv1.weight" in shapes:
        yield from _resnet_guesses(shapes, first)
    if "block1.layer.0.conv1.weight" in shapes:
        count = _blocks(shapes, "block1.layer.")
        factor = shapes["block1.layer.0.conv1.weight"][0] // 16
        yield f"wrn-{6 * count + 4}-{factor}"
    if "features.0.weight" in shapes and first == 64:
        yield "vgg11"
    if "features.3.conv.0.weight" in shapes:
        # Widths are rounded to multiples of 8, so the factor can't be solved for: try twentieths.
        yield from (
            f"mobilenetv2-{_decimal(twentieths / 20)}" for twentieths in (20, *range(2, 41))
        )


def _decimal(factor: float) -> str:
    text = f"{factor:.2f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def _resnet_guesses(shapes: Mapping[str, Shape], first: int) -> Iterator[str]:
    blocks = tuple(_blocks(shapes, f"layer{stage}.") for stage in range(1, 5))
    deep = next((depth for depth, counts in _FOUR_STAGES.items() if counts == blocks), None)
    depth = deep or 6 * blocks[0] + 2
    default = 64 if deep else 16
    width = "" if first == default else f"-w{first}"
    pad = "" if any(".shortcut." in name for name in shapes) else "a"
    if family_of(f"resnet{depth}{pad}{width}"):
        yield f"resnet{depth}{pad}{width}"


def _blocks(shapes: Mapping[str, Shape], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})
