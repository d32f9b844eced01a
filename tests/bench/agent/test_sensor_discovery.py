import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bench import boards
from benchmarks.bench.boards import JETSONS, Rail
from edgekd.bench.agent import sensor as sensor_types
from edgekd.bench.agent import sensor_discovery, sensor_ina, sensor_rapl
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.sensor import Place
from edgekd.bench.config import BenchConfig
from edgekd.bench.sensor_names import (
    AUTO,
    NONE,
    NOT_OF_THE_MACHINE,
    SENSORS,
)

REPOSITORY = Path(__file__).parents[3]
EVERY = [(name, driver) for name, board in JETSONS.items() for driver in board.drivers]


@pytest.fixture
def place(tmp_path):
    return Place(str(tmp_path / "sys"), str(tmp_path / "proc"), str(tmp_path / "root"))


@pytest.fixture
def build(tmp_path):
    def board(name, driver=None, first=0, **changes):
        made = replace(JETSONS[name], **changes)
        boards.jetson(
            tmp_path / "sys",
            tmp_path / "proc",
            made,
            driver=driver or made.drivers[-1],
            first=first,
        )
        return made

    return board


def watts(sensor):
    return sum(
        value * 1e-3 if volts is None else value * volts * 1e-6 for volts, value in sensor.read()
    )


def truth_w(board, labels):
    rails = {rail.label: rail for chip in board.chips for rail in chip if rail is not None}
    return sum(rails[label].volts * rails[label].amperes for label in labels)


# --- Jetsons --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "driver"), EVERY)
def test_the_total_of_every_board_is_found_by_its_labels(place, build, name, driver):
    board = build(name, driver)
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is not None, reason
    if board.input_volts is not None:
        assert watts(sensor) == pytest.approx(board.input_volts * 0.9)
        assert "developer kit" in sensor.scope
        return
    assert [channel.label for channel in sensor.channels] == list(board.total)
    assert watts(sensor) == pytest.approx(truth_w(board, board.total))
    assert sensor.kind == "power"


@pytest.mark.parametrize("first", [0, 1, 5])
def test_a_number_of_hwmon_means_nothing(place, build, first):
    board = build("agx-orin", first=first)
    sensor, _ = sensor_discovery.find_sensor(place)
    assert sensor is not None
    assert watts(sensor) == pytest.approx(truth_w(board, board.total))


def test_memory_of_an_agx_orin_is_not_counted_twice(place, build):
    build("agx-orin")
    sensor, _ = sensor_discovery.find_sensor(place)
    assert sensor is not None
    assert "VDDQ_VDD2_1V8AO" not in [channel.label for channel in sensor.channels]


def test_a_thor_without_its_carrier_is_another_scope(place, build):
    build("agx-thor", input_volts=None)
    sensor, _ = sensor_discovery.find_sensor(place)
    assert sensor is not None
    assert len(sensor.channels) == 3
    assert "carrier board is not included" in sensor.scope


def test_a_jetson_nano_2gb_has_no_sensor_and_says_so(place, tmp_path):
    boards.device_tree(tmp_path / "proc", "NVIDIA Jetson Nano 2GB Developer Kit", "nvidia,tegra210")
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is None
    assert "2GB has no power sensor" in reason


def test_unknown_rails_are_not_added_up(place, build):
    build("orin-nx", chips=((Rail(label="VDD_FOO"), Rail(label="VDD_BAR")),))
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is None
    assert "scope unknown: what rails VDD_BAR, VDD_FOO" in reason


def test_rails_of_another_board_are_not_added_up(place, build):
    build("agx-orin", model="Some other board", compatible="vendor,board nvidia,tegra194")
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is None
    assert "scope unknown" in reason


def test_a_label_that_stands_on_two_chips_is_not_chosen(place, build):
    build("orin-nx", chips=((Rail(label="VDD_IN"),), (Rail(label="VDD_IN"),)))
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is None
    assert "scope unknown" in reason


def test_a_missing_rail_of_a_sum_leaves_no_sum(place, build):
    chips = JETSONS["agx-orin"].chips
    build("agx-orin", chips=((None, *chips[0][1:]), chips[1]))
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is None
    assert "VDDQ_VDD2_1V8AO, VDD_CPU_CV, VIN_SYS_5V0" in reason


def test_readings_below_zero_are_kept(place, build):
    build("agx-thor", input_volts=None, chips=((
        Rail(label="VDD_GPU", volts=19.6, amperes=-0.02),
        Rail(label="VDD_CPU_SOC_MSS", volts=19.6, amperes=0.2),
        Rail(label="VIN_SYS_5V0", volts=5.0, amperes=1.0),
    ),))  # fmt: skip
    sensor, _ = sensor_discovery.find_sensor(place)
    assert sensor is not None
    assert sensor.read()[0] == (19600.0, -20.0)
    assert watts(sensor) == pytest.approx(-0.392 + 3.92 + 5.0)


def test_a_rail_that_cannot_be_read_is_no_sensor(place, build, tmp_path):
    build("orin-nano")
    current = tmp_path / "sys/class/hwmon/hwmon0/curr1_input"
    current.unlink()
    current.mkdir()
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is None
    assert "curr1_input: Is a directory" in reason


def test_a_rail_that_says_nothing_is_no_sensor(place, build, tmp_path):
    build("orin-nano")
    boards.put(tmp_path / "sys/class/hwmon/hwmon0/curr1_input", "")
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is None
    assert "INA3221" in reason


def test_the_bounds_are_those_of_the_datasheet_and_the_shunt(place, build):
    build("agx-orin")
    sensor, _ = sensor_discovery.find_sensor(place)
    assert sensor is not None
    high, _, low = sensor.channels
    assert high.quantum == pytest.approx(40e-6 / 0.002 * 19.5)  # 20 mA
    assert high.offset_w == pytest.approx(80e-6 / 0.002 * 19.5)
    assert low.quantum == pytest.approx(0.1)
    assert high.gains[:3] == [0.0025, 0.0025, 0.01]


def test_a_shunt_that_the_driver_names_is_believed(place, build, tmp_path):
    build("orin-nano")
    boards.put(tmp_path / "sys/class/hwmon/hwmon0/shunt1_resistor", 10000)
    sensor, _ = sensor_discovery.find_sensor(place)
    assert sensor is not None
    assert sensor.channels[0].quantum == pytest.approx(40e-6 / 0.010 * 5.0)


def test_a_slow_setting_of_the_chip_slows_the_reads(place, build, tmp_path):
    build("orin-nano")
    boards.put(tmp_path / "sys/class/hwmon/hwmon0/update_interval", 211)
    sensor, _ = sensor_discovery.find_sensor(place)
    assert sensor is not None
    assert sensor.interval_s == sensor.period_s == pytest.approx(0.211)


# --- meters and counters --------------------------------------------------------------------------


def test_a_meter_on_some_wire_is_taken_only_if_asked_for(place, tmp_path):
    boards.meter(tmp_path / "sys", "ina226", 5.0, 1.4, 0.01, number=2)
    assert sensor_discovery.find_sensor(place)[0] is None
    sensor, _ = sensor_discovery.find_sensor(place, "INA226")
    assert sensor is not None
    assert watts(sensor) == pytest.approx(7.0)
    assert sensor.scope == sensor_ina.EXTERNAL_SCOPE
    assert sensor.channels[0].quantum == pytest.approx(5.0 * 1e-3)  # what the driver rounds to


def test_two_meters_are_one_too_many(place, tmp_path):
    for number in (2, 3):
        boards.meter(tmp_path / "sys", "ina226", 5.0, 1.4, 0.01, number=number)
    _, reason = sensor_discovery.find_sensor(place, "INA226")
    assert "2 meters" in reason


def test_a_sensor_that_nobody_knows_is_refused(place):
    with pytest.raises(RefusedError, match="no sensor 'thermometer'"):
        sensor_discovery.find_sensor(place, "thermometer")


def test_only_packages_are_summed(place, tmp_path):
    boards.rapl(tmp_path / "sys", packages=2)
    sensor, _ = sensor_rapl.find(place)
    assert sensor is not None
    assert [channel.label for channel in sensor.channels] == ["package-0", "package-1"]
    assert sensor.kind == "counter"
    assert sensor.channels[0].range == 262_143_328_850
    assert "package-0, package-1" in sensor.scope


def test_one_package_of_two_is_not_the_machine(place, tmp_path):
    root = boards.rapl(tmp_path / "sys", packages=2)
    (root / "intel-rapl:1" / "energy_uj").unlink()
    sensor, reason = sensor_rapl.find(place)
    assert sensor is None
    assert "intel-rapl:1: No such file" in reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_for_root_only_says_so(place, tmp_path):
    (boards.rapl(tmp_path / "sys") / "intel-rapl:0" / "energy_uj").chmod(0)
    assert "permission denied" in sensor_rapl.find(place)[1]


def test_no_sensor_says_where_it_was_looked_for(place):
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is None
    for path in ("class/hwmon", "drivers/ina3221x", "class/powercap", "vcgencmd", "tegrastats"):
        assert path in reason


def test_a_graphics_card_is_not_the_sensor_of_a_model_on_the_processor(place):
    assert "NVML" not in sensor_discovery.find_sensor(place)[1]
    assert "RAPL" not in sensor_discovery.find_sensor(place, on_gpu=True)[1]
    assert "NVML" in sensor_discovery.find_sensor(place, on_gpu=True)[1]


def test_the_clock_is_the_one_that_all_processes_share():
    import time

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    now = sensor_types.monotonic_ns()
    assert before <= now <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)


# --- names in other places ------------------------------------------------------------------------


def test_the_names_of_sensors_elsewhere_are_those_that_are_found():
    assert tuple(sensor_discovery.FINDERS) == SENSORS
    assert sensor_discovery.NONE == NONE
    assert set(sensor_discovery.ONLY_IF_ASKED) <= NOT_OF_THE_MACHINE <= set(SENSORS)


@pytest.mark.parametrize("name", [AUTO, *SENSORS, NONE])
def test_a_sensor_can_be_asked_for_by_name(name):
    assert BenchConfig(energy_sensor=name).energy_sensor == name


def test_another_name_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=f"choose from auto, none, {', '.join(SENSORS)}"):
        BenchConfig(energy_sensor="voltcraft")


def test_every_sensor_has_its_row_in_the_document():
    text = (REPOSITORY / "docs" / "measuring.md").read_text()
    table = text.partition("| sensor | found by |")[2].partition("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| ")]
    assert [name for name in SENSORS if not any(name in cell for cell in first)] == []
