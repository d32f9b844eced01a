"""What of a graph NVIDIA's deep-learning accelerator (DLA) can compute in FP16, by multiply-accumulates.

Sources: "DLA Supported Layers and Restrictions" of TensorRT's documentation (its summary and, for limits, the text of
the 8.x guides), and the table of ONNX operators in NVIDIA/Deep-Learning-Accelerator-SW, operators/README.md, for
TensorRT 8.5 and 8.6. What neither says is counted as not supported. Nothing was tried on a DLA.

N images, C channels, H x W pixels.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import onnx
from onnx import helper, numpy_helper

from edgekd.export.tensorrt_operators import Version
from edgekd.export.tensorrt_rules import DEFAULT_DOMAIN
from edgekd.export.weightless_graph import infer_shapes

# The last TensorRT with a DLA ...
LAST: Final = (10, 7)
# ... until this one (TensorRT, "Working with DLA")
AGAIN: Final = (11, 4, 1)
# Of any dimension but the batch
LARGEST: Final = 8192
_TEN: Final[Version] = (10, 0)
# Numbers of a constant that are looked at: the rest is weights
_KEPT: Final = 65_536


@dataclass(frozen=True, kw_only=True)
class DlaPlacement:
    """What could run there."""

    # Of the multiply-accumulates; None: there are none
    share: float | None
    cannot: tuple[
        tuple[str, str], ...
    ]  # kinds of operators that stay on the GPU, and why, in graph order


@dataclass(frozen=True, kw_only=True)
class _Node:
    """An operator with what is known of it."""

    node: onnx.NodeProto
    given: Mapping[str, Any]  # attributes
    # Of every tensor whose shape is known
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, onnx.TensorProto]
    # The second generation
    orin: bool
    version: Version  # of TensorRT

    def shape(self, place: int) -> tuple[int, ...]:
        """Of an input."""
        return self.shapes.get(self.node.input[place], ())

    @property
    def made(self) -> tuple[int, ...]:
        return self.shapes.get(self.node.output[0], ())

    @property
    def computed(self) -> list[tuple[int, ...]]:
        """Shapes of the inputs that are no constants."""
        names = (name for name in self.node.input if name and name not in self.constants)
        return [self.shapes.get(name, ()) for name in names]

    def value(self, place: int) -> Any:  # noqa: ANN401
        """A small constant as an array; None where it is computed, left out or large."""
        if place >= len(self.node.input) or not self.node.input[place]:
            return None
        found = self.constants.get(self.node.input[place])
        if found is None or math.prod(found.dims) > _KEPT:
            return None
        return numpy_helper.to_array(found)


def has_dla(tensorrt: str) -> bool:
    """Whether this TensorRT, "10.3.0", builds for a DLA at all."""
    version = tuple(int(part) for part in tensorrt.split("."))
    return version[:2] <= LAST or version >= AGAIN


def on_dla(model: onnx.ModelProto, *, version: Version, orin: bool) -> DlaPlacement:
    """How much of a valid graph without Q/DQ pairs a DLA can compute in FP16, one image at a time.

    Args:
        model: FP32, with its weights inside.
        version: of a TensorRT that has a DLA.
        orin: whether the DLA is Orin's; Xavier's can less.
    """
    total = able = 0
    cannot: dict[str, str] = {}
    for node in _nodes(model, version=version, orin=orin):
        products = _products(node)
        total += products
        why = _why_not(node)
        if why is None:
            able += products
        else:
            cannot.setdefault(node.node.op_type, why)
    return DlaPlacement(share=able / total if total else None, cannot=tuple(cannot.items()))


def _nodes(model: onnx.ModelProto, *, version: Version, orin: bool) -> Iterator[_Node]:
    graph = infer_shapes(model)
    shapes = {
        value.name: tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    constants = {entry.name: entry for entry in model.graph.initializer}
    shapes |= {name: tuple(entry.dims) for name, entry in constants.items()}
    for node in graph.node:
        if node.op_type != "Constant":
            given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            yield _Node(
                node=node,
                given=given,
                shapes=shapes,
                constants=constants,
                orin=orin,
                version=version,
            )


# --- multiply-accumulates -------------------------------------------------------------------------


def _products(node: _Node) -> int:
    """Of one image."""
    kind = node.node.op_type
    if kind == "Conv":
        return math.prod(node.made) * math.prod(node.shape(1)[1:])
    # Each weight meets every position that goes in
    if kind == "ConvTranspose":
        return math.prod(node.shape(0)) * math.prod(node.shape(1)[1:])
    if kind == "Gemm":
        rows = node.shape(0)
        return math.prod(node.made) * (rows[0 if node.given.get("transA") else 1] if rows else 0)
    if kind == "MatMul":
        return math.prod(node.made) * (node.shape(0) or (0,))[-1]
    if kind == "Einsum":
        terms = node.given["equation"].decode().replace(" ", "").partition("->")[0].split(",")
        sizes = {
            letter: size
            for place, term in enumerate(terms)
            for letter, size in zip(term, node.shape(place), strict=False)
        }
        return math.prod(sizes.values()) if len(terms) > 1 else 0
    return 0


# --- what a DLA takes -----------------------------------------------------------------------------


def _why_not(node: _Node) -> str | None:
    """Why a DLA does not run this operator; None where it does."""
    check = _CHECKS.get(node.node.op_type) if node.node.domain in DEFAULT_DOMAIN else None
    if check is None:
        return "no DLA layer"
    if any(size > LARGEST for shape in (*node.computed, node.made) for size in shape[1:]):
        return f"a dimension over {LARGEST}"
    return check(node)


def _images(node: _Node) -> str | None:
    """Two spatial dimensions: (N, C, H, W) in and out."""
    if any(len(shape) != 4 for shape in (*node.computed, node.made)):
        return "not (N, C, H, W)"
    return None


def _within(what: str, values: Any, low: int, high: int) -> str | None:  # noqa: ANN401
    if all(low <= value <= high for value in values):
        return None
    return f"{what} outside {low}..{high}"


def _convolution(node: _Node) -> str | None:
    kernel = node.shape(1)[2:]
    pads = node.given.get("pads", ())
    wide = any(pad >= size for pad, size in zip(pads, (*kernel, *kernel), strict=False))
    return (
        _images(node)
        or ("computed weights" if node.node.input[1] not in node.constants else None)
        or _within("kernel", kernel, 1, 32)
        or _within("padding", pads, 0, 31)
        or ("padding as wide as the kernel" if wide else None)
        or _within("stride", node.given.get("strides", ()), 1, 8)
        or _within("dilation", node.given.get("dilations", ()), 1, 32)
    )


def _deconvolution(node: _Node) -> str | None:
    return (
        _images(node)
        or ("computed weights" if node.node.input[1] not in node.constants else None)
        or _within("kernel", node.shape(1)[2:], 1, 32)
        or ("padding" if any(node.given.get("pads", ())) else None)
        or ("output padding" if any(node.given.get("output_padding", ())) else None)
        or ("groups" if node.given.get("group", 1) != 1 else None)
        or ("dilation" if set(node.given.get("dilations", ())) - {1} else None)
    )


def _product(node: _Node) -> str | None:
    """A fully connected layer: rows (N, C) by constant weights."""
    if node.node.input[1] not in node.constants:
        return "both factors are computed"
    if len(node.shape(0)) != 2 or len(node.shape(1)) != 2:
        return "not rows (N, C)"
    return None


def _clipping(node: _Node) -> str | None:
    low, high = node.value(1), node.value(2)
    if low is None or high is None or float(low) != 0 or not 1 <= float(high) <= 127:
        return "clips otherwise than from 0 to 1..127"
    return _images(node)


def _leaking(node: _Node) -> str | None:
    return _images(node) or ("a negative slope" if node.given.get("alpha", 0.01) < 0 else None)


def _parametric(node: _Node) -> str | None:
    constant = node.node.input[1] in node.constants
    return _images(node) or (None if constant else "computed slopes")


def _element_wise(node: _Node) -> str | None:
    """Operands of equal shape, or one of (N, C, 1, 1) or (N, 1, 1, 1); constants become scales."""
    if (why := _images(node)) is not None:
        return why
    for place in range(len(node.node.input)):
        shape = node.shape(place)
        full = (1,) * (4 - len(shape)) + shape
        small = (full[0], full[1], 1, 1) == full and full[1] in {1, node.made[1]}
        if full != node.made and not small:
            return "broadcasts over pixels"
    return None


def _since_ten(node: _Node) -> str | None:
    """Not in NVIDIA's table for 8.6, and in the documentation of 10."""
    return _element_wise(node) if node.version >= _TEN else "needs TensorRT 10"


def _pooling(node: _Node) -> str | None:
    return (
        _images(node)
        or _within("window", node.given.get("kernel_shape", ()), 1, 8)
        or _within("padding", node.given.get("pads", ()), 0, 7)
        or _within("stride", node.given.get("strides", ()), 1, 16)
    )


def _joining(node: _Node) -> str | None:
    if node.given.get("axis") not in {1, -3}:
        return "not along the channels"
    return _images(node) or ("one input" if len(node.node.input) < 2 else None)


def _shuffle(node: _Node) -> str | None:
    if (why := _images(node)) is not None:
        return why
    moved = node.made[0] != node.shape(0)[0] or node.given.get("perm", (0,))[0] != 0
    return "moves the batch" if moved else None


def _softmax(node: _Node) -> str | None:
    if not node.orin:
        return "Orin's DLA only"
    if (why := _images(node)) is not None:
        return why
    axis = node.given.get("axis", -1) % 4
    return "over the batch" if axis == 0 else _within("axis", (node.made[axis],), 1, 1024)


def _resizing(node: _Node) -> str | None:
    if (why := _images(node)) is not None:
        return why
    before, after = node.shape(0), node.made
    mode = node.given.get("mode", b"nearest").decode()
    most = {"nearest": 32, "linear": 4}.get(mode)
    if most is None:
        return f"mode {mode}"
    if before[:2] != after[:2] or any(b % a for a, b in zip(before[2:], after[2:], strict=True)):
        return "not by whole numbers"
    return _within("scale", (b // a for a, b in zip(before[2:], after[2:], strict=True)), 1, most)


def _slicing(node: _Node) -> str | None:
    if any(node.value(place) is None for place in (1, 2)):
        return "computed bounds"
    return _images(node) or ("over the batch" if node.made[0] != node.shape(0)[0] else None)


def _largest(node: _Node) -> str | None:
    return _images(node) if node.version >= _TEN else "needs TensorRT 10"


def _local_norm(node: _Node) -> str | None:
    size = node.given.get("size", 0)
    return _images(node) or (None if size in {3, 5, 7, 9} else f"a window of {size}")


_CHECKS: Final[dict[str, Callable[[_Node], str | None]]] = {
    "Abs": _images,
    "Add": _element_wise,
    "AveragePool": _pooling,
    "BatchNormalization": _images,
    "Clip": _clipping,
    "Concat": _joining,
    "Conv": _convolution,
    "ConvTranspose": _deconvolution,
    "Div": _since_ten,
    "Gemm": _product,
    "LRN": _local_norm,
    "LeakyRelu": _leaking,
    "MatMul": _product,
    "Max": _element_wise,
    "MaxPool": _pooling,
    "Min": _element_wise,
    "Mul": _element_wise,
    "PRelu": _parametric,
    "Pow": _since_ten,
    "ReduceMax": _largest,
    "Relu": _images,
    "Reshape": _shuffle,
    "Resize": _resizing,
    "Sigmoid": _images,
    "Slice": _slicing,
    "Softmax": _softmax,
    "Sub": _element_wise,
    "Sum": _element_wise,
    "Tanh": _images,
    "Transpose": _shuffle,
}
