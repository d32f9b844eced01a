"""Raspberry Pi: an estimate of the Pi 5's power from its power chip, and what the firmware throttled."""

import re
import subprocess
from typing import Dict, List, Tuple

from edgekd.bench.agent.sensor import (
    Channel,
    Found,
    Place,
    Reading,
    find_program,
    sensor_of,
)

# "VDD_CORE_A current(7)=0.98500000A", "VDD_CORE_V volt(15)=0.72000000V"
_LINE = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(-?[\d.]+)[AV]\s*$", re.MULTILINE)
# Wall power over the sum of the rails, fitted on one board by jfikar/RPi5-power. What hangs on 5 V (USB, HATs,
# NVMe) is not in the rails, and no other board was tried: an estimate, whatever is done with it.
SCALE = 1.1451
CONSTANT_W = 0.5879
SCOPE = (
    "5 V input, estimated from the rails of the power chip by a fit of one other board; "
    "USB, HAT and NVMe are not included"
)
# Each read starts a program
PERIOD_S = 0.2
TIMEOUT_S = 5.0
# `vcgencmd get_throttled`: bits of now; 16 higher, of any time since boot.
BITS = (
    (0, "under-voltage"),
    (1, "frequency capped"),
    (2, "throttled"),
    (3, "soft temperature limit"),
)
SINCE_BOOT = 16


def find(place: Place) -> Found:
    """The rails of the power chip whose current and voltage are both told."""
    program = find_program("vcgencmd", place)
    if program is None:
        return None, "PMIC: no vcgencmd"
    asked = [program, "pmic_read_adc"]
    try:
        labels = sorted(rails_of(_run_command(asked)))
    except (OSError, subprocess.SubprocessError) as error:
        return None, "PMIC: {}".format(error)
    if not labels:
        return None, "PMIC: {} knows no currents; they came with the Raspberry Pi 5".format(program)

    def read() -> Reading:
        rails = rails_of(_run_command(asked))
        missing = [label for label in labels if label not in rails]
        if missing:
            raise ValueError("{}: no rail {}".format(program, ", ".join(missing)))
        return [rails[label] for label in labels]

    return (
        sensor_of(
            "Raspberry Pi power chip",
            SCOPE,
            "estimate",
            # Nobody says how wrong its converter may be.
            [Channel(label, "mA", 0.0, [], 0.0, None) for label in labels],
            interval_s=PERIOD_S,
            period_s=PERIOD_S,
            scale=SCALE,
            constant_w=CONSTANT_W,
            read=read,
        ),
        "",
    )


def rails_of(text: str) -> Dict[str, Tuple[float, float]]:
    """By rail, its millivolts and milliamperes; EXT5V and BATT have no current and are left out."""
    volts: Dict[str, float] = {}
    amperes: Dict[str, float] = {}
    for label, unit, value in _LINE.findall(text):
        (volts if unit == "V" else amperes)[label] = float(value) * 1e3
    return {label: (volts[label], amperes[label]) for label in volts if label in amperes}


def read_throttling(place: Place) -> Tuple[Dict[str, int], List[str]]:
    """What happened since boot (1 or 0), and what is so now; empty without the firmware's program."""
    program = find_program("vcgencmd", place)
    if program is None:
        return {}, []
    try:
        found = re.search(r"throttled=(0x[0-9a-fA-F]+)", _run_command([program, "get_throttled"]))
    except (OSError, subprocess.SubprocessError):
        return {}, []
    if found is None:
        return {}, []
    bits = int(found.group(1), 16)
    since = {name: bits >> (bit + SINCE_BOOT) & 1 for bit, name in BITS}
    return since, [name for bit, name in BITS if bits >> bit & 1]


def _run_command(command: List[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=True,
    )
    return done.stdout.decode("ascii", "replace")
