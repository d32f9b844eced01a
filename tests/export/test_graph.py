import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from edgekd.export.graph import opset_of, write_fp32
from edgekd.export.legality import check_model
from edgekd.export.parity import logits_of
from edgekd.targets.catalogue import load_target

AGAIN = """
import sys, torch
from pathlib import Path
from edgekd.distill import networks
from edgekd.export.graph import write_fp32
from edgekd.records import InputSpec
from edgekd.targets.catalogue import load_target
module = networks.ResNet(channels=1, classes=4, blocks=(1, 1, 1), base_width=4, shortcut="projection")
networks.initialise(module, generator=torch.Generator().manual_seed(0))
spec = InputSpec(channels=1, height=28, width=28, mean=(0.5,), std=(0.25,))
write_fp32(module.eval(), spec=spec, software=load_target(sys.argv[1]).software, out=Path("m.onnx"))
"""


@pytest.mark.parametrize(
    ("target", "opset"),
    [
        ("jetson-nano@jp4.6", 13),
        ("jetson-xavier-nx@jp5.1", 16),
        ("jetson-orin-nano-8gb@jp6.0", 17),
        ("jetson-orin-nano-8gb@jp6.2", 18),
        ("jetson-thor-t5000@jp7.2", 20),
        ("raspberry-pi-5", 18),
    ],
)
@pytest.mark.parametrize("name", ["resnet8-w4", "resnet8a-w4", "lenet5-half", "mobilenetv2-0.25"])
def test_files_have_the_opset_of_the_software_and_answer_as_torch(
    tmp_path, network, images, target, opset, name, capfd
):
    module, spec = network(name)
    software = load_target(target).software
    write_fp32(module, spec=spec, software=software, out=tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert opset_of(model) == opset
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
        subprocess.run(
            [sys.executable, "-c", AGAIN, target],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
        written.append((folder / "m.onnx").read_bytes())
    assert written[0] == written[1]
    assert str(tmp_path).encode() not in written[0]
