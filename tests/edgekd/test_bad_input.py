"""Each bad input has its message and code, and leaves nothing behind."""

import fcntl
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.edgekd.conftest import IMAGES, TEACHER

TOML = TEACHER.with_suffix(".toml")


class Call:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def refused(edgekd, tmp_path, *arguments, code=2):
    """Run compress, expect a code, and nothing left but what was there."""
    before = sorted(path.name for path in tmp_path.iterdir())
    found, out, err = edgekd(*arguments, "--out", tmp_path / "b")
    assert found == code, err
    assert out == ""
    assert "Traceback" not in err
    after = sorted(path.name for path in tmp_path.iterdir())
    assert after == before
    return err


@pytest.fixture
def teacher(tmp_path):
    """A copy of the demo's teacher, with its description, to damage."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    shutil.copy(TEACHER, folder / "teacher.pt")
    shutil.copy(TOML, folder / "teacher.toml")
    return folder / "teacher.pt"


@pytest.mark.parametrize("form", ["raw", "zip"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(edgekd, tmp_path, form):
    planted = tmp_path / "planted.pt"
    target = tmp_path / "created"
    if form == "raw":
        planted.write_bytes(pickle.dumps(Call(target)))
    else:
        torch.save({"state_dict": Call(target)}, planted)
    err = refused(edgekd, tmp_path, "compress", planted, "-t", "jetson")
    assert "refused" in err
    assert not target.exists()


def test_truncated_teachers_are_named(edgekd, tmp_path, teacher):
    teacher.write_bytes(teacher.read_bytes()[:50_000])
    assert "cut short" in refused(edgekd, tmp_path, "compress", teacher, "-t", "jetson")


def test_empty_teachers_are_named(edgekd, tmp_path, teacher):
    teacher.write_bytes(b"")
    assert "empty" in refused(edgekd, tmp_path, "compress", teacher, "-t", "jetson")


def test_nan_weights_are_named(edgekd, tmp_path, teacher):
    state = torch.load(teacher, weights_only=True)
    state["state_dict"]["fc.weight"][0, 0] = float("nan")
    torch.save(state, teacher)
    assert "fc.weight" in refused(edgekd, tmp_path, "compress", teacher, "-t", "jetson")


def test_weights_that_fit_no_architecture_are_named(edgekd, tmp_path, teacher):
    torch.save({"a.weight": torch.zeros(4, 3, 3, 3), "b.weight": torch.zeros(2, 4)}, teacher)
    err = refused(edgekd, tmp_path, "compress", teacher, "-t", "jetson")
    assert "do not fit --arch" in err
    assert "not in the network" in err


def test_everything_that_is_missing_is_asked_for_at_once(edgekd, tmp_path, teacher):
    teacher.with_suffix(".toml").unlink()
    err = refused(edgekd, tmp_path, "compress", teacher, "-t", "jetson")
    assert all(option in err for option in ("--input", "--mean", "--std"))


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--input", "3x28x28", "channels"),
        ("--input", "28x28", "3x32x32"),
        ("--classes", "100", "classes"),
        ("--mean", "0.1,0.2", "--mean"),
        ("--std", "0", "std"),
        ("--mean", "a", "numbers"),
        ("--student", "resnet9", "Did you mean"),
        ("--recipe", "poll", "recipe"),
        ("--device", "tpu", "--device"),
        ("--threads", "0", "--threads"),
        ("--steps", "0", "--steps"),
        ("--minutes", "-1", "--minutes"),
        ("--arch", "resnet56", "do not fit"),
        ("--arch", "hub:x", "timm:NAME"),
    ],
)
def test_options_that_make_no_sense_are_explained(edgekd, tmp_path, option, value, word):
    assert word in refused(edgekd, tmp_path, "compress", TEACHER, "-t", "jetson", option, value)


def test_both_budgets_are_refused(edgekd, tmp_path):
    err = refused(
        edgekd, tmp_path, "compress", TEACHER, "-t", "jetson", "--steps", 9, "--minutes", 1
    )
    assert "give one" in err


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        (("compress", "-t", "jetson"), "b.run"),
        (("distill",), "b.run"),
        (("synthesize", "--count", "8"), "b.run"),
        (("search", "-t", "jetson", "--restart"), "b.search"),
    ],
)
def test_a_run_that_another_process_is_working_on_is_refused_at_once(
    edgekd, tmp_path, monkeypatch, command, folder
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir()
    with (tmp_path / folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # There is no such teacher: nothing was looked at
        code, _, err = edgekd(command[0], "no.pt", *command[1:], "--out", "b")
    assert code == 2
    assert "another edgekd" in err
    assert (tmp_path / folder / "lock").exists()


def test_an_unknown_target_suggests_the_nearest(edgekd, tmp_path):
    err = refused(edgekd, tmp_path, "compress", TEACHER, "-t", "jetson-orin-nono-8gb")
    assert "jetson-orin-nano-8gb" in err


def test_cuda_where_there_is_none_is_a_missing_tool(edgekd, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    refused(edgekd, tmp_path, "compress", TEACHER, "-t", "jetson", "--device", "cuda", code=3)


@pytest.mark.parametrize(
    "what", ["shape", "labels", "length", "keys", "float", "garbage", "absent"]
)
def test_evaluation_sets_that_do_not_fit_are_refused_before_the_run(edgekd, tmp_path, what):
    images = np.zeros((4, 28, 28, 1), np.uint8)
    labels = np.arange(4)
    path = tmp_path / "eval.npz"
    if what == "garbage":
        path.write_bytes(b"PK\x03\x04nothing")
    elif what == "keys":
        np.savez(path, x=images)
    elif what != "absent":
        images = np.zeros((4, 32, 32, 3), np.uint8) if what == "shape" else images
        images = images.astype(np.float32) if what == "float" else images
        labels = labels + 8 if what == "labels" else labels
        labels = labels[:3] if what == "length" else labels
        np.savez(path, images=images, labels=labels)
    err = refused(edgekd, tmp_path, "compress", TEACHER, "-t", "jetson", "--eval", path)
    assert "eval.npz" in err


def test_an_output_that_exists_is_refused_without_force(edgekd, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious").write_text("mine")
    err = refused(edgekd, tmp_path, "compress", TEACHER, "-t", "jetson")
    assert "--force" in err
    assert (tmp_path / "b" / "precious").read_text() == "mine"


def test_an_output_below_a_file_is_refused(edgekd, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = edgekd("compress", TEACHER, "-t", "jetson", "--out", tmp_path / "file" / "b")
    assert code == 2, err
    assert "--out" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_in_a_read_only_folder_is_refused(edgekd, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = edgekd("compress", TEACHER, "-t", "jetson", "--out", tmp_path / "b")
    tmp_path.chmod(0o700)
    assert code == 2, err
    assert "cannot be written" in err


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(full)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system can't be mounted here")
    try:
        result = subprocess.run(
            [sys.executable, "-m", "edgekd", "compress", TEACHER, "-t", "jetson", "--steps", "3",
             "--no-bench", "--min-agreement", "0", "--out", full / "b"],
            capture_output=True, text=True, timeout=560,
        )  # fmt: skip
        left = sorted(path.name for path in full.iterdir())
        partial = [path.name for path in full.rglob("*") if ".tmp-" in path.name]
    finally:
        subprocess.run(["umount", str(full)], check=True)
    assert result.returncode == 2, result.stderr
    assert "disk is full" in result.stderr
    assert left == ["b.run"]
    assert partial == []


def test_bad_options_exit_2_with_usage(edgekd):
    code, out, err = edgekd("compress", TEACHER, "--no-such-option")
    assert (code, out) == (2, "")
    assert "--no-such-option" in err


def test_an_evaluation_folder_and_idx_files_are_read(tmp_path):
    from PIL import Image

    from edgekd.distill.data.labelled import load_labelled
    from edgekd.records import InputSpec

    spec = InputSpec(channels=1, height=28, width=28, mean=(0.0,), std=(1.0,))
    data = np.load(IMAGES)
    images, labels = data["images"][:20], data["labels"][:20]
    for number in range(10):
        (tmp_path / "set" / str(number)).mkdir(parents=True)
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image[..., 0]).save(tmp_path / "set" / str(label) / f"{place:02}.png")
    found = load_labelled(tmp_path / "set", spec=spec, classes=10)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(found.images, images[order])
    np.testing.assert_array_equal(found.labels, labels[order])
    idx = tmp_path / "x-images-idx3-ubyte"
    idx.write_bytes(
        bytes([0, 0, 8, 3]) + np.array(images.shape[:3], ">u4").tobytes() + images.tobytes()
    )
    labels_file = tmp_path / "x-labels-idx1-ubyte"
    labels_file.write_bytes(
        bytes([0, 0, 8, 1]) + np.array([20], ">u4").tobytes() + labels.tobytes()
    )
    np.testing.assert_array_equal(load_labelled(idx, spec=spec, classes=10).images, images)


def test_a_teacher_that_answers_every_image_alike_is_refused(edgekd, tmp_path):
    state = torch.load(TEACHER, weights_only=True)["state_dict"]
    torch.save({name: torch.zeros_like(part) for name, part in state.items()}, tmp_path / "dead.pt")
    code, _, err = edgekd(
        *(
            "distill",
            tmp_path / "dead.pt",
            "--arch",
            "resnet14-w12",
            "--input",
            "1x28x28",
            "--mean",
            "0.1307",
        ),
        *("--std", "0.3081", "--steps", "4", "--device", "cpu", "--out", tmp_path / "student"),
    )
    assert code == 2
    assert "answers every image alike" in err
    assert not (tmp_path / "student").exists()
