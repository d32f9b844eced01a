"""What a power sensor is to the agent: channels that are read together, and how wrong they may be."""

import errno
import os
import shutil
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

# Where the trees of a machine stand; fakes in tests.
Place = NamedTuple("Place", [("sysfs", str), ("proc", str), ("root", str)])

Channel = NamedTuple(
    "Channel",
    [
        ("label", str),
        # Of its values: "mA" (its millivolts are read beside them), "uW", "mW", "uJ", "mJ".
        ("unit", str),
        # Bounds by the datasheet. Of what is added to every reading, in watts:
        ("offset_w", float),
        # of independent factors on them, without a unit:
        ("gains", List[float]),
        # One step of its converter, in watts, or in joules for a counter.
        ("quantum", float),
        # Where a counter starts again, in its unit; None: never.
        ("range", Optional[int]),
    ],
)

# One number for each channel, and its millivolts where it is a current.
Reading = List[Tuple[Optional[float], float]]

Sensor = NamedTuple(
    "Sensor",
    [
        ("name", str),
        ("scope", str),  # what its joules cover
        ("kind", str),  # "power", "counter", "estimate"
        ("channels", List[Channel]),
        ("interval_s", float),  # between two fresh values of the sensor
        ("period_s", float),  # between two reads that are asked for; 0: `read` waits for a value
        ("settle_s", float),  # how long a change of the load takes to arrive in full
        # Watts are scale * (sum of the channels) + constant_w; other than 1 and 0 for an estimate.
        ("scale", float),
        ("constant_w", float),
        ("read", Callable[[], Reading]),
        ("close", Callable[[], None]),
    ],
)
Found = Tuple[Optional[Sensor], str]

# Drivers answer so while a converter is busy or its power is gated. No other error is waited out.
PASSING = (errno.EAGAIN, errno.ENODATA)


def sensor_of(name: str, scope: str, kind: str, channels: List[Channel], **more: Any) -> Sensor:
    """A sensor of plain readings; `more` are the other fields of `Sensor`."""
    usual: Dict[str, Any] = {
        "settle_s": 0.0,
        "scale": 1.0,
        "constant_w": 0.0,
        "close": lambda: None,
    }
    usual.update(more)
    return Sensor(name=name, scope=scope, kind=kind, channels=channels, **usual)


def describe_sensor(sensor: Sensor) -> Dict[str, Any]:
    """What the host has to know to make joules of the readings."""
    return {
        "name": sensor.name,
        "scope": sensor.scope,
        "kind": sensor.kind,
        "channels": [dict(channel._asdict()) for channel in sensor.channels],
        "interval_s": sensor.interval_s,
        "period_s": sensor.period_s or sensor.interval_s,
        "settle_s": sensor.settle_s,
        "scale": sensor.scale,
        "constant_w": sensor.constant_w,
    }


def monotonic_ns() -> int:
    """CLOCK_MONOTONIC, which all processes of a machine share and which does not step."""
    exact = getattr(time, "monotonic_ns", None)  # Python 3.7
    return exact() if exact is not None else int(time.monotonic() * 1e9)


def read_text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read().strip().strip("\0")


def text_or_none(path: str) -> Optional[str]:
    try:
        return read_text(path)
    except OSError:
        return None


def read_number(path: str) -> float:
    """The number that a file holds.

    Raises:
        OSError, ValueError: it cannot be read, or holds no number; the file is named.
    """
    return float(_read_named(path, float))


def read_count(path: str) -> int:
    """The whole number that a file holds, of any size.

    Raises:
        OSError, ValueError: it cannot be read, or holds no number; the file is named.
    """
    return int(_read_named(path, int))


def _read_named(path: str, kind: Callable[[str], float]) -> float:
    text = None
    try:
        text = read_text(path)
        return kind(text)
    except OSError as error:
        # The system names a file that cannot be opened, and none that cannot be read
        raise type(error)(error.errno, error.strerror, path) from error
    except ValueError as error:
        raise ValueError("{}: {!r} is no number".format(path, (text or "")[:40])) from error


def number_or_none(path: str) -> Optional[float]:
    try:
        return float(read_text(path))
    except (OSError, ValueError):
        return None


def problem(path: str, error: Exception) -> str:
    """Why a path could not be used, for people."""
    file = str(getattr(error, "filename", None) or path)
    # Of which file, where a folder was asked for
    of = " ({})".format(os.path.relpath(file, path)) if file.startswith(path + os.sep) else ""
    path = path if of else file
    if isinstance(error, PermissionError):
        return "{}: permission denied (readable by root only){}".format(path, of)
    if isinstance(error, OSError) and error.strerror:
        return "{}: {}{}".format(path, error.strerror, of)
    said = str(error)
    return said if said.startswith(path) else "{}: {}".format(path, said)


def board_words(place: Place) -> str:
    """Model and compatible strings of the device tree, in lower case; empty without one."""
    tree = os.path.join(place.proc, "device-tree")
    words = [text_or_none(os.path.join(tree, name)) or "" for name in ("model", "compatible")]
    return " ".join(words).replace("\0", " ").lower()


def find_program(name: str, place: Place) -> Optional[str]:
    """A program of the board's image: below the root, or on the search path."""
    path = os.path.join(place.root, "usr", "bin", name)
    return path if os.access(path, os.X_OK) else shutil.which(name)
