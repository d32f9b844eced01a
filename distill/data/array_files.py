"""Arrays of images that a user brings: `.npz`, `.npy`, and idx files, under the names they are published with.

N images, H x W pixels, C channels.
"""

import re
from pathlib import Path
from typing import Any, Final, Literal

import numpy.typing as npt

from edgekd.distill.data import untrusted_arrays
from edgekd.errors import InputFileError

Part = Literal["train", "test"]
Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any] | None, tuple[str, ...]]

# Of images and labels, as edgekd, Keras and MedMNIST call them
_PLAIN: Final = (("images", "labels"), ("x", "y"), ("X", "Y"), ("X", "y"))
_NAMES: Final[dict[Part, tuple[tuple[str, str], ...]]] = {
    "test": (("x_test", "y_test"), ("X_test", "y_test"), ("test_images", "test_labels")),
    "train": (("x_train", "y_train"), ("X_train", "y_train"), ("train_images", "train_labels")),
}
# Published with a hyphen; some programs that unpack them make a dot of it
_IDX_IMAGES: Final = re.compile(r"images[-.]idx[34]-", re.IGNORECASE)
_IDX_SPLIT: Final = re.compile(r"images([-.])idx[34]-", re.IGNORECASE)


def is_idx_images(path: Path) -> bool:
    """Whether a path is called as an idx file of images is."""
    return _IDX_IMAGES.search(path.name) is not None


def find_idx(folder: Path) -> Path | None:
    """The idx file of images in a folder, or in a folder of the same name in it, as Kaggle packs them.

    Raises:
        InputFileError: there are several sets.
    """
    inside = [_unpacked(entry) for entry in sorted(folder.iterdir()) if is_idx_images(entry)]
    found = {_plain_name(path): path for path in inside if path is not None and path.is_file()}
    # Unpacked, where the same lies there packed as well
    for path in inside:
        if path is not None and path.suffix != ".gz" and path.is_file():
            found[_plain_name(path)] = path
    if len(found) > 1:
        names = ", ".join(path.name for path in found.values())
        raise InputFileError(f"{folder}: several sets ({names}); name the images file of one.")
    return next(iter(found.values()), None)


def _unpacked(entry: Path) -> Path | None:
    """A file, or the one file of its name in a folder."""
    if not entry.is_dir():
        return entry
    return next((file for file in sorted(entry.iterdir()) if is_idx_images(file)), None)


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".gz").lower().replace(".idx", "-idx")


def read_idx_pair(images: Path) -> Arrays:
    """An idx file of images (N, H, W), and the labels beside it."""
    labels = _idx_labels(images)
    if labels is None:
        wanted = _IDX_SPLIT.sub(r"labels\1idx1-", images.name)
        raise InputFileError(f"{images}: its labels, {wanted}, are not beside it.")
    return untrusted_arrays.read_idx(images), untrusted_arrays.read_idx(labels), ()


def _idx_labels(images: Path) -> Path | None:
    for separator in "-.":
        name = _IDX_SPLIT.sub(f"labels{separator}idx1-", images.name).removesuffix(".gz")
        for each in (name, f"{name}.gz"):
            # Beside it, or each in a folder of its own name
            for place in (images.with_name(each), images.parent.parent / name / each):
                if place.is_dir():
                    place /= each
                if place.is_file():
                    return place
    return None


def read_npy(path: Path) -> Arrays:
    """A `.npy` of images alone."""
    # Mapped: type and shape are looked at before anything is read
    return untrusted_arrays.read_npy(path, mapped=True, what="a set of images"), None, ()


def read_npz(path: Path, part: Part) -> Arrays:
    """Images and perhaps labels of a `.npz`; of one with two parts, that which is asked for."""
    with untrusted_arrays.open_npz(path, what="a set of images") as content:
        names = content.files
        if "about" in names:
            raise InputFileError(
                f"{path}: a condensed set of `edgekd condense`, not images as they are."
            )
        other: Part = "train" if part == "test" else "test"
        for pairs in (_PLAIN, _NAMES[part], _NAMES[other]):
            for images, labels in pairs:
                if images not in names:
                    continue
                parts = [name for name in names if name in dict(_NAMES["test"] + _NAMES["train"])]
                note = f"{images} of it are taken, not {', '.join(sorted(set(parts) - {images}))}"
                return (
                    content[images],
                    content[labels] if labels in names else None,
                    (note,) if len(parts) > 1 else (),
                )
        known = ", ".join(
            f"{images} and {labels}"
            for images, labels in (_PLAIN[0], _NAMES["test"][0], _NAMES["test"][2])
        )
        raise InputFileError(
            f"{path}: lacks images: it has {', '.join(names[:8]) or 'nothing'}. Call them {known}."
        )
