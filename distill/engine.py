"""The one loop: images are made against the student, and the student learns from the pool of them.

A round is one batch of images and `student_steps` steps of the student. The loop is a generator
of events; between two of them the whole state can be saved, and a loop that starts from a saved
state goes on exactly as the one that was saved.

N images, C channels, H x W pixels, K classes.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekd.distill import architectures, augment, networks, objectives
from edgekd.distill.imagesets import Ahead
from edgekd.distill.memory import ImagePool, entry_of, to_float
from edgekd.distill.monitors import Monitors, Verdict, class_entropy
from edgekd.distill.recipes import Recipe
from edgekd.distill.schedule import RunBudget, ema_decay, learning_rate
from edgekd.distill.snapshots import Snapshots
from edgekd.distill.sources import Inverted, MetaGenerator, balanced_classes
from edgekd.distill.statistics import reestimate
from edgekd.distill.teacher import Teacher
from edgekd.records import Architecture, HistoryPoint

logger = logging.getLogger(__name__)

HELD_OUT_BATCHES = 8
# Held-out images should look like the teacher's classes, not like what the student finds hard.
HELD_OUT_STEPS = 4  # times the inner steps of the recipe
HELD_OUT_ONE_HOT = 4.0  # times its weight
AGREEMENT_EVERY = 0.02  # of the budget
REESTIMATION_BATCHES = 64


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run computes: device, autocast and backward pass, from accelerate."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    autocast: Callable[[], AbstractContextManager[None]]
    backward: Callable[[Tensor], None]

    @property
    def layout(self) -> torch.memory_format:
        """How networks and images lie in memory: channels last where that is faster and works.

        In float32 on the CPU torch 2.15 dies of it in the backward pass of narrow convolutions.
        """
        plain = self.device.type == "cpu" and self.precision == "fp32"
        return torch.contiguous_format if plain else torch.channels_last


@dataclass(frozen=True, kw_only=True)
class Event:
    """The end of a round."""

    point: HistoryPoint
    progress: float
    warnings: tuple[str, ...]


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
        place: Place,
        ahead: Ahead | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set up a fresh run; nothing is computed yet.

        Args:
            teacher: loaded; it is copied to the device and never changed.
            student: what to train.
            recipe: as it is used for this teacher (see `recipes.for_teacher`).
            budget: what may be spent.
            seed: of every draw.
            place: where to compute.
            ahead: images that were made before; none are made then.
            clock: seconds, never stepping back.
        """
        self.teacher = teacher
        self.recipe = recipe
        self.ahead = ahead
        self.budget = budget
        self.seed = seed
        self.place = place
        self.clock = clock
        device = place.device
        spec = teacher.info.input
        first = torch.Generator().manual_seed(seed)
        self.generator = torch.Generator(device).manual_seed(seed + 1)
        self.teacher_module = copy.deepcopy(teacher.module).to(device, memory_format=place.layout)  # type: ignore[call-overload]
        self.student = architectures.build(student)
        networks.initialise(self.student, generator=first)
        self.student.to(device, memory_format=place.layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.optimizer = _optimizer(self.student, recipe)
        self.source = MetaGenerator(
            recipe, spec, device=device, layout=place.layout, generator=first
        )
        if ahead is None:
            self.pool = ImagePool(recipe.pool_batches, recipe.batch, spec.shape, device=device)
            self.held_out = ImagePool(HELD_OUT_BATCHES, recipe.batch, spec.shape, device=device)
        else:
            # Batches of one image: a set need not be a multiple of any batch.
            self.pool = ImagePool(len(ahead.images), 1, spec.shape, device=device)
            self.held_out = ImagePool(len(ahead.held_out), 1, spec.shape, device=device)
        self.monitors = Monitors()
        self.snapshots = Snapshots(teacher.info.classes)
        self.step = 0
        self.updates = 0
        self.elapsed_s = 0.0
        self.rate_factor = 1.0
        self.measured_at = 0.0
        self.history: list[HistoryPoint] = []
        self.warnings: list[str] = []

    # --- state ---------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.place.device

    def pools(self) -> tuple[tuple[str, ImagePool], ...]:
        """The pools by the names of their shards."""
        return (("pool", self.pool), ("held_out", self.held_out))

    def state_dict(self) -> dict[str, Any]:
        """All but the pools, which are append-only and saved as shards."""
        return {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "source": self.source.network.state_dict(),
            "source_optimizer": self.source.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "monitors": self.monitors.state_dict(),
            "snapshots": self.snapshots.state_dict(),
            "pool_made": self.pool.made,
            "held_out_made": self.held_out.made,
            "step": self.step,
            "updates": self.updates,
            "elapsed_s": self.elapsed_s,
            "rate_factor": self.rate_factor,
            "measured_at": self.measured_at,
            "warnings": list(self.warnings),
            "history": [
                {
                    "step": point.step,
                    "images": point.images,
                    "elapsed_s": point.elapsed_s,
                    "losses": dict(point.losses),
                    "agreement": point.agreement,
                }
                for point in self.history
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all but the pools; `pool_made` entries of those are to be added by the caller."""
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.source.network.load_state_dict(state["source"])
        self.source.optimizer.load_state_dict(state["source_optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.monitors.load_state_dict(state["monitors"])
        self.pool.made = state["pool_made"]
        self.held_out.made = state["held_out_made"]
        for name in ("step", "updates", "elapsed_s", "rate_factor", "measured_at"):
            setattr(self, name, state[name])
        self.warnings = list(state["warnings"])
        self.history = [HistoryPoint(**point) for point in state["history"]]
        self.snapshots.load_state_dict(
            state.get("snapshots"), progress=self.progress, made=self.pool.made
        )

    # --- the loop ------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        return self.budget.progress(step=self.step, elapsed_s=self.elapsed_s)

    def events(self) -> Iterator[Event]:
        """Run until the budget is spent, one event a round.

        Raises:
            CollapseError: images or student collapsed and did not recover.
        """
        while self.progress < 1.0:
            started = self.clock()
            said = len(self.warnings)
            losses = self._make_images()
            losses |= self._train_student()
            self.elapsed_s += self.clock() - started
            yield self._event(losses, said)

    def _event(self, losses: dict[str, float], said: int) -> Event:
        progress = self.progress
        self.snapshots.look(self.pool, progress=progress, step=self.step)
        measured = None
        if progress - self.measured_at >= AGREEMENT_EVERY or progress >= 1.0 or not self.history:
            measured = self.agreement(self.average)
            self.measured_at = progress
        point = HistoryPoint(
            step=self.step,
            images=self.pool.made * self.pool.batch,
            elapsed_s=round(self.elapsed_s, 3),
            losses=losses,
            agreement=measured,
        )
        if measured is not None:
            self.history.append(point)
        return Event(point=point, progress=progress, warnings=tuple(self.warnings[said:]))

    def take_ahead(self) -> None:
        """Put the images that were made ahead into the pools."""
        assert self.ahead is not None
        for images, classes, pool in (
            (self.ahead.images, self.ahead.classes, self.pool),
            (self.ahead.held_out, self.ahead.held_out_classes, self.held_out),
        ):
            pool.images[:, 0].copy_(images)
            pool.classes[:, 0].copy_(classes)
            pool.scores.zero_()  # none is better than another
            pool.made = len(images)

    def _make_images(self) -> dict[str, float]:
        if self.ahead is not None:
            if not self.pool.made:
                self.take_ahead()
            return {}
        wanted = self.recipe.first_batches if self.pool.made == 0 else 1
        losses: dict[str, float] = {}
        for _ in range(wanted):
            made = self.invert()
            finite = math.isfinite(sum(made.losses.values()))
            mean = made.logits.softmax(1).mean(0).tolist()
            verdict = self.monitors.images(
                finite=finite and bool(torch.isfinite(made.images).all()),
                entropy=class_entropy(mean) if finite else 0.0,
            )
            self._act(verdict)
            if finite:
                self.pool.add(entry_of(made))
                losses = made.losses
        if not len(self.pool):
            return self._make_images()  # nothing finite yet: the monitor stops this after a few
        wanted_held = self.pool.made % self.recipe.held_out_every == 0 or not self.held_out.made
        while wanted_held:
            made = self.invert(held_out=True)
            wanted_held = not bool(torch.isfinite(made.images).all())
            if wanted_held:
                self._act(self.monitors.images(finite=False, entropy=0.0))  # stops after a few
            else:
                self.held_out.add(entry_of(made))
        self._act(self.monitors.pool(self.pool.histogram(self.teacher.info.classes)))
        return losses

    def invert(self, *, held_out: bool = False) -> Inverted:
        """One batch of images against the student as it is, or for the held-out set."""
        recipe = self.recipe
        weights = recipe.weights
        if held_out or self.progress < recipe.warm_up:
            weights = replace(weights, adversarial=0.0, disagreement=0.0)
        if held_out:
            weights = replace(weights, one_hot=HELD_OUT_ONE_HOT * weights.one_hot)
        return self.source.invert(
            self.teacher_module,
            self.student,
            balanced_classes(recipe.batch, self.teacher.info.classes, generator=self.generator),
            weights=weights,
            steps=recipe.inner_steps * (HELD_OUT_STEPS if held_out else 1),
            learn=not held_out,
            generator=self.generator,
            autocast=self.place.autocast,
        )

    def _train_student(self) -> dict[str, float]:
        self.student.train()
        kept = {name: tensor.clone() for name, tensor in self.average.state_dict().items()}
        total = torch.zeros((), device=self.place.device)
        steps = self.recipe.student_steps
        if self.budget.steps is not None:
            steps = min(steps, self.budget.steps - self.step)
        started = self.clock()
        for done in range(steps):
            progress = self._progress_now(started)
            rate = self.rate_factor * learning_rate(self.recipe.student_rate, progress)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self.student_step()
            self.step += 1
            self._average(self._progress_now(started) - progress)
            total += loss.detach()
            if self.budget.minutes is not None and progress >= 1.0:
                steps = done + 1
                break
        mean = float(total) / steps
        # The last step can break the weights after a loss that was still finite.
        finite = math.isfinite(mean) and _all_finite(self.average)
        verdict = self.monitors.student(finite=finite)
        if verdict.action == "restore student":
            self._restore_student(kept)
        self._act(verdict)
        return {"kd": mean}

    def _progress_now(self, started: float) -> float:
        spent = self.elapsed_s + self.clock() - started
        return self.budget.progress(step=self.step, elapsed_s=spent)

    def student_step(self) -> Tensor:
        """One step on a batch from the pool; its loss."""
        images = self._augmented(
            self.pool.sample(self.recipe.student_batch, generator=self.generator)
        )
        with self.place.autocast():
            with torch.no_grad():
                targets = self.teacher_module(images)
            answers = self.student(images)
        loss = self._kd(answers, targets)
        self.optimizer.zero_grad()
        self.place.backward(loss)
        self.optimizer.step()
        return loss

    def _kd(self, answers: Tensor, targets: Tensor) -> Tensor:
        if self.recipe.kd == "logit_distance":
            return objectives.logit_distance(answers, targets)
        return objectives.soft_targets(answers, targets, temperature=self.recipe.temperature)

    def _augmented(self, images: Tensor) -> Tensor:  # uint8 -> normalised, (N, C, H, W)
        recipe, draw = self.recipe, self.generator
        images = augment.shift(images, share=recipe.shift, generator=draw)
        if self.teacher.flip:
            images = augment.flip(images, generator=draw)
        mixed = torch.rand((), generator=draw, device=draw.device)
        plain = self.normalised(images)
        return augment.mix(plain, generator=draw) if float(mixed) < recipe.mix else plain

    def normalised(self, images: Tensor) -> Tensor:  # uint8 -> float32, (N, C, H, W)
        scaled = (to_float(images) - self.source.mean) / self.source.std
        # A copy always: with one channel either layout counts as the other, and is not changed.
        return scaled.clone(memory_format=self.place.layout)

    @torch.no_grad()
    def _average(self, advance: float) -> None:
        self.updates += 1
        decay = ema_decay(advance, span=self.recipe.ema_span, updates=self.updates)
        ours, theirs = self.average.state_dict(), self.student.state_dict()
        for name, tensor in ours.items():
            if tensor.is_floating_point():
                tensor.lerp_(theirs[name], 1 - decay)
            else:
                tensor.copy_(theirs[name])

    def _act(self, verdict: Verdict) -> None:
        if verdict.warning is not None:
            logger.warning("%s", verdict.warning)
            self.warnings.append(f"step {self.step}: {verdict.warning}")
        if verdict.action == "restart generator":
            first = torch.Generator().manual_seed(self.step + self.monitors.generator_restarts)
            self.source = MetaGenerator(
                self.recipe,
                self.teacher.info.input,
                device=self.place.device,
                layout=self.place.layout,
                generator=first,
            )

    def _restore_student(self, average: dict[str, Tensor]) -> None:
        """Back to the average as it was before the round, which has not seen the broken weights."""
        self.rate_factor /= 2
        self.average.load_state_dict(average)
        self.student.load_state_dict(average)
        self.optimizer = _optimizer(self.student, self.recipe)

    # --- what comes out -------------------------------------------------------------------------

    @torch.no_grad()
    def agreement(self, student: nn.Module) -> float:
        """Share of the held-out synthetic images on which student and teacher decide the same."""
        kept = min(self.held_out.made, self.held_out.capacity)
        images = self.held_out.images[:kept].flatten(0, 1)
        same = 0.0
        for part in torch.split(images, 256):
            normalised = self.normalised(part)
            with self.place.autocast():
                pair = student(normalised), self.teacher_module(normalised)
            same += objectives.agreement(*pair) * len(part)
        return same / len(images)

    def deliver(self) -> nn.Module:
        """The averaged student with batch-norm statistics of the best images; on the CPU, evaluation mode."""
        student = copy.deepcopy(self.average)
        if self.ahead is None:
            batches = self.pool.best_batches(min(REESTIMATION_BATCHES, max(1, self.pool.made // 2)))
        else:
            size = min(self.recipe.batch, len(self.pool))
            whole = self.pool.images[: len(self.pool) // size * size, 0]
            batches = list(torch.split(whole, size)[:REESTIMATION_BATCHES])
        with self.place.autocast():
            # Augmented as in training: the weights have never met the bare images, and statistics of
            # those cost 1 to 8 points (docs/log.md).
            reestimate(student, (self._augmented(images) for images in batches))
        # Plain strides: the exporter would otherwise write the layout of this machine.
        return student.eval().cpu().to(memory_format=torch.contiguous_format)


def _all_finite(module: nn.Module) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in module.state_dict().values())


def _optimizer(student: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            student.parameters(), lr=recipe.student_rate, weight_decay=recipe.weight_decay
        )
    return torch.optim.SGD(
        student.parameters(),
        lr=recipe.student_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
