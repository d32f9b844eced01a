import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekd.errors import IncompatibleError
from edgekd.export.compatibility import check_model
from edgekd.export.convert import export_fp32
from edgekd.export.parity import logits_of
from edgekd.export.tensorrt_rules import opset_of
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.records import InputSpec
from edgekd.targets.catalogue import load_target

# The module's source lies elsewhere each time: exporters write its path into the graph.
AGAIN = """
import sys, torch
from pathlib import Path
from own import Net
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.records import InputSpec
from edgekd.targets.catalogue import load_target
module = Net(torch.Generator().manual_seed(0))
spec = InputSpec(channels=1, height=28, width=28, mean=(0.5,), std=(0.25,))
write_fp32(module.eval(), spec=spec, software=load_target(sys.argv[1]).software, out=Path("m.onnx"))
"""

OWN = """
from edgekd.distill.models import networks
from torch import nn
class Net(nn.Module):
    def __init__(self, generator):
        super().__init__()
        self.inner = networks.ResNet(channels=1, classes=4, blocks=(1, 1, 1), base_width=4, shortcut="pad")
        networks.initialise(self.inner, generator=generator)
    def forward(self, x):
        return self.inner(x).relu()
"""
SPEC = InputSpec(channels=1, height=28, width=28, mean=(0.5,), std=(0.25,))


OPSETS = {
    "jetson-nano@jp4.6": 13,
    "jetson-xavier-nx@jp5.1": 16,
    "jetson-orin-nano-8gb@jp6.0": 17,
    "jetson-orin-nano-8gb@jp6.2": 18,
    "jetson-thor-t5000@jp7.2": 20,
    "raspberry-pi-5": 18,
}
SMALL = [
    (name, target) for name in ("resnet8-w4", "resnet8a-w4", "lenet5-half") for target in OPSETS
]
# Seconds each: one of either exporter.
LARGE = [("mobilenetv2-0.25", "jetson-nano@jp4.6"), ("mobilenetv2-0.25", "jetson-thor-t5000@jp7.2")]


@pytest.mark.parametrize(("name", "target"), SMALL + LARGE)
def test_files_have_the_opset_of_the_software_and_answer_as_torch(
    tmp_path, network, images, name, target, capfd
):
    module, spec = network(name)
    software = load_target(target).software
    write_fp32(module, spec=spec, software=software, out=tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert opset_of(model) == OPSETS[target]
    onnx.checker.check_model(model, full_check=True)
    assert check_model(tmp_path / "m.onnx", software) == ()
    inputs = images(4)
    with torch.no_grad():
        expected = module(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "m.onnx", inputs), expected, atol=1e-4)
    assert capfd.readouterr().out == ""


def test_batch_norm_is_folded_and_names_are_plain(fp32):
    model = onnx.load(fp32)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds.isdisjoint({"BatchNormalization", "Identity", "Constant"})
    assert [entry.name for entry in model.graph.input] == ["images"]
    assert [entry.name for entry in model.graph.output] == ["logits"]
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert [path.name for path in fp32.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("target", ["jetson@jp5.1", "jetson@jp6.2"])
def test_another_process_elsewhere_writes_the_same_bytes(tmp_path, target):
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / "own.py").write_text(OWN)
        subprocess.run(
            [sys.executable, "-c", AGAIN, target],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
        written.append((folder / "m.onnx").read_bytes())
    assert written[0] == written[1]
    assert str(tmp_path).encode() not in written[0]


@pytest.mark.parametrize("target", ["jetson@jp5.1", "jetson@jp6.2"])
def test_a_dynamic_batch_runs_any_number_of_images(tmp_path, network, images, target):
    module, spec = network("resnet8a-w4")
    software = load_target(target).software
    write_fp32(module, spec=spec, software=software, out=tmp_path / "m.onnx", dynamic_batch=True)
    assert check_model(tmp_path / "m.onnx", software) == ()
    for count in (1, 37):
        with torch.no_grad():
            expected = module(torch.from_numpy(images(count))).numpy()
        found = logits_of(tmp_path / "m.onnx", images(count))
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "target", ["jetson-nano", "jetson@jp5.1", "jetson@jp6.0", "jetson@jp6.2", "jetson@jp7.2"]
)
def test_normalised_groups_keep_a_dynamic_batch(tmp_path, target, images):
    # Written as a reshape there and back, whose shapes follow the batch.
    block = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=4), nn.GroupNorm(4, 8), nn.GELU(), nn.GroupNorm(1, 8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 4),
    )  # fmt: skip
    software = load_target(target).software
    out = tmp_path / "m.onnx"
    write_fp32(block.eval(), spec=SPEC, software=software, out=out, dynamic_batch=True)
    assert check_model(out, software) == ()
    assert "GroupNormalization" not in {node.op_type for node in onnx.load(out).graph.node}
    for count in (1, 5):
        with torch.no_grad():
            expected = block(torch.from_numpy(images(count))).numpy()
        np.testing.assert_allclose(logits_of(out, images(count)), expected, atol=1e-4)


@pytest.mark.parametrize("target", ["jetson@jp6.0", "jetson@jp6.2"])
def test_relu6_becomes_a_clip_and_is_legal(tmp_path, target, images):
    from torchvision.models.mobilenetv2 import InvertedResidual

    block = nn.Sequential(InvertedResidual(1, 4, 2, 2), nn.ReLU6(), nn.Flatten(), nn.Linear(784, 4))
    software = load_target(target).software
    write_fp32(block.eval(), spec=SPEC, software=software, out=tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert "Clip" in {node.op_type for node in model.graph.node}
    assert check_model(tmp_path / "m.onnx", software) == ()
    with torch.no_grad():
        expected = block(torch.from_numpy(images(2))).numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "m.onnx", images(2)), expected, atol=1e-4)


def test_a_file_never_has_another_opset_than_was_asked(tmp_path, network, capfd):
    module, spec = network("resnet8-w4")
    software = replace(load_target("jetson@jp6.0").software, exporter="dynamo")
    try:
        write_fp32(module, spec=spec, software=software, out=tmp_path / "m.onnx")
    except IncompatibleError as error:
        assert "opset" in str(error)  # noqa: PT017 - which of the two depends on the torch
        assert not list(tmp_path.iterdir())
    else:
        assert opset_of(onnx.load(tmp_path / "m.onnx")) == software.opset
    assert capfd.readouterr().out == ""


class Attention(nn.Module):
    def __init__(self, mask=None, scale=None, is_causal=False):
        super().__init__()
        self.fc = nn.Linear(28, 4)
        self.options = {"attn_mask": mask, "scale": scale, "is_causal": is_causal}

    def forward(self, x):
        rows = x[:, 0]
        mixed = nn.functional.scaled_dot_product_attention(rows, rows, 2 * rows, **self.options)
        return self.fc(mixed.mean(1))


@pytest.mark.parametrize("target", ["jetson-nano@jp4.6", "jetson@jp5.1"])
@pytest.mark.parametrize(
    ("mask", "scale"),
    [
        (None, None),
        (None, 0.3),
        (torch.linspace(-1, 1, 28 * 28).view(28, 28), None),
        (torch.eye(28, dtype=torch.bool), None),
    ],
    ids=["plain", "scale", "added mask", "boolean mask"],
)
def test_attention_is_written_at_every_opset(tmp_path, images, target, mask, scale):
    module, software = Attention(mask, scale).eval(), load_target(target).software
    write_fp32(module, spec=SPEC, software=software, out=tmp_path / "m.onnx")
    assert check_model(tmp_path / "m.onnx", software) == ()
    with torch.no_grad():
        expected = module(torch.from_numpy(images(3))).numpy()
    found = logits_of(tmp_path / "m.onnx", images(3))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_attention_that_is_causal_is_refused_where_it_cannot_be_written(tmp_path):
    software = load_target("jetson-nano").software
    with pytest.raises(IncompatibleError, match="causal"):
        write_fp32(
            Attention(is_causal=True).eval(), spec=SPEC, software=software, out=tmp_path / "m.onnx"
        )


class MultiHead(nn.Module):
    """torch's own layer, which calls attention where no mode sees it."""

    def __init__(self, need_weights):
        super().__init__()
        self.layer = nn.MultiheadAttention(28, 4, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(28, 2, 32, batch_first=True)
        self.fc = nn.Linear(28, 4)
        self.need_weights = need_weights

    def forward(self, x):
        rows = x[:, 0]
        mixed, weights = self.layer(rows, rows, 2 * rows, need_weights=self.need_weights)
        assert (weights is None) != self.need_weights
        return self.fc(self.encoder(mixed).mean(1))


@pytest.mark.parametrize("target", ["jetson-nano@jp4.6", "jetson@jp5.1", "jetson@jp6.2"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_torchs_own_layer_of_attention_is_written_at_every_opset(
    tmp_path, images, target, need_weights
):
    module, software = MultiHead(need_weights).eval(), load_target(target).software
    write_fp32(module, spec=SPEC, software=software, out=tmp_path / "m.onnx")
    assert check_model(tmp_path / "m.onnx", software) == ()
    with torch.no_grad():
        expected = module(torch.from_numpy(images(3))).numpy()
    found = logits_of(tmp_path / "m.onnx", images(3))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


class Standardised(nn.Conv2d):
    """Weights that are normalised each time, as in networks without batch-norm."""

    def forward(self, x):
        weight = self.weight.reshape(1, self.out_channels, -1)
        scale = torch.linspace(0.5, 1, self.out_channels)
        weight = nn.functional.batch_norm(weight, None, None, weight=scale, training=True, eps=1e-6)
        return nn.functional.conv2d(x, weight.reshape_as(self.weight), self.bias)


@pytest.mark.parametrize("target", ["jetson-nano@jp4.6", "jetson@jp6.0", "jetson@jp6.2"])
def test_weights_that_follow_from_constants_become_constants(tmp_path, images, target):
    module = nn.Sequential(Standardised(1, 32, 7), nn.ReLU(), nn.Flatten(), nn.Linear(15488, 4))
    software = load_target(target).software
    write_fp32(module.eval(), spec=SPEC, software=software, out=tmp_path / "m.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert set(kinds) <= {"Conv", "Relu", "Reshape", "Flatten", "Gemm"}
    assert check_model(tmp_path / "m.onnx", software) == ()
    with torch.no_grad():
        expected = module(torch.from_numpy(images(2))).numpy()
    found = logits_of(tmp_path / "m.onnx", images(2))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


class Undecided(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Broken(nn.Module):
    def forward(self, _):
        raise TypeError("a fault in the network")


def test_a_network_that_cannot_be_written_is_incompatible(tmp_path):
    software = load_target("jetson@jp6.2").software
    with pytest.raises(IncompatibleError, match="dynamo exporter cannot write this network"):
        write_fp32(Undecided().eval(), spec=SPEC, software=software, out=tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_fault_in_the_network_is_not_taken_for_a_missing_exporter(tmp_path):
    software = load_target("jetson@jp5.1").software
    with pytest.raises(TypeError, match="a fault in the network"):
        write_fp32(Broken().eval(), spec=SPEC, software=software, out=tmp_path / "m.onnx")


class Rooted(nn.Module):
    """Modules with names that folders have."""

    def __init__(self):
        super().__init__()
        self.root = nn.ModuleDict(
            {"home": nn.Conv2d(1, 4, 3), "data": nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())}
        )
        self.work = nn.Linear(4, 3)

    def forward(self, x):
        return self.work(self.root["data"](self.root["home"](x)).mean((2, 3)))


@pytest.mark.parametrize("name", ["jetson-nano", "jetson"])
def test_modules_called_like_folders_are_no_paths(name, images, tmp_path):
    target = load_target(name)
    spec = InputSpec(channels=1, height=28, width=28, mean=(0.0,), std=(1.0,), colour_order="gray")
    found = export_fp32(
        Rooted().eval(),
        spec=spec,
        target=target,
        out=tmp_path / "m.onnx",
        images=images(4),
        made_from="0" * 64,
    )
    assert found.parity.passed
