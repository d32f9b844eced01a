import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from edgekd.export.calibration import LEVELS
from edgekd.export.fake_quant import with_constants
from edgekd.export.parity import logits_of, outputs_of
from edgekd.export.qdq import activations, exposing, limits_of, observe, with_pairs
from edgekd.export.reconstruction import _Layer, reconstruct
from edgekd.export.sensitivity import divergence
from tests.export.networks import (
    constants_of,
    conv,
    drawn,
    graph,
    mixed_network,
    smooth_images,
)

CALIBRATION = smooth_images(64, seed=1)
HELD_OUT = smooth_images(64, seed=2)
LAYERS = ("stem", "depthwise", "grouped", "point", "fc")


def limits_by_max(model, images=CALIBRATION):
    return limits_of(model, observe(model, activations(model), images), "max")


def corrected(model, limits, found, **options):
    changed = with_constants(model, found.constants)
    return with_pairs(changed, limits, weight_scales=found.weight_scales, **options)


def tensors(model, names, images):
    """Inner tensors (N, ...) by name."""
    parts = [found for _, found in outputs_of(exposing(model, names), images, names)]
    return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def logits(model, images):
    return logits_of(model.SerializeToString(), images)


def levels_of(weight, scale):
    """What of a grid a weight (O, ...) is, not rounded."""
    return weight / scale.reshape(-1, *[1] * (weight.ndim - 1))


@pytest.mark.parametrize("layer", LAYERS)
def test_rows_times_weights_are_what_onnx_runtime_computes_at_these_places(layer):
    model = mixed_network()
    node = next(node for node in model.graph.node if node.name == layer)
    constants = constants_of(model)
    weight = constants[node.input[1]]
    images = HELD_OUT[:4]
    inner = [name for name in (node.input[0], node.output[0]) if name not in {"images", "logits"}]
    found = tensors(model, inner, images) | {"images": images, "logits": logits(model, images)}
    matrix = _Layer.of(node, weight)
    assert matrix is not None
    # With so few images it is all places
    rows = matrix.rows([found[node.input[0]]], torch.Generator().manual_seed(0))
    products = rows @ torch.from_numpy(matrix.flat(weight).copy()).transpose(1, 2)  # (G, P, O/G)
    ours = products.permute(0, 2, 1).reshape(weight.shape[0], -1).numpy()  # (O, P)
    theirs = np.moveaxis(found[node.output[0]], 1, 0).reshape(weight.shape[0], -1)
    if len(node.input) > 2:
        theirs = theirs - constants[node.input[2]][:, None]
    # Places come in another order
    np.testing.assert_allclose(np.sort(ours), np.sort(theirs), atol=1e-5)


@pytest.mark.parametrize("levels", [7, LEVELS])
def test_corrected_weights_lie_on_their_grid(levels):
    model = mixed_network()
    found = reconstruct(model, limits_by_max(model), CALIBRATION, levels=levels)
    assert set(found.weight_scales) == {f"{layer}.w" for layer in LAYERS}
    for name, scale in found.weight_scales.items():
        places = levels_of(found.constants[name], scale)
        np.testing.assert_allclose(places, np.rint(places), atol=1e-3)
        assert places.min() >= -levels - 1 - 1e-3
        assert places.max() <= levels + 1e-3
        assert found.constants[name].shape == constants_of(model)[name].shape


def test_a_corrected_graph_answers_more_like_the_float_one():
    model = mixed_network()
    limits = limits_by_max(model)
    found = reconstruct(model, limits, CALIBRATION, levels=7)
    exact = logits(model, HELD_OUT)
    plain = logits(with_pairs(model, limits, weight_scales=found.weight_scales), HELD_OUT)
    better = logits(corrected(model, limits, found), HELD_OUT)
    assert divergence(exact, better) < 0.5 * divergence(exact, plain)
    assert np.square(exact - better).mean() < 0.5 * np.square(exact - plain).mean()


@pytest.mark.parametrize("keep", [(), ("stem", "point")], ids=["all", "some"])
def test_the_bias_takes_back_the_mean(keep):
    model = mixed_network()
    limits = limits_by_max(model)
    found = reconstruct(model, limits, CALIBRATION, keep=keep, levels=7)
    names = ["a", "c", "f"]
    exact = tensors(model, names, CALIBRATION)
    int8 = tensors(corrected(model, limits, found, keep=keep), names, CALIBRATION)
    plain = tensors(
        with_pairs(model, limits, keep=keep, weight_scales=found.weight_scales), names, CALIBRATION
    )

    def missed(values, name):
        return np.abs((values[name] - exact[name]).mean((0, 2, 3))).max()

    for name in names:
        assert missed(int8, name) < 1e-5
    assert missed(plain, "f") > 1e-3
    int8_logits = logits(corrected(model, limits, found, keep=keep), CALIBRATION)
    np.testing.assert_allclose(int8_logits.mean(0), logits(model, CALIBRATION).mean(0), atol=1e-4)


def test_weights_of_layers_that_are_kept_stay():
    model = mixed_network()
    found = reconstruct(model, limits_by_max(model), CALIBRATION, keep=("stem", "fc"))
    assert set(found.weight_scales) == {"depthwise.w", "grouped.w", "point.w"}
    assert not {"stem.w", "fc.w"} & set(found.constants)
    assert "fc.b" in found.constants


@pytest.mark.parametrize("levels", [7, 64, LEVELS])
def test_the_largest_weight_of_a_channel_stays_where_it_is_pinned(levels):
    model = mixed_network()
    found = reconstruct(model, {}, CALIBRATION, levels=levels, pinned=True)
    for layer in LAYERS:
        before, after = (each[f"{layer}.w"] for each in (constants_of(model), found.constants))
        largest, there = (np.abs(each).reshape(len(each), -1).max(1) for each in (before, after))
        np.testing.assert_allclose(there, largest, rtol=1e-6)
        places = levels_of(after, largest / levels)
        np.testing.assert_allclose(places, np.rint(places), atol=1e-3)


def test_no_weight_passes_the_one_that_is_pinned():
    draw = np.random.default_rng(6)
    images = np.asarray(draw.standard_normal((256, 3, 1, 1)), np.float32)
    # What the first weight loses is to be made up for by the last, which hardly has room below
    images[:, 2] = 0.4 * images[:, 0]
    constants = {"fc.w": np.tile([[0.36], [-1.0], [-0.99]], 2), "fc.b": np.zeros(2)}
    nodes = [
        helper.make_node("Flatten", ["images"], ["a"]),
        helper.make_node("Gemm", ["a", "fc.w", "fc.b"], ["logits"], name="fc"),
    ]
    model = graph(nodes, constants, shape=(3, 1, 1), classes=2)
    free, pinned = (
        reconstruct(model, {}, images, levels=7, pinned=each).constants["fc.w"]
        for each in (False, True)
    )
    assert free.min() == pytest.approx(-8 / 7)
    assert pinned.min() == -1


def test_a_fixed_batch_and_an_open_one_give_the_same():
    found = []
    for batch in (1, "batch"):
        model = mixed_network(batch=batch)
        found.append(reconstruct(model, limits_by_max(model), CALIBRATION[:16]))
    for name, value in found[0].constants.items():
        np.testing.assert_allclose(value, found[1].constants[name], atol=1e-5)


def test_the_same_images_give_the_same_weights():
    model = mixed_network()
    limits = limits_by_max(model)
    before = model.SerializeToString(deterministic=True)
    first, second = (reconstruct(model, limits, CALIBRATION) for _ in range(2))
    assert {name: value.tobytes() for name, value in first.constants.items()} == {
        name: value.tobytes() for name, value in second.constants.items()
    }
    assert model.SerializeToString(deterministic=True) == before


def shared_network():
    draw = np.random.default_rng(3)
    constants = {
        "one.w": drawn(draw, 3, 3, 3, 3),
        "one.b": draw.standard_normal(3) / 8,
        "fc.w": drawn(draw, 3, 4) * 8,
    }
    # The same layer twice, and one without a bias
    again = helper.make_node("Conv", ["b", "one.w", "one.b"], ["c"], name="again")
    nodes = [
        conv("one", "images", "a", bias=True),
        helper.make_node("Relu", ["a"], ["b"]),
        again,
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "fc.w"], ["logits"], name="fc"),
    ]
    return graph(nodes, constants, shape=(3, 12, 12), classes=4)


def test_a_weight_of_two_layers_is_rounded_to_the_nearest_and_their_bias_stays():
    model = shared_network()
    limits = limits_by_max(model)
    found = reconstruct(model, limits, CALIBRATION, levels=7)
    # By its pair: a layer that is kept takes it as it was
    assert set(found.constants) == {"fc.w"}
    assert set(found.weight_scales) == {"one.w", "fc.w"}
    int8 = corrected(model, limits, found)
    exact, better = (logits(each, HELD_OUT) for each in (model, int8))
    plain = logits(with_pairs(model, limits, weight_scales=found.weight_scales), HELD_OUT)
    assert 0 < divergence(exact, better) <= divergence(exact, plain)


def test_a_layer_that_is_too_wide_for_least_squares_is_rounded_to_the_nearest():
    draw = np.random.default_rng(7)
    constants = {"fc.w": drawn(draw, 4, 3 * 56 * 56), "fc.b": draw.standard_normal(4) / 8}
    nodes = [
        helper.make_node("Flatten", ["images"], ["a"]),
        helper.make_node("Gemm", ["a", "fc.w", "fc.b"], ["logits"], name="fc", transB=1),
    ]
    model = graph(nodes, constants, shape=(3, 56, 56), classes=4)
    images = smooth_images(8, seed=1, size=56)
    limits = limits_by_max(model, images)
    found = reconstruct(model, limits, images, levels=7)
    assert set(found.constants) == {"fc.b"}
    exact, better = (logits(each, images) for each in (model, corrected(model, limits, found)))
    np.testing.assert_allclose(better.mean(0), exact.mean(0), atol=1e-4)


def turned_network():
    draw = np.random.default_rng(4)
    constants = {
        "up.w": drawn(draw, 3, 4, 2, 2),
        "up.b": draw.standard_normal(4) / 8,
        "fc.w": drawn(draw, 4, 5) * 8,
    }
    nodes = [
        helper.make_node(
            "ConvTranspose", ["images", "up.w", "up.b"], ["a"], name="up", strides=[2, 2]
        ),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "fc.w"], ["logits"], name="fc"),
    ]
    return graph(nodes, constants, shape=(3, 12, 12), classes=5)


def test_transposed_convolutions_and_matrix_products_are_corrected():
    model = turned_network()
    limits = limits_by_max(model)
    found = reconstruct(model, limits, CALIBRATION, levels=7)
    assert set(found.constants) == {"up.b", "fc.w"}
    assert set(found.weight_scales) == {"up.w", "fc.w"}
    places = found.constants["fc.w"] / found.weight_scales["fc.w"]
    np.testing.assert_allclose(places, np.rint(places), atol=1e-3)
    int8 = corrected(model, limits, found)
    exact, better = (tensors(each, ["a"], CALIBRATION)["a"] for each in (model, int8))
    np.testing.assert_allclose(better.mean((0, 2, 3)), exact.mean((0, 2, 3)), atol=1e-5)
    onnx.checker.check_model(int8, full_check=True)


def test_rows_of_a_tensor_with_more_axes_are_those_of_its_last():
    draw = np.random.default_rng(5)
    constants = {"mix.w": drawn(draw, 12, 6), "fc.w": drawn(draw, 216, 5)}
    nodes = [
        helper.make_node("MatMul", ["images", "mix.w"], ["a"], name="mix"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "fc.w"], ["logits"], name="fc"),
    ]
    model = graph(nodes, constants, shape=(3, 12, 12), classes=5)
    limits = limits_by_max(model)
    found = reconstruct(model, limits, CALIBRATION, levels=7)
    exact = tensors(model, ["a"], HELD_OUT)["a"]
    plain = with_pairs(model, limits, weight_scales=found.weight_scales)
    errors = [
        np.square(tensors(each, ["a"], HELD_OUT)["a"] - exact).mean()
        for each in (corrected(model, limits, found), plain)
    ]
    assert errors[0] < errors[1]
