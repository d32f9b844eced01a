"""INT8 in the graph: Q/DQ pairs in the form that TensorRT 8 to 11 all take, calibrated on images.

Symmetric, zero points 0, activations per tensor, weights per output channel and kept in float
before their pair, no quantised bias. Pairs stand before the inputs of weighted operators and on
one branch of a residual addition, nowhere else: nothing comes between a convolution and its
activation, so that TensorRT fuses them (TensorRT, "Working with quantized types", Q/DQ placement).

N images, C channels, H x W pixels.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgekd.errors import IncompatibleError, QualityError
from edgekd.export.calibration import (
    LEVELS,
    METHODS,
    SMALLEST_RANGE,
    Range,
)
from edgekd.export.parity import (
    Array,
    agreement,
    logits_of,
    outputs_of,
)
from edgekd.export.stored_weights import store_int8

WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")

Weights: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ActivationRanges:
    """A range for every activation, and how it was found."""

    method: str
    # Of each method that was tried
    agreement: dict[str, float]
    limits: dict[str, float]
    ranges: dict[str, Range]

    def saturated_shares(self) -> dict[str, float]:
        """Of each tensor, the share of what was seen that its limit cuts off."""
        return {name: found.clipped_share(self.limits[name]) for name, found in self.ranges.items()}


def choose(
    model: onnx.ModelProto,
    *,
    calibration: Array,
    held_out: Array,
    reference: Array | None = None,
    methods: Iterable[str] = METHODS,
) -> ActivationRanges:
    """Ranges by the method whose INT8 graph decides most like the reference.

    Args:
        model: float graph with one input and one output.
        calibration: normalised images (N, C, H, W) for the ranges.
        held_out: others (M, C, H, W), on which the methods are compared.
        reference: logits (M, K) of the teacher on `held_out`; None: those of the float graph.
        methods: that are tried, of `ranges.METHODS`.

    Raises:
        IncompatibleError: there is nothing to quantise, or a batch-norm is left to fold.
        InputFileError: images of another shape.
        QualityError: an activation is not finite on the calibration images.
        UsageError: an array without images.
    """
    tensors = activations(model)
    if not tensors:
        raise IncompatibleError("no convolution or matrix product with constant weights.")
    _require_folded(model)
    ranges = observe(model, tensors, calibration)
    exact = logits_of(model.SerializeToString(), held_out)
    scores: dict[str, float] = {}
    errors: dict[str, float] = {}
    limits: dict[str, dict[str, float]] = {}
    # Answers are the same with weights as integers, which are rounded once and are a quarter to copy.
    trial = with_pairs(model, dict.fromkeys(ranges, 1.0))
    store_int8(trial)
    for method in methods:
        limits[method] = limits_of(model, ranges, method)
        _set_limits(trial, limits[method])
        answers = logits_of(trial.SerializeToString(), held_out)
        scores[method] = agreement(answers, exact if reference is None else reference)
        errors[method] = float(np.square(answers - exact).mean())
    # Decisions come in steps of one image; of methods that decide alike, the one nearer to FP32 is better.
    best = min(scores, key=lambda method: (-scores[method], errors[method]))
    return ActivationRanges(method=best, agreement=scores, limits=limits[best], ranges=ranges)


# --- which tensors ----------------------------------------------------------------------------


def activations(model: onnx.ModelProto, *, keep: Container[str] = ()) -> tuple[str, ...]:
    """Names of the tensors that get a pair, in graph order.

    Args:
        model: float graph.
        keep: names of layers that stay in floating point.
    """
    constants = {entry.name: len(entry.dims) for entry in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    chosen: dict[str, None] = {}
    for node in model.graph.node:
        if weighted(node, constants) and node.name not in keep:
            chosen[node.input[0]] = None
    for node in model.graph.node:
        if node.op_type == "Add" and not any(name in constants for name in node.input):
            branch = _residual_branch(node, chosen, makers, keep)
            if branch is not None:
                chosen[branch] = None
    order = {name: place for place, name in enumerate(makers)}
    return tuple(sorted(chosen, key=lambda name: order.get(name, -1)))


def weighted(node: onnx.NodeProto, constants: Mapping[str, int]) -> bool:
    """Whether a node has weights to quantise; `constants` are numbers of dimensions by name."""
    if node.op_type not in WEIGHTED or node.input[1] not in constants:
        return False
    # A stack of matrices has no one axis of output channels.
    return node.op_type != "MatMul" or constants[node.input[1]] == 2


def _residual_branch(
    node: onnx.NodeProto,
    chosen: Mapping[str, None],
    makers: Mapping[str, onnx.NodeProto],
    keep: Container[str],
) -> str | None:
    """The branch that does not end in the convolution which the addition can be fused into."""
    direct = [
        name
        for name in node.input
        if name in makers and makers[name].op_type in WEIGHTED and makers[name].name not in keep
    ]
    if len(direct) == len(node.input):
        # A projection: either will do, one must stay float
        return str(node.input[-1])
    if not direct:
        return None
    other = next(name for name in node.input if name not in direct)
    return None if other in chosen else str(other)


def _require_folded(model: onnx.ModelProto) -> None:
    """Refuse a batch-norm that only a convolution feeds.

    TensorRT folds it before it takes the scales, so ranges would be those of another tensor.
    """
    uses = Counter(entry for node in model.graph.node for entry in node.input)
    makers = {entry: node.op_type for node in model.graph.node for entry in node.output}
    for node in model.graph.node:
        fed = node.input[0] if node.op_type == "BatchNormalization" else ""
        if makers.get(fed) in {"Conv", "ConvTranspose"} and uses[fed] == 1:
            raise IncompatibleError(
                f"batch-norm {node.name} is not folded into its convolution. "
                "Export the module in evaluation mode."
            )


# --- ranges -------------------------------------------------------------------------------------


def observe(model: onnx.ModelProto, tensors: tuple[str, ...], images: Array) -> dict[str, Range]:
    """Run the images (N, C, H, W) through the float graph once, for the range of each tensor.

    Raises:
        QualityError: a tensor is not finite on them.
        InputFileError: images of another shape.
        UsageError: there are none.
    """
    ranges = {name: Range() for name in tensors}
    for name, values in values_of(model, tensors, images):
        try:
            ranges[name].see(values)
        except ValueError as error:
            raise QualityError(
                f"{name} is not finite on the calibration images, so it has no range. "
                "Look at the images and at the student's weights."
            ) from error
    return ranges


def limits_of(model: onnx.ModelProto, ranges: Mapping[str, Range], method: str) -> dict[str, float]:
    """Of every tensor; those that a `Concat` joins share the widest, or TensorRT rescales between them."""
    limits = {name: found.limit(method) for name, found in ranges.items()}
    joints = [
        [name for name in (*node.input, *node.output) if name in limits]
        for node in model.graph.node
        if node.op_type == "Concat"
    ]
    changing = True
    # What one joins, another may join to more
    while changing:
        changing = False
        for joined in joints:
            widest = max((limits[name] for name in joined), default=0.0)
            changing |= any(limits[name] < widest for name in joined)
            limits |= dict.fromkeys(joined, widest)
    return limits


def values_of(
    model: onnx.ModelProto, tensors: tuple[str, ...], images: Array
) -> Iterator[tuple[str, Array]]:
    """Tensors by name, for one part of the images after the other."""
    inputs = {entry.name for entry in model.graph.input}
    inner = [name for name in tensors if name not in inputs]
    for part, found in outputs_of(exposing(model, inner), images, inner):
        yield from ((name, part) for name in tensors if name in inputs)
        # Without `inner`, what is found are the logits
        yield from zip(inner, found, strict=False)


def exposing(model: onnx.ModelProto | bytes, names: Iterable[str]) -> bytes:
    """The model with inner tensors among its outputs, of whatever type, to be run in memory."""
    more = onnx.ModelProto()
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    data = model if isinstance(model, bytes) else model.SerializeToString()
    # Messages of protobuf merge where their bytes are joined: the weights are not copied into a second model.
    return bytes(data + more.SerializeToString())


# --- the graph ------------------------------------------------------------------------------------


def with_pairs(
    model: onnx.ModelProto,
    limits: Mapping[str, float],
    *,
    keep: Container[str] = (),
    weight_scales: Mapping[str, Weights] | None = None,
) -> onnx.ModelProto:
    """A copy with a Q/DQ pair on the activations and the weights of every layer.

    Args:
        model: float graph.
        limits: of each of its activations, the value that becomes the largest level.
        keep: names of layers that stay in floating point.
        weight_scales: of weights by name, a scale a channel; the others' come from their largest values.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    weights = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    dimensions = {name: weight.ndim for name, weight in weights.items()}
    pairs: dict[str, list[onnx.NodeProto]] = {}
    # With layers kept, another branch of an addition may be the one to quantise: it has no range, and stays.
    for name in (each for each in activations(model, keep=keep) if each in limits):
        pairs[name] = _pair(graph, name, scale=activation_scale(limits[name]), axis=None)
    nodes: list[onnx.NodeProto] = []
    ready = {entry.name for entry in graph.input} & set(pairs)
    for name in sorted(ready):
        nodes += pairs[name]
    for node in model.graph.node:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        if weighted(node, dimensions) and node.name not in keep:
            weight = node.input[1]
            if weight not in pairs:
                axis = channel_axis(node)
                told = (weight_scales or {}).get(weight)
                scale = weight_scale(weights[weight], axis) if told is None else told
                pairs[weight] = _pair(graph, weight, scale=scale, axis=axis)
                nodes += pairs[weight]
            changed.input[0] = dequantised_name(node.input[0])
            changed.input[1] = dequantised_name(weight)
        elif (place := residual_place(node, pairs, weights)) is not None:
            changed.input[place] = dequantised_name(node.input[place])
        nodes.append(changed)
        for name in node.output:
            nodes += pairs.get(name, [])
    del graph.node[:]
    graph.node.extend(nodes)
    return quantised


def residual_place(
    node: onnx.NodeProto, pairs: Container[str], constants: Container[str]
) -> int | None:
    """Of an addition of two activations, the input that goes through its pair: the last that has one."""
    if node.op_type != "Add" or any(name in constants for name in node.input):
        return None
    places = [place for place, name in enumerate(node.input) if name in pairs]
    return places[-1] if places else None


def _set_limits(quantised: onnx.ModelProto, limits: Mapping[str, float]) -> None:
    """Give the pairs of activations other limits, in place."""
    scales = {_scale_name(name): activation_scale(limit) for name, limit in limits.items()}
    for entry in quantised.graph.initializer:
        if entry.name in scales:
            entry.CopyFrom(numpy_helper.from_array(scales[entry.name], entry.name))


def activation_scale(limit: float) -> Weights:  # ()
    """Of a limit, the size of a level."""
    return np.full((), limit / LEVELS, np.float32)


def _scale_name(name: str) -> str:
    return f"{name}_scale"


def channel_axis(node: onnx.NodeProto) -> int:
    """Where a weight's output channels are."""
    if node.op_type == "Gemm":
        transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
        return 0 if transposed else 1
    return 0 if node.op_type == "Conv" else 1


def round_weight(weight: Weights, axis: int) -> Weights:
    """A weight as its pair gives it back."""
    shape = tuple(-1 if place == axis else 1 for place in range(weight.ndim))
    scale = weight_scale(weight, axis).reshape(shape)
    return np.asarray(np.clip(np.rint(weight / scale), -LEVELS - 1, LEVELS) * scale, np.float32)


def weight_scale(weight: Weights, axis: int) -> Weights:
    """Of each channel along an axis."""
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(axis=others)
    # A channel of zeros, or so small that its scale would underflow, is represented by any scale.
    return np.where(largest < SMALLEST_RANGE, 1.0, largest).astype(np.float32) / np.float32(LEVELS)


def dequantised_name(name: str) -> str:
    """The name of what a pair after that tensor gives."""
    return f"{name}_dq"


def _pair(
    graph: onnx.GraphProto, name: str, *, scale: Weights, axis: int | None
) -> list[onnx.NodeProto]:
    zero = np.zeros(scale.shape, np.int8)
    graph.initializer.append(numpy_helper.from_array(scale, _scale_name(name)))
    graph.initializer.append(numpy_helper.from_array(zero, f"{name}_zero"))
    extra: dict[str, Any] = {} if axis is None else {"axis": axis}
    constants = [_scale_name(name), f"{name}_zero"]
    return [
        helper.make_node(
            "QuantizeLinear", [name, *constants], [f"{name}_q"], name=f"Q_{name}", **extra
        ),
        helper.make_node(
            "DequantizeLinear",
            [f"{name}_q", *constants],
            [dequantised_name(name)],
            name=f"DQ_{name}",
            **extra,
        ),
    ]
