"""Networks that no exporter can write are refused in words, whichever exporter the board needs."""

import pytest
import torch
from torch import nn

from edgekd.errors import IncompatibleError
from edgekd.export.convert import export_fp32
from edgekd.export.parity import logits_of
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.records import InputSpec
from edgekd.targets.catalogue import load_target

SPEC = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
EXPORTERS = ["jetson@jp5.1", "jetson@jp6.2"]


class Undecided(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Counting(nn.Module):
    def forward(self, x):
        while x.abs().max() > 1:
            x = x / 2
        return x.flatten(1)


class Sized(nn.Module):
    """Decides by sizes, which are the same for every image."""

    def forward(self, x):
        y = x.flatten(1)
        return y[:, :4] if x.shape[-1] > 4 else y


class Spectral(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x @ x.transpose(2, 3)).flatten(1)


def written(module, target, tmp_path):
    software = load_target(target).software
    write_fp32(module.eval(), spec=SPEC, software=software, out=tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("target", EXPORTERS)
@pytest.mark.parametrize("network", [Undecided, Counting])
def test_a_network_that_decides_by_values_is_refused_in_words(tmp_path, network, target):
    with pytest.raises(IncompatibleError, match="decides by the values") as caught:
        written(network(), target, tmp_path)
    assert "torch.where" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", EXPORTERS)
def test_a_network_that_decides_by_sizes_is_written(tmp_path, images, target):
    found = logits_of(written(Sized(), target, tmp_path), images(2, size=8))
    assert found.shape == (2, 4)


@pytest.mark.parametrize("target", EXPORTERS)
def test_an_operator_without_an_onnx_form_is_named(tmp_path, target, capfd):
    with pytest.raises(IncompatibleError, match=r"torch's operator aten\W+\w*eig\w*") as caught:
        written(Spectral(), target, tmp_path)
    assert "TensorRT that reads it: none" in str(caught.value)
    assert capfd.readouterr() == ("", "")  # torch would show the whole graph


def test_a_form_of_an_operator_that_cannot_be_written_is_named_with_the_board_s_software(tmp_path):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten())
    with pytest.raises(IncompatibleError, match=r"torch's operator adaptive_avg_pool2d") as caught:
        written(network, "jetson@jp5.1", tmp_path)
    assert "TensorRT 8.5.2" in str(caught.value)
    assert "Please feel free" not in str(caught.value)


class Determined(nn.Module):
    def forward(self, x):
        return torch.linalg.det(x) @ torch.ones(1, 4)


class Smooth(nn.Module):
    def forward(self, x):
        return nn.functional.interpolate(x, size=(2, 2), mode="bicubic").flatten(1)


@pytest.mark.parametrize(
    ("network", "words"),
    [(Determined, "Det is read by no TensorRT"), (Smooth, "Resize: no mode cubic")],
)
def test_what_can_be_written_and_not_be_read_is_named_with_its_version(
    tmp_path, images, network, words
):
    target = load_target("jetson@jp6.2")
    with pytest.raises(IncompatibleError, match=words):
        export_fp32(
            network().eval(),
            spec=SPEC,
            target=target,
            out=tmp_path / "m.onnx",
            images=images(2, size=8),
            made_from="0" * 64,
        )
    assert not list(tmp_path.iterdir())


def test_weights_that_no_file_holds_are_refused_before_they_are_written(tmp_path):
    with torch.device("meta"):  # sizes alone, no memory
        module = nn.Linear(2**15, 2**15)
    with pytest.raises(IncompatibleError, match=r"4\.0 GiB of weights"):
        written(module, "jetson", tmp_path)
