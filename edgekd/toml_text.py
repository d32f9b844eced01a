"""TOML of files that nobody vouches for: whatever is wrong with it is one kind of error."""

import re
import tomllib
from typing import Any, Final

# For a key of so many parts, `a.a.a...`, tomllib takes longer than their number: minutes for some 100 KB
MOST_PARTS: Final = 200
# TOML has integers of 64 bits, tomllib those of Python; of hexadecimal ones it takes any number of digits,
# and what uses them ends in errors of floats and of text
_INTEGERS: Final = range(-(1 << 63), 1 << 63)
_LONG_KEY: Final = re.compile(rf"(?<![\w\"'.-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){{{MOST_PARTS}}}")


def parse_toml(text: str) -> dict[str, Any]:
    """What `tomllib.loads` reads.

    Raises:
        ValueError: not TOML, nested beyond Python's limits, or with an integer beyond 64 bits.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {MOST_PARTS} parts")
    try:
        found = tomllib.loads(text)
        _check_integers(found)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return found


def _check_integers(value: object) -> None:
    if isinstance(value, int) and value not in _INTEGERS:
        raise ValueError(f"an integer beyond 64 bits ({value.bit_length():,} bits)")
    for part in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _check_integers(part)
