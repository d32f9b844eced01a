"""What is said of a teacher: on the command line, in a TOML file beside it, inside the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pydantic

from edgekd.distill.teachers.checkpoints.file_contents import SUFFIXES
from edgekd.errors import InputFileError
from edgekd.files import read_text
from edgekd.records import record
from edgekd.toml_text import parse_toml

METADATA_VERSION: Final = 1


@record
class TeacherOptions:
    """What a user can say of a teacher; what a file says of itself has the same keys."""

    # NAME, timm:NAME, torchvision:NAME or path/to/file.py:factory
    arch: str | None = None
    # Channels, height, width
    input: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    # Whether a mirrored image keeps its class
    flip: bool | None = None
    # Which of several sets of weights in the file
    weights: str | None = None
    # Whether the file may run code; only ever from the user
    trust_pickle: bool | None = None


@record
class Metadata:
    """The options of all sources, and where they came from."""

    options: TeacherOptions
    # For people: "options and teacher.toml"
    origin: str
    arch_from: (
        str | None
    )  # "options" or the path of the TOML; what a file says of itself runs no code


def merge_metadata(
    path: Path,
    inside: Mapping[str, Any],
    options: TeacherOptions,
    *,
    beside: tuple[str, TeacherOptions] | None = None,
) -> Metadata:
    """Merge the sources: options win over the TOML beside the file, that over the file, and that over what else is beside it.

    Args:
        path: of the teacher file; `<stem>.toml` or `teacher.toml` beside it is read.
        inside: the `edgekd` entry of the file; not trusted.
        options: of the command line.
        beside: what a configuration of another tool says, and its name.

    Raises:
        InputFileError: a source is not what it should be.
    """
    sources: list[tuple[str, str, TeacherOptions]] = [("options", "options", options)]
    written = toml_beside(path)
    if written is not None:
        sources.append((written.name, str(written), _from_toml(written)))
    if inside:
        origin = f"the edgekd entry of {path.name}"
        found = _validate(inside, origin=origin)
        if found.arch is not None and ".py" in found.arch:
            raise InputFileError(
                f"{path}: refused. Its own metadata asks to run {found.arch!r}; only --arch or a TOML file may."
            )
        sources.append((origin, "inside", found))
    if beside is not None:
        sources.append((beside[0], "inside", beside[1]))
    merged: dict[str, Any] = {}
    used: list[str] = []
    arch_from = None
    for name, where, source in sources:
        new = {
            key: getattr(source, key)
            for key in source.__dataclass_fields__
            if key not in merged and getattr(source, key) is not None
        }
        if where != "options" and new.pop("trust_pickle", None) is not None:
            raise InputFileError(f"{name}: trust_pickle is for the command line alone.")
        if "arch" in new:
            arch_from = where
        if new.keys() - {"trust_pickle", "weights"}:
            used.append(name)
        merged |= new
    return Metadata(
        options=TeacherOptions(**merged), origin=" and ".join(used), arch_from=arch_from
    )


def toml_beside(path: Path) -> Path | None:
    """The TOML file that goes with a teacher file, if there is one.

    `teacher.toml` is of any file in its folder, but not where there is a `teacher.pt` of its own.
    """
    own = toml_path(path)
    if own.is_file():
        return own
    shared = path.with_name("teacher.toml")
    taken = any(shared.with_suffix(suffix).exists() for suffix in SUFFIXES)
    return shared if shared.is_file() and not taken else None


def toml_path(path: Path) -> Path:
    """Where the TOML file of a teacher file belongs."""
    return path.with_suffix(".toml")


def _from_toml(path: Path) -> TeacherOptions:
    try:
        content = parse_toml(read_text(path))
    except ValueError as error:
        raise InputFileError(f"{path}: not valid TOML ({error}).") from error
    return _validate(content, origin=str(path))


def _validate(content: Mapping[str, Any], *, origin: str) -> TeacherOptions:
    plain = dict(content)
    version = plain.pop("schema_version", METADATA_VERSION)
    if version != METADATA_VERSION:
        raise InputFileError(
            f"{origin}: schema_version {version!r}; this edgekd reads {METADATA_VERSION}."
        )
    try:
        return pydantic.TypeAdapter(TeacherOptions).validate_python(plain)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(set(TeacherOptions.__dataclass_fields__) - {"trust_pickle"})
        raise InputFileError(f"{origin}: {where}: {first['msg']}. Known keys: {known}.") from error
