import numpy as np
import pytest
import torch
from torch import nn

from edgekd.export.coverage import coverage


@pytest.fixture
def one_norm():
    """A batch-norm that saw values of mean 1 and deviation 2."""
    norm = nn.BatchNorm2d(1)
    norm.running_mean, norm.running_var = torch.tensor([1.0]), torch.tensor([4.0])
    return nn.Sequential(norm).eval()


def test_what_lies_beyond_is_the_tails_of_a_normal(one_norm):
    images = np.array([-1.0, 3.0], np.float32).reshape(2, 1, 1, 1)  # one deviation to either side
    assert coverage(one_norm, images)["0"] == pytest.approx(0.3173, abs=1e-3)


def test_images_of_one_value_reach_nothing(one_norm):
    assert coverage(one_norm, np.ones((3, 1, 2, 2), np.float32))["0"] == pytest.approx(1.0)


def test_images_like_those_of_training_reach_it_all(network, images):
    module, _ = network("resnet8-w4")  # its statistics are of such noise
    alike, dim = (max(coverage(module, part * images(256)).values()) for part in (1.0, 0.1))
    assert dim > alike


def test_a_network_without_batch_norm_has_nothing_to_say():
    assert coverage(nn.Sequential(nn.Flatten()), np.zeros((1, 1, 2, 2), np.float32)) == {}
