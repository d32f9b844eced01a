"""Sets of images that are made ahead, grow, and are learned from."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from jsonschema import validate

from edgekd.files import digest_of
from edgekd.schemas import schema_text
from tests.edgekd.conftest import TEACHER, edgekd_process

# The pool with half of its batch and a third of its steps: what is tested here is the set, not its images.
QUICK = Path(__file__).with_name("quick-pool.toml")
SMALL = ("--device", "cpu", "--recipe", QUICK)


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """A set of 300 images, and what the command printed."""
    folder = tmp_path_factory.mktemp("set")
    process = edgekd_process(
        "synthesize", TEACHER, "--count", 300, "--out", "s", "--json", *SMALL, cwd=folder
    )
    out, err = process.communicate(timeout=560)
    assert process.returncode == 0, err
    return folder / "s", out, err


def copied(small_set, to):
    to.mkdir(exist_ok=True)
    for path in small_set[0].iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_set_says_what_it_is_and_is_balanced(small_set):
    folder, out, err = small_set
    record = json.loads(out)
    assert record == json.loads((folder / "set.json").read_text())
    validate(record, json.loads(schema_text("synthetic-set")))
    images, classes = np.load(folder / "images.npy"), np.load(folder / "classes.npy")
    assert (images.shape, images.dtype) == ((300, 28, 28, 1), np.uint8)
    assert record["coverage"]["class_histogram"] == np.bincount(classes, minlength=10).tolist()
    if not record["lacking"]:
        assert set(np.bincount(classes).tolist()) == {30}
    # Any beginning of the set is balanced as well.
    assert set(np.bincount(classes[:100]).tolist()) == {10}
    assert (folder / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert "reveal" in err
    assert not (folder.parent / "s.run").exists()


def test_the_classes_are_what_the_teacher_says_of_the_stored_images(small_set):
    import torch

    from edgekd.distill.data.labelled import normalise
    from edgekd.distill.teachers.loader import load_teacher
    from edgekd.distill.teachers.metadata import TeacherOptions

    teacher = load_teacher(TEACHER, TeacherOptions(), generator=torch.Generator().manual_seed(0))
    images, classes = (np.load(small_set[0] / f"{name}.npy") for name in ("images", "classes"))
    logits = teacher.module(torch.from_numpy(normalise(images, teacher.info.input)))
    assert (logits.argmax(1).numpy() == classes).mean() > 0.99  # batches differ in the last bits


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_set(small_set, tmp_path):
    command = ("synthesize", TEACHER, "--count", 300, "--out", "s", *SMALL)
    process = edgekd_process(*command, cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not (tmp_path / "s.run" / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "s").exists()
    again = edgekd_process(*command, cwd=tmp_path)
    _, err = again.communicate(timeout=560)
    assert again.returncode == 0, err
    assert "goes on from" in err
    for name in ("images.npy", "classes.npy", "set.json"):
        assert (tmp_path / "s" / name).read_bytes() == (small_set[0] / name).read_bytes()


@pytest.mark.slow
def test_an_extended_set_begins_with_what_was_there(edgekd, small_set, tmp_path):
    folder = copied(small_set, tmp_path / "s")
    code, out, err = edgekd(
        "synthesize", TEACHER, "--count", 360, "--out", folder, "--extend", "--json", *SMALL
    )
    assert code == 0, err
    before, after = np.load(small_set[0] / "images.npy"), np.load(folder / "images.npy")
    assert len(after) == 360
    assert (after[:300] == before).all()
    assert not (after[300:, None] == before[None]).all((2, 3, 4)).any()
    assert json.loads(out)["grown"] == [300, 360]


def test_a_set_that_is_large_enough_is_not_extended(edgekd, small_set, tmp_path):
    folder = copied(small_set, tmp_path / "s")
    code, _, err = edgekd(
        "synthesize", TEACHER, "--count", 300, "--out", folder, "--extend", *SMALL
    )
    assert code == 2
    assert "has 300 images already" in err


def test_a_set_is_not_overwritten_by_mistake(edgekd, small_set, tmp_path):
    folder = copied(small_set, tmp_path / "s")
    code, _, err = edgekd("synthesize", TEACHER, "--count", 10, "--out", folder, *SMALL)
    assert code == 2
    assert "--force" in err


def test_a_student_learns_from_a_set_and_its_bundle_says_so(edgekd, small_set, tmp_path):
    bundle = tmp_path / "b"
    code, out, err = edgekd(
        *("compress", TEACHER, "--target", "jetson", "--images", small_set[0], "--steps", 30),
        *("--min-agreement", 0, "--no-bench", "--out", bundle, "--json", *SMALL),
    )
    assert code == 0, err
    manifest = json.loads(out)["manifest"]
    used = manifest["data_used"]
    record = json.loads((small_set[0] / "set.json").read_text())
    assert used["kind"] == "none"
    assert used["digests"] == {"images.npy": record["digest"]}
    assert "set of 300" in used["statement"]
    assert "made ahead" in err
    # What is calibrated on is of the set, and what agreement is measured on is other images of it.
    images = {image.tobytes() for image in np.load(small_set[0] / "images.npy")}
    calibration = {image.tobytes() for image in np.load(bundle / "calibration.npy")}
    held_out = {image.tobytes() for image in np.load(bundle / "held-out.npy")}
    assert calibration | held_out <= images
    assert not calibration & held_out
    assert len(held_out) >= 64


def test_int8_is_calibrated_on_a_set_when_it_is_told_to(edgekd, made, small_set, tmp_path):
    code, _, err = edgekd(
        "export", made[0], "--target", "jetson", "--images", small_set[0], "--out", tmp_path / "o"
    )
    assert code in {0, 4}, err  # so few steps: INT8 may not decide as FP32
    models = json.loads((tmp_path / "o" / "models.json").read_text())["models"]
    held_out = len(np.load(small_set[0] / "images.npy")) - models[1]["calibration"]["images"]
    assert models[1]["calibration"]["held_out_images"] == (held_out + 1) // 2  # the others judge


@pytest.mark.slow
def test_a_run_from_a_set_gives_the_same_student_when_it_is_killed(small_set, tmp_path):
    def command(name):
        return (
            *("distill", TEACHER, "--images", small_set[0], "--steps", 240, "--out", name),
            *SMALL,
        )

    whole = edgekd_process(*command("whole"), cwd=tmp_path)
    _, err = whole.communicate(timeout=560)
    assert whole.returncode == 0, err
    process = edgekd_process(*command("killed"), cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not (tmp_path / "killed.run" / "state.pt").exists() and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
    process.communicate()
    if not (tmp_path / "killed").exists():
        again = edgekd_process(*command("killed"), cwd=tmp_path)
        _, err = again.communicate(timeout=560)
        assert again.returncode == 0, err
    name = "student.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


# --- bad input --------------------------------------------------------------------------------------


def distilled(edgekd, tmp_path, folder, *more):
    return edgekd(
        "distill", TEACHER, "--images", folder, "--steps", 4, "--out", tmp_path / "o", *SMALL, *more
    )


def test_a_changed_image_is_an_integrity_failure(edgekd, small_set, tmp_path):
    folder = copied(small_set, tmp_path / "s")
    content = bytearray((folder / "images.npy").read_bytes())
    content[-1] ^= 1
    (folder / "images.npy").write_bytes(bytes(content))
    code, _, err = distilled(edgekd, tmp_path, folder)
    assert code == 7
    assert "images.npy" in err


def test_a_set_of_another_teacher_is_refused(edgekd, small_set, tmp_path):
    folder = copied(small_set, tmp_path / "s")
    record = json.loads((folder / "set.json").read_text())
    record["teacher_digest"] = "0" * 64
    (folder / "set.json").write_text(json.dumps(record))
    code, _, err = distilled(edgekd, tmp_path, folder)
    assert code == 2
    assert "another teacher" in err


def test_a_set_for_other_inputs_is_refused(edgekd, small_set, tmp_path):
    code, _, err = distilled(edgekd, tmp_path, small_set[0], "--mean", "0.5")
    assert code == 2
    assert "other inputs" in err


def test_a_folder_that_is_no_set_is_explained(edgekd, tmp_path):
    (tmp_path / "s").mkdir()
    code, _, err = distilled(edgekd, tmp_path, tmp_path / "s")
    assert code == 2
    assert "edgekd synthesize" in err


def test_a_set_too_small_to_learn_from_is_explained(edgekd, small_set, tmp_path):
    folder = copied(small_set, tmp_path / "s")
    record = json.loads((folder / "set.json").read_text()) | {"count": 20}
    for name, key in (("images.npy", "digest"), ("classes.npy", "classes_digest")):
        np.save(folder / name, np.load(folder / name)[:20])
        record[key] = digest_of(folder / name)
    (folder / "set.json").write_text(json.dumps(record))
    code, _, err = distilled(edgekd, tmp_path, folder)
    assert code == 2
    assert "20 images; a student needs 256 at least" in err


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "student"}'])
def test_a_damaged_record_is_explained(edgekd, small_set, tmp_path, text):
    folder = copied(small_set, tmp_path / "s")
    (folder / "set.json").write_text(text)
    code, _, err = distilled(edgekd, tmp_path, folder)
    assert code == 2
    assert "set.json" in err
