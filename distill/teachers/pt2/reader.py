"""Reading `.pt2` archives of `torch.export.save` by hand: no torch, and nothing is ever unpickled.

`torch.export.load` goes on to `torch.load(weights_only=False)` wherever a payload says so. Here the
graph is JSON, the weights are raw bytes whose claims are compared with what is there, and the pickles
that every archive carries (sample inputs) are not opened.

The layout is that of torch 2.9 to 2.15, schema 8: `models/model.json`, `data/weights/` and
`data/constants/`, each with a JSON that says which bytes are which tensor.
"""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

import pydantic
from pydantic import JsonValue

from edgekd.distill.teachers.pt2.archive import (
    AGAIN,
    MAX_NAME,
    damaged_file_error,
    model_of,
    open_archive,
    pickled_file_error,
    read_member,
    root_of,
    unsupported_file_error,
)
from edgekd.errors import InputFileError

# Of one JSON. A network of 3,000 operators has 10 MB of it; parsed it takes some ten times as much.
MAX_JSON_BYTES: Final = 32 << 20
# Parsed, each value is an object: 28 MiB of "[]," took 2.5 GB. A graph has one in some 40 bytes.
MAX_VALUES: Final = 1 << 21
MAX_NODES: Final = 50_000
MAX_DIMENSIONS: Final = 16
MAX_DEPTH: Final = 32  # of dots in a name: modules nest by them
SCHEMA_MAJOR: Final = 8
# A whole and views of its parts are both named where weights are fused; more than this is a lie.
MAX_CLAIMED: Final = 4

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
STRIDED: Final = 7


@dataclass(frozen=True, slots=True)
class Value:
    """What a node refers to by name: a tensor, or a size that is known only when the program runs."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A number of torch's serialisation that stands for something that only torch has."""

    kind: Literal["dtype", "layout", "memory_format", "device"]
    number: int


Argument: TypeAlias = "Value | Constant | bool | int | float | str | list[Argument] | None"


@dataclass(frozen=True, slots=True)
class Node:
    """One call: `torch.ops.aten.relu.default`, its arguments by name, and the names of its results."""

    target: str
    arguments: Mapping[str, Argument]
    outputs: tuple[str | tuple[str, ...] | None, ...]
    at: str  # the module that it came from, "layer1.0.bn1"; "" where the file does not say


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """The type and place of a tensor."""

    dtype: str
    sizes: tuple[int | None, ...]  # None where it is known only when the program runs
    hints: tuple[int, ...]  # the sizes it was exported with


@dataclass(frozen=True, slots=True)
class TensorPayload:
    """Where in the archive the values of one tensor are; offset and strides in elements."""

    member: str
    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    is_parameter: bool


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A validated archive. Nothing of the weights has been read yet."""

    path: Path
    nodes: tuple[Node, ...]
    input: str  # the name of the images
    output: str  # the name of the answer
    attributes: Mapping[str, str]  # name in the graph -> name in `weights` or `constants`
    literals: Mapping[str, Argument]  # inputs of the graph that are no tensors
    metas: Mapping[str, TensorMeta]
    weights: Mapping[str, TensorPayload]  # parameters and persistent buffers: the state dict
    constants: Mapping[str, TensorPayload]
    torch_version: str


# --- the JSON, as far as it is needed ------------------------------------------------------------


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class _Size(_Record):
    as_int: int | None = None
    as_expr: dict[str, JsonValue] | None = None


class _TensorMeta(_Record):
    dtype: int
    sizes: list[_Size]
    strides: list[_Size]
    storage_offset: _Size
    layout: int


class _PayloadMeta(_Record):
    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: _TensorMeta | None


class _Payloads(_Record):
    config: dict[str, _PayloadMeta]


class _Named(_Record):
    name: str
    arg: dict[str, JsonValue]


class _Node(_Record):
    target: str
    inputs: list[_Named]
    outputs: list[dict[str, JsonValue]]
    metadata: dict[str, str] = {}


class _Graph(_Record):
    nodes: list[_Node]
    outputs: list[dict[str, JsonValue]]
    tensor_values: dict[str, _TensorMeta]


class _Signature(_Record):
    input_specs: list[dict[str, JsonValue]]
    output_specs: list[dict[str, JsonValue]]


class _GraphModule(_Record):
    graph: _Graph
    signature: _Signature


class _Version(_Record):
    major: int
    minor: int


class _Program(_Record):
    graph_module: _GraphModule
    schema_version: _Version
    torch_version: str = "unknown"


# --- the archive ---------------------------------------------------------------------------------


def read_archive(path: Path) -> Archive:
    """The program in a `.pt2` file, without the values of its weights.

    Raises:
        InputFileError: not such an archive, damaged, or refused; the message says which and what to do.
    """
    with open_archive(path) as archive:
        root = root_of(path, archive)
        names = set(archive.namelist())
        model = model_of(path, root, names)
        weights = _payloads(path, archive, root, model, "weights")
        constants = _payloads(path, archive, root, model, "constants")
        program = _json(path, archive, f"{root}models/{model}.json", _Program)
        byteorder = f"{root}byteorder"
        if byteorder in names and archive.getinfo(byteorder).file_size != len("little"):
            raise InputFileError(f"{path}: written on a big-endian machine. {AGAIN}")
    _check_claims(path, [*weights.values(), *constants.values()])
    return _archive(path, program, weights, constants)


def _payloads(
    path: Path,
    archive: zipfile.ZipFile,
    root: str,
    model: str,
    kind: Literal["weights", "constants"],
) -> dict[str, TensorPayload]:
    folder = f"{root}data/{kind}/"
    config = _json(path, archive, f"{folder}{model}_{kind}_config.json", _Payloads).config
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    found = {}
    for name, payload in config.items():
        _check_name(path, name)
        if payload.use_pickle or payload.tensor_meta is None:
            raise pickled_file_error(path, name)
        member = folder + payload.path_name
        if member not in sizes:
            raise damaged_file_error(path, f"the values of {name} are missing")
        found[name] = _payload(path, name, payload, payload.tensor_meta, member, sizes[member])
    return found


def _payload(
    path: Path, name: str, payload: _PayloadMeta, meta: _TensorMeta, member: str, available: int
) -> TensorPayload:
    if meta.dtype not in DTYPES or meta.layout != STRIDED:
        raise InputFileError(
            f"{path}: {name} is not a plain dense tensor of floats or integers; export the float network."
        )
    dtype, width = DTYPES[meta.dtype]
    sizes = tuple(_find_size(path, name, size) for size in meta.sizes)
    strides = tuple(_find_size(path, name, stride) for stride in meta.strides)
    offset = _find_size(path, name, meta.storage_offset)
    if len(sizes) != len(strides) or len(sizes) > MAX_DIMENSIONS:
        raise unsupported_file_error(
            path, f"{name} has {len(sizes)} sizes and {len(strides)} strides"
        )
    if math.prod(sizes) == 0:
        raise InputFileError(f"{path}: {name} is empty, of shape {sizes}.")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    # A stride of 0 would make terabytes out of one value.
    needed = max(last + 1, math.prod(sizes)) * width
    if needed > available or available % width:
        raise unsupported_file_error(
            path,
            f"{name} claims {needed:,} bytes, of shape {sizes[:8]}, where {available:,} are there",
        )
    return TensorPayload(member, dtype, sizes, strides, offset, payload.is_param)


def _find_size(path: Path, name: str, size: _Size) -> int:
    if size.as_int is None or size.as_int < 0:
        raise unsupported_file_error(path, f"{name} is of no fixed shape")
    return size.as_int


def _check_name(path: Path, name: str) -> None:
    parts = name.split(".")
    if len(name) > MAX_NAME or len(parts) > MAX_DEPTH or not all(parts):
        raise unsupported_file_error(path, f"a tensor is called {name[:80]!r}")


def _check_claims(path: Path, payloads: list[TensorPayload]) -> None:
    """Names may share bytes, but loading makes a tensor of each that differs."""
    distinct = {(p.member, p.dtype, p.sizes, p.strides, p.offset) for p in payloads}
    width = dict(DTYPES.values())
    claimed = sum(math.prod(sizes) * width[dtype] for _, dtype, sizes, _, _ in distinct)
    size = path.stat().st_size
    if claimed > MAX_CLAIMED * size:
        raise unsupported_file_error(
            path, f"its tensors claim {claimed:,} bytes of a file of {size:,}"
        )


# --- the graph -----------------------------------------------------------------------------------


def _archive(
    path: Path,
    program: _Program,
    weights: dict[str, TensorPayload],
    constants: dict[str, TensorPayload],
) -> Archive:
    version = program.schema_version
    if version.major != SCHEMA_MAJOR:
        raise InputFileError(
            f"{path}: written in schema {version.major}.{version.minor} by torch {program.torch_version[:40]}; "
            f"edgekd reads schema {SCHEMA_MAJOR} (torch 2.9 to 2.15). {AGAIN}"
        )
    graph = program.graph_module.graph
    if len(graph.nodes) > MAX_NODES:
        raise unsupported_file_error(path, f"its graph has {len(graph.nodes):,} nodes")
    signature = program.graph_module.signature
    try:
        images, attributes, literals = _inputs(path, signature, weights, constants)
        return Archive(
            path=path,
            nodes=tuple(_node(node) for node in graph.nodes),
            input=images,
            output=_output(path, signature),
            attributes=attributes,
            literals=literals,
            metas={name: _meta(meta) for name, meta in graph.tensor_values.items()},
            weights=weights,
            constants=constants,
            torch_version=program.torch_version[:40],
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged_file_error(
            path, f"its graph cannot be read: {type(error).__name__} {error}"
        ) from error


def _inputs(
    path: Path,
    signature: _Signature,
    weights: Mapping[str, TensorPayload],
    constants: Mapping[str, TensorPayload],
) -> tuple[str, dict[str, str], dict[str, Argument]]:
    images: list[str] = []
    attributes: dict[str, str] = {}
    literals: dict[str, Argument] = {}
    keys = {
        "parameter": "parameter_name",
        "buffer": "buffer_name",
        "tensor_constant": "tensor_constant_name",
    }
    for spec in signature.input_specs:
        kind, body = _only(spec)
        if kind == "user_input":
            value = _argument(_mapping(body["arg"]))
            if not isinstance(value, Value):
                raise InputFileError(f"{path}: takes inputs that are no images. {AGAIN}")
            images.append(value.name)
        elif kind in keys:
            name = _text(body[keys[kind]])
            if name not in weights and name not in constants:
                raise damaged_file_error(path, f"the values of {name[:80]} are missing")
            attributes[_text(_mapping(body["arg"])["name"])] = name
        elif kind == "constant_input":
            literals[_text(body["name"])] = _argument(_mapping(body["value"]))
        else:
            raise InputFileError(
                f"{path}: takes an input of the kind {kind[:40]!r}, which can run code. {AGAIN}"
            )
    if len(images) != 1:
        raise InputFileError(
            f"{path}: takes {len(images)} inputs; a classifier takes one batch of images. {AGAIN}"
        )
    return images[0], attributes, literals


def _output(path: Path, signature: _Signature) -> str:
    found = []
    for spec in signature.output_specs:
        kind, body = _only(spec)
        # What a program in training mode would write to its own buffers is no answer.
        if kind == "user_output":
            found.append(_argument(_mapping(body["arg"])))
    if len(found) != 1 or not isinstance(found[0], Value):
        raise InputFileError(
            f"{path}: answers with {len(found)} outputs; a classifier answers with one, (N, classes). "
            "Export a wrapper whose forward returns the logits alone."
        )
    return found[0].name


def _node(node: _Node) -> Node:
    return Node(
        target=node.target,
        arguments={named.name: _argument(named.arg) for named in node.inputs},
        outputs=tuple(_result(output) for output in node.outputs),
        at=_module_of(node.metadata.get("nn_module_stack", "")),
    )


def _module_of(stack: str) -> str:
    """The innermost name of "L__self__,,Net;L__self__bn1,bn1,torch.nn...BatchNorm2d"."""
    fields = stack.rpartition(";")[2].split(",")
    return fields[1] if len(fields) >= 3 else ""


def _result(output: Mapping[str, JsonValue]) -> str | tuple[str, ...] | None:
    value = _argument(output)
    if isinstance(value, Value):
        return value.name
    if isinstance(value, list):
        return tuple(item.name if isinstance(item, Value) else "" for item in value)
    return None


def _argument(argument: Mapping[str, JsonValue]) -> Argument:
    """One argument out of its tagged form, `{"as_tensor": {"name": "x"}}`."""
    ((kind, value),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor" | "as_sym_int" | "as_sym_float" | "as_sym_bool" | "as_optional_tensor":
            return _reference(_mapping(value))
        case "as_int" | "as_bool" | "as_string":
            return _scalar(value)
        case "as_float":
            return _number(value)
        case "as_ints" | "as_bools" | "as_strings":
            return [_scalar(item) for item in _list(value)]
        case "as_floats":
            return [_number(item) for item in _list(value)]
        case "as_tensors" | "as_sym_ints" | "as_optional_tensors":
            return [_reference(_mapping(item)) for item in _list(value)]
        case "as_scalar_type":
            return Constant("dtype", _integer(value))
        case "as_memory_format":
            return Constant("memory_format", _integer(value))
        case "as_layout":
            return Constant("layout", _integer(value))
        case "as_device":
            return Constant("device", 0)
        case _:
            raise ValueError(f"an argument of the kind {kind[:40]!r}")


def _reference(value: Mapping[str, JsonValue]) -> Argument:
    if "name" in value:
        return Value(_text(value["name"]))
    ((kind, inner),) = value.items()
    match kind:
        case "as_name":
            return Value(_text(inner))
        case "as_tensor":
            return Value(_text(_mapping(inner)["name"]))
        case "as_none":
            return None
        case "as_int" | "as_bool":
            return _scalar(inner)
        case "as_float":
            return _number(inner)
        case _:
            raise ValueError(f"a reference of the kind {kind[:40]!r}")


def _meta(meta: _TensorMeta) -> TensorMeta:
    dtype, _ = DTYPES.get(meta.dtype, ("unknown", 0))
    return TensorMeta(
        dtype, tuple(size.as_int for size in meta.sizes), tuple(map(_hint, meta.sizes))
    )


def _hint(size: _Size) -> int:
    if size.as_int is not None:
        return size.as_int
    hint = (size.as_expr or {}).get("hint")
    value = hint.get("as_int") if isinstance(hint, dict) else None
    return value if isinstance(value, int) else 0


# --- checked steps through JSON ------------------------------------------------------------------


def _only(spec: Mapping[str, JsonValue]) -> tuple[str, Mapping[str, JsonValue]]:
    ((kind, body),) = spec.items()
    return kind, _mapping(body)


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, found {type(value).__name__}")
    return value


def _list(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {type(value).__name__}")
    return value


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a name, found {type(value).__name__}")
    return value


def _integer(value: JsonValue) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected a number, found {type(value).__name__}")
    return value


def _scalar(value: JsonValue) -> bool | int | float | str:
    if isinstance(value, bool | float | str):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    raise TypeError(f"expected a number, found {str(value)[:40]}")


def _number(value: JsonValue) -> float:
    # JSON has no infinity: torch writes the word.
    if isinstance(value, str) and value in ("Infinity", "-Infinity", "NaN"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {type(value).__name__}")
    return float(value)


RecordT = TypeVar("RecordT", bound=_Record)


def _json(path: Path, archive: zipfile.ZipFile, name: str, kind: type[RecordT]) -> RecordT:
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
