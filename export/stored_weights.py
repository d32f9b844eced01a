"""Weights in the file as the integers that their pair makes of them: a quarter of the bytes, the same answers.

A QuantizeLinear on a constant gives the same every time, so the file holds what it gives, and the
DequantizeLinear stands alone before the layer. TensorRT reads that from 10.0 on (TensorRT, "Explicit
quantization", quantised weights; its operator reference, Constant), ONNX Runtime everywhere.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from edgekd.export.calibration import LEVELS

# Where a QuantizeLinear names none
_AXIS: Final = 1


def store_int8(model: onnx.ModelProto) -> None:
    """Put INT8 constants where FP32 constants go through a QuantizeLinear; the model itself is changed.

    The levels are ONNX Runtime's, bit for bit: the quotient in float32, to the nearest, halves to even.
    A constant that something else takes too stays beside its levels. Scales stay as they are.

    Args:
        model: with Q/DQ pairs in FP32 and zero points of 0, as `qdq.with_pairs` writes them.
    """
    graph = model.graph
    constants = {entry.name: entry for entry in graph.initializer}
    places = [place for place, node in enumerate(graph.node) if _takes_weights(node, constants)]
    taken = [graph.node[place] for place in places]
    rounding = {node.name for node in taken}
    used = {name for node in graph.node if node.name not in rounding for name in node.input}
    for node in taken:
        name, scale = node.input[0], node.input[1]
        axis = next((int(entry.i) for entry in node.attribute if entry.name == "axis"), _AXIS)
        levels = round_to_levels(
            numpy_helper.to_array(constants[name]), numpy_helper.to_array(constants[scale]), axis
        )
        stored = numpy_helper.from_array(levels, node.output[0])
        if name in used:
            graph.initializer.append(stored)
        else:
            constants[name].CopyFrom(stored)
    for place in reversed(places):
        del graph.node[place]


def round_to_levels(
    weight: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], axis: int
) -> npt.NDArray[np.int8]:
    """A weight as QuantizeLinear gives it.

    Args:
        weight: of any shape.
        scale: one, or (C,) for the C channels along the axis.
        axis: of the weight.

    Returns:
        levels -128 to 127 in the weight's shape.
    """
    if scale.ndim:
        scale = scale.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])
    quotient = weight / scale
    np.rint(quotient, out=quotient)
    np.clip(quotient, -LEVELS - 1, LEVELS, out=quotient)
    return quotient.astype(np.int8)


def _takes_weights(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a node rounds weights; a single number stays, which TensorRT 11 refuses as an INT8 constant."""
    weight = constants.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
    return weight is not None and weight.data_type == TensorProto.FLOAT and bool(weight.dims)
