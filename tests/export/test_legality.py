"""One planted defect for each rule; the same graph without it is clean."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import IncompatibleError, InputFileError
from edgekd.export.legality import check_model, require_legal
from edgekd.export.quantize import write_int8
from edgekd.targets.catalogue import load_target

JP62 = load_target("jetson@jp6.2").software
JP60 = load_target("jetson@jp6.0").software
JP51 = load_target("jetson@jp5.1").software


@pytest.fixture
def quantised(fp32, images, tmp_path):
    write_int8(fp32, out=tmp_path / "m.onnx", calibration=images(8), held_out=images(8, seed=1))
    return tmp_path / "m.onnx"


def rules(path, software=JP62):
    return {violation.rule for violation in check_model(path, software)}


def edited(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def replace_constant(model, ending, value):
    for entry in model.graph.initializer:
        if entry.name.endswith(ending):
            entry.CopyFrom(numpy_helper.from_array(value(numpy_helper.to_array(entry)), entry.name))
            return
    raise AssertionError(ending)


def test_what_we_quantise_is_legal(quantised):
    assert check_model(quantised, JP62) == ()


@pytest.mark.parametrize(
    ("ending", "value", "rule"),
    [
        ("_zero", lambda old: np.full_like(old, 3), "zero point"),
        ("_zero", lambda old: old.astype(np.uint8), "quantised type"),
        ("_zero", lambda old: old.astype(np.int32), "quantised type"),
        ("_scale", lambda old: np.zeros_like(old), "scale"),
        ("_scale", lambda old: np.full_like(old, np.nan), "scale"),
        ("_scale", lambda old: np.full_like(old, -1), "scale"),
        ("_scale", lambda old: np.full_like(old, 1e-12), "dead scale"),
    ],
    ids=["not zero", "uint8", "int32", "zero scale", "nan scale", "negative scale", "dead scale"],
)
def test_bad_scales_and_zero_points_are_found(quantised, ending, value, rule):
    edited(quantised, lambda model: replace_constant(model, ending, value))
    assert rule in rules(quantised)


def test_a_zero_point_left_out_is_found(quantised):
    def drop(model):
        for node in model.graph.node:
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
                del node.input[2]

    edited(quantised, drop)
    assert "zero point" in rules(quantised)


def test_int8_is_refused_where_the_board_runs_none(quantised):
    assert rules(quantised, replace(JP62, int8=False)) == {"no INT8"}


@pytest.mark.parametrize(("opset", "software"), [(21, JP62), (18, JP60), (18, JP51), (8, JP62)])
def test_opsets_outside_the_range_are_found(fp32, tmp_path, opset, software):
    model = onnx.load(fp32)
    model.opset_import[0].version = opset
    onnx.save(model, tmp_path / "m.onnx")
    assert "opset" in rules(tmp_path / "m.onnx", software)


def test_opset_18_reductions_on_tensorrt_8_are_found(fp32):
    assert "reduction" in rules(fp32, JP60)
    assert "reduction" not in rules(fp32, JP62)


def small(path, node, *, opset=20, initializers=(), extra=None, shape=(1, 4, 4, 4), metadata=None):
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)]
    graph = helper.make_graph([*(extra or []), node], "g", inputs, outputs, list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if metadata:
        entry = model.metadata_props.add()
        entry.key, entry.value = "source", metadata
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("operator", "opset", "software", "legal"),
    [
        ("Relu", 17, JP60, True),
        ("Gelu", 20, JP62, True),
        ("Gelu", 17, JP60, False),
        ("Celu", 17, JP62, False),
    ],
)
def test_operators_are_judged_by_version_and_unknown_ones_never_pass(
    tmp_path, operator, opset, software, legal
):
    path = small(
        tmp_path / "m.onnx",
        helper.make_node(operator, ["images"], ["logits"], name="n"),
        opset=opset,
    )
    assert ("operator" in rules(path, software)) is not legal


def test_layer_normalisation_needs_tensorrt_8_6(tmp_path):
    scale = numpy_helper.from_array(np.ones(4, np.float32), "s")
    node = helper.make_node("LayerNormalization", ["images", "s"], ["logits"], name="n")
    path = small(tmp_path / "m.onnx", node, opset=17, initializers=[scale])
    assert "operator" in rules(path, JP51)
    assert "operator" not in rules(path, JP60)


def test_padding_that_is_computed_is_found(tmp_path):
    make = helper.make_node("Shape", ["images"], ["pads"], name="s")
    pad = helper.make_node("Pad", ["images", "pads"], ["logits"], name="p")
    assert "computed shape" in rules(small(tmp_path / "m.onnx", pad, opset=18, extra=[make]))


def test_a_dynamic_height_is_found_and_a_dynamic_batch_is_fine(tmp_path):
    node = helper.make_node("Relu", ["images"], ["logits"], name="n")
    assert "dynamic dimension" in rules(small(tmp_path / "h.onnx", node, shape=(1, 3, "height", 4)))
    assert rules(small(tmp_path / "b.onnx", node, shape=("batch", 3, 4, 4))) == set()


def test_paths_of_the_build_machine_are_found(tmp_path):
    node = helper.make_node("Relu", ["images"], ["logits"], name="n")
    path = small(tmp_path / "m.onnx", node, metadata="/home/me/project/train.py")
    assert "build path" in rules(path)


def test_external_data_is_found(tmp_path):
    weight = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w")
    node = helper.make_node("Conv", ["images", "w"], ["logits"], name="n")
    path = small(tmp_path / "m.onnx", node, initializers=[weight])
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0)
    assert "external data" in rules(path)


def test_a_refusal_names_every_reason(quantised):
    edited(
        quantised, lambda model: replace_constant(model, "_zero", lambda old: np.full_like(old, 3))
    )
    with pytest.raises(IncompatibleError, match=r"(?s)zero point.*opset|opset.*zero point"):
        require_legal(quantised, JP60)


@hypothesis_settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_an_input_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InputFileError):
        check_model(path, JP62)


def test_a_truncated_model_is_never_called_legal(fp32, tmp_path):
    data = fp32.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "m.onnx").write_bytes(data[: int(share * len(data))])
        try:
            assert check_model(tmp_path / "m.onnx", JP62)
        except InputFileError:
            continue
