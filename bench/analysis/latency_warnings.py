"""Reasons to trust a latency less, each with what to do about it. docs/measuring.md lists them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from edgekd.bench.analysis import statistics
from edgekd.bench.analysis.aggregate import pool_samples
from edgekd.bench.analysis.device_state import (
    warnings_of_clocks,
    warnings_of_events,
    warnings_of_heat,
)
from edgekd.bench.protocol.responses import LatencyResponse, StatesResponse
from edgekd.records import Conditions, MeasurementWarning, Samples

COLD_START_RATIO: Final = 5.0
# Of a process's median, from its first half to its second
DRIFT: Final = 0.05
# Between the medians of processes
DISAGREEMENT: Final = 0.05
# torch.utils.benchmark's rule for IQR / median
SPREAD: Final = 0.10
TAIL_RATIO: Final = 2.0
OUTLIER_SHARE: Final = 0.01
# Below, a p99 is the maximum
FEW_SAMPLES: Final = 100
BUSY_PROCESSORS: Final = 0.3
CLOCK_CHANGE: Final = 0.05
# Of a processor; it should sleep
AGENT_LOAD: Final = 0.05
LATE_SHARE: Final = 0.01
# A call shorter than this many steps is known to 1 % at best
CLOCK_STEPS: Final = 100


def warnings_of(
    runs: Sequence[LatencyResponse],
    conditions: Conditions,
    paced: Sequence[LatencyResponse] = (),
    states: Sequence[StatesResponse] = (),
) -> tuple[MeasurementWarning, ...]:
    """All warnings about the runs of one model, one answer a process.

    Args:
        runs: back to back.
        conditions: that they were taken under.
        paced: runs at a fixed rate.
        states: of the machine during `runs`.
    """
    samples = pool_samples(runs)
    return (
        *_about_samples(samples),
        *_about_runs(runs),
        *_about_paced(paced),
        *_about_words([*runs, *paced]),
        *_about_conditions(conditions),
        *_about_states(states),
        *warnings_of_clocks(conditions.clocks_mhz, CLOCK_CHANGE),
    )


def _about_states(states: Sequence[StatesResponse]) -> Iterator[MeasurementWarning]:
    if not states:
        return
    counts = Counter[str]()
    for each in states:
        counts.update(each.counts)
    seconds = sum(each.at_ns[-1] - each.at_ns[0] for each in states) / 1e9
    yield from warnings_of_events(
        counts, {name for each in states for name in each.alarms}, seconds
    )
    ends = [
        {
            name: value
            for name, column in each.temperatures_c.items()
            if (value := column[row]) is not None
        }
        for each, row in ((states[0], 0), (states[-1], -1))
    ]
    yield from warnings_of_heat(*ends)


def _about_words(runs: Sequence[LatencyResponse]) -> Iterator[MeasurementWarning]:
    """What the runtime said, once however many processes heard it."""
    for line in dict.fromkeys(line for run in runs for line in run.said):
        yield MeasurementWarning(
            code="runtime-warned",
            message=f"the runtime says: {line}",
            advice="read it: an engine of another device or clock settings runs slower than one that is built here",
        )


def _about_paced(runs: Sequence[LatencyResponse]) -> Iterator[MeasurementWarning]:
    late = sum(run.late or 0 for run in runs)
    count = sum(len(run.values_ns) for run in runs)
    if late > LATE_SHARE * count:
        yield MeasurementWarning(
            code="late",
            message=f"at the fixed rate {late} of {count} calls started late: the rate is not kept",
            advice="ask for a lower rate, or a faster model",
        )


def _about_samples(samples: Samples) -> Iterator[MeasurementWarning]:
    count = len(samples.values)
    middle = statistics.median(samples)
    if count < FEW_SAMPLES:
        yield MeasurementWarning(
            code="few-samples",
            message=f"{count} calls: the high percentiles are little more than the maximum",
            advice="measure for longer",
        )
    outliers = statistics.outlier_count(samples)
    if outliers > OUTLIER_SHARE * count:
        yield MeasurementWarning(
            code="outliers",
            message=f"{outliers} of {count} calls lie far from the median; they are kept",
            advice="measure again on a quiet machine",
        )
    spread = statistics.relative_spread(samples)
    if spread > SPREAD:
        yield MeasurementWarning(
            code="spread",
            message=f"the middle half of the calls spans {spread:.0%} of the median",
            advice="fix the clocks, end other programs, and measure again",
        )
    tail = statistics.percentile(samples, 99)
    if tail > TAIL_RATIO * middle:
        yield MeasurementWarning(
            code="tail",
            message=f"one call in a hundred takes {_ratio(tail, middle)} the median or more",
            advice="plan with the p99, and look for what interrupts the model",
        )


def _about_runs(runs: Sequence[LatencyResponse]) -> Iterator[MeasurementWarning]:
    each = [pool_samples([run]) for run in runs]
    medians = [statistics.median(samples) for samples in each]
    middle = statistics.median(Samples(values=tuple(medians), unit="s"))
    first_s = max((run.first_ns or 0) for run in runs) / 1e9
    if first_s > COLD_START_RATIO * middle:
        yield MeasurementWarning(
            code="cold-start",
            message=f"the first call takes {_ratio(first_s, middle)} the median; it is not in the figures",
            advice="count it in if the device starts the model for each image",
        )
    unsteady = sum(run.stationary is False for run in runs)
    drifting = sum(abs(statistics.drift(samples)) > DRIFT for samples in each)
    if unsteady or drifting:
        yield MeasurementWarning(
            code="not-stationary",
            message=f"of {len(runs)} processes {unsteady} never settled while warming up and "
            f"{drifting} drifted by more than {DRIFT:.0%} while timed",
            advice="warm up for longer, and check for throttling",
        )
    if middle and (max(medians) - min(medians)) / middle > DISAGREEMENT:
        yield MeasurementWarning(
            code="processes-disagree",
            message=f"the medians of {len(runs)} processes differ by "
            f"{(max(medians) - min(medians)) / middle:.0%}, so the interval of the median is too narrow",
            advice="measure with more processes on a quiet machine",
        )
    step_s = max(run.clock_step_ns for run in runs) / 1e9
    if middle < CLOCK_STEPS * step_s:
        yield MeasurementWarning(
            code="clock",
            message=f"a call is shorter than {CLOCK_STEPS} steps of the clock ({step_s * 1e9:.0f} ns each)",
            advice="measure with a larger batch",
        )


def _about_conditions(conditions: Conditions) -> Iterator[MeasurementWarning]:
    if conditions.governor is None:
        yield MeasurementWarning(
            code="governor-unknown",
            message="the frequency governor cannot be read, so the clocks may have moved",
            advice="on a virtual machine or in a container, measure on the hardware itself",
        )
    elif conditions.governor != "performance":
        yield MeasurementWarning(
            code="governor",
            message=f"the frequency governor is {conditions.governor}",
            advice="set it with: cpupower frequency-set -g performance (on a Jetson: jetson_clocks)",
        )
    if conditions.load_before is not None and conditions.load_before > BUSY_PROCESSORS:
        yield MeasurementWarning(
            code="load",
            message=f"{conditions.load_before:.1f} processors were busy with something else before the start",
            advice="end other programs and measure again",
        )
    if conditions.agent_load is not None and conditions.agent_load > AGENT_LOAD:
        yield MeasurementWarning(
            code="agent-load",
            message=f"the agent itself took {conditions.agent_load:.0%} of a processor beside the model",
            advice="leave a processor free, and measure again",
        )
    if conditions.emulated:
        yield MeasurementWarning(
            code="emulated",
            message="the processor is emulated: the times say nothing about hardware",
            advice="measure on the board",
        )


def _ratio(value: float, middle: float) -> str:
    return f"{value / middle:.1f} times" if middle else "many times"
