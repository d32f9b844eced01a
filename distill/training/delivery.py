"""The student as it leaves a run: its average, with batch-norm statistics of the best images.

N images, C channels, H x W pixels.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from edgekd.distill.models.batch_norm import reestimate
from edgekd.distill.synthesis.image_pool import ImagePool

REESTIMATION_BATCHES: Final = 64


def choose_batches(pool: ImagePool, batch: int | None) -> list[Tensor]:  # (N, C, H, W) uint8
    """Batches that statistics are estimated on.

    Args:
        pool: of the run.
        batch: images of one, of a pool of single images made ahead; None: the best of the pool's own.
    """
    if batch is None:
        return pool.best_batches(min(REESTIMATION_BATCHES, max(1, pool.made // 2)))
    size = min(batch, len(pool))
    whole = pool.images[: len(pool) // size * size, 0]
    return list(torch.split(whole, size)[:REESTIMATION_BATCHES])


def deliver_student(
    average: nn.Module, batches: Sequence[Tensor], as_learned: Callable[[Tensor], Tensor]
) -> nn.Module:
    """A copy of the averaged student, on the CPU and in evaluation mode.

    Args:
        average: left as it is.
        batches: (N, C, H, W) uint8, that statistics are estimated on; none: they stay.
        as_learned: shows them as training does.
    """
    student = copy.deepcopy(average)
    # As in training: the weights have never met the bare images, and statistics of
    # those cost 1 to 8 points (docs/log.md).
    if batches:
        reestimate(student, map(as_learned, batches))
    # Plain strides: the exporter would otherwise write the layout of this machine.
    return student.eval().cpu().to(memory_format=torch.contiguous_format)
