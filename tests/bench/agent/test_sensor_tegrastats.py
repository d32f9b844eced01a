from pathlib import Path

import pytest

from benchmarks.bench import boards
from edgekd.bench.agent import sensor_discovery, sensor_ina, sensor_tegrastats
from edgekd.bench.agent.power_sampler import take
from edgekd.bench.agent.sensor import Place, monotonic_ns

LINES = Path(__file__).with_name("tegrastats")
# Milliwatts of now, summed over the rails of the total, as one reads them off the line.
TOTALS = {
    "jp4-nano": (["POM_5V_IN"], 933),
    "jp4-xavier-nx": (["VDD_IN"], 1383),
    "jp4-agx-xavier": (
        ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"],
        1155 + 385 + 2502 + 0 + 192 + 2692,
    ),
    "jp5-agx-orin": (["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"], 2390 + 796 + 3522),
    "jp6-orin-nano": (["VDD_IN"], 4654),
    "jp7.0-thor": (["VIN"], 15004),
    "jp7.2-thor": (["VIN"], 124486),
    "jp7.2-agx-orin": (["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"], 5139 + 3268 + 5500),
}


def line(name) -> str:
    return (LINES / f"{name}.txt").read_text()


def place(root) -> Place:
    return Place(str(root / "sys"), str(root / "proc"), str(root))


def install(root, text, pause="0.02"):
    """A program that says the same line again and again, as tegrastats would."""
    script = f"#!/bin/sh\nwhile echo '{text.strip()}'; do sleep {pause}; done"
    return boards.program(root, "tegrastats", script)


def test_every_line_is_of_a_total():
    assert {path.stem for path in LINES.glob("*.txt")} == set(TOTALS)


@pytest.mark.parametrize("name", TOTALS)
def test_the_total_of_every_jetpack_is_found(tmp_path, name):
    install(tmp_path, line(name))
    sensor, reason = sensor_discovery.find_sensor(place(tmp_path))
    assert sensor is not None, reason
    labels, milliwatts = TOTALS[name]
    assert [channel.label for channel in sensor.channels] == labels
    assert sum(value for _, value in sensor.read()) == milliwatts
    sensor.close()


def test_a_reading_below_zero_is_kept():
    assert sensor_tegrastats.rails_of(line("jp7.0-thor"))["VDD_GPU"] == -392


def test_a_label_that_is_not_connected_is_no_rail():
    assert "NC" not in sensor_tegrastats.rails_of(line("jp5-agx-orin"))


def test_memory_loads_and_temperatures_are_no_rails():
    rails = sensor_tegrastats.rails_of(line("jp6-orin-nano"))
    assert set(rails) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}


def test_the_average_since_its_start_is_not_the_power_of_now():
    assert sensor_tegrastats.rails_of(line("jp7.2-thor"))["VIN"] == 124486


def test_sysfs_is_preferred(tmp_path):
    install(tmp_path, line("jp6-orin-nano"))
    boards.jetson(tmp_path / "sys", tmp_path / "proc", boards.JETSONS["orin-nano"], driver="hwmon")
    sensor, _ = sensor_discovery.find_sensor(place(tmp_path))
    assert sensor is not None
    assert sensor.name.startswith("INA3221")


def test_rails_of_no_known_total_are_refused(tmp_path):
    install(tmp_path, "RAM 1/2MB VDD_FOO 100mW/100mW")
    sensor, reason = sensor_tegrastats.find(place(tmp_path))
    assert sensor is None
    assert "scope unknown" in reason
    assert "VDD_FOO" in reason


def test_lines_are_read_as_they_come_and_the_program_is_ended(tmp_path):
    install(tmp_path, line("jp6-orin-nano"))
    sensor, _ = sensor_tegrastats.find(place(tmp_path))
    assert sensor is not None
    taken = take(sensor, lambda _: False, 0.4)
    assert len(taken["begin_ns"]) >= 4
    assert taken["dropped"] == 0
    assert taken["millivolts"] == [None]
    sensor.close()
    with pytest.raises(ValueError, match="closed file"):
        sensor.read()


def test_a_program_that_ends_is_an_error_and_no_zero(tmp_path):
    boards.program(tmp_path, "tegrastats", f"#!/bin/sh\necho '{line('jp6-orin-nano').strip()}'")
    sensor, _ = sensor_tegrastats.find(place(tmp_path))
    assert sensor is not None
    began = monotonic_ns()
    taken = take(sensor, lambda seconds: monotonic_ns() - began > 3e8 or seconds < 0, 5.0)
    sensor.close()
    assert taken["values"] == [[]]
    assert taken["dropped"] >= 1
    assert taken["problems"] == ["tegrastats ended"]


def test_a_program_that_says_nothing_is_no_sensor(tmp_path):
    boards.program(tmp_path, "tegrastats", "#!/bin/sh\nexit 1")
    sensor, reason = sensor_tegrastats.find(place(tmp_path))
    assert sensor is None
    assert "tegrastats ended" in reason


def test_its_errors_are_those_of_the_chip_behind_it(tmp_path):
    install(tmp_path, line("jp6-orin-nano"))
    sensor, _ = sensor_tegrastats.find(place(tmp_path))
    assert sensor is not None
    sensor.close()
    (channel,) = sensor.channels
    assert channel.unit == "mW"
    assert channel.quantum == pytest.approx(40e-6 / 0.005 * 5.0)
    assert channel.offset_w == pytest.approx(80e-6 / 0.005 * 5.0)
    assert sensor.scope == sensor_ina.MODULE
