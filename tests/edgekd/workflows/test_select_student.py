"""Which student `auto` takes, and what it begins with."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from edgekd.distill.models.student_choice import size_of
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import IncompatibleError, UsageError
from edgekd.workflows.select_student import MOST_FEWER, BoardCosts, select_student
from tests.edgekd.conftest import TEACHER


@pytest.fixture(scope="module")
def teacher():
    return load_teacher(TEACHER, TeacherOptions(), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def select(teacher):
    def call(asked="auto", of=teacher, *, from_scratch=False, **costs):
        said: list[str] = []
        board = BoardCosts(**costs)
        found = select_student(
            asked, of, seed=0, from_scratch=from_scratch, board=board, say=said.append
        )
        return found, "\n".join(said)

    return call


def names(worth):
    """What is asked of each candidate, in order."""
    asked: list[str] = []

    def judge(student):
        asked.append(str(student.architecture))
        return worth(student)

    return asked, judge


def test_auto_leaves_a_quarter_of_the_macs_and_says_what_others_cost(select):
    found, _ = select()
    assert str(found.architecture) == "resnet14-w12 cut:macs=0.25"
    assert found.initial_weights == "cut"
    assert "larger: cut:macs=0.5" in found.reason
    assert "smaller: cut:macs=0.125" in found.reason


def test_what_gains_on_the_board_goes_before_what_may(select):
    def gains(student):
        return "gains" if "depth" in student.architecture.cut else "unsure"

    found, said = select(worth=gains)
    assert found.architecture.cut == "cut:macs=0.25,depth=0.5"
    assert "beyond doubt" not in said
    found, said = select(worth=lambda _: "unsure")
    assert found.architecture.cut == "cut:macs=0.25"
    assert "beyond doubt" in said


def macs_of(student):
    return size_of(student.build(), shape=(1, 28, 28)).macs


def test_the_largest_part_within_a_latency_is_found_and_named_by_its_share(select, teacher):
    # A board that takes a second for all of the teacher's multiply-accumulates
    found, said = select(
        "cut:latency=250ms", latency=lambda student: macs_of(student) / teacher.info.macs
    )
    assert 0.2 * teacher.info.macs < macs_of(found) <= 0.25 * teacher.info.macs
    assert found.reason.startswith(
        "of the parts that were tried, the largest that takes no more than 250 ms"
    )
    assert str(found.architecture) in said
    # The same without a board
    again, _ = select(found.architecture.cut)
    assert again.cut.layers == found.cut.layers


def test_a_latency_that_all_of_the_teacher_keeps_is_refused(select):
    with pytest.raises(UsageError, match=r"all of the teacher takes 1\.00 ms"):
        select("cut:latency=2ms", latency=lambda _: 1e-3)


def test_a_latency_that_no_part_keeps_is_refused_with_what_the_fastest_takes(select):
    with pytest.raises(UsageError, match=r"tried takes 3\.00 ms"):
        select("cut:latency=2ms", latency=lambda _: 3e-3)


def test_what_cannot_be_estimated_is_passed_over_and_a_board_without_estimates_refused(select):
    def latency(student):
        if macs_of(student) < 1e6:
            raise IncompatibleError("no estimate for so small a network")
        return macs_of(student) / 1e6

    with pytest.raises(UsageError, match="no part of the teacher is that fast"):
        select("cut:latency=0.5s", latency=latency)

    def never(_):
        raise IncompatibleError("no estimates for this board")

    with pytest.raises(IncompatibleError, match="for this board"):
        select("cut:latency=2ms", latency=never)


def test_a_latency_without_a_board_is_refused(select):
    with pytest.raises(UsageError, match="--target"):
        select("cut:latency=2ms")


def test_channels_are_left_in_the_multiples_that_the_board_likes(select):
    kept = {
        multiple: [
            len(layer.outputs)
            for layer in select("cut:0.6", channel_multiple=multiple)[0].cut.layers.values()
            if layer.outputs
        ]
        for multiple in (1, 8)
    }
    # Of 48 channels
    assert 29 in kept[1]
    assert 29 not in kept[8]
    assert {each % 4 for each in kept[8] if each > 16} == {0}


def test_where_every_part_costs_too_much_a_network_by_name_is_taken(select):
    asked, judge = names(lambda student: "too costly" if student.architecture.cut else "unsure")
    found, _ = select(worth=judge)
    assert [name for name in asked if "cut:" in name] == [
        f"resnet14-w12 cut:macs={share}" for share in ("0.25", "0.25,depth=0.5", "0.125,depth=0.5")
    ]
    assert found.architecture.cut == ""
    assert found.initial_weights == "drawn"


def test_from_scratch_nothing_is_cut_and_nothing_is_too_small(select, teacher):
    found, _ = select(from_scratch=True)
    assert found.initial is None
    parameters = sum(part.numel() for part in found.build().parameters())
    assert parameters * MOST_FEWER >= teacher.info.parameters


def of_source(teacher, source):
    architecture = replace(teacher.info.architecture, source=source, name="program")
    return replace(teacher, info=replace(teacher.info, architecture=architecture))


def test_a_teacher_that_no_name_builds_is_cut_and_names_inherit_nothing(select, teacher):
    other = of_source(teacher, "pt2")
    assert str(select(of=other)[0].architecture) == "pt2:program cut:macs=0.25"
    assert select("resnet8-w12", other)[0].initial_weights == "drawn"


def test_a_script_is_not_cut(select, teacher):
    found, said = select(of=of_source(teacher, "torchscript"))
    assert found.architecture.cut == ""
    assert "a script shows its answers alone" in said


class Stubborn(nn.Module):
    """More than a quarter of it lies between reshapes to numbers of channels that are written in the code."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 64, 3, padding=1)
        self.second = nn.Conv2d(64, 16, 3, padding=1)
        self.fixed = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, images):
        maps = _split(self.second(self.first(images).relu()).relu())
        maps = _split(self.fixed(maps).relu())
        return self.head(self.third(maps).relu().mean((2, 3)))


def _split(maps):
    count, _, height, width = maps.shape
    return maps.view(count, 2, 8, height, width).flatten(1, 2)


def test_of_a_network_that_keeps_more_than_a_quarter_a_half_is_left(select, teacher):
    network = Stubborn().eval().requires_grad_(False)
    found, said = select(of=replace(of_source(teacher, "file"), module=network))
    assert str(found.architecture) == "file:program cut:macs=0.5"
    assert "that is already" in said


def test_a_network_of_the_family_begins_with_what_fits(select, teacher):
    found, _ = select("resnet8-w12")
    assert found.initial_weights == "inherited"
    assert found.initial.statistics
    theirs = teacher.module.state_dict()
    for name, tensor in found.build().state_dict().items():
        assert torch.equal(tensor, theirs[name])
    assert select("resnet8-w4")[0].initial_weights == "drawn"
