"""What a run keeps of its images: pools, and a replay where the recipe has one."""

from typing import Final

import torch
from torch import Tensor

from edgekd.distill.data.synthetic_set import SplitSet
from edgekd.distill.recipes.config import (
    BankMemory,
    Memory,
    PoolMemory,
    ReplayMemory,
)
from edgekd.distill.synthesis.generative_replay import Replay
from edgekd.distill.synthesis.image_pool import ImagePool, make_pool
from edgekd.distill.synthesis.inversion import SourceContext

HELD_OUT_BATCHES: Final = 8


def make_pools(
    memory: Memory,
    ahead: SplitSet | None,
    shape: tuple[int, int, int],
    *,
    seed: int,
    device: torch.device,
) -> tuple[ImagePool, ImagePool]:
    """The pool of a run and that of held-out images, both empty.

    Args:
        memory: the recipe's.
        ahead: images that were made before, which the pools are to hold; None: none were.
        shape: of an image, (C, H, W).
        seed: of the pool's own draws.
        device: where images lie.
    """
    if ahead is not None:
        # Batches of one image: a set need not be a multiple of any batch.
        pool = ImagePool(len(ahead.images), 1, shape, device=device)
        return pool, ImagePool(len(ahead.held_out), 1, shape, device=device)
    pool = make_pool(
        memory.batches,
        memory.entry,
        shape,
        device=device,
        eviction=memory.eviction if isinstance(memory, PoolMemory | BankMemory) else "oldest",
        seed=seed,
    )
    return pool, ImagePool(HELD_OUT_BATCHES, memory.entry, shape, device=device)


def fill_pool(pool: ImagePool, images: Tensor, classes: Tensor) -> None:
    """Put images (N, C, H, W) uint8 that were made ahead, with their classes (N,), into a pool of as many."""
    pool.images[:, 0].copy_(images)
    pool.classes[:, 0].copy_(classes)
    # None is better than another
    pool.scores.zero_()
    pool.made = len(images)


def make_replay(memory: Memory, context: SourceContext) -> Replay | None:
    """The VAE of a recipe that remembers without images."""
    if not isinstance(memory, ReplayMemory):
        return None
    return Replay(
        memory,
        context.spec,
        device=context.device,
        layout=context.layout,
        generator=context.generator,
        group=context.group,
    )
