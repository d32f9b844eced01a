"""From names and shapes to a network: one answer, an honest question, or a refusal by name."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from edgekd.distill.models.parameter_names import Shape
from edgekd.distill.teachers import fingerprints, respelling
from edgekd.distill.teachers.checkpoints.checkpoint_contents import WeightSet
from edgekd.distill.teachers.fingerprints import COUNTERS, Configuration, FingerprintMatch
from edgekd.distill.teachers.respelling import Respelt

# Parts by which other tasks are known, in the spelling of the tools that are in use.
_TASKS: Final = (
    (r"(^|\.)(rpn|rpn_head|roi_heads?|bbox_head|box_predictor|rcnn)\.", "detection"),
    (r"(^|\.)(bbox_embed|query_embed|class_embed|anchor_generator)(\.|$)", "detection"),
    (r"(^|\.)(dfl\.conv\.weight|anchors|anchor_grid)$", "detection (YOLO)"),
    (r"(^|\.)(bbox_pred|box_head|loc_layers|conf_layers)\.", "detection"),
    (r"(^|\.)regression_head\.", "detection"),
    (r"(^|\.)(decode_head|auxiliary_head|segmentation_head|seg_head|mask_head)\.", "segmentation"),
    (
        r"(^|\.)(outc\.conv|up[1-4]\.(up|conv)|decoder\.blocks\.\d+\.conv1)\.",
        "segmentation (U-Net)",
    ),
    (r"(^|\.)(keypoint_head|heatmap_head)\.", "key points"),
    (
        r"(^|\.)(decoder\.duplicate_pooling|ml_decoder|duplicate_pooling)",
        "multi-label (ML-Decoder)",
    ),
    (
        r"(^|\.)(text_projection|transformer\.resblocks\.\d+\.ln_1\.weight|logit_scale)$",
        "image and text (CLIP)",
    ),
)


@dataclass(frozen=True, kw_only=True)
class EquivalentNetworks:
    """Networks that compute the same: any of their names will do."""

    # source:name, the one to use first
    names: tuple[str, ...]
    # What these have and others of the signature have not, in words
    apart: str


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """Every network of the libraries with these names and shapes."""

    functions: tuple[EquivalentNetworks, ...]
    classes: int
    channels: int
    # Found by the file's own names, not by those without a wrapper's prefix
    original: bool


@dataclass(frozen=True, kw_only=True)
class PublishedPreprocessing:
    """How the published weights of a network want their images."""

    # Defaults; more than one is a question
    inputs: tuple[tuple[int, int, int], ...]
    # Of other published weights
    others: tuple[tuple[int, int, int], ...]
    normalisations: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]  # (mean, std)


def recognise(weights: WeightSet) -> Recognition | None:
    """Look a set of weights up; None where no network of timm or torchvision has its names and shapes."""
    for shapes, original in ((weights.original, True), (weights.shapes, False)):
        match = fingerprints.find_match(shapes)
        if match is not None and match.members:
            return _recognition(match, original=original)
    return None


def recognise_respelt(weights: WeightSet) -> tuple[Recognition, Respelt] | None:
    """Look weights up that a wrapper or an old release spelt otherwise, or whose head was exchanged for another linear layer."""
    found = respelling.respell(weights)
    return None if found is None else (_recognition(found.match, original=False), found)


def _recognition(match: FingerprintMatch, *, original: bool) -> Recognition:
    return Recognition(
        functions=_functions(match),
        classes=match.classes,
        channels=match.channels,
        original=original,
    )


# Layers that change nothing in evaluation.
_NOTHING: Final = frozenset({"Identity", "Flatten", "Dropout", "DropPath", "Sequential"})
_WORDS: Final = {
    "Conv2dSame": "convolutions padded as TensorFlow pads",
    "BlurPool2d": "blurred before each stride",
    "AvgPool2dSame": "pooling padded as TensorFlow pads",
}


def _functions(match: FingerprintMatch) -> tuple[EquivalentNetworks, ...]:
    entries = fingerprints.load_index().entries
    groups: dict[object, list[str]] = {}
    for name in match.members:
        behaviour = entries[name].behaviour
        # What was not compared is only equal to itself.
        groups.setdefault(name if behaviour < 0 else behaviour, []).append(name)
    parts = [
        {part for name in names for part in entries[name].apart} - _NOTHING
        for names in groups.values()
    ]
    common = set.intersection(*parts)
    every = set().union(*parts) - common
    return tuple(
        EquivalentNetworks(
            names=tuple(sorted(names, key=_plainest)),
            apart=_apart(own - common, every, entries[names[0]].configurations),
        )
        for names, own in zip(groups.values(), parts, strict=True)
    )


def _apart(own: set[str], every: set[str], configurations: tuple[Configuration, ...]) -> str:
    """What sets a network apart, in words; the size of its images where nothing else does."""
    if own:
        return "; ".join(
            f"{part} ({_WORDS[part]})" if part in _WORDS else part for part in sorted(own)
        )
    if every:
        return f"without {', '.join(sorted(every))}"
    if configurations:
        return f"for images of {configurations[0].input[1]} x {configurations[0].input[2]}"
    return ""


def _plainest(name: str) -> tuple[bool, int, str]:
    return (not name.startswith("torchvision:"), len(name), name)


def named_by(
    functions: tuple[EquivalentNetworks, ...], words: Iterable[str]
) -> tuple[EquivalentNetworks, str] | None:
    """The function that a file names in words, with the word; None where it names none, or several.

    Args:
        functions: that have the file's names and shapes.
        words: architectures and classes that the file names.
    """
    for word in words:
        # timm's names have tags; torchvision's classes say whose network it is
        plain = word.partition(".")[0].lower().replace("-", "_")
        library = "torchvision" if word.startswith("torchvision.models.") else None
        library = "timm" if word.startswith("timm.models.") else library
        found = [
            each
            for each in functions
            if any(
                name.partition(":")[2] == plain or (library and name.startswith(f"{library}:"))
                for name in each.names
            )
        ]
        if len(found) == 1:
            return found[0], word
    return None


def settings(names: Iterable[str], *, channels: int) -> PublishedPreprocessing | None:
    """What the libraries say of the inputs of these networks; None where they say nothing."""
    entries = fingerprints.load_index().entries
    known = [entries[name].configurations for name in names if name in entries]
    defaults = [configurations[0] for configurations in known if configurations]
    if not defaults:
        return None
    every = [each for configurations in known for each in configurations]
    inputs = tuple(dict.fromkeys(_shape(each, channels) for each in defaults))
    others = tuple(
        shape
        for shape in dict.fromkeys(_shape(each, channels) for each in every)
        if shape not in inputs
    )
    pairs = dict.fromkeys(
        (_fitting(each.mean, channels), _fitting(each.std, channels)) for each in every
    )
    return PublishedPreprocessing(inputs=inputs, others=others, normalisations=tuple(pairs))


def _shape(configuration: Configuration, channels: int) -> tuple[int, int, int]:
    return (channels, *configuration.input[1:])


def _fitting(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Of three colours, for another count: their mean, as timm does for grey images."""
    if len(values) == channels:
        return values
    return (round(math.fsum(values) / len(values), 6),)


def other_task(names: Iterable[str]) -> str | None:
    """What the network is for, where its parts say that it is no classifier of images."""
    listed = list(names)
    match = fingerprints.kind_by_names(listed)
    if match is not None:
        kind = fingerprints.load_index().entries[match.members[0]].kind
        return f"{kind}: {match.members[0]}"
    for pattern, task in _TASKS:
        found = next((name for name in listed if re.search(pattern, name)), None)
        if found is not None:
            return f"{task}: it has {found}"
    return None


def batch_norm_layers(shapes: Mapping[str, Shape]) -> list[str]:
    """Names of the layers with running statistics."""
    return [name.removesuffix(".running_mean") for name in shapes if name.endswith(".running_mean")]


def parameters(shapes: Mapping[str, Shape]) -> int:
    """Values that were trained; statistics and counters are none."""
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if not name.endswith((COUNTERS, "running_mean", "running_var"))
    )
