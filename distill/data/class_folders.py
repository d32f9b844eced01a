"""Which class a folder of images is: by the names of classes, by number, or by the sorted names.

A wrong order is invisible in the images, so what fits more than one reading is asked about.
K classes.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgekd.errors import InputFileError

# Written by tools beside what a user made; names with a dot in front are left out as well
TOOLS_FOLDERS: Final = frozenset(
    {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "#recycle", "lost+found"}
    | {"system volume information"}
)
_PARTS: Final = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}
)
# Folders in a message
_NAMED: Final = 5
_NOT_AS_TEXT: Final = (
    "folders are in the order of their numbers. torchvision's ImageFolder sorts them as text: write class_names into "
    "the TOML file beside the teacher where it learned them so"
)
_NAME_IT: Final = (
    "Call the folders by the teacher's class_names, or write class_names, in the order of its outputs, "
    "into the TOML file beside it"
)


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or of a tool and not of the set."""
    return name.startswith(".") or name.casefold() in TOOLS_FOLDERS


def number_folders(
    path: Path,
    folders: Sequence[str],
    *,
    classes: int | None,
    class_names: Sequence[str] | None = None,
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The class of each folder, and what there is to say of how it was found.

    Args:
        path: of the set, for messages.
        folders: their names.
        classes: K, that the teacher knows; None: as many as there are folders.
        class_names: of the teacher, in the order of its outputs.

    Returns:
        Classes (folders,), 0 to K - 1, no two alike; and notes.

    Raises:
        InputFileError: the names fit no class, or more than one.
    """
    numbers = all(name.isdecimal() for name in folders)
    if class_names is not None:
        found, loose = _by_name(path, folders, class_names)
        lacking = [name for name in folders if name not in found]
        if not lacking:
            return _once(path, folders, [found[name] for name in folders]), loose
        if found or not numbers:
            raise InputFileError(
                f"{path}: no class of the teacher is called {_join(lacking)}. Its class_names are {_join(class_names)}. "
                "Rename the folders, or move those of other classes elsewhere."
            )
    if numbers:
        values, notes = _by_number(path, [int(name) for name in folders], classes)
        if sorted(folders, key=int) != sorted(folders):
            notes = (*notes, _NOT_AS_TEXT)
        return _once(path, folders, values), notes
    return _by_order(path, folders, classes)


def _once(path: Path, folders: Sequence[str], values: Sequence[int]) -> npt.NDArray[np.int64]:
    for value in values:
        same = [name for name, other in zip(folders, values, strict=True) if other == value]
        if len(same) > 1:
            raise InputFileError(
                f"{path}: folders {_join(same)} are the same class, {value}. Put their images into one."
            )
    return np.asarray(values, np.int64)


def _by_name(
    path: Path, folders: Sequence[str], class_names: Sequence[str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Folders that are called as a class, and what was overlooked in the names."""
    exact = _places((name, place) for place, name in enumerate(class_names))
    folded = _places((_fold(name), place) for place, name in enumerate(class_names))
    # "tench, Tinca tinca": classes of ImageNet have several names
    parts = _places(
        (_fold(part), place)
        for place, name in enumerate(class_names)
        for part in dict.fromkeys(name.split(","))
    )
    values = _places(
        (int(name), place) for place, name in enumerate(class_names) if name.isdecimal()
    )
    found: dict[str, int] = {}
    other: list[str] = []
    for name in folders:
        places = (
            exact.get(name)
            or folded.get(_fold(name))
            or parts.get(_fold(name))
            or (values.get(int(name)) if name.isdecimal() else None)
        )
        if not places:
            continue
        if len(places) > 1:
            raise InputFileError(
                f"{path}: {name} is the name of several classes of the teacher ({', '.join(map(str, places))}). "
                "Call the folders by their numbers, from 0."
            )
        found[name] = places[0]
        if name not in exact:
            other.append(f"{name} is {class_names[places[0]]}")
    notes = f"folders are taken for the classes that their names are like: {_join(other)}"
    return found, (notes,) if other else ()


def _places(pairs: Iterator[tuple[str | int, int]]) -> Mapping[str | int, list[int]]:
    found: dict[str | int, list[int]] = {}
    for name, place in pairs:
        if place not in found.setdefault(name, []):
            found[name].append(place)
    return found


def _fold(name: str) -> str:
    """A name without case, spaces, underscores and hyphens; accents as one character, which macOS writes as two."""
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFC", name).casefold())


def _by_number(
    path: Path, numbers: Sequence[int], classes: int | None
) -> tuple[list[int], tuple[str, ...]]:
    low, high, count = min(numbers), max(numbers), len(set(numbers))
    from_one = low == 1 and high == count
    if classes is None:
        if from_one:
            classes = high
        elif low != 0 or high != count - 1:
            raise InputFileError(
                f"{path}: {count} folders are numbered {low} to {high}; expected every number from 0 on. Bring "
                "images of each class, or call the folders by the names of the classes."
            )
        else:
            classes = count
    told = _join([str(number) for number in sorted(numbers)])
    if from_one and high == classes:
        note = f"folders are counted from 1: folder 1 is class 0, and {high} is class {high - 1}"
        return [number - 1 for number in numbers], (note,)
    if from_one and 2 <= high < classes:
        raise InputFileError(
            f"{path}: folders {told} of {classes} classes: counted from 0 without class 0, or from 1? Add an empty folder "
            "0 where they are counted from 0, or rename them to begin at 0. Folders called by class_names need no numbers."
        )
    if high >= classes:
        one = " Are they counted from 1? Rename them to begin at 0." if high == classes else ""
        raise InputFileError(
            f"{path}: folders are numbered to {high}, but the teacher knows classes 0 to {classes - 1}.{one} {_NAME_IT}."
        )
    return list(numbers), (f"folders are class numbers from 0 on: {told}",) if low else ()


def _by_order(
    path: Path, folders: Sequence[str], classes: int | None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    if {name.casefold() for name in folders} <= _PARTS:
        raise InputFileError(
            f"{path}: its folders are parts of a set ({_join(folders)}), not classes. Name one of them."
        )
    text, natural = sorted(folders), sorted(folders, key=_natural)
    notes: tuple[str, ...] = ()
    if classes is not None and len(folders) != classes:
        raise InputFileError(
            f"{path}: {len(folders)} folders, the teacher knows {classes} classes, and nothing says which of them "
            f"{_join(text)} are. {_NAME_IT}, or bring one folder for each class."
        )
    if text != natural:
        orders = f"{_join(text)} (as text) or {_join(natural)} (as numbers)"
        if classes is not None:
            raise InputFileError(
                f"{path}: classes in the order of {orders}? {_NAME_IT}, or number the folders from 0."
            )
        notes = (
            f"folders have two orders, {orders}: taken as text, as torchvision's ImageFolder does",
        )
    place = {name: number for number, name in enumerate(text)}
    if classes is not None:
        shown = _join([f"{name} is {number}" for number, name in enumerate(text)])
        notes = (*notes, f"classes are the folders in the order of their names: {shown}")
    return np.asarray([place[name] for name in folders], np.int64), notes


def _natural(name: str) -> tuple[str | int, ...]:
    # Text and numbers take turns, so that like is compared with like
    return tuple(
        int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))
    )


def _join(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
