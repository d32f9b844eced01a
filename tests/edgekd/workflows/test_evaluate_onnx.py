"""ONNX classifiers as they come: their input's form and their answers, against one oracle."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.pre_post_processing import add_parts, parse_parts
from edgekd.records import InputSpec

KINDS, SIDE = 6, 8
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SPEC = InputSpec(channels=3, height=SIDE, width=SIDE, mean=MEAN, std=STD)
STATED = ("--mean", "0.4,0.5,0.6", "--std", "0.2,0.3,0.25")
WEIGHTS = np.random.default_rng(0).normal(0, 4, (3, KINDS)).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(0, 256, (40, SIDE, SIDE, 3)).astype(np.uint8)
# Colours apart, so that the order of channels shows
IMAGES //= np.array([1, 2, 3], np.uint8)
LABELS = np.arange(40) % KINDS


def graph(ends=(), shape=("N", 3, SIDE, SIDE), before=(), kind=TensorProto.FLOAT):
    """A linear classifier of mean colours; `ends` are operators after its logits."""
    names = ["logits", *(f"end{place}" for place in range(len(ends)))]
    nodes = [
        *before,
        helper.make_node("GlobalAveragePool", ["nchw" if before else "images"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        *(
            helper.make_node(end, [names[place]], [names[place + 1]], axis=1)
            for place, end in enumerate(ends)
        ),
    ]
    weights = WEIGHTS.astype(helper.tensor_dtype_to_np_dtype(kind))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info(names[-1], kind, ["N", KINDS])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def probabilities():
    """The oracle, (N, K), by numpy alone."""
    pixels = (IMAGES / 255 - np.array(MEAN)) / np.array(STD)
    logits = pixels.mean((1, 2)) @ WEIGHTS
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


@pytest.fixture
def images(tmp_path):
    np.savez(tmp_path / "test.npz", images=IMAGES, labels=LABELS)
    return tmp_path / "test.npz"


TURN = helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2])
OPEN = ("N", None, None, 3)
FORMS = {
    "plain": graph(),
    "softmax": graph(["Softmax"]),
    "log-softmax": graph(["LogSoftmax"]),
    "half": graph(kind=TensorProto.FLOAT16),
    "nhwc": graph(shape=("N", SIDE, SIDE, 3), before=[TURN]),
    "open": graph(shape=OPEN, before=[TURN]),
    "one-by-one": graph(shape=(1, 3, SIDE, SIDE)),
    **{
        "-".join(parts): add_parts(graph(), parse_parts(parts), SPEC)
        for parts in (
            *(("preprocessing",), ("preprocessing", "bgr")),
            *(("softmax",), ("preprocessing", "softmax")),
        )
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file_has_the_figures_of_the_oracle(edgekd, tmp_path, images, form):
    onnx.save(FORMS[form], tmp_path / "m.onnx")
    size = ("--input", f"3x{SIDE}x{SIDE}") if form == "open" else ()
    code, out, err = edgekd("eval", tmp_path / "m.onnx", "--eval", images, *STATED, *size, "--json")
    assert code == 0, err
    found = json.loads(out)
    (result,) = found["results"]
    expected = probabilities()
    assert result["accuracy"] == (expected.argmax(1) == LABELS).mean()
    tolerance = 2e-2 if form == "half" else 1e-4
    assert result["mean_confidence"] == pytest.approx(expected.max(1).mean(), abs=tolerance)
    notes = " ".join(found["notes"])
    assert ("are probabilities" in notes) == ("softmax" in form and "log" not in form)
    assert ("pixels of 0..255" in notes) == ("preprocessing" in form)


def test_files_that_answer_with_classes_alone_are_refused(edgekd, tmp_path, images):
    onnx.save(add_parts(graph(), ("top1",), SPEC), tmp_path / "m.onnx")
    code, _, err = edgekd("eval", tmp_path / "m.onnx", "--eval", images, *STATED)
    assert code == 2
    assert "classes alone" in err


def test_an_open_size_is_asked_for(edgekd, tmp_path, images):
    onnx.save(FORMS["open"], tmp_path / "m.onnx")
    code, _, err = edgekd("eval", tmp_path / "m.onnx", "--eval", images, *STATED)
    assert code == 2
    assert "--input" in err
