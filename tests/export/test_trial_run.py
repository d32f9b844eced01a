"""Files that ONNX's checker passes and ONNX Runtime fails to run, and those that take too much."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.compatibility import check_each, check_model
from edgekd.export.trial_run import run_once
from edgekd.targets import catalogue

SHAPE = [1, 3, 8, 8]


def save(path, nodes, constants, *, shape=SHAPE, kind=TensorProto.FLOAT):
    weights = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [*"abcd"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def ones(*shape):
    return np.ones(shape, np.float32)


def convolution(bias):
    return (
        [helper.make_node("Conv", ["images", "w", "b"], ["out"])],
        {"w": ones(8, 3, 3, 3), "b": ones(bias)},
    )


def transposed(bias):
    return (
        [helper.make_node("ConvTranspose", ["images", "w", "b"], ["out"])],
        {"w": ones(3, 8, 3, 3), "b": ones(bias)},
    )


def norm(length):
    names = ["scale", "shift", "mean", "variance"]
    node = helper.make_node("BatchNormalization", ["images", *names], ["out"])
    return [node], {name: ones(length if name == "shift" else 3) for name in names}


def instance(length):
    node = helper.make_node("InstanceNormalization", ["images", "s", "b"], ["out"])
    return [node], {"s": ones(3), "b": ones(length)}


KINDS = {"Conv": (convolution, 8), "ConvTranspose": (transposed, 8), "InstanceNorm": (instance, 3)}


@pytest.mark.parametrize("length", [1, 4, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_length_are_refused_wherever_it_is_for(tmp_path, kind, length):
    make, right = KINDS[kind]
    path = save(tmp_path / "m.onnx", *make(length))
    (found,) = run_once(path)
    assert (found.rule, found.refuses) == ("run", True)
    assert not run_once(save(tmp_path / "right.onnx", *make(right)))
    x86 = catalogue.load_target("x86")
    assert any(each.refuses for each in check_model(path, x86.software))
    tensorrt = catalogue.tensorrts()[-1]
    (verdict,) = check_each(path, [tensorrt], run=True)
    assert any(each.rule == "run" for each in verdict)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        pytest.param([None, 3, None, None], TensorProto.FLOAT, id="open"),
        pytest.param(["N", 3, 8, 8], TensorProto.FLOAT16, id="half"),
        pytest.param(["N", 3, 8, 8], TensorProto.UINT8, id="bytes"),
        pytest.param(["N", 3, 8, 8], TensorProto.INT64, id="integers"),
        pytest.param(["N", 3, 8, 8], TensorProto.BOOL, id="booleans"),
    ],
)
def test_inputs_of_every_type_and_size_are_run(tmp_path, shape, kind):
    cast = helper.make_node("Cast", ["images"], ["out"], to=TensorProto.FLOAT)
    assert run_once(save(tmp_path / "m.onnx", [cast], {}, shape=shape, kind=kind)) == ()


def test_what_is_not_seen_is_said_and_refuses_nothing(tmp_path):
    path = save(tmp_path / "m.onnx", *convolution(8))
    (late,) = run_once(path, timeout_s=0.01)
    assert (late.rule, late.refuses) == ("not run", False)
    assert "longer than" in late.message
    huge = helper.make_node("Expand", ["images", "sizes"], ["out"])
    sizes = np.array([1 << 12, 3, 1 << 12, 1 << 12])
    path = save(tmp_path / "huge.onnx", [huge], {"sizes": sizes}, shape=[1, 3, 1, 1])
    (large,) = run_once(path)
    assert (large.rule, large.refuses) == ("not run", False)
    assert "memory" in large.message


def test_answers_that_are_not_finite_are_warned_of(tmp_path):
    path = save(tmp_path / "m.onnx", [helper.make_node("Log", ["images"], ["out"])], {})
    (found,) = run_once(path)
    assert (found.rule, found.refuses) == ("not finite", False)


def test_no_model_is_refused_as_before(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    (found,) = run_once(tmp_path / "m.onnx")
    assert (found.rule, found.refuses) == ("session", True)


def test_the_right_norm_runs(tmp_path):
    assert run_once(save(tmp_path / "m.onnx", *norm(3))) == ()
