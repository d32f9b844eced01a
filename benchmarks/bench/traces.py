"""Replayed power traces: how far energies are off, and whether their intervals hold the truth.

    python -m benchmarks.bench.traces               # 1,000 traces a sensor, a few minutes
    python -m benchmarks.bench.traces --traces 50

A known power goes through a model of each sensor (`sensing.py`): steps of its converter, an unknown
offset and gain within its datasheet's bounds, current read after voltage, late and lost reads. The
agent's own finders say, from a fake tree, what the sensor is; the host then makes joules of it.

Baselines on the same readings: a right rectangle at 10 Hz, and a filter that halves at every 0.5 s.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.bench.cases import Case, cases
from benchmarks.bench.sensing import (
    NO_ERRORS,
    STEP_S,
    Array,
    Readings,
    Truth,
    read_rails,
    truth_of,
)
from benchmarks.rows import append_row
from edgekd.bench.analysis import energy
from edgekd.bench.protocol.responses import (
    EnergyResponse,
    PowerResponse,
    SpanResponse,
    StateResponse,
)
from edgekd.records import Samples

RESULTS: Final = Path(__file__).parents[1] / "results" / "bench-traces.csv"
WINDOWS: Final = 5  # as docs/measuring.md asks of a figure to publish
REST_S: Final = 1.0
IDLE_S: Final = 10.0
RECTANGLE_S: Final = 0.1
FILTER_S: Final = 0.5
QUIET: Final = StateResponse(counts={}, alarms=(), temperatures_c={}, clocks_mhz={})


@dataclass(frozen=True, kw_only=True)
class Run:
    """One truth with its windows; seconds since its start."""

    truth: Truth
    windows: tuple[tuple[float, float, int], ...]
    idle: tuple[tuple[float, float, int], ...]

    def power_w(self, spans: tuple[tuple[float, float, int], ...]) -> Array:
        return np.array(
            [self.truth.energy_j(begin, end) / (end - begin) for begin, end, _ in spans]
        )

    def gross_j(self) -> float:
        calls = [(end - begin) / runs for begin, end, runs in self.windows]
        return float(np.mean(self.power_w(self.windows) * calls))

    def idle_j(self) -> float:
        calls = [(end - begin) / runs for begin, end, runs in self.windows]
        return float(np.mean(self.power_w(self.idle)) * np.mean(calls))


# --- one trace ------------------------------------------------------------------------------------


def run_of(case: Case, random: np.random.Generator) -> Run:
    """Idle, calls in windows, idle: a square wave of calls, a slow drift; a third is perfectly constant."""
    lead_s = max(0.3, 4 * max(case.sensor.period_s, case.sensor.interval_s), case.sensor.settle_s)
    rest_s = max(REST_S, lead_s)
    call_s = random.uniform(0.003, 0.05)
    marks = [rest_s, rest_s + IDLE_S]  # of the first idle window
    begin = marks[1] + lead_s
    starts = [begin + lead_s]
    spans = []
    for _ in range(WINDOWS):
        runs = int(np.ceil(case.window_s / call_s))
        spans.append((starts[-1], starts[-1] + runs * call_s, runs))
        starts.append(spans[-1][1])
    end = starts[-1] + lead_s
    second = (end + rest_s, end + rest_s + IDLE_S, 0)
    seconds = second[1] + 0.5 + lead_s
    times = (np.arange(int(seconds / STEP_S)) + 0.5) * STEP_S
    idle_w, load_w = random.uniform(*case.idle_w), random.uniform(*case.load_w)
    load_w = max(load_w, idle_w * 1.2)
    loaded = (times >= begin) & (times < end)
    if random.uniform() < 1 / 3:
        watts = np.where(loaded, load_w, idle_w)
    else:
        deep = random.uniform(0, 0.4) * (load_w - idle_w)
        wave = np.where((times / call_s) % 1.0 < 0.6, 1.0, -1.5)  # mean 0
        drift = 1 + random.uniform(-0.01, 0.01) * (times - begin) / seconds
        watts = np.where(loaded, (load_w + deep * wave) * drift, idle_w)
        watts = watts * (1 + random.normal(0, 0.01, len(times)))
    return Run(
        truth=truth_of(watts),
        windows=tuple(spans),
        idle=((marks[0], marks[1], 0), second),
    )


def readings_of(case: Case, run: Run, random: np.random.Generator, *, exact: bool) -> Readings:
    """What the sensor says; `exact`: without offset and gain, so that the way of integrating shows alone."""
    period_s = case.sensor.period_s
    if case.counter is not None:
        gain = 0.0 if exact else random.uniform(-case.counter.gain, case.counter.gain)
        return case.counter.read(run.truth, gain, period_s, random)
    errors = tuple(NO_ERRORS if exact else rail.draw(random) for rail in case.rails)
    return read_rails(run.truth, case.rails, errors, period_s, random, printed=case.printed)


def answers_of(run: Run, readings: Readings) -> tuple[PowerResponse, EnergyResponse]:
    """Readings and windows as an agent would send them."""

    def ns(seconds: Array | float) -> Any:  # noqa: ANN401
        return np.round((np.asarray(seconds) + 1000.0) * 1e9).astype(np.int64).tolist()

    told = PowerResponse(
        event="power",
        begin_ns=tuple(ns(readings.begin_s)),
        end_ns=tuple(ns(readings.end_s)),
        values=tuple(tuple(value.tolist()) for value in readings.values),
        millivolts=tuple(
            None if volts is None else tuple(volts.tolist()) for volts in readings.millivolts
        ),
        dropped=0,
        missed=0,
        problems=(),
        load=0.01,
    )

    def spans(found: tuple[tuple[float, float, int], ...]) -> tuple[SpanResponse, ...]:
        return tuple(
            SpanResponse(begin_ns=ns(begin), end_ns=ns(end), runs=runs)
            for begin, end, runs in found
        )

    before, after = spans(run.idle)
    return told, EnergyResponse(
        event="energy",
        windows=spans(run.windows),
        idle=(before, after),
        busy=SpanResponse(
            begin_ns=ns(run.windows[0][0] - 0.05), end_ns=ns(run.windows[-1][1] + 0.05), runs=0
        ),
        before=QUIET,
        after=QUIET,
        pinned=True,
    )


def rectangle_w(case: Case, run: Run, readings: Readings, phase_s: float) -> Array:
    """Mean watts of each window by sums of P dt at 10 Hz, as they stood at the last tick before its edges."""
    ticks = np.arange(phase_s, run.truth.seconds, RECTANGLE_S)
    if case.counter is not None:
        at = np.clip(np.searchsorted(readings.end_s, ticks, side="right") - 1, 0, None)
        steps = np.diff(readings.values[0][at], prepend=readings.values[0][at][0])
        wraps = case.counter.range_units
        steps = np.where(steps < 0, steps + (wraps or 0), steps) * case.counter.unit_j
    else:
        steps = readings.at(ticks) * RECTANGLE_S
    sums = np.cumsum(steps)

    def until(seconds: float) -> float:
        return float(sums[max(int(np.searchsorted(ticks, seconds, side="right")) - 1, 0)])

    return np.array([(until(end) - until(begin)) / (end - begin) for begin, end, _ in run.windows])


def filter_power_w(run: Run, readings: Readings, phase_s: float) -> Array:
    """Mean watts of each window by an average that is half the reading and half what it was, in milliwatts."""
    ticks = np.arange(phase_s, run.truth.seconds, FILTER_S)
    milliwatts = np.round(readings.at(ticks) * 1e3).astype(np.int64)
    level = [int(milliwatts[0])]
    for value in milliwatts[1:]:
        level.append((int(value) + level[-1]) // 2)
    shown = np.array(level) / 1e3
    means = []
    for begin, end, _ in run.windows:
        inside = (ticks >= begin) & (ticks <= end)
        means.append(float(shown[inside].mean()))
    return np.array(means)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Errors relative to the truth, and of each figure the error over its interval's half-width."""

    method: Array  # of each window, of a sensor without offset and gain
    rectangle: Array
    filtered: Array
    error: float
    floor: float  # the most that the sensor itself may be off by
    width: float
    ratios: dict[str, float]


def outcome_of(case: Case, random: np.random.Generator) -> Outcome:
    """One trace, read twice: without the sensor's errors for the methods, and with them."""
    run = run_of(case, random)
    true_w = run.power_w(run.windows)
    plain = readings_of(case, run, random, exact=True)
    ours_w = _powers(case, run, plain)
    phase_s = random.uniform(0, RECTANGLE_S)
    rectangle = np.abs(rectangle_w(case, run, plain, phase_s) / true_w - 1)
    filtered = (
        np.full(WINDOWS, np.nan)
        if case.counter is not None
        else np.abs(filter_power_w(run, plain, phase_s) / true_w - 1)
    )
    readings = readings_of(case, run, random, exact=False)
    found = energy.analyse(case.sensor, *answers_of(run, readings)).energy
    told = found.uncertainty
    figures = {"gross": found.gross, "idle": found.idle, "net": found.net}
    truths = {"gross": run.gross_j(), "idle": run.idle_j()}
    truths["net"] = truths["gross"] - truths["idle"]
    ratios, errors = {}, {}
    for name, figure in figures.items():
        if not isinstance(figure, Samples) or told is None:
            raise RuntimeError(f"{case.sensor.name}: no {name} energy: {figure}")
        errors[name] = float(np.mean(figure.values)) - truths[name]
        ratios[name] = abs(errors[name]) / getattr(told, f"{name}_j")
    mean_w = float(true_w.mean())
    floor_w = sum(rail.floor_w(mean_w) for rail in case.rails)
    if case.counter is not None:
        floor_w = case.counter.gain * mean_w
    if told is None:
        raise RuntimeError(f"{case.sensor.name}: no uncertainty")
    return Outcome(
        method=np.abs(ours_w / true_w - 1),
        rectangle=rectangle,
        filtered=filtered,
        error=abs(errors["gross"]) / truths["gross"],
        floor=floor_w / mean_w,
        width=told.gross_j / truths["gross"],
        ratios=ratios,
    )


def _powers(case: Case, run: Run, readings: Readings) -> Array:
    """Mean watts of each window by what is tried here."""
    found = energy.analyse(case.sensor, *answers_of(run, readings)).energy
    if not isinstance(found.gross, Samples):
        raise RuntimeError(found.gross.reason)
    calls = np.array([(end - begin) / runs for begin, end, runs in run.windows])
    powers: Array = np.array(found.gross.values) / calls
    return powers


# --- tables ---------------------------------------------------------------------------------------


def row_of(name: str, outcomes: list[Outcome]) -> dict[str, object]:
    """What the traces of one sensor amount to; shares and percentages say so in their names."""

    def percent(values: Array) -> str:
        return f"{100 * float(np.percentile(values, 95)):.3f}"

    def column(pick: Callable[[Outcome], Array]) -> Array:
        return np.concatenate([pick(each) for each in outcomes])

    filtered = column(lambda each: each.filtered)
    beyond = np.array([each.error - each.floor for each in outcomes])
    row: dict[str, object] = {
        "sensor": name,
        "traces": len(outcomes),
        "method_p95_percent": percent(column(lambda each: each.method)),
        "rectangle_10hz_p95_percent": percent(column(lambda each: each.rectangle)),
        "filter_p95_percent": "" if np.isnan(filtered).any() else percent(filtered),
        "error_p95_percent": percent(np.array([each.error for each in outcomes])),
        "floor_median_percent": f"{100 * float(np.median([each.floor for each in outcomes])):.3f}",
        "within_floor_and_half_a_percent_percent": f"{100 * float((beyond <= 0.005).mean()):.1f}",
        "error_beyond_floor_max_percent": f"{100 * float(beyond.max()):.3f}",
        "interval_median_percent": f"{100 * float(np.median([each.width for each in outcomes])):.3f}",
    }
    for figure in ("gross", "idle", "net"):
        ratios = np.array([each.ratios[figure] for each in outcomes])
        row[f"{figure}_covered_percent"] = f"{100 * float((ratios <= 1).mean()):.1f}"
        # By how much the interval could be narrower and still hold 99 %: 1 or more is none.
        row[f"{figure}_needed_for_99"] = f"{float(np.percentile(ratios, 99)):.3f}"
    return row


def outcomes_of(case: Case, traces: int, seed: int) -> list[Outcome]:
    return [outcome_of(case, np.random.default_rng([seed, number])) for number in range(traces)]


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=int, default=1000, help="for each sensor")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="sensors whose name holds this; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases(Path(folder)).items():
            if options.only and options.only not in name:
                continue
            rows.append(row_of(name, outcomes_of(case, options.traces, options.seed)))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if not options.only:
        options.out.unlink(missing_ok=True)
        for row in rows:
            append_row(options.out, row)


if __name__ == "__main__":
    main()
