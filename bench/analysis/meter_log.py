"""The log of an external meter: any CSV of times and powers, or of currents and voltages."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgekd.bench.analysis.power_curve import Array
from edgekd.errors import InputFileError
from edgekd.records import record

MOST_BYTES: Final = 512 * 2**20
SECONDS: Final[Mapping[str, float]] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
WATTS: Final[Mapping[str, float]] = {"w": 1.0, "mw": 1e-3, "uw": 1e-6, "µw": 1e-6}
AMPERES: Final[Mapping[str, float]] = {"a": 1.0, "ma": 1e-3, "ua": 1e-6, "µa": 1e-6}
VOLTS: Final[Mapping[str, float]] = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "µv": 1e-6}
_NAMES: Final = {
    "time": r"time|timestamp|elapsed|^t\b|^seconds$",
    "power": r"power|^p\b|watt",
    "current": r"current|^i\b|\bamp",
    "voltage": r"volt|^u\b|^v\b",
}
_UNIT: Final = re.compile(r"[(\[]\s*([a-zµ]+)\s*[)\]]|[_ ]([a-zµ]{1,2})$")


# The name of a column that is not read
SKIPPED: Final = "-"


@record
class LogColumns:
    """Names of columns and units, where the header does not say them."""

    header: tuple[str, ...] | None = (
        None  # of a log that has none: a name with its unit for each column; "-" for none
    )
    time: str | None = None
    time_unit: str | None = None
    power: str | None = None
    power_unit: str | None = None
    current: str | None = None
    current_unit: str | None = None
    voltage: str | None = None
    voltage_unit: str | None = None
    # Of a supply that is not logged
    volts: float | None = None


@dataclass(frozen=True, kw_only=True)
class MeterLog:
    seconds: Array  # (n,), rising, of the meter's clock
    watts: Array  # (n,)


def read_log(path: Path, columns: LogColumns | None = None) -> MeterLog:
    """A CSV separated by commas, semicolons or tabs, with a header unless `columns.header` stands in for it.

    Args:
        path: the file.
        columns: what the header does not say.

    Raises:
        InputFileError: it is none, a column or unit is not known, or time does not rise.
    """
    said = columns or LogColumns()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputFileError(f"{path}: larger than {MOST_BYTES >> 20} MiB. Cut it to the run.")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputFileError(f"{path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputFileError(f"{path}: not a text file.") from error
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if len(lines) + (said.header is not None) < 3:
        raise InputFileError(f"{path}: a header and at least two readings are needed.")
    separator = max(";\t,", key=lines[0].count)
    first = [name.strip().strip('"') for name in next(csv.reader(lines[:1], delimiter=separator))]
    header = first if said.header is None else _make_header(said.header, first, path)
    readings = lines[1:] if said.header is None else lines
    wanted = _find_columns(header, said, path)
    places = [header.index(name) for name, _ in wanted.values()]
    try:
        rows = [
            [float(row[place]) for place in places]
            for row in csv.reader(readings, delimiter=separator)
        ]
    except (ValueError, IndexError) as error:
        raise InputFileError(
            f"{path}: a row that holds no numbers where the header names them ({error}). "
            "Decimal points, no commas."
        ) from error
    table = np.array(rows, dtype=np.float64) * [factor for _, factor in wanted.values()]
    found = dict(zip(wanted, table.T, strict=True))
    watts = found.get("power")
    if watts is None:
        volts = found["voltage"] if "voltage" in found else np.full(len(table), said.volts)
        watts = found["current"] * volts
    seconds = found["time"]
    if not (np.isfinite(seconds).all() and np.isfinite(watts).all()):
        raise InputFileError(f"{path}: readings that are not finite.")
    if (np.diff(seconds) <= 0).any():
        raise InputFileError(f"{path}: time does not rise from row to row.")
    return MeterLog(seconds=seconds - seconds[0], watts=watts)


def _find_columns(header: list[str], said: LogColumns, path: Path) -> dict[str, tuple[str, float]]:
    """By quantity: its column, and what to multiply it with for seconds, watts, amperes, volts."""
    if said.header is None and said.time is None and not any(map(_is_name, header)):
        raise InputFileError(
            f"{path}: no header, its first line holds numbers. Name all columns in their order, with units: "
            "--columns time_s,voltage_v,current_a"
        )
    kinds = {
        "time": (said.time, said.time_unit, SECONDS),
        "power": (said.power, said.power_unit, WATTS),
        "current": (said.current, said.current_unit, AMPERES),
        "voltage": (said.voltage, said.voltage_unit, VOLTS),
    }
    found = {}
    for kind, (column, unit, units) in kinds.items():
        if column is not None and column not in header:
            raise InputFileError(f"{path}: no column {column!r}; there are {', '.join(header)}.")
        fitting = [
            name for name in header if re.search(_NAMES[kind], name.lower())
        ] if column is None else [column]  # fmt: skip
        if len(fitting) > 1:
            raise InputFileError(
                f"{path}: {kind} may be {' or '.join(fitting)}. Name the column to take."
            )
        if fitting:
            found[kind] = (fitting[0], _factor(fitting[0], unit, units, path))
    if "time" not in found:
        raise InputFileError(f"{path}: no column of times among {', '.join(header)}. Name it.")
    if "power" in found:
        return {kind: found[kind] for kind in ("time", "power")}
    if "current" in found and ("voltage" in found or said.volts is not None):
        return found
    raise InputFileError(
        f"{path}: neither a power nor a current with a voltage among {', '.join(header)}. "
        "Name the columns, or the voltage of the supply."
    )


def _make_header(names: tuple[str, ...], first: list[str], path: Path) -> list[str]:
    """The names of all columns, for a log without a header.

    Raises:
        InputFileError: a name is not known, or the log has other columns, or a header.
    """
    for name in names:
        if name != SKIPPED and not any(re.search(form, name.lower()) for form in _NAMES.values()):
            raise InputFileError(
                f"--columns: {name!r} is no time, power, voltage or current with its unit; write {SKIPPED} to skip a column."
            )
    if len(names) != len(first):
        raise InputFileError(
            f"{path}: --columns names {len(names)} columns, and the first line has {len(first)}: {', '.join(first)}. "
            f"Write {SKIPPED} for a column to skip."
        )
    cells = [cell for cell, name in zip(first, names, strict=True) if name != SKIPPED]
    if any(map(_is_name, cells)):
        raise InputFileError(
            f"{path}: its first line holds no numbers: {', '.join(first)}. If it is a header, leave out --columns."
        )
    return list(names)


def _is_name(text: str) -> bool:
    """Whether a cell holds no number."""
    try:
        float(text)
    except ValueError:
        return True
    return False


def _factor(name: str, unit: str | None, units: Mapping[str, float], path: Path) -> float:
    if unit is None:
        seen = _UNIT.search(name.lower())
        unit = (seen[1] or seen[2]) if seen else None
        if unit is None and name.lower() == "seconds":
            unit = "s"
    if unit is None or unit.lower() not in units:
        raise InputFileError(
            f"{path}: the unit of {name!r} is not known ({unit}); give one of {', '.join(units)}."
        )
    return units[unit.lower()]
