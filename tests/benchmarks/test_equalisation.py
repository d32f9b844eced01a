from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.export.equalisation import correct_bias, equalise
from edgekd.export.parity import logits_of
from edgekd.export.qdq import (
    activations,
    limits_of,
    observe,
    with_pairs,
)


def network(*, depthwise=False, activation="Relu", spread=(0.01, 1.0, 20.0, 0.0)):
    """conv - activation - conv - flatten, with channels of very different ranges."""
    draw = np.random.default_rng(0)
    first = draw.standard_normal((4, 1, 3, 3)) * np.reshape(spread, (4, 1, 1, 1))
    second = draw.standard_normal((4, 1, 3, 3) if depthwise else (2, 4, 3, 3))
    values = {"w1": first, "b1": draw.standard_normal(4), "w2": second}
    extra: dict[str, Any] = {"group": 4} if depthwise else {}
    nodes = [
        helper.make_node("Conv", ["images", "w1", "b1"], ["c"], name="first"),
        helper.make_node(activation, ["c"], ["r"], name="activation"),
        helper.make_node("Conv", ["r", "w2"], ["d"], name="second", **extra),
        helper.make_node("Flatten", ["d"], ["logits"], name="Flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 1, 7, 7])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 36 if depthwise else 18])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def constants(model):
    return {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}


def shown(count=64):
    return np.random.default_rng(1).standard_normal((count, 1, 7, 7)).astype(np.float32)


@pytest.mark.parametrize("depthwise", [False, True])
def test_the_function_stays_and_the_ranges_meet(depthwise):
    model = network(depthwise=depthwise)
    even = equalise(model)
    before, after = (logits_of(m.SerializeToString(), shown(8)) for m in (model, even))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    values = constants(even)
    made = np.abs(values["w1"]).max((1, 2, 3))
    taken = np.abs(values["w2"]).max((1, 2, 3) if depthwise else (0, 2, 3))
    np.testing.assert_allclose(made[:3], taken[:3], rtol=1e-3)
    assert made[3] == 0  # a dead channel has no range to share


def test_an_activation_that_does_not_scale_is_left_alone():
    model = network(activation="Sigmoid")
    assert equalise(model).SerializeToString() == model.SerializeToString()


def test_a_tensor_that_others_take_too_is_left_alone():
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    assert constants(equalise(model))["w1"].tolist() == constants(model)["w1"].tolist()


def test_correction_takes_the_mean_shift_of_rounded_weights_back():
    # Positive inputs and channels of one range: what shifts then is the rounding of weights.
    model, images = network(spread=(1.0, 1.0, 1.0, 1.0)), np.abs(shown(512)) + 2
    limits = limits_of(model, observe(model, activations(model), images), "max")
    exact = logits_of(model.SerializeToString(), images)

    def shift(changed):
        answers = logits_of(with_pairs(changed, limits).SerializeToString(), images)
        return np.abs((answers - exact).reshape(len(images), 2, -1).mean((0, 2))).max()

    assert shift(correct_bias(model, images)) < 0.7 * shift(model)
    onnx.checker.check_model(correct_bias(model, images), full_check=True)
