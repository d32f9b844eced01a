"""What is kept of the images that were made: a pool on the device, eight bits a value.

N images, C channels, H x W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.distill.sources import Inverted


def to_uint8(images: Tensor) -> Tensor:  # 0..1 -> 0..255
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:  # 0..255 -> 0..1
    return images.float().div_(255)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One batch as it lies in the pool and in a checkpoint shard."""

    images: Tensor  # (N, C, H, W) uint8
    classes: Tensor  # (N,) what the teacher saw in them
    score: float


class ImagePool:
    """The last `capacity` batches, in one tensor on the device; the oldest is overwritten.

    Only images are kept: targets are computed again by the teacher at every use, because rounding
    to eight bits and augmentation can change its answer.
    """

    def __init__(
        self, capacity: int, batch: int, shape: tuple[int, int, int], *, device: torch.device
    ) -> None:
        self.capacity = capacity
        self.batch = batch
        self.images = torch.zeros(capacity, batch, *shape, dtype=torch.uint8, device=device)
        self.classes = torch.zeros(capacity, batch, dtype=torch.int64, device=device)
        self.scores = torch.full((capacity,), torch.inf, dtype=torch.float64)
        self.made = 0  # batches ever added

    def __len__(self) -> int:
        """Images that are there."""
        return min(self.made, self.capacity) * self.batch

    def add(self, entry: Entry) -> None:
        slot = self.made % self.capacity
        self.images[slot].copy_(entry.images)
        self.classes[slot].copy_(entry.classes)
        self.scores[slot] = entry.score
        self.made += 1

    def entry(self, number: int) -> Entry:
        """The batch that was added as the `number`-th, while it is there."""
        slot = number % self.capacity
        return Entry(
            images=self.images[slot].cpu(),
            classes=self.classes[slot].cpu(),
            score=float(self.scores[slot]),
        )

    def first_kept(self) -> int:
        return max(0, self.made - self.capacity)

    def sample(
        self, count: int, *, generator: torch.Generator
    ) -> Tensor:  # -> (count, C, H, W) uint8
        chosen = torch.randint(len(self), (count,), generator=generator, device=self.images.device)
        return self.images.flatten(0, 1)[chosen]

    def histogram(self, classes: int) -> list[int]:
        """Images of each class, as the teacher sees them."""
        kept = self.classes[: min(self.made, self.capacity)].flatten()
        return [int(count) for count in torch.bincount(kept, minlength=classes)]

    def best_batches(self, count: int) -> list[Tensor]:
        """The `count` batches (N, C, H, W) uint8 that lie closest to the teacher's statistics."""
        kept = self.scores[: min(self.made, self.capacity)]
        order = torch.argsort(kept, stable=True)[:count]
        return [self.images[slot] for slot in order.tolist()]


def entry_of(made: Inverted) -> Entry:
    return Entry(images=to_uint8(made.images), classes=made.logits.argmax(1), score=made.score)
