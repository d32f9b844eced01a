"""What is said of a file in records."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import onnx

from edgekd.export import compatibility, tensorrt_rules
from edgekd.export.external_data import require_data
from edgekd.files import digest_of
from edgekd.records import (
    Calibration,
    OnnxModel,
    Parity,
    Precision,
    Target,
    TensorSpec,
)


def describe_model(
    path: Path,
    precision: Precision,
    *,
    target: Target,
    made_from: str,
    found: Parity,
    model: onnx.ModelProto | None = None,
    data: bytes | memoryview | None = None,
    calibration: Calibration | None = None,
    fp32_nodes: tuple[str, ...] = (),
) -> OnnxModel:
    """The record of a file that passed its checks; `model` and `data` are what it holds, where that is at hand."""
    if model is None:
        model = onnx.load(path)
    return OnnxModel(
        path=path.name,
        digest=digest_of(path) if data is None else hashlib.sha256(data).hexdigest(),
        opset=tensorrt_rules.opset_of(model),
        ir_version=model.ir_version,
        precision=precision,
        exporter=target.software.exporter,
        inputs=tensors_of(model.graph.input),
        outputs=tensors_of(model.graph.output),
        size_bytes=path.stat().st_size,
        made_from=made_from,
        parity=found,
        legal_for=(target.id,),
        calibration=calibration,
        fp32_nodes=fp32_nodes,
    )


def tensors_of(entries: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of a graph as records."""
    return tuple(map(_tensor, entries))


def _tensor(entry: onnx.ValueInfoProto) -> TensorSpec:
    kind = entry.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim)
    return TensorSpec(name=entry.name, dtype=dtype, shape=shape)


def inputs_of(path: Path) -> tuple[TensorSpec, ...]:
    """What a file takes.

    Raises:
        InputFileError: not an ONNX model.
    """
    return tensors_of(compatibility.read_graph(path).graph.input)


def precision_of(path: Path) -> Precision:
    """INT8 when there are Q/DQ pairs, FP16 when the weights are, FP32 otherwise.

    Raises:
        InputFileError: not an ONNX model, or its weights are not there.
    """
    model = compatibility.read_graph(path)
    require_data(path)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    half = onnx.TensorProto.FLOAT16
    return "fp16" if any(entry.data_type == half for entry in model.graph.initializer) else "fp32"
