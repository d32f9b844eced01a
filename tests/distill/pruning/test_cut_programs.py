"""Cuts of networks that no library builds again: of a user's own code, of `.pt2` files and of ONNX files."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

from edgekd.distill.pruning.plan_cut import CutPlanner
from edgekd.distill.teachers.onnx.loader import load_onnx
from edgekd.distill.teachers.pt2.loader import load_program
from edgekd.distill.teachers.pt2.writer import check_program, write_program
from edgekd.errors import UsageError
from edgekd.records import Architecture, CutRequest

SHAPE = (3, 32, 32)
HALF = CutRequest(measure="width", share=0.5)


def drawn(network):
    """With statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.state_dict()["running_mean"].normal_(0, 0.1, generator=generator)
            part.state_dict()["running_var"].uniform_(0.5, 1.5, generator=generator)
    return network.eval().requires_grad_(False)


class Own(nn.Module):
    """A user's network: a residual block, group normalisation, PReLU."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.first = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.PReLU(32)
        )
        self.second = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(4, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, images):
        maps = self.stem(images)
        maps = functional.relu(maps + self.second(self.first(maps)))
        return self.head(functional.adaptive_avg_pool2d(maps, 1).flatten(1))  # fmt: skip


def planner(network):
    architecture = Architecture(
        source="file", name="net.py:make", channels=3, classes=10, height=32, width=32
    )
    return CutPlanner(network, architecture=architecture, teacher_digest="0" * 64)


def images(count=4):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def as_program(network, folder):
    write_program(network, folder / "teacher.pt2", shape=SHAPE)
    return load_program(folder / "teacher.pt2")


def as_onnx(network, folder):
    path = folder / "teacher.onnx"
    torch.onnx.export(
        network,
        (torch.zeros(2, *SHAPE),),
        str(path),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    return load_onnx(path)


def as_it_is(network, _):
    return network


def resnet18():
    return torchvision.models.resnet18(num_classes=10)


@pytest.mark.parametrize(
    ("make", "through"),
    [(Own, as_it_is), (Own, as_program), (resnet18, as_program), (resnet18, as_onnx)],
)
def test_a_part_is_read_again_from_its_program(tmp_path, make, through):
    network = through(drawn(make()), tmp_path)
    found = planner(network)
    cut = found.plan(HALF)
    student = found.apply(cut).eval()
    write_program(student, tmp_path / "student.pt2", shape=SHAPE)
    read = load_program(tmp_path / "student.pt2")
    read.load_state_dict(student.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(read(images()), student(images()), rtol=1e-4, atol=1e-5)
    assert found.size(cut).parameters < 0.9 * found.whole.parameters


def test_an_uncut_program_answers_as_the_network(tmp_path):
    network = drawn(Own())
    read = as_program(network, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(read(images()), network(images()))
    assert {type(part) for part in read.modules()} >= {nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.PReLU, nn.Linear}  # fmt: skip


def test_a_program_names_no_file_of_this_machine_and_is_the_same_twice(tmp_path):
    network = drawn(Own())
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_program(copy.deepcopy(network), tmp_path / name / "student.pt2", shape=SHAPE)
    first, second = ((tmp_path / name / "student.pt2").read_bytes() for name in ("a", "b"))
    assert first == second
    assert b"test_cut_programs.py" not in first
    assert str(tmp_path).encode() not in first


def test_a_layer_whose_weights_are_used_twice_stays_a_call(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(3, 3, 3, padding=1)
            self.two = nn.Conv2d(3, 10, 3)

        def forward(self, given):
            return self.two(self.one(self.one(given))).mean((2, 3))

    network = drawn(Twice())
    read = as_program(network, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(read(images()), network(images()))
    assert not isinstance(read.get_submodule("one"), nn.Conv2d)
    assert isinstance(read.get_submodule("two"), nn.Conv2d)


class Fixed(nn.Module):
    """Half of it reshapes to numbers of channels that are written in the code."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 64, 3, padding=1)
        self.narrow = nn.Conv2d(64, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 64, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, given):
        maps = functional.relu(self.narrow(functional.relu(self.wide(given))))
        count, _, height, width = maps.shape
        maps = maps.view(count, 2, 16, height, width).flatten(1, 2)
        return self.head(functional.relu(self.last(maps)).mean((2, 3)))


def test_what_cannot_be_cut_by_itself_is_left_whole():
    found = planner(drawn(Fixed()))
    cut = found.plan(HALF)
    student = found.apply(cut)
    assert (student.wide.out_channels, student.narrow.out_channels, student.last.out_channels) == (32, 32, 32)  # fmt: skip
    assert student(images()).shape == (4, 10)


def test_slopes_that_a_converter_keeps_apart_from_their_layer_are_not_cut(tmp_path):
    network = as_onnx(drawn(Own()), tmp_path)
    with pytest.raises(
        UsageError, match=r"net\.py:make cannot be cut: what is left does not fit together"
    ):
        planner(network).plan(HALF)


def test_networks_that_stay_as_they_are_are_refused_by_name():
    with pytest.raises(UsageError, match="at least one step of channels"):
        planner(drawn(timm.create_model("ghostnet_050", num_classes=10))).plan(
            CutRequest(measure="macs", share=0.01)
        )
    with pytest.raises(UsageError, match="cannot be traced"):
        planner(drawn(torchvision.models.shufflenet_v2_x0_5(num_classes=10)))


def test_a_network_that_torch_export_cannot_follow_is_refused_in_a_line(capfd):
    class Data(Own):
        def forward(self, given):
            found = super().forward(given)
            return found if float(found.sum()) > 0 else found * 2

    with pytest.raises(UsageError, match=r"torch\.export cannot follow"):
        check_program(drawn(Data()), shape=SHAPE)
    assert capfd.readouterr() == ("", "")
