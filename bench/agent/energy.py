"""Windows of back-to-back calls between two idle ones; never one call, which no sensor resolves.

Nothing is integrated here: the host gets every reading and the times of the windows.
"""

import os
import time
from typing import Any, Callable, Dict, NamedTuple, Optional, Set, Tuple

from edgekd.bench.agent import (
    latency,
    ort_runtime,
    sensor_discovery,
    state,
)
from edgekd.bench.agent.power_sampler import Emit, Sampling, place_of
from edgekd.bench.agent.sensor import monotonic_ns

# Calls before the first window and after the last, so that the load is steady on both sides of every edge.
LEAD_S = 0.3
LEAD_READINGS = 4
# After calls, until a machine is at rest again.
REST_S = 1.0
# That opening a model may take, for the sampler's own limit
OPENING_S = 600.0

Span = NamedTuple("Span", [("begin_ns", int), ("end_ns", int), ("runs", int)])


def measure(options: Any, emit: Emit, open_call: Callable[[], Callable[[], None]]) -> None:
    """Readings and windows; or why there are none, before the model is opened."""
    core, rest = share_processors(os.sched_getaffinity(0), options.threads)
    if options.sensor == sensor_discovery.NONE:
        emit("energy", pinned=False, **_run(options, open_call(), LEAD_S))
        return
    with Sampling(options, core, _longest_s(options)) as sampling:
        if sampling.sensor is None:
            emit("no-energy", reason=sampling.reason)
            return
        if core is not None:
            # Before the runtime starts threads, which inherit it
            os.sched_setaffinity(0, rest)
        call = open_call()
        sensor = sampling.sensor
        beyond_s = LEAD_READINGS * max(sensor["period_s"], sensor["interval_s"])
        windows = _run(options, call, max(LEAD_S, beyond_s, sensor["settle_s"]))
        # For a reading beyond the last edge
        time.sleep(beyond_s)
        readings = sampling.stop()
    emit("sensor", **sensor)
    emit("power", **readings)
    emit("energy", pinned=core is not None, **windows)


def share_processors(usable: Set[int], threads: int) -> Tuple[Optional[int], Set[int]]:
    """One for the sampler and the others for the model; None where the model needs them all."""
    if len(usable) <= threads:
        return None, usable
    core = max(usable)
    return core, usable - {core}


def _longest_s(options: Any) -> float:
    each = options.windows * (options.seconds + REST_S) + 2 * options.idle_seconds
    return float(2 * each + 2 * options.warmup_max_s + OPENING_S)


def _run(options: Any, call: Callable[[], None], lead_s: float) -> Dict[str, Any]:
    look = state.looker(place_of(options), options.on_gpu, options.gpu)
    ort_runtime.try_once(call)
    latency.warm_up(call, options.warmup_min_s, options.warmup_max_s, latency.clock())
    rest_s = max(lead_s, min(REST_S, options.idle_seconds))
    idle = [_idle(rest_s, options.idle_seconds)]
    first = call_for(call, lead_s)
    before = look()
    call_for(call, lead_s)
    windows = [call_for(call, options.seconds) for _ in range(options.windows)]
    last = call_for(call, lead_s)
    after = look()
    idle.append(_idle(rest_s, options.idle_seconds))
    return {
        "windows": [dict(window._asdict()) for window in windows],
        "idle": [dict(span._asdict()) for span in idle],
        "busy": {"begin_ns": first.begin_ns, "end_ns": last.end_ns, "runs": 0},
        "before": before,
        "after": after,
    }


def call_for(
    call: Callable[[], None], seconds: float, now: Callable[[], int] = monotonic_ns
) -> Span:
    """Whole calls, back to back, until the time is up; at least one."""
    begin = now()
    end_at = begin + int(seconds * 1e9)
    runs = 0
    end = begin
    while runs == 0 or end < end_at:
        call()
        runs += 1
        end = now()
    return Span(begin, end, runs)


def _idle(rest_s: float, seconds: float) -> Span:
    """The model is loaded and warm, and not called."""
    time.sleep(rest_s)
    begin = monotonic_ns()
    time.sleep(seconds)
    return Span(begin, monotonic_ns(), 0)
