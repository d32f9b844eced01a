import pytest
import torch

from edgekd.distill.models import architectures
from edgekd.distill.models.architectures import (
    NAMES,
    build,
    recognise,
    shapes_of,
)
from edgekd.distill.models.parameter_names import canonical
from edgekd.distill.models.student_choice import Size, choose_student, size_of
from edgekd.errors import UsageError
from edgekd.records import Architecture


def ours(name, channels=1, size=28, classes=10):
    return Architecture(
        source="edgekd", name=name, channels=channels, classes=classes, height=size, width=size
    )


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_recognised_from_its_own_shapes(name, channels, size):
    with torch.device("meta"):
        module = build(ours(name, channels, size, classes=7))
    assert recognise(shapes_of(module.state_dict()), height=size, width=size) == ours(
        name, channels, size, classes=7
    )


@pytest.mark.parametrize(
    "name",
    [
        "lenet5",
        "lenet5-half",
        "resnet8",
        "resnet8a",
        "resnet18-w16",
        "wrn-16-1",
        "vgg11",
        "mobilenetv2-0.25",
    ],
)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 33, 45)])
def test_every_family_maps_images_to_logits(name, shape):
    channels, height, width = shape
    architecture = Architecture(
        source="edgekd", name=name, channels=channels, classes=5, height=height, width=width
    )
    assert build(architecture).eval()(torch.randn(2, *shape)).shape == (2, 5)


# Oracle: He et al. 2016 table 6 (0.27 M, 0.85 M), LeNet-5's well-known 61,706, Zagoruyko table 4
# (WRN-40-2: 2.2 M), the widely quoted 11.17 M of small-image ResNet-18.
@pytest.mark.parametrize(
    ("name", "channels", "size", "parameters"),
    [
        ("resnet20a", 3, 32, 269_722),
        ("resnet56a", 3, 32, 853_018),
        ("lenet5", 1, 28, 61_706),
        ("resnet18", 3, 32, 11_173_962),
    ],
)
def test_parameters_are_the_published_ones(name, channels, size, parameters):
    with torch.device("meta"):
        module = build(ours(name, channels, size))
    assert sum(part.numel() for part in module.parameters()) == parameters


def test_wide_resnets_have_the_published_size():
    with torch.device("meta"):
        module = build(ours("wrn-40-2", 3, 32))
    assert sum(part.numel() for part in module.parameters()) == pytest.approx(2.2e6, rel=0.03)


def test_macs_of_a_convolution_are_counted_as_by_hand():
    conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert size_of(conv, shape=(3, 10, 12)) == Size(parameters=3 * 8 * 9, macs=3 * 8 * 9 * 10 * 12)


def test_option_a_shortcuts_have_no_parameters():
    with torch.device("meta"):
        names = build(ours("resnet20a")).state_dict()
    assert not [name for name in names if "shortcut" in name]


@pytest.mark.parametrize(("teacher", "family"), [("resnet20a", "resnet"), ("wrn-40-2", "wrn")])
def test_auto_takes_the_largest_of_the_family_within_a_quarter(teacher, family):
    architecture = ours(teacher, 3, 32)
    with torch.device("meta"):
        size = size_of(build(architecture), shape=(3, 32, 32))
    chosen = choose_student("auto", teacher=architecture, size=size)
    sizes = {}
    for name in NAMES:
        if architectures.family_of(name) == family:
            with torch.device("meta"):
                found = size_of(build(ours(name, 3, 32)), shape=(3, 32, 32))
            if 4 * found.parameters <= size.parameters and 4 * found.macs <= size.macs:
                sizes[name] = found.parameters
    assert chosen.architecture.name == max(sizes, key=lambda name: sizes[name])
    assert "quarter" in chosen.reason


def test_a_family_with_nothing_small_enough_falls_to_residual_networks_and_says_so():
    size = Size(parameters=400_000, macs=50_000_000)
    chosen = choose_student("auto", teacher=ours("vgg11", 3, 32), size=size)
    assert chosen.architecture.name.startswith("resnet")
    assert "no built-in vgg" in chosen.reason


def test_nothing_small_enough_is_a_usage_error():
    with pytest.raises(UsageError, match="--student"):
        choose_student("auto", teacher=ours("resnet8-w4"), size=Size(parameters=100, macs=100))


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UsageError, match="Did you mean"):
        choose_student("resnet21", teacher=ours("resnet20"), size=Size(parameters=1, macs=1))


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        ("linear.weight", "fc.weight"),
        ("layer2.0.downsample.0.weight", "layer2.0.shortcut.0.weight"),
        ("block1.layer.0.convShortcut.weight", "block1.layer.0.shortcut.weight"),
    ],
)
def test_spellings_in_circulation_become_ours(theirs, mine):
    assert canonical(theirs) == mine


@pytest.mark.parametrize(("name", "side"), [("lenet5", 28), ("vgg11", 28), ("resnet8", 16)])
def test_inputs_that_are_too_small_for_a_family_are_refused(name, side):
    build(ours(name, 3, side))
    with pytest.raises(UsageError, match=f"at least {side} x {side} pixels"):
        build(ours(name, 3, side - 1))
