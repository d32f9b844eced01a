"""What TensorRT asks of a graph beyond the ONNX standard, one function for each group of rules.

Sources: TensorRT's "Working with quantized types" (explicit quantisation) for Q/DQ; onnx-tensorrt's
`docs/operators.md` for opsets, operators, and which inputs must be constants.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgekd.export.qdq import WEIGHTED
from edgekd.export.tensorrt_operators import (
    COMPUTED_PADDING_SINCE,
    CONTROL_FLOW,
    LOWEST_OPSET,
    NEVER,
    OPERATORS,
    PAD_AXES_SINCE,
    REDUCTION_AXES_SINCE,
    RTX_LACKS,
    SLICE_AXES_SINCE,
    Version,
    opsets_of,
)
from edgekd.export.tensorrt_restrictions import Node, find_restrictions
from edgekd.export.tensorrt_types import type_problems

Constant = npt.NDArray[Any]
QUANTISING: Final = ("QuantizeLinear", "DequantizeLinear")
# Of what only some GPUs take
GPU_RULE: Final = "GPU"
DEFAULT_DOMAIN: Final = ("", "ai.onnx")


# Attributes of `Constant` that are no tensors
_WRITTEN: Final[Mapping[str, tuple[str, type[np.generic]]]] = {
    "value_float": ("f", np.float32),
    "value_floats": ("floats", np.float32),
    "value_int": ("i", np.int64),
    "value_ints": ("ints", np.int64),
}


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
    # Refuses on GPUs of a compute capability below
    needs_gpu: str | None = None

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
                if entry.name in _WRITTEN:
                    field, dtype = _WRITTEN[entry.name]
                    values = np.asarray(getattr(entry, field), dtype)
                    known[node.output[0]] = numpy_helper.from_array(values)
    return known


def weights(model: onnx.ModelProto) -> Iterator[Violation]:
    """Constants that make every answer NaN: NaN anywhere, and infinity in what a product takes.

    Elsewhere infinity has its uses: masks of attention, open ends of `Clip`.
    """
    multiplied = {e for n in model.graph.node if n.op_type in WEIGHTED for e in n.input[1:]}
    known = constants_of(model)
    for name in known:
        found = value_of(known, name)
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


def lacking_in_rtx(model: onnx.ModelProto, kinds: Mapping[str, int]) -> Iterator[Violation]:
    """What TensorRT-RTX has not of what TensorRT has (`findings/`, and the table of `benchmarks/export/parser.py`)."""
    said: set[str] = set()
    for node in model.graph.node:
        if node.op_type in said:
            continue
        single = bool(node.input) and kinds.get(node.input[0]) == onnx.TensorProto.FLOAT
        for found in (_missing_in_rtx(node, single=single), _not_for_turing(node, single=single)):
            if found is not None:
                said.add(node.op_type)
                yield found


def _missing_in_rtx(node: onnx.NodeProto, *, single: bool) -> Violation | None:
    kind = node.op_type
    form, advice = "", "choose a student without it"
    if kind == "Attention" and single:
        form, advice = " in FP32", "export at opset 22 or below, or in FP16"
    elif kind == "ScatterElements" and any(
        entry.name == "reduction" and entry.s != b"none" for entry in node.attribute
    ):
        form = " with a reduction"
    elif kind not in RTX_LACKS:
        return None
    return Violation(
        rule="operator",
        where=node.name or kind,
        message=f"{kind}{form} is not in TensorRT-RTX",
        advice=advice,
    )


def _not_for_turing(node: onnx.NodeProto, *, single: bool) -> Violation | None:
    if not single or node.op_type not in {"Gemm", "MatMul"}:
        return None
    return Violation(
        rule=GPU_RULE,
        where=node.name or node.op_type,
        message=f"{node.op_type} in FP32 is not compiled for compute capability 7.5",
        advice="compute it in FP16 for GeForce RTX 20",
        refuses=False,
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
    found = opset_of(model)
    if not low <= found <= high:
        yield Violation(
            rule="opset",
            where="model",
            message=f"opset {found}; TensorRT {version[0]}.{version[1]} reads {low} to {high}",
            advice="export again for this target",
            # Below what the tables name, the parser reads on: no more than a word of caution.
            refuses=not LOWEST_OPSET <= found < low,
        )


def inputs(model: onnx.ModelProto, version: Version) -> Iterator[Violation]:
    """Which inputs must be constants, and which are not read at all; that there are outputs."""
    known = constants_of(model)
    if not model.graph.output:
        yield Violation(
            rule="no output",
            where="model",
            message="the graph gives nothing, and there is no engine of nothing",
            advice="export again; is the file damaged?",
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
    """
    # The changelog of 10.7 has axes of Squeeze that are computed; the builder of TensorRT-RTX 1.7 refuses them.
    if kind.startswith("Reduce") or kind in {"Squeeze", "Unsqueeze"}:
        return (1,)
    if kind == "Slice" and version < SLICE_AXES_SINCE:
        return (3,)
    return (1, 2, 3) if kind == "Pad" and version < COMPUTED_PADDING_SINCE else ()


def types(
    model: onnx.ModelProto, kinds: Mapping[str, int], version: Version
) -> Iterator[Violation]:
    """Element types that this TensorRT has not, or not there."""
    for where, message, advice in type_problems(model, kinds, version):
        yield Violation(rule="element type", where=where, message=message, advice=advice)


def restrictions(
    model: onnx.ModelProto,
    kinds: Mapping[str, int],
    shapes: Mapping[str, tuple[int | None, ...]],
    version: Version,
) -> Iterator[Violation]:
    """Forms of an operator that the tables leave out, though they have the operator."""
    # Weights behind a Q/DQ pair are as good as constant.
    paired = {e for n in model.graph.node if n.op_type == "DequantizeLinear" for e in n.output}
    settled = constants_of(model).keys() | paired
    for node in model.graph.node:
        if node.domain not in DEFAULT_DOMAIN:
            continue
        looked = Node(
            node=node,
            attributes={e.name: onnx.helper.get_attribute_value(e) for e in node.attribute},
            computed={name for name in node.input[1:] if name} - settled,
            kinds=kinds,
            shapes=shapes,
            opset=opset_of(model),
            version=version,
        )
        for message, advice in find_restrictions(looked):
            yield Violation(
                rule="restriction",
                where=node.name or node.op_type,
                message=f"{node.op_type}: {message}",
                advice=advice,
            )


def value_of(known: dict[str, onnx.TensorProto | None], name: str) -> Constant | None:
    """A constant as an array; None when it is none, or its bytes do not fit its shape and type."""
    tensor = known.get(name)
    if tensor is None:
        return None
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError):
        return None
