from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export import convert, parity, qdq
from edgekd.export.compatibility import check_model, read_graph
from edgekd.export.sqnr import layer_precision
from edgekd.export.stored_weights import round_to_levels, store_int8
from edgekd.export.tensorrt_operators import version_of
from edgekd.export.tensorrt_quantisation import INT8_WEIGHTS_SINCE
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.records import is_rtx
from edgekd.targets import catalogue
from edgekd.targets.catalogue import load_target

OLD, WEAK, STRONG = (load_target(f"jetson@{name}") for name in ("jp6.0", "jp6.2", "jp7.2"))


@pytest.fixture(scope="module")
def paired(fp32, images):
    model = read_graph(fp32)
    ranges = qdq.observe(model, qdq.activations(model), images(8))
    return qdq.with_pairs(model, qdq.limits_of(model, ranges, "max"))


@pytest.fixture
def stored(paired):
    model = onnx.ModelProto()
    model.CopyFrom(paired)
    store_int8(model)
    return model


def constants(model):
    return {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}


def weights_of(model):
    """Of every layer, what its second input is made from, and by which operators."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in qdq.WEIGHTED:
            name, passed = node.input[1], []
            while name in makers:
                passed.append(makers[name].op_type)
                name = makers[name].input[0]
            yield name, passed


def test_weights_are_integers_with_a_dequantize_linear_alone(stored):
    values = constants(stored)
    found = list(weights_of(stored))
    assert found
    for name, passed in found:
        assert passed == ["DequantizeLinear"]
        assert values[name].dtype == np.int8
    assert not any(value.dtype == np.float32 and value.ndim > 1 for value in values.values())
    onnx.checker.check_model(stored, full_check=True)


@pytest.mark.parametrize("count", [parity.FEW, 16], ids=["few images", "many images"])
def test_both_forms_answer_alike_bit_for_bit(paired, stored, images, count):
    first, second = (
        parity.logits_of(model.SerializeToString(), images(count, seed=2))
        for model in (paired, stored)
    )
    np.testing.assert_array_equal(first, second)


def test_levels_are_those_of_onnx_runtime_at_halves_and_ends():
    weight = np.array([[0.5, 1.5, 2.5, -0.5, 200.0], [-200.0, 0.3, 127.5, -127.5, 0.0]], np.float32)
    scale = np.array([1.0, 0.7], np.float32)
    node = helper.make_node("QuantizeLinear", ["w", "s", "z"], ["y"], axis=0)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("w", TensorProto.FLOAT, weight.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT8, weight.shape)],
        [
            numpy_helper.from_array(scale, "s"),
            numpy_helper.from_array(np.zeros(2, np.int8), "z"),
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    ours = round_to_levels(weight, scale, 0)
    given = parity.session(model.SerializeToString()).run(None, {"w": weight})[0]
    np.testing.assert_array_equal(ours, given)


def test_a_constant_that_something_else_takes_stays_beside_its_levels(paired):
    shared = onnx.ModelProto()
    shared.CopyFrom(paired)
    name = next(
        node.input[0]
        for node in shared.graph.node
        if node.name.startswith("Q_") and node.input[0] in constants(shared)
    )
    shared.graph.node.append(helper.make_node("Identity", [name], ["same"], name="same"))
    shared.graph.output.append(helper.make_empty_tensor_value_info("same"))
    kept = constants(shared)[name]
    store_int8(shared)
    found = constants(shared)
    np.testing.assert_array_equal(found[name], kept)
    assert found[f"{name}_q"].dtype == np.int8


def test_a_single_number_stays_a_pair():
    nodes = [
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"], name="Q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="DQ"),
        helper.make_node("Mul", ["x", "d"], ["y"], name="half"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    values = {"c": np.float32(0.5), "s": np.float32(0.1), "z": np.int8(0)}
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], held))
    before = model.SerializeToString(deterministic=True)
    store_int8(model)
    assert model.SerializeToString(deterministic=True) == before


def test_methods_are_compared_as_their_files_answer(fp32, images):
    model, held_out = read_graph(fp32), images(16, seed=1)
    chosen = qdq.choose(model, calibration=images(8), held_out=held_out)
    exact = parity.logits_of(fp32, held_out)
    for method, found in chosen.agreement.items():
        pairs = qdq.with_pairs(model, qdq.limits_of(model, chosen.ranges, method))
        answers = parity.logits_of(pairs.SerializeToString(), held_out)
        assert found == parity.agreement(answers, exact)


@pytest.mark.parametrize(
    ("version", "legal"),
    [("8.2.1", False), ("8.5.2", False), ("8.6.2", False), ("10.3.0", True), ("11.4.1", True)],
    ids=["8.2.1", "8.5.2", "8.6.2", "10.3.0", "11.4.1"],
)
def test_the_check_takes_them_from_ten_on(stored, tmp_path, version, legal):
    path = tmp_path / "m.onnx"
    onnx.save(stored, path)
    found = check_model(path, replace(WEAK.software, tensorrt=version))
    assert ("INT8 weights" not in {each.rule for each in found if each.refuses}) == legal


def test_what_the_catalogue_says_is_what_the_check_says():
    known = {each.name: each for board in catalogue.boards() for each in board.software.values()}
    for software in known.values():
        if software.tensorrt is None:
            assert not software.int8_weights
        else:
            reads = is_rtx(software.tensorrt) or version_of(software) >= INT8_WEIGHTS_SINCE
            assert software.int8_weights == reads


@pytest.mark.parametrize("target", [OLD, WEAK, STRONG], ids=["8.6", "10.3", "10.16"])
def test_an_exported_file_has_the_form_that_its_tensorrt_reads(
    target, network, images, tmp_path: Path
):
    module, spec = network("resnet8-w8")
    fp32, out = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    write_fp32(module, spec=spec, software=target.software, out=fp32)
    record = convert.export_int8(
        fp32, target=target, out=out, calibration=images(8), held_out=images(8, seed=1)
    )
    model = onnx.load(out)
    passed = {tuple(each) for _, each in weights_of(model)}
    if target.software.int8_weights:
        assert passed == {("DequantizeLinear",)}
        # A small network, whose nodes weigh as well
        assert record.size_bytes < 0.5 * fp32.stat().st_size
    else:
        assert passed == {("DequantizeLinear", "QuantizeLinear")}
    assert parity.logits_of(out, images(4)).shape == (4, 4)
    ratios = {each.tensor: each.sqnr_db for each in layer_precision(fp32, out, images=images(8))}
    assert len(ratios) > 5
    assert min(ratios.values()) > 10
