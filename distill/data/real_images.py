"""Real images that a distillation run is given: a condensed set, or a few samples.

N images, C channels, H x W pixels, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from edgekd.distill.data.class_folders import number_folders
from edgekd.distill.data.condensed_files import CondensedContents, Statistics, read_stored
from edgekd.distill.data.image_files import FoundImages, read_images
from edgekd.distill.data.labelled import normalise, number_labels
from edgekd.errors import InputFileError
from edgekd.records import InputSpec

# Means and stds that differ by less are the same
SAME: Final = 1e-3
# Correlation of pixels that are neighbours, and how much of it is left four pixels on. On CIFAR-10:
# 0.92 and 0.69 as it is, 0.60 to 0.63 and 0.10 to 0.20 after ZCA with the epsilon of mtt-distillation
# (0.1), in real images and in sets that were learned from them. Strokes on a plain ground (MNIST)
# keep little at four pixels as well, so of grey images only the first is asked.
LEAST_NEIGHBOURS: Final = 0.15
LEAST_KEPT: Final = 0.35
FAR: Final = 4  # pixels


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """What a run was given, as its teacher takes it."""

    images: Tensor  # (N, C, H, W) float32, normalised for the teacher
    labels: Tensor | None  # (N,) int64; None where nobody says
    kind: Literal["condensed", "samples"]
    # Of the file or folder
    name: str
    # SHA-256 of the file, or of the images and labels of a folder
    digest: str
    # What was found out and done, for people
    notes: tuple[str, ...]


def read_condensed(
    path: Path,
    *,
    spec: InputSpec,
    classes: int,
    number: int = 0,
    statistics: Statistics | None = None,
    class_names: tuple[str, ...] | None = None,
) -> RealImages:
    """Read a condensed set for a teacher.

    Args:
        path: a `.npz` of `edgekd condense`, `res_*.pt` of VICO-UoE/DatasetCondensation, or
            `images_*.pt` of mtt-distillation with its labels beside it.
        spec: of the teacher's input.
        classes: K, that the teacher knows.
        number: which of several sets in a file.
        statistics: mean and std that images of others were normalised with, where names do not say; 0 and 1
            for pixels.
        class_names: of the teacher, where it has some: sets of ours say theirs.

    Raises:
        InputFileError: unreadable, hostile, whitened, or not of the teacher's shape and classes.
        UsageError: there is no set of that number.
    """
    stored = read_stored(path, number=number, statistics=statistics)
    _check_shape(path, stored.images, spec)
    if not bool(torch.isfinite(stored.images).all()):
        raise InputFileError(
            f"{path}: images have values that are NaN or infinite. Create it again."
        )
    _check_classes(path, stored, classes)
    if not stored.trusted:
        _check_not_whitened(path, stored.images)
    labels, named = _named_labels(path, stored, classes, class_names)
    images, notes = _as_the_teacher_takes(path, stored, spec)
    return RealImages(
        images=images,
        labels=labels,
        kind="condensed",
        name=path.name,
        digest=stored.digest,
        notes=(*stored.notes, *notes, *named),
    )


def read_samples(
    path: Path,
    *,
    spec: InputSpec,
    classes: int,
    class_names: tuple[str, ...] | None = None,
    strict: bool = False,
) -> RealImages:
    """Read a few real images for a teacher, labelled or not.

    Args:
        path: see `image_files.read_images`.
        spec: of the teacher's input.
        classes: K, that the teacher knows.
        class_names: of the teacher, where it has some: folders called so may be fewer than all.
        strict: whether files that cannot be read are refused instead of left out.

    Raises:
        InputFileError: unreadable, empty, of another size, or with classes that do not fit.
    """
    found = read_images(path, shape=spec.shape, strict=strict)
    if len(found.images) < 2:
        raise InputFileError(
            f"{path}: one image in all; nothing can be learned from the one. Bring some of each class."
        )
    labels, notes = _sample_labels(path, found, classes, class_names)
    if found.warning is not None:
        notes = (*notes, found.warning)
    return RealImages(
        images=torch.from_numpy(normalise(found.images, spec)),
        labels=labels,
        kind="samples",
        name=found.name,
        digest=found.digest,
        notes=notes,
    )


# --- condensed sets -------------------------------------------------------------------------------


def _check_shape(path: Path, images: Tensor, spec: InputSpec) -> None:
    if tuple(images.shape[1:]) != spec.shape:
        raise InputFileError(
            f"{path}: images are {_format_shape(tuple(images.shape[1:]))} (channels x height x width), the teacher takes "
            f"{_format_shape(spec.shape)}. Condense data of that size."
        )


def _check_classes(path: Path, stored: CondensedContents, classes: int) -> None:
    """Every class of the teacher has images, and there are no others."""
    labels = stored.labels
    if len(labels) < 2:
        raise InputFileError(
            f"{path}: {len(labels)} images in all; a set has at least one per class."
        )
    if stored.classes is not None and stored.classes != classes:
        raise InputFileError(
            f"{path}: made of {stored.classes} classes, the teacher knows {classes}. Condense the data that it was "
            "trained on."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputFileError(
            f"{path}: labels run from {low} to {high}, but the teacher knows classes 0 to {classes - 1}. Is it of "
            "another data set?"
        )
    present = len(np.unique(labels.numpy()))
    if present < classes:
        raise InputFileError(
            f"{path}: images of {present} classes, the teacher knows {classes}. A condensed set has some of each; images "
            "of some classes can be given as samples."
        )


def _named_labels(
    path: Path, stored: CondensedContents, classes: int, class_names: tuple[str, ...] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels in the teacher's order of classes, where both say how theirs are called."""
    names = stored.class_names
    if names is None or class_names is None or names == class_names:
        return stored.labels, ()
    if not set(names) & set(class_names):
        told = f"{', '.join(names[:3])} of the set, {', '.join(class_names[:3])} of the teacher"
        return stored.labels, (f"classes are called otherwise ({told}): taken in their order",)
    places, notes = number_folders(path, names, classes=classes, class_names=class_names)
    return torch.from_numpy(places)[stored.labels], notes


def _check_not_whitened(path: Path, images: Tensor) -> None:
    neighbours, far = correlation(images, 1), correlation(images, FAR)
    if neighbours < LEAST_NEIGHBOURS:
        raise InputFileError(
            f"{path}: neighbouring pixels have nothing in common (correlation {neighbours:.2f}): the images are noise, or "
            "ZCA-whitened, and the whitening cannot be undone from the file. Take a set made without --zca."
        )
    if images.shape[1] > 1 and far < LEAST_KEPT * neighbours:
        raise InputFileError(
            f"{path}: ZCA-whitened: pixels next to one another are alike (correlation {neighbours:.2f}), those {FAR} apart are "
            f"not ({far:.2f}). The whitening cannot be undone from the file. Take a set made without --zca."
        )


def correlation(images: Tensor, apart: int) -> float:
    """Of pixels (N, C, H, W) so many columns or rows apart, each channel about its mean; 0 without contrast."""
    centred = images - images.mean((0, 2, 3), keepdim=True)
    found = []
    for axis in (2, 3):
        size = centred.shape[axis] - apart
        one, other = centred.narrow(axis, 0, size), centred.narrow(axis, apart, size)
        power = float((one.square().mean() * other.square().mean()).sqrt())
        found.append(float((one * other).mean()) / power if power > 0 else 0.0)
    return sum(found) / len(found)


def _as_the_teacher_takes(
    path: Path, stored: CondensedContents, spec: InputSpec
) -> tuple[Tensor, tuple[str, ...]]:
    teacher = (spec.mean, spec.std)
    if stored.scale == "pixels":
        return _denormalise(stored.images, teacher), ()
    if stored.statistics is None:
        raise InputFileError(
            f"{path}: already normalised, and neither its name nor its folder says with which mean and std. Call it "
            "after its data set, as in res_DC_CIFAR10_ConvNet_10ipc.pt, or say its mean and std."
        )
    if any(len(values) != spec.channels for values in stored.statistics):
        raise InputFileError(
            f"{path}: a mean and a std for each of {spec.channels} channels are needed, not {stored.statistics}."
        )
    if np.allclose(stored.statistics, teacher, atol=SAME, rtol=0):
        return stored.images, ("already normalised as the teacher takes images: left as it is",)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in stored.statistics)
    pixels = stored.images * std + mean
    return _denormalise(pixels, teacher), (
        "already normalised, otherwise than the teacher takes images: converted by way of 0..1 pixels",
    )


def _denormalise(pixels: Tensor, statistics: Statistics) -> Tensor:  # (N, C, H, W) -> the same
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
    return ((pixels - mean) / std).contiguous()


# --- samples --------------------------------------------------------------------------------------


def _sample_labels(
    path: Path, found: FoundImages, classes: int, class_names: tuple[str, ...] | None
) -> tuple[Tensor | None, tuple[str, ...]]:
    count = len(found.images)
    if found.labels is None:
        text = f"{count:,} images without labels: the teacher says what they are"
        return None, (text, *found.notes)
    labels, notes = number_labels(
        path, found, found.labels, classes=classes, class_names=class_names
    )
    present = len(np.unique(labels))
    if present < 2 <= classes:
        raise InputFileError(
            f"{path}: all {count:,} images are of one class. Bring some of the others, or give them without labels, in one "
            "folder."
        )
    text = f"{count:,} images of {present} of {classes} classes"
    return torch.from_numpy(labels), (text, *notes)


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
