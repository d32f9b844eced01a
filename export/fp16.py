"""FP16 in the graph, for TensorRTs that take types from it; and what would overflow, for those that choose.

Every floating-point tensor becomes half where the images show that it fits; input and output stay
FP32. In a graph with Q/DQ pairs, what lies outside them becomes half, which needs opset 19.

N images, C channels, H x W pixels.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import IncompatibleError, QualityError
from edgekd.export.parity import Array, outputs_of
from edgekd.export.qdq import WEIGHTED, exposing
from edgekd.export.tensorrt_quantisation import FP16_SCALES_SINCE
from edgekd.export.tensorrt_rules import QUANTISING, opset_of
from edgekd.export.weightless_graph import infer_shapes

LARGEST: Final = float(np.finfo(np.float16).max)
# Real images may reach further than synthetic ones did; NVIDIA's converters leave as much.
MARGIN: Final = 8.0
# Below, bits are lost
SMALLEST: Final = float(np.finfo(np.float16).smallest_normal)
# The mean of so many values is summed first; what is summed must fit as well.
_SUMMING: Final = frozenset({"ReduceMean", "ReduceSum", "GlobalAveragePool", "ReduceL2"})
_NORMS: Final = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization"})
# Inputs that the standard has in FP32
_ALWAYS_FLOAT: Final = {"Resize": (1, 2), "Upsample": (1,)}
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@dataclass(kw_only=True)
class _Writing:
    """A graph while it is rewritten."""

    floats: frozenset[str]  # tensors
    constants: Mapping[str, onnx.TensorProto]
    # Nodes that stay in FP32
    kept: frozenset[str]
    types: dict[str, int] = field(
        default_factory=dict
    )  # of floating-point tensors, as they are now
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initialisers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    cast: dict[tuple[str, int], str] = field(default_factory=dict)

    def cast_to(self, name: str, kind: int) -> str:
        """The name of a tensor in a type; a cast is written once."""
        if name not in self.floats:
            return name
        constant = self.constants.get(name)
        if constant is not None:
            return self._constant(constant, kind)
        if self.types[name] == kind:
            return name
        if (name, kind) not in self.cast:
            other = f"{name}_{'fp16' if kind == _HALF else 'fp32'}"
            self.cast[name, kind] = other
            self.nodes.append(
                helper.make_node("Cast", [name], [other], name=f"Cast_{other}", to=kind)
            )
        return self.cast[name, kind]

    def _constant(self, tensor: onnx.TensorProto, kind: int) -> str:
        name = tensor.name if kind == _FLOAT else f"{tensor.name}_fp16"
        if name not in self.initialisers:
            values = numpy_helper.to_array(tensor)
            self.initialisers[name] = numpy_helper.from_array(
                values if kind == _FLOAT else values.astype(np.float16), name
            )
        return name


def overflowing(model: onnx.ModelProto, images: Array) -> tuple[str, ...]:
    """Names of the nodes that must stay in FP32, in graph order.

    A node stays where a value that it takes, makes or sums comes within a factor of 8 of what FP16
    holds, or a weight's largest value is too small for it.

    Args:
        model: FP32, with or without Q/DQ pairs.
        images: normalised (N, C, H, W).

    Raises:
        QualityError: a tensor is not finite in FP32 either.
        InputFileError: the model takes other images.
    """
    return run_and_find_overflow(
        model, images, exposed=expose_floats(model, model.SerializeToString())
    )[0]


def expose_floats(model: onnx.ModelProto, data: bytes) -> bytes:
    """A model as bytes, followed by what makes its inner floating-point tensors outputs.

    Args:
        model: FP32, with or without Q/DQ pairs.
        data: the same as bytes, with which what is returned begins.
    """
    return exposing(data, _inner(model, _floats(model)))


def _inner(model: onnx.ModelProto, floats: frozenset[str]) -> list[str]:
    outputs = {entry.name for entry in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name in floats]
    return [name for name in made if name not in outputs]


def run_and_find_overflow(
    model: onnx.ModelProto, images: Array, *, exposed: bytes
) -> tuple[tuple[str, ...], list[Array]]:
    """`overflowing`, and what the graph gives in the same pass, a list for each of its outputs joined.

    Args:
        model: see there.
        images: likewise.
        exposed: the model as `expose_floats` writes it.
    """
    floats = _floats(model)
    inputs = {entry.name for entry in model.graph.input}
    outputs = [entry.name for entry in model.graph.output]
    inner = _inner(model, floats)
    reached = dict.fromkeys(floats, 0.0)
    sizes: dict[str, int] = {}
    answers: dict[str, list[Array]] = {name: [] for name in outputs}
    wanted = [*inner, *outputs]
    for part, found in outputs_of(exposed, images, wanted):
        for name, values in (
            *zip(wanted, found, strict=True),
            *((name, part) for name in inputs & floats),
        ):
            if name in answers:
                answers[name].append(values)
            largest = _largest(values)
            if not np.isfinite(largest):
                raise QualityError(f"{name} is not finite in FP32. Look at the weights.")
            reached[name] = max(reached.get(name, 0.0), largest)
            sizes[name] = values.size // len(part)
    constants = {e.name: numpy_helper.to_array(e) for e in model.graph.initializer}
    for name in floats & constants.keys():
        reached[name] = _largest(constants[name])
    kept = _with_pairs(
        model,
        {
            node.name
            for node in model.graph.node
            if _too_far(node, reached, sizes) or _too_near(node, constants)
        },
    )
    return kept, [np.concatenate(parts) for parts in answers.values()]


def _largest(values: npt.NDArray[Any]) -> float:
    """Of the absolute values, without a copy of them; NaN where there is one."""
    return max(float(values.max()), -float(values.min())) if values.size else 0.0


def _with_pairs(model: onnx.ModelProto, kept: set[str]) -> tuple[str, ...]:
    """Layers and the Q/DQ pairs that feed them have one type: a cast between them would part the pair from its layer."""
    makers = {name: node for node in model.graph.node for name in node.output}
    groups = []
    for node in model.graph.node:
        if node.op_type not in WEIGHTED:
            continue
        back = [makers.get(name) for name in node.input[:2]]
        pairs = [each for each in back if each is not None and each.op_type == "DequantizeLinear"]
        before = [makers[each.input[0]] for each in pairs if each.input[0] in makers]
        if pairs:
            groups.append({node.name, *(each.name for each in (*pairs, *before))})
    growing = True
    # A pair can feed several layers
    while growing:
        growing = False
        for group in groups:
            if group & kept and not group <= kept:
                kept = kept | group
                growing = True
    return tuple(node.name for node in model.graph.node if node.name in kept)


def _too_far(node: onnx.NodeProto, reached: Mapping[str, float], sizes: Mapping[str, int]) -> bool:
    limit = LARGEST / MARGIN
    if any(reached.get(name, 0.0) > limit for name in (*node.input, *node.output)):
        return True
    # Squares are summed
    if node.op_type in _NORMS:
        return reached.get(node.input[0], 0.0) ** 2 > limit
    if node.op_type in _SUMMING and node.input[0] in sizes and node.output[0] in sizes:
        summed = max(1, sizes[node.input[0]] // max(1, sizes[node.output[0]]))
        return reached[node.output[0]] * summed > limit
    return False


def _too_near(node: onnx.NodeProto, constants: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether a weight, or a scale of a pair, vanishes in FP16."""
    if node.op_type in QUANTISING:
        scale = constants.get(node.input[1])
        return scale is not None and float(np.abs(scale).min()) < SMALLEST
    known = (constants[name] for name in node.input if name in constants)
    sizes = (_largest(each) for each in known if each.dtype == np.float32)
    return any(0 < size < SMALLEST for size in sizes)


def to_half(model: onnx.ModelProto, *, keep: Collection[str]) -> onnx.ModelProto:
    """A copy that computes in FP16 but for the nodes of `keep`; inputs and outputs stay FP32.

    Raises:
        IncompatibleError: there are Q/DQ pairs, and the opset has none in FP16.
    """
    pairs = any(node.op_type in QUANTISING for node in model.graph.node)
    if pairs and opset_of(model) < FP16_SCALES_SINCE:
        raise IncompatibleError(
            f"opset {opset_of(model)} has no Q/DQ in FP16: export at {FP16_SCALES_SINCE} or above."
        )
    floats = _floats(model)
    outputs = [entry.name for entry in model.graph.output]
    writing = _Writing(
        floats=floats,
        constants={entry.name: entry for entry in model.graph.initializer},
        kept=frozenset(keep),
    )
    writing.types |= {entry.name: _FLOAT for entry in model.graph.input if entry.name in floats}
    for node in model.graph.node:
        _rewritten(node, writing, outputs)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:], changed.graph.value_info[:], changed.graph.initializer[:]
    changed.graph.node.extend(writing.nodes)
    used = {name for node in writing.nodes for name in node.input}
    plain = [entry for entry in model.graph.initializer if entry.name not in floats]
    changed.graph.initializer.extend(
        entry for entry in (*plain, *writing.initialisers.values()) if entry.name in used
    )
    return changed


def _rewritten(node: onnx.NodeProto, writing: _Writing, outputs: Collection[str]) -> None:
    kind = _FLOAT if node.name in writing.kept else _HALF
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    always = _ALWAYS_FLOAT.get(node.op_type, ())
    for place, name in enumerate(node.input):
        changed.input[place] = writing.cast_to(name, _FLOAT if place in always else kind)
    for entry in changed.attribute:
        if node.op_type == "Cast" and entry.name == "to" and entry.i == _FLOAT:
            entry.i = kind
        elif entry.type == onnx.AttributeProto.TENSOR and entry.t.data_type == _FLOAT:
            values = numpy_helper.to_array(entry.t)
            if kind == _HALF:
                entry.t.CopyFrom(numpy_helper.from_array(values.astype(np.float16)))
    ends = []
    for place, name in enumerate(node.output):
        if name not in writing.floats:
            continue
        if name in outputs and kind == _HALF:
            changed.output[place] = f"{name}_half"
            writing.types[f"{name}_half"] = kind
            ends.append((f"{name}_half", name))
        writing.types[name] = kind
    writing.nodes.append(changed)
    for half, name in ends:
        writing.nodes.append(
            helper.make_node("Cast", [half], [name], name=f"Cast_{name}", to=_FLOAT)
        )
        writing.types[name] = _FLOAT


def _floats(model: onnx.ModelProto) -> frozenset[str]:
    """Names of all FP32 tensors."""
    graph = infer_shapes(model)
    values = (*graph.value_info, *graph.input, *graph.output)
    return frozenset(_names_of(values)) | {
        entry.name for entry in model.graph.initializer if entry.data_type == _FLOAT
    }


def _names_of(values: Collection[onnx.ValueInfoProto]) -> Iterator[str]:
    return (value.name for value in values if value.type.tensor_type.elem_type == _FLOAT)
