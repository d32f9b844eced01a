"""`cut:macs=0.25`: how a user asks for a part of the teacher."""

import re
from typing import Final, Literal, cast

from edgekd.errors import UsageError
from edgekd.records import CutRequest

PREFIX: Final = "cut:"
GRAMMAR: Final = (
    "cut:SHARE (of the channels of each layer), cut:macs=SHARE, cut:params=SHARE; with ,depth=SHARE of the residual "
    "blocks that can be left out. SHARE is a number above 0 and below 1"
)
_NUMBER: Final = re.compile(r"\d*\.?\d+")


def is_cut(asked: str) -> bool:
    """Whether a student that was asked for is a part of its teacher."""
    return asked.startswith(PREFIX)


def parse_cut(asked: str) -> CutRequest:
    """What `cut:...` asks for.

    Raises:
        UsageError: it says nothing that can be left.
    """
    settings: dict[str, float] = {}
    for part in asked.removeprefix(PREFIX).split(","):
        name, equals, text = part.strip().rpartition("=")
        name = name if equals else "width"
        if (
            name not in {"width", "macs", "params", "depth"}
            or not _NUMBER.fullmatch(text)
            or name in settings
        ):
            raise UsageError(
                f"--student {asked}: {part.strip()!r} is not understood. Write {GRAMMAR}."
            )
        settings[name] = float(text)
    depth = settings.pop("depth", 1.0)
    if len(settings) != 1:
        raise UsageError(f"--student {asked}: say one size. Write {GRAMMAR}.")
    ((measure, share),) = settings.items()
    if not 0 < share < 1 or not 0 <= depth <= 1:
        raise UsageError(
            f"--student {asked}: a share of {share if not 0 < share < 1 else depth:g} is no part of a teacher. Write {GRAMMAR}."
        )
    return CutRequest(
        measure=cast(Literal["width", "macs", "params"], measure), share=share, depth=depth
    )
