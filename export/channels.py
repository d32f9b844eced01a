"""Which channels of a graph can be scaled without changing what it computes.

A channel may be multiplied by a positive factor where the layer that makes it has weights of its own to
multiply, everything that it passes through keeps a factor, and every layer that takes it has weights of its
own to divide (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019,
section 4.1, there for two neighbouring layers). Here channels are followed through additions, joins, gates
and pools as well, so that a whole stream of residual blocks is scaled as one.

Channels are the second axis of tensors of four and two dimensions, and the last of three.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgekd.export.weightless_graph import infer_shapes

Ids: TypeAlias = npt.NDArray[np.int64]
Weights: TypeAlias = npt.NDArray[np.float32]

# A factor goes through them unchanged, channel by channel
_HOMOGENEOUS: Final = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"}
)
_RESHAPING: Final = frozenset({"Flatten", "Reshape", "Squeeze"})
# What they give does not scale with what they take, so nothing passes
_GATES: Final = frozenset({"Sigmoid", "HardSigmoid"})


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A constant, and which class of channels scales each place along an axis."""

    constant: str
    axis: int
    classes: Ids
    # Multiplied by the factor, or divided by it
    divided: bool = False
    # Of convolutions in groups: classes (groups, channels of a group), for places along `axis` of each group
    groups: int = 1


@dataclass(kw_only=True)
class Channels:
    """Classes of channels, each of which has one factor.

    Attributes:
        of: of each tensor whose channels were followed, the class of each.
        fixed: whether a class must keep the factor 1.
        scaled: constants that change with the factors.
    """

    of: Mapping[str, Ids]
    fixed: npt.NDArray[np.bool_]
    scaled: Sequence[Scaled]


@dataclass(kw_only=True)
class _Following:
    """What is known while the graph is walked. Classes are numbers that are joined: a number's parent is an equal."""

    shapes: Mapping[str, Sequence[int]]
    constants: Mapping[str, Weights]
    uses: Counter[str]
    of: dict[str, Ids] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)
    scaled: list[Scaled] = field(default_factory=list)

    def fresh(self, count: int) -> Ids:
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def join(self, first: Ids, second: Ids) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self.parents[self.root(one)] = self.root(other)

    def fix(self, name: str) -> None:
        self.fixed.update(self.of.get(name, np.empty(0, np.int64)).tolist())

    def channels(self, name: str) -> int | None:
        shape = self.shapes.get(name, ())
        place = {4: 1, 3: 2, 2: 1}.get(len(shape))
        return None if place is None else int(shape[place])

    def own(self, name: str) -> bool:
        """Whether a constant belongs to one node alone."""
        return name in self.constants and self.uses[name] == 1


def follow(model: onnx.ModelProto) -> Channels:
    """Channels of a float graph, and what scales them.

    Args:
        model: with one input and one output, whose factors stay 1.
    """
    graph = infer_shapes(model)
    following = _Following(
        shapes={
            value.name: [entry.dim_value for entry in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.input, *graph.output)
        },
        constants={entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer},
        uses=Counter(name for node in model.graph.node for name in node.input),
    )
    for entry in model.graph.input:
        count = following.channels(entry.name)
        if count:
            following.of[entry.name] = following.fresh(count)
            following.fix(entry.name)
    for node in model.graph.node:
        if not _FOLLOWED.get(node.op_type, _no)(node, following):
            _stop(node, following)
    for entry in model.graph.output:
        following.fix(entry.name)
    return _settle(following)


def _settle(following: _Following) -> Channels:
    """Numbers of equals become one, counted from 0."""
    roots = np.array([following.root(each) for each in range(len(following.parents))], np.int64)
    _, classes = np.unique(roots, return_inverse=True)
    count = int(classes.max(initial=-1)) + 1
    fixed = np.zeros(count, bool)
    fixed[classes[sorted(following.fixed)]] = True
    return Channels(
        of={name: classes[ids] for name, ids in following.of.items()},
        fixed=fixed,
        scaled=tuple(
            Scaled(
                constant=each.constant,
                axis=each.axis,
                classes=classes[each.classes],
                divided=each.divided,
                groups=each.groups,
            )
            for each in following.scaled
        ),
    )


def _stop(node: onnx.NodeProto, following: _Following) -> None:
    """What an unknown node takes and gives keeps its factors."""
    for name in node.input:
        following.fix(name)
    for name in node.output:
        count = following.channels(name)
        if count:
            following.of[name] = following.fresh(count)
            following.fix(name)


# --- nodes: each says whether it could be followed ---------------------------------------------------------------


def _no(_: onnx.NodeProto, __: _Following) -> bool:
    return False


def _convolution(node: onnx.NodeProto, following: _Following) -> bool:
    taken = following.of.get(node.input[0])
    if taken is None or not all(following.own(name) for name in node.input[1:] if name):
        return False
    weight = following.constants[node.input[1]]
    groups = int(_attribute(node, "group", 1))
    if weight.shape[1] * groups != len(taken):
        return False
    following.scaled.append(
        Scaled(constant=node.input[1], axis=1, classes=taken, divided=True, groups=groups)
    )
    return _made(node, following, axis=0, count=weight.shape[0])


def _product(node: onnx.NodeProto, following: _Following) -> bool:
    taken = following.of.get(node.input[0])
    if taken is None or not all(following.own(name) for name in node.input[1:] if name):
        return False
    weight = following.constants[node.input[1]]
    plain = {"transA": 0, "alpha": 1.0, "beta": 1.0}
    if weight.ndim != 2 or any(
        _attribute(node, name, value) != value for name, value in plain.items()
    ):
        return False
    out = 0 if _attribute(node, "transB", 0) else 1
    if weight.shape[1 - out] != len(taken):
        return False
    following.scaled.append(
        Scaled(constant=node.input[1], axis=1 - out, classes=taken, divided=True)
    )
    return _made(node, following, axis=out, count=weight.shape[out])


def _made(node: onnx.NodeProto, following: _Following, *, axis: int, count: int) -> bool:
    """What a layer gives has classes of its own, which scale its weights and bias."""
    classes = following.fresh(count)
    following.of[node.output[0]] = classes
    following.scaled.append(Scaled(constant=node.input[1], axis=axis, classes=classes))
    if len(node.input) > 2 and node.input[2]:
        bias = following.constants[node.input[2]]
        if bias.shape == (count,):
            following.scaled.append(Scaled(constant=node.input[2], axis=0, classes=classes))
        else:
            following.fix(node.output[0])
    return True


def _layer_norm(node: onnx.NodeProto, following: _Following) -> bool:
    """Takes what it is given whatever its size was; gives what its own gain and offset scale."""
    following.fix(node.input[0])
    count = following.channels(node.output[0])
    given = [name for name in node.input[1:] if name]
    if not count or not all(following.own(name) for name in given):
        return False
    if any(following.constants[name].shape != (count,) for name in given):
        return False
    classes = following.fresh(count)
    following.of[node.output[0]] = classes
    following.scaled.extend(Scaled(constant=name, axis=0, classes=classes) for name in given)
    return len(node.output) == 1 or not any(node.output[1:])


def _unchanged(node: onnx.NodeProto, following: _Following) -> bool:
    taken = following.of.get(node.input[0])
    if taken is None or following.channels(node.output[0]) != len(taken):
        return False
    following.of[node.output[0]] = taken
    return True


def _reshaped(node: onnx.NodeProto, following: _Following) -> bool:
    """Where there is one value for each channel, its place stays."""
    shape = following.shapes.get(node.input[0], ())
    return len(shape) == 4 and tuple(shape[2:]) == (1, 1) and _unchanged(node, following)


def _averaged(node: onnx.NodeProto, following: _Following) -> bool:
    before, after = (following.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
    inner = len(before) == 4 and (tuple(after[2:]) == (1, 1) or len(after) == 2)
    return inner and _unchanged(node, following)


def _clipped(node: onnx.NodeProto, following: _Following) -> bool:
    """Clipping at 0 alone is homogeneous; what is clipped above would be clipped elsewhere."""
    low, high = (
        following.constants.get(name) if name else None for name in [*node.input[1:3], "", ""][:2]
    )
    unknown = any(name and name not in following.constants for name in node.input[1:3])
    if unknown or high is not None or low is None or float(low.reshape(-1)[0]) != 0.0:
        return False
    return _unchanged(node, following)


def _added(node: onnx.NodeProto, following: _Following) -> bool:
    constant = next((name for name in node.input if name in following.constants), None)
    if constant is not None:
        return _bias_added(node, constant, following)
    first, second = (following.of.get(name) for name in node.input)
    if first is None or second is None or len(first) != len(second):
        return False
    if following.channels(node.output[0]) != len(first):
        return False
    following.join(first, second)
    following.of[node.output[0]] = first
    return True


def _bias_added(node: onnx.NodeProto, constant: str, following: _Following) -> bool:
    """A product has its bias apart."""
    other = next(name for name in node.input if name != constant)
    taken = following.of.get(other)
    bias = following.constants[constant]
    if taken is None or bias.shape != (len(taken),) or not following.own(constant):
        return False
    # Broadcast over the last axis, which is that of the channels in two and three dimensions
    if len(following.shapes.get(other, ())) not in {2, 3}:
        return False
    following.scaled.append(Scaled(constant=constant, axis=0, classes=taken))
    following.of[node.output[0]] = taken
    return True


def _gated(node: onnx.NodeProto, following: _Following) -> bool:
    """Of a product of two, one passes its factors on where the other keeps 1."""
    if any(name in following.constants for name in node.input):
        return False
    values = [following.of.get(name) for name in node.input]
    count = following.channels(node.output[0])
    gates = [each is not None and set(each.tolist()) <= following.fixed for each in values]
    if True not in gates:
        return False
    taken = values[1 - gates.index(True)]
    if taken is None or len(taken) != count:
        return False
    following.of[node.output[0]] = taken
    return True


def _joined(node: onnx.NodeProto, following: _Following) -> bool:
    values = [following.of.get(name) for name in node.input]
    place = {4: 1, 3: 2, 2: 1}.get(len(following.shapes.get(node.output[0], ())))
    axis = int(_attribute(node, "axis", 0))
    rank = len(following.shapes.get(node.output[0], ()))
    if place is None or axis % rank != place:
        return False
    known = [each for each in values if each is not None]
    if len(known) != len(values):
        return False
    following.of[node.output[0]] = np.concatenate(known)
    return True


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401
    return next(
        (helper.get_attribute_value(each) for each in node.attribute if each.name == name), default
    )


_FOLLOWED: Final[dict[str, Callable[[onnx.NodeProto, _Following], bool]]] = {
    "Conv": _convolution,
    "Gemm": _product,
    "MatMul": _product,
    "LayerNormalization": _layer_norm,
    "Clip": _clipped,
    "Add": _added,
    "Mul": _gated,
    "Concat": _joined,
    "ReduceMean": _averaged,
    **dict.fromkeys(_HOMOGENEOUS, _unchanged),
    **dict.fromkeys(_RESHAPING, _reshaped),
}


# --- factors -----------------------------------------------------------------------------------------------------


def rescale(
    model: onnx.ModelProto, channels: Channels, factors: npt.NDArray[np.float64]
) -> onnx.ModelProto:
    """A copy whose channels are multiplied by the factors of their classes; its output is the same.

    Args:
        model: that `channels` are of.
        channels: of it.
        factors: of each class, positive, 1 where it is fixed.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    values: dict[str, npt.NDArray[np.float64]] = {}
    entries = {entry.name: entry for entry in changed.graph.initializer}
    for each in channels.scaled:
        if each.constant not in values:
            values[each.constant] = numpy_helper.to_array(entries[each.constant]).astype(np.float64)
        values[each.constant] = values[each.constant] * spread(
            each, factors, values[each.constant].shape
        )
    for name, value in values.items():
        entries[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return changed


def spread(
    scaled: Scaled, factors: npt.NDArray[np.float64], shape: Sequence[int]
) -> npt.NDArray[np.float64]:
    """What a constant is multiplied by, in a shape that broadcasts with it."""
    own = factors[scaled.classes]
    own = 1 / own if scaled.divided else own
    if scaled.groups > 1:
        # Rows of one group share its channels
        rows = np.repeat(own.reshape(scaled.groups, -1), shape[0] // scaled.groups, axis=0)
        return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))
    return own.reshape([-1 if place == scaled.axis else 1 for place in range(len(shape))])
