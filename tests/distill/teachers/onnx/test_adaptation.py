"""ONNX teachers in other forms than edgekd's, against ONNX Runtime on the file as it is."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import InputFileError, UsageError

SIDE, KINDS = 8, 5
TURN = helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2])
FLOATS = helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT)
SCALE = helper.make_node("Div", ["floats", "k255"], ["nchw"])
SOFTMAX = helper.make_node("Softmax", ["z"], ["out"], axis=1)
PARTS = (
    helper.make_node("ReduceMax", ["z"], ["top"], axes=[1], keepdims=1),
    helper.make_node("Sub", ["z", "top"], ["low"]),
    helper.make_node("Exp", ["low"], ["raised"]),
    helper.make_node("ReduceSum", ["raised", "one"], ["total"], keepdims=1),
    helper.make_node("Div", ["raised", "total"], ["out"]),
)


def save(path, *, shape, before=(), after=(), kind=TensorProto.FLOAT, out=None, extra=()):
    """A small convolutional classifier between operators of choice."""
    generator = np.random.default_rng(0)
    numbers = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    weights = {
        "w": generator.normal(0, 0.5, (4, 3, 3, 3)).astype(numbers),
        "fw": generator.normal(0, 2, (4, KINDS)).astype(numbers),
        "k255": np.array(255, np.float32),
        "one": np.array([1]),
        "half": np.array(0.5, np.float32),
        "true": np.array(True),
    }
    nodes = [
        *before,
        helper.make_node("Conv", ["nchw" if before else "images", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        *extra,
        helper.make_node("GlobalAveragePool", ["noisy" if extra else "r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "fw"], ["z" if after else "out"], name="fc"),
        *after,
    ]
    answer = TensorProto.FLOAT16 if kind == TensorProto.FLOAT16 else out or TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("out", answer, ["N", KINDS] if out is None else ["N"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


NCHW, NHWC = ("N", 3, SIDE, SIDE), ("N", SIDE, SIDE, 3)
BYTES_NHWC = (FLOATS, helper.make_node("Div", ["floats", "k255"], ["unit"]))
TURN_UNIT = helper.make_node("Transpose", ["unit"], ["nchw"], perm=[0, 3, 1, 2])
FORMS: dict[str, dict[str, Any]] = {
    "nhwc": {"shape": NHWC, "before": (TURN,)},
    "nhwc-one-by-one": {"shape": (1, SIDE, SIDE, 3), "before": (TURN,)},
    "nhwc-softmax": {"shape": NHWC, "before": (TURN,), "after": (SOFTMAX,)},
    "nhwc-open": {"shape": ("N", "h", "w", 3), "before": (TURN,)},
    "nhwc-all-open": {"shape": ("N", "h", "w", "c"), "before": (TURN,)},
    "softmax-in-parts": {"shape": NCHW, "after": PARTS},
    "half": {"shape": NCHW, "kind": TensorProto.FLOAT16},
    "half-nhwc": {"shape": NHWC, "kind": TensorProto.FLOAT16, "before": (TURN,)},
    "bytes": {"shape": NCHW, "kind": TensorProto.UINT8, "before": (FLOATS, SCALE)},
    "bytes-nhwc": {
        "shape": NHWC,
        "kind": TensorProto.UINT8,
        "before": (*BYTES_NHWC, TURN_UNIT),
    },
}


def load(path, **stated):
    return load_teacher(path, TeacherOptions(**stated), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_answers_as_the_file_does(tmp_path, form):
    path = save(tmp_path / "t.onnx", **FORMS[form])
    bare = "bytes" in form
    stated = {} if bare else {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    teacher = load(path, input=(3, SIDE, SIDE), **stated)
    assert teacher.info.input.shape == (3, SIDE, SIDE)
    pixels = np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    pixels //= np.array([1, 2, 4], np.uint8)
    given = pixels if bare else (pixels / 255).astype("float16" if "half" in form else "float32")
    given = given if "nhwc" in form else given.transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(path)
    expected = np.concatenate([session.run(None, {"images": each[None]})[0] for each in given])
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    found = teacher.module(images)
    if "softmax" in form:
        found = found.softmax(1)
    tolerance = 2e-2 if "half" in form else 1e-4
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)
    notes = " ".join(teacher.info.notes)
    assert ("(N, H, W, C)" in notes) == ("nhwc" in form)
    assert ("0..255" in notes) == bare
    assert ("softmax" in notes) == ("softmax" in form)


def test_bytes_are_not_normalised_before(tmp_path):
    path = save(tmp_path / "t.onnx", **FORMS["bytes"])
    with pytest.raises(UsageError, match="leave out --mean"):
        load(path, mean=(0.5,) * 3, std=(0.5,) * 3)


def noise(kind, inputs, **attributes):
    made = helper.make_node(kind, inputs, ["noise"], name="shaker", **attributes)
    return (made, helper.make_node("Add", ["r", "noise"], ["noisy"]))


DROPPED = helper.make_node("Dropout", ["r", "half", "true"], ["noisy"], name="dropper")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        pytest.param(noise("RandomNormalLike", ["r"]), r"RandomNormalLike, shaker", id="normal"),
        pytest.param(
            noise("RandomUniform", [], shape=[1, 4, 1, 1]), "RandomUniform, shaker", id="uniform"
        ),
        pytest.param((DROPPED,), r"Dropout \(dropper\) is in training mode", id="dropout"),
    ],
)
def test_graphs_that_are_random_are_refused_by_name(tmp_path, extra, said):
    path = save(tmp_path / "t.onnx", shape=NCHW, extra=extra)
    with pytest.raises(InputFileError, match=said) as caught:
        load(path, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert caught.value.exit_code == 2


def test_classes_alone_are_refused_as_such(tmp_path):
    top = helper.make_node("ArgMax", ["z"], ["out"], axis=1, keepdims=0)
    path = save(tmp_path / "t.onnx", shape=NCHW, after=(top,), out=TensorProto.INT64)
    with pytest.raises(InputFileError, match="int64: the class alone"):
        load(path)
