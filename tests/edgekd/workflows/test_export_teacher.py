"""`edgekd export --teacher`: the teacher itself, calibrated on a set that was made of it."""

import json
import shutil

import numpy as np
import pytest
import torch

from edgekd.distill.data.labelled import normalise
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.export.parity import logits_of
from tests.edgekd.conftest import IMAGES, TEACHER
from tests.edgekd.making import models_of, write_set, write_student

SAID = ("--arch", "resnet14-w12", "--input", "1x28x28", "--mean", "0.1307", "--std", "0.3081")


@pytest.fixture(scope="module")
def pixels():
    """Real digits (N, H, W, C): what a set of synthetic ones should come near to."""
    with np.load(IMAGES) as found:
        return found["images"]


@pytest.fixture(scope="module")
def images(tmp_path_factory, pixels):
    return write_set(tmp_path_factory.mktemp("set") / "s", pixels, TEACHER)


def loaded():
    return load_teacher(TEACHER, TeacherOptions(), generator=torch.Generator().manual_seed(0))


def test_a_teacher_becomes_files_that_answer_as_it_does(edgekd, tmp_path, images, pixels):
    code, out, err = edgekd(
        *("export", "--teacher", TEACHER, "--images", images, "-t", "jetson"),
        *("--out", tmp_path / "o", "--json"),
    )
    assert code == 0, err
    found = models_of(tmp_path / "o")
    assert json.loads(out)["models"] == list(found.values())
    assert set(found) == {"fp32", "int8"}
    teacher = loaded()
    assert found["fp32"]["made_from"] == teacher.info.state_digest
    shown = normalise(pixels[:200], teacher.info.input)
    expected = teacher.module(torch.from_numpy(shown)).numpy()
    answers = logits_of(tmp_path / "o" / "model-fp32.onnx", shown)
    np.testing.assert_allclose(answers, expected, atol=1e-4 * np.abs(expected).max())
    same = logits_of(tmp_path / "o" / "model-int8.onnx", shown).argmax(1) == expected.argmax(1)
    assert same.mean() >= 0.97
    # Its own answers chose, and its own batch-norms judged the images.
    calibration = found["int8"]["calibration"]
    assert calibration["compared_with"] == "teacher"
    assert calibration["images"] == 512
    assert 0 < max(calibration["outside"].values()) < 0.08


def test_where_types_are_in_the_graph_there_is_fp16(edgekd, tmp_path, images):
    code, _, err = edgekd(
        *("export", "--teacher", TEACHER, "--images", images, "-t", "jetson-thor-t5000"),
        *("--out", tmp_path / "o"),
    )
    assert code == 0, err
    assert set(models_of(tmp_path / "o")) == {"fp32", "fp16", "int8"}


def test_what_its_file_does_not_say_can_be_said(edgekd, tmp_path, images):
    teacher = tmp_path / "bare.pt"
    shutil.copy(TEACHER, teacher)
    command = ("export", "--teacher", teacher, "--images", images, "-t", "jetson-nano")
    code, _, err = edgekd(*command, "--out", tmp_path / "o")
    assert code == 2
    assert "--mean" in err
    code, _, err = edgekd(*command, *SAID, "--out", tmp_path / "o")
    assert code == 0, err
    assert set(models_of(tmp_path / "o")) == {"fp32"}
    assert "runs no INT8" in err
    assert "--fp16" in err


@pytest.mark.parametrize("target", ["jetson", "x86", "raspberry-pi-5"])
def test_int8_is_tuned_on_the_set_and_the_same_each_time(edgekd, tmp_path, images, target):
    given = ("export", "--teacher", TEACHER, "--images", images, "-t", target, "--tune", "3")
    for name in "ab":
        code, _, err = edgekd(*given, "--out", tmp_path / name)
        assert code == 0, err
        assert "tune     INT8 against the teacher: 3 steps, " in err
    first, again = (models_of(tmp_path / name)["int8"] for name in "ab")
    found = first["calibration"]
    # By agreement, and of equals what is nearer to FP32
    reached = {
        name: (value, -found["divergence"][name])
        for name, value in found["agreement"].items()
        if name in found["divergence"]
    }
    best = max(value for name, value in reached.items() if name != "tuned")
    assert (found["method"] == "tuned") == (reached["tuned"] >= best)
    assert found["tuned_steps"] == (3 if found["method"] == "tuned" else 0)
    assert first["digest"] == again["digest"]


def test_a_student_without_its_teacher_is_not_tuned(edgekd, tmp_path):
    code, _, err = edgekd(
        "export",
        write_student(tmp_path / "s"),
        "-t",
        "jetson",
        "--tune",
        "3",
        "--out",
        tmp_path / "o",
    )
    assert code == 2
    assert "--teacher TEACHER" in err
    assert not (tmp_path / "o").exists()


def test_images_that_do_not_reach_what_it_saw_fail_the_gate_and_the_files_are_kept(
    edgekd, tmp_path, pixels
):
    dark = write_set(tmp_path / "dark", (pixels // 4).astype(np.uint8), TEACHER)
    code, _, err = edgekd(
        *("export", "--teacher", TEACHER, "--images", dark, "-t", "jetson"),
        *("--out", tmp_path / "o"),
    )
    assert code == 4
    assert "calibration int8" in err
    assert "--images SET" in err
    assert "--min-agreement" not in err  # which is no option of this command
    assert (tmp_path / "o" / "model-int8.onnx").is_file()


def test_images_of_another_teacher_are_refused(edgekd, tmp_path, images):
    state = torch.load(TEACHER, weights_only=True)
    state["state_dict"]["fc.bias"] += 1
    other = tmp_path / "other.pt"
    torch.save(state, other)
    code, _, err = edgekd(
        *("export", "--teacher", other, *SAID, "--images", images, "-t", "jetson"),
        *("--out", tmp_path / "o"),
    )
    assert code == 2
    assert "made of another teacher" in err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name what to export"),
        (("student", "--teacher", "teacher.pt"), "name what to export"),
        (("student", "--arch", "resnet20"), "--arch describes a teacher"),
        (("student", "--input", "1x28x28"), "--input describes a teacher"),
        (("student", "--trust-pickle"), "--trust-pickle describes a teacher"),
    ],
)
def test_a_student_and_a_teacher_are_told_apart(edgekd, words, message):
    code, _, err = edgekd("export", *words, "-t", "jetson")
    assert code == 2
    assert message in err


NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(64, 10)
    def forward(self, x):
        x = self.conv(x).relu()
        return self.fc(nn.functional.interpolate(x, size=(4, 4), mode="bicubic").flatten(1))
def make():
    return Net()
"""


def test_a_teacher_that_tensorrt_cannot_take_is_refused_in_words(edgekd, tmp_path, pixels):
    (tmp_path / "net.py").write_text(NET)
    names = {
        "conv.weight": (4, 1, 3, 3),
        "conv.bias": (4,),
        "fc.weight": (10, 64),
        "fc.bias": (10,),
    }
    draw = torch.Generator().manual_seed(0)
    torch.save(
        {name: torch.randn(size, generator=draw) for name, size in names.items()},
        tmp_path / "teacher.pt",
    )
    said = TeacherOptions(
        arch=f"{tmp_path}/net.py:make", input=(1, 28, 28), mean=(0.1307,), std=(0.3081,)
    )
    made = write_set(tmp_path / "s", pixels, tmp_path / "teacher.pt", said)
    code, _, err = edgekd(
        *("export", "--teacher", tmp_path / "teacher.pt", "--images", made, "-t", "jetson"),
        *("--arch", said.arch, *SAID[2:], "--out", tmp_path / "o"),
    )
    assert code == 8
    assert "no mode cubic" in err
    assert not (tmp_path / "o").exists()
