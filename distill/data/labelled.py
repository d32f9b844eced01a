"""Labelled images that a user brings for evaluation: `.npz`, idx files, or a folder of images.

They are reported on and never select anything. N images, H x W pixels, C channels.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgekd.distill.data.untrusted_arrays import open_npz, read_idx
from edgekd.distill.data.untrusted_pictures import open_picture
from edgekd.errors import InputFileError
from edgekd.records import InputSpec

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm")


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    name: str
    images: npt.NDArray[np.uint8]  # (N, H, W, C)
    labels: npt.NDArray[np.int64]  # (N,)

    @property
    def digest(self) -> str:
        digest = sha256(np.ascontiguousarray(self.images).tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def normalise(self, spec: InputSpec) -> npt.NDArray[np.float32]:  # (N, C, H, W)
        return normalise(self.images, spec)


def normalise(images: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.float32]:
    """uint8 (N, H, W, C) as a network takes them: float32 (N, C, H, W)."""
    mean = np.asarray(spec.mean, np.float32)
    std = np.asarray(spec.std, np.float32)
    scaled = (images.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def load_labelled(path: Path, *, spec: InputSpec, classes: int) -> LabelledImages:
    """Read an evaluation set and check that it fits the teacher.

    Args:
        path: a `.npz` with `images` and `labels`; an idx file of images with its labels beside it;
            a folder of idx files; or a folder with one folder of images for each class, whose
            sorted names are the class order.
        spec: of the teacher's input.
        classes: that the teacher knows.

    Raises:
        InputFileError: unreadable, of another shape or type, or with labels the teacher lacks.
    """
    images, labels = _read(path, spec)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise InputFileError(
            f"{path}: images are {images.dtype} of shape {images.shape}; expected uint8 (N, H, W, C)."
        )
    shape = (spec.height, spec.width, spec.channels)
    if images.shape[1:] != shape:
        raise InputFileError(
            f"{path}: images are {images.shape[1:]} (height, width, channels), the teacher takes {shape}."
        )
    if labels.ndim != 1 or len(labels) != len(images) or labels.dtype.kind not in "iu":
        raise InputFileError(
            f"{path}: {len(images)} images need as many whole-number labels, not {labels.dtype} of shape {labels.shape}."
        )
    if not len(images):
        raise InputFileError(f"{path}: no images.")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputFileError(
            f"{path}: labels run from {labels.min()} to {labels.max()}, but the teacher knows classes "
            f"0 to {classes - 1}."
        )
    return LabelledImages(name=path.name, images=images, labels=labels.astype(np.int64))


def _read(path: Path, spec: InputSpec) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    if not path.exists():
        raise InputFileError(f"{path}: no such file or folder.")
    if path.is_dir():
        found = sorted(path.glob("*-images-idx3-ubyte*"))
        if len(found) == 1:
            return read_idx_pair(found[0])
        if found:
            names = ", ".join(entry.name for entry in found)
            raise InputFileError(f"{path}: several sets ({names}); name the images file of one.")
        return _read_folder(path, spec)
    if "-images-idx" in path.name:
        return read_idx_pair(path)
    if path.suffix == ".npz":
        with open_npz(path, what="an evaluation set") as content:
            missing = {"images", "labels"} - set(content.files)
            if missing:
                raise InputFileError(f"{path}: lacks {' and '.join(sorted(missing))}.")
            return content["images"], content["labels"]
    raise InputFileError(f"{path}: expected a .npz, idx files, or a folder of images by class.")


def read_idx_pair(images: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """An idx file of images (N, H, W), and the labels (N,) beside it."""
    labels = images.with_name(images.name.replace("images-idx3", "labels-idx1"))
    if not labels.exists():
        raise InputFileError(f"{images}: its labels, {labels.name}, are not beside it.")
    return read_idx(images), read_idx(labels)


def _read_folder(
    path: Path, spec: InputSpec
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    mode = {1: "L", 3: "RGB"}.get(spec.channels)
    if mode is None:
        raise InputFileError(
            f"{path}: image files have 1 or 3 channels, the teacher takes {spec.channels}; use .npz."
        )
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir())
    images, labels = [], []
    for number, folder in enumerate(classes):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            pixels = np.asarray(open_picture(file, suffixes=IMAGE_SUFFIXES).image.convert(mode))
            if pixels.shape[:2] != (spec.height, spec.width):
                raise InputFileError(
                    f"{file}: {pixels.shape[0]} x {pixels.shape[1]} pixels, the teacher takes "
                    f"{spec.height} x {spec.width}; resize the set first."
                )
            images.append(pixels.reshape(spec.height, spec.width, spec.channels))
            labels.append(number)
    if not images:
        raise InputFileError(f"{path}: no folders of images by class in it.")
    return np.stack(images), np.asarray(labels, np.int64)
