"""Joules for each inference, from the agent's readings and windows. `energy_windows.py` says how far they may be off."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgekd.bench.analysis.energy_windows import (
    Quality,
    Rail,
    Window,
    WindowEnergies,
)
from edgekd.bench.analysis.power_curve import (
    Array,
    curve_of_counter,
    curve_of_power,
    unwrap_counter,
)
from edgekd.bench.protocol.responses import (
    EnergyResponse,
    PowerResponse,
    SensorResponse,
    SpanResponse,
)
from edgekd.errors import DeviceError
from edgekd.records import (
    Energy,
    PowerTrace,
    TraceSpan,
    Unmeasured,
)

MOST_POINTS: Final = 20_000
WATTS: Final = {"mA": 1e-6, "uW": 1e-6, "mW": 1e-3}  # mA times mV
JOULES: Final = {"uJ": 1e-6, "mJ": 1e-3}


@dataclass(frozen=True, kw_only=True)
class Analysis:
    energy: Energy
    # None: nothing was integrated
    quality: Quality | None


def analyse(sensor: SensorResponse, power: PowerResponse, run: EnergyResponse) -> Analysis:
    """The energy of a run, or why it has none.

    Raises:
        DeviceError: the readings cannot be: not those of this sensor, or of a clock that steps back.
    """
    begin_s, end_s = _times(power, sensor)
    moments = (begin_s + end_s) / 2
    windows = [_window(span, power) for span in run.windows]
    idle = [_window(span, power) for span in run.idle if span.end_ns > span.begin_ns]
    if len(moments) < 2:
        return _without(sensor, f"{sensor.name} was read {len(moments)} times{_why(power)}")
    rails = [_rail(sensor, power, index, begin_s, end_s) for index in range(len(sensor.channels))]
    reach = (*windows, *idle)
    if not all(rail.curve.covers(span.begin_s, span.end_s) for rail in rails for span in reach):
        if sensor.kind == "counter" and any(len(rail.curve.seconds) < 2 for rail in rails):
            return _without(sensor, f"{sensor.name} did not move while the model ran")
        return _without(sensor, f"{sensor.name} stopped before the windows ended{_why(power)}")
    taken = WindowEnergies(sensor, rails, windows, idle if len(idle) == 2 else [])
    if sensor.kind == "counter" and not all(value > 0 for value in taken.gross_j):
        return _without(sensor, f"{sensor.name} did not move while the model ran")
    trace = _trace(moments, taken, windows, idle, _window(run.busy, power))
    return Analysis(energy=taken.energy(trace), quality=taken.quality(moments))


def without_sensor(run: EnergyResponse) -> Energy:
    """Windows that wait for the readings of an external meter (`edgekd.bench.analysis.external_meter`)."""
    base_ns = run.idle[0].begin_ns

    def span(found: SpanResponse) -> TraceSpan:
        return TraceSpan(
            begin_s=(found.begin_ns - base_ns) / 1e9,
            end_s=(found.end_ns - base_ns) / 1e9,
            runs=found.runs,
        )

    return Energy(
        gross=Unmeasured(reason="an external meter was to be read, and its readings are not here"),
        scope="what the external meter sees",
        sensor="none",
        trace=PowerTrace(
            seconds=(),
            watts=(),
            windows=tuple(span(window) for window in run.windows),
            idle=tuple(span(window) for window in run.idle),
            busy=span(run.busy),
        ),
    )


def _why(power: PowerResponse) -> str:
    return f": {power.problems[0]}" if power.problems else ""


def _without(sensor: SensorResponse, reason: str) -> Analysis:
    energy = Energy(
        gross=Unmeasured(reason=reason),
        idle=Unmeasured(reason=reason),
        net=Unmeasured(reason=reason),
        kind="estimate" if sensor.kind == "estimate" else "measured",
        scope=sensor.scope,
        sensor=sensor.name,
    )
    return Analysis(energy=energy, quality=None)


# --- readings -------------------------------------------------------------------------------------


def _window(span: SpanResponse, power: PowerResponse) -> Window:
    base_ns = power.begin_ns[0] if power.begin_ns else 0
    return Window(
        begin_s=(span.begin_ns - base_ns) / 1e9,
        end_s=(span.end_ns - base_ns) / 1e9,
        runs=span.runs,
    )


def _times(power: PowerResponse, sensor: SensorResponse) -> tuple[Array, Array]:
    if len(power.values) != len(sensor.channels):
        raise DeviceError(
            f"The agent's sensor has {len(sensor.channels)} channels, its readings {len(power.values)}."
        )
    base_ns = power.begin_ns[0] if power.begin_ns else 0
    begin_s = np.array([each - base_ns for each in power.begin_ns], dtype=np.float64) / 1e9
    end_s = np.array([each - base_ns for each in power.end_ns], dtype=np.float64) / 1e9
    moments = (begin_s + end_s) / 2
    if (end_s < begin_s).any() or (np.diff(moments) <= 0).any():
        raise DeviceError(
            "The clock of the agent's readings steps back, which CLOCK_MONOTONIC does not. "
            "Measure again; if it does so again, the board's kernel is at fault."
        )
    return begin_s, end_s


def _rail(
    sensor: SensorResponse, power: PowerResponse, index: int, begin_s: Array, end_s: Array
) -> Rail:
    channel = sensor.channels[index]
    values = np.asarray(power.values[index], dtype=np.float64)
    moments = (begin_s + end_s) / 2
    if sensor.kind == "counter":
        joules_each = JOULES.get(channel.unit)
        if joules_each is None:
            raise DeviceError(f"The agent's counter counts {channel.unit}.")
        joules = unwrap_counter(values, channel.range) * joules_each
        curve = curve_of_counter(begin_s, end_s, joules, sensor.interval_s)
        steps = np.maximum(np.diff(curve.seconds), 1e-9)
        seconds, watts, step_w = curve.seconds[1:], np.diff(curve.joules) / steps, 0.0
    else:
        watts_each = WATTS.get(channel.unit)
        if watts_each is None:
            raise DeviceError(f"The agent's power sensor gives {channel.unit}.")
        millivolts = power.millivolts[index]
        if (channel.unit == "mA") != (millivolts is not None):
            raise DeviceError(f"The agent gives {channel.unit} with the wrong voltages.")
        watts = values * watts_each
        if millivolts is not None:
            watts = watts * np.asarray(millivolts, dtype=np.float64)
        curve = curve_of_power(moments, watts)
        seconds, step_w = moments, channel.quantum
    return Rail(
        curve=curve,
        offset_w=channel.offset_w,
        gains=channel.gains,
        step_w=step_w,
        seconds=seconds,
        watts=watts,
    )


def _trace(
    moments: Array,
    taken: WindowEnergies,
    windows: Sequence[Window],
    idle: Sequence[Window],
    busy: Window,
) -> PowerTrace:
    seconds, watts = taken.totals(moments)
    # Means of so many, where there are too many to keep
    block = -(-len(seconds) // MOST_POINTS)
    kept = len(seconds) // block * block
    seconds, watts = (column[:kept].reshape(-1, block).mean(axis=1) for column in (seconds, watts))

    def span(found: Window) -> TraceSpan:
        return TraceSpan(begin_s=found.begin_s, end_s=found.end_s, runs=found.runs)

    return PowerTrace(
        # Microseconds and microwatts: more digits would be noise, and half of the file.
        seconds=tuple(np.round(seconds, 6).tolist()),
        watts=tuple(np.round(watts, 6).tolist()),
        windows=tuple(span(each) for each in windows),
        idle=tuple(span(each) for each in idle),
        busy=span(busy),
    )
