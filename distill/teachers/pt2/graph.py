"""The graph of a `.pt2` archive out of its JSON: inputs, nodes and the answer, each step checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from edgekd.distill.teachers.pt2.archive import AGAIN, damaged_file_error, unsupported_file_error
from edgekd.distill.teachers.pt2.records import (
    Archive,
    Argument,
    Constant,
    Node,
    TensorMeta,
    TensorPayload,
    Value,
)
from edgekd.distill.teachers.pt2.schema import (
    DTYPES,
    JsonNode,
    JsonProgram,
    JsonSignature,
    JsonSize,
    JsonTensorMeta,
)
from edgekd.errors import InputFileError

MAX_NODES: Final = 50_000
SCHEMA_MAJOR: Final = 8


def archive_of(
    path: Path,
    program: JsonProgram,
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
    signature: JsonSignature,
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


def _output(path: Path, signature: JsonSignature) -> str:
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


def _node(node: JsonNode) -> Node:
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


def _meta(meta: JsonTensorMeta) -> TensorMeta:
    dtype, _ = DTYPES.get(meta.dtype, ("unknown", 0))
    return TensorMeta(
        dtype, tuple(size.as_int for size in meta.sizes), tuple(map(_hint, meta.sizes))
    )


def _hint(size: JsonSize) -> int:
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
