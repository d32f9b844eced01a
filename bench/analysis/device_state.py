"""What a machine was like while something ran on it, and reasons to trust figures less that show in it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from edgekd.bench.protocol.responses import LatencyResponse, StatesResponse
from edgekd.records import MeasurementWarning, Range

HEATING_C: Final = 5.0
# Events of a Jetson after which its figures are of a board that protects itself.
PROTECTION: Final = ("oc1", "oc2")


def temperatures_of(states: Sequence[StatesResponse]) -> dict[str, Range]:
    """In Celsius, by zone, over the whole of all runs."""
    return _ranges(each.temperatures_c for each in states)


def clocks_of(
    states: Sequence[StatesResponse], spans: Sequence[tuple[int, int]]
) -> dict[str, Range]:
    """In MHz, by what is clocked, over the looks that fell into the spans (ns, CLOCK_MONOTONIC)."""
    return _ranges(
        {
            name: [
                value
                for at, value in zip(each.at_ns, column, strict=True)
                if any(begin <= at <= end for begin, end in spans)
            ]
            for name, column in each.clocks_mhz.items()
        }
        for each in states
    )


def find_timed_spans(runs: Sequence[LatencyResponse]) -> list[tuple[int, int]]:
    """The spans of the timed calls, where the runtime tells them."""
    return [
        (run.begin_ns, run.end_ns)
        for run in runs
        if run.begin_ns is not None and run.end_ns is not None
    ]


def warnings_of_events(
    counts: Mapping[str, int], alarms: Iterable[str], seconds: float
) -> Iterator[MeasurementWarning]:
    """Of events that happened within so many seconds, and of alarms."""
    happened = {name: count for name, count in counts.items() if count > 0}
    current = {name: count for name, count in happened.items() if name.startswith("oc")}
    if current:
        listed = ", ".join(f"{name} {count} times" for name, count in sorted(current.items()))
        stops = any(name.startswith(PROTECTION) for name in current)
        yield MeasurementWarning(
            code="over-current",
            message=f"within {seconds:.0f} s: {listed} ({sum(current.values()) / seconds:.1f} per second)"
            + ("; the board protected itself, and the figures are not its own" if stops else ""),
            advice="use a stronger supply or a lower power mode, and measure again",
        )
    slowed = sorted({*(name for name in happened if name not in current), *alarms})
    if slowed:
        yield MeasurementWarning(
            code="throttled",
            message=f"the board slowed itself down: {', '.join(slowed)}",
            advice="cool it, check its supply, and measure again",
        )


def warnings_of_heat(
    before: Mapping[str, float], after: Mapping[str, float]
) -> Iterator[MeasurementWarning]:
    """Of the zone that moved most."""
    moved = {name: after[name] - value for name, value in before.items() if name in after}
    name = max(moved, key=lambda each: abs(moved[each]), default=None)
    if name is not None and abs(moved[name]) > HEATING_C:
        yield MeasurementWarning(
            code="temperature-drift",
            message=f"{name} went from {before[name]:.0f} C to {after[name]:.0f} C",
            advice="warm up for longer, so that leakage has settled",
        )


def warnings_of_clocks(
    clocks: Mapping[str, Range], tolerance: float
) -> Iterator[MeasurementWarning]:
    """Of clocks that moved by more than a share."""
    moved = [
        f"{name} between {found.lowest:.0f} and {found.highest:.0f} MHz"
        for name, found in sorted(clocks.items())
        if found.highest - found.lowest > tolerance * found.highest
    ]
    if moved:
        yield MeasurementWarning(
            code="clocks-changed",
            message=f"clocks moved while it was measured: {', '.join(moved)}",
            advice="fix them (on a Jetson: jetson_clocks; else: cpupower frequency-set -g performance), and measure again",
        )


def _ranges(columns: Iterable[Mapping[str, Sequence[float | None]]]) -> dict[str, Range]:
    pooled: dict[str, list[float]] = {}
    for each in columns:
        for name, column in each.items():
            known = [value for value in column if value is not None]
            if known:
                pooled.setdefault(name, []).extend(known)
    return {
        name: Range(lowest=min(values), highest=max(values))
        for name, values in sorted(pooled.items())
    }
