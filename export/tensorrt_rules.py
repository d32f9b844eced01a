"""What TensorRT asks of a graph beyond the ONNX standard, one function for each group of rules.

Sources: TensorRT's "Working with quantized types" (explicit quantisation) for Q/DQ; onnx-tensorrt's
`docs/operators.md` for opsets, operators, and which inputs must be constants.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgekd.export.qdq import WEIGHTED, channel_axis
from edgekd.export.tensorrt_operators import (
    BYTES_SINCE,
    CONTROL_FLOW,
    CONVOLUTION_WEIGHTS_SINCE,
    INSTANCE_SCALES_SINCE,
    NEVER,
    OPERATORS,
    PAD_AXES_SINCE,
    REDUCTION_AXES_SINCE,
    SLICE_AXES_SINCE,
    TOP_K_SINCE,
    Version,
    opsets_of,
)

Constant = npt.NDArray[Any]
QUANTISING: Final = ("QuantizeLinear", "DequantizeLinear")
DEFAULT_DOMAIN: Final = ("", "ai.onnx")
# Below, TensorRT warns of a dead scale and the tensor is lost
SMALLEST_SCALE: Final = 1e-10
# The opset from which scale and bias are per channel
GROUPS_BY_CHANNEL_SINCE: Final = 21
# The opset from which QuantizeLinear takes FP16
FP16_SCALES_SINCE: Final = 19


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One reason why a graph is not legal, and what to do; or what is legal and does harm."""

    rule: str
    # Name of a node, tensor or input; "model" for all of it
    where: str
    message: str
    advice: str
    # False: the graph is taken, and is worse for it
    refuses: bool = True

    def __str__(self) -> str:
        return f"{self.rule} ({self.where}): {self.message}; {self.advice}"


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operator set, 0 if the file names none."""
    return next(
        (int(entry.version) for entry in model.opset_import if entry.domain in DEFAULT_DOMAIN), 0
    )


def constants_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto | None]:
    """Every tensor that is known when the engine is built; None for a `Constant` without a tensor."""
    known: dict[str, onnx.TensorProto | None] = {e.name: e for e in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            known[node.output[0]] = next((a.t for a in node.attribute if a.HasField("t")), None)
            for entry in node.attribute:
                if entry.name == "value_float":
                    known[node.output[0]] = numpy_helper.from_array(np.asarray(entry.f, np.float32))
    return known


def weights(model: onnx.ModelProto) -> Iterator[Violation]:
    """Constants that make every answer NaN: NaN anywhere, and infinity in what a product takes.

    Elsewhere infinity has its uses: masks of attention, open ends of `Clip`.
    """
    multiplied = {e for n in model.graph.node if n.op_type in WEIGHTED for e in n.input[1:]}
    known = constants_of(model)
    for name in known:
        found = _value(known, name)
        if found is None or not found.size or not _is_float(found):
            continue
        # NaN and infinity both show in the ends, which takes no second array as large as the weights.
        ends = np.asarray([found.min(), found.max()], np.float64)
        if np.isnan(ends).any() or (name in multiplied and np.isinf(ends).any()):
            bad = int((~np.isfinite(found)).sum())
            yield Violation(
                rule="not finite",
                where=name,
                message=f"{bad:,} of {found.size:,} values are NaN or infinite",
                advice="take an earlier checkpoint, or export without what overflowed",
            )


def _is_float(values: Constant) -> bool:
    # ml_dtypes' bfloat16 and 8-bit kinds are no floats to numpy, but it can tell whether they are finite.
    return values.dtype.kind == "f" or values.dtype.name == "bfloat16"


def operators(model: onnx.ModelProto, version: Version) -> Iterator[Violation]:
    said: set[str] = set()
    for node in model.graph.node:
        plain = node.domain in DEFAULT_DOMAIN
        name = node.op_type if plain else f"{node.domain}::{node.op_type}"
        since = OPERATORS.get(name)
        if name in said or (since is not None and version >= since):
            continue
        said.add(name)
        yield Violation(
            rule="operator",
            where=node.name or name,
            message=f"{name} {_lacking(name, since)}; the board has {version[0]}.{version[1]}",
            advice="choose a student without it"
            + ("" if since is None else ", or a target with newer software"),
        )


def _lacking(name: str, since: Version | None) -> str:
    if since is not None:
        return f"needs TensorRT {since[0]}.{since[1]}"
    if name in NEVER:
        return "is read by no TensorRT"
    if name in CONTROL_FLOW:
        return "holds a graph of its own, which this check does not look into"
    return "is unknown to this check"


def opset(model: onnx.ModelProto, version: Version) -> Iterator[Violation]:
    low, high = opsets_of(version)
    if not low <= opset_of(model) <= high:
        yield Violation(
            rule="opset",
            where="model",
            message=f"opset {opset_of(model)}; TensorRT {version[0]}.{version[1]} reads {low} to {high}",
            advice="export again for this target",
        )


def inputs(model: onnx.ModelProto, version: Version) -> Iterator[Violation]:
    """Which inputs must be constants, and which are not read at all."""
    known = constants_of(model)
    for entry in model.graph.input:
        kind = entry.type.tensor_type.elem_type
        if kind == onnx.TensorProto.UINT8 and version < BYTES_SINCE:
            yield Violation(
                rule="input type",
                where=entry.name,
                message="UINT8 inputs need TensorRT 8.5",
                advice="leave preprocessing out of the graph",
            )
    for node in model.graph.node:
        reduces = node.op_type.startswith("Reduce")
        computed = [
            name
            for place in _built_with(node.op_type, version)
            for name in node.input[place : place + 1]
            if name and name not in known
        ]
        # ReduceSum took its axes as an input in opset 13 already, and TensorRT 8 reads them.
        late = reduces and node.op_type != "ReduceSum" and len(node.input) > 1
        if late and version < REDUCTION_AXES_SINCE:
            yield Violation(
                rule="reduction",
                where=node.name,
                message="axes as an input (opset 18): TensorRT 8 ignores them and reduces everything",
                advice="export with the TorchScript exporter at opset 17 or below",
            )
        if node.op_type == "Pad" and len(node.input) > 3 and version < PAD_AXES_SINCE:
            yield Violation(
                rule="padding axes",
                where=node.name,
                message="Pad with axes needs TensorRT 10.4",
                advice="give pads for every dimension",
            )
        if computed:
            yield Violation(
                rule="computed shape",
                where=node.name,
                message=f"{node.op_type} takes {', '.join(computed)} from the graph",
                advice="fold constants, and export with a fixed batch",
            )


def _built_with(kind: str, version: Version) -> tuple[int, ...]:
    """Places of the inputs that must be known when the engine is built.

    After the tables, which ask nothing of the shapes of `Reshape` and `Expand`: those are what an open batch is made of.
    They ask nothing of padding either, but what exporters compute it with did not build (NVIDIA/TensorRT issue 2045).
    """
    if kind.startswith("Reduce") or kind in {"Squeeze", "Unsqueeze"}:
        return (1,)
    if kind == "Slice" and version < SLICE_AXES_SINCE:
        return (3,)
    return (1, 2, 3) if kind == "Pad" else ()


def restrictions(model: onnx.ModelProto, version: Version) -> Iterator[Violation]:
    """Forms of an operator that the tables leave out, though they have the operator."""
    known = constants_of(model)
    # Weights behind a Q/DQ pair are as good as constant.
    paired = {e for n in model.graph.node if n.op_type == "DequantizeLinear" for e in n.output}
    for node in model.graph.node:
        if node.domain not in DEFAULT_DOMAIN:
            continue
        given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        computed = {name for name in node.input[1:] if name} - set(known) - paired
        for message, advice in _find_restrictions(
            node, given, computed, version=version, opset=opset_of(model)
        ):
            yield Violation(
                rule="restriction",
                where=node.name or node.op_type,
                message=f"{node.op_type}: {message}",
                advice=advice,
            )


def _find_restrictions(
    node: onnx.NodeProto,
    given: dict[str, Any],
    computed: set[str],
    *,
    version: Version,
    opset: int,
) -> Iterator[tuple[str, str]]:
    """What is not taken of one node, and what to do.

    Args:
        node: of the standard's own operators.
        given: its attributes.
        computed: its inputs after the first that are known only when the engine runs.
        version: of TensorRT.
        opset: of the file.
    """
    kind, others = node.op_type, "choose a student without it"
    if kind in {"AveragePool", "MaxPool"} and len(given.get("kernel_shape", (0, 0))) not in {2, 3}:
        yield "over two or three dimensions only", "add a dimension of size 1"
    if kind in {"AveragePool", "MaxPool", "LpPool"} and set(given.get("dilations", ())) - {1}:
        yield "no dilations", others
    if kind in {"MaxPool", "LayerNormalization"} and any(node.output[1:]):
        yield "only the first output", "leave the other outputs out"
    if kind in {"Conv", "ConvTranspose"} and version < CONVOLUTION_WEIGHTS_SINCE and computed:
        yield "weights that are computed need TensorRT 8.5", "fold constants"
    if kind == "InstanceNormalization" and version < INSTANCE_SCALES_SINCE and computed:
        yield "scale and bias that are computed need TensorRT 9.2", "fold constants"
    if kind == "OneHot" and computed.intersection(node.input[1:2]):
        yield "the depth is computed", "fold constants"
    if kind == "GroupNormalization":
        # NVIDIA/TensorRT issues 4336 (10.7) and 4756 (10.16).
        if opset >= GROUPS_BY_CHANNEL_SINCE:
            yield "from opset 21 on it failed to build", "export at opset 20 or below"
        if given.get("num_groups") == 1:
            yield "one group was normalised channel by channel", "use LayerNorm's parts instead"
    if kind == "TopK" and version < TOP_K_SINCE and computed:
        yield "a K that is computed needs TensorRT 8.6", "fold constants"
    if kind == "CumSum" and computed:
        yield "the axis is computed", "fold constants"
    if kind == "ScatterND" and given.get("reduction", b"none") != b"none":
        yield "no reduction", others
    if kind == "Resize":
        mode, policy = (
            given.get(name, taken).decode(errors="replace")
            for name, taken in (("mode", b"nearest"), ("keep_aspect_ratio_policy", b"stretch"))
        )
        if given.get("antialias"):
            yield "no antialiasing", "resize without it"
        if mode not in {"nearest", "linear"}:
            yield f"no mode {mode}", "take nearest or linear"
        if policy != "stretch":
            yield f"no policy {policy}", "take stretch"


def quantisation(model: onnx.ModelProto) -> Iterator[Violation]:
    """Q/DQ pairs: symmetric INT8, constant scales, both sides of a product or neither."""
    known = constants_of(model)
    yield from _coarse_weights(model, known)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in QUANTISING and len(node.input) > 1:
            yield from _scale(node, known, opset=opset_of(model))
            yield from _zero_point(node, known)
        elif node.op_type in WEIGHTED:
            sides = [makers.get(name) == "DequantizeLinear" for name in node.input[:2]]
            if any(sides) and not all(sides):
                yield Violation(
                    rule="half quantised",
                    where=node.name,
                    message="one of data and weights comes from a Q/DQ pair, the other does not",
                    advice="quantise both, or neither",
                )


def _coarse_weights(
    model: onnx.ModelProto, known: dict[str, onnx.TensorProto | None]
) -> Iterator[Violation]:
    """Weights of several channels with one scale: TensorRT takes them, and small channels lose their bits."""
    pairs = [n for n in model.graph.node if n.op_type in QUANTISING and len(n.input) > 1]
    before = {name: node for node in pairs for name in node.output}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in before:
            continue
        last = before[node.input[1]]
        first = before.get(last.input[0], last)
        scale, weight = _value(known, last.input[1]), known.get(first.input[0])
        if scale is None or scale.size != 1 or weight is None or len(weight.dims) < 2:
            continue
        if weight.dims[channel_axis(node)] > 1:
            yield Violation(
                rule="weights per tensor",
                where=node.name,
                message="one scale for all channels; INT8 loses most where channels differ",
                advice="quantise weights per output channel",
                refuses=False,
            )


def _scale(
    node: onnx.NodeProto, known: dict[str, onnx.TensorProto | None], *, opset: int
) -> Iterator[Violation]:
    again = "calibrate again"
    scale = _value(known, node.input[1])
    if scale is None or scale.dtype.kind != "f":
        message = "the scale is not a readable floating-point constant"
        yield Violation(rule="scale", where=node.name, message=message, advice="fold constants")
        return
    if not bool(np.isfinite(scale).all()) or bool((scale <= 0).any()):
        message = "a scale is not finite or not above 0"
        yield Violation(rule="scale", where=node.name, message=message, advice=again)
    elif bool((scale < SMALLEST_SCALE).any()):
        message = f"a scale is below {SMALLEST_SCALE:g}, and what it scales is lost"
        yield Violation(rule="dead scale", where=node.name, message=message, advice=again)
    if scale.dtype == np.float16 and opset < FP16_SCALES_SINCE:
        yield Violation(
            rule="FP16 scale",
            where=node.name,
            message=f"opset {opset} has no Q/DQ in FP16",
            advice=f"export at opset {FP16_SCALES_SINCE} or above, or keep scales in FP32",
        )
    if node.op_type == "QuantizeLinear" and scale.size > 1 and node.input[0] not in known:
        yield Violation(
            rule="activation per channel",
            where=node.name,
            message=f"{scale.size} scales; TensorRT takes one for each activation",
            advice="quantise activations per tensor, weights per channel",
        )


def _zero_point(
    node: onnx.NodeProto, known: dict[str, onnx.TensorProto | None]
) -> Iterator[Violation]:
    symmetric = "quantise symmetrically, with INT8 zero points of 0"
    if len(node.input) < 3 or not node.input[2]:
        message = "left out: it is then UINT8, which TensorRT does not take"
        yield Violation(rule="zero point", where=node.name, message=message, advice=symmetric)
        return
    zero = _value(known, node.input[2])
    if zero is None:
        message = "the zero point is not a readable constant"
        yield Violation(rule="zero point", where=node.name, message=message, advice=symmetric)
    elif zero.dtype != np.int8:
        message = f"{zero.dtype}: TensorRT takes INT8 only"
        yield Violation(
            rule="quantised type",
            where=node.name,
            message=message,
            advice="quantise to INT8, and leave biases in float",
        )
    elif bool((zero != 0).any()):
        folded = bool((zero == np.iinfo(np.int8).min).all())
        message = "the zero point is not 0"
        if folded:
            message = "the zero point is -128: a range from 0 on, into which a ReLU was folded"
        yield Violation(rule="zero point", where=node.name, message=message, advice=symmetric)


def _value(known: dict[str, onnx.TensorProto | None], name: str) -> Constant | None:
    """A constant as an array; None when it is none, or its bytes do not fit its shape and type."""
    tensor = known.get(name)
    if tensor is None:
        return None
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError):
        return None
