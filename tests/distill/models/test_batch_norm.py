import pytest
import torch
from torch import nn

from edgekd.distill.models.batch_norm import watch_reach


@pytest.fixture
def one_norm():
    """A batch-norm that saw values of mean 1 and deviation 2."""
    norm = nn.BatchNorm2d(1)
    norm.running_mean, norm.running_var = torch.tensor([1.0]), torch.tensor([4.0])
    return nn.Sequential(norm).eval()


def outside(module, *batches):
    with torch.no_grad(), watch_reach(module) as reached:
        for images in batches:
            module(images)
    return reached.outside()


def test_what_lies_beyond_is_the_tails_of_a_normal(one_norm):
    images = torch.tensor([-1.0, 3.0]).reshape(2, 1, 1, 1)  # one deviation to either side
    assert outside(one_norm, images)["0"] == pytest.approx(0.3173, abs=1e-3)


def test_several_passes_reach_as_far_as_the_furthest(one_norm):
    low, high = torch.full((1, 1, 2, 2), -1.0), torch.full((1, 1, 2, 2), 3.0)
    assert outside(one_norm, low, high) == outside(one_norm, torch.cat([low, high]))


def test_images_of_one_value_reach_nothing(one_norm):
    assert outside(one_norm, torch.ones(3, 1, 2, 2))["0"] == pytest.approx(1.0)


def test_a_channel_that_never_changed_has_nothing_beyond():
    norm = nn.BatchNorm2d(2)
    norm.running_var = torch.tensor([0.0, 1.0])
    nothing = torch.zeros(2, 2, 2, 2)  # reaches the first channel, and nothing of the second
    assert outside(nn.Sequential(norm).eval(), nothing)["0"] == pytest.approx(0.5)


def test_a_network_without_batch_norm_has_nothing_to_say():
    assert outside(nn.Sequential(nn.Flatten()), torch.zeros(1, 1, 2, 2)) == {}


def test_nothing_is_watched_afterwards(one_norm):
    outside(one_norm, torch.zeros(1, 1, 2, 2))
    assert not one_norm[0]._forward_pre_hooks
