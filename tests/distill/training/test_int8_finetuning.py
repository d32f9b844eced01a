import pytest
import torch
from torch import nn

from edgekd.distill.training.int8_finetuning import FinetuneConfig, ParameterGroups, tune
from edgekd.errors import QualityError


class Scaled(nn.Module):
    """A linear network with something like a scale."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return images.flatten(1) @ self.weight * self.log_scale.exp()


def pupils(compute, *, steps=60, noise=0.5):
    draw = torch.Generator().manual_seed(0)
    teacher = Scaled(torch.randn(16, 3, generator=draw)).requires_grad_(requires_grad=False)
    student = Scaled(teacher.weight + noise * torch.randn(16, 3, generator=draw))
    images = torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8, generator=draw)
    losses: list[float] = []
    tune(
        student,
        teacher,
        images,
        FinetuneConfig(steps=steps, batch=32, rate=1e-2),
        learned=ParameterGroups(weights=[student.weight], scales=[student.log_scale]),
        normalised=lambda shown: (shown - 0.5) / 0.25,
        flip=False,
        compute=compute,
        generator=torch.Generator().manual_seed(1),
        told=lambda _, loss: losses.append(loss),
    )
    return teacher, student, losses


def test_it_comes_nearer_to_the_teacher_and_the_same_way_again(compute):
    _, student, losses = pupils(compute)
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    _, again, _ = pupils(compute)
    assert torch.equal(student.weight, again.weight)


def test_a_loss_that_is_no_number_is_said(compute):
    with pytest.raises(QualityError, match="step"):
        pupils(compute, noise=float("inf"))
