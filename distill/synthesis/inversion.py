"""Sources that fit something to each batch of images: a generator with its latents, or the pixels.

One loop (`FittedSource.invert`) and what is fitted (`Fit`), which each source begins in its own way.

N images, C channels, H x W pixels, K classes, Z latents.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgekd.distill.compute.distributed import SINGLE_PROCESS, ProcessGroup
from edgekd.distill.data import augment
from edgekd.distill.data.real_images import RealImages
from edgekd.distill.data.siamese_augmentation import siamese
from edgekd.distill.recipes.config import LossWeights, Source
from edgekd.distill.synthesis.generators import (
    Embeddings,
    Generator,
    NoisyLayers,
    draw_weights,
    occurrence,
    width_for,
)
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss, SynthesisLossValues, frozen
from edgekd.distill.synthesis.synthetic_batch import SyntheticBatch, channel_statistics
from edgekd.records import InputSpec

BETAS = (0.5, 0.999)
VIEWS: Final = ("color", "scale", "rotate", "crop")  # one after the other, of `siamese`


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is fitted to one batch."""

    images: Callable[[], Tensor]  # (N, C, H, W) on the scale of 0..1, with a gradient
    optimizer: torch.optim.Optimizer
    shared: tuple[nn.Parameter, ...] = ()  # of it, what is the same on every rank
    before_step: Callable[[], None] = lambda: None  # gradients are there, the step is not made
    after_last: Callable[[], None] = lambda: None  # what the batch taught is to be kept


class FittedSource(ABC):
    """Makes one batch of images at a time."""

    def __init__(
        self,
        source: Source,
        spec: InputSpec,
        *,
        classes: int,
        device: torch.device,
        layout: torch.memory_format,
        generator: torch.Generator,
        embeddings: Tensor | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Draw what there is to draw.

        Args:
            source: the recipe's.
            spec: of the images.
            classes: that the teacher knows.
            device: where to compute.
            layout: of the generator's weights.
            generator: on the CPU, for weights.
            embeddings: (K, E) of the classes, for a noisy layer; None: one-hot.
            group: with whom the weights of generators are learned.
        """
        self.settings = source
        self.spec = spec
        self.classes = classes
        self.device = device
        self.layout = layout
        self.generator = generator
        self.embeddings = embeddings
        self.group = group
        self.prepare()

    def prepare(self) -> None:
        """Make what lasts from batch to batch, and start its age."""
        self.age = 0.0  # share of the budget

    @abstractmethod
    def begin(self, classes: Tensor, *, learn: bool, generator: torch.Generator) -> Fit:
        """Something to fit to a batch of these classes (N,)."""

    def networks(self) -> tuple[nn.Module, ...]:
        """Those that last from batch to batch."""
        return ()

    def advance(self, advance: float) -> None:
        """The budget advances by a share."""
        self.age += advance

    def state_dict(self) -> dict[str, Any]:
        """All that survives a checkpoint; weights are drawn from `drawing` all along."""
        return {"drawing": self.generator.get_state(), "age": self.age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.generator.set_state(state["drawing"].cpu())
        self.age = state["age"]

    def invert(
        self,
        criterion: SynthesisLoss,
        classes: Tensor,
        *,
        weights: LossWeights,
        steps: int,
        learn: bool,
        generator: torch.Generator,
    ) -> SyntheticBatch:
        """One batch of images, one for each of `classes` (N,): the best of all steps.

        Args:
            criterion: teacher and student.
            classes: (N,), what each image should show.
            weights: of the losses; a weight of 0 leaves a part out.
            steps: of the fit.
            learn: whether anything may learn from the batch: the source, the discriminator, the bank
                of features.
            generator: for latents, views and shifts.
        """
        fit = self.begin(classes, learn=learn, generator=generator)
        best: tuple[Tensor, Tensor, Tensor] | None = None  # images, logits, score
        judged: SynthesisLossValues | None = None
        with frozen(criterion.student, mode=self.settings.student_mode):
            for _ in range(steps):
                with criterion.autocast():
                    images = fit.images()
                seen, judged_as = self._jitter(images, generator=generator)
                judged = criterion.criterion(seen, classes, weights, generator=generator)
                fit.optimizer.zero_grad()
                judged.loss().backward()  # type: ignore[no-untyped-call]
                self.group.average_gradients(fit.shared)
                fit.before_step()
                fit.optimizer.step()
                if learn:
                    criterion.learn(judged, generator=generator)
                best = _better(best, judged_as.detach(), judged)
        fit.after_last()
        assert judged is not None  # a recipe has at least one step
        assert best is not None
        if learn and weights.contrastive:
            criterion.remember(judged.features)
        names = list(judged.parts)
        # One round trip to the host for all of them.
        values = torch.stack([*judged.parts.values(), best[2]]).detach().tolist()
        return SyntheticBatch(
            images=best[0],
            classes=classes,
            logits=best[1],
            score=values[-1],
            losses=dict(zip(names, values, strict=False)),
        )

    def _jitter(self, images: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images as they are judged, and as they are kept: the same, where nothing jitters."""
        reach = self.settings.jitter
        if not reach:
            return images, images
        rows, columns = torch.randint(
            -reach, reach + 1, (2,), generator=generator, device=generator.device
        ).tolist()
        return images.roll((rows, columns), dims=(2, 3)), images


def _better(
    best: tuple[Tensor, Tensor, Tensor] | None, images: Tensor, judged: SynthesisLossValues
) -> tuple[Tensor, Tensor, Tensor]:
    """The better of two, decided on the device: asking the host would wait for it in every step."""
    score = judged.score()
    if best is None:
        return images.clone(), judged.logits.detach(), score
    wins = score < best[2]
    return (
        torch.where(wins, images, best[0]),
        torch.where(wins, judged.logits.detach(), best[1]),
        torch.where(wins, score, best[2]),
    )


class _GeneratorSource(FittedSource):
    """With a generator of latents."""

    def _network(self, drawing: torch.Generator | None = None) -> Generator:
        source = self.settings
        network = Generator(
            self.spec,
            latents=source.latents,
            width=source.width or width_for(self.spec),
            head=source.head,
        )
        draw_weights(network, generator=drawing or self.generator)
        return network.to(self.device, memory_format=self.layout)  # type: ignore[call-overload, no-any-return]

    def _due(self) -> bool:
        """Whether it is time for a fresh generator."""
        return 0 < self.settings.restart_every <= self.age

    def _latents(self, count: int, *, generator: torch.Generator) -> Tensor:
        shape = (count, self.settings.latents)
        return torch.randn(shape, generator=generator, device=self.device).requires_grad_()


class MetaGenerator(_GeneratorSource):
    """A generator that is a good starting point for the inversion of any batch (Fast-DFKD).

    Fang et al., AAAI 2022 ("Up to 100x Faster Data-free Knowledge Distillation"), first-order:
    clone the generator, fit clone and latents for a few steps, update the original with the sum
    of the clone's gradients.
    """

    def prepare(self) -> None:
        super().prepare()
        self.network = self._network()
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.settings.steps * self.settings.rate, betas=BETAS
        )
        self.clone = self.network

    def begin(self, classes: Tensor, *, learn: bool, generator: torch.Generator) -> Fit:
        if learn and self._due():
            self.prepare()
        latents = self._latents(len(classes), generator=generator)
        self.clone = clone = copy.deepcopy(self.network).train()
        groups: list[dict[str, Any]] = [
            {"params": list(clone.parameters())},
            {"params": [latents], "lr": self.settings.latent_rate},
        ]
        self.optimizer.zero_grad()
        return Fit(
            images=lambda: clone(latents),
            optimizer=torch.optim.Adam(groups, lr=self.settings.rate, betas=BETAS),
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

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class RestartedGenerator(_GeneratorSource):
    """A generator from nothing for each batch (CMI, Fang et al., IJCAI 2021): slow, and never collapsed."""

    def begin(self, classes: Tensor, *, learn: bool, generator: torch.Generator) -> Fit:
        network = self._network(None if learn else _apart(generator)).train()
        latents = self._latents(len(classes), generator=generator)
        groups: list[dict[str, Any]] = [
            {"params": list(network.parameters())},
            {"params": [latents], "lr": self.settings.latent_rate},
        ]
        return Fit(
            images=lambda: network(latents),
            optimizer=torch.optim.Adam(groups, lr=self.settings.rate, betas=BETAS),
            shared=tuple(network.parameters()),
        )


def _apart(generator: torch.Generator) -> torch.Generator:
    """Draws on the CPU that the source's own know nothing of."""
    seed = torch.randint(1 << 62, (), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


class NoisyLayerGenerator(_GeneratorSource):
    """A generator that goes on from batch to batch behind layers that do not (NAYER).

    Tran et al., CVPR 2024. Started afresh after each `restart_every` of the budget, as there.
    """

    def prepare(self) -> None:
        super().prepare()
        self.embedded = Embeddings(self.classes, self.embeddings).to(self.device)
        self.network = self._network()

    def begin(self, classes: Tensor, *, learn: bool, generator: torch.Generator) -> Fit:
        if learn and self._due():
            self.prepare()
        network = self.network if learn else copy.deepcopy(self.network)
        network.train()
        layers = occurrence(classes)
        table = self.embedded.table
        noisy = NoisyLayers(table.shape[1], self.settings.latents, int(layers.max()) + 1)
        noisy.to(self.device).draw(generator=generator)
        embedded = self.embedded(classes)
        parameters = [*network.parameters(), *noisy.parameters()]
        return Fit(
            images=lambda: network(noisy(embedded, layers)),
            optimizer=torch.optim.Adam(parameters, lr=self.settings.rate, betas=BETAS),
            # The noisy layers are what latents are elsewhere: each rank's own.
            shared=tuple(network.parameters()),
        )

    def networks(self) -> tuple[nn.Module, ...]:
        return (self.network,)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.network.load_state_dict(state["network"])


class Pixels(FittedSource):
    """The pixels themselves, from noise (DeepInversion, Yin et al., CVPR 2020).

    In the teacher's normalised space, kept within what 0..1 can be there.
    """

    def begin(self, classes: Tensor, *, learn: bool, generator: torch.Generator) -> Fit:
        del learn
        mean, std = channel_statistics(self.spec, device=self.device)
        pixels = self._first(classes, generator=generator)
        pixels.clamp_(-mean / std, (1 - mean) / std).requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=self._rate(), betas=BETAS)

        def images() -> Tensor:
            with torch.no_grad():
                pixels.clamp_(-mean / std, (1 - mean) / std)
            return pixels * std + mean

        return Fit(images=images, optimizer=optimizer)

    def _first(self, classes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Where the pixels (N, C, H, W) begin, normalised."""
        spec = self.spec
        shape = (len(classes), spec.channels, spec.height, spec.width)
        return torch.randn(shape, generator=generator, device=self.device)

    def _rate(self) -> float:
        return self.settings.rate


class ViewExpansion(Pixels):
    """Pixels that begin as views of a few condensed or real images, and are made more of them.

    Shown as they are, few images are learned by heart (docs/log.md). Here each is moved, turned, scaled,
    coloured and laid over another of them, and then fitted as all images are: against the student of
    the moment, to the teacher's statistics.
    """

    def __init__(
        self,
        source: Source,
        spec: InputSpec,
        *,
        real: RealImages,
        flip: bool,
        classes: int,
        device: torch.device,
        layout: torch.memory_format,
        generator: torch.Generator,
    ) -> None:
        """As every source, and of these images.

        Args:
            source: the recipe's.
            spec: of the images.
            real: condensed or real, with labels, on the device.
            flip: whether mirrored images keep their class.
            classes: that the teacher knows.
            device: where to compute.
            layout: of weights; there are none.
            generator: of weights; there are none.
        """
        super().__init__(
            source, spec, classes=classes, device=device, layout=layout, generator=generator
        )
        assert real.labels is not None  # where nobody says, the teacher was asked
        self.images, self.labels = real.images, real.labels
        self.views = [*VIEWS, *(["flip"] if flip else [])]

    def _first(self, classes: Tensor, *, generator: torch.Generator) -> Tensor:
        own = (self.labels == classes.unsqueeze(1)).float()  # (N, M)
        own[own.sum(1) == 0] = 1  # of a class that nobody brought, any will do
        chosen = torch.multinomial(own, 1, generator=generator).squeeze(1)
        others = torch.randint(
            len(self.images), (len(classes),), generator=generator, device=self.device
        )
        return augment.collage(
            self._views(chosen, generator=generator),
            self._views(others, generator=generator),
            generator=generator,
        )

    def _views(self, chosen: Tensor, *, generator: torch.Generator) -> Tensor:
        images = self.images[chosen]
        for view in self.views:
            images = siamese(images, strategy=view, generator=generator)
        return images

    def _rate(self) -> float:
        return self.settings.expansion_rate


KINDS: dict[str, type[FittedSource]] = {
    "meta": MetaGenerator,
    "restarted": RestartedGenerator,
    "noisy_layer": NoisyLayerGenerator,
    "pixels": Pixels,
}
