"""What is kept of the images that were made: a pool on the device, eight bits a value.

N images, C channels, H x W pixels.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from edgekd.distill.compute.distributed import ProcessGroup
from edgekd.distill.recipes.config import Eviction
from edgekd.distill.synthesis.synthetic_batch import SyntheticBatch


def to_uint8(images: Tensor) -> Tensor:  # 0..1 -> 0..255
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:  # 0..255 -> 0..1
    return images.float().div_(255)


@dataclass(frozen=True, kw_only=True)
class PoolEntry:
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
        self,
        capacity: int,
        batch: int,
        shape: tuple[int, int, int],
        *,
        device: torch.device,
        eviction: "RandomEviction | None" = None,
    ) -> None:
        """An empty pool.

        Args:
            capacity: in batches.
            batch: images of one.
            shape: of an image, (C, H, W).
            device: where it lies.
            eviction: which single images a full pool gives up; None: the oldest batch, whole.
        """
        self.eviction = eviction
        self.capacity = capacity
        self.batch = batch
        self.images = torch.zeros(capacity, batch, *shape, dtype=torch.uint8, device=device)
        self.classes = torch.zeros(capacity, batch, dtype=torch.int64, device=device)
        self.scores = torch.full((capacity,), torch.inf, dtype=torch.float64)
        # Batches ever added
        self.made = 0

    def __len__(self) -> int:
        """Images that are there."""
        return min(self.made, self.capacity) * self.batch

    @property
    def nbytes(self) -> int:
        """Of the images, when all are there."""
        return self.images.numel()

    @property
    def append_only(self) -> bool:
        """Whether a batch that is there is never changed, only overwritten."""
        return self.eviction is None

    def add(self, entry: PoolEntry) -> None:
        if self.eviction is None or self.made < self.capacity:
            self.put(self.made, entry)
        else:
            self._replace_images(entry, self.eviction.choose(self, entry))

    def _replace_images(self, entry: PoolEntry, places: list[tuple[int, int]]) -> None:
        """Put single images, by (number in the batch, place in the pool), where others were."""
        # Of two for one place the later one stays, as if they had come one by one.
        last = {place: number for number, place in places}
        device = self.images.device
        slots = torch.tensor(list(last), dtype=torch.int64, device=device)
        taken = torch.tensor(list(last.values()), dtype=torch.int64, device=entry.images.device)
        self.images.view(-1, *self.images.shape[2:])[slots] = entry.images[taken].to(device)
        self.classes.view(-1)[slots] = entry.classes[taken].to(device)
        self.made += 1

    def put(self, number: int, entry: PoolEntry) -> None:
        """Add a batch as the `number`-th, where nothing is chosen."""
        slot = number % self.capacity
        self.images[slot].copy_(entry.images)
        self.classes[slot].copy_(entry.classes)
        self.scores[slot] = entry.score
        self.made = number + 1

    def entry(self, number: int) -> PoolEntry:
        """The batch that was added as the `number`-th, while it is there."""
        slot = number % self.capacity
        return PoolEntry(
            images=self.images[slot].cpu(),
            classes=self.classes[slot].cpu(),
            score=float(self.scores[slot]),
        )

    def first_kept(self) -> int:
        return max(0, self.made - self.capacity)

    def state_dict(self) -> dict[str, Any]:
        """All but the images."""
        if self.eviction is None:
            return {"made": self.made}
        return {"made": self.made, "drawing": self.eviction.drawing.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.made = state["made"]
        if self.eviction is not None:
            self.eviction.drawing.set_state(state["drawing"].cpu())

    def sample(
        self, count: int, *, generator: torch.Generator
    ) -> Tensor:  # -> (count, C, H, W) uint8
        chosen = torch.randint(len(self), (count,), generator=generator, device=self.images.device)
        return self.images.flatten(0, 1)[chosen]

    def sample_batch(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Images (count, C, H, W) uint8 of one batch that is drawn whole, as a bank is replayed."""
        kept = min(self.made, self.capacity)
        slot = int(torch.randint(kept, (), generator=generator, device=self.images.device))
        return self.images[slot, :count]

    def histogram(self, classes: int) -> list[int]:
        """Images of each class, as the teacher sees them."""
        kept = self.classes[: min(self.made, self.capacity)].flatten()
        return [int(count) for count in torch.bincount(kept, minlength=classes)]

    def best_batches(self, count: int) -> list[Tensor]:
        """The `count` batches (N, C, H, W) uint8 that lie closest to the teacher's statistics."""
        kept = self.scores[: min(self.made, self.capacity)]
        order = torch.argsort(kept, stable=True)[:count]
        return [self.images[slot] for slot in order.tolist()]


class RandomEviction:
    """Which images a full pool gives up for new ones, one by one.

    "reservoir": every image ever made is in it with the same probability (Vitter 1985, algorithm R).
    "balanced": a new image takes the place of one of the class that has the most.
    """

    def __init__(self, kind: Literal["reservoir", "balanced"], *, seed: int) -> None:
        self.kind = kind
        self.drawing = torch.Generator().manual_seed(seed)

    def choose(self, pool: ImagePool, entry: PoolEntry) -> list[tuple[int, int]]:
        """(number in the batch, place in the pool) of those that are taken."""
        if self.kind == "reservoir":
            return self._choose_by_reservoir(pool)
        return self._choose_by_class(pool, entry)

    def _choose_by_reservoir(self, pool: ImagePool) -> list[tuple[int, int]]:
        first = pool.made * pool.batch
        drawn = [
            int(torch.randint(first + number + 1, (), generator=self.drawing))
            for number in range(pool.batch)
        ]
        return [(number, place) for number, place in enumerate(drawn) if place < len(pool)]

    def _choose_by_class(self, pool: ImagePool, entry: PoolEntry) -> list[tuple[int, int]]:
        by_class: dict[int, list[int]] = {}
        for place, decided in enumerate(pool.classes.flatten().tolist()):
            by_class.setdefault(decided, []).append(place)
        chosen = []
        for number, decided in enumerate(entry.classes.tolist()):
            most = max(by_class, key=lambda each: len(by_class[each]))
            places = by_class[most]
            place = places.pop(int(torch.randint(len(places), (), generator=self.drawing)))
            by_class.setdefault(decided, []).append(place)
            chosen.append((number, place))
        return chosen


def make_pool(
    capacity: int,
    batch: int,
    shape: tuple[int, int, int],
    *,
    device: torch.device,
    eviction: Eviction,
    seed: int,
) -> ImagePool:
    """A pool that gives up images in the way that a recipe says."""
    chosen = None if eviction == "oldest" else RandomEviction(eviction, seed=seed)
    return ImagePool(capacity, batch, shape, device=device, eviction=chosen)


def gather_pool(pool: ImagePool, group: ProcessGroup) -> ImagePool:
    """On rank 0 a pool with the batches of all ranks put together; elsewhere the own one, still."""
    kept = min(pool.made, pool.capacity)
    images = group.gather(pool.images[:kept])  # (B, ranks N, C, H, W)
    classes = group.gather(pool.classes[:kept])
    scores = group.gather(pool.scores[:kept].unsqueeze(1))
    if not group.is_main:
        return pool
    whole = copy.copy(pool)
    whole.capacity, whole.batch = images.shape[:2]
    whole.images, whole.classes, whole.scores = images, classes, scores.mean(1)
    return whole


def entry_of(made: SyntheticBatch) -> PoolEntry:
    return PoolEntry(images=to_uint8(made.images), classes=made.logits.argmax(1), score=made.score)
