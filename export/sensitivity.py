"""What each layer costs in INT8, and which few to keep in floating point.

N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from edgekd.export.parity import Array, logits_of
from edgekd.export.qdq import weighted, with_pairs
from edgekd.export.weightless_graph import infer_shapes
from edgekd.records import LayerSensitivity

By = Literal["macs", "size"]
BY: Final[tuple[By, ...]] = ("macs", "size")
# A layer is a session of its own
_MOST_IMAGES: Final = 32
# What a layer must lose of all losses to be worth another type: a twentieth
_FEW: Final = 20


def sensitivities(
    model: onnx.ModelProto, limits: Mapping[str, float], images: Array
) -> tuple[LayerSensitivity, ...]:
    """Each weighted layer alone in INT8, in graph order.

    Args:
        model: float graph.
        limits: of its activations, as `qdq.with_pairs` takes them.
        images: normalised (N, C, H, W); the first 32 are used.

    The error is the mean divergence KL(float || INT8) of the two softmax outputs, in nats.
    """
    shown = images[:_MOST_IMAGES]
    exact = logits_of(model.SerializeToString(), shown)
    layers = {node.name: cost for node, cost in _costs(model)}
    totals = [max(1, sum(cost[place] for cost in layers.values())) for place in (0, 1)]
    found = []
    for name, (products, size) in layers.items():
        alone = with_pairs(model, limits, keep=layers.keys() - {name})
        answer = logits_of(alone.SerializeToString(), shown)
        found.append(
            LayerSensitivity(
                layer=name,
                divergence=divergence(exact, answer),
                macs_share=products / totals[0],
                size_share=size / totals[1],
            )
        )
    return tuple(found)


def worst(found: Iterable[LayerSensitivity], *, share: float, by: By) -> tuple[str, ...]:
    """Layers to keep in floating point, the largest error for what they cost first.

    Args:
        found: of all layers.
        share: of the multiply-accumulates or of the weights that may stay in floating point, 0 to 1.
        by: which of the two.
    """
    left = share
    chosen = []

    def cost(layer: LayerSensitivity) -> float:
        return layer.macs_share if by == "macs" else layer.size_share

    for layer in sorted(found, key=lambda each: -each.divergence / max(cost(each), 1e-9)):
        if cost(layer) <= left + 1e-9 and layer.divergence > 0:
            chosen.append(layer.layer)
            left -= cost(layer)
    return tuple(chosen)


def needed(found: Iterable[LayerSensitivity], *, share: float, little: float) -> tuple[str, ...]:
    """Layers to keep in floating point where a few lose most of what is lost, and cost little.

    The layer that loses most comes first, until what all others lose together is little, or none of them
    loses a twentieth of it.

    Args:
        found: of all layers.
        share: of the multiply-accumulates that may stay in floating point, 0 to 1.
        little: nats.
    """
    layers = sorted(found, key=lambda each: -each.divergence)
    lost = sum(max(layer.divergence, 0.0) for layer in layers)
    all_lost, left = lost, share
    chosen = []
    for layer in layers:
        if lost <= little or layer.divergence < all_lost / _FEW:
            break
        if layer.macs_share <= left + 1e-9:
            chosen.append(layer.layer)
            left -= layer.macs_share
            lost -= layer.divergence
    return tuple(chosen)


def divergence(exact: Array, answers: Array) -> float:  # (N, K), (N, K)
    """Mean KL(exact || answers) of two softmax outputs, given as logits; nats."""
    first, second = (_log_softmax(each) for each in (exact, answers))
    return float((np.exp(first) * (first - second)).sum(1).mean())


def _costs(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, tuple[int, int]]]:
    """Multiply-accumulates for one image and weights of every layer that INT8 would change."""
    graph = infer_shapes(model)
    sizes = {
        value.name: [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output, *graph.input)
    }
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    dimensions = {name: value.ndim for name, value in constants.items()}
    for node in model.graph.node:
        if not weighted(node, dimensions):
            continue
        weight = constants[node.input[1]]
        # A transposed convolution uses each weight once for every position that goes in.
        met = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        positions = _positions(sizes.get(met, []), matrix=node.op_type in {"Gemm", "MatMul"})
        yield node, (int(weight.size) * positions, int(weight.size))


def _positions(shape: Collection[int], *, matrix: bool) -> int:
    """How often each weight is used for an image: the places of a map, the rows of a product."""
    inner = list(shape)[1:-1] if matrix else list(shape)[2:]
    return int(np.prod(inner, dtype=np.int64)) if inner else 1


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)), np.float32)
