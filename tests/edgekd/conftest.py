"""Whole runs are made once and looked at by many tests."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.cli.app import app, run

REPOSITORY = Path(__file__).parents[2]
TEACHER = REPOSITORY / "examples" / "mnist" / "teacher.pt"
IMAGES = REPOSITORY / "examples" / "mnist" / "test-1000.npz"


@pytest.fixture
def edgekd(capfd) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process: its exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(lambda: app([str(part) for part in arguments], standalone_mode=False))
        out, err = capfd.readouterr()
        return code, out, err

    return call


def edgekd_process(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """The same in a process of its own, for signals."""
    return subprocess.Popen(
        [sys.executable, "-m", "edgekd", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SHORT_RUN = (
    *("--target", "jetson", "--steps", "40", "--batch", "64"),
    *("--min-agreement", "0", "--eval", str(IMAGES)),
)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> tuple[Path, str, str]:
    """A bundle of a very short run with everything in it, and what the command printed."""
    folder = tmp_path_factory.mktemp("made")
    process = edgekd_process("compress", TEACHER, *SHORT_RUN, "--out", "b", "--json", cwd=folder)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return folder / "b", out, err
