"""The shipped index against the libraries it was made from."""

import gzip
import json
from importlib import metadata, resources

import pytest
import torch

from edgekd.distill.models import architectures
from edgekd.distill.models.architectures import shapes_of
from edgekd.distill.teachers import build_fingerprints, fingerprints
from edgekd.records import Architecture

SAMPLE = (
    "timm:resnet10t",
    "timm:mobilenetv3_small_050",
    "timm:vit_tiny_patch16_224",
    "timm:tresnet_m",
    "torchvision:googlenet+aux_logits",
    "torchvision:squeezenet1_1",
    "torchvision:shufflenet_v2_x0_5",
)


def shapes_in(name, *, classes, channels=3):
    source, _, bare = name.partition(":")
    found = Architecture(
        source=source, name=bare, channels=channels, classes=classes, height=224, width=224
    )
    with torch.device("meta"):
        return shapes_of(architectures.build(found).state_dict())


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("classes", [2, 1000])
def test_networks_are_found_with_any_number_of_classes(name, classes):
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    found = fingerprints.find_match(shapes_in(name, classes=classes))
    assert found is not None
    assert name in found.members
    assert (found.classes, found.channels) == (classes, 3)


def test_networks_are_found_with_other_channels():
    pytest.importorskip("timm")
    found = fingerprints.find_match(shapes_in("timm:resnet10t", classes=3, channels=1))
    assert found is not None
    assert (found.channels, found.classes) == (1, 3)


def test_an_added_or_changed_part_is_not_found():
    pytest.importorskip("timm")
    shapes = shapes_in("timm:resnet10t", classes=3)
    assert fingerprints.find_match(shapes | {"extra.weight": (3, 3)}) is None
    assert fingerprints.find_match(shapes | {"conv1.0.weight": (25, 3, 3, 3)}) is None


def test_heads_that_disagree_on_the_classes_are_not_found():
    pytest.importorskip("timm")
    shapes = shapes_in("timm:resnet10t", classes=3)
    assert fingerprints.find_match(shapes | {"fc.bias": (4,)}) is None


def test_what_pads_differently_is_told_apart():
    entries = fingerprints.load_index().entries
    first, second = entries["timm:efficientnet_b0"], entries["timm:tf_efficientnet_b0"]
    assert first.behaviour != second.behaviour
    assert "Conv2dSame" in second.apart


def test_twins_of_two_libraries_are_known_to_be_one_function():
    entries = fingerprints.load_index().entries
    assert entries["timm:resnet50"].behaviour == entries["torchvision:resnet50"].behaviour


def test_none_of_ours_is_taken_for_another():
    for name in architectures.NAMES:
        size = 28 if name.startswith("lenet") else 32
        found = Architecture(
            source="edgekd", name=name, channels=3, classes=10, height=size, width=size
        )
        with torch.device("meta"):
            shapes = shapes_of(architectures.build(found).state_dict())
        assert fingerprints.find_match(shapes) is None, name


def test_the_index_is_of_the_libraries_that_are_installed():
    made = fingerprints.load_index().made_with
    for library, version in made.items():
        try:
            here = metadata.version(library)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{library} is not installed")
        if here.partition("+")[0] != version.partition("+")[0]:
            pytest.skip(f"the index is of {library} {version}, here is {here}")
        assert any(name.startswith(f"{library}:") for name in fingerprints.load_index().entries)


def test_an_index_is_written_as_the_same_bytes(tmp_path):
    fingerprints.write_index(fingerprints.load_index(), tmp_path / "a.json.gz")
    packed = (resources.files("edgekd.distill.teachers") / fingerprints.FILE).read_bytes()
    assert json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes())) == json.loads(
        gzip.decompress(packed)
    )


def test_the_builder_tells_a_signature_and_behaviours_anew():
    pytest.importorskip("timm")
    names = ("timm:efficientnet_lite0", "timm:tf_efficientnet_lite0", "timm:resnet10t")
    built = [build_fingerprints.build(name, "classifier") for name in names]
    groups, entries = build_fingerprints.groups_of([each for each in built if each is not None])
    assert sorted(len(group.members) for group in groups) == [1, 2]
    shipped = fingerprints.load_index().entries
    assert {name: entries[name].configurations for name in names} == {
        name: shipped[name].configurations for name in names
    }
    assert entries[names[0]].behaviour != entries[names[1]].behaviour
