import numpy as np
import onnx
import pytest

from edgekd.export.qdq import (
    activations,
    limits_of,
    observe,
    with_pairs,
)
from edgekd.export.sensitivity import divergence, needed, sensitivities, worst
from edgekd.records import LayerSensitivity


def layer(name, divergence, macs, size):
    return LayerSensitivity(layer=name, divergence=divergence, macs_share=macs, size_share=size)


LAYERS = (
    layer("a", 0.1, 0.5, 0.1),
    layer("b", 0.05, 0.1, 0.6),
    layer("c", 0.0, 0.05, 0.1),
    layer("d", 0.01, 0.35, 0.2),
)


def test_what_hurts_most_for_its_price_is_kept_within_the_share():
    assert worst(LAYERS, share=0.2, by="macs") == ("b",)
    assert worst(LAYERS, share=0.65, by="macs") == ("b", "a")
    assert worst(LAYERS, share=0.3, by="size") == ("a", "d")
    assert worst(LAYERS, share=0.0, by="size") == ()


@pytest.mark.parametrize(
    ("share", "little", "kept"),
    [
        pytest.param(1.0, 0.002, ("a", "b", "d"), id="all that tell"),
        pytest.param(1.0, 0.03, ("a", "b"), id="until little is lost"),
        pytest.param(1.0, 0.07, ("a",), id="one is enough"),
        pytest.param(1.0, 0.17, (), id="little is lost to begin with"),
        pytest.param(0.45, 0.002, ("b", "d"), id="the worst is too dear"),
        pytest.param(0.1, 0.002, ("b",), id="all of the share"),
        pytest.param(0.0, 0.002, (), id="no share"),
    ],
)
def test_layers_are_kept_until_the_others_lose_little(share, little, kept):
    assert needed(LAYERS, share=share, little=little) == kept


def test_a_loss_that_all_layers_share_has_no_layer_to_keep():
    alike = [layer(str(number), 0.01, 0.02, 0.02) for number in range(50)]
    assert needed(alike, share=0.05, little=0.002) == ()
    # A twentieth of all that is lost is worth it
    one = [layer("one", 0.03, 0.02, 0.02), *alike]
    assert needed(one, share=0.05, little=0.002) == ("one",)


def test_a_layer_that_seems_to_gain_by_int8_takes_nothing_off_the_others():
    gains = (layer("a", 0.1, 0.02, 0.1), layer("b", -0.5, 0.02, 0.1))
    assert needed(gains, share=0.05, little=0.002) == ("a",)


def test_the_divergence_is_that_of_the_two_distributions():
    exact = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    answers = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], np.float32)) + 3
    by_hand = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert divergence(exact, answers) == pytest.approx(by_hand / 2, rel=1e-5)
    assert divergence(exact, exact - 100) == pytest.approx(0, abs=1e-6)


def test_a_layer_that_is_cut_short_is_the_most_sensitive(fp32, images):
    model = onnx.load(fp32)
    shown = images(16)
    limits = limits_of(model, observe(model, activations(model), shown), "max")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    broken = convolutions[2]
    limits[broken.input[0]] /= 50
    found = sensitivities(model, limits, shown)
    assert max(found, key=lambda each: each.divergence).layer == broken.name
    assert sum(each.macs_share for each in found) == pytest.approx(1)
    assert sum(each.size_share for each in found) == pytest.approx(1)


def test_a_layer_that_is_kept_stays_as_it_was(fp32, images):
    model = onnx.load(fp32)
    limits = limits_of(model, observe(model, activations(model), images(8)), "max")
    names = [node.name for node in model.graph.node if node.op_type in {"Conv", "Gemm"}]
    mixed = with_pairs(model, limits, keep=names[:1])
    first = next(node for node in mixed.graph.node if node.name == names[0])
    assert list(first.input) == list(model.graph.node[0].input)
    none = with_pairs(model, limits, keep=names)
    assert not any(node.op_type == "QuantizeLinear" for node in none.graph.node)
    onnx.checker.check_model(mixed, full_check=True)


def test_macs_are_counted_by_hand(fp32, images):
    model = onnx.load(fp32)
    limits = limits_of(model, observe(model, activations(model), images(4)), "max")
    found = {each.layer: each for each in sensitivities(model, limits, images(4))}
    sizes = {e.name: np.prod(e.dims) for e in model.graph.initializer}
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    last = next(node for node in model.graph.node if node.op_type == "Gemm")
    ratio = found[first.name].macs_share / found[last.name].macs_share
    assert ratio == pytest.approx(sizes[first.input[1]] * 28 * 28 / sizes[last.input[1]])
