import pytest

from benchmarks.bench import boards
from edgekd.bench.agent import sensor_discovery, sensor_rpi_pmic
from edgekd.bench.agent.sensor import Place

# As `vcgencmd pmic_read_adc` of a Raspberry Pi 5 writes them, shortened to four of its twelve pairs.
RAILS = """\
   3V7_WL_SW_A current(0)=0.01000000A
     3V3_SYS_A current(1)=0.10000000A
    VDD_CORE_A current(7)=2.00000000A
      HDMI_A current(22)=0.02000000A
   3V7_WL_SW_V volt(8)=3.70000000V
     3V3_SYS_V volt(9)=3.30000000V
    VDD_CORE_V volt(15)=0.80000000V
        HDMI_V volt(23)=5.00000000V
       EXT5V_V volt(24)=5.15000000V
        BATT_V volt(25)=0.00000000V
"""
SUM_W = 0.037 + 0.33 + 1.6 + 0.1


@pytest.fixture
def place(tmp_path):
    return Place(str(tmp_path / "sys"), str(tmp_path / "proc"), str(tmp_path / "root"))


def install(folder, rails=RAILS, throttled="throttled=0x0"):
    script = f"#!/bin/sh\ncase $1 in pmic_read_adc) cat <<'END'\n{rails}END\n;;\n*) echo {throttled};; esac"
    return boards.program(folder, "vcgencmd", script)


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'pi' / 'usr' / 'bin'}:/usr/bin:/bin")
    return tmp_path / "pi"


def test_rails_with_current_and_voltage_are_summed_into_an_estimate(place, on_path):
    install(on_path)
    sensor, reason = sensor_discovery.find_sensor(place)
    assert sensor is not None, reason
    assert sensor.kind == "estimate"
    assert "estimated" in sensor.scope
    assert len(sensor.channels) == 4
    total = sum((volts or 0) * amperes * 1e-6 for volts, amperes in sensor.read())
    assert total == pytest.approx(SUM_W)
    assert sensor.scale * total + sensor.constant_w == pytest.approx(1.1451 * SUM_W + 0.5879)


def test_inputs_without_a_current_are_no_rails():
    assert set(sensor_rpi_pmic.rails_of(RAILS)) == {"3V7_WL_SW", "3V3_SYS", "VDD_CORE", "HDMI"}


def test_an_older_pi_has_no_currents(place, on_path):
    install(on_path, rails='error=1 error_msg="Command not registered"\n')
    sensor, reason = sensor_rpi_pmic.find(place)
    assert sensor is None
    assert "Raspberry Pi 5" in reason


def test_a_rail_that_goes_away_is_an_error_and_no_zero(place, on_path):
    install(on_path)
    sensor, _ = sensor_rpi_pmic.find(place)
    assert sensor is not None
    install(on_path, rails=RAILS.replace("HDMI_A current(22)=0.02000000A", ""))
    with pytest.raises(ValueError, match="no rail HDMI"):
        sensor.read()


def test_throttling_of_now_and_since_boot(place, on_path):
    install(on_path, throttled="throttled=0x50005")
    since, now = sensor_rpi_pmic.read_throttling(place)
    assert now == ["under-voltage", "throttled"]
    assert since == {
        "under-voltage": 1,
        "frequency capped": 0,
        "throttled": 1,
        "soft temperature limit": 0,
    }


def test_a_machine_without_the_program_was_not_throttled_as_far_as_is_known(place, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert sensor_rpi_pmic.read_throttling(place) == ({}, [])
