"""What a checkpoint says in words of the network that it was saved from: nothing of it is run."""

from collections.abc import Iterator
from typing import Any, Final

from edgekd.distill.teachers.checkpoints.pickle_values import UnbuiltObject

# Of timm (`arch`, `args`), torchvision's references (`args.model`), Lightning (`hyper_parameters`), mmengine (`meta`)
_KEYS: Final = frozenset(
    {"arch", "architecture", "model", "model_name", "arch_name", "net", "network", "backbone", "backbone_name"}
)  # fmt: skip
_DEPTH: Final = 3
_ENTRIES: Final = 20_000
_LONGEST: Final = 80  # characters


def names_in(content: object) -> tuple[str, ...]:
    """Names of architectures that a file's entries give, outermost first, and classes that were pickled whole.

    Args:
        content: of the file, as `safe_unpickle` left it.
    """
    return tuple(dict.fromkeys(_names(content, 0, [_ENTRIES])))


def _names(value: object, depth: int, left: list[int]) -> Iterator[str]:
    entries = _entries(value)
    if isinstance(value, UnbuiltObject) and "_modules" in entries:
        yield value.name
        return
    deeper: list[Any] = []
    for key, inner in entries.items():
        left[0] -= 1
        if left[0] < 0:
            return
        if isinstance(inner, str):
            if key in _KEYS and 0 < len(inner) <= _LONGEST:
                yield inner
        elif isinstance(inner, dict | UnbuiltObject):
            deeper.append(inner)
    if depth < _DEPTH:
        for inner in deeper:
            yield from _names(inner, depth + 1, left)


def _entries(value: object) -> dict[Any, Any]:
    """Of a dict, or of an object: argparse's namespace keeps its values as its state."""
    if isinstance(value, dict):
        return value
    if isinstance(value, UnbuiltObject):
        state = value.state if isinstance(value.state, dict) else {}
        return {**value.items, **state}
    return {}
