"""What each TensorRT reads: opsets and operators.

Source: the tables of onnx-tensorrt's `docs/operators.md` for TensorRT 8.4, 8.5, 9.2 and 10.15, compared
entry by entry in the tests; between two tables the version is the changelog's, and where that says
nothing, that of the later table. What 8.4 has and the changelog does not add stands as 8.0; nothing was
published for 11 that differs. An operator that is in no table is unknown to this check, never passed.
"""

from typing import Final

from edgekd.errors import UsageError
from edgekd.records import Software, is_rtx

Version = tuple[int, int]

# Opsets that a TensorRT reads from this version on. The 8.x parsers do not check the upper end.
OPSETS: Final[dict[Version, tuple[int, int]]] = {
    (8, 0): (7, 13),
    (8, 5): (7, 17),
    (9, 2): (7, 19),
    (10, 0): (9, 20),
    (10, 15): (9, 24),
    (11, 0): (9, 25),
}
_SINCE: Final[dict[Version, str]] = {
    (8, 0): (
        "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu "
        "Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear "
        "Div Dropout Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements "
        "Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity "
        "ImageScaler InstanceNormalization LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax "
        "LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression Not Or PRelu Pad "
        "ParametricSoftplus Pow QuantizeLinear RNN RandomUniform RandomUniformLike Range ReduceL1 ReduceL2 "
        "ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu "
        "Reshape Resize ReverseSequence ScaledTanh Selu Shape Sigmoid "
        "Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh "
        "ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where"
    ),
    (8, 2): "Einsum GatherND IsNaN Round Scatter ScatterElements ScatterND Sign",
    (8, 4): "Xor",
    (8, 5): (
        "GridSample HardSwish MeanVarianceNormalization Mod NonZero OneHot RandomNormal RandomNormalLike "
        "Reciprocal RoiAlign Shrink Trilu"
    ),
    (8, 6): "GroupNormalization IsInf LayerNormalization",
    (9, 2): "CastLike Hardmax",
    (10, 0): "Gelu Mish",
    (10, 1): "DeformConv",
    (10, 4): "BlackmanWindow HammingWindow HannWindow",
    (10, 5): "STFT",
    (10, 14): "Attention",
    (10, 15): "RMSNormalization RotaryEmbedding TensorScatter",
    # In no table yet; TensorRT-RTX 1.7.1.116 reads and builds it.
    (11, 0): "Swish",
}
# The first version that takes each.
OPERATORS: Final[dict[str, Version]] = {
    name: version for version, names in _SINCE.items() for name in names.split()
}
_NEVER: Final = (
    "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress "
    "ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool "
    "MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement "
    "OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty "
    "SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence "
    "StringConcat StringNormalizer StringSplit TfIdfVectorizer Unique"
)
# In the table of 10.15 with a no.
NEVER: Final = frozenset(_NEVER.split())
# TensorRT reads these, and this check does not look at the graphs inside of them.
CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan"})

# TensorRT-RTX 1.7 reads what TensorRT 11 reads, but for plugins and builder layers that it has not
# (seen with 1.7.1.116 on the node tests of onnx 1.23).
RTX_AS: Final[Version] = (11, 4)
RTX_LACKS: Final = frozenset(
    {
        "DeformConv",
        "ImageScaler",
        "NonMaxSuppression",
        "NonZero",
        "ParametricSoftplus",
        "RoiAlign",
        "ScaledTanh",
    }
)

# Axes that are computed
SLICE_AXES_SINCE: Final[Version] = (10, 3)
# The fourth input of Pad, opset 18
PAD_AXES_SINCE: Final[Version] = (10, 4)
# Axes as an input, opset 18
REDUCTION_AXES_SINCE: Final[Version] = (10, 0)
# Padding that is computed: the tables ask nothing of it, but what exporters compute it with did not
# build on 8.4 (NVIDIA/TensorRT issue 2045), and does with TensorRT-RTX 1.7.
COMPUTED_PADDING_SINCE: Final[Version] = (11, 0)
# Opsets from here on are read by the parsers whose tables begin later (TensorRT-RTX 1.7)
LOWEST_OPSET: Final = 7


def version_of(software: Software) -> Version:
    """Major and minor of the TensorRT that the software brings.

    Raises:
        UsageError: it names none, or not as numbers with dots.
    """
    if is_rtx(software.tensorrt):
        return RTX_AS
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
