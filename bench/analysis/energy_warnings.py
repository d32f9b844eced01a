"""Reasons to trust joules less, each with what to do about it. docs/measuring.md lists them."""

from collections.abc import Iterator
from typing import Final

from edgekd.bench.analysis.device_state import (
    clocks_of,
    warnings_of_clocks,
    warnings_of_events,
    warnings_of_heat,
)
from edgekd.bench.analysis.energy import Analysis
from edgekd.bench.analysis.energy_windows import Quality
from edgekd.bench.protocol.responses import (
    EnergyResponse,
    PowerResponse,
    SensorResponse,
    StatesResponse,
)
from edgekd.records import MeasurementWarning

# Of what was asked for
RATE: Final = 0.8
GAP_S: Final = 0.5
# Of the net power
IDLE_DRIFT: Final = 0.02
CLOCK: Final = 0.02
# Between the windows
SPREAD: Final = 0.05
REPEATS: Final = 0.5
# Of the power
STEP_SHARE: Final = 0.005
SAMPLER_LOAD: Final = 0.10  # processors


def warnings_of_energy(
    analysis: Analysis,
    sensor: SensorResponse,
    power: PowerResponse,
    run: EnergyResponse,
    states: StatesResponse,
) -> tuple[MeasurementWarning, ...]:
    """All warnings about one energy."""
    found = [*about_state(run, states)]
    if analysis.energy.kind == "estimate":
        found.append(
            MeasurementWarning(
                code="estimate",
                message=f"the joules are an estimate ({sensor.name}), and how far off is not known",
                advice="wire an external meter, and give its log",
            )
        )
    found += _about_sampler(power, run)
    if analysis.quality is not None:
        found += about_quality(analysis.quality, sensor)
    return tuple(found)


def about_quality(quality: Quality, sensor: SensorResponse) -> Iterator[MeasurementWarning]:
    """Of readings and windows."""
    yield from _about_readings(quality, sensor)
    yield from _about_windows(quality)


def about_state(run: EnergyResponse, states: StatesResponse) -> Iterator[MeasurementWarning]:
    """Throttling, heat and clocks, from what the board said before the windows, in them, and after."""
    begin_ns, end_ns = run.windows[0].begin_ns, run.windows[-1].end_ns
    before, after = run.before, run.after
    counts = {name: count - before.counts.get(name, count) for name, count in after.counts.items()}
    alarms = {*before.alarms, *after.alarms, *states.alarms}
    yield from warnings_of_events(counts, alarms, (end_ns - begin_ns) / 1e9)
    yield from warnings_of_heat(before.temperatures_c, after.temperatures_c)
    ends = StatesResponse(
        event="state",
        at_ns=(begin_ns, end_ns),
        temperatures_c={},
        clocks_mhz={
            name: (before.clocks_mhz.get(name), after.clocks_mhz.get(name))
            for name in {**before.clocks_mhz, **after.clocks_mhz}
        },
        counts={},
        alarms=(),
    )
    yield from warnings_of_clocks(clocks_of([states, ends], [(begin_ns, end_ns)]), CLOCK)


def _about_sampler(power: PowerResponse, run: EnergyResponse) -> Iterator[MeasurementWarning]:
    if power.load > SAMPLER_LOAD:
        where = "on a core of its own" if run.pinned else "on a core that the model used too"
        yield MeasurementWarning(
            code="sampler-load",
            message=f"reading the sensor took {power.load:.0%} of a processor, {where}",
            advice="its power is in the figure; measure with an external meter where that matters",
        )


def _about_readings(quality: Quality, sensor: SensorResponse) -> Iterator[MeasurementWarning]:
    if quality.rate_hz < RATE * quality.asked_hz:
        yield MeasurementWarning(
            code="energy-rate",
            message=f"{sensor.name} was read {quality.rate_hz:.1f} times per second, not {quality.asked_hz:.0f}",
            advice="leave a core to the sampler, and end what else reads the sensor",
        )
    if quality.longest_gap_s > max(GAP_S, 1.5 / quality.asked_hz):
        yield MeasurementWarning(
            code="energy-gap",
            message=f"the longest time without a reading was {quality.longest_gap_s:.2f} s",
            advice="measure again on a quiet machine",
        )
    counter = sensor.kind == "counter"
    if quality.repeats > REPEATS and not counter and quality.step_share == 0:
        yield MeasurementWarning(
            code="energy-repeats",
            message=f"{quality.repeats:.0%} of the readings repeat the one before",
            advice="the sensor is slower than it says; use longer windows",
        )
    if quality.undithered and quality.step_share > STEP_SHARE:
        yield MeasurementWarning(
            code="energy-steps",
            message=f"the load stays within two steps of the sensor's converter, which are {2 * quality.step_share:.1%} "
            "of the power each and do not average out",
            advice="compare net energy of models that differ by more, or use a finer meter",
        )


def _about_windows(quality: Quality) -> Iterator[MeasurementWarning]:
    if quality.shortest_s < quality.needed_s:
        yield MeasurementWarning(
            code="energy-window",
            message=f"a window of {quality.shortest_s:.1f} s is short for this sensor, which should have {quality.needed_s:.1f} s",
            advice="measure with longer energy windows",
        )
    middle = sum(quality.windows_j) / len(quality.windows_j)
    spread = (max(quality.windows_j) - min(quality.windows_j)) / middle if middle > 0 else 0.0
    if spread > SPREAD:
        yield MeasurementWarning(
            code="energy-spread",
            message=f"the windows differ by {spread:.0%}",
            advice="quiet the machine, fix its clocks, and measure with more windows",
        )
    if quality.idle_drift is not None and quality.idle_drift > IDLE_DRIFT:
        yield MeasurementWarning(
            code="idle-drift",
            message=f"idle power moved by {quality.idle_drift:.0%} of what the model adds",
            advice="measure idle power for longer, once the board has warmed up; half of it is in the interval",
        )
