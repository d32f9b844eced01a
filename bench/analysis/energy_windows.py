"""Energies of the windows of a run, and the parts that their uncertainty is made of.

The bounds of a sensor are its datasheet's, by rail. An offset is the same at rest and under load, so
it cancels in the net energy; a gain does not. A converter's step averages out only where noise moves
the reading over several steps; a quiet load stays within one, and is off by up to half of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgekd.bench.analysis.confidence_intervals import effective_count, half_width, student_factor
from edgekd.bench.analysis.power_curve import Array, Curve
from edgekd.bench.protocol.responses import SensorResponse
from edgekd.records import (
    Energy,
    EnergyUncertainty,
    PowerTrace,
    Samples,
    Unmeasured,
)

# Standard deviation of a time that is only known to lie within a step of both edges: sqrt(2 / 12).
EDGE: Final = 0.41
# Steps with this share of the readings count as visited; three of them, and noise has dithered the converter.
VISITED: Final = 0.01
DITHERED_STEPS: Final = 3
# 95 % points of chi square over its degrees of freedom, by these: beyond, windows differ by more than noise.
_MORE_THAN_NOISE: Final = (3.84, 3.00, 2.60, 2.37, 2.21, 2.10, 2.01, 1.94, 1.88)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the warnings about an energy are drawn from."""

    asked_hz: float
    # Of fresh readings
    rate_hz: float
    # Within the windows
    longest_gap_s: float
    # Share of the readings that only repeat the one before
    repeats: float
    # A rail stayed within two steps of its converter
    undithered: bool
    # Half a step of such rails, over the power; no unit
    step_share: float
    # Gross energy of a call, by window
    windows_j: tuple[float, ...]
    # Of the windows
    shortest_s: float
    # That a window should last at this rate
    needed_s: float
    # From before to after, over the net power; no unit
    idle_drift: float | None


@dataclass(frozen=True, kw_only=True)
class Rail:
    """One channel of the sensor: energy in joules and, of its reading, what it may be wrong by."""

    curve: Curve
    offset_w: float
    gains: tuple[float, ...]
    step_w: float
    seconds: Array  # (n,), of the readings
    watts: Array  # (n,)

    def within(self, begin_s: float, end_s: float) -> Array:
        inside = (self.seconds >= begin_s) & (self.seconds <= end_s)
        return self.watts[inside]

    def dither_bound_w(self, spans: Sequence["Window"]) -> float:
        """Half a step where the readings of these spans stay within two steps, else 0."""
        if not self.step_w:
            return 0.0
        watts = np.concatenate([self.within(span.begin_s, span.end_s) for span in spans])
        _, counts = np.unique(np.round(watts / self.step_w), return_counts=True)
        visited = int((counts > VISITED * len(watts)).sum())
        return 0.0 if visited >= DITHERED_STEPS else self.step_w / 2


@dataclass(frozen=True, kw_only=True)
class Window:
    begin_s: float
    end_s: float
    runs: int

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s


class WindowEnergies:
    """Energies of the windows, and the parts that their uncertainty is made of."""

    def __init__(
        self,
        sensor: SensorResponse,
        rails: Sequence[Rail],
        windows: Sequence[Window],
        idle: Sequence[Window],
    ) -> None:
        self._sensor = sensor
        self._rails = rails
        self._windows = windows
        self._idle = idle
        self._call_s = [window.seconds / window.runs for window in windows]
        self.gross_j = [self.power_w(window) * each for window, each in self._each()]
        self._idle_w = [self.power_w(span) for span in idle]

    def _each(self) -> list[tuple[Window, float]]:
        return list(zip(self._windows, self._call_s, strict=True))

    def power_w(self, span: Window) -> float:
        """Mean of all rails, as what the sensor stands for."""
        rails = sum(rail.curve.power_w(span.begin_s, span.end_s) for rail in self._rails)
        return self._sensor.scale * rails + self._sensor.constant_w

    def totals(self, moments: Array) -> tuple[Array, Array]:
        """All rails together, for a picture: (n,) seconds and watts."""
        if self._sensor.kind == "counter":
            seconds = self._rails[0].seconds
            parts: list[Array] = [
                np.interp(seconds, rail.seconds, rail.watts) for rail in self._rails
            ]
        else:
            seconds = moments
            parts = [rail.watts for rail in self._rails]
        return seconds, self._sensor.scale * np.sum(parts, axis=0) + self._sensor.constant_w

    def energy(self, trace: PowerTrace) -> Energy:
        estimated = self._sensor.kind == "estimate"
        missing = Unmeasured(reason="no idle time was measured")
        idle: Samples | Unmeasured = missing
        net: Samples | Unmeasured = missing
        if self._idle_w:
            idle_w = float(np.mean(self._idle_w))
            idle_j = [idle_w * each for each in self._call_s]
            idle = Samples(values=tuple(idle_j), unit="J")
            differences = [one - other for one, other in zip(self.gross_j, idle_j, strict=True)]
            net = Samples(values=tuple(differences), unit="J")
        return Energy(
            gross=Samples(values=tuple(self.gross_j), unit="J"),
            idle=idle,
            net=net,
            uncertainty=None if estimated else self._uncertainty(),
            kind="estimate" if estimated else "measured",
            scope=self._sensor.scope,
            sensor=self._sensor.name,
            rate_hz=self._rate_hz(),
            window_s=min(window.seconds for window in self._windows),
            idle_before_w=self._idle_w[0] if self._idle_w else None,
            idle_after_w=self._idle_w[1] if self._idle_w else None,
            trace=trace,
        )

    def _uncertainty(self) -> EnergyUncertainty:
        call_s = float(np.mean(self._call_s))
        load_w = [self._mean_w(rail, self._windows) for rail in self._rails]
        step_w = np.array([rail.dither_bound_w(self._windows) for rail in self._rails])
        offset_w = np.array([rail.offset_w for rail in self._rails])
        noise_w = self._load_noise_w()
        edge_w = self._edge_w()
        gross = half_width(
            np.concatenate([offset_w, self._gain_w(load_w), step_w]),
            float(np.hypot(noise_w, edge_w)),
        )
        if not self._idle:
            return EnergyUncertainty(gross_j=gross * call_s, idle_j=None, net_j=None)
        rest_w = [self._mean_w(rail, self._idle) for rail in self._rails]
        rest_step_w = np.array([rail.dither_bound_w(self._idle) for rail in self._rails])
        rest_noise_w = self._within_w(self._idle)
        drift_w = np.array([abs(self._idle_w[1] - self._idle_w[0]) / 2])
        idle = half_width(
            np.concatenate([offset_w, self._gain_w(rest_w), rest_step_w, drift_w]), rest_noise_w
        )
        net_w = [load - rest for load, rest in zip(load_w, rest_w, strict=True)]
        net = half_width(
            np.concatenate([self._gain_w(net_w), step_w, rest_step_w, drift_w]),
            float(np.sqrt(noise_w**2 + edge_w**2 + rest_noise_w**2)),
        )
        return EnergyUncertainty(gross_j=gross * call_s, idle_j=idle * call_s, net_j=net * call_s)

    def _mean_w(self, rail: Rail, spans: Sequence[Window]) -> float:
        joules = sum(rail.curve.energy_j(span.begin_s, span.end_s) for span in spans)
        return joules / sum(span.seconds for span in spans)

    def _gain_w(self, powers_w: Sequence[float]) -> Array:
        return np.array(
            [
                gain * abs(watts)
                for rail, watts in zip(self._rails, powers_w, strict=True)
                for gain in rail.gains
            ]
        )

    def _load_noise_w(self) -> float:
        """Standard error of the mean power: of the readings, or of the windows where they differ by more.

        Windows of one run hold the same noise as their readings, so one of both is taken, not the sum.
        """
        within_w = self._within_w(self._windows)
        degrees = len(self._windows) - 1
        if degrees == 0:
            return within_w
        powers = [self.power_w(window) for window in self._windows]
        between_w = float(np.std(powers, ddof=1) / np.sqrt(len(powers)))
        limit = _MORE_THAN_NOISE[min(degrees, len(_MORE_THAN_NOISE)) - 1]
        if between_w**2 <= limit * within_w**2:
            return within_w
        return max(within_w, between_w * student_factor(degrees))

    def _within_w(self, spans: Sequence[Window]) -> float:
        """Standard error of the mean power over these spans, from how the readings vary in each."""
        if self._sensor.kind == "counter":
            # It misses nothing; its edges are counted apart
            return 0.0
        variance = 0.0
        for span in spans:
            parts = [rail.within(span.begin_s, span.end_s) for rail in self._rails]
            watts = self._sensor.scale * np.sum(parts, axis=0)
            if len(watts) > 1:
                variance += float(np.var(watts, ddof=1)) / effective_count(watts)
        return float(np.sqrt(variance)) / len(spans)

    def _edge_w(self) -> float:
        """What times of readings that are known to a step do to the mean power, standard deviation."""
        parts = []
        for window in self._windows:
            if self._sensor.kind == "counter":
                step_s = min(self._sensor.period_s, self._sensor.interval_s)
                swing_w = self.power_w(window)
            else:
                step_s = self._sensor.period_s
                swing_w = self._swing_w(window)
            parts.append(EDGE * step_s * swing_w / window.seconds)
        return float(np.sqrt(np.sum(np.square(parts)))) / len(parts)

    def _swing_w(self, window: Window) -> float:
        """By how much the readings around an edge differ, root mean square of the two edges."""
        squares = []
        for edge_s in (window.begin_s, window.end_s):
            around_w = 0.0
            for rail in self._rails:
                after = int(
                    np.clip(np.searchsorted(rail.seconds, edge_s), 1, len(rail.seconds) - 1)
                )
                around_w += float(rail.watts[after] - rail.watts[after - 1])
            squares.append(around_w**2)
        return float(np.sqrt(np.mean(squares))) * self._sensor.scale

    # --- for the warnings ---------------------------------------------------------------------------

    def _rate_hz(self) -> float:
        """Of readings that differ from the one before, in the windows."""
        fresh = self._fresh_counts()
        return sum(fresh) / sum(window.seconds for window in self._windows)

    def _fresh_counts(self) -> list[int]:
        return [
            max(
                int((np.diff(rail.within(window.begin_s, window.end_s)) != 0).sum())
                for rail in self._rails
            )
            for window in self._windows
        ]

    def quality(self, moments: Array) -> Quality:
        inside = [
            moments[(moments >= window.begin_s) & (moments <= window.end_s)]
            for window in self._windows
        ]
        edges = [
            np.concatenate([[window.begin_s], each, [window.end_s]])
            for window, each in zip(self._windows, inside, strict=True)
        ]
        readings = sum(len(each) for each in inside)
        load_w = float(np.mean([self.power_w(window) for window in self._windows]))
        step_w = sum(rail.dither_bound_w(self._windows) for rail in self._rails)
        drift = None
        if self._idle_w:
            net_w = load_w - float(np.mean(self._idle_w))
            drift = abs(self._idle_w[1] - self._idle_w[0]) / abs(net_w) if net_w else None
        counter = self._sensor.kind == "counter"
        interval_s = self._sensor.interval_s if counter else self._sensor.period_s
        return Quality(
            asked_hz=1 / self._sensor.period_s,
            rate_hz=readings / sum(window.seconds for window in self._windows),
            longest_gap_s=max(float(np.diff(each).max()) for each in edges),
            repeats=1 - sum(self._fresh_counts()) / max(readings, 1),
            undithered=step_w > 0,
            step_share=step_w / load_w if load_w > 0 else 0.0,
            windows_j=tuple(self.gross_j),
            shortest_s=min(window.seconds for window in self._windows),
            needed_s=minimum_window_s(interval_s, counter=counter),
            idle_drift=drift,
        )


def minimum_window_s(interval_s: float, *, counter: bool) -> float:
    """How long a window should be at least, for edges that are off by 0.41 of an interval to stay below 0.5 %.

    A counter that lives in a graphics card gets 10 s, for the card's own averages to pass.
    """
    needed = 82 * interval_s
    return max(needed, 10.0) if counter and interval_s >= 0.05 else needed
