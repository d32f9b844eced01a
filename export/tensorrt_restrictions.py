"""Forms of an operator that TensorRT does not take, though it has the operator.

Sources: the column "Restrictions" of onnx-tensorrt's `docs/operators.md`, its changelog for the versions
(`docs/Changelog.md`), and what NVIDIA's parser asserts (TensorRT-RTX 1.7.1.116, run on the node tests of
onnx 1.23; `benchmarks/export/parser.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

import onnx

from edgekd.export.tensorrt_operators import Version
from edgekd.export.tensorrt_types import FLOATS, WHOLE, name_of

# Weights that are computed
CONVOLUTION_WEIGHTS_SINCE: Final[Version] = (8, 5)
# A K that is computed
TOP_K_SINCE: Final[Version] = (8, 6)
# Scale and bias that are computed
INSTANCE_SCALES_SINCE: Final[Version] = (9, 2)
# `Clip` took INT8 before
CLIP_WITHOUT_INT8_SINCE: Final[Version] = (9, 2)
# `reduction` of ScatterElements, `wrap` of Pad
REDUCTIONS_SINCE: Final[Version] = (10, 0)
# An axis that is computed
CUMULATIVE_AXIS_SINCE: Final[Version] = (10, 8)
# Opset 21, where scale and bias are per channel
GROUPS_BY_CHANNEL_SINCE: Final[Version] = (10, 9)
# ... and the first opset of that
GROUPS_BY_CHANNEL_OPSET: Final = 21
# Mode cubic: not in the tables up to 10.15; TensorRT-RTX 1.7 reads and builds it
CUBIC_SINCE: Final[Version] = (11, 0)
# Ellipses, diagonals, broadcasting
EINSUM_FORMS_SINCE: Final[Version] = (10, 12)

_COORDINATES: Final = {
    "half_pixel",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "asymmetric",
    "align_corners",
}
_OTHERS: Final = "choose a student without it"
_FOLD: Final = "fold constants"

Found = Iterator[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node of the standard's own operators, and what is known of it.

    Attributes:
        node: itself.
        attributes: by name, as Python values.
        computed: its inputs after the first that are known only when the engine runs.
        kinds: element types of tensors by name, as far as they follow from the graph.
        shapes: sizes of tensors by name, likewise; None where one is open.
        opset: of the file.
        version: of TensorRT.
    """

    node: onnx.NodeProto
    attributes: Mapping[str, Any]
    computed: Set[str]
    kinds: Mapping[str, int]
    shapes: Mapping[str, tuple[int | None, ...]]
    opset: int
    version: Version

    def text(self, name: str, default: str) -> str:
        """An attribute that is text."""
        value = self.attributes.get(name)
        return value.decode(errors="replace") if isinstance(value, bytes) else default

    def input(self, place: int) -> str:
        """The name of an input; empty where it is left out."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def is_computed(self, place: int) -> bool:
        """Whether the input is there and known only when the engine runs."""
        return self.input(place) in self.computed


def find_restrictions(node: Node) -> Found:
    """What is not taken of one node, and what to do."""
    kind = node.node.op_type
    if kind in {"AveragePool", "MaxPool", "LpPool"} and set(
        node.attributes.get("dilations", ())
    ) - {1}:
        yield "no dilations", _OTHERS
    if kind in {"MaxPool", "LayerNormalization", "BatchNormalization"} and any(
        node.node.output[1:]
    ):
        yield "only the first output", "leave the other outputs out"
    look = _BY_KIND.get(kind)
    if look is not None:
        yield from look(node)


def _weights(node: Node) -> Found:
    if node.version < CONVOLUTION_WEIGHTS_SINCE and node.computed:
        yield "weights that are computed need TensorRT 8.5", _FOLD


def _instance_norm(node: Node) -> Found:
    if node.version < INSTANCE_SCALES_SINCE and node.computed:
        yield "scale and bias that are computed need TensorRT 9.2", _FOLD


def _batch_norm(node: Node) -> Found:
    if node.attributes.get("training_mode"):
        yield "no training mode", "export the network in evaluation mode"


def _group_norm(node: Node) -> Found:
    # NVIDIA/TensorRT issues 4336 (10.7) and 4756 (10.16).
    if node.opset >= GROUPS_BY_CHANNEL_OPSET and node.version < GROUPS_BY_CHANNEL_SINCE:
        yield "opset 21 and above need TensorRT 10.9", "export at opset 20 or below"
    if node.attributes.get("num_groups") == 1:
        yield "one group was normalised channel by channel", "use LayerNorm's parts instead"


def _dropout(node: Node) -> Found:
    if node.is_computed(2):
        yield "training_mode is computed", "export the network in evaluation mode"


def _one_hot(node: Node) -> Found:
    if node.is_computed(1):
        yield "the depth is computed", _FOLD


def _top_k(node: Node) -> Found:
    if node.version < TOP_K_SINCE and node.computed:
        yield "a K that is computed needs TensorRT 8.6", _FOLD


def _cumulative_sum(node: Node) -> Found:
    if node.version < CUMULATIVE_AXIS_SINCE and node.computed:
        yield "an axis that is computed needs TensorRT 10.8", _FOLD


def _stft(node: Node) -> Found:
    if node.is_computed(1) or node.is_computed(2):
        yield "step or window is computed", _FOLD


def _scatter(node: Node) -> Found:
    if node.text("reduction", "none") == "none":
        return
    if node.node.op_type == "ScatterND":
        yield "no reduction", _OTHERS
    elif node.version < REDUCTIONS_SINCE:
        yield "a reduction needs TensorRT 10.0", _OTHERS


def _pad(node: Node) -> Found:
    if node.text("mode", "constant") == "wrap" and node.version < REDUCTIONS_SINCE:
        yield "mode wrap needs TensorRT 10.0", _OTHERS


def _norm_order(node: Node) -> Found:
    if node.attributes.get("p", 2) not in {1, 2}:
        yield f"p of {node.attributes['p']}; only 1 and 2", _OTHERS


def _clip(node: Node) -> Found:
    # With constant bounds TensorRT-RTX 1.7 takes INT8, which the tables have not had since 9.2.
    # Bounds that are left out by empty names are no constants to it.
    empty = "" in node.node.input[1:]
    if node.version < CLIP_WITHOUT_INT8_SINCE or not (node.computed or empty):
        return
    kind = node.kinds.get(node.input(0))
    if kind is not None and kind not in FLOATS | WHOLE:
        yield (
            f"{name_of(kind)} between bounds that are computed or left out",
            _FOLD,
        )


def _product(node: Node) -> Found:
    kind = node.kinds.get(node.input(0))
    if kind is not None and kind not in FLOATS:
        yield f"not of {name_of(kind)}", "cast around it"


def _einsum(node: Node) -> Found:
    if node.version >= EINSUM_FORMS_SINCE:
        return
    equation = node.text("equation", "")
    terms = [term.strip() for term in equation.partition("->")[0].split(",")]
    if "..." in equation or any(len(set(term)) < len(term) for term in terms):
        yield "ellipses and diagonals need TensorRT 10.12", _OTHERS


def _random(node: Node) -> Found:
    taken = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    kind = node.attributes.get("dtype", node.kinds.get(node.input(0)))
    if kind is not None and kind not in taken:
        yield f"not of {name_of(kind)}", "leave randomness out"


def _resize(node: Node) -> Found:
    mode = node.text("mode", "nearest")
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    coordinates = node.text("coordinate_transformation_mode", "half_pixel")
    if node.attributes.get("antialias"):
        yield "no antialiasing", "resize without it"
    modes = {"nearest", "linear"} | ({"cubic"} if node.version >= CUBIC_SINCE else set())
    if mode not in modes:
        yield f"no mode {mode}", "take nearest or linear"
    if policy != "stretch":
        yield f"no policy {policy}", "take stretch"
    if coordinates not in _COORDINATES:
        yield f"no coordinates {coordinates}", "take half_pixel or align_corners"
    if (
        coordinates == "tf_half_pixel_for_nn"
        and node.text("nearest_mode", "round_prefer_floor") != "round_prefer_floor"
    ):
        yield "tf_half_pixel_for_nn with another rounding", "take round_prefer_floor"
    if node.is_computed(2):
        yield "scales that are computed", _FOLD
    axes, shape = node.attributes.get("axes"), node.shapes.get(node.input(0))
    if axes is None or not shape or not node.input(2):
        return
    if [axis % len(shape) for axis in axes] != [*range(len(shape))]:
        yield "scales of some axes alone", "give scales for every dimension"


def _upsample(node: Node) -> Found:
    if node.is_computed(1):
        yield "scales that are computed", _FOLD


def _attention(node: Node) -> Found:
    if any(node.node.output[1:]):
        yield "only the first output", "leave the other outputs out"
    for name in ("softcap", "softmax_precision", "qk_matmul_output_mode"):
        if node.attributes.get(name):
            yield f"no {name}", _OTHERS
    if node.input(4) or node.input(5):
        yield "no past keys and values", _OTHERS
    if node.attributes.get("is_causal") and node.input(3):
        yield "a mask beside is_causal", "fold one into the other"
    key, value = (node.shapes.get(node.input(place)) for place in (1, 2))
    if key is not None and value is not None and key != value:
        yield "keys and values of other shapes", _OTHERS


def _tensor_scatter(node: Node) -> Found:
    mode, shape = node.text("mode", "linear"), node.shapes.get(node.input(0))
    if mode != "linear":
        yield f"no mode {mode}", "take linear"
    if shape is not None and len(shape) != 4:
        yield f"{len(shape)} dimensions; only 4", _OTHERS


_BY_KIND: Final[Mapping[str, Callable[[Node], Found]]] = {
    "Attention": _attention,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Conv": _weights,
    "ConvTranspose": _weights,
    "CumSum": _cumulative_sum,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Gemm": _product,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LpNormalization": _norm_order,
    "LpPool": _norm_order,
    "MatMul": _product,
    "OneHot": _one_hot,
    "Pad": _pad,
    "RandomNormal": _random,
    "RandomNormalLike": _random,
    "RandomUniform": _random,
    "RandomUniformLike": _random,
    "Resize": _resize,
    "STFT": _stft,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "TensorScatter": _tensor_scatter,
    "TopK": _top_k,
    "Upsample": _upsample,
}
