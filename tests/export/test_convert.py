import hashlib
import math

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.errors import IncompatibleError, QualityError
from edgekd.export import convert, parity
from edgekd.export.model_metadata import precision_of
from edgekd.targets.catalogue import load_target

TARGET = load_target("jetson")


def test_records_say_what_the_files_are(tmp_path, network, images):
    module, spec = network("resnet8-w4")
    fp32 = convert.export_fp32(
        module,
        spec=spec,
        target=TARGET,
        out=tmp_path / "f.onnx",
        images=images(8),
        made_from="0" * 64,
    )
    int8 = convert.export_int8(
        tmp_path / "f.onnx",
        target=TARGET,
        out=tmp_path / "q.onnx",
        calibration=images(8),
        held_out=images(8, seed=1),
    )
    for record in (fp32, int8):
        data = (tmp_path / record.path).read_bytes()
        assert record.digest == hashlib.sha256(data).hexdigest()
        assert record.size_bytes == len(data)
        assert record.inputs[0].shape == (1, 1, 28, 28)
        assert record.outputs[0].shape == (1, 4)
        assert record.legal_for == (TARGET.id,)
        assert precision_of(tmp_path / record.path) == record.precision
    assert int8.made_from == fp32.digest
    assert fp32.parity.passed


class Different(nn.Module):
    """Answers otherwise when it is exported."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(28 * 28, 4)

    def forward(self, x):
        y = self.fc(x.flatten(1))
        return y + 1 if torch.compiler.is_exporting() else y


def test_a_file_that_answers_otherwise_is_refused(tmp_path, network, images):
    _, spec = network("lenet5-half")
    with pytest.raises(QualityError, match="does not answer as PyTorch"):
        convert.export_fp32(
            Different().eval().requires_grad_(False),
            spec=spec,
            target=TARGET,
            out=tmp_path / "f.onnx",
            images=images(8),
            made_from="0" * 64,
        )
    assert not list(tmp_path.iterdir())


def test_a_refused_model_leaves_the_old_one(tmp_path, images, fp32):
    out = tmp_path / "q.onnx"
    out.write_bytes(b"old")
    with pytest.raises(IncompatibleError, match="runs no INT8"):
        convert.export_int8(
            fp32,
            target=load_target("jetson-nano"),
            out=out,
            calibration=images(8),
            held_out=images(8),
        )
    # Legal for JetPack 6 only: opset 18 and its reductions.
    with pytest.raises(IncompatibleError, match="opset 18"):
        convert.export_int8(
            fp32,
            target=load_target("jetson@jp5.1"),
            out=out,
            calibration=images(8),
            held_out=images(8),
        )
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["q.onnx"]


def compared(candidate, reference, precision="fp32"):
    return parity.compare(
        np.array(candidate, np.float32),
        np.array(reference, np.float32),
        against="x",
        precision=precision,
    )


def test_parity_holds_up_to_its_tolerance_and_not_beyond():
    reference = [[10.0, 0.0]]
    assert compared([[10.0005, 0.0]], reference).passed
    assert not compared([[10.002, 0.0]], reference).passed


def test_nan_never_passes():
    assert not compared([[np.nan, 0.0]], [[1.0, 0.0]]).passed
    assert not compared([[np.nan, 0.0]], [[1.0, 0.0]], precision="int8").passed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_reference_that_is_nan_never_passes(precision):
    assert not compared([[1.0, 0.0]], [[np.nan, 0.0]], precision=precision).passed


def test_logits_of_other_classes_are_not_stretched_to_fit():
    with pytest.raises(QualityError, match=r"\(4, 1\), but \(4, 3\)"):
        compared(np.zeros((4, 1)), np.zeros((4, 3)), precision="int8")


def test_int8_is_judged_by_decisions():
    reference = np.eye(4).repeat(25, 0) * 10
    assert compared(reference * 0.7, reference, precision="int8").passed
    # 85 of 100 may be 90 % of more (90.58 % at most), 84 may not (89.74 %)
    wrong = reference.copy()
    wrong[:15] = wrong[:15, ::-1]
    assert compared(wrong, reference, precision="int8").passed
    wrong[15] = wrong[15, ::-1]
    assert not compared(wrong, reference, precision="int8").passed


@pytest.mark.parametrize(
    ("same", "images", "highest"),
    [
        # Where none agree 1 - (1 - p)^N = 0.95, where all but one do 1 - p^N = 0.05
        pytest.param(0, 1, 0.95, id="none of one"),
        pytest.param(0, 29, 1 - 0.05 ** (1 / 29), id="none of 29"),
        pytest.param(1, 2, 0.95**0.5, id="one of two"),
        pytest.param(69, 70, 0.95 ** (1 / 70), id="69 of 70"),
        pytest.param(5, 5, 1.0, id="all"),
    ],
)
def test_the_share_that_is_possible_is_the_exact_bound(same, images, highest):
    assert parity.highest_share(same, images) == pytest.approx(highest, abs=1e-9)


@pytest.mark.parametrize(("same", "images"), [(67, 70), (85, 100), (230, 256), (990, 1000)])
def test_of_the_share_that_is_possible_so_few_come_in_one_of_twenty(same, images):
    share = parity.highest_share(same, images)
    draws = (math.comb(images, k) * share**k * (1 - share) ** (images - k) for k in range(same + 1))
    assert sum(draws) == pytest.approx(0.05, rel=1e-6)


def flipped(count, *, of, precision):
    """Decisions that are close, and so many of them turned round by less than a logit's tolerance, compared."""
    by = 0.001
    reference = np.tile(np.array([[by, 0.0, -10.0]], np.float32), (of, 1))
    candidate = reference.copy()
    candidate[:count] = [[0.0, by, -10.0]]
    return compared(candidate, reference, precision)


@pytest.mark.parametrize(
    ("flips", "images", "passes"),
    [
        pytest.param(1, 70, True, id="one of 70 tells nothing of 99 percent"),
        pytest.param(2, 70, True, id="two of 70 do not either"),
        pytest.param(3, 70, False, id="three of 70 do"),
        pytest.param(1, 1, False, id="the only one"),
        pytest.param(30, 3000, True, id="99 percent of many"),
        pytest.param(60, 3000, False, id="98 percent of many"),
    ],
)
def test_agreement_fails_where_its_images_can_tell(flips, images, passes):
    assert flipped(flips, of=images, precision="fp16").passed is passes


@pytest.mark.parametrize(
    ("flips", "images", "passes"),
    [
        pytest.param(1, 1, False, id="the only one"),
        pytest.param(0, 1, True, id="one that is equal"),
        pytest.param(1, 2, False, id="one of two"),
        pytest.param(1, 9, False, id="one of nine"),
        pytest.param(3, 10, True, id="three of ten"),
        pytest.param(4, 10, False, id="four of ten"),
    ],
)
def test_where_logits_have_no_limit_a_few_images_must_all_agree(flips, images, passes):
    found = flipped(flips, of=images, precision="int8")
    assert found.passed is passes
    if images < parity.LEAST_IMAGES and not passes:
        assert "too few to tell; bring at least 10" in parity.format_highest(found)


def test_logits_have_their_limit_however_few_images_there_are():
    assert not compared([[10.0, 0.0]], [[9.0, 0.0]], precision="fp16").passed


def test_a_failure_says_how_much_is_possible():
    found = flipped(3, of=70, precision="fp16")
    with pytest.raises(QualityError, match=r"95\.71% of 70 images, so at most 98\.82% at 95 %"):
        parity.require_parity(found, what="m.onnx")


def test_a_failed_parity_is_raised_with_its_figures():
    with pytest.raises(QualityError, match=r"0\.00% of 1 images"):
        parity.require_parity(compared([[0.0, 1.0]], [[1.0, 0.0]]), what="m.onnx")


class Close(nn.Module):
    """Decides by differences between weights that half precision rounds away."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(28 * 28, 4)
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(self.fc.weight, mean=1.0, std=1e-4, generator=generator)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_half_precision_that_decides_otherwise_is_written_and_told_apart(tmp_path, network, images):
    _, spec = network("lenet5-half")
    target = load_target("jetson-thor-t5000")
    assert target.software.typing == "strong"
    convert.export_fp32(
        Close().eval(),
        spec=spec,
        target=target,
        out=tmp_path / "f.onnx",
        images=images(16),
        made_from="0" * 64,
    )
    found = convert.export_fp16(
        tmp_path / "f.onnx", target=target, out=tmp_path / "h.onnx", images=images(16)
    )
    assert not found.parity.passed
    assert found.digest == hashlib.sha256((tmp_path / "h.onnx").read_bytes()).hexdigest()
