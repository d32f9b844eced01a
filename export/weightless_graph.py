"""A graph without the values of its weights: names and shapes tell much, and copying weights costs what exporting does."""

from math import prod
from typing import Any, Final

import onnx
from onnx import helper, shape_inference

# Numbers; what shapes are computed from is smaller
_SMALL: Final = 1024


def outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initialisers are inputs of their type and shape."""
    bare = onnx.ModelProto()
    _fill(bare, model, leave="graph")
    _fill(bare.graph, model.graph, leave="initializer")
    inputs = {entry.name for entry in model.graph.input}
    for tensor in model.graph.initializer:
        if not is_large(tensor):
            bare.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            bare.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return bare


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether an outline leaves its values out."""
    return prod(tensor.dims) > _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL


def is_whole(tensor: onnx.TensorProto) -> bool:
    """Whether there are as many bytes as type and shape ask for; False also where they lie otherwise."""
    try:
        width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        return False
    return bool(min(tensor.dims) > 0 and len(tensor.raw_data) == prod(tensor.dims) * width)


def has_subgraphs(model: onnx.ModelProto) -> bool:
    """Whether a node holds a graph of its own, which takes tensors of this one without naming them as inputs."""
    kinds = {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}
    return any(entry.type in kinds for node in model.graph.node for entry in node.attribute)


def infer_shapes(model: onnx.ModelProto) -> onnx.GraphProto:
    """The outline with the types and shapes of all tensors that follow from it."""
    return shape_inference.infer_shapes(outline(model)).graph


def _fill(target: Any, source: Any, *, leave: str) -> None:  # noqa: ANN401 - any message
    for kind, value in source.ListFields():
        if kind.name == leave:
            continue
        if hasattr(value, "extend"):
            getattr(target, kind.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, kind.name).CopyFrom(value)
        else:
            setattr(target, kind.name, value)
