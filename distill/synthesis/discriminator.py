"""Alignment of synthetic images with a few condensed or real ones, by their features in the teacher.

After "Condensed Sample-Guided Model Inversion for Knowledge Distillation" (arXiv 2408.13850): a
discriminator that knows the class tells the features apart, and the images are made to fool it. The
paper's network and weights are not known to us: those here are of the usual kind.

N images, C channels, H x W pixels, F features, K classes.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.distill.compute.device import Compute
from edgekd.distill.compute.distributed import SINGLE_PROCESS, ProcessGroup
from edgekd.distill.data.real_images import RealImages
from edgekd.distill.data.siamese_augmentation import siamese
from edgekd.distill.recipes.config import LossWeights
from edgekd.distill.teachers.feature_hooks import watch_features
from edgekd.distill.teachers.loader import Teacher
from edgekd.errors import UsageError

WIDTH: Final = 256
RATE: Final = 2e-4  # of its Adam
# Images that the size of features is taken from.
SCALED_ON: Final = 64


class SpectralLinear(nn.Module):
    """A weight (O, I) over its largest singular value (spectral normalisation, Miyato et al. 2018).

    The direction of that value is a buffer, and followed by one power iteration a pass in training.
    """

    def __init__(self, outputs: int, inputs: int, *, generator: torch.Generator) -> None:
        super().__init__()
        drawn = torch.randn(outputs, inputs, generator=generator, device=generator.device)
        self.weight = nn.Parameter(drawn * inputs**-0.5)
        left, _, _ = torch.linalg.svd(self.weight.detach(), full_matrices=False)
        self.register_buffer("direction", left[:, 0].clone())  # (O,)

    def forward(self) -> Tensor:  # -> (O, I)
        assert isinstance(self.direction, Tensor)
        with torch.no_grad():
            right = functional.normalize(self.weight.mT @ self.direction, dim=0)
            left = functional.normalize(self.weight @ right, dim=0)
            if self.training:
                self.direction.copy_(left)
        # The value itself has a gradient: the direction does not move the norm.
        return self.weight / (left @ self.weight @ right)


class FeatureDiscriminator(nn.Module):
    """Features (N, F) and classes (N,) to scores (N,): high for those of condensed or real images.

    Two hidden layers, and the class by projection (Miyato and Koyama 2018). Each weight has norm 1:
    a score moves no faster than the features do, or twice as fast with the class.
    """

    def __init__(
        self, *, features: int, classes: int, conditional: bool, generator: torch.Generator
    ) -> None:
        """Draw the weights.

        Args:
            features: F.
            classes: K.
            conditional: whether the classes count; where not, they are ignored.
            generator: for the weights; they are on its device.
        """
        super().__init__()
        self.first = SpectralLinear(WIDTH, features, generator=generator)
        self.second = SpectralLinear(WIDTH, WIDTH, generator=generator)
        self.score = SpectralLinear(1, WIDTH, generator=generator)
        self.labels = SpectralLinear(classes, WIDTH, generator=generator) if conditional else None
        self.offsets = nn.ParameterList(
            torch.zeros(size, device=generator.device) for size in (WIDTH, WIDTH, 1)
        )

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            first, second, last = self.offsets
            x = functional.leaky_relu(
                functional.linear(features.float(), self.first(), first), 0.2
            )  # (N, WIDTH)
            x = functional.leaky_relu(functional.linear(x, self.second(), second), 0.2)
            scores = functional.linear(x, self.score(), last).squeeze(1)
            if self.labels is not None:
                scores = scores + (self.labels()[classes] * x).sum(1)
            return scores


class Alignment:
    """The discriminator at work: it learns from each batch of synthetic images, and then judges it.

    Attributes:
        augment: what real images go through before the teacher sees them. The synthetic ones are to
            go through it by themselves, or the discriminator knows them by that.
    """

    def __init__(
        self,
        teacher: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        classes: int,
        augment: Callable[[Tensor], Tensor],
        conditional: bool = True,
        generator: torch.Generator,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Look at the features of the real images, and draw a discriminator for them.

        Args:
            teacher: evaluation mode; images (N, C, H, W) to logits (N, K).
            images: condensed or real, (N, C, H, W), normalised as the teacher takes them.
            labels: (N,), what they show. Synthetic images of other classes are left alone.
            classes: K.
            augment: differentiable; the randomness in it is the caller's to keep.
            conditional: whether the discriminator knows the classes.
            generator: for the weights.
            group: with whom the discriminator learns.

        Raises:
            UsageError: no images, or the teacher's features cannot be read.
        """
        if len(images) == 0:
            raise UsageError(
                "feature alignment needs condensed or real images; one of each class is enough."
            )
        self.teacher = teacher
        self.group = group
        self.augment = augment
        self.classes = classes
        order = labels.argsort(stable=True)
        self.images, self.labels = images[order], labels[order]
        self.counts = torch.bincount(self.labels, minlength=classes)  # (K,)
        features = self._features(images[:SCALED_ON])
        # Scores move no faster than features: those of every teacher are brought to one size.
        self.scale = features.float().square().mean().sqrt().clamp_min(1e-6)
        self.discriminator = FeatureDiscriminator(
            features=features.shape[1],
            classes=classes,
            conditional=conditional,
            generator=generator,
        ).to(images.device)
        self.optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=RATE, betas=(0.5, 0.999)
        )

    def learn(
        self,
        synthetic_features: Tensor,
        synthetic_classes: Tensor,
        *,
        generator: torch.Generator,
    ) -> float:
        """One step of the hinge loss, on as many real images as there are synthetic ones.

        Args:
            synthetic_features: (N, F) of the teacher; no gradient goes into them.
            synthetic_classes: (N,).
            generator: for the choice of real images, every class equally often.

        Returns:
            The loss: 2 where real and synthetic cannot be told apart, 0 where they are.
        """
        images, classes = self._draw(len(synthetic_classes), generator=generator)
        real_features = self._features(self.augment(images))
        self.discriminator.train().requires_grad_(True)
        scores = self._scores(
            torch.cat([real_features.float(), synthetic_features.detach().float()]),
            torch.cat([classes, synthetic_classes]),
        )
        real, synthetic = scores[: len(classes)], scores[len(classes) :]
        loss = functional.relu(1 - real).mean()
        loss = loss + self._mean(functional.relu(1 + synthetic), synthetic_classes)
        loss.backward()  # type: ignore[no-untyped-call]
        self.group.average_gradients(self.discriminator.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def loss(self, synthetic_features: Tensor, synthetic_classes: Tensor) -> Tensor:
        """-mean score of features (N, F) of classes (N,): the images' side. It leaves no gradient here."""
        self.discriminator.eval().requires_grad_(False)
        scores = self._scores(synthetic_features, synthetic_classes)
        return -self._mean(scores, synthetic_classes)

    def state_dict(self) -> dict[str, Any]:
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, F)
        with watch_features(self.teacher, classes=self.classes) as watched:
            self.teacher(images)
        return watched.features

    def _draw(self, count: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` of the images and their labels, classes as even as they can be."""
        there = self.counts.nonzero().squeeze(1)
        order = torch.randperm(len(there), generator=generator, device=generator.device)
        turns = torch.arange(count, device=there.device) % len(there)
        classes = there[order.to(there.device)][turns]  # (count,)
        numbers = torch.randint(1 << 31, (count,), generator=generator, device=generator.device).to(
            there.device
        )
        starts = self.counts.cumsum(0) - self.counts
        chosen = starts[classes] + numbers % self.counts[classes]
        return self.images[chosen], classes

    def _scores(self, features: Tensor, classes: Tensor) -> Tensor:  # (N, F), (N,) -> (N,)
        scores: Tensor = self.discriminator(features.float() / self.scale, classes)
        return scores

    def _mean(self, values: Tensor, classes: Tensor) -> Tensor:  # (N,), (N,) -> ()
        """Over the synthetic images of which there are real ones to be compared with."""
        known = (self.counts[classes] > 0).float()
        return (values * known).sum() / known.sum().clamp_min(1)


def make_alignment(
    module: nn.Module,
    losses: LossWeights,
    real: RealImages | None,
    *,
    teacher: Teacher,
    moving: torch.Generator,
    first: torch.Generator,
    compute: Compute,
) -> Alignment | None:
    """What draws images to real ones, where a recipe asks for it and there are some.

    Args:
        module: the teacher on the device.
        losses: the recipe's.
        real: condensed or few real images, normalised and labelled.
        teacher: only its description is used.
        moving: moves real and synthetic images before their features are compared.
        first: on the CPU, for the first weights.
        compute: where to compute.
    """
    if real is None or not losses.alignment:
        return None
    # Where nobody says, the teacher was asked
    assert real.labels is not None
    with compute.autocast():
        return Alignment(
            module,
            real.images,
            real.labels,
            classes=teacher.info.classes,
            conditional=not losses.unconditional_alignment,
            augment=lambda images: siamese(images, generator=moving, flip=teacher.flip),
            generator=first,
            group=compute.group,
        )
