"""The JSON of a `.pt2` archive, as far as it is needed, and how much of it there may be.

The layout is that of torch 2.9 to 2.15, schema 8.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import pydantic
from pydantic import JsonValue

from edgekd.distill.teachers.pt2.archive import (
    damaged_file_error,
    read_member,
    unsupported_file_error,
)

# Of one JSON. A network of 3,000 operators has 10 MB of it; parsed it takes some ten times as much.
MAX_JSON_BYTES: Final = 32 << 20
# Parsed, each value is an object: 28 MiB of "[]," took 2.5 GB. A graph has one in some 40 bytes.
MAX_VALUES: Final = 1 << 21

# torch._export.serde.schema.ScalarType
DTYPES: Final[Mapping[int, tuple[str, int]]] = {
    1: ("uint8", 1),
    2: ("int8", 1),
    3: ("int16", 2),
    4: ("int32", 4),
    5: ("int64", 8),
    6: ("float16", 2),
    7: ("float32", 4),
    8: ("float64", 8),
    12: ("bool", 1),
    13: ("bfloat16", 2),
}


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class JsonSize(_Record):
    as_int: int | None = None
    as_expr: dict[str, JsonValue] | None = None


class JsonTensorMeta(_Record):
    dtype: int
    sizes: list[JsonSize]
    strides: list[JsonSize]
    storage_offset: JsonSize
    layout: int


class JsonPayloadMeta(_Record):
    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: JsonTensorMeta | None


class JsonPayloads(_Record):
    config: dict[str, JsonPayloadMeta]


class JsonNamed(_Record):
    name: str
    arg: dict[str, JsonValue]


class JsonNode(_Record):
    target: str
    inputs: list[JsonNamed]
    outputs: list[dict[str, JsonValue]]
    metadata: dict[str, str] = {}


class JsonGraph(_Record):
    nodes: list[JsonNode]
    outputs: list[dict[str, JsonValue]]
    tensor_values: dict[str, JsonTensorMeta]


class JsonSignature(_Record):
    input_specs: list[dict[str, JsonValue]]
    output_specs: list[dict[str, JsonValue]]


class JsonGraphModule(_Record):
    graph: JsonGraph
    signature: JsonSignature


class JsonVersion(_Record):
    major: int
    minor: int


class JsonProgram(_Record):
    graph_module: JsonGraphModule
    schema_version: JsonVersion
    torch_version: str = "unknown"


RecordT = TypeVar("RecordT", bound=_Record)


def read_json(path: Path, archive: zipfile.ZipFile, name: str, kind: type[RecordT]) -> RecordT:
    if name not in archive.namelist():
        raise damaged_file_error(path, f"{name} is missing")
    size = archive.getinfo(name).file_size
    if size > MAX_JSON_BYTES:
        raise unsupported_file_error(path, f"{name} has {size:,} bytes; a network has a hundredth")
    text = read_member(path, archive, name)
    values = text.count(b",") + text.count(b"[") + text.count(b"{")
    if values > MAX_VALUES:
        raise unsupported_file_error(
            path, f"{name} has {values:,} values; a network has a hundredth"
        )
    try:
        return kind.model_validate_json(text)
    except (pydantic.ValidationError, RecursionError) as error:
        raise damaged_file_error(path, f"{name}: {_first(error)}") from error


def _first(error: pydantic.ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    what = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:40] for part in what["loc"][:6])
    return f"{where} {what['msg'][:160]}".strip()
