"""The agent as one file: a `.pyz` that a board's Python runs, with the same bytes each time."""

import hashlib
import io
import zipfile
from functools import cache
from importlib import resources
from typing import Final

FOLDER: Final = "edgekd.bench.agent"
# The oldest date that a zip archive can hold: when it was built is nobody's business, and would change the bytes.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


@cache
def agent_archive() -> bytes:
    """The agent's modules in an archive that `python3 agent.pyz` runs.

    Stored and not deflated: compressed bytes depend on the zlib that made them.
    """
    sources = {
        each.name: each.read_bytes()
        for each in resources.files(FOLDER).iterdir()
        if each.name.endswith(".py")
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            entry = zipfile.ZipInfo(name, _DATE)
            # Unix, wherever this runs
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, sources[name])
    return buffer.getvalue()


def agent_digest() -> str:
    return hashlib.sha256(agent_archive()).hexdigest()
