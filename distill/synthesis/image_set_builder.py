"""Images made ahead of any student, as a set that several runs share: balanced by class.

N images, C channels, H x W pixels, K classes.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgekd.distill.compute.device import Compute
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import Recipe
from edgekd.distill.synthesis.collapse_detection import CollapseMonitor, class_entropy
from edgekd.distill.synthesis.image_pool import (
    ImagePool,
    PoolEntry,
    to_float,
    to_uint8,
)
from edgekd.distill.synthesis.inversion import FittedSource, SourceContext
from edgekd.distill.synthesis.sources import make_fitted_source
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss
from edgekd.distill.synthesis.synthetic_batch import draw_balanced_classes
from edgekd.distill.teachers.loader import Teacher
from edgekd.errors import UsageError
from edgekd.records import HistoryPoint

logger = logging.getLogger(__name__)

# Of the images that would do if every class came as often as it is asked for.
MOST: Final = 3
# Of the recipe's inner steps and one-hot weight, as for held-out images: each is made once.
STEPS: Final = 4
ONE_HOT: Final = 4.0


@dataclass(frozen=True, kw_only=True)
class SelectedImages:
    """The images that were chosen of all that were made."""

    images: Tensor  # (N, C, H, W) uint8, CPU
    classes: Tensor  # (N,) what the teacher decides of each as it is stored
    # By class: how many fewer than its share
    lacking: dict[int, int]


def _keeps(recipe: Recipe) -> bool:
    """Whether it makes images to keep, of nothing but the teacher."""
    return not recipe.flows and not recipe.losses.alignment


class Synthesis:
    """Makes images until every class has its share, or `MOST` times as many were made.

    The recipe's own inversion without its adversarial terms: there is no student yet.
    """

    def __init__(
        self,
        teacher: Teacher,
        recipe: Recipe,
        *,
        count: int,
        there: tuple[int, ...],
        seed: int,
        compute: Compute,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set up; nothing is computed yet.

        Args:
            teacher: loaded; it is copied to the device and never changed.
            recipe: as it is used for this teacher.
            count: images that the set is to have.
            there: for each class, images that it has already.
            seed: of every draw.
            compute: where to compute.
            clock: seconds, never stepping back.

        Raises:
            UsageError: the recipe keeps no images.
        """
        self.teacher = teacher
        source = recipe.inverted
        if source is None:
            raise UsageError(
                f"recipe {recipe.name} makes no images to keep. `synthesize` takes: "
                f"{', '.join(name for name, each in RECIPES.items() if _keeps(each))}."
            )
        weights = recipe.losses.against_student(0.0)
        weights = replace(weights, one_hot=ONE_HOT * weights.one_hot, alignment=0.0)
        if not weights.asks_anything:
            raise UsageError(
                f"recipe {recipe.name} makes images by what asks the student alone, and `synthesize` has none. "
                "Give one of its other losses a weight above 0."
            )
        self.recipe = replace(recipe, losses=weights)
        self.settings = source
        self.compute = compute
        self.clock = clock
        self.count = count - sum(there)
        classes = teacher.info.classes
        shares = [count // classes + (number < count % classes) for number in range(classes)]
        # What is there too often cannot be taken back: the others share what is left.
        self.wanted = _within(
            [max(0, share - has) for share, has in zip(shares, there, strict=True)], self.count
        )
        spec, device = teacher.info.input, compute.device
        self.generator = torch.Generator(device).manual_seed(seed + 1)
        self.source = self._source(seed)
        self.module = copy.deepcopy(teacher.module).to(device)
        self.criterion = SynthesisLoss(
            teacher=self.module,
            student=nn.Identity(),  # nothing asks the student
            spec=spec,
            classes=classes,
            autocast=compute.autocast,
            device=device,
        )
        batch = recipe.source.batch
        self.batches = recipe.first_batches + MOST * math.ceil(self.count / batch)
        self.pool = ImagePool(self.batches, batch, spec.shape, device=torch.device("cpu"))
        self.monitors = CollapseMonitor()
        self.elapsed_s = 0.0
        self.warnings: list[str] = []

    def _source(self, seed: int) -> FittedSource:
        context = SourceContext(
            spec=self.teacher.info.input,
            classes=self.teacher.info.classes,
            device=self.compute.device,
            layout=self.compute.memory_format,
            generator=torch.Generator().manual_seed(seed),
        )
        return make_fitted_source(self.settings, context)

    # --- state, for checkpoints -------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.compute.device

    def pools(self) -> tuple[tuple[str, ImagePool], ...]:
        return (("pool", self.pool),)

    def state_dict(self) -> dict[str, Any]:
        return {
            "source": self.source.state_dict(),
            "bank": list(self.criterion.bank),
            "generator": self.generator.get_state(),
            "monitors": self.monitors.state_dict(),
            "pool": self.pool.state_dict(),
            "elapsed_s": self.elapsed_s,
            "warnings": list(self.warnings),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state["source"])
        self.criterion.bank[:] = state["bank"]
        self.generator.set_state(state["generator"].cpu())
        self.monitors.load_state_dict(state["monitors"])
        self.pool.load_state_dict(state["pool"])
        self.elapsed_s = state["elapsed_s"]
        self.warnings = list(state["warnings"])

    # --- the loop ---------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the images that are there, 1 when no more will be made."""
        if self.pool.made >= self.batches:
            return 1.0
        counts = self._counts()
        kept = sum(min(has, wants) for has, wants in zip(counts, self.wanted, strict=True))
        return kept / self.count

    def _counts(self) -> list[int]:
        return [int(n) for n in torch.bincount(self._usable(), minlength=len(self.wanted))]

    def _usable(self) -> Tensor:
        """Classes of the images that count: not of those while the generator still learns to start."""
        return self.pool.classes[self.recipe.first_batches : self.pool.made].flatten()

    def events(self) -> Iterator[HistoryPoint]:
        """One point a batch.

        Raises:
            CollapseError: the images collapsed and did not recover.
        """
        while self.progress < 1.0:
            started = self.clock()
            losses = self._batch()
            self.elapsed_s += self.clock() - started
            yield HistoryPoint(
                step=self.pool.made,
                images=self.pool.made * self.pool.batch,
                elapsed_s=round(self.elapsed_s, 3),
                losses=losses,
                agreement=None,
            )

    def _batch(self) -> dict[str, float]:
        recipe, settings = self.recipe, self.settings
        # What is made while the generator learns to start is thrown away.
        longer = STEPS if self.pool.made >= recipe.first_batches else 1
        while True:
            self.source.advance(1 / self.batches)
            made = self.source.invert(
                self.criterion,
                draw_balanced_classes(settings.batch, len(self.wanted), generator=self.generator),
                weights=recipe.losses,
                steps=settings.steps * longer,
                learn=True,
                generator=self.generator,
            )
            finite = math.isfinite(sum(made.losses.values())) and bool(
                torch.isfinite(made.images).all()
            )
            mean = made.logits.softmax(1).mean(0).tolist()
            verdict = self.monitors.images(
                finite=finite, entropy=class_entropy(mean) if finite else 0.0
            )
            if verdict.warning is not None:
                logger.warning("%s", verdict.warning)
                self.warnings.append(verdict.warning)
            if verdict.action == "restart generator":
                self.source = self._source(self.monitors.generator_restarts)
            if finite:
                break
        images = to_uint8(made.images)
        self.pool.add(PoolEntry(images=images, classes=self._predict(images), score=made.score))
        return made.losses

    @torch.no_grad()
    def _predict(self, images: Tensor) -> Tensor:  # (N, C, H, W) uint8 -> (N,)
        """What the teacher says of the images as they are kept: rounding can change its answer."""
        decided: Tensor = self.module(self.criterion.normalise(to_float(images))).argmax(1)
        return decided

    # --- what comes out ---------------------------------------------------------------------------

    def select_images(self) -> SelectedImages:
        """Each class's share, the classes in turn, so that any beginning of the set is balanced."""
        classes = self._usable()
        images = self.pool.images[self.recipe.first_batches : self.pool.made].flatten(0, 1)
        ranked: list[tuple[int, int, int]] = []
        left: list[int] = []
        seen = [0] * len(self.wanted)
        for compute, number in enumerate(classes.tolist()):
            if seen[number] < self.wanted[number]:
                ranked.append((seen[number], number, compute))
                seen[number] += 1
            else:
                left.append(compute)
        places = [compute for _, _, compute in sorted(ranked)]
        places += left[: self.count - len(places)]
        lacking = {
            number: wants - has
            for number, (wants, has) in enumerate(zip(self.wanted, seen, strict=True))
            if has < wants
        }
        return SelectedImages(images=images[places], classes=classes[places], lacking=lacking)


def _within(wanted: list[int], total: int) -> list[int]:
    """Cut shares down, the largest first, until they are `total` in all."""
    cut = list(wanted)
    while sum(cut) > total:
        cut[cut.index(max(cut))] -= 1
    return cut
