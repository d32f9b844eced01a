"""`edgekd recipes`: the book of recipes, for people and for scripts. Brings no framework."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import Recipe
from edgekd.distill.recipes.faithful import FAITHFUL
from edgekd.distill.recipes.recipe_file import is_recipe_file, read_recipe
from edgekd.errors import UsageError
from edgekd.records import record

SOURCES: Final = {
    "meta": "meta-generator",
    "restarted": "fresh generator",
    "noisy_layer": "noisy layer",
    "pixels": "pixels",
    "unconditional": "adversarial",
    "noise": "noise",
}
MEMORIES: Final = {
    "pool": "image pool",
    "bank": "cyclic bank",
    "replay": "replay VAE",
    "none": "none",
}


@record
class RecipeDescription:
    """A recipe as `recipes show --json` prints it."""

    recipe: Recipe
    faithful: bool
    # Of the student, in the paper's settings
    steps: int | None
    needs: tuple[str, ...]


@record
class RecipeSummary:
    """A recipe in short, as `recipes list --json` prints it."""

    name: str
    paper: str
    # Kind of what makes its images
    source: str
    # Kind of what keeps them
    memory: str
    needs: tuple[str, ...]
    # Whether there are the paper's own settings
    faithful: bool


def show_recipe(name: str, *, faithful: bool) -> RecipeDescription:
    """A recipe by name, or in a file.

    Raises:
        UsageError: there is none, or it has no paper's settings of its own.
        InputFileError: the file cannot be read, or holds no recipe.
    """
    if name == "auto":
        raise UsageError(
            "auto is no recipe but a choice: condensed-expansion where there are condensed or real images, else pool "
            "where the teacher has trained batch-norm, else plain. Name one of them."
        )
    if is_recipe_file(name):
        if faithful:
            raise UsageError(f"{name}: a file has no paper's settings of its own.")
        found = read_recipe(Path(name))
        return RecipeDescription(recipe=found, faithful=False, steps=None, needs=needs(found))
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}. Available: {', '.join(RECIPES)}.")
    if not faithful:
        return RecipeDescription(
            recipe=RECIPES[name], faithful=False, steps=None, needs=needs(RECIPES[name])
        )
    if name not in FAITHFUL:
        raise UsageError(
            f"recipe {name} has no paper's settings of its own. --faithful takes: {', '.join(FAITHFUL)}."
        )
    paper = FAITHFUL[name]
    return RecipeDescription(
        recipe=paper.recipe, faithful=True, steps=paper.steps, needs=needs(paper.recipe)
    )


def needs(recipe: Recipe) -> tuple[str, ...]:
    """What a recipe leans on beside the teacher's answers."""
    weights = recipe.losses
    found = []
    if weights.alignment:
        found.append("condensed or real images")
    if weights.batch_norm:
        found.append("batch-norm (weaker without)")
    if weights.asks_features or weights.alignment:
        found.append("penultimate features")
    return tuple(found)


def list_recipes() -> tuple[RecipeSummary, ...]:
    """All recipes in short."""
    return tuple(
        RecipeSummary(
            name=name,
            paper=recipe.about.paper,
            source=recipe.source.kind,
            memory=recipe.memory.kind,
            needs=needs(recipe),
            faithful=name in FAITHFUL,
        )
        for name, recipe in RECIPES.items()
    )


def format_recipe_table() -> str:
    """A line a recipe, of 80 columns."""
    rows = [("RECIPE", "IMAGES FROM", "MEMORY", "AFTER")]
    rows.append(("auto", "the default", "", "picks one of these"))
    for name, recipe in RECIPES.items():
        who, _, rest = recipe.about.paper.partition(",")
        first = who.partition(" et al.")[0].partition(" and ")[0]
        when = rest.rpartition(",")[2].partition("(")[0].strip()
        made = SOURCES[recipe.source.kind], MEMORIES[recipe.memory.kind]
        rows.append((name, *made, f"{first}, {when}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(f"{part:{wide}}" for part, wide in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    lines.append("\nMore of one: edgekd recipes show RECIPE")
    return "\n".join(lines)


def format_recipe(found: RecipeDescription) -> str:
    """All settings; those at 0 are left out."""
    recipe = found.recipe
    about = recipe.about
    lines = [
        f"{recipe.name}, {'in the settings of the paper' if found.faithful else 'budgeted'}",
        *(_wrap_entry(each.name, getattr(about, each.name)) for each in fields(type(about))),
        _wrap_entry("needs", ", ".join(found.needs) or "nothing"),
    ]
    if found.steps is not None:
        lines.append(_wrap_entry("steps", f"{found.steps:,} of the student"))
    settings = asdict(recipe)
    # The loss stands on the student's line, by its kind and with its own settings.
    settings["learning"] |= {
        "loss": settings["learning"]["loss"].pop("kind"),
        **settings["learning"]["loss"],
    }
    parts = ("source", "losses", "adversary", "memory", "learning")
    lines.extend(
        _wrap_entry(part, _format_settings(settings[part]))
        for part in parts
        if any(settings[part].values())
    )
    return "\n".join(lines)


def _format_settings(settings: dict[str, Any]) -> str:
    shown = [
        key if value is True else f"{key} {_number(value)}"
        for key, value in settings.items()
        if value not in (0, None)
    ]
    return ", ".join(shown)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _wrap_entry(name: str, text: str) -> str:
    """A name and what is said of it, in 80 columns."""
    import textwrap

    indent = " " * 21
    return textwrap.fill(
        text,
        80,
        initial_indent=f"{name:20} ",
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
