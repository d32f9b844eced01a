"""Cross-layer equalisation and bias correction, what INT8 without data is usually given.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, sections
4.1 and 4.2. The graph computes the same function after the first; the second moves biases by what
rounding the weights shifts, on average, from the means of the inputs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgekd.export.parity import Array, outputs_of
from edgekd.export.qdq import (
    channel_axis,
    exposing,
    round_weight,
    weighted,
)

_ROUNDS: Final = 20  # over all pairs; they change one another
_ENOUGH: Final = 1e-3  # no factor is further than this from 1
_SMALLEST: Final = (
    1e-8  # of a channel's largest weight: less, and a factor would blow up rounding errors
)

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Neighbours:
    """Two layers with nothing but a ReLU between them."""

    first: onnx.NodeProto
    second: onnx.NodeProto


def equalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose neighbouring layers have channels of like ranges; it computes the same.

    Per channel i between two layers: s = sqrt(r1 / r2) of the largest absolute weights that make and take
    it; the first layer's weights and bias are divided by s, the second's multiplied.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    values = _values(changed)
    found = tuple(_neighbours(changed, values))
    for _ in range(_ROUNDS):
        furthest = max((_balance(pair, values) for pair in found), default=0.0)
        if furthest < _ENOUGH:
            break
    _write(changed, values)
    return changed


def correct_bias(model: onnx.ModelProto, images: Array) -> onnx.ModelProto:
    """A copy whose biases take back the mean shift of INT8 weights, per output channel.

    Args:
        model: float graph.
        images: normalised (N, C, H, W), over which the means of the layers' inputs are taken.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    values = _values(changed)
    dimensions = {name: value.ndim for name, value in values.items()}
    layers = [node for node in changed.graph.node if weighted(node, dimensions)]
    means = _means(model, tuple(dict.fromkeys(node.input[0] for node in layers)), images)
    for node in layers:
        if node.op_type not in {"Conv", "Gemm"}:
            continue  # a product has no bias of its own, a transposed convolution mixes positions
        weight, mean = values[node.input[1]], means[node.input[0]]
        change = round_weight(weight, channel_axis(node)) - weight
        if channel_axis(node) == 1:
            change = change.T
        summed = change.reshape(*change.shape[:2], -1).sum(2)  # (out, in of a group)
        groups = len(mean) // summed.shape[1]
        shift = np.einsum(
            "goi,gi->go", summed.reshape(groups, -1, summed.shape[1]), mean.reshape(groups, -1)
        ).reshape(-1)
        _add_to_bias(changed, node, values, -shift.astype(np.float32))
    _write(changed, values)
    return changed


def _neighbours(model: onnx.ModelProto, values: Mapping[str, Weights]) -> Iterator[_Neighbours]:
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(entry.name for entry in model.graph.output)
    takers = {name: node for node in model.graph.node for name in node.input}
    for node in model.graph.node:
        if node.op_type != "Conv" or not _own(node, values, uses):
            continue
        name = node.output[0]
        if uses[name] == 1 and takers[name].op_type == "Relu":
            name = takers[name].output[0]
        if uses[name] != 1:
            continue
        other = takers[name]
        takes = other.op_type == "Conv" and other.input[0] == name and _own(other, values, uses)
        if takes and _of_inputs(other, values) is not None:
            yield _Neighbours(first=node, second=other)


def _own(node: onnx.NodeProto, values: Mapping[str, Weights], uses: Counter[str]) -> bool:
    """Whether weights and bias are constants that no other node has."""
    return all(name in values and uses[name] == 1 for name in node.input[1:] if name)


def _of_inputs(node: onnx.NodeProto, values: Mapping[str, Weights]) -> Weights | None:
    """Largest absolute weight of each input channel; None for groups of several channels."""
    weight = values[node.input[1]]
    groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
    if groups == 1:
        return np.asarray(np.abs(weight).max(axis=(0, 2, 3)))
    if weight.shape[1] == 1 and groups == len(weight):
        return np.asarray(np.abs(weight).max(axis=(1, 2, 3)))
    return None


def _balance(pair: _Neighbours, values: dict[str, Weights]) -> float:
    """Divide one layer, multiply the next; the furthest that a factor is from 1."""
    weight, taken = values[pair.first.input[1]], _of_inputs(pair.second, values)
    assert taken is not None
    made = np.abs(weight).max(axis=(1, 2, 3))
    alive = (made > _SMALLEST) & (taken > _SMALLEST)
    factors = np.where(
        alive, np.sqrt(np.maximum(made, _SMALLEST) / np.maximum(taken, _SMALLEST)), 1.0
    ).astype(np.float32)
    values[pair.first.input[1]] = weight / factors.reshape(-1, 1, 1, 1)
    if len(pair.first.input) > 2 and pair.first.input[2]:
        values[pair.first.input[2]] = values[pair.first.input[2]] / factors
    other = values[pair.second.input[1]]
    of_groups = other.shape[1] == 1 and len(taken) == len(other)
    shape = (-1, 1, 1, 1) if of_groups else (1, -1, 1, 1)
    values[pair.second.input[1]] = other * factors.reshape(shape)
    return float(np.abs(factors - 1).max())


def _means(
    model: onnx.ModelProto, names: tuple[str, ...], images: Array
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean of each channel (the second axis) of tensors, over images and positions."""
    inputs = {entry.name for entry in model.graph.input}
    inner = [name for name in names if name not in inputs]
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for part, found in outputs_of(exposing(model, inner), images, inner):
        seen = dict(zip(inner, found, strict=False)) | {
            name: part for name in names if name in inputs
        }
        for name, each in seen.items():
            others = tuple(range(2, each.ndim))
            sums[name] = sums.get(name, np.zeros(1)) + each.mean(axis=others, dtype=np.float64).sum(
                0
            )
    return {name: total / len(images) for name, total in sums.items()}


def _add_to_bias(
    model: onnx.ModelProto, node: onnx.NodeProto, values: dict[str, Weights], change: Weights
) -> None:
    uses = sum(name in each.input for each in model.graph.node for name in node.input[2:3] if name)
    if len(node.input) > 2 and node.input[2] and uses == 1:
        values[node.input[2]] = values[node.input[2]] + change
        return
    own = f"{node.name}_bias"
    before = values[node.input[2]] if len(node.input) > 2 and node.input[2] else np.float32(0)
    values[own] = before + change
    model.graph.initializer.append(helper.make_tensor(own, onnx.TensorProto.FLOAT, [0], []))
    del node.input[2:]
    node.input.append(own)


def _values(model: onnx.ModelProto) -> dict[str, Weights]:
    return {entry.name: numpy_helper.to_array(entry).copy() for entry in model.graph.initializer}


def _write(model: onnx.ModelProto, values: Mapping[str, Weights]) -> None:
    for entry in model.graph.initializer:
        entry.CopyFrom(numpy_helper.from_array(values[entry.name], entry.name))
