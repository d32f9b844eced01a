"""Two measurements against one another: a ratio with its interval, and a verdict only where that allows one."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from edgekd.bench.analysis import statistics
from edgekd.bench.analysis.confidence_intervals import student_factor
from edgekd.records import (
    Energy,
    Figure,
    Measurements,
    Samples,
    Unmeasured,
    record,
)

Verdict = Literal["less", "more", "none"]


@record
class Ratio:
    """New over old of one figure, with a 95 % interval; or why there is none."""

    # "latency", "memory", "energy"
    figure: str
    value: float | None
    low: float | None
    high: float | None
    # Whether new is less or more than old
    verdict: Verdict
    # For the verdict, or for there being none
    reason: str


@record
class Comparison:
    """What `edgekd bench compare --json` prints, for a pair."""

    old: str
    new: str
    ratios: tuple[Ratio, ...]


def compare(old: Measurements, new: Measurements) -> Comparison:
    """Latency, memory and energy of one measurement over another's."""
    apart = _apart(old, new)
    energies = (old.energy, new.energy)
    scopes = [f"{each.scope}, {each.sensor}" for each in energies if isinstance(each, Energy)]
    differ = apart or (
        f"their energy is of different scopes: {scopes[0]}; {scopes[1]}"
        if len({*scopes}) > 1
        else ""
    )
    return Comparison(
        old=old.subject,
        new=new.subject,
        ratios=(
            ratio("latency", old.latency, new.latency, apart),
            ratio("memory", old.memory.model_pss, new.memory.model_pss, apart),
            ratio("energy", _gross(old.energy), _gross(new.energy), differ),
        ),
    )


def ratio(figure: str, old: Figure, new: Figure, apart: str = "") -> Ratio:
    """One figure over another.

    The spread is that between processes, or between windows: calls of one process share what that process met, and
    thousands of them say little more about it than one. Student's t of the logarithms' means (Welch).

    Args:
        figure: its name.
        old: below the line.
        new: above it.
        apart: why the two cannot be compared; empty: they can.
    """

    def without(reason: str) -> Ratio:
        return Ratio(figure=figure, value=None, low=None, high=None, verdict="none", reason=reason)

    if apart:
        return without(apart)
    for name, each in (("old", old), ("new", new)):
        if isinstance(each, Unmeasured):
            return without(f"{name} was not measured: {each.reason}")
    assert isinstance(old, Samples)
    assert isinstance(new, Samples)
    parts = [statistics.levels(old), statistics.levels(new)]
    if any(level <= 0 for part in parts for level in part):
        return without("a value is not above zero, as of a difference within the noise")
    logs = [np.log(part) for part in parts]
    value = math.exp(float(logs[1].mean() - logs[0].mean()))
    if min(len(part) for part in logs) < 2:
        return Ratio(
            figure=figure,
            value=value,
            low=None,
            high=None,
            verdict="none",
            reason="one process or window alone says nothing of its spread; measure with --processes 3 or more",
        )
    low, high = (math.exp(each) for each in _interval(logs))
    inside = low <= 1 <= high
    return Ratio(
        figure=figure,
        value=value,
        low=low,
        high=high,
        verdict="none" if inside else "less" if high < 1 else "more",
        reason="the interval holds 1: no difference is shown"
        if inside
        else f"the whole interval is {'below' if high < 1 else 'above'} 1",
    )


def _interval(logs: Sequence[np.ndarray]) -> tuple[float, float]:
    middle = float(logs[1].mean() - logs[0].mean())
    squares = [float(part.var(ddof=1)) / len(part) for part in logs]
    total = sum(squares)
    if total == 0:
        return middle, middle
    weights = [square**2 / (len(part) - 1) for square, part in zip(squares, logs, strict=True)]
    # Welch and Satterthwaite
    degrees = max(1, int(total**2 / sum(weights)))
    half = student_factor(degrees) * statistics.Z * math.sqrt(total)
    return middle - half, middle + half


def _apart(old: Measurements, new: Measurements) -> str:
    """Why figures of two measurements cannot be held against one another; empty: they can."""
    asked: tuple[tuple[str, Callable[[Measurements], object]], ...] = (
        ("machines", lambda one: one.taken_on),
        ("runtimes", lambda one: one.conditions.runtime.split(" ")[0]),
        ("ways of timing", lambda one: "trtexec" in one.conditions.runtime),
        ("providers", lambda one: one.conditions.provider),
        ("numbers of threads", lambda one: one.conditions.threads),
        ("batches", lambda one: one.conditions.batch),
        ("power modes", lambda one: one.conditions.setup and one.conditions.setup.power_mode),
    )
    for name, value in asked:
        if value(old) != value(new):
            return f"they are of different {name}: {value(old)}; {value(new)}"
    if old.conditions.emulated or new.conditions.emulated:
        return "the processor was emulated"
    return ""


def _gross(energy: Energy | Unmeasured) -> Figure:
    return energy if isinstance(energy, Unmeasured) else energy.gross


def format_comparison(found: Comparison) -> str:
    """Lines for a terminal."""
    lines = [f"{found.new} over {found.old}"]
    for each in found.ratios:
        if each.value is None:
            lines.append(f"{each.figure:<9}no ratio: {each.reason}")
            continue
        interval = (
            f" (95 % interval {each.low:.3f} to {each.high:.3f})"
            if each.low is not None and each.high is not None
            else ""
        )
        verdict = {"less": "less", "more": "more", "none": "no verdict"}[each.verdict]
        lines.append(f"{each.figure:<9}{each.value:.3f}{interval}: {verdict}; {each.reason}")
    return "\n".join(lines)
