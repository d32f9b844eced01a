"""What a run will cost, from a few timed steps on throw-away state."""

import math
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from edgekd.distill.compute.memory import available_bytes
from edgekd.distill.recipes.config import Recipe, adjust
from edgekd.distill.synthesis.image_pool import entry_of
from edgekd.distill.synthesis.synthesizer import HURRIED_STEPS
from edgekd.distill.training.distiller import FIRST_IMAGES, Distillation

TIMED_STUDENT_STEPS: Final = 4
# Pixels times steps: above this a whole batch is minutes on a CPU; a part of one is timed and multiplied.
WHOLE_WORK: Final = 128 * 10 * 64 * 64
TIMED_INNER_STEPS: Final = 2
# A side from which nothing was ever measured
MEASURED_PIXELS: Final = 224
# Student steps of the CIFAR-10 benchmark on two cores (benchmarks/results/cifar10.csv).
USUAL_STEPS: Final = 10_800
# With fewer a student is hardly more than what it began with
LEAST_STEPS: Final = 120


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Medians of very few steps: good for planning a coffee, not for a benchmark."""

    # 0 where images are not made
    image_batch_s: float
    student_step_s: float
    round_s: float
    # Of the student, in the whole run
    steps: int
    images: int
    duration_s: float
    # For as many steps as the CIFAR-10 benchmark made
    usual_s: float
    # For the fewest that are worth a run
    least_s: float
    # Of the process, with the pool full
    memory_bytes: int
    # From a part of a batch
    scaled: bool

    def __str__(self) -> str:
        made = (
            f"{self.images:,} images at {self.image_batch_s:.1f} s per batch"
            if self.image_batch_s
            else f"{self.images:,} images made ahead"
        )
        return (
            f"about {format_duration(self.duration_s)}: {self.steps:,} student steps of {self.student_step_s * 1e3:.0f} ms, "
            f"{made}; about {self.memory_bytes / 2**20:,.0f} MiB of memory"
        )

    @property
    def fits(self) -> bool:
        """Whether this machine has the memory free, as far as it says."""
        free = available_bytes()
        return free is None or self.memory_bytes <= free + resident_bytes()


def format_duration(seconds: float) -> str:
    """A length of time to plan with."""
    if seconds >= 3 * 3600:
        return f"{seconds / 3600:,.0f} h"
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def forecast(fresh: Callable[[Recipe], Distillation], recipe: Recipe, *, pixels: int) -> Forecast:
    """Time one batch of images, or a part of it, and a few student steps.

    Args:
        fresh: makes a run of the same set-up with a recipe; it is used up.
        recipe: of the real run.
        pixels: of an image, height times width.
    """
    timed = shorten(recipe, pixels)
    half_bytes = _of_half(fresh, timed) if timed is not recipe else 0
    scratch = fresh(timed)
    budget = scratch.budget
    share = work(recipe) / work(timed)
    image_batch_s = 0.0
    started = time.perf_counter()
    _images(scratch)
    if scratch.ahead is None:
        scratch.compute.synchronize()
        image_batch_s = (time.perf_counter() - started) * share
    scratch.prepare()
    scratch.student.train()
    seconds = []
    for _ in range(TIMED_STUDENT_STEPS):
        started = time.perf_counter()
        scratch.student_step()
        scratch.compute.synchronize()
        seconds.append(time.perf_counter() - started)
    # The first compiles and allocates.
    student_step_s = sorted(seconds)[len(seconds) // 2] * (
        recipe.learning.batch / timed.learning.batch
    )
    round_s = _batches_a_round(recipe) * image_batch_s + recipe.learning.steps * student_step_s
    kept = recipe.first_batches
    if budget.steps is not None:
        steps = budget.steps
        duration_s = _of_steps(steps, recipe, image_batch_s, student_step_s)
    else:
        assert budget.minutes is not None
        duration_s = 60 * budget.minutes
        made, kept, held_out = _count_first(recipe, duration_s, image_batch_s)
        # A round's own batch is in its time
        left_s = duration_s - (made - 1 + held_out) * image_batch_s
        steps = max(1, round(left_s / round_s * recipe.learning.steps))
    # What half a batch did not need yet is what the other half needs.
    part = timed.source.batch
    grown = (_peak_bytes(scratch) - half_bytes) / (part / 2) * (recipe.source.batch - part)
    return Forecast(
        image_batch_s=image_batch_s,
        student_step_s=student_step_s,
        round_s=round_s,
        steps=steps,
        images=len(scratch.pool)
        if scratch.ahead is not None
        else _images_made(recipe, steps, kept=kept),
        duration_s=duration_s,
        usual_s=_of_steps(USUAL_STEPS, recipe, image_batch_s, student_step_s),
        least_s=_of_steps(LEAST_STEPS, recipe, image_batch_s, student_step_s),
        memory_bytes=_memory_bytes(scratch, recipe, round(grown)),
        scaled=timed is not recipe,
    )


def _count_first(recipe: Recipe, duration_s: float, image_batch_s: float) -> tuple[int, int, int]:
    """Batches before the first step of so long a run: made, kept of them, and the held-out one in the time of one.

    They end with the one that the clock finds them at, but not before one is kept.
    """
    total = recipe.warm_up_batches + recipe.first_batches
    if not image_batch_s:
        return total, recipe.first_batches, _count_held_out(recipe)
    most = max(1, math.ceil(FIRST_IMAGES * duration_s / image_batch_s))
    if most >= total:
        return total, recipe.first_batches, _count_held_out(recipe)
    kept = max(1, most - recipe.warm_up_batches)
    return (
        min(most, recipe.warm_up_batches) + kept,
        kept,
        min(HURRIED_STEPS, _count_held_out(recipe)),
    )


def _images_made(recipe: Recipe, steps: int, *, kept: int) -> int:
    """Images of a whole run: a source that flows makes those of every step of the student."""
    if recipe.flows:
        return round(steps * recipe.learning.batch * (1 - recipe.reminded))
    rounds = math.ceil(steps / recipe.learning.steps)
    return (kept - 1 + rounds) * recipe.source.batch


def work(recipe: Recipe) -> int:
    """Images times steps of a batch: what its time goes with."""
    return recipe.source.batch * recipe.inner_steps


def _images(scratch: Distillation) -> None:
    """What a round makes of images, once."""
    if scratch.ahead is None and not scratch.recipe.flows:
        made = scratch.synthesizer.invert(generator=scratch.generator)
        scratch.pool.add(entry_of(made))
    else:
        # One step of a generator, whatever it takes before the student's first
        scratch.synthesizer.round(0.0, generator=scratch.generator, is_enough=lambda: True)


def _with_batch(recipe: Recipe, batch: int, steps: int) -> Recipe:
    """The recipe with batches that are a part of its own."""
    return replace(
        recipe,
        source=adjust(recipe.source, batch=batch, steps=steps),
        learning=replace(recipe.learning, batch=max(4, min(batch, recipe.learning.batch))),
        memory=replace(recipe.memory, entry=min(recipe.memory.entry, batch), batches=1),
    )


def shorten(recipe: Recipe, pixels: int) -> Recipe:
    """The recipe, or one with fewer steps and images that shows what it costs."""
    inversion = work(recipe) * pixels
    student = recipe.learning.batch * TIMED_STUDENT_STEPS * pixels
    if max(inversion, student) <= WHOLE_WORK:
        return recipe
    steps = min(recipe.inner_steps, TIMED_INNER_STEPS)
    largest = max(recipe.source.batch * steps, recipe.learning.batch * TIMED_STUDENT_STEPS)
    share = min(1.0, WHOLE_WORK / 4 / (largest * pixels))
    return _with_batch(recipe, max(4, round(recipe.source.batch * share)), steps)


def _of_half(fresh: Callable[[Recipe], Distillation], timed: Recipe) -> int:
    """The most that was held after half of the part of a batch; libraries have come in by then."""
    scratch = fresh(_with_batch(timed, timed.source.batch // 2, timed.inner_steps))
    _images(scratch)
    scratch.student.train()
    scratch.student_step()
    scratch.compute.synchronize()
    return _peak_bytes(scratch)


def _of_steps(steps: int, recipe: Recipe, image_batch_s: float, student_step_s: float) -> float:
    rounds = steps / recipe.learning.steps
    batches = _first_batches(recipe) + _batches_a_round(recipe) * rounds
    return batches * image_batch_s + steps * student_step_s


def _first_batches(recipe: Recipe) -> int:
    """Batches, in the time of one, that the first round makes more of than those after it."""
    return recipe.warm_up_batches + recipe.first_batches - 1 + _count_held_out(recipe)


def _batches_a_round(recipe: Recipe) -> float:
    """The time of a round's images, in that of one batch: some rounds make a held-out one too."""
    return 1.0 + _count_held_out(recipe) / recipe.held_out_every


def _count_held_out(recipe: Recipe) -> int:
    """Of a held-out batch, in the time of another."""
    return 0 if recipe.flows else recipe.held_out_steps


def _peak_bytes(scratch: Distillation) -> int:
    """The most that the process, or the device, has held so far."""
    if scratch.compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(scratch.compute.device)
    return peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Memory that this process holds now."""
    with Path("/proc/self/statm").open(encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _memory_bytes(scratch: Distillation, recipe: Recipe, grown: int) -> int:
    """Resident memory of this process and of the device, with whole batches and the pool full."""
    device = scratch.compute.device
    pool = scratch.pool.images[:1, :1].numel() * recipe.memory.batches * recipe.memory.entry
    if scratch.ahead is not None:
        pool = scratch.pool.images.numel()
    if device.type == "cuda":
        return resident_bytes() + torch.cuda.max_memory_allocated(device) + max(0, grown) + pool
    if scratch.recipe is recipe:
        # Zeroed pages of the pool are not resident until images are written to them.
        return resident_bytes() + pool
    return _peak_bytes(scratch) + max(0, grown) + pool
