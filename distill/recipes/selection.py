"""Which recipe a run uses, in which form, and why."""

from dataclasses import dataclass, replace
from typing import Final

from edgekd.distill.data.real_images import RealImages
from edgekd.distill.recipes.catalogue import FAITHFUL, RECIPES
from edgekd.distill.recipes.config import (
    Recipe,
    for_batch,
    for_images,
    for_teacher,
)
from edgekd.distill.recipes.schedule import RunBudget
from edgekd.distill.teachers.feature_hooks import has_attention, has_features
from edgekd.distill.teachers.loader import Teacher
from edgekd.errors import UsageError

AUTO: Final = "auto"
SHORT_STEPS, SHORT_MINUTES = 2000, 2.0
SHORT_STRUCTURED: Final = 0.95  # some of the pool all the same: batch-norm is estimated on both
# Of a batch, at most, for each image that there is. Real ones are learned by heart, and decide on real images then.
REAL_PER_IMAGE: Final = {"condensed": 0.0025, "samples": 0.00025}
EXPANSION_PER_IMAGE: Final = 0.0075  # of the batches that are made, at most, for each
REAL_SHARE: Final = 0.25  # of a batch, for recipes that do not say it


@dataclass(frozen=True, kw_only=True)
class SelectedRecipe:
    recipe: Recipe
    reason: str  # for people
    notes: tuple[str, ...]
    steps: int | None  # of the paper's settings


def select_recipe(
    name: str,
    teacher: Teacher,
    *,
    real: RealImages | None,
    faithful: bool = False,
    batch: int | None = None,
    budget: RunBudget | None = None,
) -> SelectedRecipe:
    """A recipe as it is used for a teacher and what else was given.

    Args:
        name: of the book, or "auto".
        teacher: loaded.
        real: condensed or few real images.
        faithful: the paper's settings instead of the budgeted ones.
        batch: images at once, of source and student; None: as the recipe has it.
        budget: of the run; None: not known, or the paper's.

    Raises:
        UsageError: no such recipe, or it needs what is not there.
    """
    reason, short = "as asked", False
    if name == AUTO:
        name, reason = _auto(teacher, real)
        short = name == "plain" and _is_short(budget)
    if name not in RECIPES:
        raise UsageError(
            f"unknown recipe {name!r}. Available: auto, {', '.join(RECIPES)}. See `edgekd recipes list`."
        )
    if faithful and name not in FAITHFUL:
        raise UsageError(
            f"recipe {name} has no paper's settings of its own. --faithful takes: {', '.join(FAITHFUL)}."
        )
    recipe = FAITHFUL[name].recipe if faithful else RECIPES[name]
    steps = FAITHFUL[name].steps if faithful else None
    info = teacher.info
    notes: list[str] = []
    recipe = _with_real(recipe, real, notes, faithful=faithful)
    if short:
        learning = replace(recipe.learning, structured=SHORT_STRUCTURED)
        recipe = replace(recipe, learning=learning)
        reason += "; in so short a run structured noise teaches more than images from it, and is nearly all it learns from"
    weights = recipe.source.weights
    if (weights.asks_features or weights.alignment) and not has_features(
        teacher.module, classes=info.classes
    ):
        raise UsageError(
            f"recipe {name} reads the teacher's penultimate features, and none were found in this file. Take "
            "another one (pool, fast, nayer), or give the network with --arch and its weights."
        )
    if not faithful:
        attention = has_attention(teacher.module)
        recipe = for_teacher(recipe, batch_norm=info.batch_norm_trained, attention=attention)
    if weights.batch_norm and not info.batch_norm_trained:
        notes.append(
            "weaker: the recipe matches batch-norm statistics, and the teacher has none that are trained; "
            + ("it runs without them" if faithful else "class balance and image priors stand in")
        )
    if batch is not None:
        recipe = for_batch(recipe, batch)
    return SelectedRecipe(
        recipe=for_images(recipe, info.input.shape),
        reason=reason,
        notes=tuple(notes),
        steps=steps,
    )


def _auto(teacher: Teacher, real: RealImages | None) -> tuple[str, str]:
    info = teacher.info
    if real is not None and has_features(teacher.module, classes=info.classes):
        return "condensed-expansion", f"there are {real.kind} images to come close to"
    if info.batch_norm_trained:
        return "pool", f"the teacher has {info.batch_norm_layers} batch-norm layers to match"
    return "plain", "the teacher has no trained batch-norm to match"


def _is_short(budget: RunBudget | None) -> bool:
    """Whether a run ends before images of a generator pay (docs/log.md, 1.5 minutes on LeNet-5)."""
    if budget is None:
        return False
    if budget.steps is not None:
        return budget.steps <= SHORT_STEPS
    return budget.minutes is not None and budget.minutes <= SHORT_MINUTES


def _with_real(
    recipe: Recipe, real: RealImages | None, notes: list[str], *, faithful: bool
) -> Recipe:
    if real is None:
        if recipe.source.weights.alignment:
            raise UsageError(
                f"recipe {recipe.name} comes close to real images and has none: give --condensed FILE (see "
                "`edgekd condense`) or --samples DIR."
            )
        return recipe
    if recipe.source.kind == "noise":
        raise UsageError(
            f"recipe {recipe.name} learns from nothing but noise: leave out --condensed and --samples, or take "
            "condensed-expansion."
        )
    notes.extend(real.notes)
    wanted = recipe.learning.real or REAL_SHARE
    share, expansion = wanted, recipe.source.expansion
    if not faithful:  # docs/log.md has what each costs
        share = min(share, REAL_PER_IMAGE[real.kind] * len(real.images))
        expansion = min(expansion, EXPANSION_PER_IMAGE * len(real.images))
    if not recipe.learning.real:
        notes.append(
            f"recipe {recipe.name} knows no real images; {100 * share:.3g}% of what the student sees are of {real.name}"
        )
    elif share < wanted:
        notes.append(
            f"{len(real.images)} images are few: {100 * share:.3g}% of what the student sees are of {real.name}, not "
            f"{wanted:.0%}"
        )
    return replace(
        recipe,
        source=replace(recipe.source, expansion=expansion),
        learning=replace(recipe.learning, real=share),
    )
