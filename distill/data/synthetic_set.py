"""Sets of synthetic images on the disk, made ahead and used again.

SET/
images.npy    uint8 (N, H, W, C)
classes.npy   int64 (N,), what the teacher decides of each
set.json      the record: whose images, how many, their digests
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekd.distill.data.untrusted_arrays import read_npy
from edgekd.errors import InputFileError, IntegrityError, UsageError
from edgekd.files import digest_of, read_text
from edgekd.records import InputSpec, SyntheticSet, from_json

RECORD: Final = "set.json"
IMAGES: Final = "images.npy"
CLASSES: Final = "classes.npy"
# Images that a student can be taught from and measured on
LEAST: Final = 256
HELD_OUT: Final = 0.1
HELD_OUT_LEAST: Final = 64


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set that was read and checked."""

    record: SyntheticSet
    images: npt.NDArray[np.uint8]  # (N, H, W, C)
    classes: npt.NDArray[np.int64]  # (N,)


@dataclass(frozen=True, kw_only=True)
class SplitSet:
    """Images for a run that makes none: those to learn from, and those to measure on."""

    images: Tensor  # (N, C, H, W) uint8
    classes: Tensor  # (N,)
    held_out: Tensor  # (M, C, H, W) uint8
    held_out_classes: Tensor  # (M,)


def read_set(path: Path, *, teacher_digest: str, spec: InputSpec, classes: int) -> ImageSet:
    """Read a set and check that it is whole and of this teacher.

    Args:
        path: of its folder.
        teacher_digest: of the teacher's state.
        spec: of its input.
        classes: that it knows.

    Raises:
        InputFileError: no set, of another teacher, or of another input.
        IntegrityError: a file is not what the record says.
    """
    if not (path / RECORD).is_file():
        raise InputFileError(
            f"{path}: no set of images: {RECORD} is missing. `edgekd synthesize` makes one."
        )
    record = from_json(
        SyntheticSet, read_text(path / RECORD), origin=str(path / RECORD), schema="synthetic-set"
    )
    if record.teacher_digest != teacher_digest:
        raise InputFileError(f"{path}: made of another teacher, or of other weights of it.")
    if record.input != spec:
        raise InputFileError(
            f"{path}: made for other inputs ({record.input}) than the teacher takes ({spec})."
        )
    if record.classes_file is None or record.classes_digest is None:
        raise InputFileError(f"{path}: its record names no classes.")
    files = ((record.file, record.digest), (record.classes_file, record.classes_digest))
    for name, digest in files:
        if not (path / name).is_file() or digest_of(path / name) != digest:
            raise IntegrityError(f"{path / name}: not the file that {RECORD} names. Copy it again.")
    images, decided = read_npy(path / record.file), read_npy(path / record.classes_file)
    shape = (record.count, spec.height, spec.width, spec.channels)
    if images.dtype != np.uint8 or images.shape != shape:
        raise InputFileError(f"{path / record.file}: {images.dtype} of shape {images.shape}.")
    if decided.shape != (record.count,) or not np.issubdtype(decided.dtype, np.integer):
        raise InputFileError(f"{path / record.classes_file}: {decided.dtype} {decided.shape}.")
    if len(decided) and not 0 <= int(decided.min()) <= int(decided.max()) < classes:
        raise InputFileError(f"{path / record.classes_file}: class ids the teacher does not have.")
    return ImageSet(record=record, images=images, classes=decided.astype(np.int64))


def split_held_out(found: ImageSet, *, origin: str) -> SplitSet:
    """Take a tenth of each class away to measure on; the student never learns from it.

    Raises:
        UsageError: the set is too small.
    """
    count = len(found.images)
    if count < LEAST:
        raise UsageError(
            f"{origin}: {count} images; a student needs {LEAST} at least. Add some: "
            "edgekd synthesize ... --extend."
        )
    every = max(2, int(1 / max(HELD_OUT, HELD_OUT_LEAST / count)))
    seen: dict[int, int] = {}
    apart = np.zeros(count, bool)
    for place, number in enumerate(found.classes.tolist()):
        seen[number] = seen.get(number, 0) + 1
        apart[place] = seen[number] % every == 0
    images = torch.from_numpy(np.ascontiguousarray(found.images.transpose(0, 3, 1, 2)))
    classes = torch.from_numpy(found.classes)
    held = torch.from_numpy(apart)
    return SplitSet(
        images=images[~held],
        classes=classes[~held],
        held_out=images[held],
        held_out_classes=classes[held],
    )
