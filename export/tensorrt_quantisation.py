"""What TensorRT asks of Q/DQ pairs.

Sources: TensorRT's "Working with quantized types" (explicit quantisation); for types the changelog of
onnx-tensorrt; for forms, what TensorRT-RTX 1.7.1.116 reads and builds (`benchmarks/export/parser.py`).
"""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from edgekd.export.qdq import WEIGHTED, channel_axis
from edgekd.export.tensorrt_operators import Version
from edgekd.export.tensorrt_rules import (
    GPU_RULE,
    QUANTISING,
    Violation,
    constants_of,
    opset_of,
    value_of,
)
from edgekd.export.tensorrt_types import QUANTISED, SINCE, name_of

# Below, TensorRT warns of a dead scale and the tensor is lost
SMALLEST_SCALE: Final = 1e-10
# The opset from which QuantizeLinear takes FP16
FP16_SCALES_SINCE: Final = 19
# A product of float data and weights of 4 bits
SMALL_WEIGHTS_SINCE: Final[Version] = (10, 0)
# With types in the graph alone, what is quantised on one side is computed in float
ONE_SIDED_SINCE: Final[Version] = (11, 0)
# INT8 constants; until 8.4 the parser ends with "invalid weights type of Int8", 8.5 and 8.6 are untried
INT8_WEIGHTS_SINCE: Final[Version] = (10, 0)
# Scales of blocks of 8-bit weights
BLOCKS_OF_BYTES_SINCE: Final[Version] = (11, 0)
# Compute capability of the first GPUs that have a type
GPU_OF: Final[Mapping[int, str]] = {
    TensorProto.FLOAT8E4M3FN: "8.9",
    TensorProto.FLOAT4E2M1: "10.0",
}
_SMALL: Final = frozenset({TensorProto.INT4, TensorProto.FLOAT4E2M1})
_SYMMETRIC: Final = "quantise symmetrically, with INT8 zero points of 0"

Known = dict[str, onnx.TensorProto | None]


def quantisation(
    model: onnx.ModelProto, kinds: Mapping[str, int], version: Version
) -> Iterator[Violation]:
    """Q/DQ pairs: symmetric, constant scales, types that the version and the GPU have, both sides of a product.

    Args:
        model: the graph.
        kinds: element types of its tensors, as far as they follow from it.
        version: of TensorRT.
    """
    known = constants_of(model)
    yield from _coarse_weights(model, known)
    makers = {name: node for node in model.graph.node for name in node.output}
    needed: set[int] = set()
    for node in model.graph.node:
        if node.op_type in QUANTISING and len(node.input) > 1:
            kind = _kind_of(node, known, kinds)
            yield from _scale(node, known, opset=opset_of(model))
            yield from _type(node, kind, version)
            yield from _zero_point(node, known, kind)
            yield from _blocks(node, kind, version)
            yield from _stored(node, known, version)
            yield from _scalar(node, known, version)
            if kind is not None and kind in GPU_OF and kind not in needed:
                needed.add(kind)
                yield _gpu(node, kind)
        elif node.op_type in WEIGHTED:
            yield from _one_sided(node, makers, kinds, version)


def _kind_of(node: onnx.NodeProto, known: Known, kinds: Mapping[str, int]) -> int | None:
    """The type between the pair: that of the zero point, else the attribute's or the data's; None: not known."""
    if len(node.input) > 2 and node.input[2]:
        zero = known.get(node.input[2])
        return kinds.get(node.input[2]) if zero is None else zero.data_type
    if node.op_type == "DequantizeLinear":
        return kinds.get(node.input[0])
    given = next((entry.i for entry in node.attribute if entry.name == "output_dtype"), 0)
    return given or TensorProto.UINT8


def _type(node: onnx.NodeProto, kind: int | None, version: Version) -> Iterator[Violation]:
    # What the version has not at all is said of the types.
    if kind in {None, TensorProto.INT8} or (kind in QUANTISED and version >= SINCE[kind]):
        return
    message = f"{name_of(kind)}: TensorRT takes INT8" + (
        ", and from 9.0 on FP8, from 10.0 on INT4" if kind not in QUANTISED else " only"
    )
    if kind == TensorProto.UINT8:
        message = "UINT8: TensorRT takes INT8; where the zero point is 0 it reads this as INT8, and 128 to 255 are lost"
    elif kind == TensorProto.INT32:
        message = "INT32: TensorRT takes INT8 only, and no quantised bias"
    yield Violation(
        rule="quantised type",
        where=node.name,
        message=message,
        advice="quantise to INT8, and leave biases in float",
    )


def _gpu(node: onnx.NodeProto, kind: int) -> Violation:
    return Violation(
        rule=GPU_RULE,
        where=node.name,
        message=f"{name_of(kind)} needs a GPU of compute capability {GPU_OF[kind]} or above",
        advice="quantise to INT8 for Orin and older",
        refuses=False,
        needs_gpu=GPU_OF[kind],
    )


def _one_sided(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    kinds: Mapping[str, int],
    version: Version,
) -> Iterator[Violation]:
    before = [makers.get(name) for name in node.input[:2]]
    sides = [e is not None and e.op_type == "DequantizeLinear" for e in before]
    if all(sides) or not any(sides):
        return
    weights = before[1]
    small = weights is not None and sides[1] and kinds.get(weights.input[0]) in _SMALL
    if small and version >= SMALL_WEIGHTS_SINCE:
        return
    yield Violation(
        rule="half quantised",
        where=node.name,
        message="one of data and weights comes from a Q/DQ pair, the other does not"
        + ("; it is computed in float" if version >= ONE_SIDED_SINCE else ""),
        advice="quantise both, or neither",
        refuses=version < ONE_SIDED_SINCE,
    )


def _blocks(node: onnx.NodeProto, kind: int | None, version: Version) -> Iterator[Violation]:
    size = next((entry.i for entry in node.attribute if entry.name == "block_size"), 0)
    if size and kind == TensorProto.INT8 and version < BLOCKS_OF_BYTES_SINCE:
        yield Violation(
            rule="blocks",
            where=node.name,
            message=f"blocks of {size} INT8 values need TensorRT 11.0",
            advice="quantise weights per output channel",
        )


def _stored(node: onnx.NodeProto, known: Known, version: Version) -> Iterator[Violation]:
    """Weights that the file holds as integers, without a QuantizeLinear before."""
    tensor = known.get(node.input[0])
    if node.op_type != "DequantizeLinear" or tensor is None:
        return
    if tensor.data_type == TensorProto.INT8 and version < INT8_WEIGHTS_SINCE:
        yield Violation(
            rule="INT8 weights",
            where=node.name,
            message=f"the constant {node.input[0]} is INT8, which TensorRT reads from 10.0 on",
            advice="keep weights in float, with a QuantizeLinear before (onnxruntime: AddQDQPairToWeight)",
        )


def _scalar(node: onnx.NodeProto, known: Known, version: Version) -> Iterator[Violation]:
    """A constant without dimensions, as ONNX Runtime quantises those of GELU and LayerScale."""
    tensor = known.get(node.input[0])
    if node.op_type == "DequantizeLinear" and tensor is not None and not tensor.dims:
        yield Violation(
            rule="quantised scalar",
            where=node.name,
            message=f"the constant {node.input[0]} has no dimensions; the builder takes it for one that is not dequantised",
            advice="leave single numbers in float, or write them as (1,)",
            # Seen with TensorRT-RTX 1.7, whose builder is of TensorRT 11
            refuses=version >= ONE_SIDED_SINCE,
        )


def _coarse_weights(model: onnx.ModelProto, known: Known) -> Iterator[Violation]:
    """Weights of several channels with one scale: TensorRT takes them, and small channels lose their bits."""
    pairs = [n for n in model.graph.node if n.op_type in QUANTISING and len(n.input) > 1]
    before = {name: node for node in pairs for name in node.output}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in before:
            continue
        last = before[node.input[1]]
        first = before.get(last.input[0], last)
        scale, weight = value_of(known, last.input[1]), known.get(first.input[0])
        if scale is None or scale.size != 1 or weight is None or len(weight.dims) < 2:
            continue
        if weight.dims[channel_axis(node)] > 1:
            yield Violation(
                rule="weights per tensor",
                where=node.name,
                message="one scale for all channels; INT8 loses most where channels differ",
                advice="quantise weights per output channel",
                refuses=False,
            )


def _scale(node: onnx.NodeProto, known: Known, *, opset: int) -> Iterator[Violation]:
    again = "calibrate again"
    scale = value_of(known, node.input[1])
    if scale is None or scale.dtype.kind != "f":
        message = "the scale is not a readable floating-point constant"
        yield Violation(rule="scale", where=node.name, message=message, advice="fold constants")
        return
    if not bool(np.isfinite(scale).all()) or bool((scale <= 0).any()):
        message = "a scale is not finite or not above 0"
        yield Violation(rule="scale", where=node.name, message=message, advice=again)
    elif bool((scale < SMALLEST_SCALE).any()):
        message = f"a scale is below {SMALLEST_SCALE:g}, and what it scales is lost"
        yield Violation(rule="dead scale", where=node.name, message=message, advice=again)
    if scale.dtype == np.float16 and opset < FP16_SCALES_SINCE:
        yield Violation(
            rule="FP16 scale",
            where=node.name,
            message=f"opset {opset} has no Q/DQ in FP16",
            advice=f"export at opset {FP16_SCALES_SINCE} or above, or keep scales in FP32",
        )
    if node.op_type == "QuantizeLinear" and scale.size > 1 and node.input[0] not in known:
        yield Violation(
            rule="activation per channel",
            where=node.name,
            message=f"{scale.size} scales; TensorRT takes one for each activation",
            advice="quantise activations per tensor, weights per channel",
        )


def _zero_point(node: onnx.NodeProto, known: Known, kind: int | None) -> Iterator[Violation]:
    if len(node.input) < 3 or not node.input[2]:
        return
    zero = known.get(node.input[2])
    if zero is None:
        message = "the zero point is not a readable constant"
        yield Violation(rule="zero point", where=node.name, message=message, advice=_SYMMETRIC)
        return
    values, scale = value_of(known, node.input[2]), known.get(node.input[1])
    if values is None or kind not in {TensorProto.INT8, *QUANTISED}:
        return
    if bool((values.astype(np.float32) != 0).any()):
        message = "the zero point is not 0"
        if kind == TensorProto.INT8 and bool((values == np.iinfo(np.int8).min).all()):
            message = "the zero point is -128: a range from 0 on, into which a ReLU was folded"
        yield Violation(rule="zero point", where=node.name, message=message, advice=_SYMMETRIC)
    if scale is not None and int(np.prod(scale.dims)) != values.size:
        yield Violation(
            rule="zero point",
            where=node.name,
            message=f"{values.size} zero points for {int(np.prod(scale.dims))} scales",
            advice="write one for each scale",
        )
