"""Time every call, after the machine has settled. Nothing is thrown away but the warm-up."""

import time
from typing import Callable, List, NamedTuple

CHECK_EVERY_S = 0.1
MIN_WARMUP_RUNS = 50
# The level may move by this share over the last fifth of the warm-up.
STEADY = 0.01
# Medians of fewer calls than this say nothing about a level.
MIN_WINDOW = 10

Warmup = NamedTuple("Warmup", [("seconds", float), ("runs", int), ("stationary", bool)])
# Late: calls that started more than a tenth of their period after they were due.
Paced = NamedTuple("Paced", [("values_ns", List[int]), ("late", int)])


def clock() -> Callable[[], int]:
    """A monotonic clock in nanoseconds."""
    # perf_counter_ns came with Python 3.7. A float of seconds keeps 0.1 us for 10 years of uptime.
    exact = getattr(time, "perf_counter_ns", None)
    return exact if exact is not None else lambda: int(time.perf_counter() * 1e9)


def clock_step_ns(now: Callable[[], int]) -> int:
    """The smallest time this clock tells apart, its own call included: median of 1000 tries."""
    steps = []
    for _ in range(1000):
        start = now()
        steps.append(now() - start)
    return max(1, int(median(steps)))


def median(values: List[int]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    return (ordered[middle - 1] + ordered[middle]) / 2.0


def is_stationary(values: List[int]) -> bool:
    """Whether the medians of the two halves of the last fifth differ by less than `STEADY`."""
    window = values[-max(MIN_WINDOW, len(values) // 5) :]
    if len(window) < MIN_WINDOW:
        return False
    half = len(window) // 2
    before, after = median(window[:half]), median(window[half:])
    return abs(after - before) <= STEADY * max(before, 1.0)


def warm_up(call: Callable[[], None], min_s: float, max_s: float, now: Callable[[], int]) -> Warmup:
    """Call until the times no longer drift, or the cap is reached.

    A slow model is not held to `MIN_WARMUP_RUNS` beyond the cap.
    """
    values: List[int] = []
    begin = now()
    check_at = begin + int(min_s * 1e9)
    end_at = begin + int(max_s * 1e9)
    while True:
        start = now()
        call()
        end = now()
        values.append(end - start)
        if end >= check_at:
            check_at = end + int(CHECK_EVERY_S * 1e9)
            steady = len(values) >= MIN_WARMUP_RUNS and is_stationary(values)
            if steady or end >= end_at:
                return Warmup((end - begin) / 1e9, len(values), steady)


def time_calls(
    call: Callable[[], None], seconds: float, max_runs: int, now: Callable[[], int]
) -> List[int]:
    """Nanoseconds of each call, in order, back to back; at least one."""
    values: List[int] = []
    end_at = now() + int(seconds * 1e9)
    while True:
        start = now()
        call()
        end = now()
        values.append(end - start)
        if end >= end_at or len(values) >= max_runs:
            return values


def time_paced(
    call: Callable[[], None],
    fps: float,
    seconds: float,
    max_runs: int,
    now: Callable[[], int],
    sleep: Callable[[float], None] = time.sleep,
) -> Paced:
    """Nanoseconds of each call where one is due every 1/fps seconds, as a camera's frames are.

    Clocks and caches fall asleep between calls, so that these are often slower than back-to-back ones. A call that
    ends after the next one is due makes that one start late; it is counted, and the schedule is kept.
    """
    period_ns = int(1e9 / fps)
    values: List[int] = []
    late = 0
    begin = now()
    while True:
        due = begin + len(values) * period_ns
        left = due - now()
        if left > 0:
            sleep(left / 1e9)
        start = now()
        late += start - due > period_ns // 10
        call()
        end = now()
        values.append(end - start)
        if end - begin >= seconds * 1e9 or len(values) >= max_runs:
            return Paced(values, late)
