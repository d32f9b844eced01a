"""Where images come from: sources that fit something to each batch, and those that flow.

A fitted source makes one batch at a time, for a pool: `inversion.py`. A flowing source has a generator
that takes a step a round, and makes fresh images for every step of the student: `adversarial.py`.

N images, C channels, H x W pixels, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.records import InputSpec


@dataclass(frozen=True, kw_only=True)
class SyntheticBatch:
    """A batch of synthetic images with what was learned while making it."""

    images: Tensor  # (N, C, H, W) on the scale of 0..1
    classes: Tensor | None  # (N,) the class that was asked for; None: none was
    logits: Tensor  # (N, K) of the teacher
    # How close to the teacher's view: lower is better; comparable within a run
    score: float
    losses: dict[str, float]


def channel_statistics(
    spec: InputSpec, *, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that a network's input is normalised by, (1, C, 1, 1) each."""
    mean, std = (
        torch.tensor(each, device=device).view(1, -1, 1, 1) for each in (spec.mean, spec.std)
    )
    return mean, std


def draw_balanced_classes(
    count: int, classes: int, *, generator: torch.Generator
) -> Tensor:  # -> (count,)
    """Every class floor(count / classes) times, the rest drawn, in random order (NAYER's targets)."""
    device = generator.device
    whole = torch.arange(classes, device=device).repeat(count // classes)
    rest = torch.randperm(classes, generator=generator, device=device)[: count % classes]
    targets = torch.cat([whole, rest])
    return targets[torch.randperm(count, generator=generator, device=device)]
