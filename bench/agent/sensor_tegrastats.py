"""tegrastats: a Jetson's own monitor, read where its rails cannot be read from sysfs.

Its lines differ by JetPack: rails came without a unit (4), with mW (5 and newer), with a minus sign
(Thor at idle), with a third number (7.2). The first number is now; the second is an average since
tegrastats started, and so of no use for a window.
"""

import os
import re
import select
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from edgekd.bench.agent import sensor_ina
from edgekd.bench.agent.sensor import (
    Channel,
    Found,
    Place,
    Reading,
    board_words,
    find_program,
    sensor_of,
)

INTERVAL_S = 0.1
TIMEOUT_S = 3.0
# A rail: a name, now/average[/highest]; temperatures have an @, loads a %, memory a unit that is no mW.
_RAIL = re.compile(
    r"(?<!\S)([A-Z][A-Z0-9_]*) (-?\d+)(?:mW)?/(-?\d+)(?:mW)?(?:/(-?\d+)(?:mW)?)?(?=\s|$)"
)
# What has the same form and is none: "RAM 1/2MB" is kept out by its unit, these by name.
NOT_RAILS = ("RAM", "SWAP", "IRAM", "CPU", "NC")


def rails_of(line: str) -> Dict[str, float]:
    """Milliwatts of now by rail; a name that stands twice is left out."""
    found: Dict[str, float] = {}
    twice = set()
    # The load of the processors is between brackets, and AGX Xavier has a rail of the same name.
    plain = re.sub(r"CPU \[[^\]]*\]\S*", "", line)
    for name, now, _, _ in _RAIL.findall(plain):
        if name in found:
            twice.add(name)
        found[name] = float(now)
    return {
        name: value
        for name, value in found.items()
        if name not in twice and (name not in NOT_RAILS or (name == "CPU" and "SYS5V" in found))
    }


def totals() -> List[Tuple[Tuple[str, ...], str, Tuple[str, ...], float]]:
    """Labels, scope, boards and shunt, Thor's input first, for it stands beside the sum of three."""
    rows = [
        (total.labels, total.scope, total.boards, total.shunt_ohm) for total in sensor_ina.TOTALS
    ]
    return [(("VIN", "VIN_SYS_5V0"), sensor_ina.THOR_SCOPE, sensor_ina.THOR, 0.002), *rows]


class _Program:
    """tegrastats, and the newest of its lines."""

    def __init__(self, program: str) -> None:
        interval = str(int(INTERVAL_S * 1e3))
        self._process = subprocess.Popen(
            [program, "--interval", interval],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._rest = b""

    def line(self) -> str:
        """The next line as it comes; older ones that wait are passed over.

        Raises:
            OSError: none came, or the program ended.
        """
        pipe: Any = self._process.stdout
        while b"\n" not in self._rest:
            ready, _, _ = select.select([pipe], [], [], TIMEOUT_S)
            if not ready:
                raise OSError("tegrastats said nothing for {:g} s".format(TIMEOUT_S))
            new = os.read(pipe.fileno(), 65536)
            if not new:
                raise OSError("tegrastats ended")
            self._rest += new
        whole, _, self._rest = self._rest.rpartition(b"\n")
        return whole.rpartition(b"\n")[2].decode("ascii", "replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def find(place: Place) -> Found:
    """The total among the rails that it prints."""
    program = find_program("tegrastats", place)
    if program is None:
        return None, "tegrastats: not installed"
    try:
        running = _Program(program)
    except OSError as error:
        return None, "tegrastats: {}".format(error)
    try:
        rails = rails_of(running.line())
    except OSError as error:
        running.close()
        return None, "tegrastats: {}".format(error)
    chosen = _total(rails, board_words(place))
    if chosen is None:
        running.close()
        shown = ", ".join(sorted(rails)) or "none"
        return None, "tegrastats: scope unknown: rails {}".format(shown)
    labels, scope, shunt_ohm = chosen

    def read() -> Reading:
        seen = rails_of(running.line())
        missing = [label for label in labels if label not in seen]
        if missing:
            raise ValueError("{}: no rail {}".format(program, ", ".join(missing)))
        return [(None, seen[label]) for label in labels]

    return (
        sensor_of(
            "tegrastats " + " + ".join(labels),
            scope,
            "power",
            [_channel(label, shunt_ohm) for label in labels],
            interval_s=INTERVAL_S,
            period_s=0.0,
            read=read,
            close=running.close,
        ),
        "",
    )


def _total(rails: Dict[str, float], words: str) -> Optional[Tuple[List[str], str, float]]:
    for labels, scope, boards, shunt_ohm in totals():
        fits = not words.strip() or any(word in words for word in boards)
        if fits and all(label in rails for label in labels):
            summed = ["VIN"] if scope == sensor_ina.THOR_SCOPE else list(labels)
            return summed, scope, shunt_ohm
    return None


def _channel(label: str, shunt_ohm: float) -> Channel:
    # It prints no voltages. The inputs of these modules are 5 V (Nano, NX: 5 mOhm) or up to 20 V; rails of the
    # AGX boards that are 5 V have it in their names.
    five = label in ("VDD_IN", "POM_5V_IN", "SYS5V", "VIN_SYS_5V0")
    channel = sensor_ina.channel_of(sensor_ina.INA3221, label, 5.0 if five else 20.0, shunt_ohm)
    return channel._replace(unit="mW")
