"""What teachers answer with, and teachers that do not answer the same twice."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgekd.distill.teachers.answers import LogProbabilities, as_logits, kind_of, with_logits
from edgekd.errors import InputFileError
from edgekd.records import InputSpec

SPEC = InputSpec(channels=3, height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3)


class Network(nn.Module):
    """Two layers with an end of choice; fixed weights."""

    def __init__(self, end=None, middle=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = middle or nn.Identity()
        self.fc = nn.Linear(4, 5)
        self.end = end
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x):
        x = self.fc(self.middle(self.conv(x)).mean((2, 3)))
        return x if self.end is None else self.end(x)


def by_parts(x):
    raised = (x - x.amax(1, keepdim=True)).exp()
    return raised / raised.sum(1, keepdim=True)


def images(count=6):
    return torch.randn(count, *SPEC.shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        pytest.param(None, "logits", id="none"),
        pytest.param(torch.relu, "logits", id="relu"),
        pytest.param(nn.Softmax(1), "probabilities", id="softmax"),
        pytest.param(by_parts, "probabilities", id="softmax-in-parts"),
        pytest.param(nn.LogSoftmax(1), "log-probabilities", id="log-softmax"),
        pytest.param(nn.Softmax(0), "logits", id="softmax-over-images"),
        pytest.param(torch.sigmoid, "logits", id="sigmoid"),
    ],
)
def test_answers_are_recognised_and_become_logits(end, kind):
    network = Network(end).eval()
    with torch.no_grad():
        answers = network(images()).numpy()
        assert kind_of(answers) == kind
        if kind == "logits":
            return
        expected = Network()(images()).softmax(1)
        found = torch.from_numpy(as_logits(answers)).softmax(1)
        torch.testing.assert_close(found, expected)
        module, notes = with_logits(network, SPEC)
        torch.testing.assert_close(module(images()).softmax(1), expected)
        assert "probabilities" in " ".join(notes)


@pytest.mark.parametrize("levels", [255, 2**11], ids=["int8", "fp16"])
def test_rounded_probabilities_are_recognised(levels):
    exact = Network(nn.Softmax(1))(images()).detach().numpy()
    assert kind_of(np.rint(exact * levels) / levels) == "probabilities"


def test_probabilities_of_zero_have_finite_logits_and_gradients_pass():
    module = LogProbabilities(Network(lambda x: (60 * x).softmax(1)))
    given = images().requires_grad_()
    answers = module(given)
    assert torch.isfinite(answers).all()
    answers.sum().backward()
    assert given.grad is not None
    assert torch.isfinite(given.grad).all()


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Dropout(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5)


@pytest.mark.parametrize(
    ("middle", "said"),
    [
        pytest.param(Noise(), r"asked again.*middle \(Noise\)", id="noise"),
        pytest.param(Dropout(), r"asked again.*middle \(Dropout\)", id="dropout"),
        pytest.param(
            nn.BatchNorm2d(4, affine=False, track_running_stats=False),
            r"alone otherwise.*middle \(BatchNorm2d\)",
            id="batch-statistics",
        ),
    ],
)
def test_teachers_that_do_not_answer_the_same_twice_are_refused_by_name(middle, said):
    with pytest.raises(InputFileError, match=said) as caught:
        with_logits(Network(middle=middle).eval(), SPEC)
    assert caught.value.exit_code == 2


def test_randomness_in_the_code_of_the_network_is_said():
    with pytest.raises(InputFileError, match="the code of its forward"):
        with_logits(Network(lambda x: F.dropout(x, 0.5)).eval(), SPEC)


def test_a_teacher_with_a_running_batch_norm_is_taken_as_it_is():
    network = Network(middle=nn.BatchNorm2d(4)).eval()
    assert with_logits(network, SPEC) == (network, ())
