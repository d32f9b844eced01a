"""What a search says: candidates, the choice, and a budget that nothing keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekd.bench.format import format_bytes, format_quantity
from edgekd.gate.budget_file import KINDS, NAMES
from edgekd.records import Budget, Metric
from edgekd.search.candidates import SHOWN, Candidate, Cost
from edgekd.search.successive_halving import Run


def row(candidate: Candidate) -> str:
    """One candidate in a line."""
    costs = ", ".join(cost(metric, found) for metric, found in sorted(candidate.costs.items()))
    line = f"{candidate.name}: {candidate.parameters:,} parameters, {candidate.macs / 1e6:.2f} M MACs, {candidate.precision.upper()}, {costs}"
    if candidate.over:
        line += f"; over: {_ratios(candidate)}"
    return line


def cost(metric: Metric, found: Cost) -> str:
    """`latency-p50 1.20 ms`, marked where it is an estimate."""
    unit = KINDS[metric].unit
    shown = format_bytes(found.value) if unit == "B" else format_quantity(found.value, unit)
    return f"{metric} {'about ' if found.estimated else ''}{shown}{' (estimate)' if found.estimated else ''}"


def nearest(candidates: Sequence[Candidate], *, option: str) -> str:
    """Of a budget that nothing keeps: what comes nearest, what to relax, and the option that names smaller networks."""
    best = min(candidates, key=lambda each: max(each.over.values()))
    wanted = ", ".join(f"{key} by {ratio - 1:.1%}" for key, ratio in sorted(best.over.items()))
    return (
        f"none of {len(candidates)} candidates keeps the budget. The nearest is {best.name}, {_ratios(best)}. Relax {wanted}, "
        f"or name a smaller network with {option}."
    )


@dataclass(frozen=True)
class Choice:
    """A run, those that are one image from it at most, and whether time decided between them."""

    run: Run
    near: tuple[Run, ...]
    timed: bool


def choose(last: Sequence[Run], candidates: Mapping[str, Candidate]) -> Choice:
    """The highest agreement; of those one image apart at most, the faster, or where no time is known the smaller."""
    best = max(run.agreement for run in last)
    near = [run for run in last if best - run.agreement <= 1 / run.images + 1e-9]
    timed = all("latency-p50" in candidates[run.name].costs for run in near)

    def cost_of(run: Run) -> float:
        found = candidates[run.name]
        return found.costs["latency-p50"].value if timed else float(found.macs)

    chosen = min(near, key=cost_of)
    return Choice(chosen, tuple(run for run in near if run is not chosen), timed)


def explain_choice(choice: Choice, candidates: Sequence[Candidate], budget: Budget) -> str:
    """The choice in a paragraph."""
    chosen = choice.run
    found = next(each for each in candidates if each.name == chosen.name)
    over = sum(bool(each.over) for each in candidates)
    text = f"{len(candidates)} candidates, {over} of them over the budget. "
    text += (
        f"{chosen.name} agrees with the teacher on {chosen.agreement:.2%} of {chosen.images} held-out synthetic images after "
        f"{chosen.steps:,} steps, "
    )
    if not choice.near:
        text += "the highest agreement of the last rung. "
    else:
        shown = ", ".join(f"{run.name} ({run.agreement:.2%})" for run in choice.near)
        by = "faster" if choice.timed else "one with fewer MACs"
        text += f"within one image of {shown}, and is the {by}. "
    text += f"It would be deployed in {found.precision.upper()}: "
    text += ", ".join(cost(metric, each) for metric, each in sorted(found.costs.items())) + "."
    if budget.precision is None:
        text += f" Hold its bundle against the same file: --limit precision={found.precision}."
    unchecked = [
        NAMES[metric]
        for metric in budget.limits
        if KINDS[metric].bound == "at most" and metric not in found.costs
    ]
    if unchecked:
        text += f" Not checked, as --allow-estimates says: {', '.join(unchecked)}."
    if any(each.estimated for each in found.costs.values()):
        text += " Estimates are no measurements: bench it on the board."
    return text


def front_text(
    front: Sequence[str], runs: Sequence[Run], candidates: Sequence[Candidate], chosen: str
) -> str:
    """The front for a terminal, best agreement first: a line a candidate, the choice marked."""
    last = {run.name: run for run in runs}
    by_name = {each.name: each for each in candidates}
    rows = sorted((last[name] for name in front), key=lambda run: -run.agreement)
    width = max(len(run.name) for run in rows)
    lines = ["No other beats these in agreement and in every cost (*: chosen):"]
    for run in rows:
        found = by_name[run.name].costs
        costs = ", ".join(cost(metric, found[metric]) for metric in SHOWN if metric in found)
        mark = "*" if run.name == chosen else " "
        lines.append(
            f"{mark} {run.name:{width}}  {run.agreement:6.1%} after {run.steps:,} steps, {costs}"
        )
    return "\n".join(lines)


def _ratios(candidate: Candidate) -> str:
    return ", ".join(
        f"{key} {ratio - 1:.1%} over" if ratio < 2 else f"{key} {ratio:.1f} times the limit"
        for key, ratio in sorted(candidate.over.items())
    )


def front(runs: Sequence[Run], kept: Sequence[Candidate]) -> tuple[str, ...]:
    """Names that no other beats in agreement and in every known cost; agreement is of each one's last run."""
    # Later rungs win
    agreement = {run.name: run.agreement for run in runs if run.lost is None}
    points = {
        each.name: (-agreement[each.name], *_costs_of(each, kept))
        for each in kept
        if each.name in agreement
    }
    return tuple(
        name
        for name, point in points.items()
        if not any(_beats(other, point) for other in points.values())
    )


def _costs_of(candidate: Candidate, kept: Sequence[Candidate]) -> list[float]:
    known = [metric for metric in SHOWN if all(metric in each.costs for each in kept)]
    return [candidate.costs[metric].value for metric in known] or [float(candidate.macs)]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
