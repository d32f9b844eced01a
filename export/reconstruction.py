"""Layer by layer, what INT8 changes is taken back: in the weights as they are rounded, and in the bias.

Every layer is given what it will be given in the INT8 graph, with all roundings before it, and is to answer as
in the float graph. Its weights are rounded one column after the other; what a column loses is handed to those
that are still to come, in the least-squares sense (Frantar et al., GPTQ, ICLR 2023, section 3). The bias, which
stays float, takes what is left of the mean (Nagel et al., Data-Free Quantization Through Weight Equalization and
Bias Correction, ICCV 2019, section 4.2).

N images, C channels, H x W pixels.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from edgekd.export.calibration import LEVELS
from edgekd.export.parity import Array, batches, session
from edgekd.export.qdq import (
    Weights,
    activations,
    channel_axis,
    residual_place,
    weight_scale,
    weighted,
)
from edgekd.export.weightless_graph import infer_shapes

# Places of all images that a layer's least squares are made of
PLACES: Final = 16384
# Of the mean square of what goes in: damps directions that the images hardly show
DAMPING: Final = 0.1
# Inputs of a row: least squares take several matrices of their square (8,192: 3 GB, and 80 s on one thread)
_WIDEST: Final = 8192
# Bytes of one activation of all images; a few live at once
_MOST_BYTES: Final = 256 * 2**20
# Columns after which what they lost is handed on to the rest
_BLOCK: Final = 64
_SEED: Final = 0

# One for each part of the images that runs at a time
_Parts = Sequence[Array]


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """Constants of the float graph that INT8 is to be made of, and the grid that weights lie on."""

    constants: Mapping[str, Weights]
    # A scale for each output channel
    weight_scales: Mapping[str, Weights]


def reconstruct(
    model: onnx.ModelProto,
    limits: Mapping[str, float],
    images: Array,
    *,
    keep: Collection[str] = (),
    levels: int = LEVELS,
    pinned: bool = False,
) -> Reconstructed:
    """Weights and biases for which the INT8 graph answers more like the float one.

    Args:
        model: float graph.
        limits: of its activations, as `qdq.with_pairs` takes them.
        images: normalised (N, C, H, W); as many as fit into memory are used.
        keep: names of layers that stay in floating point; of these the bias alone changes.
        levels: of a weight on either side of 0.
        pinned: the largest weight of each output channel stays on its last level, so that whoever takes scales
            from the largest finds the same grid.
    """
    return _Reconstruction(model, limits, images, keep=keep, levels=levels, pinned=pinned).run()


class _Reconstruction:
    """Both graphs, run side by side node by node."""

    def __init__(
        self,
        model: onnx.ModelProto,
        limits: Mapping[str, float],
        images: Array,
        *,
        keep: Collection[str],
        levels: int,
        pinned: bool,
    ) -> None:
        self._model, self._keep, self._levels, self._pinned = model, keep, levels, pinned
        self._values = {e.name: numpy_helper.to_array(e) for e in model.graph.initializer}
        self._dimensions = {name: value.ndim for name, value in self._values.items()}
        self._uses = Counter(name for node in model.graph.node for name in node.input)
        self._limits = {
            name: limits[name] for name in activations(model, keep=keep) if name in limits
        }
        first = model.graph.input[0].type.tensor_type.shape.dim[0]
        size = first.dim_value if first.HasField("dim_value") else None
        shown = images[: _most_images(model, size or 1)]
        self._images = list(batches(shown, size, name="calibration"))
        self._generator = torch.Generator().manual_seed(_SEED)
        self._constants: dict[str, Weights] = {}
        # Of weights that are rounded by their pair alone, what it gives
        self._nearest: dict[str, Weights] = {}
        self._scales: dict[str, Weights] = {}

    def run(self) -> Reconstructed:
        waiting = Counter(self._uses)
        entry = self._model.graph.input[0].name
        # Of each tensor that a node still waits for: as the float graph has it, and as INT8 will
        exact: dict[str, _Parts] = {entry: self._images}
        rounded: dict[str, _Parts] = {entry: self._images}
        for node in self._model.graph.node:
            answer = self._answer(node, exact, self._values)
            given = rounded | self._quantised_input(node, rounded)
            if weighted(node, self._dimensions):
                self._fit(node, given[node.input[0]], answer[0])
            other = self._answer(node, given, self._constants_of(node))
            for place, name in enumerate(node.output):
                if self._uses[name]:
                    exact[name], rounded[name] = answer[place], other[place]
            for name in node.input:
                waiting[name] -= 1
                if not waiting[name]:
                    exact.pop(name, None)
                    rounded.pop(name, None)
        return Reconstructed(constants=self._constants, weight_scales=self._scales)

    def _constants_of(self, node: onnx.NodeProto) -> dict[str, Any]:
        """What a node of the INT8 graph takes."""
        quantised = weighted(node, self._dimensions) and node.name not in self._keep
        return self._values | self._constants | (self._nearest if quantised else {})

    def _quantised_input(
        self, node: onnx.NodeProto, rounded: Mapping[str, _Parts]
    ) -> dict[str, _Parts]:
        """What of a node goes through a pair, as the pair gives it back."""
        place: int | None
        if weighted(node, self._dimensions):
            place = None if node.name in self._keep else 0
        else:
            place = residual_place(node, self._limits, self._values)
        if place is None or node.input[place] not in self._limits:
            return {}
        name = node.input[place]
        scale = np.float32(self._limits[name] / LEVELS)
        return {
            name: [
                np.asarray(np.clip(np.rint(part / scale), -LEVELS - 1, LEVELS) * scale, np.float32)
                for part in rounded[name]
            ]
        }

    def _answer(
        self, node: onnx.NodeProto, given: Mapping[str, _Parts], constants: Mapping[str, Any]
    ) -> list[_Parts]:
        """What a node gives for each part, by output."""
        names = [name for name in dict.fromkeys(node.input) if name in given]
        alone = onnx.ModelProto()
        alone.ir_version = self._model.ir_version
        alone.opset_import.extend(self._model.opset_import)
        alone.graph.name = "node"
        alone.graph.node.append(node)
        for name in names:
            kind = helper.np_dtype_to_tensor_dtype(given[name][0].dtype)
            alone.graph.input.append(helper.make_tensor_value_info(name, kind, None))
        for name in dict.fromkeys(node.input):
            if name in constants and name not in given:
                alone.graph.initializer.append(numpy_helper.from_array(constants[name], name))
        made = [name for name in node.output if name]
        alone.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
        running = session(alone.SerializeToString())
        found = [
            running.run(made, {name: given[name][part] for name in names})
            for part in range(len(self._images))
        ]
        return [[part[place] for part in found] for place in range(len(made))]

    # --- one layer ------------------------------------------------------------------------------------------

    def _fit(self, node: onnx.NodeProto, given: _Parts, wanted: _Parts) -> None:
        """Weights of a layer onto their grid, and its bias, so that it answers as it should."""
        weight = self._values[node.input[1]]
        if node.name not in self._keep:
            axis = channel_axis(node)
            matrix = _Layer.of(node, weight)
            if matrix is not None and self._uses[node.input[1]] == 1:
                rows = matrix.rows(given, self._generator)
                told = torch.from_numpy(matrix.flat(weight).copy()).double()
                steps = torch.from_numpy(weight_scale(weight, axis)).double() * (
                    LEVELS / self._levels
                )
                steps = steps.reshape(told.shape[:2])
                found = _rounded(told, rows, steps, levels=self._levels, pinned=self._pinned)
                self._constants[node.input[1]] = matrix.unflat(found.float().numpy(), weight.shape)
            else:
                self._nearest[node.input[1]] = _to_grid(weight, axis, levels=self._levels)
            self._scales[node.input[1]] = np.asarray(
                weight_scale(weight, axis) * np.float32(LEVELS / self._levels), np.float32
            )
        self._correct_bias(node, given, wanted)

    def _correct_bias(self, node: onnx.NodeProto, given: _Parts, wanted: _Parts) -> None:
        bias = node.input[2] if len(node.input) > 2 else ""
        if not bias or self._uses[bias] != 1:
            return
        before = self._values[bias]
        (answers,) = self._answer(node, {node.input[0]: given}, self._constants_of(node))
        axis = 1 if node.op_type in {"Conv", "ConvTranspose"} else -1
        shift = _mean(wanted, axis) - _mean(answers, axis)
        if before.shape == shift.shape:
            self._constants[bias] = np.asarray(before + shift, np.float32)


def _mean(parts: _Parts, axis: int) -> npt.NDArray[np.float64]:
    """Of each place along an axis."""
    total = np.zeros(parts[0].shape[axis])
    count = 0
    for part in parts:
        rows = np.moveaxis(part, axis, -1).reshape(-1, part.shape[axis])
        total += rows.sum(0, dtype=np.float64)
        count += len(rows)
    return total / count


def _to_grid(weight: Weights, axis: int, *, levels: int) -> Weights:
    shape = tuple(-1 if place == axis else 1 for place in range(weight.ndim))
    scale = weight_scale(weight, axis).reshape(shape) * np.float32(LEVELS / levels)
    return np.asarray(np.clip(np.rint(weight / scale), -levels - 1, levels) * scale, np.float32)


def _most_images(model: onnx.ModelProto, batch: int) -> int:
    """So many that the largest activation of all of them fits."""
    graph = infer_shapes(model)
    sizes = [
        int(np.prod([entry.dim_value or 1 for entry in value.type.tensor_type.shape.dim]))
        for value in (*graph.value_info, *graph.input)
        if value.name not in {each.name for each in model.graph.initializer}
    ]
    return max(batch, _MOST_BYTES // (4 * max(sizes, default=1)) // batch * batch)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A weighted node as products of rows with matrices, one for each group of channels."""

    node: onnx.NodeProto
    groups: int
    window: tuple[int, ...]

    @staticmethod
    def of(node: onnx.NodeProto, weight: Weights) -> "_Layer | None":
        """None: it is no such product, or too large a one."""
        if node.op_type in {"Gemm", "MatMul"}:
            turned = bool(_attribute(node, "transA", 0))
            inputs = weight.size // weight.shape[channel_axis(node)]
            return None if turned or inputs > _WIDEST else _Layer(node=node, groups=1, window=())
        padded = _attribute(node, "auto_pad", b"NOTSET")
        pads = _attribute(node, "pads", [0, 0, 0, 0])
        if node.op_type != "Conv" or weight.ndim != 4 or padded not in {b"NOTSET", b""}:
            return None
        if len(pads) != 4 or weight[0].size > _WIDEST:
            return None
        return _Layer(
            node=node, groups=int(_attribute(node, "group", 1)), window=tuple(weight.shape[2:])
        )

    def flat(self, weight: Weights) -> Weights:
        """(groups, outputs of a group, inputs of a row)."""
        if not self.window:
            turned = weight if channel_axis(self.node) == 0 else weight.T
            return np.ascontiguousarray(turned)[None]
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def unflat(self, matrix: Weights, shape: tuple[int, ...]) -> Weights:
        if not self.window:
            return np.ascontiguousarray(matrix[0] if channel_axis(self.node) == 0 else matrix[0].T)
        return matrix.reshape(shape)

    def rows(self, parts: _Parts, generator: torch.Generator) -> Tensor:
        """What meets the weights, (groups, P, inputs of a row), at places drawn evenly from all images."""
        each = max(1, PLACES // sum(len(part) for part in parts))
        drawn = self._patches if self.window else self._vectors
        return torch.cat([drawn(torch.from_numpy(part), each, generator) for part in parts], dim=1)

    def _vectors(self, part: Tensor, most: int, generator: torch.Generator) -> Tensor:
        rows = part.reshape(len(part), -1, part.shape[-1])
        chosen = torch.randperm(rows.shape[1], generator=generator)[:most]
        return rows[:, chosen].reshape(1, -1, part.shape[-1])

    def _patches(self, part: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """The same places in all images of a part."""
        top, left, bottom, right = _attribute(self.node, "pads", [0, 0, 0, 0])
        high, wide = _attribute(self.node, "strides", [1, 1])
        down, across = _attribute(self.node, "dilations", [1, 1])
        padded = functional.pad(part, (left, right, top, bottom))
        last = [
            size - step * (window - 1)
            for size, window, step in zip(
                padded.shape[2:], self.window, (down, across), strict=True
            )
        ]
        columns = len(range(0, last[1], wide))
        chosen = torch.randperm(len(range(0, last[0], high)) * columns, generator=generator)[:most]
        offsets = torch.arange(self.window[0] * self.window[1])
        row = (chosen // columns * high)[:, None] + offsets // self.window[1] * down
        column = (chosen % columns * wide)[:, None] + offsets % self.window[1] * across
        taken = padded[:, :, row, column]  # (images, C, P, window)
        grouped = taken.reshape(len(part), self.groups, -1, *row.shape)
        return grouped.permute(1, 0, 3, 2, 4).reshape(self.groups, len(part) * len(row), -1)


def _rounded(weight: Tensor, rows: Tensor, steps: Tensor, *, levels: int, pinned: bool) -> Tensor:
    """Weights (G, O, D) on grids of `steps` (G, O), columns in the order of what they weigh.

    The rounding of each column minimises what the layer's answers to `rows` (G, P, D) lose, given the columns
    that are rounded already: GPTQ, with the mean taken out of the rows, as the bias makes up for it. Where the
    largest weight of an output is `pinned`, none passes it.
    """
    rows = rows.double()
    rows -= rows.mean(1, keepdim=True)
    products = rows.transpose(1, 2) @ rows / rows.shape[1]  # (G, D, D)
    squares = products.diagonal(dim1=1, dim2=2)
    damping = DAMPING * squares.mean(1, keepdim=True).clamp_min(1e-12)
    products = products + torch.diag_embed(damping.expand_as(squares))
    # All groups of a layer in one order: their columns stand for the same places of the window
    order = squares.mean(0).argsort(descending=True, stable=True)
    products = products[:, order][:, :, order]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(products))
    factor = torch.linalg.cholesky(inverse, upper=True)  # (G, D, D)
    left = weight[:, :, order].clone()
    before = left.clone()
    largest = before.abs().argmax(2)  # (G, O)
    lowest = -levels if pinned else -levels - 1
    found = torch.empty_like(left)
    for start in range(0, left.shape[2], _BLOCK):
        end = min(start + _BLOCK, left.shape[2])
        lost = torch.zeros_like(left[:, :, start:end])
        for column in range(start, end):
            own = left[:, :, column]
            rounded = (own / steps).round().clamp(lowest, levels) * steps
            if pinned:
                rounded = torch.where(largest == column, before[:, :, column], rounded)
            found[:, :, column] = rounded
            error = (own - rounded) / factor[:, column, column, None]
            lost[:, :, column - start] = error
            left[:, :, column:end] -= error[:, :, None] * factor[:, None, column, column:end]
        left[:, :, end:] -= lost @ factor[:, start:end, end:]
    back = torch.empty_like(found)
    back[:, :, order] = found
    return back


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401
    return next(
        (helper.get_attribute_value(each) for each in node.attribute if each.name == name), default
    )
