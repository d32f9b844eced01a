"""A sensor that fails says which file it was."""

import errno
import os

import pytest

from benchmarks.bench import boards
from benchmarks.bench.boards import JETSONS
from edgekd.bench.agent import power_sampler, sensor_ina, sensor_rapl
from edgekd.bench.agent.sensor import Place, problem, read_count, read_number


@pytest.mark.parametrize("read", [read_number, read_count])
@pytest.mark.parametrize("content", ["", "x", "1 2", "nan?"])
def test_what_holds_no_number_is_named(tmp_path, read, content):
    path = tmp_path / "in1_input"
    path.write_text(content)
    with pytest.raises(ValueError, match="in1_input") as caught:
        read(str(path))
    # Once, whatever else was asked for
    assert problem(str(path), caught.value).count(str(path)) == 1


@pytest.mark.parametrize("read", [read_number, read_count])
def test_a_file_that_opens_and_cannot_be_read_is_named(read):
    """As a chip that does not answer: the system names no file then."""
    # Of this process's memory, at an address that nothing lies at
    path = "/proc/self/mem"
    with pytest.raises(OSError, match="mem") as caught:
        read(path)
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == path
    assert problem("/elsewhere", caught.value) == f"{path}: {os.strerror(errno.EIO)}"


def test_counters_beyond_what_floats_hold_are_whole(tmp_path):
    (tmp_path / "energy_uj").write_text(f"{2**53 + 1}\n")
    assert read_count(str(tmp_path / "energy_uj")) == 2**53 + 1


@pytest.mark.parametrize("name", sorted(JETSONS))
def test_a_rail_that_fails_while_it_is_sampled_is_named(tmp_path, name):
    board = JETSONS[name]
    boards.jetson(tmp_path / "sys", tmp_path / "proc", board, driver=board.drivers[-1], first=0)
    place = Place(str(tmp_path / "sys"), str(tmp_path / "proc"), str(tmp_path / "root"))
    sensor, why = sensor_ina.find_jetson(place)
    assert sensor is not None, why
    files = [path for path in (tmp_path / "sys").rglob("*") if path.is_file()]
    for path in files:
        if path.name.startswith(("curr", "in", "in_voltage")):
            path.write_text("no number")
    found = power_sampler.take(sensor, lambda _: True, 0.01)
    assert found["values"] == [[] for _ in sensor.channels]
    (said,) = found["problems"]
    assert any(said.startswith(f"{path}: ") for path in files)
    assert "'no number'" in said


def test_a_counter_that_fails_is_named(tmp_path):
    zone = tmp_path / "sys" / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0")
    (zone / "energy_uj").write_text("5")
    (zone / "max_energy_range_uj").write_text("?")
    place = Place(str(tmp_path / "sys"), str(tmp_path / "proc"), str(tmp_path / "root"))
    sensor, why = sensor_rapl.find(place)
    assert sensor is None
    assert f"{zone}/max_energy_range_uj: '?' is no number" in why
