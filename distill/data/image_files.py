"""Images that a user brings to learn from: `.npz`, idx files, a folder by class or a flat one.

Unlike an evaluation set (`data.load_labelled`) they may say for themselves what they are: size,
channels and classes are read off them. N images, H x W pixels, C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgekd.distill.data.labelled import IMAGE_SUFFIXES, read_idx_pair
from edgekd.distill.data.untrusted_arrays import open_npz, read_npy, require_memory
from edgekd.distill.data.untrusted_pictures import open_picture
from edgekd.errors import InputFileError

_MODES: Final = {1: "L", 3: "RGB"}
_GREY: Final = {"1", "L", "LA", "La", "I", "I;16", "F"}
# Files in a message
_NAMED: Final = 5


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """What was read."""

    name: str
    images: npt.NDArray[np.uint8]  # (N, H, W, C)
    labels: npt.NDArray[np.int64] | None  # (N,); None where nobody says
    # Of the folders, in the order of the labels
    class_names: tuple[str, ...] | None
    # Files that cannot be read
    skipped: tuple[str, ...]

    @property
    def digest(self) -> str:
        digest = sha256(np.ascontiguousarray(self.images).tobytes())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()

    @property
    def warning(self) -> str | None:
        """What was left out, for people."""
        if not self.skipped:
            return None
        return (
            f"{self.name}: {len(self.skipped):,} of {len(self.images) + len(self.skipped):,} files are no images that can "
            f"be read and were left out: {_join_names(self.skipped)}. --strict refuses them."
        )


def read_images(
    path: Path,
    *,
    shape: tuple[int, int, int] | None = None,
    strict: bool = False,
    most: int | None = None,
) -> FoundImages:
    """Read images, with labels where there are some.

    Args:
        path: a `.npz` with `images` and perhaps `labels`; a `.npy` of images alone; an idx file of images with its labels
            beside it, or the folder of both; a folder with one folder of images for each class,
            whose sorted names are the class order; or a folder of images.
        shape: (C, H, W) that they must have; None for that of the first.
        strict: whether a file that cannot be read is refused instead of left out.
        most: images to take, spread evenly over what is there; None for all. Others are not read.

    Raises:
        InputFileError: unreadable, empty, not uint8, or not all of one shape.
    """
    if not path.exists():
        raise InputFileError(f"{path}: no such file or folder.")
    if path.is_dir():
        found = sorted(path.glob("*-images-idx3-ubyte*"))
        if not found:
            return _folder(path, shape, strict=strict, most=most)
        if len(found) > 1:
            names = ", ".join(entry.name for entry in found)
            raise InputFileError(f"{path}: several sets ({names}); name the images file of one.")
        path = found[0]
    images, labels = _arrays(path)
    if most is not None and images.ndim and len(images) > most:
        chosen = spread(len(images), most)
        # Labels of another shape are refused below
        if labels is not None and labels.shape == (len(images),):
            labels = labels[chosen]
        images = images[chosen]
    return _check_images(path, images, labels, shape)


def _arrays(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    if "-images-idx" in path.name:
        return read_idx_pair(path)
    if path.suffix == ".npy":
        # Mapped: type and shape are looked at before anything is read
        return read_npy(path, mapped=True, what="a set of images"), None
    if path.suffix != ".npz":
        raise InputFileError(f"{path}: expected a .npz, .npy, idx files, or a folder of images.")
    with open_npz(path, what="a set of images") as content:
        if "about" in content.files:
            raise InputFileError(
                f"{path}: a condensed set of `edgekd condense`, not images as they are."
            )
        if "images" not in content.files:
            raise InputFileError(f"{path}: lacks images.")
        return content["images"], content["labels"] if "labels" in content.files else None


def _check_images(
    path: Path,
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any] | None,
    shape: tuple[int, int, int] | None,
) -> FoundImages:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise InputFileError(
            f"{path}: images are {images.dtype} of shape {images.shape}; expected uint8 (N, H, W, C)."
        )
    if not len(images):
        raise InputFileError(f"{path}: no images.")
    if shape is not None and images.shape[1:] != (shape[1], shape[2], shape[0]):
        raise InputFileError(
            f"{path}: images are {_format_shape(images.shape[1:])}, not {_format_shape((shape[1], shape[2], shape[0]))}; "
            "resize the set first."
        )
    if labels is not None:
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise InputFileError(
                f"{path}: {len(images)} images need as many whole-number labels, not {labels.dtype} of shape "
                f"{labels.shape}."
            )
        if int(labels.min()) < 0:
            raise InputFileError(f"{path}: a label is {labels.min()}; classes are counted from 0.")
        labels = labels.astype(np.int64)
    if isinstance(images, np.memmap):
        require_memory(path, images.nbytes)
    return FoundImages(
        name=path.name,
        images=np.array(images) if isinstance(images, np.memmap) else images,
        labels=labels,
        class_names=None,
        skipped=(),
    )


def spread(count: int, most: int) -> npt.NDArray[np.int64]:  # -> (most,)
    """Places of so many of `count` things, spread evenly: files are often sorted by class."""
    return np.linspace(0, count - 1, most).astype(np.int64)


# --- folders --------------------------------------------------------------------------------------


def _folder(
    path: Path, shape: tuple[int, int, int] | None, *, strict: bool, most: int | None = None
) -> FoundImages:
    classes = sorted(entry for entry in _visible(path) if entry.is_dir())
    loose = list(_image_files(path))
    if classes and loose:
        raise InputFileError(
            f"{path}: images ({loose[0].name}) beside folders ({classes[0].name}). Either one folder for each "
            "class, or images without folders."
        )
    wanted = None if shape is None else (shape[1], shape[2], shape[0])
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    skipped: list[str] = []
    files = [
        (number, file)
        for number, folder in enumerate(classes or [path])
        for file in _image_files(folder)
    ]
    if most is not None and len(files) > most:
        files = [files[place] for place in spread(len(files), most)]
    if wanted is not None and wanted[2] not in _MODES:
        raise InputFileError(
            f"{path}: image files have 1 or 3 channels, not {wanted[2]}; use .npz."
        )
    for number, file in files:
        try:
            pixels = _pixels(file, None if wanted is None else wanted[2])
        except InputFileError:
            if strict:
                raise
            skipped.append(file.relative_to(path).as_posix())
            continue
        wanted = wanted or pixels.shape
        if pixels.shape != wanted:
            raise InputFileError(
                f"{file}: {_format_shape(pixels.shape)}, where {_format_shape(wanted)} are expected; resize the set first."
            )
        images.append(pixels)
        labels.append(number)
    if not images:
        tried = f"; {len(skipped)} files cannot be read: {_join_names(skipped)}" if skipped else ""
        raise InputFileError(
            f"{path}: no images in it ({', '.join(IMAGE_SUFFIXES)}), nor in folders by class{tried}."
        )
    return FoundImages(
        name=path.name,
        images=np.stack(images),
        labels=np.asarray(labels, np.int64) if classes else None,
        class_names=tuple(folder.name for folder in classes) or None,
        skipped=tuple(skipped),
    )


def _visible(path: Path) -> Iterator[Path]:
    return (entry for entry in path.iterdir() if not entry.name.startswith("."))


def _image_files(path: Path) -> Iterator[Path]:
    return (
        entry
        for entry in sorted(_visible(path))
        if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()
    )


def _pixels(file: Path, channels: int | None) -> npt.NDArray[np.uint8]:
    """An image as (H, W, C); grey or colour as it is, where nothing is asked for."""
    image = open_picture(file, suffixes=IMAGE_SUFFIXES).image
    wanted = channels or (1 if image.mode in _GREY else 3)
    pixels = np.asarray(image.convert(_MODES[wanted]), np.uint8)
    return pixels.reshape(*pixels.shape[:2], wanted)


def _format_shape(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{height} x {width} pixels and {channels} channels"


def _join_names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
