"""Structured noise: shapes that no teacher made, sorted by what the teacher sees in them.

A random field is cut at a level: what lies above it is a shape, or what lies near it a line. Such images
have edges, strokes and regions of all sizes, which noise has not, and an inverted image seldom: what it learns on
them the student keeps on real images (docs/log.md). Images of simple random processes are known to teach features
(Baradad et al., NeurIPS 2021, "Learning to see by looking at noise"); here the teacher says what each is.

N images, C channels, H x W pixels, K classes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.distill.synthesis.image_pool import to_uint8
from edgekd.distill.synthesis.synthetic_batch import channel_statistics
from edgekd.records import InputSpec

# Of a field's grid along a side
LEAST_CELLS, MOST_CELLS = 3, 11
IMAGES = 40_000
# Fewer images where they are large
BYTES = 128 * 2**20
# Fewer for a large teacher as well, which is asked about each: about 20 s of a processor's core.
MACS, LEAST_IMAGES = 400_000_000_000, 2000
AT_ONCE = 1000


def fields(count: int, side: tuple[int, int], *, generator: torch.Generator) -> Tensor:
    """Shapes and lines of 0..1, (count, H, W): level sets of smooth random fields."""
    device = generator.device
    cells = torch.randint(LEAST_CELLS, MOST_CELLS + 1, (count,), generator=generator, device=device)
    field = torch.empty(count, *side, device=device)
    for size in range(LEAST_CELLS, MOST_CELLS + 1):
        chosen = (cells == size).nonzero().flatten()
        if len(chosen):
            grid = _normal(len(chosen), 1, size, size, generator=generator)
            smooth = functional.interpolate(grid, size=side, mode="bicubic", align_corners=False)
            field[chosen] = smooth[:, 0]
    field /= field.flatten(1).std(1).clamp_min(1e-3).view(-1, 1, 1)
    level = 0.7 * _normal(count, 1, 1, generator=generator)
    width = 0.1 + 0.5 * _uniform(count, 1, 1, generator=generator)
    steep = 2 + 18 * _uniform(count, 1, 1, generator=generator)
    lines = torch.exp(-2 * ((field - level) / width).square())
    regions = torch.sigmoid(steep * (field - level - 0.8))
    drawn = torch.where(_uniform(count, 1, 1, generator=generator) < 0.5, lines, regions)
    # Half of them through a window: data sets of objects show one thing, near the middle.
    lone = _uniform(count, 1, 1, generator=generator) < 0.5
    return torch.where(lone, drawn * _windows(count, side, generator=generator), drawn)


def _windows(count: int, side: tuple[int, int], *, generator: torch.Generator) -> Tensor:
    """Soft ellipses of 0..1 about the middle, (count, H, W)."""
    distance = torch.zeros(count, 1, 1, device=generator.device)
    for axis, size in ((1, side[0]), (2, side[1])):
        shape = [1, 1, 1]
        shape[axis] = size
        places = torch.linspace(-1, 1, size, device=generator.device).view(shape)
        centre = 0.25 * _normal(count, 1, 1, generator=generator)
        radius = 0.35 + 0.5 * _uniform(count, 1, 1, generator=generator)
        distance = distance + ((places - centre) / radius).square()
    return torch.sigmoid(6 * (1 - distance))


def shapes(count: int, spec: InputSpec, *, generator: torch.Generator) -> Tensor:
    """Images (count, C, H, W) of 0..1 whose values have about the mean and deviation of the teacher's inputs.

    Dark grounds where values above the mean reach further than those below it can, bright ones where it is the
    other way round, and both where the statistics do not say.
    """
    drawn = fields(count, (spec.height, spec.width), generator=generator)
    standard = (drawn - drawn.mean()) / drawn.std().clamp_min(1e-3)  # (N, H, W)
    mean, std = channel_statistics(spec, device=generator.device)
    sign = _signs(count, spec, generator=generator).view(-1, 1, 1, 1)
    values = (sign * standard.unsqueeze(1)).expand(-1, spec.channels, -1, -1)
    if spec.channels > 1:
        values = values * _tints(count, spec.channels, generator=generator)
    return (mean + std * values).clamp(0, 1)


def draw_shapes(spec: InputSpec, count: int, *, seed: int) -> Tensor:  # -> (count, C, H, W) uint8
    """Such images as bytes, on the CPU, without asking a teacher; the same seed gives the same ones."""
    return to_uint8(shapes(count, spec, generator=torch.Generator().manual_seed(seed)))


def _signs(count: int, spec: InputSpec, *, generator: torch.Generator) -> Tensor:  # -> (count,)
    mean, std = (sum(each) / len(each) for each in (spec.mean, spec.std))
    if mean < std:
        return torch.ones(count, device=generator.device)
    if 1 - mean < std:
        return -torch.ones(count, device=generator.device)
    lot = _uniform(count, generator=generator)
    return torch.where(lot < 0.5, 1.0, -1.0)


def _tints(count: int, channels: int, *, generator: torch.Generator) -> Tensor:  # -> (N, C, 1, 1)
    """How far each channel goes along: mostly as far as the others, as in photographs."""
    drawn = _normal(count, channels, generator=generator)
    return (1 + 0.5 * drawn).view(count, channels, 1, 1)


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, device=generator.device)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device)


class StructuredNoise:
    """Structured noise with what a teacher sees in it; every class is shown as often."""

    def __init__(
        self,
        teacher: nn.Module,
        spec: InputSpec,
        classes: int,
        *,
        macs: int,
        shown: int | None = None,
        normalised: Callable[[Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        """Draw the images and ask the teacher.

        Args:
            teacher: evaluation mode, on the generator's device.
            spec: of its input.
            classes: K.
            macs: of the teacher, for one image.
            shown: how many a run shows in all; no more are drawn. None: not known beforehand.
            normalised: images (N, C, H, W) of 0..1 as the teacher takes them.
            generator: of the images; the same seed gives the same gallery.
        """
        wanted = min(IMAGES, BYTES // math.prod(spec.shape), max(LEAST_IMAGES, MACS // macs))
        if shown is not None:
            wanted = min(wanted, max(LEAST_IMAGES, shown))
        images, seen = [], []
        for start in range(0, max(wanted, classes), AT_ONCE):
            count = min(AT_ONCE, max(wanted, classes) - start)
            drawn = to_uint8(shapes(count, spec, generator=generator))
            with torch.no_grad():
                seen.append(teacher(normalised(drawn.float() / 255)).argmax(1))
            images.append(drawn)
        self.images = torch.cat(images)  # (N, C, H, W) uint8
        counts = torch.bincount(torch.cat(seen), minlength=classes)  # (K,)
        self.found = [int(count) for count in counts]
        self._weights = 1.0 / counts.clamp_min(1)[torch.cat(seen)].float()  # (N,)

    @property
    def nbytes(self) -> int:
        return self.images.numel()

    def sample(
        self, count: int, *, generator: torch.Generator
    ) -> Tensor:  # -> (count, C, H, W) uint8
        """Images of which each class that was found has about the same number."""
        chosen = torch.multinomial(self._weights, count, replacement=True, generator=generator)
        return self.images[chosen]
