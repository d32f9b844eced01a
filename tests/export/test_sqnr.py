import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import InputFileError, UsageError
from edgekd.export.calibration import LEVELS
from edgekd.export.equalisation import equalise
from edgekd.export.qdq import activations, limits_of, observe, with_pairs
from edgekd.export.sqnr import MOST_DB, layer_precision
from tests.export.making import write_int8


@pytest.fixture(scope="module")
def int8(fp32, images):
    out = fp32.with_name("precision-int8.onnx")
    write_int8(fp32, out=out, calibration=images(16), held_out=images(16, seed=1))
    return out


def test_every_quantised_tensor_has_a_figure_and_the_outputs_come_last(fp32, int8, images):
    model = onnx.load(fp32)
    found = layer_precision(fp32, int8, images=images(8, seed=2))
    assert [layer.tensor for layer in found] == [*activations(model), "logits"]
    assert found[0].made_by == "input"
    assert {layer.made_by.split()[0] for layer in found[1:]} >= {"Relu", "Gemm"}
    assert all(5 < layer.sqnr_db < MOST_DB for layer in found)


def test_a_graph_against_itself_without_pairs_is_equal(fp32, images):
    (found,) = layer_precision(fp32, fp32, images=images(4))
    assert (found.tensor, found.sqnr_db) == ("logits", MOST_DB)


def test_a_coarse_range_costs_what_theory_says(fp32, images, tmp_path):
    """Rounding noise of a uniform step is step^2 / 12 (Bennett), so ten times the step is 20 dB."""
    model = onnx.load(fp32)
    found = []
    for limit in (5.0, 50.0):
        limits = dict.fromkeys(activations(model), limit)
        path = tmp_path / f"{limit}.onnx"
        path.write_bytes(with_pairs(model, limits).SerializeToString())
        given = images(8).clip(-5, 5)
        layer = layer_precision(fp32, path, images=given)[0]
        expected = 10 * np.log10(np.square(given).mean() / ((limit / LEVELS) ** 2 / 12))
        assert layer.sqnr_db == pytest.approx(expected, abs=0.5)
        found.append(layer.sqnr_db)
    assert found[0] - found[1] == pytest.approx(20, abs=0.5)


def doubling(path, factor):
    """logits = factor * flattened images, through a product with a constant matrix."""
    weight = numpy_helper.from_array(factor * np.eye(4, dtype=np.float32), "w")
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], name="Flatten"),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], name="Gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_the_ratio_is_that_of_powers_over_all_images(tmp_path):
    one, other = doubling(tmp_path / "a.onnx", 1.0), doubling(tmp_path / "b.onnx", 1.1)
    given = np.random.default_rng(0).standard_normal((6, 1, 2, 2)).astype(np.float32)
    (found,) = layer_precision(one, other, images=given)
    assert found.sqnr_db == pytest.approx(20.0, abs=0.01)  # the difference is a tenth
    assert found.made_by == "Gemm Gemm"


def test_a_signal_of_zero_with_noise_is_the_worst_there_is(tmp_path):
    one, other = doubling(tmp_path / "a.onnx", 0.0), doubling(tmp_path / "b.onnx", 1.0)
    (found,) = layer_precision(one, other, images=np.ones((1, 1, 2, 2), np.float32))
    assert found.sqnr_db == -MOST_DB


def test_what_cannot_be_compared_is_said(fp32, int8, images, tmp_path):
    with pytest.raises(UsageError, match="not a single image"):
        layer_precision(fp32, int8, images=images(4)[:0])
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(InputFileError):
        layer_precision(fp32, tmp_path / "x.onnx", images=images(4))


def test_factors_of_channels_are_no_noise(fp32, images, tmp_path):
    model = onnx.load(fp32)
    shown = images(16)
    even = equalise(model, shown)
    ranges = limits_of(even, observe(even, activations(even), shown), "max")
    path = tmp_path / "even.onnx"
    path.write_bytes(with_pairs(even, ranges).SerializeToString())
    blind = layer_precision(fp32, path, images=images(8, seed=2))
    found = layer_precision(fp32, path, images=images(8, seed=2), equalised=True)
    assert min(layer.sqnr_db for layer in blind) < 15
    assert all(layer.sqnr_db > 20 for layer in found)
    assert found[-1] == blind[-1]
