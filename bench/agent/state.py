"""What disturbs a run, as it is now: throttling, over-current, heat, clocks."""

import contextlib
import glob
import os
from typing import Any, Callable, Dict, List, Optional

from edgekd.bench.agent import sensor_nvml, sensor_rpi_pmic
from edgekd.bench.agent.sensor import Place, number_or_none, text_or_none

# Events of soctherm on Jetsons, by what raises them.
OVER_CURRENT = {
    "oc1": "oc1 under-voltage",
    "oc2": "oc2 average over-current",
    "oc3": "oc3 instantaneous over-current",
}


def looker(place: Place, on_gpu: bool, gpu: int) -> Callable[..., Dict[str, Any]]:
    """`state_of` a machine, with its card where the model runs on one; takes `whole`."""
    card = sensor_nvml.card_or_none(gpu) if on_gpu else None
    return lambda whole=True: state_of(place, card, whole)


def state_of(
    place: Place, card: Optional[sensor_nvml.Card] = None, whole: bool = True
) -> Dict[str, Any]:
    """`counts` of events since boot, `alarms` of now, `temperatures_c` and `clocks_mhz` by name.

    What cannot be read is left out: zones and clocks answer EAGAIN while their part is gated. Not `whole`: only what is
    read from files or a library, without a program that would be started beside what is measured.
    """
    counts = dict(_soctherm(place))
    counts.update(_thermal_throttle(place))
    alarms: List[str] = []
    if whole:
        since_boot, alarms = sensor_rpi_pmic.read_throttling(place)
        counts.update(since_boot)
    temperatures = _temperatures(place)
    clocks = _clocks(place)
    if card is not None:
        temperature_c, clock_mhz, reasons = sensor_nvml.state_of(card)
        alarms = alarms + reasons
        if temperature_c is not None:
            temperatures["GPU"] = float(temperature_c)
        if clock_mhz is not None:
            clocks["GPU"] = float(clock_mhz)
    return {
        "counts": counts,
        "alarms": alarms + _rail_alarms(place) + _cooling_alarms(place),
        "temperatures_c": temperatures,
        "clocks_mhz": clocks,
    }


def _hwmon(place: Place, name: str) -> List[str]:
    folders = sorted(glob.glob(os.path.join(place.sysfs, "class", "hwmon", "hwmon*")))
    return [folder for folder in folders if text_or_none(os.path.join(folder, "name")) == name]


def _soctherm(place: Place) -> Dict[str, int]:
    counts = {}
    for folder in _hwmon(place, "soctherm_oc"):
        for path in sorted(glob.glob(os.path.join(folder, "oc*_event_cnt"))):
            count = number_or_none(path)
            if count is not None:
                short = os.path.basename(path).split("_")[0]
                counts[OVER_CURRENT.get(short, short)] = int(count)
    return counts


def _thermal_throttle(place: Place) -> Dict[str, int]:
    """Of x86, over all cores. Each core of a package repeats the package's count."""
    pattern = os.path.join(place.sysfs, "devices", "system", "cpu", "cpu*", "thermal_throttle")
    counts = {}
    for part in ("core", "package"):
        values = [
            number_or_none(os.path.join(folder, part + "_throttle_count"))
            for folder in glob.glob(pattern)
        ]
        known = [int(value) for value in values if value is not None]
        if known:
            total = sum(known) if part == "core" else max(known)
            counts["{} throttled for heat".format(part)] = total
    return counts


def _rail_alarms(place: Place) -> List[str]:
    """Rails of an INA3221 above their limit of current."""
    found = []
    for folder in _hwmon(place, "ina3221"):
        for number in (1, 2, 3):
            label = text_or_none(os.path.join(folder, "in{}_label".format(number)))
            for kind in ("max", "crit"):
                path = os.path.join(folder, "curr{}_{}_alarm".format(number, kind))
                if number_or_none(path):
                    found.append("{} over its {} current".format(label or number, kind))
    return found


def _cooling_alarms(place: Place) -> List[str]:
    found = []
    for folder in sorted(glob.glob(os.path.join(place.sysfs, "class", "thermal", "cooling_dev*"))):
        kind = text_or_none(os.path.join(folder, "type")) or ""
        if kind.endswith("throttle-alert") and number_or_none(os.path.join(folder, "cur_state")):
            found.append(kind)
    return found


def _temperatures(place: Place) -> Dict[str, float]:
    found = {}
    for folder in sorted(glob.glob(os.path.join(place.sysfs, "class", "thermal", "thermal_zone*"))):
        millidegrees = number_or_none(os.path.join(folder, "temp"))
        # -256 C is a Jetson's way to say that the sensor is off.
        if millidegrees is not None and millidegrees > -100000:
            name = text_or_none(os.path.join(folder, "type")) or os.path.basename(folder)
            found[name] = millidegrees / 1e3
    return found


def _clocks(place: Place) -> Dict[str, float]:
    """The fastest processor, and what devfreq governs (on a Jetson, the GPU)."""
    found: Dict[str, float] = {}
    cpu = os.path.join(place.sysfs, "devices", "system", "cpu", "cpu*", "cpufreq")
    kilohertz = [
        value
        for value in map(number_or_none, glob.glob(os.path.join(cpu, "scaling_cur_freq")))
        if value is not None
    ]
    if kilohertz:
        found["CPU"] = max(kilohertz) / 1e3
    else:
        found.update(_read_cpuinfo(place))
    for folder in sorted(glob.glob(os.path.join(place.sysfs, "class", "devfreq", "*"))):
        hertz = number_or_none(os.path.join(folder, "cur_freq"))
        if hertz is not None:
            found[os.path.basename(folder)] = hertz / 1e6
    return found


def _read_cpuinfo(place: Place) -> Dict[str, float]:
    """Of x86 without a governor that can be read: most virtual machines."""
    text = text_or_none(os.path.join(place.proc, "cpuinfo")) or ""
    found = []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "cpu MHz":
            with contextlib.suppress(ValueError):
                found.append(float(value))
    return {"CPU": max(found)} if found else {}
