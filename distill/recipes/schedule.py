"""What a run may spend, and what every schedule is derived from: the share that is spent."""

import math
from typing import Annotated, Final

from pydantic import Field

from edgekd.errors import UsageError
from edgekd.options import DISTILL_MINUTES
from edgekd.records import record

# Of the budget, over which the delivered weights are averaged.
EMA_SPAN: Final = 0.01


@record
class RunBudget:
    """Steps of the student, or minutes of the clock; exactly one."""

    steps: Annotated[int, Field(ge=1)] | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError("give either --steps or --minutes, not both and not neither.")

    def progress(self, *, step: int, elapsed_s: float) -> float:
        """The share that is spent, 0..1."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.minutes is not None
        return min(1.0, elapsed_s / (60 * self.minutes))


def run_budget(
    steps: int | None, minutes: float | None, *, default: bool = True
) -> RunBudget | None:
    """From the two options.

    Args:
        steps: of the student.
        minutes: of the clock.
        default: whether neither means `options.DISTILL_MINUTES`; None otherwise.

    Raises:
        UsageError: both are given, or one is not positive.
    """
    if steps is not None and minutes is not None:
        raise UsageError(
            "--steps and --minutes are two ways to say the same thing: give one of them."
        )
    if steps is not None and steps < 1:
        raise UsageError(f"--steps {steps}: at least 1.")
    if minutes is not None and not (0 < minutes < math.inf):
        raise UsageError(f"--minutes {minutes:g}: more than 0.")
    if steps is None and minutes is None:
        return RunBudget(minutes=DISTILL_MINUTES) if default else None
    return RunBudget(steps=steps, minutes=minutes)


def learning_rate(peak: float, progress: float, *, warm_up: float = 0.02) -> float:
    """Linear from 0 over the first `warm_up` of the budget, then a cosine to 0 at its end."""
    if progress < warm_up:
        return peak * max(progress, 1e-3) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def ema_decay(advance: float, *, updates: int) -> float:
    """How much of the average stays when the budget advances by `advance`.

    The average reaches back over `EMA_SPAN` of the budget, and less while it is young.
    """
    return min(math.exp(-advance / EMA_SPAN), (1 + updates) / (10 + updates))
