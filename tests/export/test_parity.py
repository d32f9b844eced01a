import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgekd.export.parity import logits_of
from edgekd.export.qdq import channel_axis, weight_scale, with_pairs
from edgekd.export.stored_weights import store_int8
from tests.export.networks import graph


def product(kind):
    """64 inputs, all weights at either end, as one matrix product or one convolution."""
    weight = np.where(np.arange(4)[:, None] % 2, -1.0, 1.0) * np.linspace(0.98, 1, 64)
    constants = {"w": weight.reshape(4, 64, 1, 1) if kind == "Conv" else weight, "b": np.ones(4)}
    if kind == "Conv":
        nodes = [
            helper.make_node("Conv", ["images", "w", "b"], ["a"], name="layer"),
            helper.make_node("Flatten", ["a"], ["logits"]),
        ]
    else:
        nodes = [
            helper.make_node("Flatten", ["images"], ["a"]),
            helper.make_node("Gemm", ["a", "w", "b"], ["logits"], name="layer", transB=1),
        ]
    return graph(nodes, constants, shape=(64, 1, 1), classes=4)


def rounded(values, scale):
    """As the standard has QuantizeLinear and DequantizeLinear: to the nearest, halves to even, -128 to 127."""
    return np.clip(np.rint(values / scale), -128, 127) * scale


@pytest.mark.parametrize("stored", [False, True], ids=["pairs", "stored"])
@pytest.mark.parametrize("kind", ["Gemm", "Conv"])
def test_answers_of_int8_are_those_of_the_standard_on_any_processor(kind, stored):
    model = product(kind)
    # All near the largest level, so that sums of two products pass 16 bits: 2 * 127 * 127 = 32,258 with signs, and
    # 2 * 255 * 127 = 64,770 where a kernel shifts them to bytes without one
    draw = np.random.default_rng(0)
    images = draw.uniform(0.9, 1.0, (8, 64, 1, 1)).astype(np.float32)
    limits = {("images" if kind == "Conv" else "a"): 1.0}
    int8 = with_pairs(model, limits)
    if stored:
        store_int8(int8)
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    layer = next(node for node in model.graph.node if node.name == "layer")
    weight = constants["w"].reshape(4, 64)
    scale = weight_scale(constants["w"], channel_axis(layer))[:, None]
    given = rounded(images.reshape(8, 64), np.float32(1 / 127)).astype(np.float64)
    expected = given @ rounded(weight, scale).astype(np.float64).T + 1
    np.testing.assert_allclose(logits_of(int8.SerializeToString(), images), expected, rtol=1e-5)
