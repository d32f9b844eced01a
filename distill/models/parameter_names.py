"""Names of parts, as several authors spell them, without a framework."""

import re
from collections.abc import Mapping
from typing import Final

from edgekd.errors import InputFileError

Shape = tuple[int, ...]

# Names in circulation for the same part: kuangliu, akamaster, xternalz, torchvision.
_ALIASES: Final = (
    (re.compile(r"^linear\."), "fc."),
    (re.compile(r"^classifier\.0\.(?=weight|bias)"), "classifier."),
    (re.compile(r"(?<=\.)(downsample)\."), "shortcut."),
    (re.compile(r"(?<=\.)(convShortcut)\."), "shortcut."),
)
# What wrappers put before every name; never part of a real one.
PREFIXES: Final = re.compile(
    r"^((module|model|net|network|_orig_mod|backbone|encoder|student|teacher|ema|model_ema|ema_model"
    r"|online|target|classifier_model|_forward_module|learner)\.)+"
)


def canonical(name: str) -> str:
    """A parameter name in our spelling."""
    for pattern, ours in _ALIASES:
        name = pattern.sub(ours, name)
    return name


def channels_of(shapes: Mapping[str, Shape]) -> int:
    """Input channels: those of the first convolution.

    Raises:
        InputFileError: there is no convolution.
    """
    first = next((shape for shape in shapes.values() if len(shape) == 4), None)
    if first is None:
        raise InputFileError(
            "the state dict has no convolution; edgekd compresses image classifiers."
        )
    return first[1]


def classes_of(shapes: Mapping[str, Shape]) -> int:
    """Classes: rows of the last matrix."""
    last = next((shape for shape in reversed(list(shapes.values())) if len(shape) == 2), None)
    if last is None:
        raise InputFileError("the state dict has no linear layer; give --classes and --arch.")
    return last[0]
