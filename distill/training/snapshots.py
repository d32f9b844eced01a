"""A few images at a few moments of a run, for people: how what is learned from changes.

S classes shown, C channels, H x W pixels.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from edgekd.distill.synthesis.image_pool import ImagePool

# Of the budget
MOMENTS: Final = (0.0, 0.05, 0.15, 0.35, 0.65, 1.0)
CLASSES_SHOWN: Final = 10


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One moment: an image for each class that the teacher saw in what was made since the last."""

    progress: float
    step: int
    # Those of which there was an image
    classes: tuple[int, ...]
    images: Tensor  # (S, C, H, W) uint8, CPU


class Snapshots:
    """Those taken so far. Draws nothing and changes nothing, so the student is the same without."""

    def __init__(self, classes: int) -> None:
        shown = min(classes, CLASSES_SHOWN)
        # Spread over all of them: neighbours are often alike (breeds of dogs).
        self.wanted = tuple(classes * compute // shown for compute in range(shown))
        self.taken: list[Snapshot] = []
        self.passed = 0  # moments
        # Batches of the pool at the last one
        self.seen = 0
        # Continued from a checkpoint that had none
        self.late = False

    def look(self, pool: ImagePool, *, progress: float, step: int) -> None:
        """Take one if a moment has come."""
        passed = sum(progress >= moment for moment in MOMENTS)
        if passed <= self.passed:
            return
        numbers = range(max(self.seen, pool.first_kept()), pool.made)
        if self.passed == 0:
            # The generator's very first batches, from before the student's first step.
            progress, step = 0.0, 0
        else:
            # The newest first
            numbers = numbers[::-1]
        found = _one_each(pool, numbers, self.wanted)
        self.taken.append(
            Snapshot(progress=progress, step=step, classes=tuple(found), images=_stack(found, pool))
        )
        self.passed, self.seen = passed, pool.made

    def state_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "seen": self.seen,
            "late": self.late,
            "taken": [dict(vars(snapshot)) for snapshot in self.taken],
        }

    def load_state_dict(self, state: dict[str, Any] | None, *, progress: float, made: int) -> None:
        """Restore; a checkpoint from before there were any starts with the next moment."""
        if state is None:
            self.passed, self.seen = sum(progress >= moment for moment in MOMENTS), made
            self.late = True
            return
        self.passed, self.seen, self.late = state["passed"], state["seen"], state["late"]
        self.taken = [
            Snapshot(
                progress=each["progress"],
                step=each["step"],
                classes=tuple(each["classes"]),
                images=each["images"].cpu(),
            )
            for each in state["taken"]
        ]


def _one_each(pool: ImagePool, numbers: range, wanted: tuple[int, ...]) -> dict[int, Tensor]:
    """For each class that occurs in these batches its first image, (C, H, W)."""
    slots = torch.tensor([number % pool.capacity for number in numbers], dtype=torch.int64)
    decided = pool.classes.cpu()[slots].flatten()  # (batches * N,)
    found: dict[int, Tensor] = {}
    for number in wanted:
        places = (decided == number).nonzero()
        if len(places):
            batch, compute = divmod(int(places[0]), pool.batch)
            found[number] = pool.images[int(slots[batch]), compute].cpu()
    return found


def _stack(found: dict[int, Tensor], pool: ImagePool) -> Tensor:  # -> (S, C, H, W)
    if found:
        return torch.stack(list(found.values()))
    return torch.zeros(0, *pool.images.shape[2:], dtype=torch.uint8)
