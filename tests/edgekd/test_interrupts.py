"""Stopped at any moment, a run loses nothing and ends the same."""

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.edgekd.conftest import TEACHER, edgekd_process

RUN = (
    # Small batches: the first checkpoint comes after the first images
    *("compress", TEACHER, "-t", "jetson", "--batch", "32"),
    *("--min-agreement", "0", "--no-bench", "--out", "b"),
)


def content_digest(folder: Path) -> str:
    return str(json.loads((folder / "b" / "manifest.json").read_text())["content_digest"])


def finished(folder: Path, *options: str) -> str:
    process = edgekd_process(*RUN, *options, cwd=folder)
    _, err = process.communicate(timeout=560)
    assert process.returncode == 0, err
    return err


def wait_for(path: Path, process, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_and_run_again_it_ends_with_the_same_digest(tmp_path):
    kill_and_compare(tmp_path, steps=150, kills=3, seed=20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_killed_a_dozen_times_it_still_ends_with_the_same_digest(tmp_path, seed):
    kill_and_compare(tmp_path, steps=1200, kills=12, seed=seed)


def kill_and_compare(tmp_path, *, steps, kills, seed):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    finished(whole, "--steps", str(steps))
    moments = random.Random(seed)
    for _ in range(kills):
        process = edgekd_process(*RUN, "--steps", str(steps), cwd=broken)
        try:
            process.wait(timeout=moments.uniform(3, 20))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        assert not (broken / "b").exists() or process.returncode == 0
        if process.returncode == 0:
            break
    else:
        finished(broken, "--steps", str(steps))
    assert content_digest(broken) == content_digest(whole)
    assert {path.name for path in broken.iterdir()} == {"b"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_the_same_command_goes_on(tmp_path, number, code):
    process = edgekd_process(*RUN, "--steps", "100000", cwd=tmp_path)
    # Until the loop runs there is nothing to save; its first checkpoint says that it does.
    wait_for(tmp_path / "b.run" / "state.pt", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    assert "same command continues" in err
    assert not (tmp_path / "b").exists()
    before = (tmp_path / "b.run" / "state.pt").stat().st_mtime_ns
    again = edgekd_process(*RUN, "--steps", "100000", cwd=tmp_path)
    while (tmp_path / "b.run" / "state.pt").stat().st_mtime_ns == before:
        assert again.poll() is None, again.communicate()[1]
        time.sleep(0.1)
    again.send_signal(number)
    _, err = again.communicate(timeout=200)
    assert "goes on from step" in err
    other = edgekd_process(*RUN, "--steps", "100001", cwd=tmp_path)
    _, err = other.communicate(timeout=200)
    assert other.returncode == 2
    assert "budget" in err
    assert "--restart" in err


@pytest.mark.slow
def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    first = edgekd_process(*RUN, "--steps", "100000", cwd=tmp_path)
    wait_for(tmp_path / "b.run" / "lock", first)
    second = edgekd_process(*RUN, "--steps", "100000", cwd=tmp_path)
    _, err = second.communicate(timeout=200)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another edgekd" in err
