"""What is left of a network is fitted to what the whole one gave."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from edgekd.distill.models import networks
from edgekd.distill.pruning.apply_cut import apply_cut
from edgekd.distill.pruning.reconstruction import LEAST_IMAGES, reconstruct
from edgekd.records import Architecture, Cut, CutRequest, LayerCut

ARCHITECTURE = Architecture(
    source="edgekd", name="resnet8", channels=3, classes=4, height=8, width=8
)
KEPT = (0, 1, 2, 3)


class Doubled(nn.Module):
    """Every channel of the first layer is there twice: half of them say all."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.second = nn.Conv2d(8, 5, 3, stride=2)
        self.head = nn.Linear(5, 4)
        networks.initialise(self, generator=torch.Generator().manual_seed(0))
        for layer in (self.first, self.depthwise):
            layer.weight.data[4:] = layer.weight.data[:4]
            layer.state_dict()["bias"][4:] = layer.state_dict()["bias"][:4]

    def forward(self, x):
        x = self.depthwise(torch.relu(self.norm(self.first(x))))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


def cut_of(**layers):
    return Cut(
        teacher_digest="0" * 64,
        architecture=ARCHITECTURE,
        asked=CutRequest(measure="width", share=0.5),
        importance="magnitude",
        layers=layers,
    )


def pair():
    teacher = Doubled().eval().requires_grad_(False)
    half = LayerCut(outputs=KEPT)
    cut = cut_of(first=half, norm=half, depthwise=half, second=LayerCut(inputs=KEPT))
    return teacher, apply_cut(copy.deepcopy(teacher), cut), cut


def images(count):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def apart(first, second):
    shown = images(300)[200:]
    return float((first(shown) - second(shown)).norm() / second(shown).norm())


def test_what_redundant_channels_said_is_recovered():
    teacher, student, cut = pair()
    before = apart(student, teacher)
    reconstruct(student, teacher, cut, images(200), macs=10_000)
    assert apart(student, teacher) < 0.1 * before


def test_a_network_that_lost_nothing_stays_as_it_is():
    teacher = Doubled().eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    reconstruct(student, teacher, cut_of(), images(200), macs=10_000)
    assert apart(student, teacher) < 1e-4


def test_the_number_of_images_is_bounded_by_the_cost_of_a_pass():
    teacher, student, cut = pair()
    seen = []
    teacher.first.register_forward_hook(lambda _, __, output: seen.append(len(output)))
    reconstruct(student, teacher, cut, images(200), macs=10**12)
    # One image is looked at for the order of the layers, and one for what is added to what
    assert seen == [1, 1, LEAST_IMAGES]


def test_a_layer_that_shares_its_name_alone_stays_as_it_was():
    teacher, student = (
        Doubled().eval().requires_grad_(False),
        Doubled().eval().requires_grad_(False),
    )
    student.second = nn.Conv2d(8, 6, 3, stride=2)
    student.head = nn.Linear(6, 4)
    drawn = student.second.weight.detach().clone()
    reconstruct(student, teacher, None, images(64), macs=10_000)
    assert torch.equal(student.second.weight, drawn)
    assert torch.isfinite(student(images(4))).all()


class Named(nn.Module):
    """Weights under the names of layers that are never called, as a program from a file has them."""

    def __init__(self, other):
        super().__init__()
        for name, part in other.named_children():
            holder = nn.Module()
            holder.weight = part.weight
            self.add_module(name, holder)

    def forward(self, x):
        return x.mean((2, 3)) @ torch.ones(3, 4)


def test_names_that_call_nothing_are_no_layers():
    student = Doubled().eval().requires_grad_(False)
    before = copy.deepcopy(student.state_dict())
    reconstruct(student, Named(student), None, images(64), macs=10_000)
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


class HalvedConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) / 2


class Residual(nn.Module):
    """A stem that is not fitted, for it halves what it gives, and a block that adds to what it gives."""

    def __init__(self):
        super().__init__()
        self.stem = HalvedConv(3, 6, 3, padding=1)
        self.block = Block()
        self.head = nn.Linear(6, 4)
        networks.initialise(self, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


def test_a_layer_makes_up_for_what_is_amiss_at_the_shortcut():
    teacher = Residual().eval().requires_grad_(False)
    teacher.block.norm.weight.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
    student = copy.deepcopy(teacher)
    student.stem.state_dict()["bias"] += torch.linspace(-1, 1, 6)
    before = apart(student, teacher)
    reconstruct(student, teacher, None, images(200), macs=10_000)
    # The shortcut itself stays wrong: only the sum behind it is right again
    assert before > 0.05
    assert apart(student, teacher) < 0.01 * before


class SameConv(nn.Conv2d):
    """Pads by itself as TensorFlow does, one more at the end, and says that it does not pad."""

    def forward(self, x):
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


class StandardisedConv(nn.Conv2d):
    """What it multiplies by is not what it keeps."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight / weight.std(), self.bias, padding=self.padding)


class ByName(nn.Conv2d):
    def __call__(self, x):
        return super().__call__(input=x)


class TwoOf(nn.Module):
    """Layers that share their weights: what fits the one does not fit the other."""

    def __init__(self, channels):
        super().__init__()
        self.one, self.other = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(self.one(x).relu())[:, :5]


class ScaledLinear(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: SameConv(8, 5, 3, stride=2),
        lambda: nn.Conv2d(8, 5, 3, dilation=3, padding="same"),
        lambda: nn.Conv2d(8, 5, 3, padding=1, padding_mode="circular"),
        lambda: nn.Conv2d(8, 5, (3, 5), padding="same", padding_mode="reflect"),
    ],
    ids=["derived", "dilated", "circular", "reflected"],
)
def test_layers_that_pad_as_much_as_is_needed_are_fitted(layer):
    teacher, _, cut = pair()
    teacher.second = layer().requires_grad_(False)
    student = apply_cut(copy.deepcopy(teacher), cut)
    before = apart(student, teacher)
    reconstruct(student, teacher, cut, images(200), macs=10_000)
    assert apart(student, teacher) < 0.1 * before


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net, "second", StandardisedConv(8, 5, 3)),
        lambda net: setattr(net, "second", weight_norm(nn.Conv2d(8, 5, 3))),
        lambda net: setattr(net, "second", ByName(8, 5, 3)),
        lambda net: setattr(net, "second", TwoOf(8)),
        lambda net: setattr(net, "head", ScaledLinear(5, 4)),
    ],
    ids=["standardised", "weight norm", "by name", "tied", "scaled"],
)
def test_layers_that_are_no_plain_product_stay_as_they_were_cut(change):
    teacher, *_ = pair()
    change(teacher)
    teacher.eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    student.first.state_dict()["bias"] += 1.0
    before = copy.deepcopy(student.state_dict())
    reconstruct(student, teacher, cut_of(), images(200), macs=10_000)
    changed = {
        name
        for name, tensor in student.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    derived = "head" if isinstance(teacher.head, ScaledLinear) else "second"
    assert "depthwise.weight" in changed
    assert not {name for name in changed if name.startswith(derived)}
