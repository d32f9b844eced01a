"""ONNX classifiers in other forms than edgekd's, rewritten to it: float32 images (N, C, H, W).

Keras and tf2onnx write (N, H, W, C); mobile models take float16, or pixels as bytes. And models that are random, or
that take statistics from the batch, which no rewriting helps.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgekd.errors import InputFileError

BYTES: Final = "takes pixels of 0..255: mean and standard deviation are inside"
_NHWC: Final = "takes (N, H, W, C), as Keras and tf2onnx write it: images are turned to it"
_HALF: Final = "float16: computed in float32"
_TO_NCHW: Final = [0, 3, 1, 2]
_TO_NHWC: Final = [0, 2, 3, 1]
_CHANNELS: Final = (1, 3)
# What a graph may do to images before it turns them
_ELEMENTWISE: Final = frozenset({"Cast", "Identity", "Sub", "Add", "Mul", "Div", "Neg", "Clip"})
_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial"}
)
_BEFORE: Final = "edgekd_"


def adapt(path: Path, model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """A model that takes float32 (N, C, H, W), and what was done for it.

    Args:
        path: for messages.
        model: with shapes inferred, constants as initialisers.

    Raises:
        InputFileError: it is random by itself, or takes its statistics from the batch.
    """
    _refuse_changing(path, model)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        # Said by whoever looks at inputs
        return model, ()
    notes = []
    if TensorProto.FLOAT16 in {_kind(value) for value in (*inputs, *graph.output)}:
        _to_float32(model)
        notes.append(_HALF)
    if _kind(inputs[0]) == TensorProto.UINT8:
        inputs[0].type.tensor_type.elem_type = TensorProto.FLOAT
        scale = numpy_helper.from_array(np.array(255, np.float32), f"{_BEFORE}255")
        graph.initializer.append(scale)
        _put_before(graph, inputs[0], "Mul", [scale.name])
        notes.append(BYTES)
    if _is_nhwc(graph, inputs[0]):
        _put_before(graph, inputs[0], "Transpose", [], perm=_TO_NHWC)
        dims = list(inputs[0].type.tensor_type.shape.dim)
        turned = [onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in dims]
        del inputs[0].type.tensor_type.shape.dim[:]
        inputs[0].type.tensor_type.shape.dim.extend(turned[place] for place in _TO_NCHW)
        notes.append(_NHWC)
    if not notes:
        return model, ()
    del graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True), tuple(notes)


def _kind(value: ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _put_before(
    graph: onnx.GraphProto,
    images: ValueInfoProto,
    kind: str,
    extra: list[str],
    **attributes: Any,  # noqa: ANN401
) -> None:
    """Add an operator between an input and all that uses it; the input gets a name of its own."""
    old = images.name
    images.name = f"{_BEFORE}{kind}_{old}"
    nodes = [
        helper.make_node(kind, [images.name, *extra], [old], name=f"{_BEFORE}{kind}", **attributes),
        *(NodeProto.FromString(node.SerializeToString()) for node in graph.node),
    ]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_nhwc(graph: onnx.GraphProto, images: ValueInfoProto) -> bool:
    """Whether channels come last: by the sizes, and where they fit both, by what the graph does first."""
    sizes = [dim.dim_value for dim in images.type.tensor_type.shape.dim]
    if len(sizes) != 4:
        return False
    first, last = sizes[1] in _CHANNELS, sizes[3] in _CHANNELS
    if first != last:
        return last
    return _turns_first(graph, images.name)


def _turns_first(graph: onnx.GraphProto, name: str) -> bool:
    """Whether the first operator that sees a picture as one turns (N, H, W, C) to (N, C, H, W)."""
    constants = {tensor.name for tensor in graph.initializer}
    for _ in graph.node:
        users = [node for node in graph.node if name in node.input]
        if len(users) != 1:
            return False
        node = users[0]
        if node.op_type == "Transpose":
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
            return perm == _TO_NCHW
        if node.op_type not in _ELEMENTWISE or not set(node.input) <= {name, "", *constants}:
            return False
        name = node.output[0]
    return False


def _to_float32(model: ModelProto) -> None:
    graph = model.graph
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    for value in (*graph.input, *graph.output):
        if _kind(value) == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


# --- what changes its answer ----------------------------------------------------------------------


def _refuse_changing(path: Path, model: ModelProto) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        name = (node.name or node.output[0])[:80]
        if node.op_type in _RANDOM:
            raise InputFileError(
                f"{path}: random by itself ({node.op_type}, {name}): it answers the same image otherwise each time. Export "
                "it without, after model.eval()."
            )
        if node.op_type == "Dropout" and _in_training(node, constants):
            raise InputFileError(
                f"{path}: its Dropout ({name}) is in training mode: it answers the same image otherwise each time. Export "
                "it after model.eval(), with training=TrainingMode.EVAL."
            )
        trained = next((a.i for a in node.attribute if a.name == "training_mode"), 0)
        if node.op_type == "BatchNormalization" and trained:
            raise InputFileError(
                f"{path}: its BatchNormalization ({name}) is in training mode: an image's answer hangs on the others of its "
                "batch. Export it after model.eval(), with training=TrainingMode.EVAL."
            )


def _in_training(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    mode = node.input[2] if len(node.input) > 2 else ""
    if mode not in constants or not bool(numpy_helper.to_array(constants[mode]).any()):
        return False
    ratio = node.input[1]
    # Of nothing dropped it does not matter
    return ratio not in constants or float(numpy_helper.to_array(constants[ratio]).max()) > 0
