"""What a run will cost, from a few timed steps on throw-away state."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from edgekd.distill.engine import Distillation
from edgekd.distill.memory import entry_of

TIMED_STUDENT_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Medians of very few steps: good for planning a coffee, not for a benchmark."""

    image_batch_s: float
    student_step_s: float
    round_s: float
    steps: int  # of the student, in the whole run
    images: int
    duration_s: float
    memory_bytes: int  # of the process now, with the pool full

    def __str__(self) -> str:
        minutes = self.duration_s / 60
        length = f"{minutes:.0f} min" if minutes >= 2 else f"{self.duration_s:.0f} s"
        return (
            f"about {length}: {self.steps:,} student steps of {self.student_step_s * 1e3:.0f} ms, "
            f"{self.images:,} images at {self.image_batch_s:.1f} s a batch; "
            f"about {self.memory_bytes / 2**20:,.0f} MiB of memory"
        )


def forecast(scratch: Distillation) -> Forecast:
    """Time one batch of images and a few student steps.

    Args:
        scratch: a fresh run of the same set-up; it is used up, the real run must be another.
    """
    recipe, budget = scratch.recipe, scratch.budget
    started = time.perf_counter()
    scratch.pool.add(entry_of(scratch.invert()))
    _wait(scratch)
    image_batch_s = time.perf_counter() - started
    scratch.student.train()
    seconds = []
    for _ in range(TIMED_STUDENT_STEPS):
        started = time.perf_counter()
        scratch.student_step()
        _wait(scratch)
        seconds.append(time.perf_counter() - started)
    student_step_s = sorted(seconds)[len(seconds) // 2]  # the first compiles and allocates
    round_s = image_batch_s + recipe.student_steps * student_step_s
    if budget.steps is not None:
        steps = budget.steps
        duration_s = (steps / recipe.student_steps + recipe.first_batches - 1) * image_batch_s
        duration_s += steps * student_step_s
    else:
        assert budget.minutes is not None
        duration_s = 60 * budget.minutes
        rounds = max(1.0, (duration_s - (recipe.first_batches - 1) * image_batch_s) / round_s)
        steps = round(rounds * recipe.student_steps)
    batches = steps / recipe.student_steps + recipe.first_batches
    return Forecast(
        image_batch_s=image_batch_s,
        student_step_s=student_step_s,
        round_s=round_s,
        steps=steps,
        images=round(batches) * recipe.batch,
        duration_s=duration_s,
        memory_bytes=_memory_bytes(scratch),
    )


def _wait(scratch: Distillation) -> None:
    if scratch.place.device.type == "cuda":
        torch.cuda.synchronize(scratch.place.device)


def _memory_bytes(scratch: Distillation) -> int:
    """Resident memory of this process and of the device, and what the pool will still touch."""
    with Path("/proc/self/statm").open(encoding="ascii") as stream:
        resident = int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    device = scratch.place.device
    if device.type == "cuda":
        return resident + torch.cuda.max_memory_allocated(device)
    # Zeroed pages of the pool are not resident until images are written to them.
    return resident + scratch.pool.images.numel()
