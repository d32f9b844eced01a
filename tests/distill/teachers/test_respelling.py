"""Networks of the libraries as wrappers, old releases and new heads spell them."""

import argparse
import re

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from edgekd.distill.models.networks import initialise
from edgekd.distill.teachers.inspection import inspect_teacher
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import InputFileError, UsageError
from edgekd.workflows.check_teacher import check_teacher, format_teacher_check
from edgekd.workflows.describe_teacher import describe_teacher, write_toml

SAID = TeacherOptions(input=(3, 32, 32), mean=(0.5,), std=(0.25,))
TINY = TeacherOptions(input=(3, 16, 16), mean=(0.5,), std=(0.25,))


def resnet(classes=7):
    return torchvision.models.resnet18(num_classes=classes)


def headless(network):
    return {name: value for name, value in network.state_dict().items() if "fc." not in name}


def children(network):
    """As `nn.Sequential(*list(network.children())[:-1])` names them."""
    return nn.Sequential(*list(network.children())[:-1]).state_dict()


def with_head(body, network, head, classifier="fc"):
    classifier = network.get_submodule(classifier)
    return {**body, f"{head}.weight": classifier.weight, f"{head}.bias": classifier.bias}


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def old_names(network):
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
    return {
        pattern.sub(r"\1.\2", name): value
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def mobilenet():
    return torchvision.models.mobilenet_v2(num_classes=5)


def densenet():
    return torchvision.models.densenet121(num_classes=3)


LAYOUTS = {
    "a wrapper's name": (resnet, lambda net: prefixed("timm_model.", net.state_dict())),
    "names in names": (resnet, lambda net: prefixed("module.visual.trunk.", net.state_dict())),
    "body and head": (
        resnet,
        lambda net: with_head(prefixed("backbone.", headless(net)), net, "head.fc"),
    ),
    "body and head in a wrapper": (
        resnet,
        lambda net: prefixed("net.", with_head(prefixed("encoder.", headless(net)), net, "cls")),
    ),
    "a dropout before the head": (resnet, lambda net: with_head(headless(net), net, "fc.1")),
    "children": (
        resnet,
        lambda net: with_head(prefixed("feature_extractor.", children(net)), net, "classifier"),
    ),
    "features alone": (
        mobilenet,
        lambda net: with_head(
            prefixed("body.", net.features.state_dict()), net, "out", "classifier.1"
        ),
    ),
    "a dropout in a classifier": (
        mobilenet,
        lambda net: with_head(
            prefixed("features.", net.features.state_dict()), net, "classifier.1.1", "classifier.1"
        ),
    ),
    "old names": (densenet, old_names),
    "old names in a wrapper": (densenet, lambda net: prefixed("module.cnn.", old_names(net))),
    "a loss beside it": (
        resnet,
        lambda net: {
            **prefixed("model.trunk.", net.state_dict()),
            "criterion.weight": torch.ones(7),
            "val_acc.correct": torch.ones(1),
            "test_confmat.confmat": torch.ones(7, 7),
        },
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_is_found_and_answers_as_it_did(tmp_path, layout):
    make, spell = LAYOUTS[layout]
    network = make().eval()
    path = tmp_path / "t.pt"
    torch.save({"state_dict": spell(network), "arch": "resnet18"}, path)
    teacher = load_teacher(path, SAID, generator=torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(images), network(images))
    assert any("other names" in note for note in teacher.info.notes)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            lambda state: state.pop("backbone.layer4.1.conv2.weight"), id="a part missing"
        ),
        pytest.param(
            lambda state: state.update({"head.0.running_mean": torch.zeros(512)}), id="a norm"
        ),
        pytest.param(
            lambda state: state.update({"neck.weight": torch.zeros(512, 512)}), id="a layer more"
        ),
        pytest.param(lambda state: state.pop("head.1.bias"), id="no bias"),
        pytest.param(
            lambda state: state.update({"f1.weight": torch.zeros(512, 512)}), id="a layer called f1"
        ),
    ],
)
def test_what_is_not_wholly_a_network_is_asked_about(tmp_path, spoil):
    net = resnet()
    state = with_head(prefixed("backbone.", headless(net)), net, "head.1")
    spoil(state)
    torch.save(state, tmp_path / "t.pt")
    found = inspect_teacher(tmp_path / "t.pt", SAID)
    assert found.network is None
    assert any("--arch" in question.option for question in found.known.questions)


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        pytest.param({"arch": "resnet18", "epoch": 3}, True, id="timm"),
        pytest.param({"args": argparse.Namespace(model="resnet18")}, True, id="torchvision"),
        pytest.param(
            {"hyper_parameters": {"model_name": "resnet18.a1_in1k"}}, True, id="Lightning"
        ),
        pytest.param({"arch": "resnetblur18"}, True, id="the other"),
        pytest.param({"arch": "mine"}, False, id="another word"),
        pytest.param({"note": "resnet18"}, False, id="another key"),
    ],
)
def test_the_files_own_words_decide_between_networks_of_one_signature(tmp_path, beside, named):
    torch.save({"state_dict": resnet().state_dict(), **beside}, tmp_path / "t.pt")
    found = inspect_teacher(tmp_path / "t.pt", SAID)
    if not named:
        assert found.network is None
        return
    assert found.network is not None
    assert found.network.name == ("resnetblur18" if "blur" in str(beside) else "resnet18")
    assert "the file's own words" in found.network.because


def test_a_head_of_its_own_makes_the_librarys_images_an_offer(tmp_path):
    torch.save({"state_dict": resnet(7).state_dict(), "arch": "resnet18"}, tmp_path / "t.pt")
    known = inspect_teacher(tmp_path / "t.pt", TeacherOptions()).known
    assert (known.input, known.mean, known.std) == (None, None, None)
    asked = {question.option: question for question in known.questions}
    assert asked["--input CxHxW"].choices == (("3x224x224", "as the library's own weights"),)
    assert "--mean 0.485,0.456,0.406" in asked["--mean M,... --std S,..."].choices[0][0]


def test_the_librarys_own_head_makes_them_facts(tmp_path):
    torch.save({"state_dict": resnet(1000).state_dict(), "arch": "resnet18"}, tmp_path / "t.pt")
    known = inspect_teacher(tmp_path / "t.pt", TeacherOptions()).known
    assert known.input is not None
    assert known.input.value == (3, 224, 224)
    assert not known.questions


def test_means_of_bytes_are_refused_with_what_they_are_of_pixels(tmp_path):
    torch.save(resnet().state_dict(), tmp_path / "t.pt")
    given = TeacherOptions(
        input=(3, 32, 32), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )
    with pytest.raises(UsageError, match=r"--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"):
        inspect_teacher(tmp_path / "t.pt", given)


def two_layers(width, classes):
    return nn.Sequential(nn.Dropout(), nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, classes))


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = torchvision.models.resnet18()
        self.trunk.fc = nn.Identity()
        self.out = two_layers(512, 3)

    def forward(self, images):
        return self.out(self.trunk(images))


def in_place():
    network = torchvision.models.mobilenet_v2()
    network.classifier = two_layers(1280, 3)
    return network


@pytest.mark.parametrize(
    "make", [pytest.param(Wrapped, id="in a wrapper"), pytest.param(in_place, id="in place")]
)
def test_a_head_of_two_layers_becomes_a_factory_to_look_through(tmp_path, make):
    network = make().eval()
    torch.save({"state_dict": prefixed("module.", network.state_dict())}, tmp_path / "t.pt")
    found, known = describe_teacher(tmp_path / "t.pt", SAID)
    assert "t_net.py:make" in found.questions[0].choices
    assert "wrote" in write_toml(known, found, force=False)
    text = (tmp_path / "t_net.py").read_text()
    assert "nn.ReLU(),  # CHECK" in text
    assert "kept" in write_toml(known, found, force=False)
    said = TeacherOptions(arch=f"{tmp_path}/t_net.py:make", **vars_of(SAID))
    teacher = load_teacher(tmp_path / "t.pt", said, generator=torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(images), network(images))


def test_a_head_that_is_no_sequential_is_asked_about_alone(tmp_path):
    state = {**prefixed("trunk.", headless(resnet())), "out.scale": torch.ones(512)}
    torch.save(state, tmp_path / "t.pt")
    found, known = describe_teacher(tmp_path / "t.pt", SAID)
    assert "below trunk" in found.questions[0].text
    write_toml(known, found, force=False)
    assert not (tmp_path / "t_net.py").exists()


def vars_of(options):
    return {name: getattr(options, name) for name in ("input", "mean", "std")}


def small_stem(classes=4):
    """torchvision's ResNet-18 for small images, whose pool nobody took out; trained a little."""
    network = torchvision.models.resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    draw = torch.Generator().manual_seed(0)
    initialise(network, generator=draw)
    network.train()
    for _ in range(3):
        network(torch.randn(16, 3, 16, 16, generator=draw))
    return network.eval()


def test_a_pool_that_leaves_no_trace_is_asked_about_and_each_answer_is_its_network(tmp_path):
    network = small_stem()
    torch.save(network.state_dict(), tmp_path / "t.pt")
    (question,) = inspect_teacher(tmp_path / "t.pt", TINY).known.questions
    assert [name for name, _ in question.choices] == ["resnet18", "resnet18-pool"]
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for name, pool in (("resnet18", nn.Identity()), ("resnet18-pool", network.maxpool)):
        network.maxpool = pool
        said = TeacherOptions(arch=name, **vars_of(TINY))
        teacher = load_teacher(tmp_path / "t.pt", said, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(teacher.module(images), network(images))


def test_a_check_on_labelled_images_tells_which_network_it_is(tmp_path):
    network = small_stem()
    draw = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (100, 16, 16, 3), generator=draw)
    images = (images * torch.rand(100, 1, 1, 3, generator=draw)).byte()
    with torch.no_grad():
        logits = network((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    # No class is the answer to everything
    with torch.no_grad():
        network.fc.bias.sub_(logits.median(0).values)
    labels = (logits - logits.median(0).values).argmax(1)
    torch.save(network.state_dict(), tmp_path / "t.pt")
    np.savez(tmp_path / "e.npz", images=images.numpy(), labels=labels.numpy())
    found = check_teacher(tmp_path / "t.pt", tmp_path / "e.npz", TINY)
    assert [each.name for each in found.networks] == ["resnet18-pool", "resnet18"]
    assert found.networks[1].accuracy < 0.9
    assert found.networks[0].accuracy == found.accuracy == 1.0
    assert "--arch resnet18-pool" in format_teacher_check(found)


def test_of_a_network_that_is_not_known_nothing_is_read_off_the_order_of_safetensors(tmp_path):
    state = {"classifier.weight": torch.zeros(11, 8), "vit.dense.weight": torch.zeros(8, 8)}
    state |= {"vit.patch.weight": torch.zeros(8, 3, 4, 4)}
    save_file(state, tmp_path / "t.safetensors")
    found, known = describe_teacher(tmp_path / "t.safetensors", TeacherOptions())
    assert (found.classes, found.channels) == (None, None)
    write_toml(known, found, force=False)
    assert "classes = " not in (tmp_path / "t.toml").read_text()


def test_a_named_network_is_found_in_names_by_the_alphabet(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=24, img_size=64, in_chans=4)
    save_file(network.state_dict(), tmp_path / "t.safetensors")
    said = TeacherOptions(
        arch="timm:vit_tiny_patch16_224", input=(4, 64, 64), mean=(0.5,), std=(0.25,)
    )
    known = inspect_teacher(tmp_path / "t.safetensors", said).known
    assert (known.classes, known.channels) == (24, 4)


def test_a_type_that_is_not_read_is_no_reason_to_copy_a_file_again(tmp_path):
    state = {"w": torch.zeros(2, 2, dtype=torch.float8_e4m3fn)}
    save_file(state, tmp_path / "t.safetensors")
    with pytest.raises(InputFileError, match="float32") as found:
        inspect_teacher(tmp_path / "t.safetensors", TeacherOptions())
    assert "again" not in str(found.value)


@pytest.mark.parametrize("below", ["backbone", "model", "net", "trunk"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("fc.weight", (5, 1000), id="a head behind"),
        pytest.param("mask.weight", (3, 3, 1, 1), id="a layer in front"),
    ],
)
def test_a_whole_network_with_a_layer_beside_it_is_asked_about(tmp_path, below, name, shape):
    network = torchvision.models.mobilenet_v2()
    state = prefixed(f"{below}.", network.state_dict())
    state |= {name: torch.zeros(shape), name.replace("weight", "bias"): torch.zeros(shape[0])}
    torch.save(state, tmp_path / "t.pt")
    found = inspect_teacher(tmp_path / "t.pt", SAID)
    assert found.network is None
    assert any("--arch" in question.option for question in found.known.questions)


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param({"criterion.weight": torch.ones(3, 3)}, id="a loss"),
        pytest.param({"teacher.conv.weight": torch.ones(3, 3, 1, 1)}, id="another network"),
        pytest.param(
            {"mean": torch.ones(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}, id="mean, std"
        ),
    ],
)
def test_what_takes_no_part_in_the_answer_is_left_and_counted(tmp_path, beside):
    network = torchvision.models.mobilenet_v2()
    torch.save({**prefixed("model.", network.state_dict()), **beside}, tmp_path / "t.pt")
    found = inspect_teacher(tmp_path / "t.pt", SAID)
    assert found.network is not None
    assert any("other tensors were left" in note for note in found.known.notes)
