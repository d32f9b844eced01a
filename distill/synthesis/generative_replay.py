"""A memory without images: a VAE that learns to give back what was made (PRE-DFKD).

Binici et al., AAAI 2022 ("Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative
Pseudo Replay"). N images, C channels, H x W pixels, Z latents.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.distill import losses
from edgekd.distill.compute.distributed import SINGLE_PROCESS, ProcessGroup
from edgekd.distill.recipes.config import ReplayMemory
from edgekd.distill.synthesis.generators import Encoder, Generator, draw_weights
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss
from edgekd.records import InputSpec

# Adam, of the VAE, and one step on latents before they are replayed.
RATE: Final = 5e-4
LATENT_RATE: Final = 0.02
# Weight of the latents' divergence from N(0, I)
DIVERGENCE: Final = 1e-5
# Of the tuning of latents
ONE_HOT: Final = 1.0
# Of 1 - H / ln K; the release has 5 times -H in logarithms to base 10
BALANCE: Final = 5.0


class Replay:
    """Encoder and decoder. What it holds does not grow with the run."""

    def __init__(
        self,
        memory: ReplayMemory,
        spec: InputSpec,
        *,
        device: torch.device,
        layout: torch.memory_format,
        generator: torch.Generator,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.settings = memory
        self.latent_rate = LATENT_RATE
        self.group = group
        self.device = device
        self.encoder = Encoder(spec, latents=memory.latents, width=memory.width)
        self.decoder = Generator(spec, latents=memory.latents, width=memory.width, head="sigmoid")
        for network in self.networks():
            draw_weights(network, generator=generator)
            network.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            [*self.encoder.parameters(), *self.decoder.parameters()], lr=RATE
        )
        self.steps = 0

    @property
    def nbytes(self) -> int:
        """Of what replays: the decoder; the encoder is needed only while it learns."""
        return sum(int(part.nbytes) for part in self.decoder.state_dict().values())

    def networks(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.decoder

    def learn(
        self, criterion: SynthesisLoss, images: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """One step on images (N, C, H, W) of 0..1, and a quarter as many of its own memories; the loss.

        The loss counts the teacher's answers beside the pixels (section "synthetic-data-aware
        reconstruction"): synthetic images are brittle, and a small change of pixels changes them.
        """
        if self.steps:
            own = self.sample(criterion, max(1, len(images) // 4), generator=generator)
            images = torch.cat([images, own])
        self.encoder.train()
        self.decoder.train()
        with criterion.autocast():
            wanted = criterion.normalise(images)
            with torch.no_grad():
                answers = criterion.teacher(wanted)
            mean, log_variance = self.encoder(wanted)
            noise = torch.randn(mean.shape, generator=generator, device=self.device)
            again = criterion.normalise(self.decoder(mean + noise * (0.5 * log_variance).exp()))
            given = criterion.teacher(again)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        loss: Tensor = (
            functional.l1_loss(again, wanted.float())
            + losses.logit_distance(given, answers)
            + DIVERGENCE * divergence
        )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.group.average_gradients(
            part for network in self.networks() for part in network.parameters()
        )
        self.optimizer.step()
        self.steps += 1
        return loss.detach()

    def sample(self, criterion: SynthesisLoss, count: int, *, generator: torch.Generator) -> Tensor:
        """Images (count, C, H, W) of 0..1 that it remembers, without a gradient."""
        latents = self.latents(criterion, count, generator=generator)
        with torch.no_grad(), criterion.autocast():
            images: Tensor = self.decoder(latents)
        return images

    def latents(
        self, criterion: SynthesisLoss, count: int, *, generator: torch.Generator
    ) -> Tensor:
        """Latents (count, Z) to be replayed: drawn, and tuned; the decoder is in evaluation mode.

        They take one step towards images that the teacher is sure of and that spread over its
        classes, and towards the moments of N(0, I) (section "class-balanced memory inference").
        """
        self.decoder.eval()
        shape = (count, self.settings.latents)
        latents = torch.randn(shape, generator=generator, device=self.device).requires_grad_()
        tuning = torch.optim.Adam([latents], lr=self.latent_rate)
        with criterion.autocast():
            logits = criterion.teacher(criterion.normalise(self.decoder(latents))).float()
        loss = (
            ONE_HOT * losses.one_hot(logits, logits.detach().argmax(1))
            + BALANCE * losses.class_balance(logits)
            + (latents.var(0, correction=0) - 1).square().mean()
            + latents.mean(0).square().mean()
        )
        (latents.grad,) = torch.autograd.grad(loss, [latents])
        tuning.step()
        return latents.detach()

    @torch.no_grad()
    def measure_fidelity(self, criterion: SynthesisLoss, images: Tensor) -> float:
        """Share of images (N, C, H, W) of 0..1 whose class the teacher sees again: T(x) = T(D(E(x)))."""
        self.encoder.eval()
        self.decoder.eval()
        with criterion.autocast():
            wanted = criterion.normalise(images)
            mean, _ = self.encoder(wanted)
            again = criterion.teacher(criterion.normalise(self.decoder(mean)))
            return losses.agreement(again, criterion.teacher(wanted))

    def state_dict(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state_dict(),
            "decoder": self.decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.encoder.load_state_dict(state["encoder"])
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
