"""Whether a board's software takes a graph, and if not, why. Works on any ONNX file.

Written after onnx-tensorrt's `docs/operators.md` and from memory, not compared with it; TensorRT's
documentation of quantised types and strong typing. Operators outside `OPERATORS` are reported as
unknown to this check, never passed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from edgekd.errors import IncompatibleError, InputFileError
from edgekd.export.parity import session
from edgekd.records import Software

Version = tuple[int, int]
Constant = npt.NDArray[Any]
SMALLEST_SCALE: Final = 1e-10  # below, TensorRT warns of a dead scale and the tensor is lost

# Opsets that a TensorRT reads from this version on.
OPSETS: Final[dict[Version, tuple[int, int]]] = {
    (8, 2): (7, 13),
    (8, 4): (7, 17),
    (10, 0): (9, 20),
    (10, 15): (9, 24),
    (11, 0): (9, 25),
}
_ALWAYS: Final = (
    "Add AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose "
    "DequantizeLinear Div Dropout Elu Erf Exp Expand Flatten Gather Gemm GlobalAveragePool GlobalMaxPool "
    "HardSigmoid Identity LeakyRelu Log MatMul Max MaxPool Min Mul Neg Pad Pow PRelu QuantizeLinear "
    "ReduceMax ReduceMean ReduceSum Relu Reshape Selu Shape Sigmoid Slice Softmax Softplus Split Sqrt "
    "Squeeze Sub Tanh Transpose Unsqueeze HardSwish"
)
OPERATORS: Final[dict[str, Version]] = dict.fromkeys(_ALWAYS.split(), (8, 0)) | {
    "LayerNormalization": (8, 6),
    "GroupNormalization": (8, 6),
    "Gelu": (10, 0),
    "Mish": (10, 0),
}
_ABSOLUTE_PATH: Final = re.compile(
    rb"(?:/(?:home|root|usr|work|tmp|opt|Users|mnt|data)/|[A-Za-z]:\\)[\w.\\/-]+"
)


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One reason why a graph is not legal, and what to do."""

    rule: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule} ({self.where}): {self.message}"


def check_model(path: Path, software: Software) -> tuple[Violation, ...]:
    """All reasons why `software` would refuse or misread this file; empty when there is none.

    Raises:
        InputFileError: not an ONNX model.
    """
    model = read(path)
    found = list(_generic(model))
    if any(violation.rule == "external data" for violation in found):
        return tuple(found)  # the values that other rules look at are elsewhere
    if software.runtime == "tensorrt":
        assert software.tensorrt is not None
        version = _version(software.tensorrt)
        found += _operators(model, version)
        found += _opset(model, version)
        found += _quantisation(model, software)
        found += _reductions(model, version)
        found += _shapes(model)
    elif not found:
        session(path)  # raises IncompatibleError itself
    return tuple(found)


def require_legal(path: Path, software: Software) -> None:
    """Raise unless `software` takes this file.

    Raises:
        IncompatibleError: with every reason.
    """
    found = check_model(path, software)
    if found:
        reasons = "\n  ".join(str(violation) for violation in found)
        raise IncompatibleError(f"{path.name} is not legal for {software.name}:\n  {reasons}")


def read(path: Path) -> onnx.ModelProto:
    """An ONNX model whose weights may lie elsewhere.

    Raises:
        InputFileError: it cannot be read, or is empty.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise InputFileError(f"{path}: not a readable ONNX model ({error}).") from error
    if not model.graph.node:
        raise InputFileError(f"{path}: an ONNX model without a single operator; is it cut short?")
    return model


def _version(text: str) -> Version:
    major, minor, *_ = (int(part) for part in text.split("."))
    return (major, minor)


def _generic(model: onnx.ModelProto) -> Iterator[Violation]:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield Violation(
                rule="external data",
                where=tensor.name,
                message="the weights are in another file; save with external_data=False",
            )
            return  # the checker would look for the file
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        lines = str(error).strip().splitlines()
        yield Violation(
            rule="checker", where="model", message=lines[0] if lines else "invalid model"
        )
    for entry in model.graph.input:
        dynamic = [
            d.dim_param or "?"
            for d in entry.type.tensor_type.shape.dim[1:]
            if not d.HasField("dim_value")
        ]
        if dynamic:
            yield Violation(
                rule="dynamic dimension",
                where=entry.name,
                message=f"{', '.join(dynamic)}: only the batch may be dynamic; export with a fixed input size",
            )
    yield from _paths(model)


def _paths(model: onnx.ModelProto) -> Iterator[Violation]:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]  # weights may look like anything
    found = _ABSOLUTE_PATH.search(bare.SerializeToString())
    if found is not None:
        yield Violation(
            rule="build path",
            where="metadata",
            message=f"{found[0].decode(errors='replace')!r} is a path of the machine that built it; strip metadata_props",
        )


def _operators(model: onnx.ModelProto, version: Version) -> Iterator[Violation]:
    said: set[str] = set()
    for node in model.graph.node:
        name = node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}::{node.op_type}"
        since = OPERATORS.get(name)
        if name in said or (since is not None and version >= since):
            continue
        said.add(name)
        needs = (
            "is unknown to this check" if since is None else f"needs TensorRT {since[0]}.{since[1]}"
        )
        yield Violation(
            rule="operator",
            where=node.name or name,
            message=f"{name} {needs}; the board has {version[0]}.{version[1]}",
        )


def _opset(model: onnx.ModelProto, version: Version) -> Iterator[Violation]:
    opset = next(
        (entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0
    )
    since = max((known for known in OPSETS if known <= version), default=min(OPSETS))
    low, high = OPSETS[since]
    if not low <= opset <= high:
        yield Violation(
            rule="opset",
            where="model",
            message=f"opset {opset}; TensorRT {version[0]}.{version[1]} reads {low} to {high}",
        )


def _quantisation(model: onnx.ModelProto, software: Software) -> Iterator[Violation]:
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        if not software.int8:
            yield Violation(
                rule="no INT8",
                where=node.name,
                message=f"{software.name} on this board runs no INT8; ship FP32 or FP16",
            )
            return
        yield from _scales(node, constants)


def _scales(node: onnx.NodeProto, constants: dict[str, Constant]) -> Iterator[Violation]:
    scale = constants.get(node.input[1])
    if scale is None:
        yield Violation(rule="scale", where=node.name, message="the scale is not a constant")
    elif not bool(np.isfinite(scale).all()) or bool((scale <= 0).any()):
        yield Violation(rule="scale", where=node.name, message="scales must be finite and above 0")
    elif bool((scale < SMALLEST_SCALE).any()):
        yield Violation(
            rule="dead scale", where=node.name, message=f"a scale is below {SMALLEST_SCALE:g}"
        )
    if len(node.input) < 3 or not node.input[2]:
        yield Violation(
            rule="zero point",
            where=node.name,
            message="left out: it is then UINT8, which TensorRT does not take",
        )
        return
    zero = constants.get(node.input[2])
    if zero is None:
        yield Violation(
            rule="zero point", where=node.name, message="the zero point is not a constant"
        )
    elif zero.dtype != np.int8:
        yield Violation(
            rule="quantised type",
            where=node.name,
            message=f"{zero.dtype}: TensorRT takes INT8 only",
        )
    elif bool((zero != 0).any()):
        yield Violation(
            rule="zero point", where=node.name, message="must be 0: quantise symmetrically"
        )


def _reductions(model: onnx.ModelProto, version: Version) -> Iterator[Violation]:
    if version >= (10, 0):
        return
    for node in model.graph.node:
        if (
            node.op_type.startswith("Reduce")
            and node.op_type != "ReduceSum"
            and len(node.input) > 1
        ):
            yield Violation(
                rule="reduction",
                where=node.name,
                message="axes as an input (opset 18): TensorRT 8 ignores them and reduces everything; "
                "export with the TorchScript exporter at opset 17 or below",
            )


def _shapes(model: onnx.ModelProto) -> Iterator[Violation]:
    """What TensorRT wants to know when it builds: padding and new shapes as constants."""
    constants = {entry.name for entry in model.graph.initializer}
    for node in model.graph.node:
        computed = [name for name in node.input[1:] if name and name not in constants]
        if node.op_type in {"Pad", "Reshape", "Slice", "Expand"} and computed:
            yield Violation(
                rule="computed shape",
                where=node.name,
                message=f"{node.op_type} takes {', '.join(computed)} from the graph; fold constants first",
            )
