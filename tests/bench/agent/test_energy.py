import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.bench.agent import energy, sensors

POWER_W = 7.5
RANGE_UJ = 2_000_000  # wraps every 0.27 s at this power


@pytest.fixture
def powercap(tmp_path, write):
    """A sysfs with one package that holds a sub-zone, and a psys zone that overlaps both."""
    root = tmp_path / "class" / "powercap"
    for zone, name in [
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:1", "psys"),
    ]:
        write(root / zone / "name", name)
        write(root / zone / "max_energy_range_uj", RANGE_UJ)
        write(root / zone / "energy_uj", 123)
    return tmp_path


@pytest.fixture
def ina3221(tmp_path, write):
    def build(labels, folder="hwmon3"):
        root = tmp_path / "class" / "hwmon" / folder
        write(root / "name", "ina3221")
        for channel, label in enumerate(labels, start=1):
            write(root / f"in{channel}_label", label)
            write(root / f"in{channel}_input", 5000)
            write(root / f"curr{channel}_input", 1000 * channel)
        write(root / "in7_label", "sum of shunt voltages")
        write(root / "in7_input", 17)
        return tmp_path

    return build


@settings(deadline=None)
@given(
    st.lists(st.integers(1, RANGE_UJ - 1), min_size=1, max_size=50), st.integers(0, RANGE_UJ - 1)
)
def test_a_counter_that_wraps_gives_the_sum_of_its_steps(steps_uj, start_uj):
    readings = [(0.0, start_uj)]
    for index, step_uj in enumerate(steps_uj, start=1):
        readings.append((float(index), (readings[-1][1] + step_uj) % RANGE_UJ))
    joules = energy.counter_joules(readings, RANGE_UJ)
    assert joules[-1][1] == pytest.approx(sum(steps_uj) / 1e6)


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 10), min_size=2, max_size=50, unique=True),
    st.floats(0, 5),
    st.floats(5, 10),
)
def test_energy_of_constant_power_is_power_times_time(times_s, start_s, end_s):
    readings = [(time_s, POWER_W) for time_s in sorted(times_s)]
    joules = energy.power_joules(readings, start_s, end_s)
    assert joules == pytest.approx(POWER_W * (end_s - start_s), abs=1e-9)


def test_energy_of_rising_power_is_exact_at_edges_between_readings():
    readings = [(float(second), 2.0 * second) for second in range(11)]  # P = 2t, so E = t^2
    assert energy.power_joules(readings, 0.25, 9.75) == pytest.approx(9.75**2 - 0.25**2)


def test_negative_power_is_not_clipped():
    assert energy.power_joules([(0.0, -0.4), (1.0, -0.4)], 0.0, 1.0) == pytest.approx(-0.4)


def test_a_window_over_a_wrapping_counter_is_power_times_time(powercap):
    sensor, _ = sensors.find_sensor(str(powercap))
    assert sensor is not None
    counter = powercap / "class" / "powercap" / "intel-rapl:0" / "energy_uj"
    elapsed_ns = 0

    def call() -> None:
        nonlocal elapsed_ns
        elapsed_ns += 100_000_000
        fresh = counter.with_name("energy_uj.new")
        fresh.write_text(f"{(123 + round(POWER_W * elapsed_ns / 1e3)) % RANGE_UJ}\n")
        os.replace(fresh, counter)  # noqa: PTH105
        sampler._read()  # at every call: a wrap must not hide between two readings

    sampler = energy._Sampler(sensor, lambda: elapsed_ns)
    with sampler:
        for _ in range(30):
            call()
    assert sampler.joules(0.0, 3.0) == pytest.approx(POWER_W * 3.0)
    assert sampler.joules(0.55, 2.05) == pytest.approx(POWER_W * 1.5)


def test_only_packages_are_summed(powercap):
    sensor, _ = sensors.find_rapl(str(powercap))
    assert sensor is not None
    assert [zone.path.split("/")[-2] for zone in sensor.zones] == ["intel-rapl:0"]
    assert "package-0" in sensor.scope


def test_the_total_rail_is_found_by_its_label(ina3221):
    sensor, _ = sensors.find_sensor(str(ina3221(["VDD_CPU_GPU_CV", "VDD_IN", "VDD_SOC"])))
    assert sensor is not None
    assert sensor.name == "INA3221 VDD_IN"
    assert sensors.read_power_w(sensor.rails) == pytest.approx(5.0 * 2.0)


def test_rails_of_two_chips_are_summed_where_there_is_no_total(ina3221):
    ina3221(["GPU", "CPU", "SOC"], folder="hwmon1")
    sensor, _ = sensors.find_sensor(str(ina3221(["CV", "VDDRQ", "SYS5V"], folder="hwmon4")))
    assert sensor is not None
    assert sensors.read_power_w(sensor.rails) == pytest.approx(2 * 5.0 * (1 + 2 + 3))


def test_a_rail_that_is_fed_from_another_is_not_counted_twice(ina3221):
    ina3221(["NC", "VDDQ_VDD2_1V8AO"], folder="hwmon4")
    sensor, _ = sensors.find_sensor(str(ina3221(["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"])))
    assert sensor is not None
    assert len(sensor.rails) == 3


def test_unknown_rails_are_not_added_up(ina3221):
    sensor, reason = sensors.find_sensor(str(ina3221(["VDD_FOO", "VDD_BAR"])))
    assert sensor is None
    assert "VDD_BAR, VDD_FOO" in reason


def test_no_sensor_says_where_it_was_looked_for(tmp_path):
    sensor, reason = sensors.find_sensor(str(tmp_path))
    assert sensor is None
    assert "class/hwmon" in reason
    assert "class/powercap" in reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_for_root_only_says_so(powercap):
    (powercap / "class" / "powercap" / "intel-rapl:0" / "energy_uj").chmod(0)
    _, reason = sensors.find_sensor(str(powercap))
    assert "permission denied" in reason


def test_a_counter_that_cannot_be_read_is_no_sensor(powercap):
    counter = powercap / "class" / "powercap" / "intel-rapl:0" / "energy_uj"
    counter.unlink()
    counter.mkdir()
    sensor, reason = sensors.find_sensor(str(powercap))
    assert sensor is None
    assert "intel-rapl:0: Is a directory" in reason
