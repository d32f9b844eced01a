"""The last files of a bundle's folder: manifest, report, pages, and the sums of all."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from edgekd.bundle.layout import (
    MANIFEST,
    PAGE,
    REPORT,
    SIGNATURE,
    SUMS,
    content_digest,
    list_names,
    read_small_text,
    sums_text,
)
from edgekd.errors import OutputError
from edgekd.files import digest_of, write_atomically
from edgekd.records import to_json
from edgekd.records.manifest import Manifest, Report


def seal(
    folder: Path,
    manifest: Manifest,
    report: Report,
    *,
    pages: Mapping[str, Callable[[Manifest], str]],
) -> Manifest:
    """Write manifest, report, pages and sums into a folder whose other files are there.

    Args:
        folder: being filled (see `files.new_folder`).
        manifest: complete but for `content_digest`.
        report: of the run.
        pages: by name, what makes a text of the manifest as it was written.
    """
    sealed = replace(manifest, content_digest=content_digest(manifest))
    (folder / MANIFEST).write_text(to_json(sealed, schema="manifest"), encoding="utf-8")
    (folder / REPORT).write_text(to_json(report, schema="report"), encoding="utf-8")
    for name, page in pages.items():
        (folder / name).write_text(page(sealed), encoding="utf-8")
    sums = {name: digest_of(folder / name) for name in list_names(folder)}
    (folder / SUMS).write_text(sums_text(sums), encoding="utf-8")
    return sealed


def put_page(folder: Path, text: str) -> None:
    """Write `report.html` into a bundle that is there, and its sum; the other sums stay.

    Raises:
        InputFileError: the bundle has no sums.
        OutputError: it is signed, or cannot be written.
    """
    if (folder / SIGNATURE).exists():
        raise OutputError(
            f"{folder} is signed: another page would break the signature. Write it elsewhere with --out, or remove "
            f"{SIGNATURE} and sign again."
        )
    lines = read_small_text(folder / SUMS).splitlines()
    kept = [line for line in lines if not line.endswith(f" {PAGE}")]
    kept.append(f"{sha256(text.encode()).hexdigest()}  {PAGE}")
    kept.sort(key=lambda line: line[66:])
    sums = "".join(f"{line}\n" for line in kept)
    write_atomically(
        folder / PAGE, text, final=True, done=lambda: write_atomically(folder / SUMS, sums)
    )
