"""Files of condensed sets: `edgekd condense`'s own `.npz`, and those of two research repositories.

VICO-UoE/DatasetCondensation (DC, DSA, DM) saves `{"data": [[images, labels], ...], ...}`, one pair for
each of its experiments; mtt-distillation saves `images_best.pt` with `labels_best.pt` beside it. Both
hold images as the network saw them, normalised with numbers that stand in the code and not in the file.
Nothing of a file is run. N images, C channels, H x W pixels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from edgekd.distill.data.untrusted_arrays import open_npz
from edgekd.distill.teachers.checkpoints.checkpoint_contents import Checkpoint, WeightSet
from edgekd.distill.teachers.checkpoints.file_contents import FileContents
from edgekd.distill.teachers.checkpoints.file_formats import open_file
from edgekd.distill.teachers.checkpoints.pickle_values import TensorRef
from edgekd.distill.teachers.state_dict import state_of
from edgekd.errors import InputFileError, UsageError
from edgekd.files import digest_of
from edgekd.records import CondensedSet, from_json

# Mean, std, of 0..1 pixels
Statistics: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]

SCHEMA: Final = "condensed-set"
# Of images that were not normalised
_LARGEST_PIXEL: Final = 1.001
# Learned pixels lie beyond 0..1 by less, but for some; of normalised ones a third does not
_SLACK: Final = 0.3
_FEW_BEYOND: Final = 0.15
# Of pixels; black and white halves have 0.5
_LARGEST_STD: Final = 0.5
# Mean and std of pixels of photographs, where the data is not known
_USUAL: Final = (0.45, 0.25)
# One explanation is so much nearer than the other, or both are possible
_CLEARLY: Final = 0.7
# Standard deviations; more are 0..255
_LARGEST_NORMALISED: Final = 50.0

# By the data set's name, as the repositories have them. CIFAR-100 has changed: first the numbers of
# CIFAR-10 stood there, and in mtt-distillation they still do.
_CIFAR10: Final = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100: Final = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATISTICS: Final[Mapping[str, Statistics]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashionmnist": ((0.2861,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
    "tiny": _IMAGENET,
    "tinyimagenet": _IMAGENET,
}
_DATA_SET: Final = re.compile(
    r"(?<![a-z0-9])(fashion-?mnist|mnist|svhn|cifar-?100|cifar-?10|tiny-?imagenet|tiny)(?![a-z0-9])"
)
# The method stands in the name since the numbers of CIFAR-100 are its own.
_WITH_METHOD: Final = re.compile(r"^res_(dc|dsa|dm)_", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CondensedContents:
    """What a file holds, as it holds it."""

    images: Tensor  # (N, C, H, W) float32
    labels: Tensor  # (N,) int64
    # 0..1, or of `statistics`
    scale: Literal["pixels", "normalised"]
    # None: nobody says
    statistics: Statistics | None
    # That the file says; None where it does not
    classes: int | None
    # In the order of the labels; None where it does not say
    class_names: tuple[str, ...] | None
    # Made by edgekd
    trusted: bool
    digest: str
    notes: tuple[str, ...]


def read_stored(path: Path, *, number: int, statistics: Statistics | None) -> CondensedContents:
    """Read a condensed set.

    Args:
        path: a `.npz` of ours; `res_*.pt` of VICO; `images_*.pt` of MTT.
        number: which of several sets in the file.
        statistics: mean and std that the images were normalised with; None to go by the names.

    Raises:
        InputFileError: not such a file, hostile, damaged, or with values that are not finite.
        UsageError: there is no set of that number.
    """
    if not path.is_file():
        what = "a folder, not a condensed set" if path.is_dir() else "no such file"
        raise InputFileError(f"{path}: {what}. Give a .npz of `edgekd condense` or a .pt.")
    if path.suffix.lower() == ".npz":
        return _own(path, number=number)
    return _foreign(path, number=number, statistics=statistics)


def _own(path: Path, *, number: int) -> CondensedContents:
    with open_npz(path, what="a condensed set") as content:
        missing = {"images", "labels", "about"} - set(content.files)
        if missing:
            raise InputFileError(
                f"{path}: lacks {', '.join(sorted(missing))}: no file of `edgekd condense`. Images as they are "
                "are samples, not a condensed set."
            )
        images, labels, about = (content[name] for name in ("images", "labels", "about"))
    record = from_json(CondensedSet, str(about), origin=f"{path}: about", schema=SCHEMA)
    shape = (record.count, record.input.height, record.input.width, record.input.channels)
    if images.dtype != np.float32 or images.shape != shape:
        raise InputFileError(f"{path}: images are {images.dtype} of shape {images.shape}.")
    if labels.dtype != np.int64 or labels.shape != shape[:1]:
        raise InputFileError(f"{path}: labels are {labels.dtype} of shape {labels.shape}.")
    if number != 0:
        raise UsageError(f"{path} holds one set; there is no number {number}.")
    return CondensedContents(
        images=torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        labels=torch.from_numpy(labels),
        scale="pixels",
        statistics=None,
        classes=record.classes,
        class_names=record.class_names,
        trusted=True,
        digest=digest_of(path),
        notes=(
            f"made by {record.made_with} with {record.method}, {record.per_class} a class, from "
            f"{record.source_images:,} images of {record.source}",
        ),
    )


# --- files of others ------------------------------------------------------------------------------


def _foreign(path: Path, *, number: int, statistics: Statistics | None) -> CondensedContents:
    file = open_file(path)
    digest = digest_of(path)
    notes: list[str] = []
    if file.format not in {"torch", "torch-legacy"}:
        raise _unknown(path)
    if isinstance(file.content, TensorRef):
        beside = path.with_name(path.name.replace("images", "labels"))
        if not beside.is_file():
            # Its images_zca_N.pt, the whitening undone, go with the labels_N.pt of the whitened
            beside = beside.with_name(beside.name.replace("_zca", ""))
        if beside == path or not beside.is_file():
            raise InputFileError(
                f"{path}: a tensor alone. A set of mtt-distillation is images_NAME.pt with labels_NAME.pt beside it; "
                "name the images."
            )
        if number != 0:
            raise UsageError(f"{path} holds one set; there is no number {number}.")
        second = open_file(beside)
        if not isinstance(second.content, TensorRef):
            raise _unknown(beside)
        images = _tensor(file, file.content, "images")
        labels = _tensor(second, second.content, "labels")
        digest = sha256((digest + digest_of(beside)).encode()).hexdigest()
        notes.append(f"a set of mtt-distillation, labels in {beside.name}")
    else:
        pairs = _pairs(path, file.content)
        if not 0 <= number < len(pairs):
            raise UsageError(
                f"{path} holds {len(pairs)} sets, 0 to {len(pairs) - 1}; there is no number {number}."
            )
        images, labels = (
            _tensor(file, value, name)
            for value, name in zip(pairs[number], ("images", "labels"), strict=True)
        )
        notes.append("a set of DatasetCondensation")
        if len(pairs) > 1:
            notes.append(
                f"the file holds {len(pairs)} sets of as many experiments; number {number} is taken"
            )
    if labels.dtype.is_floating_point or labels.dtype == torch.bool or labels.dim() != 1:
        raise InputFileError(
            f"{path}: labels are {str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}; expected a whole "
            "number for each image. Soft labels are not read."
        )
    if images.dim() != 4 or len(labels) != len(images):
        raise InputFileError(
            f"{path}: images of shape {tuple(images.shape)} with {len(labels)} labels; expected (N, C, H, W) with N labels."
        )
    whole = images.dtype == torch.uint8
    images = _as_floats(path, images)
    why: list[str] = []
    scale: Literal["pixels", "normalised"] = "pixels" if whole else "normalised"
    if statistics is None:
        statistics, why = _by_name(path, images.shape[1])
        scale = _detect_scale(path, images, statistics)
    elif len({len(statistics[0]), len(statistics[1]), images.shape[1]}) > 1:
        raise InputFileError(
            f"{path}: a mean and a std for each of {images.shape[1]} channels are needed, not {statistics}."
        )
    if scale == "pixels":
        low, high = float(images.min()), float(images.max())
        around = "" if low >= 0 and high <= _LARGEST_PIXEL else f" but for {low:.2f} to {high:.2f}"
        notes.append(
            f"its values are pixels, from 0 to 1{around}: it was saved without normalising"
        )
    else:
        notes += why
    return CondensedContents(
        images=images,
        labels=labels.long(),
        scale=scale,
        statistics=statistics if scale == "normalised" else None,
        classes=None,
        class_names=None,
        trusted=False,
        digest=digest,
        notes=tuple(notes),
    )


def _pairs(path: Path, content: Any) -> list[list[TensorRef]]:  # noqa: ANN401
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list | tuple) or not data:
        raise _unknown(path)
    several = [data] if isinstance(data[0], TensorRef) else data
    pairs = [list(pair) if isinstance(pair, list | tuple) else [] for pair in several]
    if any(len(pair) != 2 or not all(isinstance(one, TensorRef) for one in pair) for pair in pairs):
        raise _unknown(path)
    return pairs


def _tensor(file: FileContents, reference: TensorRef, name: str) -> Tensor:
    """The values of one tensor, checked and read as those of weights are."""
    only = WeightSet(key="", tensors={name: reference}, prefix="")
    checkpoint = Checkpoint(opened=file, sets=(only,), metadata={}, module=None)
    return state_of(checkpoint, only)[name].clone()


def _unknown(path: Path) -> InputFileError:
    return InputFileError(
        f"{path}: no condensed set that edgekd knows: a .npz of `edgekd condense`, the res_*.pt of "
        "DatasetCondensation with its sets under 'data', or images_best.pt of mtt-distillation."
    )


def _as_floats(path: Path, images: Tensor) -> Tensor:
    """As float32, where the values can be pixels of 0..1 or normalised."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    images = images.float()
    low, high = float(images.min()), float(images.max())
    if max(-low, high) > _LARGEST_NORMALISED:
        raise InputFileError(
            f"{path}: values from {low:.3g} to {high:.3g} are neither normalised nor 0..1 pixels. Divide by 255, or save "
            "them as uint8."
        )
    return images


def _detect_scale(
    path: Path, images: Tensor, statistics: Statistics | None
) -> Literal["pixels", "normalised"]:
    """What values (N, C, H, W) are: learned pixels lie a little beyond 0..1, so the range alone does not tell.

    Normalised images have mean 0 and std 1 in each channel, pixels the mean and std of their data.

    Args:
        path: for messages.
        images: float32, as they are stored.
        statistics: of the data set, where its name is known.

    Raises:
        InputFileError: both fit.
    """
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high <= _LARGEST_PIXEL:
        return "pixels"
    beyond = float(((images < -_SLACK) | (images > 1 + _SLACK)).float().mean())
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    # NaN fits nothing, and is refused later with its own words
    if not beyond <= _FEW_BEYOND or not float(std.max()) <= _LARGEST_STD:
        return "normalised"
    usual, spread = map(torch.tensor, statistics or ((_USUAL[0],), (_USUAL[1],)))
    as_pixels = float(((mean - usual).abs() + (std - spread).abs()).mean())
    as_normalised = float(((mean.abs() + (std - 1).abs()) * spread).mean())
    if as_pixels < _CLEARLY * as_normalised:
        return "pixels"
    if as_normalised < _CLEARLY * as_pixels:
        return "normalised"
    raise InputFileError(
        f"{path}: values from {low:.2f} to {high:.2f}, mean {float(mean.mean()):.2f}, std {float(std.mean()):.2f}: pixels a little "
        "beyond 0..1, or normalised images of little contrast? Say --condensed-mean 0 --condensed-std 1 for pixels, or the "
        "mean and std that they were normalised with."
    )


def _by_name(path: Path, channels: int) -> tuple[Statistics | None, list[str]]:
    """Mean and std of the data set that the file, or a folder above it, is called after."""
    for place in (path.name, *(folder.name for folder in list(path.absolute().parents)[:3])):
        found = _DATA_SET.search(place.lower())
        if found is None:
            continue
        name = found[1].replace("-", "")
        statistics = STATISTICS[name]
        if len(statistics[0]) != channels:
            continue
        notes = [f"normalised with the mean and std of {name}, after the name {place}"]
        if name == "cifar100":
            own = _WITH_METHOD.match(path.name) is not None
            statistics = _CIFAR100 if own else _CIFAR10
            notes.append(
                f"for cifar100 two sets of numbers are about; taken is mean {statistics[0]}, std {statistics[1]}"
            )
        return statistics, notes
    return None, []
