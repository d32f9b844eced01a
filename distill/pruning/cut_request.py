"""`cut:macs=0.25`: how a user asks for a part of the teacher."""

import re
from dataclasses import dataclass
from typing import Final, Literal, cast

from edgekd.errors import UsageError
from edgekd.records import CutRequest

PREFIX: Final = "cut:"
GRAMMAR: Final = (
    "cut:SHARE (of the channels of each layer), cut:macs=SHARE, cut:params=SHARE, or cut:latency=2ms (or us, s) on the "
    "board; with ,depth=SHARE of the residual blocks that can be left out. SHARE is a number above 0 and below 1"
)
_NUMBER: Final = re.compile(r"\d*\.?\d+")
_TIME: Final = re.compile(r"(\d*\.?\d+)(us|ms|s)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, kw_only=True)
class LatencyRequest:
    """The largest part of a teacher that is no slower on its board: `cut:latency=2ms`. Not a record."""

    seconds: float
    # Of the residual blocks that can be left out
    depth: float = 1.0


def is_cut(asked: str) -> bool:
    """Whether a student that was asked for is a part of its teacher."""
    return asked.startswith(PREFIX)


def parse_cut(asked: str) -> CutRequest | LatencyRequest:
    """What `cut:...` asks for.

    Raises:
        UsageError: it says nothing that can be left.
    """
    settings: dict[str, float] = {}
    seconds: float | None = None
    for part in asked.removeprefix(PREFIX).split(","):
        name, equals, text = part.strip().rpartition("=")
        name = name if equals else "width"
        time = _TIME.fullmatch(text)
        if name == "latency" and time is not None and seconds is None:
            seconds = float(time[1]) * _SECONDS[time[2]]
            continue
        if name == "latency" and _NUMBER.fullmatch(text):
            raise UsageError(
                f"--student {asked}: {text} of what? Give the unit: cut:latency={text}ms (or us, s)."
            )
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
    if len(settings) + (seconds is not None) != 1:
        raise UsageError(f"--student {asked}: say one size. Write {GRAMMAR}.")
    wrong = [share for share in settings.values() if not 0 < share < 1]
    wrong += [depth] if depth > 1 else []
    if wrong:
        raise UsageError(
            f"--student {asked}: a share of {wrong[0]:g} is no part of a teacher. Write {GRAMMAR}."
        )
    if seconds is not None:
        if not seconds > 0:
            raise UsageError(f"--student {asked}: nothing takes no time. Write {GRAMMAR}.")
        return LatencyRequest(seconds=seconds, depth=depth)
    ((measure, share),) = settings.items()
    return CutRequest(
        measure=cast(Literal["width", "macs", "params"], measure), share=share, depth=depth
    )
