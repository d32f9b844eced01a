"""What images are made by: the weighted losses of a batch, in the view of teacher and student.

N images, C channels, H x W pixels, K classes, F features.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill import losses
from edgekd.distill.compute.distributed import SINGLE_PROCESS, ProcessGroup
from edgekd.distill.data import augment
from edgekd.distill.models.batch_norm import watch_batch_norm
from edgekd.distill.recipes.config import LossWeights
from edgekd.distill.synthesis.discriminator import Alignment
from edgekd.distill.synthesis.synthetic_batch import channel_statistics
from edgekd.distill.teachers.feature_hooks import watch_attention, watch_features
from edgekd.records import InputSpec

Autocast = Callable[[], AbstractContextManager[None]]

# CMI's released settings have 0.1 to 0.2
CONTRASTIVE_TEMPERATURE = 0.2
# Features of earlier images
CONTRASTIVE_BANK = 1024
# Of the side, between the two views of an image
VIEW_SHIFT = 0.125


@dataclass(frozen=True, kw_only=True)
class SynthesisLossValues:
    """The losses of a batch, and what the teacher said of it."""

    parts: dict[str, Tensor]  # weighted
    logits: Tensor  # (N, K) of the teacher
    features: Tensor | None  # (N, F), where a loss asked for them
    aligned: tuple[Tensor, Tensor] | None  # (N, F) and classes (N,), as the discriminator saw them

    def loss(self) -> Tensor:  # -> ()
        return torch.stack(list(self.parts.values())).sum()

    def score(self) -> Tensor:  # -> ()
        """How much the images look like data: without what asks the student. Lower is better."""
        own = [part.detach() for name, part in self.parts.items() if name in SCORED]
        return torch.stack(own).sum() if own else torch.zeros((), device=self.logits.device)


SCORED = frozenset({"bn", "one_hot", "tv"})


@dataclass
class SynthesisLoss:
    """Teacher and student as they judge images; the student changes under it, the teacher never."""

    # Evaluation mode
    teacher: nn.Module
    student: nn.Module
    spec: InputSpec
    classes: int
    autocast: Autocast
    device: torch.device
    alignment: Alignment | None = None
    # Whether the student normalises by the batch while it is asked.
    student_in_train_mode: bool = False
    group: ProcessGroup = SINGLE_PROCESS
    bank: list[Tensor] = field(
        default_factory=list
    )  # features of earlier images, for `contrastive`

    def __post_init__(self) -> None:
        self.mean, self.std = channel_statistics(self.spec, device=self.device)

    def normalise(self, images: Tensor) -> Tensor:  # (N, C, H, W) of 0..1
        return (images - self.mean) / self.std

    def criterion(
        self,
        images: Tensor,
        classes: Tensor | None,
        weights: LossWeights,
        *,
        generator: torch.Generator,
    ) -> SynthesisLossValues:
        """The losses of images (N, C, H, W) on the scale of 0..1.

        Args:
            images: with a gradient.
            classes: (N,) what each should show; None: what the teacher sees in it.
            weights: of the losses; a weight of 0 leaves a part out.
            generator: for augmented views.
        """
        with self.autocast():
            normalised = self.normalise(images)
            with self._watching(weights) as (statistics, features, tokens):
                logits = self.teacher(normalised).float()
        wanted = logits.detach().argmax(1) if classes is None else classes
        parts: dict[str, Tensor] = {}
        if weights.one_hot:
            parts["one_hot"] = weights.one_hot * losses.one_hot(logits, wanted)
        if weights.batch_norm and statistics.seen:
            first = 1.0 if weights.first_bn_multiplier is None else weights.first_bn_multiplier
            parts["bn"] = weights.batch_norm * statistics.distance(first=first, group=self.group)
        if weights.balance:
            parts["balance"] = weights.balance * losses.class_balance(logits, group=self.group)
        if weights.total_variation:
            parts["tv"] = weights.total_variation * losses.total_variation(images)
        if weights.l2:
            parts["l2"] = weights.l2 * losses.l2(normalised)
        if weights.activation:
            parts["activation"] = weights.activation * losses.activation(features.features)
        # A network without attention has none
        if tokens is not None and tokens.tokens:
            entropies = [losses.patch_similarity_entropy(each) for each in tokens.tokens]
            parts["patches"] = -weights.patches * torch.stack(entropies).mean()
        if weights.contrastive:
            parts["contrastive"] = weights.contrastive * self._contrastive(
                images, features.features, generator=generator
            )
        aligned = None
        if weights.alignment and self.alignment is not None:
            aligned = self._aligned_features(self.alignment, normalised), wanted
            parts["alignment"] = weights.alignment * self.alignment.loss(*aligned)
        if weights.asks_student:
            parts["adversarial"] = self._against_student(normalised, logits, weights)
        kept = features.features.detach() if features is not None else None
        return SynthesisLossValues(parts=parts, logits=logits, features=kept, aligned=aligned)

    def _aligned_features(self, alignment: Alignment, normalised: Tensor) -> Tensor:  # -> (N, F)
        """Features of the images moved by themselves, as the real ones are: a second pass."""
        with self.autocast(), watch_features(self.teacher, classes=self.classes) as watched:
            self.teacher(alignment.augment(normalised))
        return watched.features

    def learn(self, judged: SynthesisLossValues, *, generator: torch.Generator) -> None:
        """The discriminator's step on images that were judged, if there is one."""
        if judged.aligned is None or self.alignment is None:
            return
        features, classes = judged.aligned
        with self.autocast():
            self.alignment.learn(features, classes, generator=generator)

    @contextmanager
    def _watching(self, weights: LossWeights) -> Iterator[tuple[Any, Any, Any]]:
        with ExitStack() as stack:
            statistics = stack.enter_context(watch_batch_norm(self.teacher))
            features = tokens = None
            if weights.asks_features:
                features = stack.enter_context(watch_features(self.teacher, classes=self.classes))
            if weights.patches:
                tokens = stack.enter_context(watch_attention(self.teacher))
            yield statistics, features, tokens

    def _against_student(self, normalised: Tensor, logits: Tensor, weights: LossWeights) -> Tensor:
        with self.autocast():
            answers = self.student(normalised).float()
        parts = []
        if weights.adversarial:
            parts.append(weights.adversarial * losses.decision_adversarial(answers, logits))
        if weights.disagreement:
            parts.append(weights.disagreement * losses.disagreement(answers, logits))
        if weights.divergence:
            parts.append(weights.divergence * losses.kl_disagreement(answers, logits))
        if weights.jensen_shannon:
            apart = losses.jensen_shannon(answers, logits)
            parts.append(weights.jensen_shannon * apart)
        return torch.stack(parts).sum()

    def _contrastive(
        self, images: Tensor, features: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """An image shall be told from others by a moved view of it (CMI, Fang et al. 2021, eq. 6)."""
        view = augment.shift(images, share=VIEW_SHIFT, generator=generator)
        with self.autocast(), watch_features(self.teacher, classes=self.classes) as moved:
            self.teacher(self.normalise(view))
        others = torch.cat(self.bank) if self.bank else None
        return losses.contrastive(
            moved.features, features, others, temperature=CONTRASTIVE_TEMPERATURE
        )

    def remember(self, features: Tensor | None) -> None:
        """Keep features (N, F) of images that are done, as others to be told from."""
        if features is None:
            return
        self.bank.append(features.detach())
        while sum(len(each) for each in self.bank) > CONTRASTIVE_BANK and len(self.bank) > 1:
            self.bank.pop(0)


@contextmanager
def frozen(student: nn.Module, *, train: bool) -> Iterator[None]:
    """Gradients go through the student to the images, not into it; its mode is put back."""
    was_training = student.training
    student.train(train).requires_grad_(False)
    try:
        yield
    finally:
        student.train(was_training).requires_grad_(True)
