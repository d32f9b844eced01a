"""How steady a run was: a student without validation data is only as good as its last moment.

All figures are functions of the history; nothing of them is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Final

from edgekd.records import HistoryPoint

# Of the points
LAST: Final = 0.2

KINDS: Final = (
    ("agreement", "agreement", "delivered student"),
    ("raw_agreement", "agreement", "raw student"),
    ("accuracy", "accuracy", "delivered student"),
    ("raw_accuracy", "accuracy", "raw student"),
)


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Of one figure over a run; shares of 0..1."""

    final: float
    best: float
    mean: float
    deviation: float
    # Of the last fifth
    last_mean: float
    last_deviation: float


def steadiness(values: Sequence[float]) -> Stability:
    """Of values in the order of the run; at least one."""
    last = values[-max(1, round(LAST * len(values))) :]
    return Stability(
        final=values[-1],
        best=max(values),
        mean=fmean(values),
        deviation=pstdev(values),
        last_mean=fmean(last),
        last_deviation=pstdev(last),
    )


def of_history(history: Sequence[HistoryPoint], figure: str) -> Stability | None:
    """Of one of the figures of `KINDS`; None where it was not taken."""
    values = [value for point in history if (value := getattr(point, figure)) is not None]
    return steadiness(values) if values else None


def format_stability(history: Sequence[HistoryPoint]) -> list[str]:
    """A line for each figure that was taken."""
    lines = []
    for figure, name, whose in KINDS:
        found = of_history(history, figure)
        if found is None:
            continue
        if sum(getattr(point, figure) is not None for point in history) == 1:
            # Nothing is known of how it moved
            lines.append(f"{name} of the {whose}: {found.final:.2%}, looked at once")
        else:
            lines.append(
                f"{name} of the {whose}: final {found.final:.2%}, best {found.best:.2%}, mean "
                f"{found.mean:.2%} (sd {found.deviation:.2%}); last fifth {found.last_mean:.2%} (sd "
                f"{found.last_deviation:.2%})"
            )
    return lines
