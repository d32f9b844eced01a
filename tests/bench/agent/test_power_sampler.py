import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import boards
from edgekd.bench import agent
from edgekd.bench.agent import energy, power_sampler
from edgekd.bench.agent import sensor as sensor_types
from edgekd.bench.agent.sensor import Channel, sensor_of
from tests.bench.agent.test_engine_build import old_python

FOLDER = Path(agent.__file__).parent
PERIOD_S = 0.1


class Clock:
    """Seconds that pass when somebody waits, or when a read takes them."""

    def __init__(self):
        self.ns = 5 * 10**9

    def __call__(self):
        return self.ns

    def wait(self, seconds):
        self.ns += round(seconds * 1e9)
        return False


def sensor(read, period_s=PERIOD_S):
    channels = [Channel("rail", "mW", 0.0, [], 0.0, None)]
    return sensor_of("s", "s", "power", channels, interval_s=0.01, period_s=period_s, read=read)


def taken(read, seconds=10.0, **changes):
    clock = Clock()

    def timed():
        clock.ns += 1_000_000
        return read(clock)

    return power_sampler.take(sensor(timed, **changes), clock.wait, seconds, clock)


def test_readings_are_stamped_before_and_after():
    found = taken(lambda clock: [(None, clock.ns)])
    for begin, end, value in zip(
        found["begin_ns"], found["end_ns"], found["values"][0], strict=True
    ):
        assert end - begin == 1_000_000
        assert value == end


def test_every_slot_has_its_reading_at_another_place():
    found = taken(lambda _: [(None, 1.0)])
    assert len(found["begin_ns"]) in {99, 100}
    slots = [(begin - 5 * 10**9) / 1e9 / PERIOD_S for begin in found["begin_ns"]]
    assert [int(slot + 1e-6) for slot in slots] == list(range(len(slots)))
    # Spread evenly: each tenth of the period has its share, give or take one or two.
    places = [int((slot + 1e-6) % 1 * 10) for slot in slots]
    assert all(7 <= places.count(place) <= 13 for place in range(10))
    assert found["missed"] == 0


def test_a_slow_read_costs_slots_and_is_not_caught_up_with():
    def slow(clock):
        clock.ns += 350_000_000
        return [(None, 1.0)]

    found = taken(slow)
    assert 20 <= len(found["begin_ns"]) <= 30
    assert found["missed"] >= 60
    assert len(found["begin_ns"]) + found["missed"] <= 104


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENODATA])
def test_a_busy_driver_is_asked_again(code):
    tries = []

    def read():
        tries.append(1)
        if len(tries) < power_sampler.TRIES:
            raise OSError(code, "busy")
        return [(None, 7.0)]

    pauses: list[float] = []
    assert power_sampler.read_patiently(read, pauses.append) == [(None, 7.0)]
    assert len(pauses) == power_sampler.TRIES - 1


def test_a_driver_that_stays_busy_costs_a_reading_and_no_more():
    calls = []

    def read(_):
        calls.append(1)
        if len(calls) % 20 < 5:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return [(None, 7.0)]

    found = taken(read)
    assert found["dropped"] >= 3
    assert found["problems"] == ["[Errno 11] Resource temporarily unavailable"]
    assert len(found["begin_ns"]) == len(found["values"][0]) > 80


@pytest.mark.parametrize("problem", [OSError(errno.ENODEV, "gone"), ValueError("not a number: ''")])
def test_a_sensor_that_breaks_is_a_problem_and_no_zero(problem):
    def read(_):
        raise problem

    found = taken(read, seconds=1.0)
    assert found["values"] == [[]]
    assert found["dropped"] >= 9
    assert found["problems"] == [str(problem)]


def test_the_sampler_has_a_core_for_itself_where_the_model_leaves_one():
    assert energy.share_processors({0, 1, 2, 3}, threads=2) == (3, {0, 1, 2})
    assert energy.share_processors({0, 1}, threads=2) == (None, {0, 1})
    assert energy.share_processors({5}, threads=1) == (None, {5})


# --- as a process ---------------------------------------------------------------------------------


@pytest.fixture
def trees(tmp_path):
    boards.jetson(tmp_path / "sys", tmp_path / "proc", boards.JETSONS["orin-nx"], driver="hwmon")
    places = {"sysfs": "sys", "proc": "proc", "root": "root"}
    return [word for name, to in places.items() for word in (f"--{name}", str(tmp_path / to))]


def said(done) -> dict[str, Any]:
    return {each["event"]: each for each in map(json.loads, done.stdout.splitlines())}


def archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as stream:
        for source in FOLDER.glob("*.py"):
            stream.write(source, source.name)
    return path


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_power_is_sampled_under_the_python_of_boards(trees, version):
    command = [old_python(version), "-S", FOLDER / "__main__.py", "sample", "--seconds", "0.3"]
    found = said(subprocess.run([*command, *trees], capture_output=True, text=True, check=True))
    assert found["sensor"]["name"] == "INA3221 VDD_IN"
    assert len(found["power"]["begin_ns"]) >= 5
    assert "end" in found


def test_it_ends_when_the_one_that_started_it_does(trees):
    command = [
        sys.executable,
        str(FOLDER / "__main__.py"),
        "sample",
        "--until-closed",
        "--seconds",
        "60",
    ]
    process = subprocess.Popen(
        [*command, *trees], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert json.loads(process.stdout.readline())["event"] == "hello"
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()


def test_it_stays_on_the_core_that_it_was_given(trees):
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, str(FOLDER / "__main__.py"), "sample", "--seconds", "0.1"]
    done = subprocess.run(
        [*command, *trees, "--core", str(core)], capture_output=True, text=True, check=True
    )
    assert "power" in said(done)


@pytest.mark.parametrize("form", ["folder", "archive", "file"])
def test_a_model_is_run_while_another_process_reads_the_sensor(tmp_path, trees, model, form):
    entry = FOLDER / "__main__.py"
    if form == "folder":
        entry = tmp_path / "agent"
        shutil.copytree(FOLDER, entry, ignore=shutil.ignore_patterns("__pycache__"))
    if form == "archive":
        entry = archive(tmp_path / "agent.pyz")
    quick = ["--seconds", "0.2", "--windows", "2", "--idle-seconds", "0.2", "--warmup-max-s", "0.1"]
    done = subprocess.run(
        [sys.executable, entry, "energy", "--model", model, *trees, *quick, "--warmup-min-s", "0"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    found = said(done)
    assert found["sensor"]["name"] == "INA3221 VDD_IN"
    first, last = found["power"]["begin_ns"][0], found["power"]["end_ns"][-1]
    run = found["energy"]
    assert first < run["idle"][0]["begin_ns"]
    assert run["idle"][1]["end_ns"] < last
    assert all(window["runs"] > 0 for window in run["windows"])
    assert run["busy"]["begin_ns"] < run["windows"][0]["begin_ns"]
    assert run["pinned"] is (len(os.sched_getaffinity(0)) > 1)


def test_windows_without_readings_are_run_for_an_external_meter(trees, model):
    command = [sys.executable, str(FOLDER / "__main__.py"), "energy", "--model", model, *trees]
    quick = ["--seconds", "0.1", "--windows", "1", "--idle-seconds", "0.1", "--warmup-max-s", "0.1"]
    done = subprocess.run(
        [*command, *quick, "--sensor", "none"], capture_output=True, text=True, check=True
    )
    assert "energy" in said(done)
    assert "power" not in said(done)


def test_a_sampler_that_dies_is_a_failure_and_no_energy(tmp_path, trees, model):
    """Its tegrastats kills the sampler that started it, as the kernel does when memory runs out."""
    line = "VDD_IN 4654mW/4654mW"
    boards.program(
        tmp_path / "root", "tegrastats", f"#!/bin/sh\necho '{line}'\nsleep 1\nkill -9 $PPID"
    )
    command = [sys.executable, str(FOLDER / "__main__.py"), "energy", "--model", model, *trees]
    quick = ["--seconds", "1", "--windows", "1", "--idle-seconds", "1", "--warmup-max-s", "0.1"]
    done = subprocess.run(
        [*command, *quick, "--sensor", "tegrastats"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6
    refused = said(done)["refused"]
    assert refused["kind"] == "no-sampler"
    assert "code -9" in refused["message"]


def test_a_greeting_says_nothing_of_the_sensor(trees, tmp_path):
    shutil.rmtree(tmp_path / "sys")
    command = [sys.executable, str(FOLDER / "__main__.py"), "sample", "--seconds", "0.1", *trees]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert list(said(done)) == ["hello", "no-energy", "end"]


def test_a_description_holds_what_the_host_needs():
    told = sensor_types.describe_sensor(sensor(list))
    assert set(told) == {
        "name", "scope", "kind", "channels", "interval_s", "period_s", "settle_s", "scale", "constant_w",
    }  # fmt: skip
