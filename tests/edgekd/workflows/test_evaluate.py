import json

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from edgekd.bench.analysis.statistics import share_interval
from edgekd.workflows.evaluate import calibration_error, never_right, result
from tests.edgekd.conftest import IMAGES, TEACHER

LABELS = np.array([0, 0, 1, 1, 2, 2])
# Class 2 is taken for 0 twice; the rest is right, with the same confidence everywhere.
LOGITS = np.array(
    [[2, 0, 0], [2, 0, 0], [0, 2, 0], [0, 2, 0], [2, 0, 0], [2, 0, 0]], dtype=np.float32
)


def test_the_figures_of_a_model_are_those_worked_out_by_hand():
    found = result("m", LOGITS, LABELS, np.roll(LOGITS, 2, axis=0))
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.per_class == (1.0, 1.0, 0.0)
    assert [(c.truth, c.taken_for, c.images) for c in found.confusions] == [(2, 0, 2)]
    assert found.agreement_with_first == pytest.approx(2 / 6)
    confidence = np.exp(2) / (np.exp(2) + 2)
    assert found.mean_confidence == pytest.approx(confidence)
    assert found.calibration_error == pytest.approx(abs(4 / 6 - confidence))


def test_a_class_without_images_has_no_accuracy():
    assert result("m", LOGITS[:4], LABELS[:4], LOGITS[:4]).per_class == (1.0, 1.0, None)


def test_a_class_that_the_student_never_finds_and_its_teacher_does_is_named_with_its_images():
    labels = np.array([0, 0, 1, 1, 1, 2])
    teacher = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 0, 3]]
    student = np.eye(4, dtype=np.float32)[[0, 1, 0, 0, 0, 3]]
    # Nobody finds class 2, and of class 3 there is no image
    assert never_right(student, teacher, labels, None) == {"1": 3}
    assert never_right(student, teacher, labels, ("a", "b", "c", "d")) == {"b": 3}
    assert never_right(teacher, teacher, labels, None) == {}


def test_calibration_error_weighs_bins_by_their_images():
    confidence = np.array([0.95, 0.95, 0.95, 0.55])
    right = np.array([True, True, True, False])
    assert calibration_error(confidence, right) == pytest.approx(0.75 * 0.05 + 0.25 * 0.55)


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [(1.0, 10, 0.7225, 1.0), (0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775)],
)
def test_intervals_are_those_of_published_tables(share, count, low, high):
    assert share_interval(share, count) == pytest.approx((low, high), abs=1e-3)


def test_teacher_student_and_onnx_stand_beside_one_another(made, edgekd):
    bundle, _, _ = made
    code, out, err = edgekd("eval", TEACHER, bundle, "--eval", IMAGES, "--json")
    assert code == 0, err
    found = json.loads(out)
    teacher, student, fp32, int8 = found["results"]
    assert teacher["accuracy"] == pytest.approx(0.997)
    assert teacher["agreement_with_first"] == 1.0
    reported = json.loads((bundle / "report.json").read_text())["evaluation"]["results"]
    expected = {each["model"]: each["accuracy"] for each in reported}
    assert student["accuracy"] == pytest.approx(expected["student"])
    assert fp32["accuracy"] == pytest.approx(expected["fp32"])
    assert int8["accuracy"] == pytest.approx(expected["int8"])


def test_a_table_names_the_models(made, edgekd):
    bundle, _, _ = made
    code, out, err = edgekd("eval", bundle / "model-int8.onnx", bundle, "--eval", IMAGES)
    assert code == 0, err
    assert out.count("model-int8.onnx") == 4  # named and from the bundle, in table and details
    assert "most confused" in out


def test_onnx_alone_does_not_say_how_images_are_normalised(made, edgekd):
    bundle, _, _ = made
    code, _, err = edgekd("eval", bundle / "model-fp32.onnx", "--eval", IMAGES)
    assert code == 2
    assert "mean and standard deviation" in err


def test_a_changed_bundle_is_not_evaluated(made, edgekd, tmp_path):
    import shutil

    copy = tmp_path / "b"
    shutil.copytree(made[0], copy)
    (copy / "student.safetensors").write_bytes(b"x")
    assert edgekd("eval", copy, "--eval", IMAGES)[0] == 7


def test_a_folder_that_is_neither_student_nor_bundle_is_said(tmp_path, edgekd):
    code, _, err = edgekd("eval", tmp_path, "--eval", IMAGES)
    assert code == 2
    assert "student.json" in err


def test_a_folder_of_timms_hub_is_a_teacher(tmp_path, edgekd):
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    (tmp_path / "f").mkdir()
    save_file(network.state_dict(), tmp_path / "f" / "model.safetensors")
    images = {"input_size": [1, 28, 28], "mean": [0.5], "std": [0.25]}
    config = {"architecture": "test_resnet", "num_classes": 10, "pretrained_cfg": images}
    (tmp_path / "f" / "config.json").write_text(json.dumps(config))
    code, out, err = edgekd("eval", tmp_path / "f", "--eval", IMAGES, "--json")
    assert code == 0, err
    assert json.loads(out)["results"][0]["model"] == str(tmp_path / "f")
