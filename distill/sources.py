"""Where images come from: a small generator, and its meta-learned fit to each batch.

N images, C channels, H x W pixels, K classes, Z latents.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill import objectives
from edgekd.distill.recipes import Recipe, Weights
from edgekd.distill.statistics import watch_batch_norm
from edgekd.records import InputSpec

Autocast = Callable[[], AbstractContextManager[None]]


class Generator(nn.Module):
    """Latents (N, Z) to images (N, C, H, W) in 0..1: a linear layer and two doublings (DCGAN-like).

    Small on purpose: at 32 pixels a generator of width 64 costs more than the teacher it serves.
    """

    def __init__(
        self, *, latents: int, width: int, channels: int, height: int, columns: int
    ) -> None:
        super().__init__()
        self.size = (height, columns)
        self.start = (math.ceil(height / 4), math.ceil(columns / 4))
        self.first = nn.Linear(latents, 2 * width * self.start[0] * self.start[1])
        self.body = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        x = self.first(latents).unflatten(1, (-1, *self.start))  # (N, 2W, H/4, W/4)
        x = self.body(x).float()
        return torch.sigmoid(x)[..., : self.size[0], : self.size[1]]


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """A batch of synthetic images with what was learned while making it."""

    images: Tensor  # (N, C, H, W) in 0..1
    classes: Tensor  # (N,) the class that was asked for
    logits: Tensor  # (N, K) of the teacher
    score: float  # how close to the teacher's view: lower is better; comparable within a run
    losses: dict[str, float]


def balanced_classes(
    count: int, classes: int, *, generator: torch.Generator
) -> Tensor:  # -> (count,)
    """Every class floor(count / classes) times, the rest drawn, in random order (NAYER's targets)."""
    device = generator.device
    whole = torch.arange(classes, device=device).repeat(count // classes)
    rest = torch.randperm(classes, generator=generator, device=device)[: count % classes]
    targets = torch.cat([whole, rest])
    return targets[torch.randperm(count, generator=generator, device=device)]


class MetaGenerator:
    """A generator that is a good starting point for the inversion of any batch (Fast-DFKD).

    Fang et al., AAAI 2022 ("Up to 100x Faster Data-free Knowledge Distillation"), first-order:
    clone the generator, fit clone and latents for a few steps, update the original with the sum
    of the clone's gradients.
    """

    def __init__(
        self,
        recipe: Recipe,
        spec: InputSpec,
        *,
        device: torch.device,
        layout: torch.memory_format,
        generator: torch.Generator,
    ) -> None:
        self.recipe = recipe
        self.network = Generator(
            latents=recipe.latents,
            width=recipe.generator_width,
            channels=spec.channels,
            height=spec.height,
            columns=spec.width,
        )
        _draw(self.network, generator=generator)
        self.network.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=recipe.inner_steps * recipe.generator_rate,
            betas=(0.5, 0.999),
        )
        self.mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)

    def invert(
        self,
        teacher: nn.Module,
        student: nn.Module,
        classes: Tensor,
        *,
        weights: Weights,
        steps: int,
        learn: bool,
        generator: torch.Generator,
        autocast: Autocast,
    ) -> Inverted:
        """One batch of images, one for each of `classes` (N,).

        Args:
            teacher: evaluation mode; its batch-norm statistics, where it has them, are matched.
            student: left in evaluation mode for the time; only its answers are used.
            classes: (N,), what each image should show.
            weights: of the losses; a weight of 0 leaves a part out.
            steps: of the clone and the latents.
            learn: whether the generator itself takes its outer step.
            generator: for the latents.
            autocast: context of the networks' forward passes.
        """
        recipe = self.recipe
        latents = torch.randn(
            len(classes), recipe.latents, generator=generator, device=classes.device
        ).requires_grad_()
        clone = copy.deepcopy(self.network).train()
        groups: list[dict[str, Any]] = [
            {"params": list(clone.parameters())},
            {"params": [latents], "lr": recipe.latent_rate},
        ]
        inner = torch.optim.Adam(groups, lr=recipe.generator_rate, betas=(0.5, 0.999))
        self.optimizer.zero_grad()
        was_training = student.training
        # Gradients go through the student to the images, not into it.
        student.eval().requires_grad_(False)
        best: Inverted | None = None
        for parts, images, logits in self._steps(
            clone,
            latents,
            teacher,
            student,
            classes,
            weights=weights,
            steps=steps,
            autocast=autocast,
        ):
            loss = torch.stack(list(parts.values())).sum()
            inner.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if learn:
                _accumulate(self.network, clone)
            inner.step()
            # Not the adversarial term: the score says how much the image looks like data.
            score = sum(
                float(parts[name].detach()) for name in ("bn", "one_hot", "tv") if name in parts
            )
            if best is None or score < best.score:
                best = Inverted(
                    images=images.detach().clone(),
                    classes=classes,
                    logits=logits.detach(),
                    score=score,
                    losses={name: float(part.detach()) for name, part in parts.items()},
                )
        if learn:
            self.optimizer.step()
            _copy_buffers(self.network, clone)
        student.train(was_training).requires_grad_(True)
        assert best is not None  # a recipe has at least one inner step
        return best

    def _steps(
        self,
        clone: nn.Module,
        latents: Tensor,
        teacher: nn.Module,
        student: nn.Module,
        classes: Tensor,
        *,
        weights: Weights,
        steps: int,
        autocast: Autocast,
    ) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
        """Weighted loss parts, images and teacher logits of each inner step."""
        for _ in range(steps):
            with autocast():
                images = clone(latents)
                normalised = (images - self.mean) / self.std
                with watch_batch_norm(teacher) as statistics:
                    logits = teacher(normalised).float()
            parts = {"one_hot": weights.one_hot * objectives.one_hot(logits, classes)}
            if statistics.seen and weights.batch_norm:
                parts["bn"] = weights.batch_norm * statistics.distance()
            if weights.balance:
                parts["balance"] = weights.balance * objectives.class_balance(logits)
            if weights.total_variation:
                parts["tv"] = weights.total_variation * objectives.total_variation(images)
            if weights.adversarial or weights.disagreement:
                with autocast():
                    answers = student(normalised).float()
                decided = objectives.decision_adversarial(answers, logits)
                apart = objectives.disagreement(answers, logits)
                parts["adversarial"] = weights.adversarial * decided + weights.disagreement * apart
            yield parts, images, logits


def _draw(network: nn.Module, *, generator: torch.Generator) -> None:
    """Normal weights of standard deviation 0.02 for convolutions, as DCGAN has them."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            deviation = 0.02 if isinstance(part, nn.Conv2d) else part.in_features**-0.5
            nn.init.normal_(part.weight, std=deviation, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _accumulate(network: nn.Module, clone: nn.Module) -> None:
    for ours, theirs in zip(network.parameters(), clone.parameters(), strict=True):
        assert theirs.grad is not None
        ours.grad = theirs.grad.clone() if ours.grad is None else ours.grad + theirs.grad


def _copy_buffers(network: nn.Module, clone: nn.Module) -> None:
    """Batch-norm statistics of the generator follow the clone; they have no gradient to learn from."""
    for ours, theirs in zip(network.buffers(), clone.buffers(), strict=True):
        ours.copy_(theirs)
