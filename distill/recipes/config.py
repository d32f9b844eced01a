"""Recipes: which parts, with which weights. All of them stand in `recipebook`.

Every length is a share of the budget, never a number of steps, so that a short run is the long
run made short.
"""

import math
from dataclasses import replace
from typing import Annotated, Final, Literal

from pydantic import Field

from edgekd.errors import UsageError
from edgekd.records import Share, record

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]

SourceKind = Literal["meta", "restarted", "noisy_layer", "pixels", "unconditional", "noise"]
MemoryKind = Literal["pool", "bank", "replay", "none"]
DistillationLoss = Literal["soft_targets", "standardized", "logit_distance"]


@record
class Provenance:
    """What a recipe is after, and how sure we are of it."""

    paper: str
    confirmed: str  # by the authors' code or paper
    reconstructed: str  # from formulas, summaries or other people's code
    ours: str  # added or changed here


@record
class LossWeights:
    """Of the losses that images are made by; 0 leaves a part out."""

    one_hot: Weight = 0.0
    batch_norm: Weight = 0.0
    first_layer: Weight = 1.0  # of the first batch-norm layer within `batch_norm`
    adversarial: Weight = 0.0  # -KL where student and teacher decide the same
    disagreement: Weight = 0.0  # -L1 of logits
    divergence: Weight = 0.0  # -KL, everywhere
    jensen_shannon: Weight = 0.0
    jensen_shannon_form: Literal["sample", "mean"] = "sample"
    balance: Weight = 0.0
    activation: Weight = 0.0
    contrastive: Weight = 0.0
    alignment: Weight = 0.0  # features like those of the condensed or real images
    total_variation: Weight = 0.0
    l2: Weight = 0.0
    patches: Weight = 0.0  # entropy of patch similarities, of a transformer's attention

    @property
    def asks_student(self) -> bool:
        return any((self.adversarial, self.disagreement, self.divergence, self.jensen_shannon))

    @property
    def asks_features(self) -> bool:
        return any((self.activation, self.contrastive))

    def against_student(self, factor: float) -> "LossWeights":
        """The same, with this much of the terms that ask the student; 0: made against nobody."""
        return replace(
            self,
            adversarial=factor * self.adversarial,
            disagreement=factor * self.disagreement,
            divergence=factor * self.divergence,
            jensen_shannon=factor * self.jensen_shannon,
        )


@record
class Source:
    """Where images come from, and what they are made by."""

    kind: SourceKind
    batch: AtLeastOne  # images of one inversion, or of one step of the generator
    weights: LossWeights
    steps: AtLeastOne = (
        1  # of an inversion; a generator that runs beside the student takes one a round
    )
    latents: AtLeastOne = 128
    width: AtLeastOne | None = None  # of the generator; None: from the size of the images
    head: Literal["sigmoid", "batch_norm"] = "sigmoid"
    rate: Positive = 2e-3  # Adam
    latent_rate: Positive = 0.015
    restart_every: Share = 0.0  # of the budget, between two fresh generators; 0: never
    momentum: Share = 0.0  # of an average of the generator that makes half of the images (MAD)
    jitter: Count = 0  # pixels
    warm_up: Share = 0.0  # of the budget, without the terms that ask the student
    fading: Share = 0.0  # of the weight of those terms, what is gone when the budget is
    student_mode: Literal["eval", "train"] = "eval"  # while its answers are asked
    conditional: bool = True  # whether the discriminator of `alignment` knows the classes
    # Of batches that are fitted: begun as views of condensed or real images, where there are any.
    expansion: Share = 0.0
    expansion_rate: Positive = 0.1  # Adam, of their pixels in the teacher's normalised space

    @property
    def flows(self) -> bool:
        """Whether images are made fresh for every student step and not kept."""
        return self.kind in {"unconditional", "noise"}


@record
class Memory:
    """What is kept of the images that were made."""

    kind: MemoryKind
    batches: AtLeastOne  # capacity of the pool or bank; what else is kept shows and calibrates
    entry: AtLeastOne  # images of a batch in it
    eviction: Literal["oldest", "reservoir", "balanced"] = "oldest"
    period: Share = 0.0  # of the budget, between two batches kept; 0: every batch that is made
    share: Share = 0.0  # of a student's batch, beside the fresh images
    # replay: a VAE that remembers without images
    latents: AtLeastOne = 256
    width: AtLeastOne = 32
    rate: Positive = 5e-4  # Adam
    latent_rate: Positive = 0.02  # Adam, one step on the latents before they are replayed
    steps: Count = 0  # of the VAE, in a round


@record
class Learning:
    """How the student learns."""

    batch: AtLeastOne
    steps: AtLeastOne  # in a round
    optimizer: Literal["sgd", "adam"]
    rate: Positive  # the peak; cosine to 0 at the end of the budget
    weight_decay: Weight
    loss: DistillationLoss
    temperature: Positive = 20.0
    mix: Share = 0.0  # of batches that are convex mixtures of two images
    ema_span: Positive = 0.01  # of the budget, over which the delivered weights are averaged
    shift: Share = 0.0  # augmentation: random translation, as a share of the side
    structured: Share = (
        0.0  # of a batch from structured noise, evenly over what the teacher sees in it
    )
    # The same for images of several channels; None: as for grey ones.
    structured_colour: Share | None = None
    real: Share = 0.0  # of a batch from condensed or real images, where there are any
    noise_start: Share = 0.0  # of the budget, on plain noise
    inner_rate: Weight = 0.0  # of a step on new images before the loss on remembered ones (LRA)


@record
class Recipe:
    name: str
    about: Provenance
    source: Source
    memory: Memory
    learning: Learning
    first_batches: AtLeastOne = 1  # images or steps of the generator, before the student's first
    held_out_every: AtLeastOne = 16  # rounds; a batch that is never learned from


FLOWING_STRUCTURED: Final = 0.8  # of a batch, beside images that flow from no statistics


def for_teacher(recipe: Recipe, *, batch_norm: bool, attention: bool = False) -> Recipe:
    """The recipe as it is used for a teacher with or without trained batch-norm.

    Without the statistics, class balance, image priors and the L1 disagreement carry the images of
    a recipe that leans on them; the others have them already. Where such images are never seen again,
    structured noise holds the student (docs/log.md).

    Args:
        recipe: of the book.
        batch_norm: whether there are trained statistics to match.
        attention: whether the teacher is a transformer, whose patches say something too.
    """
    weights = recipe.source.weights
    if batch_norm or not weights.batch_norm:
        return recipe
    weights = replace(
        weights,
        batch_norm=0.0,
        disagreement=max(weights.disagreement, 0.1),
        balance=max(weights.balance, 1.0),
        total_variation=max(weights.total_variation, 0.1),
        patches=0.1 if attention else 0.0,
        one_hot=min(weights.one_hot, 0.5),
    )
    learning = replace(
        recipe.learning,
        loss="logit_distance",
        optimizer="adam",
        rate=min(recipe.learning.rate, 2e-3),
        weight_decay=0.0,
        structured=FLOWING_STRUCTURED if recipe.source.flows else recipe.learning.structured,
    )
    # Mean 0 and deviation 1 of each channel: statistics of a layer that every teacher has.
    source = replace(recipe.source, weights=weights, head="batch_norm")
    return replace(recipe, source=source, learning=learning)


def for_batch(recipe: Recipe, batch: int) -> Recipe:
    """The recipe with this many images at once, of source, student and memory."""
    # A batch that was fitted is kept whole; of what flows a part is kept.
    entry = min(batch, recipe.memory.entry) if recipe.source.flows else batch
    return replace(
        recipe,
        source=replace(recipe.source, batch=batch),
        learning=replace(recipe.learning, batch=batch),
        memory=replace(recipe.memory, entry=entry),
    )


def for_ranks(recipe: Recipe, ranks: int) -> Recipe:
    """One rank's share of a recipe: its batches are those of all ranks together.

    Raises:
        UsageError: a batch cannot be shared evenly.
    """
    batches = {
        "images of an inversion": recipe.source.batch,
        "images of a batch in the memory": recipe.memory.entry,
        "images of a student's step": recipe.learning.batch,
    }
    uneven = {name: count for name, count in batches.items() if count % ranks}
    if uneven:
        common = math.gcd(*batches.values())
        fits = [number for number in range(1, common + 1) if common % number == 0]
        said = ", ".join(f"{count} {name}" for name, count in uneven.items())
        raise UsageError(
            f"{ranks} processes cannot share the batches of recipe {recipe.name} evenly ({said}). Start "
            f"{' or '.join(map(str, fits))}: torchrun --nproc-per-node, times --nnodes."
        )
    return replace(
        recipe,
        source=replace(recipe.source, batch=recipe.source.batch // ranks),
        memory=replace(recipe.memory, entry=recipe.memory.entry // ranks),
        learning=replace(recipe.learning, batch=recipe.learning.batch // ranks),
    )


# The most that images take; on a board's teacher of 224 pixels 111 batches.
POOL_BYTES: Final = 2 << 30


def for_images(recipe: Recipe, shape: tuple[int, int, int]) -> Recipe:
    """The recipe for images of (channels, height, width): the pool holds what memory can; structured noise by kind.

    A fixed limit and not what is free here: a run that was killed must find the same recipe again.
    """
    held = POOL_BYTES // (recipe.memory.entry * math.prod(shape))
    batches = max(4, min(recipe.memory.batches, held))
    learning = recipe.learning
    if shape[0] > 1 and learning.structured_colour is not None:
        learning = replace(learning, structured=learning.structured_colour)
    return replace(recipe, memory=replace(recipe.memory, batches=batches), learning=learning)
