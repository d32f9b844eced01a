"""INT8 in the graph: Q/DQ pairs in the form that TensorRT 8 to 11 all take, calibrated on images.

Symmetric, zero points 0, activations per tensor, weights per output channel and kept in float
before their pair, no quantised bias. Pairs stand before the inputs of weighted operators and on
one branch of a residual addition, nowhere else: nothing comes between a convolution and its
activation, so that TensorRT fuses them (TensorRT, "Working with quantized types", Q/DQ placement).

N images, C channels, H x W pixels.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgekd.errors import IncompatibleError, QualityError
from edgekd.export.legality import read
from edgekd.export.parity import Array, agreement, logits_of, outputs_of
from edgekd.files import write_atomically
from edgekd.records import Calibration

WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LEVELS: Final = 127
BINS: Final = 4096
SMALLEST_RANGE: Final = 1e-6  # far from where a scale dies (rules.SMALLEST_SCALE)
# Largest value seen, and the value that this share lies below: synthetic images have outliers.
METHODS: Final[dict[str, float]] = {
    "max": 1.0,
    "percentile-99.99": 0.9999,
    "percentile-99.9": 0.999,
}


def write_int8(fp32: Path, *, out: Path, calibration: Array, held_out: Array) -> Calibration:
    """Quantise a float graph; the range method is the one that agrees best with it.

    Args:
        fp32: ONNX with one input and one output.
        out: where to write.
        calibration: normalised images (N, C, H, W) for the ranges.
        held_out: others (M, C, H, W), on which the methods are compared.

    Raises:
        IncompatibleError: there is nothing to quantise, or a batch-norm is left to fold.
        InputFileError: not an ONNX model, or images of another shape.
        QualityError: an activation is not finite on the calibration images.
        UsageError: an array without images.
    """
    model = read(fp32)
    tensors = activations(model)
    if not tensors:
        raise IncompatibleError(
            f"{fp32.name}: no convolution or matrix product with constant weights."
        )
    _require_folded(model, name=fp32.name)
    ranges = observe(model, tensors, calibration)
    reference = logits_of(fp32, held_out)
    scores: dict[str, float] = {}
    written: dict[str, bytes] = {}
    for method, share in METHODS.items():
        limits = {name: ranges[name].limit(share) for name in tensors}
        written[method] = with_pairs(model, limits).SerializeToString(deterministic=True)
        scores[method] = agreement(logits_of(written[method], held_out), reference)
    best = max(
        METHODS, key=lambda method: scores[method]
    )  # the first of equals: "max" cuts nothing off
    write_atomically(out, written[best])
    return Calibration(
        method=best, images=len(calibration), held_out_images=len(held_out), agreement=scores
    )


# --- which tensors ----------------------------------------------------------------------------


def activations(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the tensors that get a pair, in graph order."""
    constants = {entry.name: len(entry.dims) for entry in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    chosen: dict[str, None] = {}
    for node in model.graph.node:
        if _weighted(node, constants):
            chosen[node.input[0]] = None
    for node in model.graph.node:
        if node.op_type == "Add" and not any(name in constants for name in node.input):
            branch = _residual_branch(node, chosen, makers)
            if branch is not None:
                chosen[branch] = None
    order = {name: place for place, name in enumerate(makers)}
    return tuple(sorted(chosen, key=lambda name: order.get(name, -1)))


def _weighted(node: onnx.NodeProto, constants: Mapping[str, int]) -> bool:
    """Whether a node has weights to quantise; `constants` are numbers of dimensions by name."""
    if node.op_type not in WEIGHTED or node.input[1] not in constants:
        return False
    # A stack of matrices has no one axis of output channels.
    return node.op_type != "MatMul" or constants[node.input[1]] == 2


def _residual_branch(
    node: onnx.NodeProto, chosen: Mapping[str, None], makers: Mapping[str, onnx.NodeProto]
) -> str | None:
    """The branch that does not end in the convolution which the addition can be fused into."""
    direct = [name for name in node.input if name in makers and makers[name].op_type in WEIGHTED]
    if len(direct) == len(node.input):
        return str(node.input[-1])  # a projection: either will do, one must stay float
    if not direct:
        return None
    other = next(name for name in node.input if name not in direct)
    return None if other in chosen else str(other)


def _require_folded(model: onnx.ModelProto, *, name: str) -> None:
    """Refuse a batch-norm that only a convolution feeds.

    TensorRT folds it before it takes the scales, so ranges would be those of another tensor.
    """
    uses = Counter(entry for node in model.graph.node for entry in node.input)
    makers = {entry: node.op_type for node in model.graph.node for entry in node.output}
    for node in model.graph.node:
        fed = node.input[0] if node.op_type == "BatchNormalization" else ""
        if makers.get(fed) in {"Conv", "ConvTranspose"} and uses[fed] == 1:
            raise IncompatibleError(
                f"{name}: batch-norm {node.name} is not folded into its convolution. "
                "Export the module in evaluation mode."
            )


# --- ranges -------------------------------------------------------------------------------------


class Range:
    """Absolute values of one tensor: the largest, and a histogram once that is known."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)

    def see(self, values: Array) -> None:
        self.largest = max(self.largest, float(np.abs(values).max()))

    def count(self, values: Array) -> None:
        if self.largest > 0:
            self.counts += np.histogram(np.abs(values), bins=BINS, range=(0.0, self.largest))[0]

    def limit(self, share: float) -> float:
        """The value that `share` of what was seen lies below; never 0."""
        if self.largest < SMALLEST_RANGE:
            return 1.0  # always zero, or as good as: any scale represents it
        if share >= 1.0:
            return self.largest
        below = np.searchsorted(np.cumsum(self.counts), share * self.counts.sum())
        return float(self.largest * min(BINS, below + 1) / BINS)


def observe(model: onnx.ModelProto, tensors: tuple[str, ...], images: Array) -> dict[str, Range]:
    """Run the images through the float graph twice: for the largest values, then for histograms."""
    ranges = {name: Range() for name in tensors}
    for name, values in _values(model, tensors, images):
        if not np.isfinite(values).all():
            raise QualityError(
                f"{name} is not finite on the calibration images, so it has no range. "
                "Look at the images and at the student's weights."
            )
        ranges[name].see(values)
    for name, values in _values(model, tensors, images):
        ranges[name].count(values)
    return ranges


def _values(
    model: onnx.ModelProto, tensors: tuple[str, ...], images: Array
) -> Iterator[tuple[str, Array]]:
    inputs = {entry.name for entry in model.graph.input}
    inner = [name for name in tensors if name not in inputs]
    for part, found in outputs_of(exposing(model, inner), images, inner):
        yield from ((name, part) for name in tensors if name in inputs)
        yield from zip(inner, found, strict=False)  # without `inner`, what is found are the logits


def exposing(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """The model with inner float tensors among its outputs, to be run in memory."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return bytes(opened.SerializeToString())


# --- the graph ------------------------------------------------------------------------------------


def with_pairs(model: onnx.ModelProto, limits: Mapping[str, float]) -> onnx.ModelProto:
    """A copy with a Q/DQ pair after each tensor of `limits` and on the weights that meet them."""
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    weights = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    dimensions = {name: weight.ndim for name, weight in weights.items()}
    pairs: dict[str, list[onnx.NodeProto]] = {}
    for name, limit in limits.items():
        pairs[name] = _pair(graph, name, scale=np.full((), limit / LEVELS, np.float32), axis=None)
    nodes: list[onnx.NodeProto] = []
    ready = {entry.name for entry in graph.input} & set(pairs)
    for name in sorted(ready):
        nodes += pairs[name]
    for node in model.graph.node:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        if _weighted(node, dimensions):
            weight = node.input[1]
            if weight not in pairs:
                axis = _channel_axis(node)
                scale = _weight_scale(weights[weight], axis)
                pairs[weight] = _pair(graph, weight, scale=scale, axis=axis)
                nodes += pairs[weight]
            changed.input[0] = dequantised(node.input[0])
            changed.input[1] = dequantised(weight)
        elif node.op_type == "Add":
            _replace_branch(changed, pairs, weights)
        nodes.append(changed)
        for name in node.output:
            nodes += pairs.get(name, [])
    del graph.node[:]
    graph.node.extend(nodes)
    return quantised


def _replace_branch(
    node: onnx.NodeProto, pairs: Mapping[str, object], weights: Mapping[str, object]
) -> None:
    """Of an addition, one input goes through its pair: the last that has one."""
    if any(name in weights for name in node.input):
        return
    for place in reversed(range(len(node.input))):
        if node.input[place] in pairs:
            node.input[place] = dequantised(node.input[place])
            return


def _channel_axis(node: onnx.NodeProto) -> int:
    """Where a weight's output channels are."""
    if node.op_type == "Gemm":
        transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
        return 0 if transposed else 1
    return 0 if node.op_type == "Conv" else 1


def _weight_scale(weight: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(axis=others)
    # A channel of zeros, or so small that its scale would underflow, is represented by any scale.
    return np.where(largest < SMALLEST_RANGE, 1.0, largest).astype(np.float32) / np.float32(LEVELS)


def dequantised(name: str) -> str:
    """The name of what a pair after that tensor gives."""
    return f"{name}_dq"


def _pair(
    graph: onnx.GraphProto, name: str, *, scale: npt.NDArray[np.float32], axis: int | None
) -> list[onnx.NodeProto]:
    zero = np.zeros(scale.shape, np.int8)
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    graph.initializer.append(numpy_helper.from_array(zero, f"{name}_zero"))
    extra: dict[str, Any] = {} if axis is None else {"axis": axis}
    constants = [f"{name}_scale", f"{name}_zero"]
    return [
        helper.make_node(
            "QuantizeLinear", [name, *constants], [f"{name}_q"], name=f"Q_{name}", **extra
        ),
        helper.make_node(
            "DequantizeLinear",
            [f"{name}_q", *constants],
            [dequantised(name)],
            name=f"DQ_{name}",
            **extra,
        ),
    ]
