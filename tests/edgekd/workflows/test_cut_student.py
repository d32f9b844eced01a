"""Students that begin with weights of the teacher, from the command line: real digits stand for inverted ones."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgekd.workflows.read_student import read_student
from tests.edgekd.conftest import IMAGES, TEACHER, shared_folder
from tests.edgekd.making import write_set

STEPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a set of images; students are made beside it."""
    with shared_folder(tmp_path_factory, "cut-students") as found:
        if not (found / "set").exists():
            images = np.load(IMAGES)["images"]
            write_set(found / "set", images.reshape(len(images), 28, 28, 1)[:800], TEACHER)
        yield found


@pytest.fixture
def made(folder, edgekd):
    def make(student, *options):
        out = folder / student.replace(":", "-").replace("=", "-")
        if not (out / "student.json").exists():
            code, _, said = edgekd(
                *("distill", TEACHER, "--student", student, "--images", folder / "set"),
                *("--steps", STEPS, "--batch", 64, "--out", out, *options),
            )
            assert code == 0, said
        return out

    return make


def accuracy(edgekd, out):
    code, found, said = edgekd("eval", out, "--eval", IMAGES, "--json")
    assert code == 0, said
    return json.loads(found)["results"][0]["accuracy"]


def test_half_of_the_teacher_decides_as_it_does_after_a_minute(made, edgekd):
    out = made("cut:0.5")
    student, _ = read_student(out)
    assert str(student.architecture) == "resnet14-w12 cut:0.5"
    assert student.initial_weights == "cut"
    assert student.cut == "student.cut.json"
    assert accuracy(edgekd, out) > 0.95


def test_a_student_of_the_family_begins_with_its_blocks(made, edgekd):
    out = made("resnet8-w12")
    student, _ = read_student(out)
    assert student.initial_weights == "inherited"
    assert student.cut is None
    assert accuracy(edgekd, out) > 0.95


def test_from_scratch_nothing_is_taken(made):
    out = made("resnet8-w4", "--from-scratch")
    assert read_student(out)[0].initial_weights == "drawn"


def test_a_cut_student_is_exported_without_the_teacher(made, edgekd, tmp_path):
    out = made("cut:0.5")
    code, _, said = edgekd("export", out, "--target", "jetson", "--out", tmp_path / "models")
    assert code == 0, said
    assert "resnet14-w12 cut:0.5" in said
    assert (tmp_path / "models" / "model-int8.onnx").exists()


FACTORY = """
from edgekd.distill.models import architectures
from edgekd.records import Architecture

def make():
    return architectures.build(
        Architecture(source="edgekd", name="resnet14-w12", channels=1, classes=10, height=28, width=28)
    )
"""


def test_a_part_of_the_users_own_network_needs_neither_the_code_nor_the_teacher(
    folder, edgekd, tmp_path
):
    own = tmp_path / "own"
    own.mkdir()
    (own / "net.py").write_text(FACTORY)
    shutil.copy(TEACHER, own / "weights.pt")
    out = tmp_path / "student"
    code, _, said = edgekd(
        *("distill", own / "weights.pt", "--arch", f"{own / 'net.py'}:make", "--input", "1x28x28"),
        *(
            "--mean",
            "0.1307",
            "--std",
            "0.3081",
            "--student",
            "cut:macs=0.25",
            "--images",
            folder / "set",
        ),
        *("--steps", STEPS, "--batch", 64, "--out", out),
    )
    assert code == 0, said
    shutil.rmtree(own)
    student, _ = read_student(out)
    assert str(student.architecture) == "file:net.py:make cut:macs=0.25"
    assert student.program == "student.pt2"
    assert accuracy(edgekd, out) > 0.95
    code, _, said = edgekd("export", out, "--target", "jetson", "--out", tmp_path / "models")
    assert code == 0, said
    (out / "student.pt2").unlink()
    code, _, said = edgekd("export", out, "--target", "jetson", "--out", tmp_path / "other")
    assert code == 2
    assert "missing, the program" in said


TIED = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1))
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.second.weight = self.first.weight
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        # Numbers that are written in the code: what is behind them stays whole, and tied
        x = self.stem(x).relu().reshape(-1, 2, 8, 16, 16).flatten(1, 2)
        x = x + self.wide(x)
        x = x + self.first(x).relu()
        x = x + self.second(x).relu()
        return self.head(x.reshape(-1, 2, 8, 16, 16).flatten(1, 2).mean((2, 3)))

make = Net
"""


def test_weights_that_layers_share_are_written_under_each_name(edgekd, tmp_path):
    (tmp_path / "net.py").write_text(TIED)
    teacher = tmp_path / "teacher.pt"
    found: dict[str, Any] = {}
    exec(TIED, found)
    network = found["make"]().train()
    for _ in range(3):
        network(torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    torch.save(network.state_dict(), teacher)
    out = tmp_path / "student"
    code, _, said = edgekd(
        *("distill", teacher, "--arch", f"{tmp_path / 'net.py'}:make", "--input", "1x16x16"),
        *("--mean", "0.5", "--std", "0.25", "--student", "cut:0.5", "--steps", 1, "--batch", 16, "--out", out),
    )  # fmt: skip
    assert code == 0, said
    weights = load_file(out / "student.safetensors")
    assert torch.equal(weights["first.weight"], weights["second.weight"])
    assert not torch.equal(weights["first.bias"], weights["second.bias"])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "student.cut.json").unlink(), "missing, the record of the cut"),
        (lambda folder: _edit(folder / "student.cut.json", asked={"measure": "width", "share": 0.25}), "not the record"),
        (lambda folder: _edit(folder / "student.json", cut=None, cut_digest=None), "says which is missing"),
        (lambda folder: _edit(folder / "student.json", teacher_digest="1" * 64), "another teacher"),
    ],
    ids=["gone", "another's", "unnamed", "another teacher's"],
)  # fmt: skip
def test_a_folder_without_its_own_record_is_refused(made, edgekd, tmp_path, spoil, expected):
    out = shutil.copytree(made("cut:0.5"), tmp_path / "student")
    spoil(out)
    code, _, said = edgekd("export", out, "--target", "jetson", "--out", tmp_path / "models")
    assert code == 2
    assert expected in said


def _edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("student", "options", "expected"),
    [
        ("cut:2", (), "no part of a teacher"),
        ("cut:params=0.0001", (), "at least one step of channels"),
        ("cut:latency=2ms", (), "no board is known here"),
        ("cut:latency=2", (), "Give the unit: cut:latency=2ms"),
        ("cut:0.5", ("--from-scratch",), "name a network instead"),
    ],
)
def test_what_cannot_be_cut_is_a_usage_error(edgekd, tmp_path, student, options, expected):
    code, _, said = edgekd(
        *(
            "distill",
            TEACHER,
            "--student",
            student,
            "--steps",
            2,
            "--out",
            tmp_path / "out",
            *options,
        )
    )
    assert code == 2
    assert expected in said
    assert not (tmp_path / "out").exists()
