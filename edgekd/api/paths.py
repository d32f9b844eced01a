"""Files as functions of the API take them."""

import os
from collections.abc import Sequence
from pathlib import Path

from edgekd.errors import UsageError


def paths_of(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """One path or several, as a list.

    Raises:
        UsageError: There is none, or one is something else.
    """
    found = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    if not found:
        raise UsageError("no file: give at least one path.")
    for each in found:
        if not isinstance(each, (str, os.PathLike)):
            raise UsageError(
                f"{type(each).__name__} is no path of a file. A teacher that was loaded goes alone, not in a list."
            )
    return [Path(each) for each in found]
