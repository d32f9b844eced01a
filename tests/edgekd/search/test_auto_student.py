"""`--student auto` asks the estimator where it can."""

from typing import Any

import pytest
import torch

from edgekd.bench.estimator.estimate import estimate_latency
from edgekd.bench.estimator.graph_cost import network_of
from edgekd.distill.models import architectures, student_choice
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.export.torch_to_onnx import fp32_model
from edgekd.progress import PlainDisplay
from edgekd.records import Architecture, InputSpec
from edgekd.search.auto_student import time_gained
from edgekd.targets.catalogue import load_target

SPEC = InputSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
SHAPE: dict[str, Any] = {"channels": 3, "height": 32, "width": 32, "classes": 10}


def network(name) -> Architecture:
    return Architecture(source="edgekd", name=name, **SHAPE)


def drawn(name):
    return student_choice.StudentVariant(architecture=network(name), reason="")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.save(architectures.build(network("resnet20-w16")).state_dict(), path)
    said = TeacherOptions(
        arch="resnet20-w16", input=(3, 32, 32), classes=10, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    return load_teacher(path, said, generator=torch.Generator().manual_seed(0))


def latency(name, target):
    model = fp32_model(
        architectures.build(network(name)).eval(), spec=SPEC, software=target.software
    )
    return estimate_latency(network_of(model, origin=name), target, "fp16")


@pytest.mark.parametrize("name", ["resnet8-w8", "resnet32-w8", "resnet56-w4"])
def test_a_student_gains_nothing_where_the_estimate_is_within_the_interval_of_the_teachers(
    teacher, name, capsys
):
    target = load_target("jetson-agx-xavier")
    found, limit = latency(name, target), latency("resnet20-w16", target)
    expected = "gains" if found.value < limit.interval[0] else "unsure"
    if found.value > limit.value:
        expected = "too costly"
    assert time_gained(teacher, target, PlainDisplay())(drawn(name)) == expected
    said = capsys.readouterr().err
    assert f"not measured: {name}" in said


def test_a_board_without_an_estimate_says_so_and_nothing_is_slower(teacher, capsys):
    worth = time_gained(teacher, load_target("jetson-tx2"), PlainDisplay())
    assert "chosen by its size alone" in capsys.readouterr().err
    assert worth(drawn("resnet56-w4")) == "gains"


def test_a_deep_student_that_would_be_slower_is_passed_over():
    size = student_choice.Size(parameters=10**7, macs=10**9)
    first = student_choice.choose_student("auto", teacher=network("resnet20-w16"), size=size)
    other = student_choice.choose_student(
        "auto",
        teacher=network("resnet20-w16"),
        size=size,
        too_costly=lambda student: student == first.architecture,
    )
    assert other.architecture != first.architecture
    assert f"{first.architecture.name} would cost the board too much" in other.reason
