"""What there is to choose from."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekd.records import Board
    from edgekd.workflows.show_recipes import RecipeSummary


def list_recipes(pattern: str = "*") -> "tuple[RecipeSummary, ...]":
    """List the recipes by which images are made and learned from.

    Args:
        pattern: Shell pattern that the names must match.

    Returns:
        A summary per recipe.
    """
    from edgekd.workflows import show_recipes

    return tuple(each for each in show_recipes.list_recipes() if fnmatchcase(each.name, pattern))


def list_targets(pattern: str = "*") -> "tuple[Board, ...]":
    """List the boards that come with edgekd.

    Args:
        pattern: Shell pattern that the names must match.

    Returns:
        The boards, by name, with their facts and software.
    """
    from edgekd.targets import catalogue

    return tuple(each for each in catalogue.boards() if fnmatchcase(each.name, pattern))


def list_students(pattern: str = "*") -> tuple[str, ...]:
    """List the built-in architectures that a student can have.

    Args:
        pattern: Shell pattern that the names must match: `resnet*`.

    Returns:
        Names, from small to large within each family.
    """
    from edgekd.distill.models.architectures import NAMES

    return tuple(name for name in NAMES if fnmatchcase(name, pattern))
