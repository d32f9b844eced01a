"""What each TensorRT reads: opsets and operators, for small image classifiers.

Sources: onnx-tensorrt's `docs/operators.md` at the release of each version (8.2-GA to 10.15), and
TensorRT's documentation. Only what these networks use is listed: an operator that is not here is
unknown to this check, never passed.
"""

from typing import Final

from edgekd.errors import UsageError
from edgekd.records import Software

Version = tuple[int, int]

# Opsets that a TensorRT reads from this version on. The 8.x parsers do not check the upper end.
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
# The first version that takes each.
OPERATORS: Final[dict[str, Version]] = dict.fromkeys(_ALWAYS.split(), (8, 0)) | {
    "LayerNormalization": (8, 6),
    "GroupNormalization": (8, 6),
    "Gelu": (10, 0),
    "Mish": (10, 0),
}
PAD_AXES_SINCE: Final[Version] = (10, 4)  # the fourth input of Pad, opset 18
REDUCTION_AXES_SINCE: Final[Version] = (10, 0)  # axes as an input, opset 18


def version_of(software: Software) -> Version:
    """Major and minor of the TensorRT that the software brings.

    Raises:
        UsageError: it names none, or not as numbers with dots.
    """
    parts = (software.tensorrt or "").split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        raise UsageError(
            f"{software.name}: TensorRT version {software.tensorrt!r}; expected one such as '10.3.0'. "
            "Correct it in the target's TOML file."
        )
    return (int(parts[0]), int(parts[1]))


def opsets_of(version: Version) -> tuple[int, int]:
    """Lowest and highest opset that this TensorRT reads."""
    return OPSETS[max((known for known in OPSETS if known <= version), default=min(OPSETS))]
