import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import IncompatibleError, QualityError
from edgekd.export.compatibility import check_model
from edgekd.export.fp16 import overflowing, to_half
from edgekd.export.parity import logits_of
from edgekd.export.qdq import (
    WEIGHTED,
    activations,
    limits_of,
    observe,
    with_pairs,
)
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.targets.catalogue import load_target


def product(factor, *, bias=0.0):
    """logits = relu(images w) v + b, where w makes values of about `factor`."""
    values = {
        "w": np.full((4, 4), factor, np.float32),
        "v": np.full((4, 3), 1 / factor, np.float32),
        "b": np.full(3, bias, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["images", "w"], ["m"], name="large"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["n"], name="small"),
        helper.make_node("Add", ["n", "b"], ["logits"], name="bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def types(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}


def test_what_fits_becomes_half_and_ends_stay_float():
    images = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    model = product(2.0)
    assert overflowing(model, images) == ()
    half = to_half(model, keep=())
    onnx.checker.check_model(half, full_check=True)
    assert {kind for name, kind in types(half).items() if name in {"m", "r", "n"}} == {
        TensorProto.FLOAT16
    }
    for entry in (*half.graph.input, *half.graph.output):
        assert entry.type.tensor_type.elem_type == TensorProto.FLOAT
    before, after = (logits_of(m.SerializeToString(), images) for m in (model, half))
    np.testing.assert_allclose(after, before, atol=2e-2 * np.abs(before).max())


def test_what_overflows_stays_float_and_is_named():
    images = np.ones((2, 4), np.float32)
    model = product(1e5)  # m is 4e5: infinite in FP16, and v is far below its smallest value
    kept = overflowing(model, images)
    assert kept == ("large", "relu", "small")
    half = to_half(model, keep=kept)
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    assert found["m"] == found["r"] == found["n"] == TensorProto.FLOAT
    np.testing.assert_allclose(
        logits_of(half.SerializeToString(), images), np.full((2, 3), 16.0), rtol=1e-2
    )


def test_a_margin_is_kept_for_images_that_reach_further():
    images = np.ones((2, 4), np.float32)
    assert overflowing(product(60_000 / 4), images)  # would fit, just
    assert not overflowing(product(6_000 / 4), images)


def test_what_is_not_finite_in_float_is_no_matter_of_half():
    images = np.full((1, 4), np.inf, np.float32)
    with pytest.raises(QualityError):
        overflowing(product(2.0), images)


@pytest.fixture
def quantised(tmp_path, network, images):
    def make(target):
        module, spec = network("resnet8-w4")
        path = tmp_path / "f.onnx"
        write_fp32(module, spec=spec, software=load_target(target).software, out=path)
        model = onnx.load(path)
        ranges = observe(model, activations(model), images(8))
        return model, with_pairs(model, limits_of(model, ranges, "max"))

    return make


def test_pairs_work_in_half_from_opset_19(quantised, images):
    _, pairs = quantised("jetson-thor-t5000@jp7.2")
    half = to_half(pairs, keep=overflowing(pairs, images(8)))
    onnx.checker.check_model(half, full_check=True)
    assert sum(node.op_type == "QuantizeLinear" for node in half.graph.node) == sum(
        node.op_type == "QuantizeLinear" for node in pairs.graph.node
    )
    before, after = (logits_of(m.SerializeToString(), images(8)) for m in (pairs, half))
    # A value that lies between two levels may fall to the other side.
    assert np.abs(before - after).max() <= 0.1 * np.abs(before).max()


@pytest.mark.parametrize("factor", [1e6, 1e-9], ids=["too large", "too small"])
def test_a_layer_that_stays_float_keeps_its_pairs(tmp_path, network, images, factor):
    module, spec = network("lenet5-half")
    module = copy.deepcopy(module)
    first = next(part for part in module.modules() if isinstance(part, torch.nn.Conv2d))
    with torch.no_grad():
        first.weight *= factor
        first.bias *= factor
    software = load_target("jetson-thor-t5000@jp7.2").software
    write_fp32(module, spec=spec, software=software, out=tmp_path / "f.onnx")
    model = onnx.load(tmp_path / "f.onnx")
    ranges = observe(model, activations(model), images(8))
    pairs = with_pairs(model, limits_of(model, ranges, "max"))
    kept = overflowing(pairs, images(8))
    layers = [node.name for node in pairs.graph.node if node.op_type in WEIGHTED]
    assert set(kept) & set(layers)
    onnx.save(to_half(pairs, keep=kept), tmp_path / "h.onnx")
    assert check_model(tmp_path / "h.onnx", software) == ()


def test_below_opset_19_they_are_refused(quantised):
    _, pairs = quantised("jetson@jp6.2")
    with pytest.raises(IncompatibleError, match="opset 18"):
        to_half(pairs, keep=())
