"""What a recipe is made of: frozen records, one for each kind of a part, with the fields of that kind alone.

All lengths are shares of the budget, never numbers of steps, so that a short run is the long run
made short. The recipes that are shipped stand in `catalogue`; users write their own as TOML (`recipe_file`).
"""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import Field, StringConstraints

from edgekd.distill.kd_losses import AnyLoss
from edgekd.records import Share, record

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Sizes have an upper bound: a file of a user that says 10^30 images is refused where it is read, and not by an
# allocation that fails hours later.
Size = Annotated[int, Field(ge=1, le=8192)]
Width = Annotated[int, Field(ge=1, le=1024)]
Repeats = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
# Any part of a recipe.
T = TypeVar("T", bound="DataclassInstance")
Head = Literal["sigmoid", "batch_norm"]
Eviction = Literal["oldest", "reservoir", "balanced"]
# It is printed, and stands in the files of a run.
RecipeTitle = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")]


@record
class Provenance:
    """What a recipe is after, and how sure we are of it."""

    paper: str = ""
    # By the authors' code or paper.
    confirmed: str = ""
    # From formulas, summaries or other people's code.
    reconstructed: str = ""
    # Added or changed here.
    ours: str = ""


@record
class LossWeights:
    """Of the losses that images are made by; 0 leaves a part out."""

    one_hot: Weight = 0.0
    batch_norm: Weight = 0.0
    # Of the first batch-norm layer within `batch_norm`; None: it counts as the others do.
    first_bn_multiplier: Weight | None = None
    # -KL where student and teacher decide the same.
    adversarial: Weight = 0.0
    # -L1 of logits.
    disagreement: Weight = 0.0
    # -KL, everywhere.
    divergence: Weight = 0.0
    jensen_shannon: Weight = 0.0
    balance: Weight = 0.0
    activation: Weight = 0.0
    contrastive: Weight = 0.0
    # Features like those of the condensed or real images.
    alignment: Weight = 0.0
    # Whether the discriminator of `alignment` is left without the classes.
    unconditional_alignment: bool = False
    total_variation: Weight = 0.0
    l2: Weight = 0.0
    # Entropy of patch similarities, of a transformer's attention.
    patches: Weight = 0.0

    @property
    def asks_student(self) -> bool:
        return any((self.adversarial, self.disagreement, self.divergence, self.jensen_shannon))

    @property
    def asks_features(self) -> bool:
        return any((self.activation, self.contrastive))

    @property
    def asks_anything(self) -> bool:
        # Of the others each changes what a weight means, and is none.
        others = {"first_bn_multiplier", "unconditional_alignment"}
        return any(getattr(self, each.name) for each in fields(self) if each.name not in others)

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
class Adversary:
    """How images are made against the student: the terms that ask it, over the run."""

    # Of the budget, without these terms.
    warm_up: Share = 0.0
    # Of the weight of these terms, what is gone when the budget is.
    fading: Share = 0.0
    # Whether the student normalises by the batch while it is asked.
    student_in_train_mode: bool = False


# --- where images come from -------------------------------------------------------------------


@record
class MetaSource:
    """A generator that is a good start for the inversion of any batch (Fast-DFKD)."""

    kind: Literal["meta"] = "meta"
    # Images of one inversion.
    batch: Size
    # Of an inversion.
    steps: Repeats
    # Adam.
    rate: Rate = 2e-3
    latent_rate: Rate = 0.015
    latents: Size = 128
    # Of the generator; None: from the size of the images.
    width: Width | None = None
    head: Head = "sigmoid"
    # Of the budget, between two fresh generators; 0: never.
    restart_every: Share = 0.0
    # Of the batches, those that begin as views of condensed or real images, where there are any.
    expansion: Share = 0.0


@record
class RestartedSource:
    """A fresh generator for each batch (CMI)."""

    kind: Literal["restarted"] = "restarted"
    batch: Size
    steps: Repeats
    rate: Rate = 2e-3
    latent_rate: Rate = 0.015
    latents: Size = 128
    width: Width | None = None
    head: Head = "sigmoid"
    expansion: Share = 0.0


@record
class NoisyLayerSource:
    """A generator behind layers that are drawn for each batch (NAYER)."""

    kind: Literal["noisy_layer"] = "noisy_layer"
    batch: Size
    steps: Repeats
    rate: Rate = 2e-3
    latents: Size = 128
    width: Width | None = None
    head: Head = "sigmoid"
    restart_every: Share = 0.0
    expansion: Share = 0.0


@record
class PixelSource:
    """The pixels themselves are fitted (DeepInversion)."""

    kind: Literal["pixels"] = "pixels"
    batch: Size
    steps: Repeats
    rate: Rate = 2e-3
    # Pixels, by which images are moved before they are judged.
    jitter: Annotated[int, Field(ge=0, le=64)] = 0
    expansion: Share = 0.0


@record
class UnconditionalSource:
    """A generator that learns one step a round beside the student (DAFL, DFAD, ZSKT)."""

    kind: Literal["unconditional"] = "unconditional"
    # Images of one step of the generator.
    batch: Size
    rate: Rate = 2e-3
    latents: Size = 128
    width: Width | None = None
    head: Head = "sigmoid"
    # Of an average of the generator that makes half of the images (MAD); 0: without one.
    momentum: Share = 0.0


@record
class NoiseSource:
    """Normal noise, of which nothing is learned."""

    kind: Literal["noise"] = "noise"
    batch: Size


GeneratorSource: TypeAlias = MetaSource | RestartedSource | NoisyLayerSource
# Images of these are fitted, and kept in a pool.
InvertedSource: TypeAlias = MetaSource | RestartedSource | NoisyLayerSource | PixelSource
# Images of the others are made for every step of the student, and forgotten.
Source: TypeAlias = Annotated[
    InvertedSource | UnconditionalSource | NoiseSource, Field(discriminator="kind")
]

# --- what is kept of them ---------------------------------------------------------------------


@record
class PoolMemory:
    """All that is made, as long as there is room: what the student learns from."""

    kind: Literal["pool"] = "pool"
    # Capacity.
    batches: Repeats
    # Images of a batch in it.
    entry: Size
    eviction: Eviction = "oldest"


@record
class BankMemory:
    """Past batches of a generator that goes on, of which the student is reminded."""

    kind: Literal["bank"] = "bank"
    batches: Repeats
    entry: Size
    # Of the budget, between two batches kept; 0: one a round.
    period: Share = 0.0
    # Of a student's batch, beside the fresh images.
    share: Share = 0.0
    eviction: Eviction = "oldest"


@record
class ReplayMemory:
    """A VAE that remembers without images."""

    kind: Literal["replay"] = "replay"
    # Batches that are kept only to show and to calibrate.
    batches: Repeats
    entry: Size
    period: Share = 0.0
    share: Share = 0.0
    latents: Size = 256
    width: Width = 32
    # Of the VAE, in a round.
    steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0


@record
class NoMemory:
    """The student is reminded of nothing; a few batches are kept to show and to calibrate."""

    kind: Literal["none"] = "none"
    batches: Repeats
    entry: Size
    period: Share = 0.0


Memory: TypeAlias = Annotated[
    PoolMemory | BankMemory | ReplayMemory | NoMemory, Field(discriminator="kind")
]

# --- who learns from them ---------------------------------------------------------------------


@record
class Learning:
    """How the student learns."""

    batch: Size
    # In a round.
    steps: Repeats
    optimizer: Literal["sgd", "adam"]
    # The peak; cosine to 0 at the end of the budget.
    rate: Rate
    weight_decay: Weight
    loss: AnyLoss
    # Whether the rate is a share of each tensor's own root mean square; for adam.
    relative_rate: bool = False
    # Of the batches, those that are convex mixtures of two images.
    mix: Share = 0.0
    # Augmentation: random translation, as a share of the side.
    shift: Share = 0.0
    # Of a batch from structured noise, evenly over what the teacher sees in it.
    structured: Share = 0.0
    # The same for images of several channels; None: as for grey ones.
    structured_colour: Share | None = None
    # Of a batch from condensed or real images, where there are any.
    real: Share = 0.0
    # Of the loss on the teacher's maps, for students that begin with weights of the teacher.
    hints: Weight = 0.0
    # Whether batch-norm keeps the statistics that such a student inherits: the teacher's, of real images.
    frozen_statistics: bool = False
    # Of the budget, on plain noise.
    noise_start: Share = 0.0
    # Of the learning rate, for a step on new images before the loss on remembered ones (LRA).
    inner_rate: Weight = 0.0


@record
class Recipe:
    """Where images come from, by which losses, what is kept of them, and who learns from them."""

    name: RecipeTitle
    about: Provenance = Provenance()
    source: Source
    losses: LossWeights = LossWeights()
    adversary: Adversary = Adversary()
    memory: Memory
    learning: Learning
    # Batches that a generator learns to start with, and that no student sees.
    warm_up_batches: Annotated[int, Field(ge=0, le=10_000)] = 0
    # Images or steps of the generator, before the student's first.
    first_batches: Annotated[int, Field(ge=1, le=10_000)] = 1
    # Rounds; a batch that is never learned from.
    held_out_every: Repeats = 16
    # Of its inversion, in those of another's: it should look like the teacher's classes
    held_out_steps: Repeats = 4

    def __post_init__(self) -> None:
        kept = isinstance(self.memory, PoolMemory)
        if self.flows == kept:
            takes = "bank, replay or none" if self.flows else "pool"
            raise ValueError(
                f'source.kind "{self.source.kind}" takes memory.kind {takes}, not "{self.memory.kind}"'
            )
        if self.warm_up_batches and self.flows:
            raise ValueError(
                f'warm_up_batches is of sources that fit batches, and source.kind "{self.source.kind}" flows: leave it out'
            )
        if not isinstance(self.source, NoiseSource) and not self.losses.asks_anything:
            raise ValueError(
                f'source.kind "{self.source.kind}" makes images by losses: give one of them a weight above 0'
            )

    @property
    def flows(self) -> bool:
        """Whether images are made fresh for every student step and not kept."""
        return isinstance(self.source, UnconditionalSource | NoiseSource)

    @property
    def reminded(self) -> float:
        """The share of a student's batch that comes from the memory, beside fresh images."""
        return self.memory.share if isinstance(self.memory, BankMemory | ReplayMemory) else 0.0

    @property
    def inner_steps(self) -> int:
        """Of one inversion; a generator that goes on beside the student takes one a round."""
        return 1 if self.inverted is None else self.inverted.steps

    @property
    def inverted(self) -> InvertedSource | None:
        """The source, where its images are fitted batch by batch and kept."""
        return None if isinstance(self.source, UnconditionalSource | NoiseSource) else self.source


def adjust(part: T, **values: object) -> T:
    """A part with these settings, of those that its kind has: one call for sources of several kinds."""
    known = {each.name for each in fields(part)}
    return replace(part, **{name: value for name, value in values.items() if name in known})


KINDS_OF_SOURCE: Final[dict[str, type[Any]]] = {
    each.kind: each
    for each in (
        MetaSource,
        RestartedSource,
        NoisyLayerSource,
        PixelSource,
        UnconditionalSource,
        NoiseSource,
    )
}
KINDS_OF_MEMORY: Final[dict[str, type[Any]]] = {
    each.kind: each for each in (PoolMemory, BankMemory, ReplayMemory, NoMemory)
}
