"""ONNX models as teachers: what is accepted, looked at before anything is made of it."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from edgekd.distill.teachers.onnx.external_data import MAX_BYTES, item_bytes, read_external
from edgekd.distill.teachers.onnx.rewriting import constants_to_initializers, opset_of
from edgekd.errors import InputFileError

MAX_NODES: Final = 50_000
# Of any tensor: 1 GiB of float32
MAX_ELEMENTS: Final = 1 << 28
OPSETS: Final = (9, 23)

CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})
QUANTISED: Final = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)
DETECTION: Final = frozenset({"NonMaxSuppression", "RoiAlign"})
TYPES: Final = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.BOOL,
    }
)


def read_model(path: Path) -> ModelProto:
    """The model, checked, its external data read in, constants made initialisers.

    Raises:
        InputFileError: missing, damaged, refused, or no float classifier; the message says which.
    """
    if not path.is_file():
        what = "a folder, not a model" if path.is_dir() else "no such file"
        raise InputFileError(f"{path}: {what}.")
    if path.stat().st_size > MAX_BYTES:
        raise InputFileError(
            f"{path}: over 2 GiB, which no ONNX file is; large weights lie beside it."
        )
    try:
        # Not `onnx.load`: it would open whatever files the model names.
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's decoder fails as it may on any other bytes
        raise _damaged_file_error(path, error) from error
    if not model.graph.node or not model.opset_import:
        raise InputFileError(
            f"{path}: not an ONNX model, or one without operators. Was it cut short?"
        )
    _check_operators(path, model)
    tensors = list(_tensors(model.graph))
    _check_sizes(path, tensors)
    read_external(path, tensors)
    try:
        onnx.checker.check_model(model)
        constants_to_initializers(model.graph)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # the checker's own error, and those of C++ underneath
        raise _damaged_file_error(path, error) from error
    _check_shapes(path, inferred.graph)
    return inferred


def _check_operators(path: Path, model: ModelProto) -> None:
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise InputFileError(f"{path}: refused. It has {len(graph.node):,} nodes.")
    names = {node.op_type for node in graph.node}
    quantised = sorted(name for name in names if name in QUANTISED or name.startswith("QLinear"))
    if quantised:
        raise InputFileError(
            f"{path}: quantised (it uses {', '.join(quantised)}): no gradient passes it. Give the float model "
            "that it was made from."
        )
    foreign = sorted({node.domain for node in graph.node} - {"", "ai.onnx"})
    if foreign or model.functions:
        what = ", ".join(repr(domain[:60]) for domain in foreign[:5]) or "functions of its own"
        raise InputFileError(
            f"{path}: uses operators outside standard ONNX ({what}), which edgekd does not run. Export the plain "
            "float network, before any optimiser of a runtime."
        )
    for kind, what in ((CONTROL_FLOW, "control flow"), (DETECTION, "operators of detectors")):
        if names & kind:
            raise InputFileError(
                f"{path}: uses {what} ({', '.join(sorted(names & kind))}); edgekd distils image classifiers."
            )
    nested = {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}
    if any(attribute.type in nested for node in graph.node for attribute in node.attribute):
        raise InputFileError(f"{path}: refused. Its operators hold graphs of their own.")
    if graph.sparse_initializer:
        raise InputFileError(f"{path}: has sparse weights; export them dense.")
    version = opset_of(model)
    if not OPSETS[0] <= version <= OPSETS[1]:
        raise InputFileError(
            f"{path}: opset {version}; edgekd takes {OPSETS[0]} to {OPSETS[1]}. Export with opset_version=18."
        )


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (
                (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors
            )


def _check_sizes(path: Path, tensors: list[TensorProto]) -> None:
    """What each tensor claims against what is there, before anything is made of it."""
    for tensor in tensors:
        name = tensor.name[:80] or "a constant"
        if tensor.data_type not in TYPES or tensor.HasField("segment"):
            raise InputFileError(
                f"{path}: {name} is not a plain tensor of floats or integers; give the float model."
            )
        if any(size < 0 for size in tensor.dims) or len(tensor.dims) > 16:
            raise InputFileError(f"{path}: refused. {name} is of shape {list(tensor.dims)[:8]}.")
        if tensor.data_location == TensorProto.EXTERNAL:
            continue
        count = math.prod(tensor.dims)
        typed = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
        there = (
            len(tensor.raw_data) // item_bytes(tensor)
            if tensor.HasField("raw_data")
            else max(map(len, typed))
        )
        if there != count:
            raise InputFileError(
                f"{path}: {name} claims {count:,} values, of shape {list(tensor.dims)[:8]}, where {there:,} are "
                "there. Was the file cut short?"
            )


def _check_shapes(path: Path, graph: GraphProto) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if math.prod(sizes) > MAX_ELEMENTS:
            raise InputFileError(
                f"{path}: refused. {value.name[:80]} is of shape {sizes[:8]}: {math.prod(sizes):,} values."
            )


def _damaged_file_error(path: Path, error: Exception) -> InputFileError:
    lines = str(error).splitlines()
    reason = lines[0][:200] if lines else type(error).__name__
    return InputFileError(
        f"{path}: cannot be read as an ONNX model ({reason}). Was it cut short, or is it something else?"
    )
