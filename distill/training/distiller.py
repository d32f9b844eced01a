"""The one loop: images are made against the student, and the student learns from them.

A round is one batch of images, or one step of a generator, and `learning.steps` steps of the student.
The loop is a generator of events; between two of them the whole state can be saved, and a loop that
starts from a saved state goes on exactly as the one that was saved.

Of several ranks each takes its share of every batch and keeps the images that it made; gradients are
averaged at every step and running statistics at every round, so that the weights are the same on all.

N images, C channels, H x W pixels, K classes.
"""

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill.compute.compiled_forward import Pass
from edgekd.distill.compute.device import Compute
from edgekd.distill.compute.distributed import SINGLE_PROCESS
from edgekd.distill.data.given_data import NOTHING, GivenData
from edgekd.distill.models import networks
from edgekd.distill.models.batch_norm import train
from edgekd.distill.models.student_choice import InitialStudent
from edgekd.distill.pruning.reconstruction import MOST_IMAGES
from edgekd.distill.recipes.adaptation import for_ranks
from edgekd.distill.recipes.config import NoiseSource, Recipe
from edgekd.distill.recipes.schedule import RunBudget, ema_decay, learning_rate
from edgekd.distill.synthesis.image_pool import ImagePool, to_uint8
from edgekd.distill.synthesis.synthesizer import Synthesizer
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.training.checkpoint import OWN
from edgekd.distill.training.delivery import choose_batches, deliver_student
from edgekd.distill.training.feature_hints import FeatureHints
from edgekd.distill.training.optimization import (
    all_finite,
    average_statistics,
    compile_passes,
    make_optimizer,
    make_student,
    place_student,
    retention_loss,
    set_rate,
)
from edgekd.distill.training.progress_figures import (
    AgreementMeter,
    ProgressImages,
    RoundEnd,
    measure_accuracy,
)
from edgekd.distill.training.repair import repair_student
from edgekd.distill.training.snapshots import Snapshots
from edgekd.distill.training.student_batches import StudentBatches, label_images
from edgekd.records import Architecture, HistoryPoint

# Of the budget
AGREEMENT_EVERY = 0.02
# Of the minutes: what the images before the first step may take
FIRST_IMAGES = 0.25


class Distillation:
    """A run: everything that must survive a checkpoint, and the loop over it."""

    def __init__(
        self,
        teacher: Teacher,
        student: Architecture,
        recipe: Recipe,
        *,
        budget: RunBudget,
        seed: int,
        compute: Compute,
        given: GivenData = NOTHING,
        watched: ProgressImages | None = None,
        compiles: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set up a fresh run; nothing is computed yet.

        Args:
            teacher: loaded; it is copied to the device and never changed.
            student: what to train.
            recipe: as it is used for this teacher (see `select_recipe`). Its batches are those of
                all ranks together.
            budget: what may be spent.
            seed: of every draw.
            compute: where to compute.
            given: images, class vectors and first weights that the run does not make itself.
            watched: looked at along the way, for the history alone.
            compiles: whether the passes of the student's steps are compiled; not, where they cannot be.
            clock: seconds, never stepping back.

        Raises:
            UsageError: the ranks cannot share a batch evenly.
        """
        self.teacher = teacher
        self.recipe = recipe = for_ranks(recipe, compute.world_size)
        self.ahead = given.ahead
        self.budget = budget
        self.seed = seed
        self.compute = compute
        self.clock = clock
        self.watched = watched
        device = compute.device
        first = torch.Generator().manual_seed(seed)
        self.generator = torch.Generator(device).manual_seed(compute.group.seed(seed + 1))
        self.teacher_module = copy.deepcopy(teacher.module).to(
            device, memory_format=compute.memory_format
        )  # type: ignore[call-overload]
        self.initial = initial = given.initial
        self.student = (
            make_student(student, seed=seed, generator=first, compute=compute)
            if initial is None
            else place_student(initial.module, compute)
        )
        self.average = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.optimizer = make_optimizer(self.student, recipe.learning)
        real = given.real
        if real is not None:
            real = label_images(real, self.teacher_module, compute)
        self.warnings: list[str] = []
        self.step = 0
        self.synthesizer = Synthesizer(
            teacher,
            self.teacher_module,
            self.student,
            recipe,
            seed=seed,
            compute=compute,
            first=first,
            given=replace(given, real=real),
            say=self._warn,
        )
        self.student_batches = StudentBatches(
            recipe,
            self.synthesizer,
            self.teacher_module,
            flip=teacher.flip,
            real=real,
            compute=compute,
            generator=self.generator,
        )
        self.snapshots = Snapshots(teacher.info.classes)
        self.updates = 0
        self.elapsed_s = 0.0
        # Of it, spent on making images
        self.images_s = 0.0
        self.rate_factor = 1.0
        self.measured_at = 0.0
        self.history: list[HistoryPoint] = []
        self.meter = AgreementMeter(
            self.student_batches.final_teacher, self.student_batches.normalise
        )
        self.compiles = compiles
        self.hints = self._find_hints()
        self.answers: Pass = self.student
        self.targets: Pass = self.teacher_module

    # --- state ---------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.compute.device

    @property
    def pool(self) -> ImagePool:
        return self.synthesizer.pool

    @property
    def held_out(self) -> ImagePool:
        return self.synthesizer.held_out

    @property
    def nbytes(self) -> int:
        """Of all images, or of what makes them again."""
        return self.synthesizer.nbytes + self.student_batches.nbytes

    def pools(self) -> tuple[tuple[str, ImagePool], ...]:
        """The pools by the names of their shards; every rank reads images made ahead by itself."""
        if self.ahead is not None and not self.compute.is_main:
            return ()
        return (("pool", self.pool), ("held_out", self.held_out))

    def state_dict(self) -> dict[str, Any]:
        """All but the images of the pools, which are saved as shards.

        What each rank has of its own is beside it under `OWN`, where there are several.
        """
        own = {
            "generator": self.generator.get_state(),
            "synthesizer": self.synthesizer.own_state(),
        }
        return {
            **({} if self.compute.group.is_single else {OWN: own}),
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "synthesizer": self.synthesizer.state_dict(),
            "generator": self.generator.get_state(),
            "snapshots": self.snapshots.state_dict(),
            **{name: getattr(self, name) for name in _COUNTERS},
            "warnings": list(self.warnings),
            "history": [dict(vars(point)) for point in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all but the images of the pools, which are to be added by the caller."""
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.synthesizer.load_state_dict(state["synthesizer"])
        self.generator.set_state(state["generator"].cpu())
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.warnings[:] = state["warnings"]
        self.history = [HistoryPoint(**point) for point in state["history"]]
        if OWN in state:
            self.generator.set_state(state[OWN]["generator"].cpu())
            self.synthesizer.load_own_state(state[OWN]["synthesizer"])
        self.snapshots.load_state_dict(
            state.get("snapshots"), progress=self.progress, made=self.pool.made
        )

    # --- the loop ------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        return self.budget.progress(step=self.step, elapsed_s=self.elapsed_s)

    def events(self) -> Iterator[RoundEnd]:
        """Run until the budget is spent, one event a round.

        Raises:
            CollapseError: images or student collapsed and did not recover.
        """
        warned = len(self.warnings)
        if self.compiles and self.hints is not None:
            self._warn("--compile: the plain pass is used, for the hints look inside of networks")
        elif self.compiles:
            self._compile_passes()
        self.prepare()
        while self.progress < 1.0:
            started = self.clock()
            losses = self.synthesizer.round(
                self.progress,
                generator=self.generator,
                is_enough=functools.partial(self._is_first_over, started),
            )
            self.compute.synchronize()
            self.images_s += self.clock() - started
            if self.initial is not None and not self.step:
                self._repair_student(self.initial)
            losses |= self._train_student(started)
            self.elapsed_s += self.compute.group.broadcast_number(self.clock() - started)
            ended = self.budget.minutes is not None and self.progress >= 1.0
            if ended and self.step < self.recipe.learning.steps:
                self._warn(
                    f"the minutes ended after {self.step} of the student's steps: what it is worth was hardly tried. Give more "
                    "--minutes"
                )
            event = self._event(losses, warned)
            warned = len(self.warnings)
            yield event

    def _is_first_over(self, started: float) -> bool:
        """Whether the images before the first step had their share of the minutes; steps are not spent by images."""
        minutes = self.budget.minutes is not None
        return minutes and not self.step and self._progress_now(started) >= FIRST_IMAGES

    def prepare(self) -> None:
        """Draw the gallery of structured noise, where the recipe has one; its time counts."""
        if not self.recipe.learning.structured:
            return
        started = self.clock()
        self._draw_gallery()
        self.images_s += self.clock() - started
        self.elapsed_s += self.compute.group.broadcast_number(self.clock() - started)

    def _draw_gallery(self) -> None:
        seed = self.compute.group.seed(self.seed + 4)
        self.student_batches.prepare(seed=seed, steps=self.budget.steps)

    def _repair_student(self, initial: InitialStudent) -> None:
        """Repair what can be before the first step; see `repair_student`."""
        source = self.recipe.source
        if isinstance(source, NoiseSource):
            # What the teacher makes of noise says nothing of its layers
            return
        if self.ahead is None and self.recipe.flows:
            batches = [
                to_uint8(self.synthesizer.fresh(source.batch, generator=self.generator))
                for _ in range(math.ceil(MOST_IMAGES / source.batch))
            ]
        else:
            batches = choose_batches(self.pool, None if self.ahead is None else source.batch)
        repair_student(
            self.student,
            self.teacher_module,
            initial.cut,
            batches,
            self.student_batches,
            fits=self.recipe.learning.frozen_statistics,
            macs=self.teacher.info.macs,
        )
        self.average.load_state_dict(self.student.state_dict())

    def _find_hints(self) -> FeatureHints | None:
        """Where the student is held to the teacher's maps; None: nowhere."""
        if self.initial is None or not self.recipe.learning.hints:
            return None
        image = torch.zeros(1, *self.teacher.info.input.shape, device=self.device)
        found = FeatureHints(self.student, self.teacher_module, self.initial.cut, image)
        return found if found.hints else None

    def _compile_passes(self) -> None:
        """Compile the passes of a step; the time that it takes is not the budget's."""
        shape = (self.recipe.learning.batch, *self.teacher.info.input.shape)
        self.answers, self.targets = compile_passes(
            self.student, self.teacher_module, shape, compute=self.compute, say=self._warn
        )

    def _event(self, losses: dict[str, float], warned: int) -> RoundEnd:
        progress = self.progress
        self.snapshots.look(self.pool, progress=progress, step=self.step)
        found: dict[str, float | None] = {"agreement": None}
        if progress - self.measured_at >= AGREEMENT_EVERY or progress >= 1.0 or not self.history:
            found = {
                "agreement": self.agreement(self.average),
                "raw_agreement": self.agreement(self.student),
            }
            if self.watched is not None:
                found["accuracy"] = measure_accuracy(self.average, self.watched, self.compute)
                found["raw_accuracy"] = measure_accuracy(self.student, self.watched, self.compute)
            self.measured_at = progress
        point = HistoryPoint(
            step=self.step,
            images=self.synthesizer.made,
            elapsed_s=round(self.elapsed_s, 3),
            losses=losses,
            **found,
        )
        if point.agreement is not None:
            self.history.append(point)
        return RoundEnd(point=point, progress=progress, warnings=tuple(self.warnings[warned:]))

    def _warn(self, text: str) -> None:
        self.warnings.append(f"step {self.step}: {text}")

    def _train_student(self, started: float) -> dict[str, float]:
        train(self.student, frozen_statistics=self.recipe.learning.frozen_statistics)
        kept = {name: tensor.clone() for name, tensor in self.average.state_dict().items()}
        total = torch.zeros((), device=self.compute.device)
        steps = self.recipe.learning.steps
        if self.budget.steps is not None:
            steps = min(steps, self.budget.steps - self.step)
        for done in range(steps):
            progress = self._progress_now(started)
            rate = self.rate_factor * learning_rate(self.recipe.learning.rate, progress)
            set_rate(self.optimizer, rate)
            loss = self.student_step(progress)
            self.step += 1
            self._average(self._progress_now(started) - progress)
            total += loss.detach()
            if self.budget.minutes is not None and progress >= 1.0:
                steps = done + 1
                break
        if not self.compute.group.is_single:
            # Once a round: a student in evaluation mode is asked only after this.
            learning = (self.student, self.average, *self.synthesizer.networks())
            average_statistics(learning, self.compute.group)
        mean = float(self.compute.group.all_reduce_mean(total)) / steps
        # The last step can break the weights after a loss that was still finite.
        finite = self.compute.group.all_reduce_and(math.isfinite(mean) and all_finite(self.average))
        verdict = self.synthesizer.monitors.student(finite=finite)
        if verdict.action == "restore student":
            self._restore_student(kept)
        self.synthesizer.act(verdict)
        return {"kd": mean}

    def gather(self) -> None:
        """Part with the other ranks: rank 0 has all images then, and goes on alone."""
        self.synthesizer.gather()
        self.compute.group.destroy()
        self.compute = replace(self.compute, group=SINGLE_PROCESS)
        # There are more held-out images now
        self.meter.forget()

    def _progress_now(self, started: float) -> float:
        spent = self.elapsed_s + self.clock() - started
        if self.budget.minutes is not None:
            spent = self.compute.group.broadcast_number(spent)
        return self.budget.progress(step=self.step, elapsed_s=spent)

    def student_step(self, progress: float = 1.0) -> Tensor:
        """One step on a batch of images; its loss."""
        learning = self.recipe.learning
        teacher, new, remembered = self.student_batches.batch(progress)
        self.optimizer.zero_grad()
        if learning.inner_rate and len(remembered):
            loss = self._retaining(teacher, new, remembered)
        else:
            loss = self._loss(teacher, torch.cat([new, remembered]) if len(remembered) else new)
        self.compute.backward(loss)
        self.compute.group.average_gradients(self.student.parameters())
        self.optimizer.step()
        return loss

    def _loss(self, teacher: nn.Module, images: Tensor) -> Tensor:
        asked = self.targets if teacher is self.teacher_module else teacher
        hints = self.hints if teacher is self.teacher_module else None
        with self.compute.autocast(), contextlib.nullcontext() if hints is None else hints.watch():
            with torch.no_grad():
                targets = asked(images)
            answers = self.answers(images)
        loss = self.recipe.learning.loss(answers, targets)
        return loss if hints is None else loss + self.recipe.learning.hints * hints.loss()

    def _retaining(self, teacher: nn.Module, new: Tensor, remembered: Tensor) -> Tensor:
        """Loss on new images plus that on remembered ones after a step on the new (LRA)."""
        with self.compute.autocast(), torch.no_grad():
            targets = teacher(remembered)
        # The inner rate is a share of the outer one, which the schedule sets.
        rate = self.recipe.learning.inner_rate * self.optimizer.param_groups[0]["lr"]
        return retention_loss(
            self.student, self._loss(teacher, new), (remembered, targets),
            loss=self.recipe.learning.loss, rate=rate, compute=self.compute,
        )  # fmt: skip

    def _average(self, advance: float) -> None:
        self.updates += 1
        decay = ema_decay(advance, updates=self.updates)
        networks.follow(self.average, self.student, decay=decay)

    def _restore_student(self, average: dict[str, Tensor]) -> None:
        """Back to the average as it was before the round, which has not seen the broken weights."""
        self.rate_factor /= 2
        self.average.load_state_dict(average)
        self.student.load_state_dict(average)
        self.optimizer = make_optimizer(self.student, self.recipe.learning)

    # --- what comes out -------------------------------------------------------------------------

    def agreement(self, student: nn.Module) -> float:
        """Share of the held-out synthetic images on which student and teacher decide the same."""
        return self.meter.measure(student, self.held_out, self.compute)

    def deliver(self) -> nn.Module:
        """The averaged student with batch-norm statistics of the best images; on the CPU, evaluation mode."""
        # Where a finished run was taken up again
        self._draw_gallery()
        batch = None if self.ahead is None else self.recipe.source.batch
        batches = choose_batches(self.pool, batch)
        with self.compute.autocast():
            return deliver_student(
                self.average,
                [] if self.recipe.learning.frozen_statistics else batches,
                self.student_batches.as_learned,
            )


_COUNTERS = ("step", "updates", "elapsed_s", "images_s", "rate_factor", "measured_at")
