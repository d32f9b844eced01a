"""Which files a bundle holds, and what is said of them."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from edgekd.bundle import signing
from edgekd.errors import InputFileError
from edgekd.files import digest_of, read_text
from edgekd.records import from_json
from edgekd.records.manifest import (
    FileEntry,
    Manifest,
    Report,
    Role,
)

MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
REPORT: Final = "report.json"
PAGE: Final = "report.html"
CARD: Final = "MODEL_CARD.md"
BILL: Final = "bom.cdx.json"
LICENCES: Final = "LICENSES.md"
# Of a folder; the one file that has no sum
SIGNATURE: Final = SUMS + signing.SUFFIX
# Bytes of a manifest or list of sums that is read at all
LARGEST_TEXT: Final = 32 * 2**20
TEXTS: Final = (SUMS, MANIFEST, REPORT, BILL)
# What stands in the manifest's file and is not content.
_NOT_CONTENT: Final = frozenset({"schema", "schema_version", "content_digest"})


def content_digest(manifest: Manifest) -> str:
    """SHA-256 of the manifest without this digest itself; its file list covers the contents.

    Measurements and report are not in it: they differ from run to run.
    """
    return digest_of_content(TypeAdapter(Manifest).dump_python(manifest, mode="json"))


def digest_of_content(plain: dict[str, Any]) -> str:
    """The same of a manifest's file, parsed: of one in an older format, which was sealed before it was migrated."""
    plain = {key: item for key, item in plain.items() if key not in _NOT_CONTENT}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def entry(folder: Path, path: str, role: Role) -> FileEntry:
    file = folder / path
    return FileEntry(path=path, role=role, sha256=digest_of(file), size_bytes=file.stat().st_size)


def sums_text(sums: Mapping[str, str]) -> str:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def list_names(folder: Path) -> list[str]:
    """All that is in a folder and is no folder, links among them, in order."""
    found = []

    def refuse(error: OSError) -> None:
        raise InputFileError(f"{error.filename}: {error.strerror}.") from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        here = Path(root)
        linked = [name for name in folders if (here / name).is_symlink()]
        found += [(here / name).relative_to(folder).as_posix() for name in (*files, *linked)]
    return sorted(found)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle's folder that nobody has vouched for.

    Raises:
        InputFileError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    if not folder.is_dir() or not path.exists():
        raise InputFileError(f"{folder}: not a bundle (no {MANIFEST} in it).")
    return from_json(Manifest, read_small_text(path), origin=str(path), schema="manifest")


def read_report(folder: Path) -> Report:
    """The report of a bundle; see `read_manifest`."""
    path = folder / REPORT
    return from_json(Report, read_small_text(path), origin=str(path), schema="report")


def read_small_text(path: Path) -> str:
    if path.is_symlink() or (path.exists() and path.stat().st_size > LARGEST_TEXT):
        raise InputFileError(f"{path}: a link, or too large to be what it says.")
    return read_text(path)
