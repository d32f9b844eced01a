"""What TensorRT's messages mean; it has no error codes."""

import re
from typing import List

from edgekd.bench.agent.errors import RefusedError

# TensorRT says "could not find any implementation for node" when no tactic fitted into the memory
# (NVIDIA/TensorRT 4258, 840), which reads like an operator that it does not know.
_MEMORY = re.compile(
    r"out of memory|outofmemory|requested amount of gpu memory|insufficient (gpu )?memory"
    r"|could not find any implementation for node|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
# Of TensorRT-RTX 1.4 to 1.7: memory is left, and the limit that was set is too low for any tactic.
_WORKSPACE = re.compile(r"within workspace limit|increase the (allowed )?workspace", re.IGNORECASE)
_VERSION = re.compile(
    r"version tag does not match|current version: ?\d+|serialized engine version"
    r"|not compatible with this version|incompatible serialization version|expecting library version|incompatible device"
    r"|generated on an incompatible|compute capability",
    re.IGNORECASE,
)
LEVERS = (
    "Stop what else holds memory (the desktop, other engines), set --workspace-mb lower, or build one model at a time; "
    "swap does not help the GPU."
)
MOST_LINES = 4
MOST_WARNINGS = 20
# Characters of a line
LONGEST = 400


def last_words(words: List[str]) -> str:
    """The last words of a logger, for a message."""
    lines = [_shorten(line) for line in words if line.strip()]
    return " | ".join(lines[-MOST_LINES:]) or "it gave no reason"


def distinct(words: List[str]) -> List[str]:
    """What a logger was told, each line once in the order of the first; how many were left out is said."""
    lines: List[str] = []
    for line in map(_shorten, words):
        if line and line not in lines:
            lines.append(line)
    left_out = len(lines) - MOST_WARNINGS
    return lines[:MOST_WARNINGS] + (["and {} more".format(left_out)] if left_out > 0 else [])


def _shorten(line: str) -> str:
    return " ".join(line.split())[:LONGEST]


def refusal(doing: str, words: List[str]) -> RefusedError:
    """Why TensorRT did not do it, in its own words, and what kind of failure that is."""
    text = "\n".join(words)
    if _WORKSPACE.search(text):
        return RefusedError(
            "out-of-memory",
            "{}: {}. The workspace is too small. Set --workspace-mb higher.".format(
                doing, last_words(words)
            ),
        )
    if _MEMORY.search(text):
        return RefusedError(
            "out-of-memory",
            "{}: {}. Most likely memory ran out. {}".format(doing, last_words(words), LEVERS),
        )
    if _VERSION.search(text):
        return RefusedError("other-version", "{}: {}".format(doing, last_words(words)))
    return RefusedError("not-buildable", "{}: {}".format(doing, last_words(words)))
