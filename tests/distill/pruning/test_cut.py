"""Cuts of many networks: what is left runs, is rebuilt from its record, and answers as the whole with zeros would."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm

from edgekd.distill.models import architectures, networks
from edgekd.distill.pruning import plan_cut
from edgekd.distill.pruning.apply_cut import apply_cut
from edgekd.distill.pruning.build_network import build_network
from edgekd.distill.pruning.channel_groups import find_channel_groups
from edgekd.distill.pruning.plan_cut import NEAR, CutPlanner
from edgekd.distill.pruning.residual_blocks import find_removable
from edgekd.errors import InputFileError, UsageError
from edgekd.records import Architecture, Cut, CutRequest, LayerCut, from_json, to_json

DIGEST = "0" * 64
HALF = CutRequest(measure="width", share=0.5)
QUARTER = CutRequest(measure="macs", share=0.25)


def at(name, side=32, channels=3, classes=10, source="edgekd"):
    return Architecture(
        source=source, name=name, channels=channels, classes=classes, height=side, width=side
    )


def network(architecture):
    """With statistics and scales that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    made = architectures.build(architecture)
    networks.initialise(made, generator=generator)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.state_dict()["running_mean"].normal_(0, 0.1, generator=generator)
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.normal_(0, 0.1, generator=generator)
    return made.eval().requires_grad_(False)


def planner(architecture):
    return CutPlanner(network(architecture), architecture=architecture, teacher_digest=DIGEST)


def images(architecture, count=4):
    shape = (count, architecture.channels, architecture.height, architecture.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


NETWORKS = (
    at("lenet5", 28, 1),
    at("resnet8"),
    at("resnet8a"),
    at("wrn-16-1"),
    at("mobilenetv2-0.25"),
    at("vgg11"),
    at("resnet10t", source="timm"),
    at("mobilenetv3_small_050", source="timm"),
    at("regnetx_002", source="timm"),
    at("test_vit", 64, source="timm"),
    at("resnet18", source="torchvision"),
)


@pytest.mark.parametrize("architecture", NETWORKS, ids=str)
def test_half_of_the_width_is_rebuilt_from_its_record_alone(architecture):
    found = planner(architecture)
    cut = found.plan(HALF)
    student = found.apply(cut)
    read = from_json(Cut, to_json(cut, schema="cut"), origin="cut", schema="cut")
    rebuilt = build_network(replace(architecture, cut=str(HALF)), read, origin="cut")
    rebuilt.load_state_dict(student.state_dict())
    shown = images(architecture)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(shown), student(shown))
    assert found.size(cut).macs < 0.7 * found.whole.macs


@pytest.mark.parametrize("architecture", NETWORKS[1:5], ids=str)
def test_a_quarter_of_the_macs_is_a_quarter(architecture):
    found = planner(architecture)
    assert 0.2 < found.size(found.plan(QUARTER)).macs / found.whole.macs < 0.27


@pytest.mark.parametrize("architecture", NETWORKS, ids=str)
def test_a_plan_that_cuts_nothing_is_the_teacher(architecture):
    whole = network(architecture)
    cut = Cut(
        teacher_digest=DIGEST,
        architecture=architecture,
        asked=HALF,
        importance="magnitude",
        layers={},
    )
    shown = images(architecture)
    with torch.no_grad():
        assert torch.equal(apply_cut(copy.deepcopy(whole), cut)(shown), whole(shown))


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2-0.25", "vgg11", "lenet5"])
def test_channels_are_those_that_the_library_removes(name):
    import torch_pruning as tp

    architecture = at(name) if name != "lenet5" else at(name, 28, 1)
    whole = network(architecture)
    groups = find_channel_groups(
        whole, shape=(architecture.channels, architecture.height, architecture.width), classes=10
    )
    group = max(groups, key=lambda each: len(each.members))
    gone = group.least_important(group.channels // 2)
    theirs = copy.deepcopy(whole).requires_grad_(True)
    graph = tp.DependencyGraph().build_dependency(theirs, example_inputs=images(architecture, 1))
    layer = theirs.get_submodule(group.name)
    pruner = graph.get_pruner_of_module(layer)
    graph.get_pruning_group(layer, pruner.prune_out_channels, sorted(gone)).prune()
    layers: dict[str, LayerCut] = {}
    for member in group.members:
        count = len(member.positions)
        kept = tuple(
            position
            for position, channel in zip(member.positions, member.channels, strict=True)
            if channel not in gone
        )
        assert len(kept) < count
        layers[member.layer] = replace(
            layers.get(member.layer, LayerCut()), **{member.side: tuple(sorted(kept))}
        )
    cut = Cut(
        teacher_digest=DIGEST,
        architecture=architecture,
        asked=HALF,
        importance="magnitude",
        layers=layers,
    )
    ours = apply_cut(copy.deepcopy(whole), cut).state_dict()
    assert ours.keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.state_dict().items())


class Shifted(nn.Module):
    """Channels move between two layers in a way that no gradient shows."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        y = functional.relu(self.first(x))
        y = functional.relu(self.second(functional.pad(y, (0, 0, 0, 0, 8, 8))))
        return self.head(y.mean((2, 3)))


def test_what_is_misread_is_left_whole():
    found = CutPlanner(Shifted(), architecture=at("resnet8"), teacher_digest=DIGEST)
    student = found.apply(found.plan(HALF))
    assert len(student.state_dict()["first.weight"]) == 16
    assert len(student.state_dict()["second.weight"]) == 8


def test_a_graph_of_which_all_is_misread_is_refused():
    network = Shifted()
    network.set_submodule("head", nn.Identity())
    network.second = nn.Conv2d(32, 10, 3, padding=1)
    with pytest.raises(UsageError, match="--student"):
        CutPlanner(network, architecture=at("resnet8"), teacher_digest=DIGEST).plan(HALF)


def test_whole_blocks_are_left_out_and_one_by_one():
    architecture = at("resnet20")
    found = planner(architecture)
    assert set(found.blocks) == {
        f"layer{stage}.{block}"
        for stage in (1, 2, 3)
        for block in range(3)
        if (stage, block) not in {(2, 0), (3, 0)}
    }
    cut = found.plan(replace(HALF, depth=0.5))
    assert len(cut.removed) == 3
    student = found.apply(cut)
    assert all(isinstance(student.get_submodule(name), nn.Identity) for name in cut.removed)
    assert not any(name.startswith(f"{block}.") for name in cut.layers for block in cut.removed)


def test_a_block_without_a_shortcut_is_not_left_out():
    assert find_removable(network(at("vgg11")), images(at("vgg11"))) == {}


def test_heads_of_attention_are_cut_whole():
    found = planner(at("test_vit", 64, source="timm"))
    cut = found.plan(HALF)
    name, kept = next((name, kept) for name, kept in cut.layers.items() if kept.heads is not None)
    layer = found.apply(cut).get_submodule(name)
    whole = found.network.get_submodule(name)
    size = whole.proj.in_features // whole.num_heads
    assert layer.num_heads == len(kept.heads) < whole.num_heads
    head = kept.heads[-1]
    assert torch.equal(
        layer.proj.weight[:, -size:], whole.proj.weight[:, head * size : (head + 1) * size]
    )


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"nowhere": LayerCut(outputs=(0,))}, "no layer 'nowhere'"),
        ({"conv1": LayerCut(outputs=())}, "rise"),
        ({"conv1": LayerCut(outputs=(3, 1))}, "rise"),
        ({"conv1": LayerCut(outputs=(0, 16))}, "rise"),
        ({"layer1": LayerCut(outputs=(0,))}, "Sequential cannot be cut"),
        ({"conv1": LayerCut(heads=(0,))}, "no heads"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(layers, said):
    cut = Cut(
        teacher_digest=DIGEST,
        architecture=at("resnet8"),
        asked=HALF,
        importance="magnitude",
        layers=layers,
    )
    with pytest.raises(InputFileError, match=said):
        apply_cut(network(at("resnet8")), cut)


def test_a_cut_student_needs_the_record_of_its_own_network():
    found = planner(at("resnet8"))
    cut = found.plan(HALF)
    named = replace(at("resnet8"), cut=str(HALF))
    with pytest.raises(InputFileError, match="missing"):
        build_network(named, None, origin="student")
    with pytest.raises(InputFileError, match="not of"):
        build_network(replace(at("resnet14"), cut=str(HALF)), cut, origin="student")
    with pytest.raises(InputFileError, match="whole network"):
        build_network(at("resnet8"), cut, origin="student")


def test_less_than_can_be_left_is_refused():
    with pytest.raises(UsageError, match="already"):
        planner(at("resnet8")).plan(CutRequest(measure="params", share=0.0001))


def test_what_shortcuts_carry_keeps_more_than_what_is_inside_of_blocks():
    cut = planner(at("resnet20")).plan(QUARTER).layers
    carried, inside = (len(cut[f"layer3.1.{name}"].outputs) / 64 for name in ("conv2", "conv1"))
    assert carried > 0.6
    assert inside < 0.5
    # A share of the width is one share
    half = planner(at("resnet20")).plan(HALF).layers
    assert {len(half[f"layer3.1.{name}"].outputs) for name in ("conv1", "conv2")} == {32}


def test_single_layers_get_a_step_back_where_all_together_stop_short(monkeypatch):
    found = planner(at("resnet20-w12"))
    cut = found.plan(QUARTER)
    share = found.size(cut).macs / found.whole.macs
    monkeypatch.setattr(plan_cut, "FILLS", 0)
    without = found.size(found.plan(QUARTER)).macs / found.whole.macs
    assert without < 0.25 < share <= 0.25 * (1 + NEAR)


@pytest.mark.parametrize(
    "change",
    [parametrizations.weight_norm, parametrizations.spectral_norm, spectral_norm],
    ids=["weight norm", "spectral norm", "spectral norm by a hook"],
)
def test_weights_that_are_computed_are_folded_before_they_are_cut(change):
    architecture = at("resnet8")
    teacher = network(architecture)
    shown = images(architecture)
    change(teacher.layer1[0].conv1)
    with torch.no_grad():
        teacher.train()(shown)
        wanted = teacher.eval()(shown)
    found = CutPlanner(teacher, architecture=architecture, teacher_digest="0" * 64)
    with torch.no_grad():
        assert torch.allclose(found.network(shown), wanted, atol=1e-5)
        # The teacher goes on
        assert torch.equal(teacher(shown), wanted)
    cut = found.plan(HALF)
    assert len(cut.layers["layer1.0.conv1"].outputs or ()) == 8
    assert "weight" in found.apply(cut).get_submodule("layer1.0.conv1")._parameters
