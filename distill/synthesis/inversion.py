"""Sources that fit something to each batch of images: a generator with its latents, or the pixels.

One loop (`FittedSource.invert`) and what is fitted (`Fit`), which each source begins in its own way.

N images, C channels, H x W pixels, K classes, Z latents.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgekd.distill.compute.distributed import SINGLE_PROCESS, ProcessGroup
from edgekd.distill.recipes.config import LossWeights
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss, SynthesisLossValues, frozen
from edgekd.distill.synthesis.synthetic_batch import SyntheticBatch
from edgekd.records import InputSpec

BETAS = (0.5, 0.999)
# One after the other, of `siamese`
VIEWS: Final = ("color", "scale", "rotate", "crop")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is fitted to one batch."""

    images: Callable[[], Tensor]  # (N, C, H, W) on the scale of 0..1, with a gradient
    optimizer: torch.optim.Optimizer
    # Of it, what is the same on every rank
    shared: tuple[nn.Parameter, ...] = ()
    # Gradients are there, the step is not made
    before_step: Callable[[], None] = lambda: None
    # What the batch taught is to be kept
    after_last: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class SourceContext:
    """What every source is made for."""

    # Of the images.
    spec: InputSpec
    # That the teacher knows.
    classes: int
    device: torch.device
    # Of the generator's weights.
    layout: torch.memory_format
    # On the CPU, for weights.
    generator: torch.Generator
    # (K, E) of the classes, for a noisy layer; None: one-hot.
    embeddings: Tensor | None = None
    # With whom the weights of generators are learned.
    group: ProcessGroup = SINGLE_PROCESS


class FittedSource(ABC):
    """Makes one batch of images at a time."""

    # A source that is made sets both: what it is for, and its age as a share of the budget.
    context: SourceContext
    age: float
    # Pixels, by which images are moved before they are judged.
    jitter: int = 0

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
        drawing = self.context.generator.get_state()
        return {"drawing": drawing, "age": self.age, **self.network_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.context.generator.set_state(state["drawing"].cpu())
        self.age = state["age"]
        self.load_network_state(state)

    def network_state(self) -> dict[str, Any]:
        """Of the state, that of what is learned from batch to batch."""
        return {}

    def load_network_state(self, state: dict[str, Any]) -> None:  # noqa: B027  # most have none
        """Restore what `network_state` gave; there is nothing where no network lasts."""

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
        # Images, logits, score
        best: tuple[Tensor, Tensor, Tensor] | None = None
        judged: SynthesisLossValues | None = None
        with frozen(criterion.student, train=criterion.student_in_train_mode):
            for _ in range(steps):
                with criterion.autocast():
                    images = fit.images()
                seen, judged_as = self._jitter(images, generator=generator)
                judged = criterion.criterion(seen, classes, weights, generator=generator)
                fit.optimizer.zero_grad()
                judged.loss().backward()  # type: ignore[no-untyped-call]
                self.context.group.average_gradients(fit.shared)
                fit.before_step()
                fit.optimizer.step()
                if learn:
                    criterion.learn(judged, generator=generator)
                best = _better(best, judged_as.detach(), judged)
        fit.after_last()
        # A recipe has at least one step
        assert judged is not None
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
        reach = self.jitter
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
