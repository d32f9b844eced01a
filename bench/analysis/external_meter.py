"""Joules from the log of an external meter: any logger that writes a CSV of time and power.

A meter has a clock of its own. Where it stands against the board's is found in its log: the model
ran for a while between two idle times, and nothing else looks like that. A log in which something
else does is refused, for the joules would be of that.
"""

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from edgekd.bench.analysis import energy_warnings
from edgekd.bench.analysis.energy import Analysis, analyse
from edgekd.bench.analysis.meter_log import MeterLog
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
from edgekd.records import MeasurementWarning, PowerTrace, TraceSpan, record

MOST_READINGS: Final = 200_000
# Of the grid that clocks are compared on
MOST_STEPS: Final = 2**20
# What the log must look like where it is aligned, and may look like anywhere else at most.
LEAST_CORRELATION: Final = 0.8
RIVAL: Final = 0.9  # of the best


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


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Meter's clock less the board's, and how well the log fits there."""

    offset_s: float
    # With "the model runs", no unit
    correlation: float
    # The best correlation elsewhere
    rival: float
    # What the offset is known to
    step_s: float


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
