"""Reasons to trust joules less, each with what to do about it. docs/measuring.md lists them."""

from collections.abc import Iterator
from typing import Final

from edgekd.bench.answers import EnergyAnswer, PowerAnswer, SensorAnswer, StateAnswer
from edgekd.bench.energy import Analysis
from edgekd.bench.windows import Quality
from edgekd.records import Doubt

RATE: Final = 0.8  # of what was asked for
GAP_S: Final = 0.5
IDLE_DRIFT: Final = 0.02  # of the net power
HEATING_C: Final = 5.0
CLOCK: Final = 0.02
SPREAD: Final = 0.05  # between the windows
REPEATS: Final = 0.5
STEP_SHARE: Final = 0.005  # of the power
SAMPLER_LOAD: Final = 0.10  # processors
# Events of a Jetson after which its figures are of a board that protects itself.
PROTECTION: Final = ("oc1", "oc2")


def doubts_of_energy(
    analysis: Analysis, sensor: SensorAnswer, power: PowerAnswer, run: EnergyAnswer
) -> tuple[Doubt, ...]:
    """Everything there is to doubt about one energy."""
    found = [*about_state(run)]
    if analysis.energy.kind == "estimate":
        found.append(
            Doubt(
                code="estimate",
                message=f"the joules are an estimate ({sensor.name}), and how far off is not known",
                advice="wire an external meter, and give its log",
            )
        )
    found += _about_sampler(power, run)
    if analysis.quality is not None:
        found += about_quality(analysis.quality, sensor)
    return tuple(found)


def about_quality(quality: Quality, sensor: SensorAnswer) -> Iterator[Doubt]:
    """Of readings and windows."""
    yield from _about_readings(quality, sensor)
    yield from _about_windows(quality)


def about_state(run: EnergyAnswer) -> Iterator[Doubt]:
    """Throttling, heat and clocks, from what the board said before the windows and after."""
    yield from _events(run)
    yield from _heating(run.before, run.after)
    yield from _clocks(run.before, run.after)


def _events(run: EnergyAnswer) -> Iterator[Doubt]:
    seconds = (run.windows[-1].end_ns - run.windows[0].begin_ns) / 1e9
    happened = {
        name: count - run.before.counts[name]
        for name, count in run.after.counts.items()
        if count > run.before.counts.get(name, count)
    }
    current = {name: count for name, count in happened.items() if name.startswith("oc")}
    if current:
        told = ", ".join(f"{name} {count} times" for name, count in sorted(current.items()))
        stops = any(name.startswith(PROTECTION) for name in current)
        yield Doubt(
            code="over-current",
            message=f"within {seconds:.0f} s: {told} ({sum(current.values()) / seconds:.1f} a second)"
            + ("; the board protected itself, and the figures are not its own" if stops else ""),
            advice="use a stronger supply or a lower power mode, and measure again",
        )
    slowed = [name for name in happened if not name.startswith("oc")]
    told_now = sorted({*slowed, *run.after.alarms, *run.before.alarms})
    if told_now:
        yield Doubt(
            code="throttled",
            message=f"the board slowed itself down: {', '.join(told_now)}",
            advice="cool it, check its supply, and measure again",
        )


def _heating(before: StateAnswer, after: StateAnswer) -> Iterator[Doubt]:
    rises = {
        name: after.temperatures_c[name] - value
        for name, value in before.temperatures_c.items()
        if name in after.temperatures_c
    }
    name = max(rises, key=lambda each: abs(rises[each]), default=None)
    if name is not None and abs(rises[name]) > HEATING_C:
        yield Doubt(
            code="temperature-drift",
            message=f"{name} went from {before.temperatures_c[name]:.0f} C to {after.temperatures_c[name]:.0f} C",
            advice="warm up for longer, so that leakage has settled",
        )


def _clocks(before: StateAnswer, after: StateAnswer) -> Iterator[Doubt]:
    moved = [
        f"{name} from {value:.0f} MHz to {after.clocks_mhz[name]:.0f} MHz"
        for name, value in sorted(before.clocks_mhz.items())
        if name in after.clocks_mhz
        and abs(after.clocks_mhz[name] - value) > CLOCK * max(value, after.clocks_mhz[name])
    ]
    if moved:
        yield Doubt(
            code="clocks-changed",
            message=f"clocks moved: {', '.join(moved)}",
            advice="fix them (on a Jetson: jetson_clocks), and measure again",
        )


def _about_sampler(power: PowerAnswer, run: EnergyAnswer) -> Iterator[Doubt]:
    if power.load > SAMPLER_LOAD:
        where = "on a core of its own" if run.pinned else "on a core that the model used too"
        yield Doubt(
            code="sampler-load",
            message=f"reading the sensor took {power.load:.0%} of a processor, {where}",
            advice="its power is in the figure; measure with an external meter where that matters",
        )


def _about_readings(quality: Quality, sensor: SensorAnswer) -> Iterator[Doubt]:
    if quality.rate_hz < RATE * quality.asked_hz:
        yield Doubt(
            code="energy-rate",
            message=f"{sensor.name} was read {quality.rate_hz:.1f} times a second, not {quality.asked_hz:.0f}",
            advice="leave a core to the sampler, and end what else reads the sensor",
        )
    if quality.longest_gap_s > max(GAP_S, 1.5 / quality.asked_hz):
        yield Doubt(
            code="energy-gap",
            message=f"the longest time without a reading was {quality.longest_gap_s:.2f} s",
            advice="measure again on a quiet machine",
        )
    counter = sensor.kind == "counter"
    if quality.repeats > REPEATS and not counter and quality.step_share == 0:
        yield Doubt(
            code="energy-repeats",
            message=f"{quality.repeats:.0%} of the readings repeat the one before",
            advice="the sensor is slower than it says; use longer windows",
        )
    if quality.undithered and quality.step_share > STEP_SHARE:
        yield Doubt(
            code="energy-steps",
            message=f"the load stays within two steps of the sensor's converter, which are {2 * quality.step_share:.1%} "
            "of the power each and do not average out",
            advice="compare net energy of models that differ by more, or use a finer meter",
        )


def _about_windows(quality: Quality) -> Iterator[Doubt]:
    if quality.shortest_s < quality.needed_s:
        yield Doubt(
            code="energy-window",
            message=f"a window of {quality.shortest_s:.1f} s is short for this sensor, which should have {quality.needed_s:.1f} s",
            advice="measure with longer energy windows",
        )
    middle = sum(quality.windows_j) / len(quality.windows_j)
    spread = (max(quality.windows_j) - min(quality.windows_j)) / middle if middle > 0 else 0.0
    if spread > SPREAD:
        yield Doubt(
            code="energy-spread",
            message=f"the windows differ by {spread:.0%}",
            advice="quiet the machine, fix its clocks, and measure with more windows",
        )
    if quality.idle_drift is not None and quality.idle_drift > IDLE_DRIFT:
        yield Doubt(
            code="idle-drift",
            message=f"idle power moved by {quality.idle_drift:.0%} of what the model adds",
            advice="measure idle power for longer, once the board has warmed up; half of it is in the interval",
        )
