"""A teacher that ends in a softmax of its own code: distilled, exported and evaluated as its logits would be."""

import json

import numpy as np
import pytest
import torch

CODE = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

class Ending(Network):
    def forward(self, x):
        raised = super().forward(x).exp()
        return raised / raised.sum(1, keepdim=True)
"""
SIDE = 16


@pytest.fixture
def teacher(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "conv.weight": (8, 3, 3, 3),
        "conv.bias": (8,),
        "fc.weight": (4, 8),
        "fc.bias": (4,),
    }
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "t.pt")
    draw = np.random.default_rng(0)
    np.savez(
        tmp_path / "test.npz",
        images=draw.integers(0, 256, (60, SIDE, SIDE, 3)).astype(np.uint8),
        labels=draw.integers(0, 4, 60),
    )
    return tmp_path / "t.pt"


def stated(teacher, ending):
    return (
        *("--arch", f"{teacher.parent / 'net.py'}:{ending}"),
        *("--input", f"3x{SIDE}x{SIDE}", "--mean", "0.5", "--std", "0.25"),
    )


def figures(edgekd, *models):
    code, out, err = edgekd("eval", *models, "--json")
    assert code == 0, err
    return json.loads(out)


def test_its_figures_are_those_of_its_logits(edgekd, teacher):
    images = ("--eval", teacher.parent / "test.npz")
    plain = figures(edgekd, teacher, *images, *stated(teacher, "Network"))["results"][0]
    found = figures(edgekd, teacher, *images, *stated(teacher, "Ending"))
    for name in ("accuracy", "mean_confidence", "calibration_error"):
        assert found["results"][0][name] == pytest.approx(plain[name], abs=1e-5)
    assert any("probabilities" in note for note in found["notes"])


def test_a_part_of_it_is_distilled_and_read_again(edgekd, teacher):
    out = teacher.parent / "student"
    code, _, err = edgekd(
        *("distill", teacher, *stated(teacher, "Ending"), "--steps", 4),
        *("--device", "cpu", "--threads", 1, "--out", out),
    )
    assert code in {0, 4}, err
    assert "its answers are probabilities" in err
    found = figures(edgekd, out, "--eval", teacher.parent / "test.npz")
    assert len(found["results"]) == 1


@pytest.mark.parametrize("target", ["x86", "jetson-thor-t4000"])
def test_its_int8_file_has_finite_answers(edgekd, teacher, target):
    out = teacher.parent / "out"
    code, _, err = edgekd(
        *("export", "--teacher", teacher, *stated(teacher, "Ending"), "--target", target),
        *("--calibration", teacher.parent / "test.npz", "--out", out),
    )
    assert code in {0, 4}, err
    files = sorted(out.glob("*.onnx"))
    images = ("--eval", teacher.parent / "test.npz")
    found = figures(edgekd, teacher, *files, *images, *stated(teacher, "Ending"))
    assert len(found["results"]) == 1 + len(files)
    assert found["results"][1]["agreement_with_first"] == 1
