"""A student that is the teacher is nowhere apart from it; one that is a part of it is compared where it was cut."""

import copy

import pytest
import torch
from torch import nn

from edgekd.distill.models import architectures, networks
from edgekd.distill.pruning.plan_cut import CutPlanner
from edgekd.distill.training.feature_hints import FeatureHints
from edgekd.records import Architecture, CutRequest

AT = Architecture(source="edgekd", name="resnet20", channels=3, classes=10, height=32, width=32)


def teacher():
    made = architectures.build(AT)
    networks.initialise(made, generator=torch.Generator().manual_seed(0))
    return made.eval().requires_grad_(False)


def images(count):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def loss(student, whole, cut):
    hints = FeatureHints(student, whole, cut, images(1))
    with hints.watch():
        whole(images(4))
        student(images(4))
    return hints, hints.loss()


def test_the_teacher_itself_is_not_apart():
    whole = teacher()
    hints, found = loss(copy.deepcopy(whole), whole, None)
    assert [hint.name for hint in hints.hints] == ["layer1", "layer2", "layer3"]
    assert float(found) == 0.0


def test_a_part_is_compared_with_the_channels_that_it_kept():
    whole = teacher()
    planner = CutPlanner(whole, architecture=AT, teacher_digest="0" * 64)
    cut = planner.plan(CutRequest(measure="width", share=0.5))
    student = planner.apply(cut)
    hints, _ = loss(student, whole, cut)
    kept = cut.layers["layer3.2.bn2"].outputs
    assert kept is not None
    assert hints.hints[-1].kept.tolist() == list(kept)
    masked = copy.deepcopy(student)
    with torch.no_grad():
        for part in masked.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.zero_()
                part.bias.zero_()
    # What says nothing is apart by the teacher's whole power, which is its variance and more
    assert float(loss(masked, whole, cut)[1]) >= 1.0


def test_gradients_go_to_the_student_alone():
    whole = teacher().requires_grad_(True)
    student = copy.deepcopy(whole)
    with torch.no_grad():
        student.conv1.weight += 0.1
    _, found = loss(student, whole, None)
    found.backward()
    assert student.conv1.weight.grad.abs().sum() > 0
    assert whole.conv1.weight.grad is None


def test_networks_that_share_no_map_have_no_hints():
    other = Architecture(source="edgekd", name="vgg11", channels=3, classes=10, height=32, width=32)
    hints = FeatureHints(architectures.build(other), teacher(), None, images(1))
    assert hints.hints == []
    with pytest.raises(RuntimeError):
        hints.loss()
