"""Pixels that are fitted without a generator: from noise, or from views of a few images.

N images, M of them real, C channels, H x W pixels.
"""

from abc import abstractmethod
from typing import Final

import torch
from torch import Tensor

from edgekd.distill.data import augment
from edgekd.distill.data.real_images import RealImages
from edgekd.distill.data.siamese_augmentation import siamese
from edgekd.distill.recipes.config import InvertedSource, PixelSource
from edgekd.distill.synthesis.inversion import (
    BETAS,
    Fit,
    FittedSource,
    SourceContext,
)
from edgekd.distill.synthesis.synthetic_batch import channel_statistics

# One after the other, of `siamese`
VIEWS: Final = ("color", "scale", "rotate", "crop")
# Adam, of pixels that begin as views, in the teacher's normalised space.
EXPANSION_RATE: Final = 0.1


class _FittedPixels(FittedSource):
    """Pixels in the teacher's normalised space, kept within what 0..1 can be there."""

    # Adam.
    rate: float

    @abstractmethod
    def _first(self, classes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Where the pixels (N, C, H, W) begin, normalised."""

    def begin(self, classes: Tensor, *, learn: bool, generator: torch.Generator) -> Fit:
        del learn
        mean, std = channel_statistics(self.context.spec, device=self.context.device)
        pixels = self._first(classes, generator=generator)
        pixels.clamp_(-mean / std, (1 - mean) / std).requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=self.rate, betas=BETAS)

        def images() -> Tensor:
            with torch.no_grad():
                pixels.clamp_(-mean / std, (1 - mean) / std)
            return pixels * std + mean

        return Fit(images=images, optimizer=optimizer)


class Pixels(_FittedPixels):
    """The pixels themselves, from noise (DeepInversion, Yin et al., CVPR 2020)."""

    def __init__(self, source: PixelSource, context: SourceContext) -> None:
        self.context = context
        self.age = 0.0
        self.rate = source.rate
        self.jitter = source.jitter

    def _first(self, classes: Tensor, *, generator: torch.Generator) -> Tensor:
        spec = self.context.spec
        shape = (len(classes), spec.channels, spec.height, spec.width)
        return torch.randn(shape, generator=generator, device=self.context.device)


class ViewExpansion(_FittedPixels):
    """Pixels that begin as views of a few condensed or real images, and are made more of them.

    Shown as they are, few images are learned by heart (docs/log.md). Here each is moved, turned, scaled,
    coloured and laid over another of them, and then fitted as all images are: against the student of
    the moment, to the teacher's statistics.
    """

    def __init__(
        self, source: InvertedSource, context: SourceContext, *, real: RealImages, flip: bool
    ) -> None:
        """Beside a source, of these images.

        Args:
            source: the recipe's.
            context: as of every source; no weights are drawn.
            real: condensed or real, with labels, on the device.
            flip: whether mirrored images keep their class.
        """
        # Where nobody says, the teacher was asked
        assert real.labels is not None
        self.context = context
        self.age = 0.0
        self.rate = EXPANSION_RATE
        self.jitter = source.jitter if isinstance(source, PixelSource) else 0
        self.images, self.labels = real.images, real.labels
        self.views = [*VIEWS, *(["flip"] if flip else [])]

    def _first(self, classes: Tensor, *, generator: torch.Generator) -> Tensor:
        own = (self.labels == classes.unsqueeze(1)).float()  # (N, M)
        # Of a class that nobody brought, any will do
        own[own.sum(1) == 0] = 1
        chosen = torch.multinomial(own, 1, generator=generator).squeeze(1)
        others = torch.randint(
            len(self.images), (len(classes),), generator=generator, device=self.context.device
        )
        return augment.collage(
            self._views(chosen, generator=generator),
            self._views(others, generator=generator),
            generator=generator,
        )

    def _views(self, chosen: Tensor, *, generator: torch.Generator) -> Tensor:
        images = self.images[chosen]
        for view in self.views:
            images = siamese(images, strategy=view, generator=generator)
        return images
