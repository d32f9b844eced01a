"""Images that a user brings: `.npz`, idx files, a folder by class or a flat one.

One reader for everything: evaluation sets (`data.load_labelled`), samples, what is condensed, what is
calibrated on. N images, H x W pixels, C channels, K classes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgekd.distill.data.array_files import (
    Arrays,
    Part,
    find_idx,
    is_idx_images,
    read_idx_pair,
    read_npy,
    read_npz,
)
from edgekd.distill.data.class_folders import is_left_out
from edgekd.distill.data.image_decoding import (
    IMAGE_SUFFIXES,
    Picture,
    decode_image,
    scale_array,
    scale_pictures,
)
from edgekd.distill.data.untrusted_arrays import require_memory
from edgekd.errors import InputFileError

_OR_INPUT: Final = ", or give --input if the teacher takes that size"
# Files in a message
_NAMED: Final = 5


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """What was read."""

    name: str
    images: npt.NDArray[np.uint8]  # (N, H, W, C)
    # (N,): of folders, the place in `class_names`; None where nobody says
    labels: npt.NDArray[np.int64] | None
    # Of the folders, sorted as text; which class each is, `class_folders.number_folders` knows
    class_names: tuple[str, ...] | None
    # Files that cannot be read
    skipped: tuple[str, ...]
    # What was left out besides, and what was made of values, for people
    notes: tuple[str, ...] = field(default=())

    @property
    def digest(self) -> str:
        return digest_arrays(self.images, self.labels)

    @property
    def warning(self) -> str | None:
        """What was left out, for people."""
        if not self.skipped:
            return None
        return (
            f"{self.name}: {len(self.skipped):,} of {len(self.images) + len(self.skipped):,} files are no images that can "
            f"be read and were left out: {_join_names(self.skipped)}. --strict refuses them."
        )


def digest_arrays(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64] | None) -> str:
    """SHA-256 of images and labels."""
    digest = sha256(np.ascontiguousarray(images).tobytes())
    if labels is not None:
        digest.update(labels.tobytes())
    return digest.hexdigest()


def read_images(
    path: Path,
    *,
    shape: tuple[int, int, int] | None = None,
    strict: bool = False,
    most: int | None = None,
    part: Part = "train",
) -> FoundImages:
    """Read images, with labels where there are some.

    Args:
        path: a `.npz` with `images` and perhaps `labels` (or as Keras and MedMNIST call them); a `.npy` of
            images alone; an idx file of images with its labels beside it, or the folder of both; a folder
            with one folder of images for each class; or a folder of images.
        shape: (C, H, W) that they must have; None for that of the first.
        strict: whether a file that cannot be read is refused instead of left out.
        most: images to take, spread evenly over what is there; None for all. Others are not read.
        part: of a `.npz` that has both.

    Raises:
        InputFileError: unreadable, empty, of values without a known scale, or not all of one shape.
    """
    if not path.exists():
        raise InputFileError(f"{path}: no such file or folder.")
    if path.is_dir():
        found = find_idx(path)
        if found is None:
            return _folder(path, shape, strict=strict, most=most)
        path = found
    images, labels, notes = _arrays(path, part)
    if most is not None and images.ndim and len(images) > most:
        chosen = spread(len(images), most)
        # Labels of another length are refused below
        if labels is not None and labels.shape[:1] == (len(images),):
            labels = labels[chosen]
        images = images[chosen]
    return _check_images(path, images, labels, shape, notes)


def _arrays(path: Path, part: Part) -> Arrays:
    if is_idx_images(path):
        return read_idx_pair(path)
    if path.suffix == ".npy":
        return read_npy(path)
    if path.suffix == ".npz":
        return read_npz(path, part)
    raise InputFileError(f"{path}: expected a .npz, .npy, idx files, or a folder of images.")


def _check_images(
    path: Path,
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any] | None,
    shape: tuple[int, int, int] | None,
    notes: tuple[str, ...],
) -> FoundImages:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype.kind not in "uifb":
        raise InputFileError(
            f"{path}: images are {images.dtype} of shape {images.shape}; expected uint8 (N, H, W, C)."
        )
    if not len(images):
        raise InputFileError(f"{path}: no images.")
    images, turned = _channels_last(images, shape)
    if shape is not None and images.shape[1:] != (shape[1], shape[2], shape[0]):
        raise InputFileError(
            f"{path}: images are {_format_shape(images.shape[1:])}, not {_format_shape((shape[1], shape[2], shape[0]))}; "
            f"resize the set first{_OR_INPUT}."
        )
    images, scaled = scale_array(str(path), images)
    whole = None
    if labels is not None:
        whole, told = whole_labels(path, labels, len(images))
        notes = (*notes, *told)
    if isinstance(images, np.memmap):
        require_memory(path, images.nbytes)
    return FoundImages(
        name=path.name,
        images=np.array(images) if isinstance(images, np.memmap) else images,
        labels=whole,
        class_names=None,
        skipped=(),
        notes=(*notes, *turned, *scaled),
    )


def _channels_last(
    images: npt.NDArray[Any], shape: tuple[int, int, int] | None
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Images (N, C, H, W), as PyTorch has them, as (N, H, W, C)."""
    if shape is None:
        first = images.shape[1] in (1, 3) and images.shape[3] not in (1, 3)
    else:
        last = (shape[1], shape[2], shape[0])
        first = images.shape[1:] == shape and images.shape[1:] != last
    if not first:
        return images, ()
    return images.transpose(0, 2, 3, 1), ("images are (N, C, H, W): turned to (N, H, W, C)",)


def whole_labels(
    path: Path, labels: npt.NDArray[Any], count: int
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Labels (N,) from 0 on, of a column (N, 1) or one-hot rows (N, K), and what was made of them.

    Raises:
        InputFileError: they are something else.
    """
    given = f"{labels.dtype} of shape {labels.shape}"
    notes: tuple[str, ...] = ()
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and len(labels) == count and labels.dtype.kind in "uifb":
        if not bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            raise InputFileError(
                f"{path}: labels are {given} and not one-hot: expected one class for each image. Soft labels, and several "
                "classes of one image, are not read."
            )
        notes = (f"labels are one-hot, of {labels.shape[1]} classes",)
        labels = labels.argmax(1)
    if labels.dtype.kind == "f" and labels.size and bool((labels == np.rint(labels)).all()):
        labels = labels.astype(np.int64)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputFileError(
            f"{path}: {count} images need as many whole-number labels, not {given}."
        )
    if int(labels.min()) < 0:
        raise InputFileError(f"{path}: a label is {labels.min()}; classes are counted from 0.")
    return labels.astype(np.int64), notes


def spread(count: int, most: int) -> npt.NDArray[np.int64]:  # -> (most,)
    """Places of so many of `count` things, spread evenly: files are often sorted by class."""
    return np.linspace(0, count - 1, most).astype(np.int64)


# --- folders --------------------------------------------------------------------------------------


def _folder(
    path: Path, shape: tuple[int, int, int] | None, *, strict: bool, most: int | None
) -> FoundImages:
    entries = sorted(path.iterdir())
    classes = [entry for entry in entries if entry.is_dir() and not is_left_out(entry.name)]
    left = [entry for entry in entries if entry.is_dir() and is_left_out(entry.name)]
    loose = [entry for entry in entries if entry.is_file() and _is_image(entry)]
    if classes and loose:
        raise InputFileError(
            f"{path}: images ({loose[0].name}) beside folders ({classes[0].name}). Either one folder for each "
            "class, or images without folders."
        )
    files: list[tuple[int, Path]] = []
    others: list[Path] = []
    for number, folder in enumerate(classes or [path]):
        inside = list(_walk(folder)) if classes else loose
        of_class = [file for file in inside if _is_image(file)]
        other = [file for file in inside if not _is_image(file)]
        if other and not of_class:
            raise InputFileError(
                f"{folder}: {len(other):,} files, and none is an image that edgekd reads ({other[0].name}). Convert "
                "them to PNG, or take the folder away."
            )
        files += [(number, file) for file in of_class]
        others += other
    if most is not None and len(files) > most:
        files = [files[place] for place in spread(len(files), most)]
    pictures, labels, skipped = _read_files(path, files, shape, strict=strict)
    if not pictures:
        tried = f"; {len(skipped)} files cannot be read: {_join_names(skipped)}" if skipped else ""
        raise InputFileError(
            f"{path}: no images in it ({', '.join(IMAGE_SUFFIXES)}), nor in folders by class{tried}."
        )
    images, scaled = scale_pictures(str(path), pictures)
    return FoundImages(
        name=path.name,
        images=np.stack(images),
        labels=np.asarray(labels, np.int64) if classes else None,
        class_names=tuple(folder.name for folder in classes) or None,
        skipped=tuple(skipped),
        notes=(*_left_out(left, others), *scaled),
    )


def _read_files(
    path: Path,
    files: Sequence[tuple[int, Path]],
    shape: tuple[int, int, int] | None,
    *,
    strict: bool,
) -> tuple[list[Picture], list[int], list[str]]:
    """Pictures, their places, and files that cannot be read."""
    wanted = None if shape is None else (shape[1], shape[2], shape[0])
    if wanted is not None and wanted[2] not in {1, 3}:
        raise InputFileError(
            f"{path}: image files have 1 or 3 channels, not {wanted[2]}; use .npz."
        )
    pictures: list[Picture] = []
    labels: list[int] = []
    skipped: list[str] = []
    for number, file in files:
        try:
            found = decode_image(file, None if wanted is None else wanted[2])
        except InputFileError:
            if strict:
                raise
            skipped.append(file.relative_to(path).as_posix())
            continue
        wanted = wanted or found.pixels.shape
        if found.pixels.shape != wanted:
            raise InputFileError(
                f"{file}: {_format_shape(found.pixels.shape)}, where {_format_shape(wanted)} are expected; resize the set "
                f"first{_OR_INPUT if shape is not None else ''}."
            )
        pictures.append(found)
        labels.append(number)
    return pictures, labels, skipped


def _walk(folder: Path) -> Iterator[Path]:
    """Files of a class, those in folders below too, as torchvision's ImageFolder takes them."""
    for entry in sorted(folder.iterdir()):
        if is_left_out(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _left_out(folders: Sequence[Path], files: Sequence[Path]) -> Iterator[str]:
    if folders:
        names = _join_names([folder.name for folder in folders])
        yield f"left out, no classes: {names}"
    if files:
        counts = Counter(file.suffix.lower() or file.name for file in files)
        kinds = _join_names([f"{kind} ({count:,})" for kind, count in counts.most_common()])
        yield f"left out, no images by their names: {kinds}"


def _format_shape(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{height} x {width} pixels and {channels} channels"


def _join_names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
