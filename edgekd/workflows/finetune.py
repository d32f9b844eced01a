"""Fine-tuning of an INT8 network against its teacher, for the export that wraps it."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgekd.distill.compute.device import Compute
from edgekd.distill.synthesis.synthetic_batch import channel_statistics
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.training.int8_finetuning import FinetuneConfig, ParameterGroups, tune
from edgekd.export.fake_quant import FakeQuantised
from edgekd.progress import Display
from edgekd.workflows.distill import Distilled


def tuner_of(distilled: Distilled, steps: int, display: Display) -> Callable[[FakeQuantised], None]:
    """What tunes the wrapped student: against its teacher, on the images of its memory."""
    run = distilled.run
    images = run.pool.images[: min(run.pool.made, run.pool.capacity)].flatten(0, 1)
    return tuner(
        run.teacher,
        images,
        FinetuneConfig(steps=steps),
        compute=run.compute,
        seed=run.seed,
        display=display,
    )


def tuner(
    teacher: Teacher,
    images: Tensor,
    plan: FinetuneConfig,
    *,
    compute: Compute,
    seed: int,
    display: Display,
) -> Callable[[FakeQuantised], None]:
    """What tunes a wrapped network against a teacher.

    Args:
        teacher: on the device of `compute`.
        images: bytes (N, C, H, W) to learn from.
        plan: how.
        compute: where to compute.
        seed: of all draws.
        display: what happens is said there.
    """
    mean, std = channel_statistics(teacher.info.input, device=compute.device)

    def finetune(wrapped: FakeQuantised) -> None:
        display.say(
            f"tune     INT8 against the teacher: {plan.steps:,} steps, {len(images):,} images"
        )
        module = wrapped.to(compute.device)
        weights, scales = module.learnable_parameters()
        tune(
            module,
            teacher.module,
            images,
            plan,
            learned=ParameterGroups(weights=weights, scales=scales),
            normalised=lambda shown: (shown - mean) / std,
            flip=teacher.flip,
            compute=compute,
            generator=torch.Generator(compute.device).manual_seed(seed),
            told=lambda *_: None,
        )
        # Where files are made
        wrapped.cpu()

    return finetune
