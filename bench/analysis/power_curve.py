"""Readings of power as energy over any window. Written for seconds, watts and joules alone.

Power is integrated by trapezoids, with the edges of a window interpolated; a counter is unwrapped
and interpolated. Repeated readings stay in: between two of them the power did not change, as far as
anybody knows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Energy since the first reading at any time between the first and the last."""

    seconds: Array  # (n,), rising
    joules: Array  # (n,)
    watts: Array | None  # (n,), at each time; None: the power between two is constant

    def energy_j(self, begin_s: float, end_s: float) -> float:
        """Joules from begin to end, both within the readings."""
        low, high = self._until(np.array([begin_s, end_s]))
        return float(high - low)

    def power_w(self, begin_s: float, end_s: float) -> float:
        """Mean watts from begin to end."""
        return self.energy_j(begin_s, end_s) / (end_s - begin_s)

    def covers(self, begin_s: float, end_s: float) -> bool:
        return len(self.seconds) >= 2 and bool(
            self.seconds[0] <= begin_s and end_s <= self.seconds[-1]
        )

    def _until(self, times: Array) -> Array:
        if self.watts is None:
            return np.interp(times, self.seconds, self.joules)
        place = np.clip(np.searchsorted(self.seconds, times) - 1, 0, len(self.seconds) - 2)
        passed = times - self.seconds[place]
        slope = np.diff(self.watts)[place] / np.diff(self.seconds)[place]
        return self.joules[place] + passed * (self.watts[place] + slope * passed / 2)


def curve_of_power(seconds: Array, watts: Array) -> Curve:
    """Trapezoids between readings: (n,) seconds, rising, and (n,) watts."""
    steps = np.diff(seconds) * (watts[1:] + watts[:-1]) / 2
    return Curve(seconds=seconds, joules=np.concatenate([[0.0], np.cumsum(steps)]), watts=watts)


def unwrap_counter(counts: Array, wraps_at: float | None) -> Array:
    """A counter since its first reading, as if it never started again at `wraps_at`; (n,) to (n,).

    Right as long as it is read at least once between two wraps.
    """
    steps = np.diff(counts)
    if wraps_at is not None:
        steps = np.where(steps < 0, steps + wraps_at, steps)
    return np.concatenate([[0.0], np.cumsum(steps)])


def curve_of_counter(begin_s: Array, end_s: Array, joules: Array, interval_s: float) -> Curve:
    """Through the readings that show a fresh value, at the time when it most likely became so.

    That is in the middle of what is possible: after the reading before, before this one, and no
    more than an update of the counter ago.

    Args:
        begin_s: (n,), before each reading.
        end_s: (n,), after it.
        joules: (n,), unwrapped.
        interval_s: between two updates of the counter.
    """
    moments = (begin_s + end_s) / 2
    earliest = np.maximum(np.concatenate([moments[:1], moments[:-1]]), moments - interval_s)
    fresh = np.concatenate([[True], np.diff(joules) != 0])
    times = ((earliest + moments) / 2)[fresh]
    # The first value may be as old as an update; its time is not known from one side.
    times[0] = moments[0] - min(interval_s, float(moments[-1] - moments[0])) / 2
    knots, first = np.unique(times, return_index=True)
    return Curve(seconds=knots, joules=joules[fresh][first], watts=None)
