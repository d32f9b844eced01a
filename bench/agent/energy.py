"""Joules over a window of back-to-back calls; never over one call, which no sensor resolves."""

import threading
from typing import Any, Callable, List, NamedTuple, Tuple

from edgekd.bench.agent import sensors

# RAPL counters hold minutes; INA3221 converts about every 7 ms a channel and a read waits for it.
COUNTER_EVERY_S = 0.5
POWER_EVERY_S = 0.02

Window = NamedTuple("Window", [("joules", float), ("runs", int), ("seconds", float)])
# Seconds, and joules since the first reading (a counter) or watts (a power sensor).
Reading = Tuple[float, float]


def counter_joules(readings: List[Tuple[float, int]], range_uj: int) -> List[Reading]:
    """Counts in uJ as joules since the first, with the wraps at `range_uj` undone.

    A wrap is seen as long as the counter is read at least once between two of them.
    """
    total_uj = 0
    joules = []
    last_uj = readings[0][1]
    for seconds, count_uj in readings:
        step_uj = count_uj - last_uj
        total_uj += step_uj if step_uj >= 0 else step_uj + range_uj
        last_uj = count_uj
        joules.append((seconds, total_uj / 1e6))
    return joules


def value_at(readings: List[Reading], seconds: float) -> float:
    """Linear between readings, constant beyond them."""
    if seconds <= readings[0][0]:
        return readings[0][1]
    for index in range(1, len(readings)):
        (before_s, before), (after_s, after) = readings[index - 1], readings[index]
        if seconds <= after_s:
            if after_s == before_s:
                return after
            return before + (after - before) * (seconds - before_s) / (after_s - before_s)
    return readings[-1][1]


def power_joules(readings: List[Reading], start_s: float, end_s: float) -> float:
    """Watts integrated from start to end by trapezoids, interpolated at both edges."""
    inside = [reading for reading in readings if start_s < reading[0] < end_s]
    edges = [(start_s, value_at(readings, start_s)), *inside, (end_s, value_at(readings, end_s))]
    return sum(
        (edges[index][0] - edges[index - 1][0]) * (edges[index][1] + edges[index - 1][1]) / 2.0
        for index in range(1, len(edges))
    )


def measure_window(
    sensor: sensors.Sensor, call: Callable[[], None], seconds: float, now: Callable[[], int]
) -> Window:
    """Run calls for `seconds` while a thread reads the sensor.

    Raises:
        OSError, ValueError: the sensor could not be read to the end.
    """
    sampler = _Sampler(sensor, now)
    with sampler:
        start_s = now() / 1e9
        end_s = start_s
        runs = 0
        while runs == 0 or end_s - start_s < seconds:
            call()
            runs += 1
            end_s = now() / 1e9
    return Window(sampler.joules(start_s, end_s), runs, end_s - start_s)


class _Sampler:
    """Readings of a sensor from before the block to after it."""

    def __init__(self, sensor: sensors.Sensor, now: Callable[[], int]) -> None:
        self._sensor = sensor
        self._now = now
        self._times_s: List[float] = []
        self._values: List[Any] = []
        self._failure: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading)
        self._every_s = COUNTER_EVERY_S if sensor.zones else POWER_EVERY_S

    def __enter__(self) -> None:
        self._read()
        self._thread.start()

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        self._thread.join()
        self._read()

    def joules(self, start_s: float, end_s: float) -> float:
        if self._failure is not None:
            raise self._failure
        if self._sensor.rails:
            return power_joules(list(zip(self._times_s, self._values)), start_s, end_s)  # noqa: B905
        total = 0.0
        for index, zone in enumerate(self._sensor.zones):
            counts = [
                (self._times_s[row], values[index]) for row, values in enumerate(self._values)
            ]
            joules = counter_joules(counts, zone.range_uj)
            total += value_at(joules, end_s) - value_at(joules, start_s)
        return total

    def _keep_reading(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._read()
            except (OSError, ValueError) as error:
                self._failure = error
                return

    def _read(self) -> None:
        before = self._now()
        if self._sensor.rails:
            value: Any = sensors.read_power_w(self._sensor.rails)
        else:
            value = [sensors.read_counter_uj(zone) for zone in self._sensor.zones]
        # A read takes its time; the value belongs to the middle of it.
        self._times_s.append((before + self._now()) / 2e9)
        self._values.append(value)
