"""TOML of files that nobody vouches for: whatever is wrong with it is one kind of error."""

import re
import tomllib
from typing import Any, Final

# For a key of so many parts, `a.a.a...`, tomllib takes longer than their number: minutes for some 100 KB
MOST_PARTS: Final = 200
_LONG_KEY: Final = re.compile(rf"(?<![\w\"'.-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){{{MOST_PARTS}}}")


def parse_toml(text: str) -> dict[str, Any]:
    """What `tomllib.loads` reads.

    Raises:
        ValueError: not TOML, nested beyond Python's limits, or with a number of too many digits.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
