import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.convert import export_fp32, export_int8
from edgekd.export.parity import logits_of, session
from edgekd.export.qdq_cpu import with_cpu_pairs
from edgekd.export.sqnr import layer_precision
from edgekd.targets.catalogue import load_target


def zero_points(model):
    values = {e.name: numpy_helper.to_array(e) for e in model.graph.initializer}
    return [values[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]


@pytest.mark.parametrize(("arm", "kind"), [(True, np.int8), (False, np.uint8)])
def test_activations_have_the_type_that_the_processor_multiplies(fp32, images, arm, kind):
    before = fp32.read_bytes()
    model = onnx.load(fp32)
    found = with_cpu_pairs(model, images(16), arm=arm)
    onnx.checker.check_model(found, full_check=True)
    assert {zero.dtype.type for zero in zero_points(found)} == {kind}
    assert model.SerializeToString() == onnx.load(fp32).SerializeToString()
    assert fp32.read_bytes() == before


def test_weights_on_x86_have_seven_bits(fp32, images):
    found = with_cpu_pairs(onnx.load(fp32), images(16), arm=False)
    weights = [
        numpy_helper.to_array(entry)
        for entry in found.graph.initializer
        if entry.data_type == TensorProto.INT8 and len(entry.dims) == 4
    ]
    assert weights
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) <= 64


def test_weights_have_eight_bits_where_the_board_has_vnni(fp32, images):
    found = with_cpu_pairs(onnx.load(fp32), images(16), arm=False, vnni=True)
    weights = [
        numpy_helper.to_array(entry)
        for entry in found.graph.initializer
        if entry.data_type == TensorProto.INT8 and len(entry.dims) == 4
    ]
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) == 127
    assert {zero.dtype.type for zero in zero_points(found)} == {np.uint8}


@pytest.mark.parametrize(("name", "most"), [("x86", 64), ("x86-vnni", 127)])
def test_the_target_says_how_many_bits_weights_have(network, images, tmp_path, name, most):
    module, spec = network("resnet8-w4")
    target = load_target(name)
    fp32 = tmp_path / "f.onnx"
    export_fp32(module, spec=spec, target=target, out=fp32, images=images(8), made_from="0" * 64)
    export_int8(
        fp32, target=target, out=tmp_path / "q.onnx", calibration=images(16), held_out=images(8)
    )
    largest = max(
        int(np.abs(numpy_helper.to_array(entry).astype(int)).max())
        for entry in onnx.load(tmp_path / "q.onnx").graph.initializer
        if entry.data_type == TensorProto.INT8 and len(entry.dims) == 4
    )
    assert largest == most


def byte_product(weight):
    """255 in all of 64 places times a weight, on one output, in the form of ONNX Runtime's quantiser."""
    scale, zero, signed = np.float32(1), np.uint8(0), np.int8(0)
    constants = {"s": scale, "z": zero, "n": signed, "w": np.full((64, 4), weight, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "s", "n"], ["y"]),
        helper.make_node("MatMul", ["x", "y"], ["sums"]),
        # Sums are scaled down to bytes again, so that one integer kernel does it all
        helper.make_node("QuantizeLinear", ["sums", "big", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "big", "z"], ["logits"]),
    ]
    constants["big"] = np.float32(64 * 255 * weight / 200)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 64))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 4))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model.SerializeToString()


@pytest.mark.parametrize("weight", [64, 127])
def test_answers_that_are_compared_do_not_saturate_on_any_processor(weight):
    # 255 * 127 + 255 * 127 is 64,770, and 16 bits end at 32,767
    given = np.full((1, 64), 255, np.float32)
    found = session(byte_product(weight)).run(None, {"images": given})[0]
    np.testing.assert_allclose(found, np.full((1, 4), 255.0 * weight * 64), rtol=1e-6)


def test_layers_become_integer_kernels(fp32, images, tmp_path):
    onnx.save(with_cpu_pairs(onnx.load(fp32), images(16), arm=False), tmp_path / "q.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(tmp_path / "q.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "QLinearConv" in kinds
    assert "Conv" not in kinds


def test_it_is_what_a_cpu_target_gets_and_the_same_each_time(network, images, tmp_path):
    module, spec = network("resnet8-w4")
    target = load_target("x86")
    fp32 = tmp_path / "f.onnx"
    export_fp32(module, spec=spec, target=target, out=fp32, images=images(8), made_from="0" * 64)
    found, _ = (
        export_int8(
            fp32,
            target=target,
            out=tmp_path / name,
            calibration=images(32),
            held_out=images(32, seed=1),
        )
        for name in ("a.onnx", "b.onnx")
    )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert found.calibration is not None
    assert found.calibration.method == "max"
    assert any(zero.any() for zero in zero_points(onnx.load(tmp_path / "a.onnx")))
    exact, answers = (logits_of(each, images(16)) for each in (fp32, tmp_path / "a.onnx"))
    assert np.abs(exact - answers).mean() < 0.2 * np.abs(exact).mean() + 0.05
    layers = layer_precision(fp32, tmp_path / "a.onnx", images=images(16))
    assert len(layers) > 5
    assert layers[-1].tensor == "logits"


def test_layers_can_be_kept(fp32, images):
    model = onnx.load(fp32)
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    found = with_cpu_pairs(model, images(8), arm=True, keep=[first])
    makers = {name: node.op_type for node in found.graph.node for name in node.output}
    kept = next(node for node in found.graph.node if node.name == first)
    assert makers.get(kept.input[1]) != "DequantizeLinear"
