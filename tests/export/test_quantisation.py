from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from edgekd.export.calibration import LEVELS
from edgekd.export.fake_quant import with_constants
from edgekd.export.parity import logits_of
from edgekd.export.qdq_cpu import LEVELS_7, with_cpu_pairs
from edgekd.export.quantisation import (
    AUTO,
    AUTO_SHARE,
    CORRECTED,
    LITTLE,
    TUNED,
    CalibrationImages,
    FinetuneSource,
    FloatShare,
    for_cpu,
    for_tensorrt,
)
from edgekd.export.reconstruction import reconstruct
from edgekd.export.sensitivity import divergence
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.records import InputSpec
from edgekd.targets.catalogue import load_target
from tests.export.networks import (
    constants_of,
    conv,
    drawn,
    graph,
    mixed_network,
    smooth_images,
)

SPREAD = 300.0


def wide_network(*, stem_channels=4):
    """Its first layer is given one channel 300 times as large as the other two, and undoes that."""
    draw = np.random.default_rng(0)
    stem = drawn(draw, stem_channels, 3, 1, 1)
    stem[:, 0] /= SPREAD
    constants = {
        "stem.w": stem,
        "stem.b": np.zeros(stem_channels),
        "body.w": drawn(draw, 16, stem_channels, 3, 3),
        "body.b": np.zeros(16),
        "fc.w": drawn(draw, 5, 16) * 12,
        "fc.b": np.zeros(5),
    }
    nodes = [
        conv("stem", "images", "a", bias=True),
        helper.make_node("Relu", ["a"], ["b"]),
        conv("body", "b", "c", bias=True, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["logits"], name="fc", transB=1),
    ]
    return graph(nodes, constants, shape=(3, 12, 12), classes=5)


def wide_images(count, *, seed):
    images = smooth_images(count, seed=seed)
    images[:, 0] *= SPREAD
    return images


def shown(model, *, images=smooth_images, held_out=smooth_images):
    return CalibrationImages(
        model=model,
        calibration=images(64, seed=1),
        seen=held_out(64, seed=2),
        teacher=None,
    )


@pytest.fixture(scope="module")
def wide():
    return shown(wide_network(), images=wide_images, held_out=wide_images)


def by_tensorrt(images, keeping):
    return for_tensorrt(images, keeping=keeping, tuning=None)


def by_cpu(images, keeping):
    return for_cpu(images, arm=True, vnni=False, keeping=keeping, tuning=None)


BOTH = pytest.mark.parametrize("quantise", [by_tensorrt, by_cpu], ids=["tensorrt", "cpu"])


def floating(model, name):
    """Whether a layer takes its weights without a pair."""
    makers = {made: node.op_type for node in model.graph.node for made in node.output}
    layer = next(node for node in model.graph.node if node.name == name)
    return makers.get(layer.input[1]) != "DequantizeLinear"


@BOTH
def test_a_cheap_layer_whose_input_int8_cannot_hold_is_kept(wide, quantise):
    none, auto = (quantise(wide, each) for each in (None, AUTO))
    assert none.record.kept == ()
    assert none.record.sensitivity == ()
    assert auto.record.kept == ("stem",)
    assert floating(auto.model, "stem")
    assert not floating(auto.model, "body")
    costs = {each.layer: each for each in auto.record.sensitivity}
    assert costs["stem"].macs_share < AUTO_SHARE
    assert costs["stem"].divergence > costs["body"].divergence
    assert wide.judge(auto.model)[1] < 0.5 * wide.judge(none.model)[1]


@BOTH
def test_a_layer_beyond_the_share_is_not_kept(quantise):
    costly = wide_network(stem_channels=64)
    constants = constants_of(costly)
    # The body looks at one place only, so that the first layer is a sixth of the network
    model = with_constants(costly, {"body.w": constants["body.w"][:, :, 1:2, 1:2]})
    body = next(node for node in model.graph.node if node.name == "body")
    del body.attribute[:]
    onnx.checker.check_model(model, full_check=True)
    found = quantise(shown(model, images=wide_images, held_out=wide_images), AUTO)
    costs = {each.layer: each for each in found.record.sensitivity}
    assert costs["stem"].macs_share > AUTO_SHARE
    assert costs["stem"].divergence > LITTLE
    assert sum(costs[name].macs_share for name in found.record.kept) <= AUTO_SHARE
    assert not floating(found.model, "stem")


@BOTH
def test_nothing_is_done_where_int8_loses_nothing(quantise):
    # Logits so close together that no level tells in the softmax
    calm = shown(mixed_network(gain=0.2))
    found = quantise(calm, AUTO)
    assert found.record.divergence.keys() == {found.record.method}
    assert found.record.divergence[found.record.method] < LITTLE
    assert found.record.kept == ()
    assert found.record.sensitivity == ()
    assert not found.record.corrected
    assert CORRECTED not in found.record.agreement


@BOTH
def test_a_share_that_is_asked_for_is_used_whatever_int8_loses(quantise):
    asked = FloatShare(share=0.2, by="macs")
    found = quantise(shown(mixed_network(gain=0.2)), asked)
    costs = {each.layer: each.macs_share for each in found.record.sensitivity}
    assert set(costs) == {"stem", "depthwise", "grouped", "point", "fc"}
    assert 0 < len(found.record.kept) < 3
    assert sum(costs[name] for name in found.record.kept) <= 0.2
    assert all(floating(found.model, name) for name in found.record.kept)


def test_a_corrected_graph_is_taken_where_it_is_nearer(wide):
    found = by_tensorrt(wide, None)
    record = found.record
    assert record.corrected
    assert record.divergence[CORRECTED] < record.divergence[record.method]
    # Figures are of the graph that is given
    agreed, lost = wide.judge(found.model)
    assert record.divergence[CORRECTED] == pytest.approx(lost, rel=1e-5)
    assert record.agreement[CORRECTED] == agreed


def grey_images(count, *, seed):
    """All channels alike: what one weight loses, another may make up for."""
    return np.repeat(smooth_images(count, seed=seed, channels=1), 3, axis=1)


def coloured_images(count, *, seed):
    """The second channel against the first: what is made up for is lost twice."""
    images = grey_images(count, seed=seed)
    images[:, 1] *= -1
    return images


def test_a_corrected_graph_is_dropped_where_images_are_unlike_those_it_was_corrected_by():
    model = mixed_network(gain=40.0)
    unlike = shown(model, images=grey_images, held_out=coloured_images)
    found = by_tensorrt(unlike, None)
    record = found.record
    assert record.divergence[CORRECTED] >= record.divergence[record.method] > LITTLE
    assert not record.corrected
    assert divergence(
        unlike.exact, logits_of(found.model.SerializeToString(), unlike.seen)
    ) == pytest.approx(record.divergence[record.method], rel=1e-5)


@pytest.mark.parametrize(
    ("levels", "processor"),
    [
        pytest.param(LEVELS_7, {"arm": False, "vnni": False}, id="x86"),
        pytest.param(LEVELS, {"arm": False, "vnni": True}, id="vnni"),
        pytest.param(LEVELS, {"arm": True, "vnni": False}, id="arm"),
    ],
)
def test_corrected_weights_survive_the_rounding_of_onnx_runtimes_quantiser(levels, processor):
    model = mixed_network()
    images = smooth_images(64, seed=1)
    found = reconstruct(model, {}, images, levels=levels, pinned=True)
    int8 = with_cpu_pairs(with_constants(model, found.constants), images, **processor)
    stored = constants_of(int8)
    changed = 0
    for name in found.weight_scales:
        expected, steps = found.constants[name], found.weight_scales[name]
        np.testing.assert_allclose(stored[f"{name}_scale"], steps, rtol=1e-5)
        by_channel = steps.reshape(-1, *[1] * (expected.ndim - 1))
        given = stored[f"{name}_quantized"] * by_channel
        np.testing.assert_allclose(given, expected, atol=1e-5 * np.abs(expected).max())
        nearest = np.rint(constants_of(model)[name] / by_channel)
        changed += int((nearest != stored[f"{name}_quantized"]).sum())
    assert changed


# --- tuning -----------------------------------------------------------------------------------------


def trained(tmp_path):
    """A module with drawn weights that tells images apart, and its graph."""
    classifier = nn.Linear(16, 4)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        classifier,
    ).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in module.parameters():
            each.copy_(torch.randn(each.shape, generator=draw) / each[0].numel() ** 0.5)
        classifier.weight *= 20
        # No class is the answer to everything
        classifier.bias.sub_(module(torch.from_numpy(smooth_images(64, seed=3))).mean(0))
    spec = InputSpec(channels=3, height=12, width=12, mean=(0.5,) * 3, std=(0.25,) * 3)
    path = tmp_path / "f.onnx"
    write_fp32(module, spec=spec, software=load_target("jetson").software, out=path)
    return module, onnx.load(path)


def tuned_by(tmp_path, tune, *, share, teacher=None):
    module, model = trained(tmp_path)
    images = replace(shown(model), teacher=teacher)
    keeping = FloatShare(share=share, by="macs") if share else None
    source = FinetuneSource(module=module, tune=tune, steps=3)
    return images, for_tensorrt(images, keeping=keeping, tuning=source)


def leave(wrapped):
    assert wrapped.learnable_parameters()[0]


@torch.no_grad()
def turn(wrapped):
    """Of the layers that are learned, the first gets weights of the other sign."""
    wrapped.learnable_parameters()[0][0].mul_(-1)


def test_layers_that_are_kept_are_kept_in_a_tuned_graph(tmp_path):
    images, before = tuned_by(tmp_path, leave, share=0.6)
    kept = before.record.kept
    layers = [node.name for node in images.model.graph.node if len(node.input) > 2]
    assert 0 < len(kept) < len(layers)
    # A teacher that says what the turned network does
    module, _ = trained(tmp_path)
    learned = layers.index(next(name for name in layers if name not in kept))
    with torch.no_grad():
        [each for each in module if hasattr(each, "weight")][learned].weight.mul_(-1)
        teacher = module(torch.from_numpy(images.seen)).numpy()
    images, found = tuned_by(tmp_path, turn, share=0.6, teacher=teacher)
    assert (found.record.agreement[TUNED], found.record.divergence[TUNED]) == images.judge(
        found.model
    )
    assert found.record.method == TUNED
    assert found.record.tuned_steps == 3
    assert not found.record.corrected
    assert found.record.kept == kept
    for name in kept:
        assert floating(found.model, name)


@torch.no_grad()
def unlearn(wrapped):
    """Never to say again what is said most."""
    last = wrapped.learnable_parameters()[0][-1]
    last[wrapped(torch.from_numpy(smooth_images(64, seed=3))).argmax(1).mode().values] -= 1000


def test_what_tuning_spoils_is_dropped(tmp_path):
    images, found = tuned_by(tmp_path, unlearn, share=0)
    record = found.record
    assert record.method != TUNED
    assert record.tuned_steps == 0
    assert record.agreement[TUNED] < 0.9
    assert record.divergence[TUNED] > 1
    name = CORRECTED if record.corrected else record.method
    assert record.divergence[name] == pytest.approx(images.judge(found.model)[1], rel=1e-5)


@pytest.mark.parametrize("arm", [pytest.param(True, id="ARM"), pytest.param(False, id="x86")])
def test_a_graph_for_a_processor_takes_what_was_learned(tmp_path, arm):
    module, model = trained(tmp_path)
    with torch.no_grad():
        turned, _ = trained(tmp_path)
        next(turned.parameters()).mul_(-1)
        teacher = turned(torch.from_numpy(shown(model).seen)).numpy()
    images = replace(shown(model), teacher=teacher)
    source = FinetuneSource(module=module, tune=turn, steps=3)
    found = for_cpu(images, arm=arm, vnni=False, keeping=None, tuning=source)
    assert found.record.method == TUNED
    assert found.record.tuned_steps == 3
    assert not found.record.corrected
    others = [value for name, value in found.record.agreement.items() if name != TUNED]
    assert found.record.agreement[TUNED] > 0.8 > max(others)
    assert images.judge(found.model)[0] == found.record.agreement[TUNED]
