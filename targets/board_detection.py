"""Whether a machine is a board, by what it says of itself."""

import re
from collections.abc import Sequence

from edgekd.records import Board, compute_capabilities


def is_board(
    board: Board,
    *,
    parts: Sequence[str],
    model: str | None,
    architecture: str,
    sm: str | None = None,
) -> bool:
    """Whether a machine is that board, by the part numbers of its device tree.

    A board without part numbers is known by its name in the device tree's model; x86 by its architecture,
    and where a card is the point of it, by that.

    Args:
        board: that it may be.
        parts: compatible names of the machine's device tree.
        model: of its device tree; None: it has none.
        architecture: as `uname -m` has it.
        sm: compute capability of its GPU; None: none is known.
    """
    known = board.facts.get("part_numbers")
    if known is not None and isinstance(known.value, tuple):
        return any(str(part) in name for part in known.value for name in parts)
    if board.family == "x86":
        cards = compute_capabilities(board.facts)
        return architecture in {"x86_64", "AMD64"} and (not cards or sm in cards)
    # A word further is another board: Raspberry Pi 400, Jetson Nano 2GB.
    names = (board.title, board.name.replace("-", " "))
    return any(
        re.search(rf"\b{re.escape(name)}\b(?!\s*\d+\s*gb)", model or "", re.IGNORECASE)
        for name in names
    )
