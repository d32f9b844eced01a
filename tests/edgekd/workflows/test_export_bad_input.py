"""What goes into an export or a check and should not: each has its message and code, and leaves nothing."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.edgekd.conftest import IMAGES, TEACHER
from tests.edgekd.making import models_of, write_set, write_student


def refused(edgekd, tmp_path, source, *words, target="jetson"):
    """The exit code and message of an export that writes nothing."""
    code, out, err = edgekd("export", source, "-t", target, "--out", tmp_path / "o", *words)
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "o").exists()
    assert not [path.name for path in tmp_path.iterdir() if ".tmp-" in path.name]
    return code, err


def test_weights_that_are_not_finite_are_named(edgekd, tmp_path):
    def spoil(state):
        next(iter(state.values())).view(-1)[0] = float("nan")

    student = write_student(tmp_path / "s", change=spoil)
    code, err = refused(edgekd, tmp_path, student)
    assert code == 2
    assert "NaN" in err
    assert "weight" in err


def test_values_that_fp16_cannot_hold_stay_fp32_and_are_named(edgekd, tmp_path):
    def enlarge(state):
        next(iter(state.values())).mul_(1e6)

    student = write_student(tmp_path / "s", change=enlarge)
    code, _, err = edgekd("export", student, "-t", "jetson-thor-t5000", "--out", tmp_path / "o")
    found = models_of(tmp_path / "o")
    assert code == 0, err
    assert "FP16 cannot hold" in err
    assert found["fp16"]["fp32_nodes"]
    assert found["fp16"]["fp32_nodes"][0] in err
    assert found["fp16"]["parity"]["passed"]
    model = onnx.load(tmp_path / "o" / "model-fp16.onnx")
    kept = {node.name: node for node in model.graph.node}
    constants = {entry.name: entry.data_type for entry in model.graph.initializer}
    for name in found["fp16"]["fp32_nodes"]:
        halves = {constants.get(each) for each in kept[name].input} & {TensorProto.FLOAT16}
        assert not halves, name


@pytest.mark.parametrize("option", [("--keep-fp16", "0.1")])
def test_int8_that_a_board_does_not_run_is_refused_with_fp16_instead(edgekd, tmp_path, option):
    student = write_student(tmp_path / "s")
    code, err = refused(edgekd, tmp_path, student, *option, target="jetson-nano")
    assert code == 8
    assert "Jetson Nano 4GB runs no INT8 under jp4.6" in err
    assert "--fp16" in err


def test_tuning_that_a_board_has_no_use_for_is_refused_before_hours_are_spent(edgekd, tmp_path):
    code, _, err = edgekd(
        *("compress", TEACHER, "-t", "jetson-tx2", "--tune", 10, "--out", tmp_path / "b")
    )
    assert code == 8
    assert "runs no INT8" in err
    assert not list(tmp_path.iterdir())


def test_calibration_images_of_another_shape_are_refused(edgekd, tmp_path):
    student = write_student(tmp_path / "s")
    np.save(student / "calibration.npy", np.zeros((64, 32, 32, 3), np.uint8))
    code, err = refused(edgekd, tmp_path, student)
    assert code == 2
    assert "calibration.npy: uint8 of shape (64, 32, 32, 3)" in err
    assert "(28, 28, 1)" in err


def test_a_set_for_another_input_is_refused(edgekd, tmp_path):
    with np.load(IMAGES) as found:
        made = write_set(tmp_path / "set", found["images"], TEACHER)
    said = ("--mean", "0.5", "--std", "0.5", "--images", made)
    code, _, err = edgekd(
        *("export", "--teacher", TEACHER, "-t", "jetson", *said, "--out", tmp_path / "o")
    )
    assert code == 2
    assert "made for other inputs" in err
    assert not (tmp_path / "o").exists()


# --- any ONNX file --------------------------------------------------------------------------------


def judged(edgekd, path, *words):
    code, out, err = edgekd("export", "check", path, *words)
    assert "Traceback" not in err
    return code, out, err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>404</html>", b"\x00" * 1000])
@pytest.mark.parametrize("command", [("export", "check"), ("bench",)])
def test_what_is_not_onnx_is_said_so(edgekd, tmp_path, content, command):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    code, out, err = edgekd(*command, path)
    assert (code, out) == (2, "")
    assert "ONNX model" in err


def test_a_file_that_is_not_there_is_said_so(edgekd, tmp_path):
    code, _, err = judged(edgekd, tmp_path / "m.onnx")
    assert code == 2
    assert "m.onnx: cannot be read: No such file" in err


@pytest.mark.parametrize(
    "command",
    [("export", "check"), ("bench",), ("eval", TEACHER)],
    ids=["check", "bench", "eval"],
)
def test_a_file_over_2_gib_is_refused_without_reading_it(edgekd, tmp_path, command):
    path = tmp_path / "large.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31 + 1)  # sparse: no disk, and nobody should read it
    images = ("--eval", IMAGES) if command[0] == "eval" else ()
    code, out, err = edgekd(*command, path, *images)
    assert (code, out) == (2, "")
    assert "at most 2 GiB" in err


@pytest.fixture
def parted(tmp_path):
    """A model whose weights should lie beside it, and do not."""
    weight = numpy_helper.from_array(np.ones((4, 1, 28, 28), np.float32), "w")
    shapes = (("images", [1, 1, 28, 28]), ("logits", [1, 4, 1, 1]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    node = helper.make_node("Conv", ["images", "w"], ["logits"], name="n")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    return path


def test_weights_that_are_not_there_are_missed_by_name(edgekd, parted):
    code, out, _ = judged(edgekd, parted, "--target", "jetson")
    assert code == 8
    assert "m.data, which is not beside it" in out
    for command in (("bench", parted), ("eval", TEACHER, parted, "--eval", IMAGES)):
        code, out, err = edgekd(*command)
        assert (code, out) == (2, ""), err
        assert "m.data, which holds its weights, is not beside it" in err
