"""Layers whose output is added to something are found by trial, whatever blocks are called."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from edgekd.distill.models import architectures, networks
from edgekd.distill.pruning.residual_sums import Shortcut, find_shortcuts
from edgekd.records import Architecture

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def found_in(network):
    generator = torch.Generator().manual_seed(0)
    networks.initialise(network, generator=generator)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            # One that changes nothing gives what the layer before gave
            part.state_dict()["running_var"].uniform_(0.5, 1.5, generator=generator)
    names = {name: name for name, _ in network.named_modules() if name}
    return find_shortcuts(network.eval(), names, IMAGE)


def ours(name):
    return architectures.build(
        Architecture(source="edgekd", name=name, channels=3, classes=10, height=32, width=32)
    )


@pytest.mark.parametrize(
    ("network", "layer", "shortcut"),
    [
        (lambda: ours("resnet8"), "layer1.0.bn2", Shortcut(name="layer1.0", side="inputs")),
        # It works in place, and adds before the last activation
        (
            lambda: torchvision.models.resnet18(num_classes=10),
            "layer1.1.bn2",
            Shortcut(name="layer1.1", side="inputs"),
        ),
        # Its downsampling is called after the branch, so that is the later one
        (
            lambda: torchvision.models.resnet18(num_classes=10),
            "layer2.0.downsample",
            Shortcut(name="layer2.0.bn2", side="outputs"),
        ),
        # Nothing is between the sum and the next block
        (
            lambda: timm.create_model("mobilenetv2_050", num_classes=10),
            "blocks.1.1.bn3",
            Shortcut(name="blocks.1.1", side="inputs"),
        ),
    ],
)
def test_what_is_added_to_what_is_found(network, layer, shortcut):
    assert found_in(network())[layer] == shortcut


def test_where_nothing_is_added_nothing_is_found():
    chain = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)),
    )
    assert found_in(chain) == {}
