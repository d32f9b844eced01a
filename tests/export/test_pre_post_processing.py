import numpy as np
import onnx
import pytest

from edgekd.distill.data.labelled import normalise
from edgekd.errors import UsageError
from edgekd.export.compatibility import check_model
from edgekd.export.parity import logits_of, outputs_of
from edgekd.export.pre_post_processing import (
    add_parts,
    answers_for,
    inputs_for,
    parse_parts,
)
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.targets.catalogue import load_target

SOFTWARE = load_target("jetson").software


@pytest.fixture(scope="module")
def plain(tmp_path_factory, network):
    module, spec = network("resnet8-w4", channels=3)
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    write_fp32(module, spec=spec, software=SOFTWARE, out=path)
    return path, spec


@pytest.mark.parametrize(
    "parts",
    [
        ("preprocessing",),
        ("preprocessing", "bgr"),
        ("softmax",),
        ("top1",),
        ("preprocessing", "bgr", "softmax"),
        ("preprocessing", "top1"),
    ],
)
def test_the_graph_does_what_was_done_outside(plain, tmp_path, parts):
    path, spec = plain
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 3), np.uint8)
    images = normalise(pixels, spec)
    model = add_parts(onnx.load(path), parse_parts(parts), spec)
    onnx.checker.check_model(model, full_check=True)
    given = inputs_for(parts, pixels, images)
    answers = np.concatenate(
        [found[0] for _, found in outputs_of(model.SerializeToString(), given)]
    )
    expected = answers_for(parts, logits_of(path, images))
    assert answers.dtype == expected.dtype
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-4)
    onnx.save(model, tmp_path / "m.onnx")
    assert check_model(tmp_path / "m.onnx", SOFTWARE) == ()


def test_red_is_the_last_byte_of_bgr(plain):
    _, spec = plain
    pixels = np.zeros((1, 28, 28, 3), np.uint8)
    pixels[..., 0] = 255  # red, in RGB
    rgb = inputs_for(("preprocessing",), pixels, normalise(pixels, spec))
    bgr = inputs_for(("preprocessing", "bgr"), pixels, normalise(pixels, spec))
    assert rgb[0, 0, 0].tolist() == [255, 0, 0]
    assert bgr[0, 0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("parts", [("softmax", "top1"), ("bgr",), ("argmin",)])
def test_what_makes_no_sense_is_a_usage_error(parts):
    with pytest.raises(UsageError):
        parse_parts(parts)


def test_bytes_need_tensorrt_8_5(plain, tmp_path):
    path, spec = plain
    onnx.save(add_parts(onnx.load(path), ("preprocessing",), spec), tmp_path / "m.onnx")
    old = load_target("jetson-nano").software
    assert "element type" in {found.rule for found in check_model(tmp_path / "m.onnx", old)}
