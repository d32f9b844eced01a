"""The folder that a firmware build takes: written whole, checked by anybody with sha256sum."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from edgekd.errors import InputFileError, IntegrityError
from edgekd.files import digest_of, read_text, write_atomically
from edgekd.manifest import FileEntry, Manifest, Report, Role
from edgekd.records import from_json, to_json

MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
REPORT: Final = "report.json"
PAGE: Final = "report.html"
_SUM_LINE: Final = re.compile(
    r"([0-9a-f]{64}) [ *]([A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*)"
)
_LARGEST_TEXT: Final = 64 * 2**20  # bytes of a manifest or list of sums that is read at all


def content_digest(manifest: Manifest) -> str:
    """SHA-256 of the manifest without this digest itself; its file list covers the contents.

    Measurements and report are not in it: they differ from run to run.
    """
    plain = TypeAdapter(Manifest).dump_python(manifest, mode="json")
    del plain["content_digest"]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def entry(folder: Path, path: str, role: Role) -> FileEntry:
    file = folder / path
    return FileEntry(path=path, role=role, sha256=digest_of(file), size_bytes=file.stat().st_size)


def seal(
    folder: Path, manifest: Manifest, report: Report, *, page: Callable[[Manifest], str]
) -> Manifest:
    """Write manifest, report, page and sums into a folder whose other files are there.

    Args:
        folder: being filled (see `files.new_folder`).
        manifest: complete but for `content_digest`.
        report: of the run.
        page: the text of `report.html` for the manifest as it was written.
    """
    sealed = replace(manifest, content_digest=content_digest(manifest))
    (folder / MANIFEST).write_text(to_json(sealed, schema="manifest"), encoding="utf-8")
    (folder / REPORT).write_text(to_json(report, schema="report"), encoding="utf-8")
    (folder / PAGE).write_text(page(sealed), encoding="utf-8")
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    sums = "".join(f"{digest_of(folder / name)}  {name}\n" for name in names)
    (folder / SUMS).write_text(sums, encoding="utf-8")
    return sealed


def put_page(folder: Path, text: str) -> None:
    """Write `report.html` into a bundle that is there, and its sum; the other sums stay.

    Raises:
        InputFileError: the bundle has no sums.
        OutputError: it cannot be written.
    """
    lines = _text(folder / SUMS).splitlines()
    write_atomically(folder / PAGE, text)
    kept = [line for line in lines if not line.endswith((f" {PAGE}", f"*{PAGE}"))]
    kept.append(f"{digest_of(folder / PAGE)}  {PAGE}")
    kept.sort(key=lambda line: line[66:])
    write_atomically(folder / SUMS, "".join(f"{line}\n" for line in kept))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle that nobody has vouched for.

    Raises:
        InputFileError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    if not folder.is_dir() or not path.exists():
        raise InputFileError(f"{folder}: not a bundle (no {MANIFEST} in it).")
    return from_json(Manifest, _text(path), origin=str(path), schema="manifest")


def read_report(folder: Path) -> Report:
    """The report of a bundle; see `read_manifest`."""
    path = folder / REPORT
    return from_json(Report, _text(path), origin=str(path), schema="report")


def verify(folder: Path) -> Manifest:
    """Check every file of a bundle against its sums and its manifest.

    Raises:
        InputFileError: not a bundle.
        IntegrityError: a file is missing, changed, added, or not a plain file.
    """
    manifest = read_manifest(folder)
    problems = _against_sums(folder)
    for listed in manifest.files:
        path = folder / listed.path
        if not path.is_file() or path.is_symlink():
            problems.append(f"{listed.path}: in the manifest, not in the folder")
        elif digest_of(path) != listed.sha256 or path.stat().st_size != listed.size_bytes:
            problems.append(f"{listed.path}: not the file that the manifest names")
    if content_digest(manifest) != manifest.content_digest:
        problems.append(f"{MANIFEST}: its content digest does not hold")
    if problems:
        unique = "\n  ".join(dict.fromkeys(problems))
        raise IntegrityError(f"{folder}: the bundle is not what was made:\n  {unique}")
    return manifest


def _against_sums(folder: Path) -> list[str]:
    sums = folder / SUMS
    if not sums.is_file():
        return [f"{SUMS}: missing"]
    problems: list[str] = []
    listed: set[str] = set()
    for number, line in enumerate(_text(sums).splitlines(), start=1):
        found = _SUM_LINE.fullmatch(line)
        if found is None:
            problems.append(f"{SUMS}: line {number} is not a sum")
            continue
        digest, name = found.groups()
        listed.add(name)
        path = folder / name
        if path.is_symlink() or not path.is_file():
            problems.append(f"{name}: missing, or not a plain file")
        elif digest_of(path) != digest:
            problems.append(f"{name}: changed")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    problems += [f"{name}: not in {SUMS}" for name in sorted(there - listed - {SUMS})]
    problems += [f"{name}: not in {SUMS}" for name in sorted({MANIFEST, REPORT} - listed)]
    return problems


def _text(path: Path) -> str:
    if path.is_symlink() or (path.exists() and path.stat().st_size > _LARGEST_TEXT):
        raise InputFileError(f"{path}: a link, or too large to be what it says.")
    return read_text(path)
