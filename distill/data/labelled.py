"""Labelled images that a user brings for evaluation: `.npz`, idx files, or a folder of images.

They are reported on and never select anything. N images, H x W pixels, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.distill.data.class_folders import number_folders
from edgekd.distill.data.image_files import FoundImages, digest_arrays, read_images
from edgekd.errors import InputFileError
from edgekd.records import InputSpec


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    name: str
    images: npt.NDArray[np.uint8]  # (N, H, W, C)
    labels: npt.NDArray[np.int64]  # (N,)
    # What was left out, and what was made of values and names, for people
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return digest_arrays(self.images, self.labels)

    def normalise(self, spec: InputSpec) -> npt.NDArray[np.float32]:  # (N, C, H, W)
        return normalise(self.images, spec)


def normalise(images: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.float32]:
    """uint8 (N, H, W, C) as a network takes them: float32 (N, C, H, W)."""
    mean = np.asarray(spec.mean, np.float32)
    std = np.asarray(spec.std, np.float32)
    scaled = (images.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def load_labelled(
    path: Path, *, spec: InputSpec, classes: int, class_names: Sequence[str] | None = None
) -> LabelledImages:
    """Read an evaluation set and check that it fits the teacher.

    Args:
        path: see `image_files.read_images`; folders are classes by name or number, see
            `class_folders.number_folders`.
        spec: of the teacher's input.
        classes: that the teacher knows.
        class_names: of the teacher, in the order of its outputs, where it has some.

    Raises:
        InputFileError: unreadable, of another shape or type, or with labels the teacher lacks.
    """
    found = read_images(path, shape=spec.shape, strict=True, part="test")
    if found.labels is None:
        raise InputFileError(
            f"{path}: images without labels. Sort them into one folder for each class, or give a .npz with images and "
            "labels."
        )
    labels, notes = number_labels(
        path, found, found.labels, classes=classes, class_names=class_names
    )
    present = len(np.unique(labels))
    if present < classes:
        notes = (*notes, f"images of {present:,} of {classes:,} classes")
    return LabelledImages(name=found.name, images=found.images, labels=labels, notes=notes)


def number_labels(
    path: Path,
    found: FoundImages,
    labels: npt.NDArray[np.int64],
    *,
    classes: int,
    class_names: Sequence[str] | None,
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Labels (N,) by the teacher's numbers, and what there is to say of the set.

    Args:
        path: of the set.
        found: in it.
        labels: of `found`, of which folders are not numbered yet.
        classes: that the teacher knows.
        class_names: its, in the order of its outputs.

    Raises:
        InputFileError: folders fit no classes, or labels are beyond them.
    """
    notes = found.notes
    if found.class_names is not None:
        places, told = number_folders(
            path, found.class_names, classes=classes, class_names=class_names
        )
        labels, notes = places[labels], (*notes, *told)
    _check_range(path, labels, classes)
    return labels, notes


def _check_range(path: Path, labels: npt.NDArray[np.int64], classes: int) -> None:
    """Refuse labels (N,) that the teacher lacks.

    Raises:
        InputFileError: some are.
    """
    low, high = int(labels.min()), int(labels.max())
    if high < classes:
        return
    one = " Are they counted from 1? Take 1 off them." if high == classes and low >= 1 else ""
    raise InputFileError(
        f"{path}: labels run from {low} to {high}, but the teacher knows classes 0 to {classes - 1}.{one}"
    )
