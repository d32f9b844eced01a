"""A device whose memory is too small for a batch: half of it once, then the number to set."""

import shutil

import pytest

from tests.edgekd.conftest import TEACHER

# It raises what CUDA raises, for more images than it is told, where gradients are wanted.
FACTORY = """
import torch
from edgekd.distill.models.architectures import build
from edgekd.records import Architecture

def make():
    module = build(Architecture(source="edgekd", name="resnet14-w12", channels=1, classes=10, height=28, width=28))

    def refuse(_, inputs):
        if len(inputs[0]) > {most} and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")

    module.register_forward_pre_hook(refuse)
    return module
"""


@pytest.fixture
def distill(edgekd, tmp_path):
    shutil.copy(TEACHER, tmp_path)

    def call(most, *more):
        factory = tmp_path / "net.py"
        factory.write_text(FACTORY.format(most=most))
        return edgekd(
            *("distill", tmp_path / "teacher.pt", "--arch", f"{factory}:make", "--input", "1x28x28"),
            *("--mean", "0.1307", "--std", "0.3081", "--student", "lenet5-half", "--steps", "2"),
            *("--batch", "32", "--device", "cpu", "--threads", "1", "--out", tmp_path / "student", *more),
        )  # fmt: skip

    return call


@pytest.mark.slow
def test_half_a_batch_is_tried_once_and_said(distill, tmp_path):
    code, _, err = distill(20)
    assert code == 0, err
    assert "out of memory with 32 images at once: starts over with 16" in err
    assert (tmp_path / "student" / "student.safetensors").exists()


@pytest.mark.slow
def test_where_half_is_too_much_as_well_the_number_to_set_is_said(distill):
    code, _, err = distill(10)
    assert code == 2
    assert "Set --batch 8" in err
    # The run remembers that it starts with half.
    code, _, err = distill(20)
    assert code == 0, err
    assert "starts over" not in err
