"""What a student's step learns from: fresh, remembered and real images, augmented.

N images, C channels, H x W pixels.
"""

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from edgekd.distill.compute.device import Compute
from edgekd.distill.data import augment
from edgekd.distill.data.real_images import RealImages
from edgekd.distill.recipes.config import NoiseSource, Recipe
from edgekd.distill.synthesis.adversarial import Noise, batch_statistics_teacher
from edgekd.distill.synthesis.image_pool import to_float
from edgekd.distill.synthesis.structured_noise import StructuredNoise
from edgekd.distill.synthesis.synthesizer import Synthesizer

# Images, in one pass of the teacher
AT_ONCE: Final = 256


class StudentBatches:
    """Draws the batches of a run, all from one generator."""

    def __init__(
        self,
        recipe: Recipe,
        synthesizer: Synthesizer,
        teacher: nn.Module,
        *,
        flip: bool,
        real: RealImages | None,
        compute: Compute,
        generator: torch.Generator,
    ) -> None:
        """Nothing is drawn yet.

        Args:
            recipe: as it is used.
            synthesizer: where images come from.
            teacher: on the device.
            flip: whether mirrored images keep their class.
            real: condensed or few real images, `label_images`.
            compute: where to compute.
            generator: of all draws; its state is the caller's to keep.
        """
        self.recipe = recipe
        self.synthesizer = synthesizer
        self.teacher = teacher
        self.flip = flip
        self.real = real
        self.compute = compute
        self.generator = generator
        self.only_noise = isinstance(recipe.source, NoiseSource)
        noisy = self.only_noise or recipe.learning.noise_start > 0
        self.noise = Noise(synthesizer.teacher.info.input, device=compute.device) if noisy else None
        self.noise_teacher = batch_statistics_teacher(teacher) if noisy else None
        self.gallery: StructuredNoise | None = None

    def prepare(self, *, seed: int, steps: int | None) -> None:
        """Draw what is drawn once: the same for the same seed and steps, so that no checkpoint holds it.

        Args:
            seed: of the run.
            steps: of the student, in all; None: the clock decides.
        """
        if not self.recipe.learning.structured or self.gallery is not None:
            return
        info, learning = self.synthesizer.teacher.info, self.recipe.learning
        with self.compute.autocast():
            self.gallery = StructuredNoise(
                self.teacher,
                info.input,
                info.classes,
                macs=max(1, info.macs),
                shown=None
                if steps is None
                else round(steps * learning.batch * learning.structured),
                normalised=self.normalise,
                generator=torch.Generator(self.compute.device).manual_seed(seed),
            )

    @property
    def nbytes(self) -> int:
        """Of what is kept beside the pool."""
        return 0 if self.gallery is None else self.gallery.nbytes

    def final_teacher(self) -> nn.Module:
        """The teacher whose answers count in the end: to a recipe of noise, one that normalises by it."""
        if self.only_noise:
            assert self.noise_teacher is not None
            return self.noise_teacher
        return self.teacher

    def batch(self, progress: float) -> tuple[nn.Module, Tensor, Tensor]:
        """The teacher to ask, new images and remembered ones, normalised (N, C, H, W); these may be none."""
        recipe, draw = self.recipe, self.generator
        learning = recipe.learning
        count = learning.batch
        if self.noise is not None and (self.only_noise or progress < learning.noise_start):
            assert self.noise_teacher is not None
            images = self.normalise(self.noise.fresh(count, generator=draw))
            return self.noise_teacher, images, images[:0]
        remembered = torch.empty(0, device=self.compute.device)
        parts: list[Tensor] = []
        # As it is: a mixture of two drawings is neither
        shown: list[Tensor] = []
        if self.real is not None and learning.real:
            wanted = max(1, round(learning.real * count))
            parts.append(self._blend(self._real(wanted), self._synthesize(wanted)))
            count -= wanted
        if self.gallery is not None:
            drawn = self.gallery.sample(round(learning.structured * count), generator=draw)
            shown.append(self.augment(drawn))
            count -= len(drawn)
        if recipe.flows and self.synthesizer.ahead is None:
            old = round(recipe.reminded * count)
            if old and len(self.synthesizer.pool):
                remembered = self.augment(self.synthesizer.draw_remembered(old, generator=draw))
            count -= len(remembered)
        if count:
            parts.append(self._synthesize(count))
        if parts:
            shown.append(self._mix(torch.cat(parts) if len(parts) > 1 else parts[0]))
        return self.teacher, torch.cat(shown) if len(shown) > 1 else shown[0], remembered

    def augment(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) as bytes or of 0..1, moved and normalised."""
        # Bytes are moved faster than floats
        moved = self._move(images)
        return self.normalise(to_float(moved) if moved.dtype == torch.uint8 else moved)

    def as_learned(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of the pool as training shows them: beside real ones, mixed, among structured noise."""
        learning = self.recipe.learning
        real = learning.real if self.real is not None else 0.0
        structured = learning.structured if self.gallery is not None else 0.0
        made = max(
            1.0 - real - structured, 1 / learning.batch
        )  # share of the images that are given
        parts = [self.augment(images)]
        if real:
            few = self._real(max(1, round(len(images) * real / made)))
            partners = torch.randint(
                len(images), (len(few),), generator=self.generator, device=images.device
            )
            parts.append(self._blend(few, parts[0][partners]))
        shown = self._mix(torch.cat(parts) if len(parts) > 1 else parts[0])
        if self.gallery is None or not structured or structured >= 1:
            return shown
        beside = self.gallery.sample(
            round(len(images) * structured / made), generator=self.generator
        )
        return torch.cat([self.augment(beside), shown])

    def normalise(self, images: Tensor) -> Tensor:  # 0..1 -> float32, (N, C, H, W)
        # A copy always: with one channel either layout counts as the other, and is not changed.
        return self.synthesizer.criterion.normalise(images).clone(
            memory_format=self.compute.memory_format
        )

    def _mix(self, images: Tensor) -> Tensor:
        """Mixed with each other, in as many batches as the recipe says."""
        share, draw = self.recipe.learning.mix, self.generator
        if not share:
            return images
        lot = float(torch.rand((), generator=draw, device=draw.device))
        return augment.mix(images, generator=draw) if lot < share else images

    def _real(self, count: int) -> Tensor:
        """Condensed or real images (count, C, H, W), normalised and moved."""
        assert self.real is not None
        images = self.real.images
        chosen = torch.randint(
            len(images), (count,), generator=self.generator, device=images.device
        )
        return self._move(images[chosen])

    def _blend(self, few: Tensor, made: Tensor) -> Tensor:
        """Few images each laid over one that was made, both (N, C, H, W), at any ratio.

        Shown as they are, a hundred images that are seen hundreds of times are learned by heart by whatever tells them
        from made ones, and that decides on all real images afterwards (docs/log.md).
        """
        draw = self.generator
        share = torch.rand(len(few), 1, 1, 1, generator=draw, device=draw.device)
        return share * few + (1 - share) * made

    def _synthesize(self, count: int) -> Tensor:
        """New images (count, C, H, W), moved and normalised."""
        if self.recipe.flows and self.synthesizer.ahead is None:
            return self.augment(self.synthesizer.fresh(count, generator=self.generator))
        return self.augment(self.synthesizer.pool.sample(count, generator=self.generator))

    def _move(self, images: Tensor) -> Tensor:
        share = self.recipe.learning.shift
        images = augment.shift(images, share=share, generator=self.generator)
        if self.flip and share:
            images = augment.flip(images, generator=self.generator)
        return images


@torch.no_grad()
def label_images(real: RealImages, teacher: nn.Module, compute: Compute) -> RealImages:
    """On the device, and with what the teacher decides where nobody said what they show."""
    images = real.images.to(compute.device).contiguous(memory_format=compute.memory_format)
    labels = real.labels
    if labels is None:
        labels = torch.cat([teacher(part).argmax(1) for part in torch.split(images, AT_ONCE)])
    return replace(real, images=images, labels=labels.to(compute.device))
