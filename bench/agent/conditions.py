"""What a figure is taken under. None: could not be read."""

import glob
import os
import platform
import time
from typing import Any, Dict, List, Optional

LOAD_WINDOW_S = 0.2
# Lines of /proc/cpuinfo that only x86 kernels write; elsewhere they show through an emulator.
_X86_LINES = ("vendor_id", "flags")


def conditions_of(proc: str, sysfs: str) -> Dict[str, Any]:
    """Machine, operating system, load, clocks, temperature, governor and emulation."""
    cpuinfo = _cpuinfo(proc)
    return {
        "machine": _machine(cpuinfo, proc),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_before": busy_processors(proc, LOAD_WINDOW_S),
        "governor": _governor(sysfs),
        "cpu_mhz": _cpu_mhz(cpuinfo, sysfs),
        "temperature_c": _temperature_c(sysfs),
        "emulated": is_emulated(cpuinfo, platform.machine(), proc),
    }


def busy_processors(proc: str, window_s: float) -> Optional[float]:
    """How many processors were busy, on average over a short wait; 0.0 is a quiet machine.

    Not the load average, which still holds what the run before this one did.
    """
    first = _busy_ticks(proc)
    if first is None:
        return None
    begin = time.perf_counter()
    time.sleep(window_s)
    second = _busy_ticks(proc)
    if second is None:
        return None
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return max(0.0, (second - first) / ticks_per_second / (time.perf_counter() - begin))


def is_emulated(cpuinfo: Dict[str, str], machine: str, proc: str) -> bool:
    """Whether the processor is made up by QEMU; a virtual machine on real hardware is not."""
    if not machine.startswith(("x86", "i386", "i686")) and all(
        line in cpuinfo for line in _X86_LINES
    ):
        # qemu-user lets the host's /proc/cpuinfo through
        return True
    names = (cpuinfo.get("model name", ""), cpuinfo.get("Model", ""))
    if any("QEMU" in name for name in names):
        return True
    try:
        return "qemu" in os.path.basename(os.readlink(os.path.join(proc, "1", "exe")))
    except OSError:
        return False


def _busy_ticks(proc: str) -> Optional[int]:
    try:
        with open(os.path.join(proc, "stat"), encoding="ascii") as stream:
            words = stream.readline().split()
        # user nice system idle iowait irq softirq steal; guest time is inside user.
        ticks = [int(word) for word in words[1:9]]
        return sum(ticks) - ticks[3] - ticks[4]
    except (OSError, ValueError, IndexError):
        return None


def _cpuinfo(proc: str) -> Dict[str, str]:
    """The lines of the first processor, and those that stand once."""
    fields: Dict[str, str] = {}
    for line in (read_text(os.path.join(proc, "cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _machine(cpuinfo: Dict[str, str], proc: str) -> str:
    board = read_text(os.path.join(proc, "device-tree", "model"))
    name = board or cpuinfo.get("model name") or cpuinfo.get("Model") or "unknown processor"
    return "{} ({}, {} processors)".format(name, platform.machine(), os.cpu_count())


def _governor(sysfs: str) -> Optional[str]:
    pattern = os.path.join(sysfs, "devices", "system", "cpu", "cpu*", "cpufreq", "scaling_governor")
    names = sorted({name for name in map(read_text, glob.glob(pattern)) if name})
    return ", ".join(names) if names else None


def _cpu_mhz(cpuinfo: Dict[str, str], sysfs: str) -> Optional[float]:
    pattern = os.path.join(sysfs, "devices", "system", "cpu", "cpu*", "cpufreq", "scaling_cur_freq")
    kilohertz = numbers(glob.glob(pattern))
    if kilohertz:
        return max(kilohertz) / 1000.0
    try:
        return float(cpuinfo["cpu MHz"])
    except (KeyError, ValueError):
        return None


def _temperature_c(sysfs: str) -> Optional[float]:
    """The hottest zone."""
    pattern = os.path.join(sysfs, "class", "thermal", "thermal_zone*", "temp")
    millidegrees = numbers(glob.glob(pattern))
    return max(millidegrees) / 1000.0 if millidegrees else None


def numbers(paths: List[str]) -> List[float]:
    values = []
    for path in paths:
        try:
            values.append(float(read_text(path) or ""))
        except ValueError:
            continue
    return values


def read_text(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip().strip("\0")
    except OSError:
        return None
