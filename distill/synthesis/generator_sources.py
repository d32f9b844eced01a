"""Generators that are fitted to a batch of images, and what of them lasts to the next.

N images, C channels, H x W pixels, K classes, Z latents.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill.recipes.config import (
    GeneratorSource,
    MetaSource,
    NoisyLayerSource,
    RestartedSource,
)
from edgekd.distill.synthesis.generators import (
    Embeddings,
    Generator,
    NoisyLayers,
    draw_weights,
    occurrence,
    width_for,
)
from edgekd.distill.synthesis.inversion import (
    BETAS,
    Fit,
    FittedSource,
    SourceContext,
)


def _make_network(
    source: GeneratorSource, context: SourceContext, *, drawing: torch.Generator | None = None
) -> Generator:
    """A generator with fresh weights, from the source's own draws or others."""
    network = Generator(
        context.spec,
        latents=source.latents,
        width=source.width or width_for(context.spec),
        head=source.head,
    )
    draw_weights(network, generator=drawing or context.generator)
    return network.to(context.device, memory_format=context.layout)  # type: ignore[call-overload, no-any-return]


def _draw_latents(
    source: GeneratorSource, context: SourceContext, count: int, *, generator: torch.Generator
) -> Tensor:  # -> (count, Z)
    shape = (count, source.latents)
    return torch.randn(shape, generator=generator, device=context.device).requires_grad_()


class MetaGenerator(FittedSource):
    """A generator that is a good starting point for the inversion of any batch (Fast-DFKD).

    Fang et al., AAAI 2022 ("Up to 100x Faster Data-free Knowledge Distillation"), first-order:
    clone the generator, fit clone and latents for a few steps, update the original with the sum
    of the clone's gradients.
    """

    def __init__(self, source: MetaSource, context: SourceContext) -> None:
        self.source = source
        self.context = context
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.age = 0.0
        self.network = _make_network(self.source, self.context)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.source.steps * self.source.rate, betas=BETAS
        )
        self.clone = self.network

    def begin(self, classes: Tensor, *, learn: bool, generator: torch.Generator) -> Fit:
        if learn and 0 < self.source.restart_every <= self.age:
            self._start_afresh()
        latents = _draw_latents(self.source, self.context, len(classes), generator=generator)
        self.clone = clone = copy.deepcopy(self.network).train()
        groups: list[dict[str, Any]] = [
            {"params": list(clone.parameters())},
            {"params": [latents], "lr": self.source.latent_rate},
        ]
        self.optimizer.zero_grad()
        return Fit(
            images=lambda: clone(latents),
            optimizer=torch.optim.Adam(groups, lr=self.source.rate, betas=BETAS),
            shared=tuple(clone.parameters()),
            **({"before_step": self._accumulate, "after_last": self._update} if learn else {}),
        )

    def _accumulate(self) -> None:
        for ours, theirs in zip(self.network.parameters(), self.clone.parameters(), strict=True):
            assert theirs.grad is not None
            ours.grad = theirs.grad.clone() if ours.grad is None else ours.grad + theirs.grad

    def _update(self) -> None:
        self.optimizer.step()
        # Batch-norm statistics of the generator follow the clone; they have no gradient to learn from.
        for ours, theirs in zip(self.network.buffers(), self.clone.buffers(), strict=True):
            ours.copy_(theirs)

    def networks(self) -> tuple[nn.Module, ...]:
        return (self.network,)

    def network_state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_network_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class RestartedGenerator(FittedSource):
    """A generator from nothing for each batch (CMI, Fang et al., IJCAI 2021): slow, and never collapsed."""

    def __init__(self, source: RestartedSource, context: SourceContext) -> None:
        self.source = source
        self.context = context
        self.age = 0.0

    def begin(self, classes: Tensor, *, learn: bool, generator: torch.Generator) -> Fit:
        drawing = None if learn else _apart(generator)
        network = _make_network(self.source, self.context, drawing=drawing).train()
        latents = _draw_latents(self.source, self.context, len(classes), generator=generator)
        groups: list[dict[str, Any]] = [
            {"params": list(network.parameters())},
            {"params": [latents], "lr": self.source.latent_rate},
        ]
        return Fit(
            images=lambda: network(latents),
            optimizer=torch.optim.Adam(groups, lr=self.source.rate, betas=BETAS),
            shared=tuple(network.parameters()),
        )


def _apart(generator: torch.Generator) -> torch.Generator:
    """Draws on the CPU that the source's own know nothing of."""
    seed = torch.randint(1 << 62, (), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


class NoisyLayerGenerator(FittedSource):
    """A generator that goes on from batch to batch behind layers that do not (NAYER).

    Tran et al., CVPR 2024. Started afresh after each `restart_every` of the budget, as there.
    """

    def __init__(self, source: NoisyLayerSource, context: SourceContext) -> None:
        self.source = source
        self.context = context
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.age = 0.0
        context = self.context
        self.embedded = Embeddings(context.classes, context.embeddings).to(context.device)
        self.network = _make_network(self.source, context)

    def begin(self, classes: Tensor, *, learn: bool, generator: torch.Generator) -> Fit:
        if learn and 0 < self.source.restart_every <= self.age:
            self._start_afresh()
        network = self.network if learn else copy.deepcopy(self.network)
        network.train()
        layers = occurrence(classes)
        table = self.embedded.table
        noisy = NoisyLayers(table.shape[1], self.source.latents, int(layers.max()) + 1)
        noisy.to(self.context.device).draw(generator=generator)
        embedded = self.embedded(classes)
        parameters = [*network.parameters(), *noisy.parameters()]
        return Fit(
            images=lambda: network(noisy(embedded, layers)),
            optimizer=torch.optim.Adam(parameters, lr=self.source.rate, betas=BETAS),
            # The noisy layers are what latents are elsewhere: each rank's own.
            shared=tuple(network.parameters()),
        )

    def networks(self) -> tuple[nn.Module, ...]:
        return (self.network,)

    def network_state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict()}

    def load_network_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
