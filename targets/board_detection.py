"""Whether a machine is a board, by what it says of itself.

What decides is, in this order: a word of the device tree that is another board's; the number of the module;
the board's own word; the model's name. Images of NVIDIA say very different things: L4T 28 and 32 have code names ("quill",
"lanai-3636", "Jetson-AGX") for models, 32.7 and 35 titles, 35 to 38 the numbers of carrier and module.
"""

import re
from collections.abc import Sequence
from typing import Final

from edgekd.records import Board, compute_capabilities

# Of Jetson modules, TX1 to Thor: p3767-0005 (jetson_stats, MODULE_NAME_TABLE; NVIDIA's flash configurations)
_MODULE: Final = re.compile(
    r"(?<!\w)(?:p2180|p3310|p3489|p3448|p3636|p2888|p3668|p3701|p3767|p3834)-\d{4}"
)
# A word further is another board: TX2 NX, Nano 2GB, AGX Xavier Industrial, Raspberry Pi 4 Compute Module
_FURTHER: Final = r"(?!\w|\s*(?:\d+\s*gb\b|nx\b|industrial\b|compute\b|plus\b|mini\b|\+))"


def is_board(
    board: Board,
    *,
    parts: Sequence[str],
    model: str | None,
    architecture: str,
    sm: str | None = None,
) -> bool:
    """Whether a machine is that board, by its device tree.

    A board without facts of the device tree is known by its name in the model; x86 by its architecture,
    and where a card is the point of it, by that.

    Args:
        board: that it may be.
        parts: compatible names of the machine's device tree.
        model: of its device tree; None: it has none.
        architecture: as `uname -m` has it.
        sm: compute capability of its GPU; None: none is known.
    """
    if board.family == "x86":
        cards = compute_capabilities(board.facts)
        return architecture in {"x86_64", "AMD64"} and (not cards or sm in cards)
    words = [part.lower() for part in parts]
    if any(word in _texts(board, "other_boards") for word in words):
        return False
    numbers = _texts(board, "part_numbers")
    modules = [number for word in words for number in _MODULE.findall(word)]
    # Numbers of boards of a user are of any form
    if any(number in word for number in numbers for word in words):
        return True
    if modules and numbers:
        return False
    if any(word in _texts(board, "compatible_names") for word in words):
        return not _is_variant(board, model)
    if (model or "").strip().lower() in _texts(board, "model_names"):
        return True
    return _is_called(board, model)


def _is_called(board: Board, model: str | None) -> bool:
    return any(
        re.search(rf"\b{re.escape(name)}{_FURTHER}", model or "", re.IGNORECASE)
        for name in _names(board)
    )


def _is_variant(board: Board, model: str | None) -> bool:
    """Whether the model has the board's name and goes on: the words of a family stand in the device trees of all of it."""
    mentioned = any(
        re.search(rf"\b{re.escape(name)}", model or "", re.IGNORECASE) for name in _names(board)
    )
    return mentioned and not _is_called(board, model)


def _names(board: Board) -> tuple[str, ...]:
    return (board.title, board.name.replace("-", " "))


def _texts(board: Board, key: str) -> tuple[str, ...]:
    fact = board.facts.get(key)
    if fact is None:
        return ()
    values = fact.value if isinstance(fact.value, tuple) else (fact.value,)
    return tuple(str(value).lower() for value in values)
