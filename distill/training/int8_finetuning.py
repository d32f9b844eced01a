"""Tuning a student that is wrapped to compute as INT8 will, against its teacher, on images of its memory.

The wrapped module is somebody else's (`edgekd.export.fake_quant`): here it is a module with two lists of
parameters. Batch-norms are folded and frozen in it, so a batch has no statistics of its own.

N images, C channels, H x W pixels.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.distill.compute.device import Compute
from edgekd.distill.data import augment
from edgekd.distill.losses import soft_targets
from edgekd.distill.recipes.config import Repeats
from edgekd.errors import QualityError
from edgekd.records import record


@record
class FinetuneConfig:
    """How a wrapped student is tuned."""

    steps: Repeats = 400
    batch: Repeats = 128
    # Of weights and biases, Adam; to 0 along a cosine
    rate: Annotated[float, Field(gt=0)] = 2e-4
    # Of logarithms of scales
    scale_rate: Annotated[float, Field(gt=0)] = 2e-3
    temperature: Annotated[float, Field(gt=0)] = 4.0
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.125  # of a side
    # Every second batch
    mix: bool = True


@dataclass(frozen=True, kw_only=True)
class ParameterGroups:
    """The two kinds of parameters."""

    weights: Iterable[nn.Parameter]
    scales: Iterable[nn.Parameter]


def tune(
    module: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    plan: FinetuneConfig,
    *,
    learned: ParameterGroups,
    normalised: Callable[[Tensor], Tensor],
    flip: bool,
    compute: Compute,
    generator: torch.Generator,
    told: Callable[[int, float], None],
) -> None:
    """Move a wrapped student's weights and scales towards the teacher's answers.

    In float32, whatever the place: bfloat16 has fewer bits than what is rounded here.

    Args:
        module: wrapped, on the device.
        teacher: on the device, evaluation mode.
        images: bytes (N, C, H, W), on any device.
        plan: how.
        learned: what changes.
        normalised: of images of 0..1.
        flip: whether mirrored images keep their class.
        compute: where to compute.
        generator: of all draws, on the device.
        told: after each step, with its number and loss.

    Raises:
        QualityError: the loss is no number any more.
    """
    optimizer = torch.optim.Adam(
        [
            {"params": list(learned.weights), "lr": plan.rate},
            {"params": list(learned.scales), "lr": plan.scale_rate},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.steps)
    for step in range(1, plan.steps + 1):
        chosen = torch.randint(
            len(images), (plan.batch,), generator=generator, device=generator.device
        )
        shown = images[chosen.to(images.device)].to(compute.device)
        shown = augment.shift(shown, share=plan.shift, generator=generator)
        if flip:
            shown = augment.flip(shown, generator=generator)
        shown = normalised(shown.float() / 255)
        if plan.mix and step % 2:
            shown = augment.mix(shown, generator=generator)
        with torch.no_grad():
            answer = teacher(shown)
        loss = soft_targets(module(shown), answer, temperature=plan.temperature)
        reached = float(loss.detach())
        if not math.isfinite(reached):
            raise QualityError(
                f"tuning for INT8 came to a loss of {reached} at step {step}. Run again "
                "without --tune."
            )
        optimizer.zero_grad()
        compute.backward(loss)
        optimizer.step()
        schedule.step()
        told(step, reached)
