"""A graph folded into the kernels that a GPU runtime launches for it.

After TensorRT's documentation ("Types of Fusions"), as far as it can be told from a graph:

- What follows from constants or shapes alone, and what only renames, retypes or re-views a value
  (Reshape, Identity, Cast, QuantizeLinear, DequantizeLinear), is no kernel.
- A convolution or product with weights takes along what is pointwise behind it, as long as nothing
  else reads the value between: normalisation, activation, `x * sigmoid(x)`, a residual addition.
- Pointwise operators in a row are one kernel. A pooling, reduction, softmax or normalisation is one.
- A concatenation writes in place what only it reads; each other input is a copy of its own. That is
  why a DenseNet is slow at batch 1: nearly every value goes into many concatenations.
- Transpose, Slice, Split (each output), Resize, Pad, Gather and their like copy.

Sizes are in elements, so that one list serves every precision. A multiply-accumulate (MAC) is one
multiplication with its addition; bias and activation are not counted.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final, Literal, TypeAlias

import onnx

Kind: TypeAlias = Literal["dense3x3", "dense", "grouped", "product", "pointwise", "pool", "copy"]
Shape: TypeAlias = tuple[int, ...]

_VIEWS: Final = "Reshape Flatten Squeeze Unsqueeze Identity Dropout Cast CastLike QuantizeLinear DequantizeLinear"
# Their answer is a shape or a size, which is known before anything runs.
_SHAPES: Final = "Shape Size ConstantOfShape Range Constant"
_POINTWISE: Final = (
    "Abs Add BatchNormalization Ceil Celu Clip Div Elu Equal Erf Exp Floor Gelu Greater "
    "GreaterOrEqual HardSigmoid HardSwish LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mul Neg Not "
    "PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Softplus Softsign Sqrt Sub Sum Swish Tan Tanh Where"
)
_POOLS: Final = (
    "AveragePool GlobalAveragePool GlobalMaxPool GroupNormalization InstanceNormalization LRN "
    "LayerNormalization LogSoftmax MaxPool ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum ArgMax TopK "
    "RMSNormalization Softmax"
)
_COPIES: Final = (
    "DepthToSpace Expand Gather Pad Resize Slice SpaceToDepth Split Tile Transpose Upsample"
)
VIEWS, SHAPES, POINTWISE, POOLS, COPIES = (
    frozenset(names.split()) for names in (_VIEWS, _SHAPES, _POINTWISE, _POOLS, _COPIES)
)
PRODUCTS: Final = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One launch. `depth` is how many MACs follow one another for one output element."""

    kind: Kind
    macs: int = 0
    # Elements of activations read
    inputs: int = 0
    weights: int = 0  # elements
    # Elements written
    outputs: int = 0
    depth: int = 0
    in_channels: int = 0  # of a group
    out_channels: int = 0  # of a group

    def bytes_moved(self, width_bytes: int) -> int:
        """Read and written once each, at this many bytes an element."""
        return (self.inputs + self.weights + self.outputs) * width_bytes


class Folding:
    """One pass over a graph in topological order, whose shapes are all known.

    Args:
        graph: nodes only; control flow inside of nodes is not looked at.
        shapes: of every value that is computed or put in.
        constants: names of weights and other initialisers.

    Raises:
        KeyError: a size is not known.
        IndexError: an operator lacks an input or a dimension.
        ValueError: weights are for other channels than they get.
    """

    def __init__(
        self, graph: onnx.GraphProto, *, shapes: Mapping[str, Shape], constants: frozenset[str]
    ) -> None:
        self.shapes = shapes
        self.constants = set(constants)
        self.unknown: Counter[str] = Counter()
        self.kernels: list[Kernel] = []
        # A view, and what it is a view of
        self._same: dict[str, str] = {}
        # Value: place in kernels
        self._made_by: dict[str, int] = {}
        nodes = [node for node in graph.node if not self._is_constant(node)]
        self._readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in nodes:
            if node.op_type in VIEWS:
                self._same[node.output[0]] = self._root(node.input[0])
        for node in nodes:
            if node.op_type not in VIEWS:
                for name in dict.fromkeys(map(self._root, self._list_computed_inputs(node))):
                    self._readers[name].append(node)
        self._outputs = {self._root(entry.name) for entry in graph.output}
        for node in nodes:
            if node.op_type not in VIEWS:
                self._fold(node)

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        given = [name for name in node.input if name]
        found = node.op_type in SHAPES or all(name in self.constants for name in given)
        if found:
            self.constants.update(node.output)
        return found

    def _root(self, name: str) -> str:
        while name in self._same:
            name = self._same[name]
        return name

    def _list_computed_inputs(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in self.constants]

    def _size(self, name: str) -> int:
        return prod(self.shapes[name])

    def _fold(self, node: onnx.NodeProto) -> None:
        operator = node.op_type
        if operator in PRODUCTS:
            self._launch(node, self._product(node))
        elif operator in POINTWISE:
            self._pointwise(node)
        elif operator == "Concat":
            self._concatenation(node)
        else:
            if operator not in POOLS | COPIES:
                self.unknown[operator] += 1
            kind: Kind = "pool" if operator in POOLS else "copy"
            for name in filter(None, node.output):
                outputs = self._size(name)
                inputs = (
                    outputs
                    if operator in COPIES
                    else sum(map(self._size, dict.fromkeys(self._list_computed_inputs(node))))
                )
                kernel = Kernel(kind=kind, inputs=inputs, outputs=outputs)
                self._launch(node, kernel, output=name)

    def _launch(self, node: onnx.NodeProto, kernel: Kernel, *, output: str | None = None) -> None:
        self._made_by[output or node.output[0]] = len(self.kernels)
        self.kernels.append(kernel)

    def _product(self, node: onnx.NodeProto) -> Kernel:
        outputs = self._size(node.output[0])
        inputs = sum(self._size(name) for name in self._list_computed_inputs(node))
        weights = sum(
            prod(self.shapes[name]) for name in node.input if name and name in self.constants
        )
        if node.op_type in ("Gemm", "MatMul"):
            first = self.shapes[node.input[0]]
            across = any(each.name == "transA" and each.i for each in node.attribute)
            depth = first[0] if across else first[-1]
            return Kernel(
                kind="product",
                macs=outputs * depth,
                inputs=inputs,
                weights=weights,
                outputs=outputs,
                depth=depth,
                in_channels=depth,
                out_channels=self.shapes[node.output[0]][-1],
            )
        shape = self.shapes[node.input[1]]
        groups = next((each.i for each in node.attribute if each.name == "group"), 1)
        channels = shape[0] if node.op_type == "ConvTranspose" else shape[1] * groups
        taken = self.shapes[node.input[0]][1]
        if groups < 1 or channels != taken:
            raise ValueError(
                f"{node.op_type} {node.name!r} is for {channels} channels and gets {taken}"
            )
        if node.op_type == "Conv":
            out_channels, in_channels = shape[0] // groups, shape[1]
            macs = outputs * in_channels * prod(shape[2:])
        else:  # each input element meets the whole filter
            in_channels, out_channels = shape[0] // groups, shape[1]
            macs = self._size(node.input[0]) * out_channels * prod(shape[2:])
        kind: Kind = "dense" if groups == 1 else "grouped"
        steps = [step for each in node.attribute if each.name in _STEPS for step in each.ints]
        if kind == "dense" and shape[2:] == (3, 3) and set(steps) <= {1}:
            kind = "dense3x3"
        return Kernel(
            kind=kind,
            macs=macs,
            inputs=inputs,
            weights=weights,
            outputs=outputs,
            depth=in_channels * prod(shape[2:]),
            in_channels=in_channels,
            out_channels=out_channels,
        )

    def _pointwise(self, node: onnx.NodeProto) -> None:
        """Into the kernel before it where one may be extended; else one of its own."""
        given = list(dict.fromkeys(map(self._root, self._list_computed_inputs(node))))
        hosts = {
            name: place
            for name in given
            if (place := self._made_by.get(name)) is not None
            and self.kernels[place].kind in _EXTENDED
            and name not in self._outputs
            and self._only_here(name, node, place, given)
        }
        if not hosts:
            inputs = sum(map(self._size, given))
            outputs = self._size(node.output[0])
            self._launch(node, Kernel(kind="pointwise", inputs=inputs, outputs=outputs))
            return
        # The last kernel: what the others made is there when it runs.
        host, place = max(hosts.items(), key=lambda pair: pair[1])
        read = sum(
            self._size(name) for name in given if name != host and self._made_by.get(name) != place
        )
        kernel = self.kernels[place]
        self.kernels[place] = replace(
            kernel, inputs=kernel.inputs + read, outputs=self._size(node.output[0])
        )
        self._made_by[node.output[0]] = place

    def _only_here(self, name: str, node: onnx.NodeProto, place: int, given: list[str]) -> bool:
        """Whether a value is read by this node alone, or by it and a gate that ends in it: `x * sigmoid(x)`."""
        others = [each for each in self._readers[name] if each is not node]
        if not others:
            return True
        if len(others) > 1 or len(given) > 2:
            return False
        other = others[0]
        if other.op_type not in POINTWISE:
            return False
        # The gate has been folded before this node
        if self._root(other.output[0]) in given:
            return self._made_by.get(self._root(other.output[0])) == place
        # This node is the gate: its only reader is the one that also reads the value.
        readers = self._readers[node.output[0]]
        return len(readers) == 1 and readers[0] is other

    def _concatenation(self, node: onnx.NodeProto) -> None:
        read = Counter(map(self._root, self._list_computed_inputs(node)))
        for name, times in read.items():
            in_place = (
                times == 1
                and len(self._readers[name]) == 1
                and name in self._made_by
                and name not in self._outputs
            )
            if not in_place:
                size = self._size(name)
                self.kernels += [Kernel(kind="copy", inputs=size, outputs=size)] * times


_STEPS: Final = frozenset(("strides", "dilations"))
_EXTENDED: Final = frozenset(("dense", "dense3x3", "grouped", "product", "pointwise"))
