"""Sources that flow: a generator that plays against the student, step by step; and plain noise.

N images, C channels, H x W pixels, Z latents.
"""

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill.models.batch_norm import batch_norms
from edgekd.distill.models.networks import follow
from edgekd.distill.recipes.config import LossWeights, UnconditionalSource
from edgekd.distill.synthesis.generators import Generator, draw_weights, width_for
from edgekd.distill.synthesis.inversion import SourceContext
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss, frozen
from edgekd.distill.synthesis.synthetic_batch import SyntheticBatch, channel_statistics
from edgekd.records import InputSpec


class FlowingSource(ABC):
    """Makes fresh images for every step of the student."""

    @abstractmethod
    def learn(
        self, criterion: SynthesisLoss, *, weights: LossWeights, generator: torch.Generator
    ) -> SyntheticBatch | None:
        """One step of the generator, and the batch that it was made on; None: nothing learns."""

    @abstractmethod
    def fresh(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Images (count, C, H, W) on the scale of 0..1, without a gradient."""

    @abstractmethod
    def networks(self) -> tuple[nn.Module, ...]:
        """Those that last from round to round."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that survives a checkpoint."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class UnconditionalGenerator(FlowingSource):
    """Latents from N(0, I) to images, one Adam step a round (DAFL, Chen et al., ICCV 2019).

    What it is told by the weights makes it DAFL (the teacher's own answers), DFAD or ZSKT (nothing but
    where student and teacher differ), or the generator of the two papers of Binici et al. (both).
    With `momentum` half of the images come from an average of its past (MAD, Do et al., NeurIPS 2022).
    """

    def __init__(self, source: UnconditionalSource, context: SourceContext) -> None:
        self.settings = source
        self.group = context.group
        self.device = context.device
        spec = context.spec
        network = Generator(
            spec, latents=source.latents, width=source.width or width_for(spec), head=source.head
        )
        draw_weights(network, generator=context.generator)
        self.network = network.to(context.device, memory_format=context.layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=source.rate)
        self.average = copy.deepcopy(self.network).eval() if source.momentum else None

    def learn(
        self, criterion: SynthesisLoss, *, weights: LossWeights, generator: torch.Generator
    ) -> SyntheticBatch | None:
        self.network.train()
        latents = self._latents(self.settings.batch, generator=generator)
        with frozen(criterion.student, train=criterion.student_in_train_mode):
            with criterion.autocast():
                images = self.network(latents)
            judged = criterion.criterion(images, None, weights, generator=generator)
            if judged.parts:
                self.optimizer.zero_grad()
                judged.loss().backward()  # type: ignore[no-untyped-call]
                self.group.average_gradients(self.network.parameters())
                self.optimizer.step()
                criterion.learn(judged, generator=generator)
        if self.average is not None:
            follow(self.average, self.network, decay=self.settings.momentum)
        values = torch.stack([*judged.parts.values(), judged.score()]).detach().tolist()
        return SyntheticBatch(
            images=images.detach(),
            classes=None,
            logits=judged.logits.detach(),
            score=values[-1],
            losses=dict(zip(judged.parts, values, strict=False)),
        )

    @torch.no_grad()
    def fresh(self, count: int, *, generator: torch.Generator) -> Tensor:
        latents = self._latents(count, generator=generator)
        if self.average is None:
            return self.network(latents)  # type: ignore[no-any-return]
        old = count // 2
        return torch.cat([self.average(latents[:old]), self.network(latents[old:])])

    def _latents(self, count: int, *, generator: torch.Generator) -> Tensor:
        return torch.randn(count, self.settings.latents, generator=generator, device=self.device)

    def networks(self) -> tuple[nn.Module, ...]:
        return (self.network,) if self.average is None else (self.network, self.average)

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


class Noise(FlowingSource):
    """x ~ N(0, I) in the teacher's normalised space (Raikwar and Mishra, NeurIPS 2022).

    Made for a teacher that normalises by the batch (`batch_statistics_teacher`): with its running
    statistics it answers noise with one class.
    """

    def __init__(self, spec: InputSpec, *, device: torch.device) -> None:
        self.shape = (spec.channels, spec.height, spec.width)
        self.device = device
        self.mean, self.std = channel_statistics(spec, device=device)

    def learn(
        self, criterion: SynthesisLoss, *, weights: LossWeights, generator: torch.Generator
    ) -> SyntheticBatch | None:
        del criterion, weights, generator
        return None

    def fresh(self, count: int, *, generator: torch.Generator) -> Tensor:
        drawn = torch.randn((count, *self.shape), generator=generator, device=self.device)
        return drawn * self.std + self.mean

    def networks(self) -> tuple[nn.Module, ...]:
        return ()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to restore."""


def batch_statistics_teacher(teacher: nn.Module) -> nn.Module:
    """A copy whose batch-norm layers normalise by the batch, and whose statistics never move."""
    found = copy.deepcopy(teacher)
    for layer in batch_norms(found).values():
        layer.train()
        layer.momentum = 0.0
    return found
