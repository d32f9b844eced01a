"""Texas Instruments' INA chips: the rails of a Jetson by label, and meters that somebody wired in.

Labels and which of them add up to a total are from energymon's rail table and the device trees of
the boards; what a chip may be wrong by is from its datasheet.
"""

import glob
import os
from typing import Dict, List, NamedTuple, Optional, Tuple

from edgekd.bench.agent.sensor import (
    Channel,
    Found,
    Place,
    Reading,
    Sensor,
    board_words,
    number_or_none,
    problem,
    read_number,
    read_text,
    sensor_of,
)

Chip = NamedTuple(
    "Chip",
    [
        # Steps of the two converters, in volts, and the bounds of their errors.
        ("shunt_step_v", float),
        ("shunt_offset_v", float),
        ("bus_step_v", float),
        ("bus_offset_v", float),
        ("gain", float),
    ],
)
INA3221 = Chip(40e-6, 80e-6, 8e-3, 16e-3, 0.0025)  # SBOS576
INA226 = Chip(2.5e-6, 10e-6, 1.25e-3, 7.5e-3, 0.001)  # SBOS547
# SBOSA20, at its wider range
INA238 = Chip(5e-6, 5e-6, 3.125e-3, 5e-3, 0.001)
# Of a resistor of the usual class; no board says it
SHUNT_TOLERANCE = 0.01
# What the kernel rounds currents to
DRIVER_STEP_A = 0.001
# Three channels, 1.1 ms for each of voltage and current: the chip's reset state.
INA3221_INTERVAL_S = 0.0066
INA238_INTERVAL_S = 0.004

Total = NamedTuple(
    "Total",
    [
        ("labels", Tuple[str, ...]),  # whose sum it is
        ("scope", str),
        # Words of the device tree, one of which the board has; a tree that cannot be read is no objection.
        ("boards", Tuple[str, ...]),
        ("shunt_ohm", float),  # where the driver does not say it
    ],
)
_SUM = "sum of {} module rails; the carrier board is not included"
MODULE = "module input; the carrier board is not included"
# Rails that are fed from others are left out, for adding them would count twice: VDDQ_VDD2_1V8AO of the AGX Orin
# hangs on VIN_SYS_5V0. The first row whose rails are all there is taken; other rails are never summed.
TOTALS = (
    Total(("VDD_IN",), MODULE, ("tegra210", "tegra186", "tegra194", "tegra234", "jetson"), 0.005),
    Total(("POM_5V_IN",), "5 V input of module and board", ("tegra210", "nano"), 0.005),
    Total(
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        _SUM.format("three"),
        ("tegra234", "agx orin"),
        0.002,
    ),
    Total(
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        _SUM.format("six"),
        ("tegra194", "xavier"),
        0.005,
    ),
    Total(
        ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
        _SUM.format("three"),
        ("tegra264", "thor"),
        0.002,
    ),
)
THOR = ("tegra264", "thor")
THOR_SCOPE = "input of the whole developer kit, carrier board and what hangs on it included"
EXTERNAL_SCOPE = "what is wired through the meter's shunt"
# Names that the kernel gives to single-channel meters, and their chips.
METERS = {"ina226": INA226, "ina238": INA238}
# Seconds between reads. A read of the INA3221 waits for a conversion: one rail answers 75 times a second, three 25.
PERIODS_S = ((1, 0.025), (3, 0.05), (6, 0.1))

Rail = NamedTuple(
    "Rail",
    [("label", str), ("volts", str), ("amperes", str), ("shunt", Optional[str]), ("pace", str)],
)


def find_jetson(place: Place) -> Found:
    """The total of a Jetson: INA238 of Thor's carrier, else the rails of INA3221 that make up one."""
    words = board_words(place)
    thor, why_not = _thor_input(place, words)
    if thor is not None:
        return thor, ""
    rails, problems = _rails(place)
    seen: Dict[str, List[Rail]] = {}
    for rail in rails:
        seen.setdefault(rail.label, []).append(rail)
    for total in TOTALS:
        if not all(len(seen.get(label, ())) == 1 for label in total.labels):
            continue
        if words.strip() and not any(word in words for word in total.boards):
            continue
        chosen = [seen[label][0] for label in total.labels]
        try:
            return _sensor("INA3221 " + " + ".join(total.labels), total, chosen), ""
        except (OSError, ValueError) as error:
            return None, "INA3221: " + problem(chosen[0].amperes, error)
    return None, "INA3221: " + "; ".join(_reasons(place, words, seen, problems + why_not))


def find_meter(place: Place) -> Found:
    """A single INA226 or INA238 that somebody wired in; taken only where it is asked for."""
    found, problems = [], []
    for folder, name in _hwmon(place):
        if name in METERS:
            try:
                found.append(_meter(folder, name, EXTERNAL_SCOPE))
            except (OSError, ValueError) as error:
                problems.append(problem(folder, error))
    if len(found) == 1:
        return found[0], ""
    if found:
        return None, "INA226: {} meters, and nothing says which is meant".format(len(found))
    return None, "INA226: " + (
        ", ".join(problems) or "none under {}".format(os.path.join(place.sysfs, "class", "hwmon"))
    )


def _reasons(
    place: Place, words: str, seen: Dict[str, List[Rail]], problems: List[str]
) -> List[str]:
    if "nano 2gb" in words or "p3448-0003" in words:
        return ["the Jetson Nano 2GB has no power sensor"]
    if seen:
        shown = ", ".join(sorted(seen))
        return ["scope unknown: what rails {} add up to on this board is not known".format(shown)]
    nowhere = "none under {} and {}".format(
        os.path.join(place.sysfs, "class", "hwmon"), _iio(place, "*")
    )
    return problems or [nowhere]


# --- rails of an INA3221 --------------------------------------------------------------------------


def _iio(place: Place, rest: str) -> str:
    return os.path.join(place.sysfs, "bus", "i2c", "drivers", "ina3221x", rest)


def _hwmon(place: Place) -> List[Tuple[str, str]]:
    """Folders of hwmon and the names of their drivers. The numbers change between boots."""
    found = []
    for folder in sorted(glob.glob(os.path.join(place.sysfs, "class", "hwmon", "hwmon*"))):
        try:
            found.append((folder, read_text(os.path.join(folder, "name"))))
        except OSError:
            # A device that is going away
            continue
    return found


def _rails(place: Place) -> Tuple[List[Rail], List[str]]:
    """All labelled rails of both generations of the driver, and what could not be read of them."""
    rails: List[Rail] = []
    problems: List[str] = []
    for folder in sorted(glob.glob(_iio(place, os.path.join("*", "iio:device*")))):
        names = ("rail_name_{}", "in_voltage{}_input", "in_current{}_input", "")
        rails += _channels(folder, (0, 1, 2), names, problems)
    for folder, name in _hwmon(place):
        if name == "ina3221":
            # in4 and up are shunt voltages and sums, not rails.
            names = ("in{}_label", "in{}_input", "curr{}_input", "shunt{}_resistor")
            rails += _channels(folder, (1, 2, 3), names, problems)
    return [rail for rail in rails if rail.label not in ("", "NC")], problems


def _channels(
    folder: str, numbers: Tuple[int, ...], names: Tuple[str, ...], problems: List[str]
) -> List[Rail]:
    found = []
    for number in numbers:
        paths = [os.path.join(folder, name.format(number)) if name else "" for name in names]
        if not all(os.path.exists(path) for path in paths[:3]):
            continue
        try:
            label = read_text(paths[0])
        except OSError as error:
            problems.append(problem(paths[0], error))
            continue
        pace = os.path.join(folder, "update_interval")
        found.append(Rail(label, paths[1], paths[2], paths[3] or None, pace))
    return found


def _sensor(name: str, total: Total, rails: List[Rail]) -> Sensor:
    """Raises OSError or ValueError where a rail cannot be read."""

    def read() -> Reading:
        return [(read_number(rail.volts), read_number(rail.amperes)) for rail in rails]

    channels = []
    for rail, (millivolts, _) in zip(rails, read()):  # noqa: B905
        microohms = number_or_none(rail.shunt) if rail.shunt else None
        shunt_ohm = microohms / 1e6 if microohms else total.shunt_ohm
        channels.append(channel_of(INA3221, rail.label, (millivolts or 0.0) / 1e3, shunt_ohm))
    milliseconds = number_or_none(rails[0].pace)
    interval_s = milliseconds / 1e3 if milliseconds else INA3221_INTERVAL_S
    period_s = next(period for count, period in PERIODS_S if len(rails) <= count)
    return sensor_of(
        name,
        total.scope,
        "power",
        channels,
        interval_s=interval_s,
        # A slower setting of the chip would make every second read a repeat.
        period_s=max(period_s, interval_s),
        read=read,
    )


def channel_of(chip: Chip, label: str, volts: float, shunt_ohm: float) -> Channel:
    """What a current through this shunt may be wrong by, times the voltage of the rail."""
    volts = abs(volts)
    # Of the bus voltage: its offset, and half a step, which does not average out as the voltage hardly moves.
    bus = (chip.bus_offset_v / volts, chip.bus_step_v / 2 / volts) if volts else ()
    return Channel(
        label,
        "mA",
        chip.shunt_offset_v / shunt_ohm * volts,
        [chip.gain, chip.gain, SHUNT_TOLERANCE, *bus],
        max(chip.shunt_step_v / shunt_ohm, DRIVER_STEP_A) * volts,
        None,
    )


# --- single-channel meters ------------------------------------------------------------------------


def _thor_input(place: Place, words: str) -> Tuple[Optional[Sensor], List[str]]:
    if not any(word in words for word in THOR):
        return None, []
    problems = []
    for folder, name in _hwmon(place):
        if name == "ina238":
            try:
                return _meter(folder, name, THOR_SCOPE, "VIN"), []
            except (OSError, ValueError) as error:
                problems.append(problem(folder, error))
    return None, problems


def _meter(folder: str, name: str, scope: str, label: str = "") -> Sensor:
    """Raises OSError or ValueError where it cannot be read."""
    chip = METERS[name]
    paths = [os.path.join(folder, part) for part in ("in1_input", "curr1_input", "shunt_resistor")]
    millivolts = read_number(paths[0])
    microohms = read_number(paths[2])
    if microohms <= 0:
        raise ValueError("{}: a shunt of {} uOhm".format(paths[2], microohms))

    def read() -> Reading:
        # In this order: a current that is older than its voltage is wrong by the sag of the rail only.
        return [(read_number(paths[0]), read_number(paths[1]))]

    read()
    milliseconds = number_or_none(os.path.join(folder, "update_interval"))
    interval_s = milliseconds / 1e3 if milliseconds else INA238_INTERVAL_S
    return sensor_of(
        " ".join(part for part in (name.upper(), label) if part),
        scope,
        "power",
        [channel_of(chip, label or name, millivolts / 1e3, microohms / 1e6)],
        interval_s=interval_s,
        period_s=max(0.02, interval_s),
        read=read,
    )
