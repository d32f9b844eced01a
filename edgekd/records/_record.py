"""What makes a record: the decorator, types of fields, reading and writing as JSON."""

import json
import re
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from edgekd.errors import InputFileError
from edgekd.records.migrations import migrate

SCHEMA_VERSION: Final = 2
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")

T = TypeVar("T")

Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A path inside a bundle or student folder: relative, no hidden names, no way out of it.
RelativePath: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")
]
Share: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
Exporter: TypeAlias = Literal["torchscript", "dynamo"]
Runtime: TypeAlias = Literal["tensorrt", "onnxruntime"]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """A frozen, keyword-only pydantic dataclass that refuses unknown keys and non-finite lies."""
    config = ConfigDict(extra="forbid", strict=False, ser_json_inf_nan="strings")
    made: Any = pydantic_dataclass(frozen=True, kw_only=True, config=config)(cls)
    return made  # type: ignore[no-any-return]


def printable(text: str) -> str:
    """Text of others without what could steer a terminal, end a line, or has no form in XML."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def to_json(value: object, *, schema: str | None = None) -> str:
    """A record as JSON text with sorted keys: the same record is the same bytes.

    Args:
        value: any record.
        schema: its name; written with `schema_version` into a record that stands alone in a file.
    """
    plain = TypeAdapter(type(value)).dump_python(value, mode="json")
    if schema is not None:
        plain = {"schema": schema, "schema_version": SCHEMA_VERSION, **plain}
    return json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(kind: type[T], text: str | bytes, *, origin: str, schema: str | None = None) -> T:
    """Read a record from text that is not trusted.

    Raises:
        InputFileError: not JSON, another schema, a newer version, or fields that do not fit.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        plain: Any = json.loads(decoded, object_pairs_hook=_once_each, parse_constant=_no_number)
        if _SURROGATE.search(decoded):
            # Half a character: JSON can say it, no file can hold it. Whole pairs pass.
            json.dumps(plain, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{origin}: not JSON ({error}). Was it cut short?") from error
    if schema is not None:
        plain = _unwrap(plain, origin=origin, schema=schema)
    try:
        return TypeAdapter(kind).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        if first["type"] == "unexpected_keyword_argument":
            raise InputFileError(
                f"{origin}: {where}: a key that this edgekd does not know. Read it with the edgekd that wrote it."
            ) from error
        raise InputFileError(f"{origin}: {where}: {first['msg']}.") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of two values for one key, readers would take different ones."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"twice: {next(name for name in names if names.count(name) > 1)!r}")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _unwrap(plain: Any, *, origin: str, schema: str) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(plain, dict) or plain.get("schema") != schema:
        raise InputFileError(f"{origin}: not an edgekd {schema} file.")
    version = plain.get("schema_version")
    # JSON's true is equal to 1, and is no version.
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        raise InputFileError(
            f"{origin}: {schema} format {version!r}; this edgekd reads 1 to {SCHEMA_VERSION}. "
            "Read it with the edgekd that wrote it."
        )
    content = {key: item for key, item in plain.items() if key not in {"schema", "schema_version"}}
    return migrate(schema, content) if version == 1 else content


def json_schema(kind: type[object], *, schema: str) -> dict[str, Any]:
    """The JSON schema of a record that stands alone in a file."""
    body = TypeAdapter(kind).json_schema(mode="serialization")
    head = {"schema": {"const": schema}, "schema_version": {"const": SCHEMA_VERSION}}
    body["properties"] = head | body["properties"]
    body["required"] = sorted({*body.get("required", []), *head})
    body["$schema"] = pydantic.json_schema.GenerateJsonSchema.schema_dialect
    body["$id"] = f"edgekd-{schema}-{SCHEMA_VERSION}"
    return body
