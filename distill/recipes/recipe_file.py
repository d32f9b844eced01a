"""Recipes that users write, as TOML. Nothing in such a file is trusted."""

import difflib
import json
import math
import os
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from edgekd.distill.kd_losses import LOSSES
from edgekd.distill.recipes.config import (
    KINDS_OF_MEMORY,
    KINDS_OF_SOURCE,
    Adversary,
    Learning,
    LossWeights,
    Provenance,
    Recipe,
)
from edgekd.errors import InputFileError
from edgekd.records import printable
from edgekd.toml_text import parse_toml

# Of the form of the file; the settings in it are a recipe's.
FORMAT: Final = 1
_VERSION: Final = "schema_version"
_LARGEST: Final = 1 << 20  # bytes
_ADVICE: Final = "`edgekd recipes show NAME --toml` prints one to start from."

# The record of each table whose kind does not decide it, and where the kind does, the records by kind.
_TABLES: Final[dict[tuple[str, ...], type[Any]]] = {
    (): Recipe,
    ("about",): Provenance,
    ("losses",): LossWeights,
    ("adversary",): Adversary,
    ("learning",): Learning,
}
_KINDS: Final[dict[tuple[str, ...], dict[str, type[Any]]]] = {
    ("source",): KINDS_OF_SOURCE,
    ("memory",): KINDS_OF_MEMORY,
    ("learning", "loss"): LOSSES,
}


def is_recipe_file(name: str) -> bool:
    """Whether what a user gave as a recipe is a file, and not the name of one that is shipped."""
    return name.endswith(".toml") or "/" in name or os.sep in name


def identify_recipe(name: str) -> str | dict[str, Any]:
    """What a run is told from others by: the name, or all that the file says now."""
    return asdict(read_recipe(Path(name))) if is_recipe_file(name) else name


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        InputFileError: it cannot be read, or is no recipe.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        # A name with a NUL in it is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise InputFileError(f"{printable(str(path))}: {reason}. {_ADVICE}") from error
    if len(data) > _LARGEST:
        raise InputFileError(f"{path}: larger than {_LARGEST:,} bytes, which no recipe is.")
    return parse_recipe(data, origin=str(path))


def parse_recipe(data: bytes, *, origin: str) -> Recipe:
    """The recipe in TOML.

    Args:
        data: of the file.
        origin: for messages.

    Raises:
        InputFileError: not TOML, or not a recipe.
    """
    try:
        plain = parse_toml(data.decode("utf-8"))
        _require_plain(plain, ())
        version = plain.pop(_VERSION, FORMAT)
        text = json.dumps(plain)
    except UnicodeDecodeError as error:
        raise InputFileError(f"{origin}: not UTF-8 at byte {error.start}.") from error
    except RecursionError as error:
        raise InputFileError(f"{origin}: nested more deeply than any recipe is.") from error
    except ValueError as error:  # also of a number with too many digits
        raise InputFileError(f"{origin}: {printable(str(error))}. {_ADVICE}") from error
    if type(version) is not int or version != FORMAT:
        raise InputFileError(
            f"{origin}: {_VERSION} {version!r}; this edgekd reads {FORMAT}. Read it with the edgekd that wrote it."
        )
    try:
        # As JSON, where strict types allow a table to be a record: 1 stays no switch, and "1" no number.
        return TypeAdapter(Recipe).validate_json(text, strict=True)
    except ValidationError as error:
        problems = "; ".join(
            _describe(each["loc"], each["type"], each["msg"], plain)
            for each in error.errors(include_url=False)[:5]
        )
        raise InputFileError(f"{origin}: {printable(problems)}. {_ADVICE}") from error


def format_toml(recipe: Recipe) -> str:
    """A recipe as a file to start from; a key that is left out is not used."""
    return "\n".join([f"{_VERSION} = {FORMAT}", *_lines(recipe, "")]) + "\n"


def _lines(part: Any, name: str) -> list[str]:  # noqa: ANN401
    """The keys of a record, then the tables in it."""
    own, nested = [], []
    for each in fields(part):
        value = getattr(part, each.name)
        if is_dataclass(value):
            nested += _lines(value, f"{name}.{each.name}" if name else each.name)
        elif value or value != each.default:
            own.append(f"{each.name} = {_value(value)}")
    return [*(["", f"[{name}]"] if name and own else []), *own, *nested]


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's string is TOML's basic string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _require_plain(value: object, path: tuple[str, ...]) -> None:
    """Refuse what TOML has and no setting of a recipe is: dates, lists, numbers without end."""
    if isinstance(value, dict):
        for key, each in value.items():
            _require_plain(each, (*path, key))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{'.'.join(path)}: {value} is no number that can be computed with")
    elif isinstance(value, int) and abs(value) >= 1 << 53:
        raise ValueError(f"{'.'.join(path)}: a number of more than 53 bits")
    elif not isinstance(value, bool | int | float | str):
        raise ValueError(f"{'.'.join(path)}: a {type(value).__name__}, which no setting is")


def _describe(location: tuple[int | str, ...], kind: str, message: str, plain: Any) -> str:  # noqa: ANN401
    path = _path(location, plain)
    where = ".".join(path) or "top level"
    if kind == "unexpected_keyword_argument":
        known = _known_keys(path[:-1], plain)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"{where}: unknown key.{hint} Known: {', '.join(known)}"
    return f"{where}: {message.removeprefix('Value error, ')}"


def _path(location: tuple[int | str, ...], plain: Any) -> tuple[str, ...]:  # noqa: ANN401
    """The keys of the file: pydantic puts the kind of a union between them."""
    path: list[str] = []
    for part in location:
        if isinstance(plain, dict) and part == plain.get("kind") and tuple(path) in _KINDS:
            continue
        path.append(str(part))
        plain = plain.get(part) if isinstance(plain, dict) else None
    return tuple(path)


def _known_keys(path: tuple[str, ...], plain: Any) -> list[str]:  # noqa: ANN401
    for part in path:
        plain = plain[part]
    record = _TABLES[path] if path in _TABLES else _KINDS[path][plain["kind"]]
    return [each.name for each in fields(record)]
