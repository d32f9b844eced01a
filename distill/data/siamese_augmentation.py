"""Differentiable siamese augmentation: one transform a call, through which gradients reach the images.

After Zhao & Bilen, "Dataset condensation with differentiable siamese augmentation" (ICML 2021).
Zero is the mean of normalised images, so what comes in from outside of an image is zero.
N images, C channels, H x W pixels.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.errors import UsageError

STRATEGY: Final = "color_crop_cutout_scale_rotate"

# The ranges of the paper's appendix.
# Standard deviations, from end to end
BRIGHTNESS: Final = 1.0
# Times the distance to grey, at most
SATURATION: Final = 2.0
# Times the distance to the mean, at least; 1 more at most
CONTRAST: Final = 0.5
CROP: Final = 0.125  # of a side
CUTOUT: Final = 0.5  # of a side
# Times, or its inverse
SCALE: Final = 1.2
ROTATION_DEG: Final = 15.0


class UniformDraw(Protocol):
    """Even numbers in 0..1: (M, 1, 1, 1), where M is N or, for one transform of all, 1."""

    def __call__(self) -> Tensor: ...


def siamese(
    images: Tensor,
    *,
    strategy: str = STRATEGY,
    generator: torch.Generator,
    same: bool = False,
    flip: bool = False,
) -> Tensor:
    """One transform of the strategy, drawn for the call; its parameters are drawn for each image.

    Two batches that are to be moved alike (real and condensed) are passed one after the other with
    `same` and generators of one seed: the draws do not depend on how many images there are.

    Args:
        images: (N, C, H, W), normalised.
        strategy: names of `TRANSFORMS` with underscores between them.
        generator: of the draws; on any device.
        same: one draw for all images.
        flip: whether mirroring is one of the transforms. Digits must not be mirrored.

    Returns:
        (N, C, H, W).

    Raises:
        UsageError: the strategy names a transform that there is not.
    """
    names = [*strategy.split("_"), *(["flip"] if flip else [])]
    unknown = sorted(set(names) - set(TRANSFORMS))
    if unknown:
        raise UsageError(
            f"augmentation {', '.join(unknown)} is not known; there are {', '.join(TRANSFORMS)}."
        )
    count = 1 if same else len(images)

    def draw() -> Tensor:
        # Drawn where the generator is: the same numbers on every device.
        drawn = torch.rand(count, 1, 1, 1, generator=generator, device=generator.device)
        return drawn.to(images.device)

    choice = torch.rand((), generator=generator, device=generator.device)
    return TRANSFORMS[names[int(choice * len(names))]](images, draw)


def _color(images: Tensor, draw: UniformDraw) -> Tensor:
    brighter = images + (draw() - 0.5) * BRIGHTNESS
    grey = brighter.mean(1, keepdim=True)  # (N, 1, H, W)
    coloured = grey + (brighter - grey) * draw() * SATURATION
    middle = coloured.mean((1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    return middle + (coloured - middle) * (draw() + CONTRAST)


def _crop(images: Tensor, draw: UniformDraw) -> Tensor:
    """Move by up to an eighth of a side, in whole pixels."""
    count, _, height, width = images.shape
    reach_rows, reach_columns = round(height * CROP), round(width * CROP)
    padded = functional.pad(images, (reach_columns, reach_columns, reach_rows, reach_rows))
    rows = _starts(draw, 2 * reach_rows + 1) + torch.arange(height, device=images.device)  # (M, H)
    columns = _starts(draw, 2 * reach_columns + 1) + torch.arange(width, device=images.device)
    each = torch.arange(count, device=images.device).view(-1, 1, 1)
    # Advanced indices around a slice put their dimensions first: (N, H, W, C).
    return padded[each, :, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(-1, 1)


def _cutout(images: Tensor, draw: UniformDraw) -> Tensor:
    """Zero in a box of half of each side, whose middle is anywhere in the image."""
    height, width = images.shape[2:]
    rows = _inside(height, draw, images.device).unsqueeze(2)  # (M, H, 1)
    columns = _inside(width, draw, images.device).unsqueeze(1)  # (M, 1, W)
    return images.masked_fill((rows & columns).unsqueeze(1), 0.0)  # (M, 1, H, W) over C


def _inside(side: int, draw: UniformDraw, device: torch.device) -> Tensor:  # -> (M, side)
    size = round(side * CUTOUT)
    first = _starts(draw, side) - size // 2
    pixels = torch.arange(side, device=device)
    return (pixels >= first) & (pixels < first + size)


def _starts(draw: UniformDraw, choices: int) -> Tensor:
    """Whole numbers below `choices`: (M, 1)."""
    return (draw().flatten(1) * choices).long().clamp_(max=choices - 1)


def _scale(images: Tensor, draw: UniformDraw) -> Tensor:
    """Each axis by itself."""
    low, high = 1 / SCALE, SCALE
    across, down = (low + (high - low) * draw().view(-1) for _ in range(2))  # (M,)
    nothing = torch.zeros_like(across)
    return _warp(images, (across, nothing, nothing, down))


def _rotate(images: Tensor, draw: UniformDraw) -> Tensor:
    angle = (2 * draw().view(-1) - 1) * math.radians(ROTATION_DEG)  # (M,)
    return _warp(images, (angle.cos(), -angle.sin(), angle.sin(), angle.cos()))


def _warp(images: Tensor, rows: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Sample (N, C, H, W) where a 2 x 2 matrix about the middle, given by rows of (M,), leads."""
    linear = torch.stack(rows, 1).view(-1, 2, 2)  # (M, 2, 2)
    # No translation
    matrix = functional.pad(linear, (0, 1)).expand(len(images), 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _flip(images: Tensor, draw: UniformDraw) -> Tensor:
    return torch.where(draw() < 0.5, images.flip(3), images)


TRANSFORMS: Final[Mapping[str, Callable[[Tensor, UniformDraw], Tensor]]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "scale": _scale,
    "rotate": _rotate,
    "flip": _flip,
}
