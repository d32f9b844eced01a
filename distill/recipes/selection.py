"""Which recipe a run uses, in which form, and why."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgekd.distill.data.real_images import RealImages
from edgekd.distill.recipes.adaptation import (
    for_batch,
    for_images,
    for_teacher,
    list_changes,
    without_batch_norm,
)
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import NoiseSource, Recipe, UnconditionalSource
from edgekd.distill.recipes.faithful import FAITHFUL
from edgekd.distill.recipes.recipe_file import is_recipe_file, read_recipe
from edgekd.distill.recipes.schedule import RunBudget
from edgekd.distill.teachers.feature_hooks import has_attention, has_features
from edgekd.distill.teachers.loader import Teacher
from edgekd.errors import UsageError
from edgekd.options import AUTO

SHORT_STEPS, SHORT_MINUTES = 2000, 2.0
# Some of the pool all the same: batch-norm is estimated on both
SHORT_STRUCTURED: Final = 0.95
# Of a batch, at most, for each image that there is. Real ones are learned by heart, and decide on real images then.
REAL_PER_IMAGE: Final = {"condensed": 0.0025, "samples": 0.00025}
# Of the batches that are made, at most, for each
EXPANSION_PER_IMAGE: Final = 0.0075
# Of a batch, for recipes that do not say it
REAL_SHARE: Final = 0.25


@dataclass(frozen=True, kw_only=True)
class SelectedRecipe:
    recipe: Recipe
    reason: str  # for people
    notes: tuple[str, ...]
    # Of the paper's settings
    steps: int | None


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
        name: of one that is shipped, "auto", or the path of a file.
        teacher: loaded.
        real: condensed or few real images.
        faithful: the paper's settings instead of the budgeted ones.
        batch: images at once, of source and student; None: as the recipe has it.
        budget: of the run; None: not known, or the paper's.

    Raises:
        UsageError: no such recipe, or it needs what is not there.
        InputFileError: the file cannot be read, or holds no recipe.
    """
    reason, short = "as asked", False
    if name == AUTO:
        name, reason = _auto(teacher, real)
        short = name == "plain" and _is_short(budget)
    found, steps = _find(name, faithful=faithful)
    # Whoever names the settings of a paper, or writes some, means them.
    as_written = faithful or is_recipe_file(name)
    notes: list[str] = []
    recipe = _with_real(found, real, notes, as_written=as_written)
    if short:
        learning = replace(recipe.learning, structured=SHORT_STRUCTURED)
        recipe = replace(recipe, learning=learning)
        reason += "; in so short a run structured noise teaches more than images from it, and is nearly all it learns from"
    _require_features(recipe, teacher)
    recipe = _for_teacher(recipe, teacher, notes, faithful=faithful, as_written=as_written)
    if batch is not None:
        recipe = for_batch(recipe, batch)
    fitted = for_images(recipe, teacher.info.input.shape)
    if as_written and fitted.memory.batches != recipe.memory.batches:
        notes.append(
            f"the memory holds {fitted.memory.batches} batches, not {recipe.memory.batches}"
        )
    return SelectedRecipe(recipe=fitted, reason=reason, notes=tuple(notes), steps=steps)


def _find(name: str, *, faithful: bool) -> tuple[Recipe, int | None]:
    """The recipe of a name or in a file, and the steps of its paper."""
    if is_recipe_file(name):
        if faithful:
            raise UsageError(
                "--faithful takes the settings of a paper, and --recipe FILE those of the file: give one of them."
            )
        return read_recipe(Path(name)), None
    if name not in RECIPES:
        raise UsageError(
            f"unknown recipe {name!r}. Available: auto, {', '.join(RECIPES)}. See `edgekd recipes list`."
        )
    if not faithful:
        return RECIPES[name], None
    if name not in FAITHFUL:
        raise UsageError(
            f"recipe {name} has no paper's settings of its own. --faithful takes: {', '.join(FAITHFUL)}."
        )
    return FAITHFUL[name].recipe, FAITHFUL[name].steps


def _require_features(recipe: Recipe, teacher: Teacher) -> None:
    losses = recipe.losses
    if (losses.asks_features or losses.alignment) and not has_features(
        teacher.module, classes=teacher.info.classes
    ):
        raise UsageError(
            f"recipe {recipe.name} reads the teacher's penultimate features, and none were found in this file. Take "
            "another one (pool, fast, nayer), or give the network with --arch and its weights."
        )


def _for_teacher(
    recipe: Recipe, teacher: Teacher, notes: list[str], *, faithful: bool, as_written: bool
) -> Recipe:
    """The recipe for a teacher that may have no batch-norm, with a note of each setting that changed."""
    if teacher.info.batch_norm_trained or not recipe.losses.batch_norm:
        return recipe
    found = recipe
    if not as_written:
        attention = has_attention(teacher.module)
        found = for_teacher(recipe, batch_norm=False, attention=attention)
    elif not faithful:
        found = without_batch_norm(recipe)
    notes.append(
        "weaker: the recipe matches batch-norm statistics, and the teacher has none that are trained; "
        + ("it runs without them" if as_written else "class balance and image priors stand in")
    )
    changes = list_changes(recipe, found)
    if changes:
        notes.append(f"changed for this teacher: {', '.join(changes)}")
    return found


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
    recipe: Recipe, real: RealImages | None, notes: list[str], *, as_written: bool
) -> Recipe:
    if real is None:
        if recipe.losses.alignment:
            raise UsageError(
                f"recipe {recipe.name} comes close to real images and has none: give --condensed FILE (see "
                "`edgekd condense`) or --samples DIR."
            )
        return recipe
    source = recipe.source
    if isinstance(source, NoiseSource):
        raise UsageError(
            f"recipe {recipe.name} learns from nothing but noise: leave out --condensed and --samples, or take "
            "condensed-expansion."
        )
    notes.extend(real.notes)
    wanted = recipe.learning.real or REAL_SHARE
    share = wanted
    # Docs/log.md has what each costs
    if not as_written:
        share = min(share, REAL_PER_IMAGE[real.kind] * len(real.images))
        if not isinstance(source, UnconditionalSource):
            most = EXPANSION_PER_IMAGE * len(real.images)
            source = replace(source, expansion=min(source.expansion, most))
    if not recipe.learning.real:
        notes.append(
            f"recipe {recipe.name} knows no real images; {100 * share:.3g}% of what the student sees are of {real.name}"
        )
    elif share < wanted:
        notes.append(
            f"{len(real.images)} images are few: {100 * share:.3g}% of what the student sees are of {real.name}, not "
            f"{wanted:.0%}"
        )
    return replace(recipe, source=source, learning=replace(recipe.learning, real=share))
