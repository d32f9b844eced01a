"""RAPL: energy counters of x86 processors, through powercap."""

import glob
import os
from typing import List

from edgekd.bench.agent.sensor import (
    Channel,
    Found,
    Place,
    Reading,
    problem,
    read_count,
    read_text,
    sensor_of,
)

# Neither Intel nor AMD says how wrong it may be. This is what NVML says of its own power readings.
ASSUMED_GAIN = 0.05
UPDATE_S = 0.001
# The counter holds minutes; this is for the picture of the power
PERIOD_S = 0.1
# 2^-14 J, the coarser of the two units in use
STEP_J = 61e-6


def find(place: Place) -> Found:
    """The package zones; their sub-zones are parts of them, and psys overlaps them."""
    pattern = os.path.join(place.sysfs, "class", "powercap", "intel-rapl:*")
    paths: List[str] = []
    channels: List[Channel] = []
    problems = []
    for folder in sorted(glob.glob(pattern)):
        counter = os.path.join(folder, "energy_uj")
        try:
            name = read_text(os.path.join(folder, "name"))
            if not name.startswith("package"):
                continue
            wraps_at = read_count(os.path.join(folder, "max_energy_range_uj"))
            read_count(counter)
        except (OSError, ValueError) as error:
            problems.append(problem(folder, error))
            continue
        paths.append(counter)
        channels.append(Channel(name, "uJ", 0.0, [ASSUMED_GAIN], STEP_J, wraps_at))
    if problems:
        # One package of two is not the machine
        return None, "RAPL: " + ", ".join(problems)
    if not channels:
        return None, "RAPL: no package under {}".format(pattern)

    def read() -> Reading:
        return [(None, read_count(path)) for path in paths]

    names = ", ".join(channel.label for channel in channels)
    scope = "processor ({}); memory, board and power supply are not included".format(names)
    return (
        sensor_of(
            "RAPL energy counter",
            scope,
            "counter",
            channels,
            interval_s=UPDATE_S,
            period_s=PERIOD_S,
            read=read,
        ),
        "",
    )
