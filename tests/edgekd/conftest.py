"""Whole runs are made once and looked at by many tests."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test() -> Iterator[None]:
    """A test that fails would leave a run of hours to the tests after it."""
    yield
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def edgekd_process(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """The same in a process of its own, for signals."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekd", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(process)
    return process


SHORT_RUN = (
    *("--target", "jetson", "--steps", "40", "--batch", "64"),
    *("--min-agreement", "0", "--eval", str(IMAGES)),
)


@contextlib.contextmanager
def shared_folder(tmp_path_factory, name: str) -> Iterator[Path]:
    """A folder that all of pytest's workers share, held while one of them fills it."""
    base = tmp_path_factory.getbasetemp()
    # A worker of xdist has a folder of its own below the run's.
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / f"shared-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> tuple[Path, str, str]:
    """A bundle of a very short run with everything in it, and what the command printed."""
    with shared_folder(tmp_path_factory, "made") as folder:
        printed = folder / "printed.json"
        if not printed.exists():
            (folder / "run").mkdir(exist_ok=True)
            process = edgekd_process(
                "compress", TEACHER, *SHORT_RUN, "--out", "b", "--json", cwd=folder / "run"
            )
            out, err = process.communicate(timeout=560)
            assert process.returncode == 0, err
            printed.write_text(json.dumps([out, err]))
        out, err = json.loads(printed.read_text())
    return folder / "run" / "b", out, err
