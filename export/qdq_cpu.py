"""INT8 as ONNX Runtime's CPU kernels want it: another form of Q/DQ than TensorRT's.

Every tensor between layers has a pair, zero points are where the range is, biases are INT32: so
a layer with its pairs becomes one integer kernel. Written by ONNX Runtime's own quantiser.

N images, C channels, H x W pixels.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import onnx

from edgekd.export.parity import Array, batches

METHOD: Final = "max"
# With pairs at layers alone
LAYERS: Final = "max, layers alone"
# Of a weight on either side of 0, where products saturate
LEVELS_7: Final = 64
# A softmax, whole or in parts, and the bound below which no logarithm is taken
_OF_SOFTMAX: Final = frozenset(
    {"Softmax", "Clip", "Div", "Exp", "ReduceSum", "ReduceMax", "Sub", "Max"}
)
_PRODUCER: Final = "edgekd"


def with_cpu_pairs(
    model: onnx.ModelProto,
    calibration: Array,
    *,
    arm: bool,
    vnni: bool = False,
    keep: Sequence[str] = (),
    layers_alone: bool = False,
) -> onnx.ModelProto:
    """A copy of a float graph with the pairs that ONNX Runtime fuses.

    Weights are INT8 and per channel. Activations are UINT8 on x86, whose dot products multiply unsigned by
    signed bytes, and INT8 on ARM, whose multiply signed ones (ONNX Runtime, "Quantize ONNX models", data
    type selection). x86 processors without VNNI add such products in 16 bits, which saturate (pull request 12088 of
    microsoft/onnxruntime): weights have 7 bits, unless the processor is known to have it.

    Args:
        model: FP32, with one input.
        calibration: normalised images (N, C, H, W), whose smallest and largest values are the ranges.
        arm: what the board's processor is.
        vnni: whether it is an x86 processor with VNNI.
        keep: names of layers that stay in floating point.
        layers_alone: pairs stand at convolutions and products, and at what only moves values between them; additions,
            gates and normalisations stay float, whose outliers cost a transformer more than integers gain it.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    name = model.graph.input[0].name
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    size = first.dim_value if first.HasField("dim_value") else None

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = batches(calibration, size, name="calibration")

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {name: part}

    with _quietly(), tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        before, out = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        # A model in memory is changed by it
        onnx.save(model, before)
        quantize_static(
            before,
            out,
            Reader(),
            per_channel=True,
            reduce_range=not (arm or vnni),
            activation_type=QuantType.QInt8 if arm else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*keep, *_logarithm(model)],
            op_types_to_quantize=_layer_types() if layers_alone else None,
        )
        quantised = onnx.load(out)
    quantised.producer_name, quantised.producer_version = _PRODUCER, ""
    del quantised.metadata_props[:]
    del quantised.graph.value_info[:]
    quantised.graph.name = _PRODUCER
    return quantised


def _logarithm(model: onnx.ModelProto) -> list[str]:
    """Nodes between the last layer and a logarithm at the end: of 256 levels of a probability one is 0."""
    makers = {name: node for node in model.graph.node for name in node.output}
    last = makers.get(model.graph.output[0].name)
    if last is None or last.op_type != "Log":
        return []
    found, left = [last.name], list(last.input)
    while left:
        node = makers.get(left.pop())
        if node is not None and node.op_type in _OF_SOFTMAX and node.name not in found:
            found.append(node.name)
            left += node.input
    return found


def _layer_types() -> list[str]:
    """What ONNX Runtime has pairs of its own for: the rest it would turn into integer operators."""
    from onnxruntime.quantization.registry import QDQRegistry

    return sorted(set(QDQRegistry) - {"LayerNormalization", "InstanceNormalization"})


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Its advice goes to the root logger: to preprocess the model, which export did."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
