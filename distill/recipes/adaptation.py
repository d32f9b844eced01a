"""A recipe as it is used for a teacher, a device, and several processes."""

import math
from dataclasses import asdict, replace
from typing import Any, Final

from edgekd.distill.kd_losses import LogitDistance
from edgekd.distill.recipes.config import (
    MetaSource,
    NoiseSource,
    PixelSource,
    Recipe,
    UnconditionalSource,
)
from edgekd.errors import UsageError

# Of a batch, beside images that flow from no statistics.
FLOWING_STRUCTURED: Final = 0.8
# Of students that begin with weights of the teacher (docs/log.md)
INHERITED_RATE: Final = 0.01
INHERITED_HINTS: Final = 50.0
INHERITED_IMAGE_STEPS: Final = 2
# Of the student, for each batch of images before the first of them
STEPS_PER_BATCH: Final = 60
# Of a generator that flows, before the student's first
INHERITED_FLOW_STEPS: Final = 160
# The most that images take; on a board's teacher of 224 pixels 111 batches.
POOL_BYTES: Final = 2 << 30
# Of a batch, and of an image in it: times the bytes of the teacher's maps, with gradients and the generator (a ResNet-18 at 224)
BATCH_BYTES: Final = 4 << 30
KEPT_MAPS: Final = 6
LEAST_BATCH: Final = 8


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
    losses = recipe.losses
    if batch_norm or not losses.batch_norm:
        return recipe
    losses = replace(
        losses,
        batch_norm=0.0,
        disagreement=max(losses.disagreement, 0.1),
        balance=max(losses.balance, 1.0),
        total_variation=max(losses.total_variation, 0.1),
        patches=0.1 if attention else 0.0,
        one_hot=min(losses.one_hot, 0.5),
    )
    learning = replace(
        recipe.learning,
        loss=LogitDistance(),
        optimizer="adam",
        rate=min(recipe.learning.rate, 2e-3),
        weight_decay=0.0,
        structured=FLOWING_STRUCTURED if recipe.flows else recipe.learning.structured,
    )
    source = recipe.source
    if not isinstance(source, PixelSource | NoiseSource):
        # Mean 0 and deviation 1 of each channel: statistics of a layer that every teacher has.
        source = replace(source, head="batch_norm")
    return replace(recipe, source=source, losses=losses, learning=learning)


def for_inherited(
    recipe: Recipe, *, statistics: bool, width: int | None = None, steps: int | None = None
) -> Recipe:
    """The recipe for a student that begins with weights of its teacher: small steps, held to the teacher's maps.

    Args:
        recipe: as it is used for the teacher.
        statistics: whether all of its batch-norm layers are the teacher's; they keep what real images left there.
        width: of a generator whose cost the teacher is worth; None: as the recipe has it.
        steps: of the student, in all; few of them get fewer images before the first. None: the clock decides.
    """
    learning = replace(
        recipe.learning,
        optimizer="adam",
        rate=INHERITED_RATE,
        relative_rate=True,
        weight_decay=0.0,
        hints=INHERITED_HINTS,
        frozen_statistics=statistics,
    )
    if isinstance(recipe.source, MetaSource):
        # A run is short, so that what is shown first counts most
        source = replace(
            recipe.source,
            steps=INHERITED_IMAGE_STEPS * recipe.source.steps,
            width=recipe.source.width or width,
        )
        batches = math.ceil(recipe.first_batches / INHERITED_IMAGE_STEPS)
        held_out = recipe.held_out_steps
        if steps is not None and steps < STEPS_PER_BATCH * batches:
            batches = math.ceil(steps / STEPS_PER_BATCH)
            held_out = math.ceil(held_out / INHERITED_IMAGE_STEPS)
        recipe = replace(
            recipe,
            source=source,
            warm_up_batches=batches,
            first_batches=batches,
            held_out_steps=held_out,
        )
    elif isinstance(recipe.source, UnconditionalSource):
        recipe = replace(recipe, first_batches=INHERITED_FLOW_STEPS)
    return replace(recipe, learning=learning)


def without_batch_norm(recipe: Recipe) -> Recipe:
    """A recipe that a user wrote, for a teacher without trained batch-norm: only what cannot work goes.

    Raises:
        UsageError: nothing is left to make images by.
    """
    losses = replace(recipe.losses, batch_norm=0.0)
    if not losses.asks_anything:
        raise UsageError(
            f"recipe {recipe.name} makes images by losses.batch_norm alone, and this teacher has no trained "
            "batch-norm. Give another loss a weight above 0."
        )
    return replace(recipe, losses=losses)


def list_changes(before: Recipe, after: Recipe) -> tuple[str, ...]:
    """Every setting that differs, as `learning.rate 0.2 -> 0.002`."""
    old, new = _flat(asdict(before)), _flat(asdict(after))
    return tuple(
        f"{key} {_format_value(old.get(key))} -> {_format_value(new.get(key))}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _format_value(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def for_batch(recipe: Recipe, batch: int) -> Recipe:
    """The recipe with this many images at once, of source, student and memory."""
    # A batch that was fitted is kept whole; of what flows a part is kept.
    entry = min(batch, recipe.memory.entry) if recipe.flows else batch
    return replace(
        recipe,
        source=replace(recipe.source, batch=batch),
        learning=replace(recipe.learning, batch=batch),
        memory=replace(recipe.memory, entry=entry),
    )


def for_memory(recipe: Recipe, map_bytes: int) -> Recipe:
    """The recipe with fewer images at once, where a batch of them would not fit the memory of a small machine.

    A fixed limit and not what is free here: a run that was killed must find the same recipe again.

    Args:
        recipe: as it is used.
        map_bytes: of all maps of the teacher, of one image.
    """
    most = BATCH_BYTES // (KEPT_MAPS * max(1, map_bytes))
    batch = max(LEAST_BATCH, most // LEAST_BATCH * LEAST_BATCH)
    before = recipe.source.batch
    if batch >= max(before, recipe.learning.batch):
        return recipe
    smaller = for_batch(recipe, batch)
    if recipe.flows or batch >= before:
        return smaller
    # As many images before the first step as there were, and in the pool
    first, batches = (
        math.ceil(count * before / batch) for count in (recipe.first_batches, recipe.memory.batches)
    )
    return replace(smaller, first_batches=first, memory=replace(smaller.memory, batches=batches))


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
        listed = ", ".join(f"{count} {name}" for name, count in uneven.items())
        raise UsageError(
            f"{ranks} processes cannot share the batches of recipe {recipe.name} evenly ({listed}). Start "
            f"{' or '.join(map(str, fits))}: torchrun --nproc-per-node, times --nnodes."
        )
    return replace(
        recipe,
        source=replace(recipe.source, batch=recipe.source.batch // ranks),
        memory=replace(recipe.memory, entry=recipe.memory.entry // ranks),
        learning=replace(recipe.learning, batch=recipe.learning.batch // ranks),
    )


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
