import pytest

from benchmarks.bench import boards
from benchmarks.bench.boards import put
from edgekd.bench.agent.sensor import Place
from edgekd.bench.agent.state import state_of


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    return Place(str(tmp_path / "sys"), str(tmp_path / "proc"), str(tmp_path / "root"))


def test_a_machine_that_says_nothing_has_no_state(place):
    empty: dict[str, object] = {"counts": {}, "alarms": [], "temperatures_c": {}, "clocks_mhz": {}}
    assert state_of(place) == empty


def test_over_current_of_a_jetson_is_counted(place, tmp_path):
    events = {"oc1_event_cnt": 0, "oc2_event_cnt": 2, "oc3_event_cnt": 27390, "oc3_throt_en": 1}
    boards.hwmon(tmp_path / "sys", 4, "soctherm_oc", **events)
    assert state_of(place)["counts"] == {
        "oc1 under-voltage": 0,
        "oc2 average over-current": 2,
        "oc3 instantaneous over-current": 27390,
    }


def test_a_rail_over_its_limit_is_an_alarm(place, tmp_path):
    boards.jetson(tmp_path / "sys", tmp_path / "proc", boards.JETSONS["orin-nano"], driver="hwmon")
    assert state_of(place)["alarms"] == []
    put(tmp_path / "sys/class/hwmon/hwmon0/curr1_crit_alarm", 1)
    assert state_of(place)["alarms"] == ["VDD_IN over its crit current"]


def test_throttling_of_x86_is_summed_over_cores_and_once_a_package(place, tmp_path):
    for cpu in range(2):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
        put(folder / "core_throttle_count", 3)
        put(folder / "package_throttle_count", 5)
    assert state_of(place)["counts"] == {
        "core throttled for heat": 6,
        "package throttled for heat": 5,
    }


def test_a_throttle_alert_is_an_alarm(place, tmp_path):
    for number, (kind, state) in enumerate([("cpu-throttle-alert", 1), ("pwm-fan", 3)]):
        folder = tmp_path / f"sys/class/thermal/cooling_device{number}"
        put(folder / "type", kind)
        put(folder / "cur_state", state)
    assert state_of(place)["alarms"] == ["cpu-throttle-alert"]


def test_zones_that_are_gated_or_off_are_left_out(place, tmp_path):
    for number, (kind, value) in enumerate(
        [("cpu-thermal", 48500), ("gpu-thermal", ""), ("cv0-thermal", -256000)]
    ):
        folder = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        put(folder / "type", kind)
        put(folder / "temp", value)
    assert state_of(place)["temperatures_c"] == {"cpu-thermal": 48.5}


def test_clocks_of_processor_and_gpu(place, tmp_path):
    for cpu, kilohertz in enumerate([729_600, 1_510_400]):
        put(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", kilohertz)
    put(tmp_path / "sys/class/devfreq/17000000.gpu/cur_freq", 624_750_000)
    assert state_of(place)["clocks_mhz"] == {"CPU": 1510.4, "17000000.gpu": 624.75}
