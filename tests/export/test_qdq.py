import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import (
    IncompatibleError,
    InputFileError,
    QualityError,
    UsageError,
)
from edgekd.export.compatibility import check_model
from edgekd.export.tensorrt_rules import opset_of
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.targets.catalogue import load_target
from tests.export.making import write_int8


@pytest.fixture(scope="module")
def int8(fp32, images):
    out = fp32.with_name("int8.onnx")
    before = fp32.read_bytes()
    write_int8(fp32, out=out, calibration=images(16), held_out=images(16, seed=1))
    assert fp32.read_bytes() == before
    return onnx.load(out)


def constants(model):
    return {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}


def pairs(model):
    return [
        node for node in model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    ]


def test_zero_points_are_zero_and_int8(int8):
    values = constants(int8)
    for node in pairs(int8):
        assert values[node.input[2]].dtype == np.int8
        assert not values[node.input[2]].any()


def test_scales_are_positive_and_finite_and_weights_have_one_a_channel(int8):
    values = constants(int8)
    per_channel = 0
    for node in pairs(int8):
        scale = values[node.input[1]]
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        if node.op_type == "QuantizeLinear" and node.input[0] in values:
            assert scale.shape == (values[node.input[0]].shape[0],)
            assert values[node.input[0]].dtype == np.float32
            per_channel += 1
    assert per_channel == sum(node.op_type in {"Conv", "Gemm"} for node in int8.graph.node)


def test_nothing_stands_between_a_convolution_and_its_activation(int8):
    makers = {name: node for node in int8.graph.node for name in node.output}
    for node in int8.graph.node:
        if node.op_type in {"Relu", "Clip"}:
            assert makers[node.input[0]].op_type in {"Conv", "Add"}


def test_of_a_residual_addition_one_branch_is_quantised(int8):
    makers = {name: node.op_type for node in int8.graph.node for name in node.output}
    additions = [node for node in int8.graph.node if node.op_type == "Add"]
    assert additions
    for node in additions:
        assert [makers[name] for name in node.input].count("DequantizeLinear") == 1


def test_the_same_images_give_the_same_bytes(fp32, images, tmp_path):
    for name in ("a", "b"):
        write_int8(fp32, out=tmp_path / name, calibration=images(8), held_out=images(8, seed=1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def one_convolution(path, weight):
    """y = conv(images) flattened by a mean: ranges can be worked out by hand."""
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], name="Conv"),
        helper.make_node("Flatten", ["c"], ["logits"], name="Flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(weight) * 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )


def test_scales_are_the_largest_value_over_127(tmp_path):
    weight = np.array([2.0, -0.5, 0.0], np.float32).reshape(3, 1, 1, 1)
    one_convolution(tmp_path / "f.onnx", weight)
    images = np.zeros((4, 1, 2, 2), np.float32)
    images[2, 0, 1, 1] = -3.0
    found = write_int8(
        tmp_path / "f.onnx", out=tmp_path / "q.onnx", calibration=images, held_out=images
    )
    assert found.method == "max"
    values = constants(onnx.load(tmp_path / "q.onnx"))
    assert values["images_scale"] == pytest.approx(3.0 / 127)
    # A channel of zeros gets a scale that represents it, not 0.
    np.testing.assert_allclose(values["w_scale"], np.array([2.0, 0.5, 1.0]) / 127, rtol=1e-6)


def test_an_outlier_in_the_calibration_set_is_cut_off(tmp_path):
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((3, 1, 1, 1)).astype(np.float32)
    one_convolution(tmp_path / "f.onnx", weight)
    calibration = draw.standard_normal((400, 1, 2, 2)).astype(np.float32) * 0.01
    calibration[0, 0, 0, 0] = 100.0
    held_out = draw.standard_normal((200, 1, 2, 2)).astype(np.float32) * 0.01
    found = write_int8(
        tmp_path / "f.onnx", out=tmp_path / "q.onnx", calibration=calibration, held_out=held_out
    )
    assert found.method != "max"
    assert found.agreement[found.method] > found.agreement["max"]


def test_a_graph_without_weights_cannot_be_quantised(tmp_path):
    node = helper.make_node("Relu", ["images"], ["logits"])
    shape = [1, 1, 2, 2]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "f.onnx"
    )
    images = np.zeros((2, 1, 2, 2), np.float32)
    with pytest.raises(IncompatibleError):
        write_int8(
            tmp_path / "f.onnx", out=tmp_path / "q.onnx", calibration=images, held_out=images
        )


@pytest.mark.parametrize("target", ["jetson@jp5.1", "jetson@jp6.0", "jetson-thor-t5000@jp7.2"])
@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_the_opset_stays_that_of_the_float_file(tmp_path, network, images, target, dynamic_batch):
    module, spec = network("resnet8a-w4")
    software = load_target(target).software
    before, after = tmp_path / "f.onnx", tmp_path / "q.onnx"
    write_fp32(module, spec=spec, software=software, out=before, dynamic_batch=dynamic_batch)
    write_int8(before, out=after, calibration=images(33), held_out=images(8, seed=1))
    old, new = onnx.load(before), onnx.load(after)
    assert (opset_of(new), new.ir_version) == (opset_of(old), old.ir_version)
    assert check_model(after, software) == ()


def test_a_batch_norm_that_is_not_folded_is_refused(tmp_path):
    ones = np.ones(1, np.float32)
    one_convolution(tmp_path / "f.onnx", np.ones((1, 1, 1, 1), np.float32))
    model = onnx.load(tmp_path / "f.onnx")
    norm = helper.make_node("BatchNormalization", ["c", *"abde"], ["n"], name="norm")
    model.graph.node.insert(1, norm)
    model.graph.node[2].input[0] = "n"
    model.graph.initializer.extend(numpy_helper.from_array(ones, name) for name in "abde")
    onnx.save(model, tmp_path / "f.onnx")
    images = np.ones((2, 1, 2, 2), np.float32)
    with pytest.raises(IncompatibleError, match="norm is not folded"):
        write_int8(
            tmp_path / "f.onnx", out=tmp_path / "q.onnx", calibration=images, held_out=images
        )


def test_a_stack_of_matrices_stays_float(tmp_path):
    weight = numpy_helper.from_array(np.ones((1, 1, 2, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["images", "k"], ["c"], name="Conv"),
        helper.make_node("MatMul", ["c", "w"], ["m"], name="MatMul"),
        helper.make_node("Flatten", ["m"], ["logits"], name="Flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 6])],
        [weight, numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "k")],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "f.onnx")
    images = np.ones((2, 1, 2, 2), np.float32)
    write_int8(tmp_path / "f.onnx", out=tmp_path / "q.onnx", calibration=images, held_out=images)
    kinds = {node.op_type: node for node in onnx.load(tmp_path / "q.onnx").graph.node}
    assert list(kinds["MatMul"].input) == ["c", "w"]
    assert check_model(tmp_path / "q.onnx", load_target("jetson@jp6.2").software) == ()


def test_images_that_are_not_finite_give_no_range(fp32, images, tmp_path):
    bad = images(8)
    bad[3, 0, 5, 5] = np.nan
    with pytest.raises(QualityError, match="images is not finite"):
        write_int8(fp32, out=tmp_path / "q.onnx", calibration=bad, held_out=images(8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("calibration", "held_out", "error"),
    [(0, 8, UsageError), (8, 0, UsageError)],
)
def test_an_empty_set_is_a_usage_error(fp32, images, tmp_path, calibration, held_out, error):
    with pytest.raises(error, match="not a single image"):
        write_int8(
            fp32,
            out=tmp_path / "q.onnx",
            calibration=images(calibration),
            held_out=images(held_out),
        )


def test_images_of_another_shape_are_an_input_error(fp32, images, tmp_path):
    with pytest.raises(InputFileError, match=r"takes .*28.*the images are"):
        write_int8(
            fp32, out=tmp_path / "q.onnx", calibration=images(4, size=32), held_out=images(4)
        )
