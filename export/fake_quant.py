"""The network as INT8 will run it, differentiable: for tuning weights and scales against the teacher.

Rounding passes gradients straight through and scales are learned (LSQ, Esser et al., ICLR 2020); they are
kept as logarithms, so that one rate suits them all and none can become negative. Batch-norms are folded
first, as the exporter folds them, and stay as they were. What is learned goes back into the FP32 file from
which the INT8 file is then made: structure, names and opset are those of the untuned files.

N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from edgekd.errors import IncompatibleError
from edgekd.export.calibration import LEVELS
from edgekd.export.qdq import (
    Weights,
    activations,
    channel_axis,
    weight_scale,
    weighted,
)

_aten = torch.ops.aten
_WEIGHTED: Final = frozenset(
    {
        _aten.conv2d.default,
        _aten.conv2d.padding,
        _aten.linear.default,
        _aten.conv_transpose2d.input,
    }
)
_NORMS: Final = frozenset({_aten.batch_norm.default})
_ADDITIONS: Final = frozenset({_aten.add.Tensor, _aten.add_.Tensor})
# Of the largest weight: two foldings of a batch-norm differ by rounding
_SAME: Final = 1e-3
# Of a channel's weights, whose scale is not 0
_SMALLEST: Final = 1e-12
_ADVICE: Final = "Leave out --tune; the INT8 file is then calibrated only."


@dataclass(frozen=True, kw_only=True)
class FinetunedValues:
    """What was learned, by the names of the FP32 file."""

    # Weights and biases
    constants: Mapping[str, Weights]
    # Of activations
    limits: Mapping[str, float]
    # A scale a channel, where scales were learned
    weight_scales: Mapping[str, Weights]


def fake_quantised(values: Tensor, scale: Tensor, *, levels: int) -> Tensor:
    """Values as a pair gives them back; the gradient passes the rounding, not the limits."""
    scaled = (values / scale).clamp(-levels - 1, levels)
    return (scaled + (scaled.round() - scaled).detach()) * scale


class _Activation(nn.Module):
    """A pair on an activation, one scale."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(limit / LEVELS, dtype=torch.float32).log())

    def forward(self, values: Tensor) -> Tensor:
        return fake_quantised(values, self.log_scale.exp(), levels=LEVELS)


class _Weight(nn.Module):
    """A weight and its pair, a scale for each channel along an axis."""

    def __init__(
        self, weight: Tensor, scale: Weights, axis: int, *, levels: int, learned: bool
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        shape = tuple(-1 if place == axis else 1 for place in range(weight.ndim))
        self.log_scale = nn.Parameter(
            torch.from_numpy(scale.copy()).log().reshape(shape), requires_grad=learned
        )
        self.others = tuple(place for place in range(weight.ndim) if place != axis)
        self.levels = levels
        self.learned = learned

    def forward(self) -> Tensor:
        if self.learned:
            scale = self.log_scale.exp()
        else:
            largest = self.weight.detach().abs().amax(self.others, keepdim=True)
            scale = largest.clamp(min=_SMALLEST) / self.levels
        return fake_quantised(self.weight, scale, levels=self.levels)


class FakeQuantised(nn.Module):
    """A module with the pairs that `qdq.with_pairs` would write, in the same places.

    Args:
        module: evaluation mode, on the CPU; it stays as it is.
        model: its FP32 graph.
        limits: of the graph's activations, where learning starts.
        shape: of an image, (C, H, W).
        keep: names of layers that stay in floating point, as they are.
        weight_levels: of a weight on either side of 0; activations have those of 8 bits.
        weight_scales_learned: otherwise each is what the largest weight of its channel says, as a quantiser takes it
            that is given weights alone.

    Raises:
        IncompatibleError: torch cannot trace the module, or its layers cannot be told in the graph.
    """

    def __init__(
        self,
        module: nn.Module,
        model: onnx.ModelProto,
        limits: Mapping[str, float],
        *,
        shape: tuple[int, int, int],
        keep: Container[str] = (),
        weight_levels: int = LEVELS,
        weight_scales_learned: bool = True,
    ) -> None:
        super().__init__()
        self._values = {e.name: numpy_helper.to_array(e) for e in model.graph.initializer}
        self._weight_levels = weight_levels
        self._weight_scales_learned = weight_scales_learned
        self._graph = _trace(module, shape)
        _fold(self._graph)
        layers = list(_layers(self._graph))
        nodes = list(_weighted_nodes(model, self._values))
        if len(layers) != len(nodes):
            raise IncompatibleError(
                f"the network has {len(layers)} weighted layers where its graph has {len(nodes)}. {_ADVICE}"
            )
        self._activations = nn.ModuleDict()
        self._weights = nn.ModuleDict()
        self._biases = nn.ParameterDict()
        # Of what is learned: ours to the file's
        self._names: dict[str, str] = {}
        for part, modules in (("edgekd_a", self._activations), ("edgekd_w", self._weights)):
            self._graph.add_module(part, modules)
        learned = [pair for pair in zip(layers, nodes, strict=True) if pair[1].name not in keep]
        for number, (layer, node) in enumerate(learned):
            self._wrap(number, layer, node)
        quantised = tuple(name for name in activations(model, keep=keep) if name in limits)
        for name in quantised:
            self._activations[self._key(name)] = _Activation(limits[name])
        for layer, node in learned:
            self._through_pair(layer, 0, node.input[0])
        self._residuals(model, quantised)
        self._graph.graph.lint()
        self._graph.recompile()

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, K)
        answer = self._graph(images)
        assert isinstance(answer, Tensor)
        return answer

    def learnable_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Weights and biases; logarithms of scales."""
        weights: list[nn.Parameter] = [each.weight for each in self._weights.values()]  # type: ignore[misc]
        scales: list[nn.Parameter] = [
            each.log_scale  # type: ignore[misc]
            for each in (*self._weights.values(), *self._activations.values())
            if each.log_scale.requires_grad
        ]
        return [*weights, *self._biases.values()], scales

    @torch.no_grad()
    def collect_tuned(self) -> FinetunedValues:
        """What goes back into the FP32 file."""
        constants, scales = {}, {}
        for key, part in self._weights.items():
            assert isinstance(part, _Weight)
            name = self._names[key]
            shape = self._values[name].shape
            # On its grid: fewer than 8 bits clip earlier than the file's INT8 would.
            learned = part().cpu().numpy()
            constants[name] = (learned if learned.shape == shape else learned.T).copy()
            # Of a quantiser's own choice there is none to be told
            if not part.learned:
                continue
            scales[name] = part.log_scale.exp().flatten().cpu().numpy().copy()
        for key, bias in self._biases.items():
            constants[self._names[key]] = bias.detach().cpu().numpy().copy()
        limits = {
            self._names[key]: float(part.log_scale.exp()) * LEVELS  # type: ignore[operator]
            for key, part in self._activations.items()
        }
        return FinetunedValues(constants=constants, limits=limits, weight_scales=scales)

    def _key(self, name: str) -> str:
        """A name of the file as one that modules may have."""
        key = next((ours for ours, known in self._names.items() if known == name), None)
        if key is None:
            key = f"t{len(self._names)}"
            self._names[key] = name
        return key

    def _wrap(self, number: int, layer: fx.Node, node: onnx.NodeProto) -> None:
        """Weights through a pair, and biases as what is learned."""
        weight = _constant(self._graph, layer.args[1])
        told = self._values[node.input[1]]
        axis = channel_axis(node)
        scale = weight_scale(told, axis) * np.float32(LEVELS / self._weight_levels)
        alike = told.shape == tuple(weight.shape)
        if not alike and told.T.shape == tuple(weight.shape):
            # A product that the exporter turned around
            told, axis = told.T, 1 - axis
        if told.shape != tuple(weight.shape) or not np.allclose(
            told, weight.numpy(), atol=_SAME * float(np.abs(told).max())
        ):
            raise IncompatibleError(
                f"layer {number} of the network is not {node.name} of its graph. {_ADVICE}"
            )
        key = self._key(node.input[1])
        self._weights[key] = _Weight(
            torch.from_numpy(told.copy()),
            scale,
            axis,
            levels=self._weight_levels,
            learned=self._weight_scales_learned,
        )
        with self._graph.graph.inserting_before(layer):
            layer.update_arg(1, self._graph.graph.call_module(f"edgekd_w.{key}"))
        bias = layer.args[2] if len(layer.args) > 2 else None
        if isinstance(bias, fx.Node) and len(node.input) > 2:
            key = self._key(node.input[2])
            self._biases[key] = nn.Parameter(torch.from_numpy(self._values[node.input[2]].copy()))
            self._graph.register_parameter(f"edgekd_b_{key}", self._biases[key])
            with self._graph.graph.inserting_before(layer):
                layer.update_arg(2, self._graph.graph.get_attr(f"edgekd_b_{key}"))

    def _through_pair(self, user: fx.Node, place: int, name: str) -> None:
        with self._graph.graph.inserting_before(user):
            pair = self._graph.graph.call_module(f"edgekd_a.{self._key(name)}", (user.args[place],))
        user.update_arg(place, pair)

    def _residuals(self, model: onnx.ModelProto, quantised: tuple[str, ...]) -> None:
        nodes = [
            node
            for node in model.graph.node
            if node.op_type == "Add" and not any(name in self._values for name in node.input)
        ]
        additions = [node for node in self._graph.graph.nodes if _residual(node)]
        if len(nodes) != len(additions):
            raise IncompatibleError(
                f"the network has {len(additions)} additions where its graph has {len(nodes)}. {_ADVICE}"
            )
        for addition, node in zip(additions, nodes, strict=True):
            places = [place for place, name in enumerate(node.input) if name in quantised]
            # The last that has a pair, as in the file
            if places:
                self._through_pair(addition, places[-1], node.input[places[-1]])


def _trace(module: nn.Module, shape: tuple[int, int, int]) -> fx.GraphModule:
    """The module as a graph of aten's functions, any batch."""
    sample = torch.zeros(2, *shape)
    open_batch = ({0: torch.export.Dim("batch")},)
    try:
        program = torch.export.export(module, (sample,), dynamic_shapes=open_batch)
    except Exception as error:
        # Tracing runs the network's own code, which may raise anything.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise IncompatibleError(f"torch cannot trace the network: {reason} {_ADVICE}") from error
    graph = program.module()
    assert isinstance(graph, fx.GraphModule)
    return graph


def _fold(traced: fx.GraphModule) -> None:
    """Batch-norms into the convolutions before them, where nothing else takes what lies between."""
    for norm in list(traced.graph.nodes):
        if norm.target not in _NORMS:
            continue
        layer = norm.args[0]
        if layer.target not in _WEIGHTED or len(layer.users) > 1:
            continue
        weight = _constant(traced, layer.args[1])
        gain, offset, mean, variance = (_constant(traced, each) for each in norm.args[1:5])
        factor = gain * (variance + norm.args[7]).rsqrt()
        before = layer.args[2] if len(layer.args) > 2 else None
        bias = torch.zeros_like(mean) if before is None else _constant(traced, before)
        axis = 1 if layer.target is _aten.conv_transpose2d.input else 0
        shape = tuple(-1 if place == axis else 1 for place in range(weight.ndim))
        name = f"edgekd_folded_{norm.name}"
        traced.register_buffer(f"{name}_weight", weight * factor.reshape(shape))
        traced.register_buffer(f"{name}_bias", (bias - mean) * factor + offset)
        with traced.graph.inserting_before(layer):
            parts = [traced.graph.get_attr(f"{name}_{part}") for part in ("weight", "bias")]
        layer.args = (layer.args[0], *parts, *layer.args[3:])
        norm.replace_all_uses_with(layer)
        traced.graph.erase_node(norm)
    traced.graph.eliminate_dead_code()


def _layers(traced: fx.GraphModule) -> Iterator[fx.Node]:
    for node in traced.graph.nodes:
        if node.target in _WEIGHTED and _is_constant(node.args[1]):
            yield node


def _weighted_nodes(
    model: onnx.ModelProto, values: Mapping[str, Weights]
) -> Iterator[onnx.NodeProto]:
    dimensions = {name: value.ndim for name, value in values.items()}
    return (node for node in model.graph.node if weighted(node, dimensions))


def _residual(node: fx.Node) -> bool:
    return node.target in _ADDITIONS and not any(
        _is_constant(each) or not isinstance(each, fx.Node) for each in node.args[:2]
    )


def _is_constant(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _constant(traced: fx.GraphModule, argument: object) -> Tensor:
    assert isinstance(argument, fx.Node)
    found: object = traced
    for part in str(argument.target).split("."):
        found = getattr(found, part)
    assert isinstance(found, Tensor)
    return found.detach()


def with_constants(model: onnx.ModelProto, constants: Mapping[str, Weights]) -> onnx.ModelProto:
    """A copy of a graph with other weights."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for entry in changed.graph.initializer:
        if entry.name in constants:
            entry.CopyFrom(numpy_helper.from_array(constants[entry.name], entry.name))
    return changed
