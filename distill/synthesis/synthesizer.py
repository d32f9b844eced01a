"""The side of a run that makes images and keeps them; the student's side is `training/distiller.py`.

N images, C channels, H x W pixels, K classes.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgekd.distill.compute.device import Compute
from edgekd.distill.data.given_data import GivenData
from edgekd.distill.data.real_images import RealImages
from edgekd.distill.recipes.config import (
    LossWeights,
    NoiseSource,
    NoMemory,
    PoolMemory,
    Recipe,
    ReplayMemory,
    UnconditionalSource,
)
from edgekd.distill.synthesis.adversarial import FlowingSource
from edgekd.distill.synthesis.collapse_detection import CollapseMonitor, Verdict, class_entropy
from edgekd.distill.synthesis.discriminator import make_alignment
from edgekd.distill.synthesis.image_pool import (
    PoolEntry,
    entry_of,
    gather_pool,
    to_float,
    to_uint8,
)
from edgekd.distill.synthesis.inversion import FittedSource, SourceContext
from edgekd.distill.synthesis.memories import fill_pool, make_pools, make_replay
from edgekd.distill.synthesis.pixel_sources import ViewExpansion
from edgekd.distill.synthesis.sources import make_fitted_source, make_flowing_source
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss
from edgekd.distill.synthesis.synthetic_batch import SyntheticBatch, draw_balanced_classes
from edgekd.distill.teachers.loader import Teacher

logger = logging.getLogger(__name__)

# Held-out images should look like the teacher's classes, not like what the student finds hard.
# Times the steps of the recipe, where the minutes are short
HURRIED_STEPS: Final = 2
# Times its weight
HELD_OUT_ONE_HOT: Final = 4.0


class Synthesizer:
    """Source, memory and held-out images of a run."""

    def __init__(
        self,
        teacher: Teacher,
        module: nn.Module,
        student: nn.Module,
        recipe: Recipe,
        *,
        seed: int,
        compute: Compute,
        first: torch.Generator,
        given: GivenData,
        say: Callable[[str], None],
    ) -> None:
        """Set up; nothing is computed yet.

        Args:
            teacher: whose images; only its description is used.
            module: the teacher on the device.
            student: that images are made against; its weights change meanwhile.
            recipe: as it is used for this teacher.
            seed: of the pool's own draws.
            compute: where to compute.
            first: on the CPU, for the first weights.
            given: images and class vectors that are not made here; real images are normalised and labelled.
            say: takes a warning.
        """
        self.teacher = teacher
        self.recipe = recipe
        self.compute = compute
        self.ahead = ahead = given.ahead
        self.embeddings = given.embeddings
        real = given.real
        self.say = say
        self.seed = seed
        self.group = group = compute.group
        info, device = teacher.info, compute.device
        # What moves real and synthetic images before the discriminator sees their features.
        self.moving = torch.Generator(device).manual_seed(group.seed(seed + 3))
        # Classes are drawn for the batch of all ranks, by each of them alike.
        self.common = None if group.is_single else torch.Generator(device).manual_seed(seed + 4)
        self.alignment = make_alignment(
            module,
            recipe.losses,
            real,
            teacher=teacher,
            moving=self.moving,
            first=first,
            compute=compute,
        )
        self.criterion = SynthesisLoss(
            teacher=module,
            student=student,
            spec=info.input,
            classes=info.classes,
            autocast=compute.autocast,
            device=device,
            alignment=self.alignment,
            student_in_train_mode=recipe.adversary.student_in_train_mode,
            group=group,
        )
        self.source = self._source(first)
        self.expansion = self._expansion(real, first)
        self.pool, self.held_out = make_pools(
            recipe.memory, ahead, info.input.shape, seed=group.seed(seed + 2), device=device
        )
        context = self._context(first)
        self.replay = make_replay(recipe.memory, context) if ahead is None else None
        self.monitors = CollapseMonitor()
        self.rounds = 0
        self.made = 0  # images
        # Progress, when a batch was last put into the memory
        self.kept_at = -1.0
        self.progress = 0.0

    def _context(self, first: torch.Generator) -> SourceContext:
        return SourceContext(
            spec=self.teacher.info.input,
            classes=self.teacher.info.classes,
            device=self.compute.device,
            layout=self.compute.memory_format,
            generator=first,
            embeddings=self.embeddings,
            group=self.group,
        )

    def _source(self, first: torch.Generator) -> FittedSource | FlowingSource:
        source, context = self.recipe.source, self._context(first)
        if isinstance(source, UnconditionalSource | NoiseSource):
            return make_flowing_source(source, context)
        return make_fitted_source(source, context)

    def _expansion(self, real: RealImages | None, first: torch.Generator) -> ViewExpansion | None:
        source = self.recipe.inverted
        if real is None or self.ahead is not None or source is None or not source.expansion:
            return None
        return ViewExpansion(source, self._context(first), real=real, flip=self.teacher.flip)

    # --- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All but the images, which are saved as shards."""
        return {
            "source": self.source.state_dict(),
            "replay": None if self.replay is None else self.replay.state_dict(),
            "alignment": None if self.alignment is None else self.alignment.state_dict(),
            "moving": self.moving.get_state(),
            "bank": list(self.criterion.bank),
            "monitors": self.monitors.state_dict(),
            "pool": self.pool.state_dict(),
            "held_out": self.held_out.state_dict(),
            "rounds": self.rounds,
            "made": self.made,
            "kept_at": self.kept_at,
            "progress": self.progress,
            **({} if self.common is None else {"common": self.common.get_state()}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state["source"])
        if self.replay is not None:
            self.replay.load_state_dict(state["replay"])
        if self.alignment is not None:
            self.alignment.load_state_dict(state["alignment"])
        self.moving.set_state(state["moving"].cpu())
        self.criterion.bank[:] = state["bank"]
        self.monitors.load_state_dict(state["monitors"])
        self.pool.load_state_dict(state["pool"])
        self.held_out.load_state_dict(state["held_out"])
        for name in ("rounds", "made", "kept_at", "progress"):
            setattr(self, name, state[name])
        if self.common is not None:
            self.common.set_state(state["common"].cpu())

    def own_state(self) -> dict[str, Any]:
        """Of the state, what each rank has of its own."""
        return {
            "moving": self.moving.get_state(),
            "bank": list(self.criterion.bank),
            "pool": self.pool.state_dict(),
            "held_out": self.held_out.state_dict(),
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        self.moving.set_state(state["moving"].cpu())
        self.criterion.bank[:] = state["bank"]
        if self.ahead is not None:
            # Only rank 0 has them in its checkpoint
            self.take_ahead()
            return
        self.pool.load_state_dict(state["pool"])
        self.held_out.load_state_dict(state["held_out"])

    def networks(self) -> tuple[nn.Module, ...]:
        """Those that learn, but for the student."""
        replay = () if self.replay is None else self.replay.networks()
        return (*self.source.networks(), *replay)

    def gather(self) -> None:
        """On rank 0, put the images of all ranks together. Images made ahead are there already."""
        if self.ahead is None:
            self.pool, self.held_out = (
                gather_pool(pool, self.group) for pool in (self.pool, self.held_out)
            )

    @property
    def nbytes(self) -> int:
        """Of what the student is reminded of: stored images, or the network that replays them."""
        if self.replay is not None:
            return self.replay.nbytes
        # Of what is kept beside a generator that goes on, the student is shown nothing.
        return 0 if isinstance(self.recipe.memory, NoMemory) else self.pool.nbytes

    # --- a round -------------------------------------------------------------------------------

    def round(
        self,
        progress: float,
        *,
        generator: torch.Generator,
        is_enough: Callable[[], bool] = lambda: False,
    ) -> dict[str, float]:
        """Make what a round makes; the losses that it was made by.

        Args:
            progress: of the run.
            generator: of the draws.
            is_enough: whether the first round should end with the batch that it is at; the same on all ranks.
        """
        advance, self.progress = progress - self.progress, progress
        if self.ahead is not None:
            if not self.pool.made:
                self.take_ahead()
            return {}
        self.rounds += 1
        if isinstance(self.source, FlowingSource):
            self._start_generator(generator=generator, is_enough=is_enough)
            losses = self._flow(self.source, generator=generator)
        else:
            self.source.advance(advance)
            losses = self._fit(self.source, generator=generator, is_enough=is_enough)
        counts = self.group.all_reduce_sum(self.pool.histogram(self.teacher.info.classes))
        self.act(self.monitors.pool(counts))
        return losses

    def _weights(self) -> LossWeights:
        adversary = self.recipe.adversary
        young = self.progress < adversary.warm_up
        factor = 0.0 if young else 1 - adversary.fading * self.progress
        return self.recipe.losses.against_student(factor)

    def _fit(
        self, source: FittedSource, *, generator: torch.Generator, is_enough: Callable[[], bool]
    ) -> dict[str, float]:
        wanted, unseen = 1, 0
        if self.pool.made == 0:
            wanted, unseen = self.recipe.first_batches, self.recipe.warm_up_batches
        losses: dict[str, float] = {}
        for number in range(unseen + wanted):
            late = bool(number) and is_enough()
            if late and len(self.pool):
                break
            made = self.invert(generator=generator)
            if self._watched(made) and (number >= unseen or late):
                self._keep(entry_of(made))
                losses = made.losses
        if not len(self.pool):
            # Nothing finite yet: the monitor stops this
            return self._fit(source, generator=generator, is_enough=is_enough)
        if self.rounds % self.recipe.held_out_every == 0 or not self.held_out.made:
            longer = self.recipe.held_out_steps
            if is_enough():
                longer = min(longer, HURRIED_STEPS)
            made = self.invert(generator=generator, held_out=True, longer=longer)
            while not self.group.all_reduce_and(bool(torch.isfinite(made.images).all())):
                # Stops after a few
                self.act(self.monitors.images(finite=False, entropy=0.0))
                made = self.invert(generator=generator, held_out=True, longer=longer)
            self.held_out.add(entry_of(made))
        return losses

    def invert(
        self, *, generator: torch.Generator, held_out: bool = False, longer: int = 1
    ) -> SyntheticBatch:
        """One batch of images against the student as it is, or for the held-out set, of so many times the steps."""
        assert isinstance(self.source, FittedSource)
        settings = self.recipe.inverted
        # Else the source flows
        assert settings is not None
        weights = self._weights()
        if held_out:
            weights = weights.against_student(0.0)
            weights = replace(weights, one_hot=HELD_OUT_ONE_HOT * weights.one_hot)
        wanted = draw_balanced_classes(
            settings.batch * self.group.world_size,
            self.teacher.info.classes,
            generator=self.common or generator,
        )
        source = self.source
        if self.expansion is not None and not held_out:
            # By all ranks alike: the one learns weights together, the other has none.
            draw = self.common or generator
            if float(torch.rand((), generator=draw, device=draw.device)) < settings.expansion:
                source = self.expansion
        return source.invert(
            self.criterion,
            wanted[self.group.rank :: self.group.world_size],
            weights=weights,
            steps=settings.steps * longer,
            learn=not held_out,
            generator=generator,
        )

    def _start_generator(
        self, *, generator: torch.Generator, is_enough: Callable[[], bool]
    ) -> None:
        """The steps of a generator that flows before the student's first, but for the last of them."""
        steps = 0 if self.pool.made else self.recipe.first_batches - 1
        for _ in range(steps):
            if is_enough():
                break
            # Else it could not have begun: one that is started afresh is of the same kind
            assert isinstance(self.source, FlowingSource)
            made = self.source.learn(self.criterion, weights=self._weights(), generator=generator)
            if made is not None:
                self._watched(made)

    def _flow(self, source: FlowingSource, *, generator: torch.Generator) -> dict[str, float]:
        made = source.learn(self.criterion, weights=self._weights(), generator=generator)
        if made is not None and not self._watched(made):
            if self.held_out.made:
                return {}
            assert isinstance(self.source, FlowingSource)
            # Nothing finite yet: again with the generator that was started afresh, or it stops.
            return self._flow(self.source, generator=generator)
        entry = self.recipe.memory.entry
        if not self.pool.made or self._periods(self.progress) > self._periods(self.kept_at):
            self.kept_at = self.progress
            self._keep(self._fresh_entry(made, entry, generator=generator))
        if self.rounds % self.recipe.held_out_every == 0 or not self.held_out.made:
            self.held_out.add(self._fresh_entry(made, entry, generator=generator))
        self._remember(generator=generator)
        return {} if made is None else made.losses

    def _periods(self, progress: float) -> float:
        """Periods of the memory that are over: a count, so that rounding does not add up."""
        memory = self.recipe.memory
        period = 0.0 if isinstance(memory, PoolMemory) else memory.period
        return math.floor(progress / period + 1e-9) if period else progress

    def _remember(self, *, generator: torch.Generator) -> None:
        """Teach the replay what the generator makes now."""
        memory = self.recipe.memory
        if self.replay is None or not isinstance(memory, ReplayMemory):
            return
        for _ in range(memory.steps):
            # Half of what is new in a student's batch (PRE-DFKD: 512 of 1,024).
            learning = self.recipe.learning
            count = round((1 - memory.share) * learning.batch) // 2
            novel = self.fresh(max(2, count), generator=generator)
            loss = self.replay.learn(self.criterion, novel, generator=generator)
            if not self.group.all_reduce_and(bool(torch.isfinite(loss))):
                self.act(self.monitors.memory())

    def _fresh_entry(
        self,
        made: SyntheticBatch | None,
        count: int,
        *,
        generator: torch.Generator,
    ) -> PoolEntry:
        images = to_uint8(self.fresh(count, generator=generator))
        with torch.no_grad(), self.compute.autocast():
            logits = self.criterion.teacher(self.criterion.normalise(to_float(images)))
        score = 0.0 if made is None else made.score
        return PoolEntry(images=images, classes=logits.argmax(1), score=score)

    def _keep(self, entry: PoolEntry) -> None:
        self.pool.add(entry)
        self.made += len(entry.images) * self.group.world_size

    def fresh(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Images (count, C, H, W) of 0..1 from a source that flows, without a gradient."""
        assert isinstance(self.source, FlowingSource)
        with torch.no_grad(), self.compute.autocast():
            return self.source.fresh(count, generator=generator).float()

    def draw_remembered(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Images (up to count, C, H, W) of 0..1 from bank or replay."""
        if self.replay is not None:
            return self.replay.sample(self.criterion, count, generator=generator).float()
        return to_float(self.pool.sample_batch(count, generator=generator))

    # --- what goes wrong -------------------------------------------------------------------------

    def _watched(self, made: SyntheticBatch) -> bool:
        """Whether a batch is sound; what the monitors say of it is done."""
        finite = math.isfinite(sum(made.losses.values())) and bool(
            torch.isfinite(made.images).all()
        )
        finite = self.group.all_reduce_and(finite)
        mean = self.group.all_reduce_mean(made.logits.softmax(1).mean(0)).tolist()
        self.act(
            self.monitors.images(finite=finite, entropy=class_entropy(mean) if finite else 0.0)
        )
        return finite

    def act(self, verdict: Verdict) -> None:
        if verdict.warning is not None:
            if self.group.is_main:
                logger.warning("%s", verdict.warning)
            self.say(verdict.warning)
        if verdict.action == "restart generator":
            number = self.rounds + self.monitors.generator_restarts
            self.source = self._source(torch.Generator().manual_seed(self.seed + number))
        if verdict.action == "restart memory":
            number = self.rounds + self.monitors.memory_restarts
            first = torch.Generator().manual_seed(self.seed + number)
            self.replay = make_replay(self.recipe.memory, self._context(first))

    def take_ahead(self) -> None:
        """Put the images that were made ahead into the pools."""
        assert self.ahead is not None
        fill_pool(self.pool, self.ahead.images, self.ahead.classes)
        fill_pool(self.held_out, self.ahead.held_out, self.ahead.held_out_classes)
        self.made = len(self.ahead.images)
