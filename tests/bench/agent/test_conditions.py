import os
import platform

import pytest

from edgekd.bench.agent import conditions, memory

X86_LINES = {"vendor_id": "GenuineIntel", "flags": "sse2"}


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "emulated"),
    [
        (X86_LINES, "x86_64", False),
        (X86_LINES, "aarch64", True),
        ({"Features": "fp asimd"}, "aarch64", False),
        (X86_LINES | {"model name": "QEMU Virtual CPU version 2.5+"}, "x86_64", True),
    ],
)
def test_an_emulated_processor_is_told_by_its_cpuinfo(tmp_path, cpuinfo, machine, emulated):
    assert conditions.is_emulated(cpuinfo, machine, str(tmp_path)) is emulated


def test_an_emulated_machine_is_told_by_its_first_process(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "exe").symlink_to("/usr/bin/qemu-aarch64-static")
    assert conditions.is_emulated({}, "aarch64", str(tmp_path))


def test_a_board_is_read_from_its_own_files(tmp_path, write):
    proc, sysfs = tmp_path / "proc", tmp_path / "sys"
    (proc / "device-tree").mkdir(parents=True)
    (proc / "device-tree" / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    for index, kilohertz in enumerate([1_000_000, 1_510_400]):
        folder = sysfs / "devices" / "system" / "cpu" / f"cpu{index}" / "cpufreq"
        write(folder / "scaling_governor", "schedutil")
        write(folder / "scaling_cur_freq", kilohertz)
    write(sysfs / "class" / "thermal" / "thermal_zone0" / "temp", 48_500)
    write(sysfs / "class" / "thermal" / "thermal_zone1" / "temp", "")
    found = conditions.conditions_of(str(proc), str(sysfs))
    assert found["machine"].startswith("NVIDIA Jetson Orin Nano (")
    assert found["governor"] == "schedutil"
    assert found["cpu_mhz"] == pytest.approx(1510.4)
    assert found["temperature_c"] == pytest.approx(48.5)
    assert found["load_before"] is None


def test_what_cannot_be_read_is_none_and_not_zero(tmp_path):
    found = conditions.conditions_of(str(tmp_path), str(tmp_path))
    for key in ("governor", "cpu_mhz", "temperature_c", "load_before"):
        assert found[key] is None
    assert platform.machine() in found["machine"]


def test_busy_processors_are_not_more_than_there_are():
    busy = conditions.busy_processors("/proc", 0.1)
    assert busy is not None
    assert 0 <= busy <= 1.5 * (os.cpu_count() or 1)


def test_memory_is_read_in_bytes(tmp_path, write):
    write(
        tmp_path / "self" / "smaps_rollup",
        "0-1 ---p 0 00:00 0 [rollup]\nPss: 10 kB\nPrivate_Clean: 3 kB\nPrivate_Dirty: 4 kB",
    )
    write(tmp_path / "self" / "status", "Name:\tpython\nVmHWM:\t 20 kB")
    found = memory.memory_of(str(tmp_path))
    assert found == {"pss": 10240, "uss": 7168, "peak_rss": 20480, "reason": None}


def test_memory_without_smaps_rollup_says_why_and_still_knows_the_peak(tmp_path):
    found = memory.memory_of(str(tmp_path))
    assert found["pss"] is None
    assert found["uss"] is None
    assert "smaps_rollup cannot be read" in str(found["reason"])
    assert isinstance(found["peak_rss"], int)


def test_this_process_has_no_more_private_than_proportional_memory():
    found = memory.memory_of("/proc")
    assert isinstance(found["pss"], int)
    assert isinstance(found["uss"], int)
    assert 0 < found["uss"] <= found["pss"]
