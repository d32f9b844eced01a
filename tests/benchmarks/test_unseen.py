"""Teachers that no one tuned to: what is listed, how their images come to be, and what a row says of a run."""

import json

import numpy as np
import torch

from benchmarks.distill.unseen import (
    FASHION_64,
    MNIST_32,
    OF_BUNDLE,
    TEACHERS,
    fit,
    last_error,
    list_teachers,
    read_bundle,
)

SAID = """$ edgekd compress resnet10t.pt
images of 3x32x32

edgekd: quality gate failed:
  agreement: 61.00%, at least 90.00% is asked.
$ exit code 4 after 241 s
"""


def test_every_teacher_is_listed_on_a_line_of_its_own():
    lines = list_teachers().splitlines()
    assert [line.split()[0] for line in lines] == list(TEACHERS)
    assert len(lines) >= 10


def test_grey_images_are_padded_then_enlarged_and_repeated():
    images = np.full((2, 28, 28, 1), 200, np.uint8)
    small, large = fit(images, MNIST_32), fit(images, FASHION_64)
    assert small.shape == (2, 3, 32, 32)
    assert large.shape == (2, 3, 64, 64)
    assert small.dtype == large.dtype == torch.uint8
    assert bool((small[:, :, :2] == 0).all())
    assert bool((small[:, :, 2:30, 2:30] == 200).all())
    assert bool((large[:, :, 5:59, 5:59] == 200).all())
    assert MNIST_32.mean == (0.1307,) * 3


def test_a_row_says_what_the_bundle_says(tmp_path):
    network = {"source": "timm", "name": "resnet10t", "cut": "cut:macs=0.25"}
    student = {
        "architecture": network, "initial_weights": "cut", "recipe": "pool", "agreement": 0.9125,
        "parameters": 1000, "macs": 2000, "steps": 30,
    }  # fmt: skip
    results = [
        {"model": "teacher", "accuracy": 0.9, "agreement_with_teacher": 1.0},
        {"model": "student", "accuracy": 0.85, "agreement_with_teacher": 0.875},
    ]
    taught = {"parameters": 4000, "macs": 8000}
    write(tmp_path / "manifest.json", {"teacher": taught, "student": student})
    write(
        tmp_path / "report.json",
        {"elapsed_s": 240.04, "history": [{"images": 64}], "evaluation": {"results": results}},
    )
    for code in (0, 4, 5):
        found = read_bundle(tmp_path, code=code)
        assert tuple(found) == OF_BUNDLE
        assert found["student"] == "timm:resnet10t cut:macs=0.25"
        assert found["accuracy"] == "0.8500"
        assert found["int8_accuracy"] == ""
        assert found["agreement_held_out"] == "0.9125"
        assert found["agreement_test"] == "0.8750"
        assert (found["teacher_macs"], found["macs"]) == (8000, 2000)
        assert (found["steps"], found["images"], found["seconds"]) == (30, 64, "240.0")
    # Without a bundle, or with one of an earlier run
    nothing = dict.fromkeys(OF_BUNDLE, "")
    assert read_bundle(tmp_path, code=2) == read_bundle(tmp_path / "none", code=4) == nothing


def test_a_failure_is_told_by_what_the_command_line_said_last():
    failed = "edgekd: quality gate failed: agreement: 61.00%, at least 90.00% is asked."
    assert last_error(SAID) == failed
    assert last_error("$ edgekd\nKilled\n$ exit code -9 after 3 s\n") == "Killed"
    assert last_error("$ edgekd\n$ exit code -9 after 3 s\n") == ""


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
