"""Joules from the log of an external meter: any logger that writes a CSV of time and power.

A meter has a clock of its own. Where it stands against the board's is found in its log: the model
ran for a while between two idle times, and nothing else looks like that. A log in which something
else does is refused, for the joules would be of that.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from edgekd.bench.analysis import energy_warnings
from edgekd.bench.analysis.energy import Analysis, analyse
from edgekd.bench.analysis.power_curve import Array
from edgekd.bench.protocol.responses import (
    ChannelResponse,
    EnergyResponse,
    PowerResponse,
    SensorResponse,
    SpanResponse,
    StateResponse,
)
from edgekd.errors import InputFileError
from edgekd.records import (
    MeasurementWarning,
    PowerTrace,
    TraceSpan,
    record,
)

MOST_BYTES: Final = 512 * 2**20
MOST_READINGS: Final = 200_000
MOST_STEPS: Final = 2**20  # of the grid that clocks are compared on
# What the log must look like where it is aligned, and may look like anywhere else at most.
LEAST_CORRELATION: Final = 0.8
RIVAL: Final = 0.9  # of the best
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


SKIPPED: Final = "-"  # the name of a column that is not read


@record
class Meter:
    """What is known of a meter. Bounds by its datasheet; a shunt's tolerance is a gain."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    scope: Annotated[
        str, Field(min_length=1, max_length=200)
    ]  # what flows through it: "5 V input, display included"
    offset_w: Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)] = 0.0
    # Of independent factors; no unit.
    gains: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(max_length=16)] = ()
    step_w: Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)] = 0.0


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
    volts: float | None = None  # of a supply that is not logged


@dataclass(frozen=True, kw_only=True)
class MeterLog:
    seconds: Array  # (n,), rising, of the meter's clock
    watts: Array  # (n,)


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Meter's clock less the board's, and how well the log fits there."""

    offset_s: float
    correlation: float  # with "the model runs", no unit
    rival: float  # the best correlation elsewhere
    step_s: float  # what the offset is known to


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
    header = first if said.header is None else _given_header(said.header, first, path)
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


def _given_header(names: tuple[str, ...], first: list[str], path: Path) -> list[str]:
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


# --- clocks ---------------------------------------------------------------------------------------


def align(log: MeterLog, trace: PowerTrace) -> Alignment:
    """Where in the log the run of a trace stands.

    Raises:
        InputFileError: nowhere, or in more than one place.
    """
    busy = trace.busy
    if busy is None or len(trace.idle) != 2:
        raise InputFileError("The run has no idle times around it to find it in a log by.")
    begin_s, end_s = trace.idle[0].begin_s, trace.idle[1].end_s
    length_s = float(log.seconds[-1])
    if length_s < end_s - begin_s:
        raise InputFileError(
            f"The log is {length_s:.1f} s long, the run {end_s - begin_s:.1f} s. Log all of it."
        )
    step_s = max(float(np.median(np.diff(log.seconds))), length_s / MOST_STEPS, 1e-3)
    grid = np.arange(0.0, length_s, step_s)
    power = np.interp(grid, log.seconds, log.watts)  # (n,)
    places = np.arange(begin_s, end_s, step_s)
    marks = ((places >= busy.begin_s) & (places < busy.end_s)).astype(np.float64)  # (m,)
    if len(marks) > len(power) or marks.std() == 0:
        raise InputFileError("The run is too short for the rate of this log.")
    found = _correlations(power, marks)  # (n - m + 1,)
    best = int(np.argmax(found))
    # What overlaps with the right place is no rival; half of the busy time away it is another.
    apart = np.abs(np.arange(len(found)) - best) * step_s > (busy.end_s - busy.begin_s) / 2
    rival = float(found[apart].max()) if apart.any() else 0.0
    if found[best] < LEAST_CORRELATION:
        raise InputFileError(
            f"Nothing in the log looks like the run (correlation {found[best]:.2f} at best). "
            "Is it of the same run, and does the meter see the board?"
        )
    if rival > RIVAL * found[best]:
        raise InputFileError(
            f"Two places in the log look like the run (correlations {found[best]:.2f} and {rival:.2f}). "
            "Cut the log to the one, or measure with longer idle times."
        )
    return Alignment(
        offset_s=float(best * step_s - begin_s),
        correlation=float(found[best]),
        rival=rival,
        step_s=step_s,
    )


def _correlations(power: Array, marks: Array) -> Array:
    """Pearson's, of the marks with each stretch of the power: (n,) and (m,) to (n - m + 1,)."""
    count = len(marks)
    size = 2 ** int(np.ceil(np.log2(len(power) + count)))
    centred = power - power.mean()
    weights = marks - marks.mean()
    spectrum = np.fft.rfft(centred, size) * np.conj(np.fft.rfft(weights, size))
    products = np.fft.irfft(spectrum, size)[: len(power) - count + 1]
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    squares = np.concatenate([[0.0], np.cumsum(centred**2)])
    totals = sums[count:] - sums[:-count]
    spread = squares[count:] - squares[:-count] - totals**2 / count
    # A stretch without any variation is not correlated with anything.
    floor = 1e-12 * max(float(squares[-1]), 1e-300)
    scale = np.sqrt(np.maximum(spread, floor) * float((weights**2).sum()))
    return np.where(spread > floor, products / scale, 0.0)


def energy_from_log(trace: PowerTrace, log: MeterLog, meter: Meter) -> tuple[Analysis, Alignment]:
    """The energy of a run by an external meter.

    Args:
        trace: of the run: its windows; its own readings, if any, are not used.
        log: of the meter.
        meter: its name, scope and bounds.

    Raises:
        InputFileError: the run cannot be found in the log.
    """
    placed = align(log, trace)
    seconds, watts = _thin(log)
    period_s = float(np.median(np.diff(seconds)))
    # A common start that keeps all times above 0.
    base_s = max(0.0, -placed.offset_s) + 1.0
    stamps = tuple(np.round((seconds + base_s) * 1e9).astype(np.int64).tolist())

    def span(found: TraceSpan) -> SpanResponse:
        shift_s = placed.offset_s + base_s
        return SpanResponse(
            begin_ns=round((found.begin_s + shift_s) * 1e9),
            end_ns=round((found.end_s + shift_s) * 1e9),
            runs=found.runs,
        )

    if trace.busy is None:
        raise InputFileError("The run has no time of calls to find it in a log by.")
    nothing = StateResponse(counts={}, alarms=(), temperatures_c={}, clocks_mhz={})
    run = EnergyResponse(
        event="energy",
        windows=tuple(span(window) for window in trace.windows),
        idle=(span(trace.idle[0]), span(trace.idle[1])),
        busy=span(trace.busy),
        before=nothing,
        after=nothing,
        pinned=True,
    )
    power = PowerResponse(
        event="power",
        begin_ns=stamps,
        end_ns=stamps,
        values=(tuple((watts * 1e3).tolist()),),
        millivolts=(None,),
        dropped=0,
        missed=0,
        problems=(),
        load=0.0,
    )
    return analyse(_sensor(meter, period_s), power, run), placed


def warnings_of_log(analysis: Analysis, meter: Meter) -> tuple[MeasurementWarning, ...]:
    """Warnings about a meter's readings and the windows that they were taken in."""
    if analysis.quality is None:
        return ()
    sensor = _sensor(meter, 1 / analysis.quality.asked_hz)
    return tuple(energy_warnings.about_quality(analysis.quality, sensor))


def _sensor(meter: Meter, period_s: float) -> SensorResponse:
    return SensorResponse(
        event="sensor",
        name=meter.name,
        scope=meter.scope,
        kind="power",
        channels=(
            ChannelResponse(
                label=meter.name,
                unit="mW",
                offset_w=meter.offset_w,
                gains=meter.gains,
                quantum=meter.step_w,
                range=None,
            ),
        ),
        interval_s=period_s,
        period_s=period_s,
        settle_s=0.0,
        scale=1.0,
        constant_w=0.0,
    )


def _thin(log: MeterLog) -> tuple[Array, Array]:
    """Means of as many readings as leave no more than can be handled."""
    block = -(-len(log.seconds) // MOST_READINGS)
    kept = len(log.seconds) // block * block
    return (
        log.seconds[:kept].reshape(-1, block).mean(axis=1),
        log.watts[:kept].reshape(-1, block).mean(axis=1),
    )
