"""Recipes: which parts, with which weights. All of them stand in `RECIPES`.

Every length is a share of the budget, never a number of steps, so that a short run is the long
run made short.
"""

import math
from dataclasses import replace
from typing import Annotated, Final, Literal

from pydantic import Field

from edgekd.records import Share, record

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


@record
class Weights:
    """Of the losses that images are made by; 0 leaves a part out."""

    one_hot: Weight
    batch_norm: Weight
    adversarial: Weight  # -KL where student and teacher decide the same
    disagreement: Weight  # -L1 of logits
    balance: Weight
    total_variation: Weight


@record
class Recipe:
    name: str
    paper: str
    # images
    batch: AtLeastOne  # images of one inversion
    inner_steps: AtLeastOne  # of the clone and the latents, for each batch
    latents: AtLeastOne
    generator_width: AtLeastOne
    generator_rate: Positive  # Adam, inner; the outer step is `inner_steps` times it
    latent_rate: Positive
    weights: Weights
    warm_up: Share  # of the budget, without adversarial terms
    # memory
    pool_batches: AtLeastOne  # capacity; the oldest go first
    held_out_every: AtLeastOne  # rounds; a batch without adversarial terms, to measure agreement on
    # student
    student_batch: AtLeastOne
    student_steps: AtLeastOne  # for each batch of images made
    first_batches: AtLeastOne  # made before the student's first step
    optimizer: Literal["sgd", "adam"]
    student_rate: Positive  # the peak; cosine to 0 at the end of the budget
    weight_decay: Weight
    kd: Literal["soft_targets", "logit_distance"]
    temperature: Positive
    mix: Share  # of student batches that are convex mixtures of two images
    ema_span: Positive  # of the budget, over which the delivered weights are averaged
    shift: Share  # augmentation: random translation, as a share of the side


_POOL: Final = Recipe(
    name="pool",
    paper=(
        "Fang et al., Up to 100x Faster Data-free Knowledge Distillation, AAAI 2022; reconstructed from the "
        "formulas. Ours: budgeted schedules, mixtures, EMA student, uint8 pool"
    ),
    batch=128,
    inner_steps=10,
    latents=128,
    generator_width=32,
    generator_rate=2e-3,
    latent_rate=0.015,
    weights=Weights(
        one_hot=2.0,
        batch_norm=1.0,
        adversarial=1.0,
        disagreement=0.0,
        balance=0.0,
        total_variation=0.0,
    ),
    warm_up=0.1,
    pool_batches=400,
    held_out_every=16,
    student_batch=128,
    student_steps=60,
    first_batches=8,
    optimizer="sgd",
    student_rate=0.2,
    weight_decay=5e-4,
    kd="soft_targets",
    temperature=20.0,
    mix=0.5,
    ema_span=0.01,
    shift=0.125,
)

RECIPES: Final[dict[str, Recipe]] = {"pool": _POOL}


def for_teacher(recipe: Recipe, *, batch_norm: bool) -> Recipe:
    """The recipe as it is used for a teacher with or without trained batch-norm.

    Without the statistics, class balance, image priors and the L1 disagreement carry the images.
    """
    if batch_norm:
        return recipe
    weights = replace(
        recipe.weights, batch_norm=0.0, disagreement=0.1, balance=1.0, total_variation=0.1
    )
    return replace(
        recipe,
        weights=weights,
        kd="logit_distance",
        optimizer="adam",
        student_rate=2e-3,
        weight_decay=0.0,
    )


POOL_BYTES: Final = (
    2 << 30
)  # the most that images take; on a board's teacher of 224 pixels 111 batches


def for_images(recipe: Recipe, shape: tuple[int, int, int]) -> Recipe:
    """The recipe for images of (channels, height, width): the pool holds what memory can.

    A fixed limit and not what is free here: a run that was killed must find the same recipe again.
    """
    held = POOL_BYTES // (recipe.batch * math.prod(shape))
    return replace(recipe, pool_batches=max(4, min(recipe.pool_batches, held)))
