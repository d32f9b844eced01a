"""Find a sensor that answers: RAPL counters (powercap), INA3221 rails (hwmon)."""

import glob
import os
from typing import Dict, List, NamedTuple, Optional, Tuple

# Which rails add up to a total, and of what. Rails that are fed from others are left out: adding
# them would count twice. From energymon's rail table and the boards' device trees. The first row
# whose rails are all there is taken; unknown rails are never summed.
TOTALS: Tuple[Tuple[Tuple[str, ...], str], ...] = (
    (("VDD_IN",), "module input; the carrier board is not included"),
    (("POM_5V_IN",), "5 V input of module and board"),
    (
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        "sum of three module rails; the carrier board is not included",
    ),
    (
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        "sum of six module rails; the carrier board is not included",
    ),
    (
        ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
        "sum of three module rails; the carrier board is not included",
    ),
)

Zone = NamedTuple("Zone", [("path", str), ("range_uj", int)])
Rail = NamedTuple("Rail", [("voltage_path", str), ("current_path", str)])
# A counter has zones, a power sensor has rails.
Sensor = NamedTuple(
    "Sensor", [("name", str), ("scope", str), ("zones", List[Zone]), ("rails", List[Rail])]
)


def find_sensor(sysfs: str) -> Tuple[Optional[Sensor], str]:
    """The first sensor that was read with success, or None and what was looked at."""
    reasons = []
    for find in (find_ina3221, find_rapl):
        sensor, reason = find(sysfs)
        if sensor is not None:
            return sensor, ""
        reasons.append(reason)
    return None, "; ".join(reasons)


def find_rapl(sysfs: str) -> Tuple[Optional[Sensor], str]:
    """The package zones; their sub-zones are parts of them, and psys overlaps them."""
    pattern = os.path.join(sysfs, "class", "powercap", "intel-rapl:*")
    zones, names, problems = [], [], []
    for folder in sorted(glob.glob(pattern)):
        try:
            name = _read(os.path.join(folder, "name"))
            if not name.startswith("package"):
                continue
            zone = Zone(
                os.path.join(folder, "energy_uj"),
                int(_read(os.path.join(folder, "max_energy_range_uj"))),
            )
            read_counter_uj(zone)
        except (OSError, ValueError) as error:
            problems.append(_problem(folder, error))
            continue
        zones.append(zone)
        names.append(name)
    if problems:
        return None, "RAPL: " + ", ".join(problems)  # one package of two is not the machine
    if not zones:
        return None, "RAPL: no package under {}".format(pattern)
    scope = "processor ({}); memory, board and power supply are not included".format(
        ", ".join(names)
    )
    return Sensor("RAPL energy counter", scope, zones, []), ""


def find_ina3221(sysfs: str) -> Tuple[Optional[Sensor], str]:
    """The rails that make up a known total, by their labels; hwmon numbers change between boots."""
    pattern = os.path.join(sysfs, "class", "hwmon", "hwmon*")
    rails: Dict[str, Rail] = {}
    problems = []
    for folder in sorted(glob.glob(pattern)):
        try:
            if _read(os.path.join(folder, "name")) == "ina3221":
                rails.update(_rails(folder))
        except OSError as error:
            problems.append(_problem(folder, error))
    for labels, scope in TOTALS:
        if all(label in rails for label in labels):
            chosen = [rails[label] for label in labels]
            try:
                read_power_w(chosen)
            except (OSError, ValueError) as error:
                return None, "INA3221: " + _problem(chosen[0].voltage_path, error)
            return Sensor("INA3221 " + " + ".join(labels), scope, [], chosen), ""
    if problems:
        return None, "INA3221: " + ", ".join(problems)
    if rails:
        return None, "INA3221: what rails {} add up to is not known".format(
            ", ".join(sorted(rails))
        )
    return None, "INA3221: none under {}".format(pattern)


def read_counter_uj(zone: Zone) -> int:
    return int(_read(zone.path))


def read_power_w(rails: List[Rail]) -> float:
    """The sum over the rails. May be negative at idle, from the sensor's offset; that is kept."""
    watts = 0.0
    for rail in rails:
        volts = int(_read(rail.voltage_path)) / 1000.0  # sysfs: mV
        amperes = int(_read(rail.current_path)) / 1000.0  # sysfs: mA
        watts += volts * amperes
    return watts


def _rails(folder: str) -> Dict[str, Rail]:
    """Channels 1 to 3; in4 and up are shunt voltages and sums, not rails."""
    found = {}
    for channel in (1, 2, 3):
        paths = [
            os.path.join(folder, name.format(channel))
            for name in ("in{}_label", "in{}_input", "curr{}_input")
        ]
        if all(os.path.exists(path) for path in paths):
            found[_read(paths[0])] = Rail(paths[1], paths[2])
    return found


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as stream:
        return stream.read().strip()


def _problem(path: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "{}: permission denied (readable by root only)".format(path)
    return "{}: {}".format(path, getattr(error, "strerror", None) or error)
