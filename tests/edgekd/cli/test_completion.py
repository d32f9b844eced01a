"""Help and completion, as a shell sees them."""

import os
import shlex
import subprocess
import sys

import pytest

from edgekd.cli.framework import completion
from edgekd.cli.generate import commands as reference
from edgekd.distill.compute import device
from edgekd.distill.models import architectures

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "timm", "torchvision", "accelerate")


def completed(*words: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """What bash is answered for the last of these words."""
    environment = os.environ | {
        "_EDGEKD_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    return subprocess.run(
        [sys.executable, *python, "-m", "edgekd"], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("compress", "--target", "raspberry-pi-5"), ["raspberry-pi-5"]),
        (("targets", "show", "jets"), "jetson-orin-nano-8gb"),
        (("export", "-t", "jetson@jp6"), "jetson@jp6.2"),
        (("distill", "--recipe", ""), "pool"),
        (("distill", "--student", "lenet"), ["lenet5-half", "lenet5"]),
        (("compress", "--device", "c"), ["cpu", "cuda"]),
        (("doc",), ["doctor"]),
        (("compress", "--target", "no-such-board@"), []),
    ],
)
def test_names_are_completed(words, expected):
    found = completed("edgekd", *words).stdout.split()
    assert found == expected if isinstance(expected, list) else expected in found


@pytest.mark.parametrize("option", ["--target", "--student", "--recipe"])
def test_completion_brings_no_framework(option):
    imported = completed("edgekd", "compress", option, "", python=("-X", "importtime")).stderr
    names = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert "edgekd.cli" in names
    assert names.isdisjoint(HEAVY)


def test_bash_takes_the_script_that_is_printed():
    # The shell is found among the ancestors, and make's is another one.
    command = f"{shlex.quote(sys.executable)} -m edgekd --show-completion; exit $?"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert subprocess.run(["bash", "-n"], input=ran.stdout, text=True).returncode == 0
    assert "_EDGEKD_COMPLETE" in ran.stdout


def test_students_that_are_offered_are_those_that_there_are():
    assert ("auto", *architectures.NAMES) == completion.STUDENTS


def test_devices_that_are_offered_are_those_that_there_are():
    assert tuple(completion.devices("")) == device.DEVICES


@pytest.mark.parametrize("name", ["", "targets", "bundle", *reference.commands()])
def test_help_shows_examples_in_80_columns(name):
    ran = subprocess.run(
        [sys.executable, "-m", "edgekd", *name.split(), "--help"],
        env=os.environ | {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.strip() for line in ran.stdout.splitlines()]
    of_groups = {
        "": ("edgekd doctor",),
        "targets": ("edgekd targets list", "edgekd targets show jetson"),
        "bundle": ("edgekd bundle verify bundle",),
    }
    for example in (completion.EXAMPLES | of_groups)[name]:
        assert example in lines  # in one piece, brackets and all
