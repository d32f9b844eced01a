import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgekd.errors import IncompatibleError
from edgekd.export import qdq_cpu
from edgekd.export.calibration import LEVELS
from edgekd.export.fake_quant import FakeQuantised, fake_quantised, with_constants
from edgekd.export.parity import logits_of
from edgekd.export.qdq import (
    activations,
    limits_of,
    observe,
    with_pairs,
)
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.targets.catalogue import load_target


def written(path, module, spec, images, target):
    write_fp32(module, spec=spec, software=load_target(target).software, out=path)
    model = onnx.load(path)
    return model, limits_of(model, observe(model, activations(model), images), "max")


def computed(model, images):
    """What the pairs say, in float: the integer kernels of processors without VNNI saturate sums of a depthwise network."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    batch = session.get_inputs()[0].shape[0]
    size = batch if isinstance(batch, int) else len(images)
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    return np.concatenate([session.run(None, {name: part})[0] for part in parts])


def file_of(model, tuned):
    return with_pairs(
        with_constants(model, tuned.constants), tuned.limits, weight_scales=tuned.weight_scales
    )


NAMES = ("resnet8-w4", "resnet8a-w4", "lenet5", "mobilenetv2-0.25")
TARGETS = ("jetson@jp5.1", "jetson@jp6.2", "jetson-thor-t5000@jp7.2")
# Every network once and every target once; the rest says the same in more minutes.
QUICK = {(name, TARGETS[1]) for name in NAMES} | {(NAMES[0], target) for target in TARGETS}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(name, target, marks=() if (name, target) in QUICK else pytest.mark.slow)
        for name in NAMES
        for target in TARGETS
    ],
)
def test_it_starts_as_the_file_that_min_max_gives(tmp_path, network, images, name, target):
    module, spec = network(name)
    shown = images(8)
    model, limits = written(tmp_path / "f.onnx", module, spec, shown, target)
    wrapped = FakeQuantised(module, model, limits, shape=spec.shape)
    exact = logits_of(tmp_path / "f.onnx", shown)
    static = computed(with_pairs(model, limits), shown)
    ours = wrapped(torch.from_numpy(shown)).detach().numpy()
    noise = np.abs(static - exact).max()
    # Two runtimes add in other orders, and what lies between two levels may fall to either.
    assert np.abs(ours - static).mean() <= 0.5 * noise + 1e-6
    again = computed(file_of(model, wrapped.collect_tuned()), shown)
    # A single value came 5 % above the noise in some runs and not in others.
    assert np.abs(again - static).mean() <= 0.5 * noise + 1e-6
    np.testing.assert_allclose(again, static, atol=2 * noise + 1e-6)


def test_what_is_learned_is_what_the_file_computes(tmp_path, network, images):
    module, spec = network("resnet8-w4")
    shown = images(8)
    model, limits = written(tmp_path / "f.onnx", module, spec, shown, "jetson")
    wrapped = FakeQuantised(module, model, limits, shape=spec.shape)
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        weights, scales = wrapped.learnable_parameters()
        for each in weights:
            each.data += 0.05 * each.abs().mean() * torch.randn(each.shape, generator=draw)
        for each in scales:
            each.data += 0.2 * torch.randn(each.shape, generator=draw)
    ours = wrapped(torch.from_numpy(shown)).detach().numpy()
    theirs = logits_of(file_of(model, wrapped.collect_tuned()).SerializeToString(), shown)
    before = logits_of(tmp_path / "f.onnx", shown)
    assert np.abs(ours - before).max() > 5 * np.abs(ours - theirs).max()


@pytest.mark.parametrize("place", [0, 2, -1], ids=["first", "before an addition", "last"])
def test_layers_that_are_kept_are_not_learned_and_have_no_pairs(tmp_path, network, images, place):
    module, spec = network("resnet8-w4")
    shown = images(8)
    model, limits = written(tmp_path / "f.onnx", module, spec, shown, "jetson")
    layers = [node for node in model.graph.node if node.op_type in {"Conv", "Gemm"}]
    kept = layers[place]
    wrapped = FakeQuantised(module, model, limits, shape=spec.shape, keep={kept.name})
    found = wrapped.collect_tuned()
    assert not set(kept.input) & set(found.constants)
    assert set(found.weight_scales) == {node.input[1] for node in layers if node is not kept}
    with_kept = with_pairs(model, limits, keep={kept.name})
    names = {node.name for node in with_kept.graph.node if node.op_type == "QuantizeLinear"}
    assert names == {f"Q_{name}" for name in (*found.limits, *found.weight_scales)}
    static = computed(with_kept, shown)
    ours = wrapped(torch.from_numpy(shown)).detach().numpy()
    noise = np.abs(static - logits_of(tmp_path / "f.onnx", shown)).max()
    assert np.abs(ours - static).mean() <= 0.5 * noise + 1e-6


def test_fewer_bits_have_fewer_values(tmp_path, network, images):
    module, spec = network("resnet8-w4")
    model, limits = written(tmp_path / "f.onnx", module, spec, images(8), "jetson")
    wrapped = FakeQuantised(module, model, limits, shape=spec.shape, weight_levels=7)
    for name, weight in wrapped.collect_tuned().constants.items():
        if weight.ndim == 4:
            for channel in weight:
                assert len(np.unique(channel)) <= 16, name


def test_the_gradient_passes_rounding_and_stops_at_the_limits():
    values = torch.tensor([0.3, -0.26, 5.0, -9.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    fake_quantised(values, scale, levels=7).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 1.0, 0.0, 0.0]
    # LSQ, equation 3: round(v / s) - v / s inside, the limit outside.
    expected = (3 - 3.0) + (-3 + 2.6) + 7 - 8
    assert float(scale.grad) == pytest.approx(expected, abs=1e-4)  # type: ignore[arg-type]


def test_the_module_itself_stays_as_it_was(tmp_path, network, images):
    module, spec = network("resnet8-w4")
    model, limits = written(tmp_path / "f.onnx", module, spec, images(4), "jetson")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrapped = FakeQuantised(module, model, limits, shape=spec.shape)
    with torch.no_grad():
        for each in wrapped.learnable_parameters()[0]:
            each.zero_()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_another_networks_graph_is_noticed(tmp_path, network, images):
    module, spec = network("resnet8-w4")
    other, _ = network("resnet14-w4")
    model, limits = written(tmp_path / "f.onnx", module, spec, images(4), "jetson")
    with pytest.raises(IncompatibleError, match="weighted layers"):
        FakeQuantised(other, model, limits, shape=spec.shape)


class Branching(nn.Module):
    def forward(self, images):
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


def test_what_cannot_be_traced_is_said(tmp_path, network, images):
    module, spec = network("resnet8-w4")
    model, limits = written(tmp_path / "f.onnx", module, spec, images(4), "jetson")
    with pytest.raises(IncompatibleError, match="trace"):
        FakeQuantised(Branching(), model, limits, shape=spec.shape)


@pytest.mark.parametrize(
    ("arm", "vnni", "levels"),
    [
        pytest.param(False, False, qdq_cpu.LEVELS_7, id="x86"),
        pytest.param(False, True, LEVELS, id="x86 with VNNI"),
        pytest.param(True, False, LEVELS, id="ARM"),
    ],
)
def test_weights_learned_for_a_processor_are_those_that_its_quantiser_writes(
    tmp_path, network, images, arm, vnni, levels
):
    module, spec = network("resnet8-w4")
    shown = images(8)
    model, limits = written(tmp_path / "f.onnx", module, spec, shown, "x86")
    wrapped = FakeQuantised(
        module,
        model,
        limits,
        shape=spec.shape,
        weight_levels=levels,
        weight_scales_learned=False,
    )
    with torch.no_grad():
        for parameter in wrapped.learnable_parameters()[0]:
            parameter.mul_(1 + 0.1 * parameter)
    found = wrapped.collect_tuned()
    assert not found.weight_scales
    made = qdq_cpu.with_cpu_pairs(with_constants(model, found.constants), shown, arm=arm, vnni=vnni)
    values = {entry.name: numpy_helper.to_array(entry) for entry in made.graph.initializer}
    compared = 0
    for name, weight in found.constants.items():
        if weight.ndim != 4:
            continue
        scale = values[f"{name}_scale"].reshape(-1, 1, 1, 1)
        stored = values[f"{name}_quantized"].astype(np.float32) * scale
        np.testing.assert_allclose(stored, weight, atol=1e-3 * float(scale.max()))
        compared += 1
    assert compared == 9
