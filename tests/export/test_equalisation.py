import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgekd.export.channels import follow, rescale
from edgekd.export.equalisation import equalise
from edgekd.export.parity import logits_of
from edgekd.export.qdq import activations, limits_of, observe, with_pairs
from edgekd.export.sensitivity import divergence
from edgekd.export.torch_to_onnx import fp32_model
from edgekd.records import InputSpec
from edgekd.targets.catalogue import load_target

SPEC = InputSpec(channels=3, height=12, width=12, mean=(0.5,) * 3, std=(0.5,) * 3)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        squeezed = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.up(torch.relu(self.down(squeezed))))


class Residual(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


class Joined(nn.Module):
    """What a part gives beside what it takes."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return torch.cat([x, self.part(x)], 1)


class Tokens(nn.Module):
    """A transformer's block without attention."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, stride=4)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


def with_head(*layers, channels=8):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def network(name):
    conv = nn.Conv2d
    if name == "plain":
        return with_head(conv(3, 8, 3, padding=1), nn.ReLU(), conv(8, 8, 3), nn.ReLU())
    if name == "depthwise":
        body = nn.Sequential(
            conv(8, 16, 1),
            nn.ReLU(),
            conv(16, 16, 3, padding=1, groups=16),
            nn.ReLU(),
            conv(16, 8, 1),
        )
        return with_head(conv(3, 8, 3), nn.ReLU(), Residual(body), conv(8, 8, 1))
    if name == "groups":
        return with_head(conv(3, 8, 3), nn.LeakyReLU(0.1), conv(8, 8, 3, groups=2), nn.ReLU())
    if name == "gate":
        return with_head(conv(3, 8, 3), nn.ReLU(), Gate(8), conv(8, 8, 1), nn.ReLU())
    if name == "joined":
        return with_head(
            conv(3, 8, 3),
            nn.ReLU(),
            Joined(conv(8, 4, 3, padding=1)),
            nn.MaxPool2d(2),
            conv(12, 8, 1),
        )
    if name == "clipped":
        return with_head(conv(3, 8, 3), nn.ReLU6(), conv(8, 8, 3), nn.Hardswish(), conv(8, 8, 1))
    return Tokens()


NAMES = ("plain", "depthwise", "groups", "gate", "joined", "clipped", "tokens")


def exported(name, *, software="jetson", uneven=True):
    torch.manual_seed(0)  # noqa: TID251 - layers draw by themselves
    made = network(name).eval().requires_grad_(False)
    if uneven:
        first = next(part for part in made.modules() if isinstance(part, (nn.Conv2d, nn.LayerNorm)))
        size = torch.logspace(-2, 0.5, len(first.weight))
        first.weight.mul_(size.reshape(-1, *[1] * (first.weight.ndim - 1)))
        assert first.bias is not None
        first.bias.mul_(size)
    return fp32_model(made, spec=SPEC, software=load_target(software).software, dynamic_batch=True)


def images(count, *, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *SPEC.shape)).astype(np.float32)


@pytest.mark.parametrize("software", ["jetson", "jetson@jp5.1"])
@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_factors_the_answers_stay(name, software):
    model = exported(name, software=software)
    channels = follow(model)
    factors = np.random.default_rng(1).uniform(0.2, 5, len(channels.fixed))
    factors[channels.fixed] = 1
    shown = images(8)
    plain = logits_of(model.SerializeToString(), shown)
    scaled = logits_of(rescale(model, channels, factors).SerializeToString(), shown)
    assert np.allclose(plain, scaled, atol=1e-5 * max(1, float(np.abs(plain).max())))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "clipped"])
def test_there_is_something_to_scale(name):
    channels = follow(exported(name))
    assert not channels.fixed.all()


def test_what_is_clipped_above_is_left():
    """Scaled up it would be clipped earlier, and down later."""
    model = exported("clipped")
    before = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    after = equalise(model, images(8))
    first, *_ = (node for node in model.graph.node if node.op_type == "Conv")
    for entry in after.graph.initializer:
        if entry.name in first.input:
            assert np.array_equal(numpy_helper.to_array(entry), before[entry.name])


def test_uneven_channels_become_even_and_int8_nearer():
    model = exported("depthwise")
    shown, test = images(32), images(64, seed=1)
    even = equalise(model, shown)
    exact = logits_of(model.SerializeToString(), test) * 20

    def lost(graph):
        limits = limits_of(graph, observe(graph, activations(graph), shown), "max")
        return divergence(
            exact, logits_of(with_pairs(graph, limits).SerializeToString(), test) * 20
        )

    assert lost(even) < 0.7 * lost(model)


def test_it_is_the_same_every_time():
    model = exported("joined")
    first, second = (equalise(model, images(8)).SerializeToString() for _ in range(2))
    assert first == second
