"""Augmentation of whole batches on the device, from one generator.

N images, C channels, H x W pixels.
"""

import torch
from torch import Tensor


def shift(images: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Move each image (N, C, H, W) by up to `share` of its side, the border repeated."""
    count, _, height, width = images.shape
    device = images.device
    reach_rows, reach_columns = round(share * height), round(share * width)
    if reach_rows == 0 and reach_columns == 0:
        return images
    moved = _indices(count, height, reach_rows, generator=generator, device=device)  # (N, H)
    across = _indices(count, width, reach_columns, generator=generator, device=device)  # (N, W)
    each = torch.arange(count, device=device).view(-1, 1, 1)
    # Advanced indices around a slice put their dimensions first: (N, H, W, C).
    return images[each, :, moved.unsqueeze(2), across.unsqueeze(1)].movedim(-1, 1)


def _indices(
    count: int, size: int, reach: int, *, generator: torch.Generator, device: torch.device
) -> Tensor:  # -> (count, size)
    start = torch.randint(-reach, reach + 1, (count, 1), generator=generator, device=device)
    return (torch.arange(size, device=device) + start).clamp_(0, size - 1)


def flip(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mirror half of the images (N, C, H, W), left to right."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def mix(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) blended with another of the batch, in a share drawn evenly.

    The teacher labels the mixture, so this needs no label: it is function matching
    (Beyer et al., CVPR 2022, "Knowledge distillation: a good teacher is patient and consistent").
    """
    order = torch.randperm(len(images), generator=generator, device=images.device)
    amount = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    return images.lerp(images[order], amount)


def collage(images: Tensor, others: Tensor, *, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) with another: half of them blended, half with a rectangle of the other.

    At most half of the result is the other's (mixup, Zhang et al., ICLR 2018; CutMix, Yun et al., ICCV 2019).
    """
    count, _, height, width = images.shape
    device = images.device

    def draw() -> Tensor:  # -> (N, 1)
        return torch.rand(count, 1, generator=generator, device=device)

    blended = images.lerp(others, 0.5 * draw().view(-1, 1, 1, 1))
    # Of each side, so that areas are even
    share = (0.5 * draw()).sqrt()
    middles = draw(), draw()
    rows, columns = (
        (torch.arange(side, device=device) / side - middle).abs() < share / 2  # (N, side)
        for side, middle in zip((height, width), middles, strict=True)
    )
    inside = rows.unsqueeze(2) & columns.unsqueeze(1)  # (N, H, W)
    pasted = torch.where(inside.unsqueeze(1), others, images)
    return torch.where(draw().view(-1, 1, 1, 1) < 0.5, blended, pasted)
