"""Figures of a student while it learns: agreement with the teacher, and accuracy where labels are.

N images, C channels, H x W pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from edgekd.distill.compute.device import Compute
from edgekd.distill.synthesis.image_pool import ImagePool, to_float
from edgekd.records import HistoryPoint

# Images, in one pass that measures
AT_ONCE: Final = 256


@dataclass(frozen=True, kw_only=True)
class RoundEnd:
    """The end of a round."""

    point: HistoryPoint
    progress: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ProgressImages:
    """Labelled images that are looked at while a run goes on. They select nothing."""

    images: Tensor  # (N, C, H, W) normalised
    labels: Tensor  # (N,)


class AgreementMeter:
    """The student's agreement with the teacher on the held-out images of a run."""

    def __init__(
        self, final_teacher: Callable[[], nn.Module], normalise: Callable[[Tensor], Tensor]
    ) -> None:
        """Nothing is measured yet.

        Args:
            final_teacher: the teacher whose answers count in the end.
            normalise: of images (N, C, H, W) of 0..1.
        """
        self.final_teacher = final_teacher
        self.normalise = normalise
        # The teacher's classes of so many batches ever held out.
        self.decided: tuple[int, Tensor] | None = None

    def forget(self) -> None:
        """The held-out images are others now."""
        self.decided = None

    @torch.no_grad()
    def measure(self, student: nn.Module, held_out: ImagePool, compute: Compute) -> float:
        """Share of the held-out synthetic images on which student and teacher decide the same."""
        kept = min(held_out.made, held_out.capacity)
        images = held_out.images[:kept].flatten(0, 1)  # (N, C, H, W) uint8
        if self.decided is None or self.decided[0] != held_out.made:
            # Of images that stay the same the teacher need not be asked again.
            decided = self._classify(self.final_teacher(), images, compute)
            self.decided = (held_out.made, decided)
        with evaluating(student):
            same = self._classify(student, images, compute) == self.decided[1]
        return float(compute.group.all_reduce_mean(same.double().mean().cpu()))

    def _classify(self, network: nn.Module, images: Tensor, compute: Compute) -> Tensor:
        """Classes (N,) of images (N, C, H, W) uint8."""
        decided = []
        for part in torch.split(images, AT_ONCE):
            with compute.autocast():
                decided.append(network(self.normalise(to_float(part))).argmax(1))
        return torch.cat(decided)


@torch.no_grad()
def measure_accuracy(student: nn.Module, watched: ProgressImages, compute: Compute) -> float:
    """Share of the watched images that a student decides as their labels say."""
    right = 0
    with evaluating(student):
        for images, labels in zip(
            torch.split(watched.images, AT_ONCE),
            torch.split(watched.labels, AT_ONCE),
            strict=True,
        ):
            with compute.autocast():
                decided = student(images.to(compute.device)).argmax(1)
            right += int((decided == labels.to(compute.device)).sum())
    return right / len(watched.labels)


@contextmanager
def evaluating(student: nn.Module) -> Iterator[None]:
    was_training = student.training
    student.eval()
    try:
        yield
    finally:
        student.train(was_training)
