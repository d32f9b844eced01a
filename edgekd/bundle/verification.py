"""Whether a bundle is what was made: signature, sums, manifest, in that order."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from edgekd.bundle import archive, signing
from edgekd.bundle.archive import CHUNK, ArchiveEntry, Checksum
from edgekd.bundle.layout import (
    LARGEST_TEXT,
    MANIFEST,
    REPORT,
    SIGNATURE,
    SUMS,
    TEXTS,
    digest_of_content,
    list_names,
    sums_text,
)
from edgekd.errors import InputFileError, IntegrityError
from edgekd.files import digest_of
from edgekd.records import from_json
from edgekd.records.manifest import Manifest, Report

_SUM_LINE: Final = re.compile(
    rb"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*)"
)


@dataclass(frozen=True, kw_only=True)
class VerifiedBundle:
    """A bundle of which every byte was held to its sums, and its sums to its signature where keys were given."""

    path: Path
    manifest: Manifest
    # Of the files in `TEXTS` that it has
    texts: Mapping[str, bytes]
    # The key; None: no keys were given
    signed_by: str | None
    has_signature: bool

    @property
    def report(self) -> Report:
        """Parsed when it is asked for.

        Raises:
            InputFileError: it cannot be read.
        """
        origin = f"{self.path}: {REPORT}"
        return from_json(Report, self.texts[REPORT], origin=origin, schema="report")


@dataclass(kw_only=True)
class BundleContents:
    """What reading a bundle from end to end found, before any of it is understood."""

    sums: dict[str, Checksum] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    # Of a file in an archive
    places: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def describe_origin(self, name: str) -> str:
        return f"{name} ({self.places[name]})" if name in self.places else name


def verify_bundle(
    path: Path,
    *,
    trusted: Sequence[signing.PublicKey] = (),
    signature: Path | None = None,
) -> VerifiedBundle:
    """Check a bundle: its signature first, then its sums, and only then what its manifest says.

    Args:
        path: a folder or an archive.
        trusted: keys of which one must have signed it; none: signatures are not looked at.
        signature: where it is, if not beside the archive or in the folder.

    Raises:
        InputFileError: not a bundle, or a manifest that this edgekd does not read.
        IntegrityError: something does not hold; says what and where.
    """
    with open_archive(path) as stream:
        key = require_signed(path, stream, trusted, signature)
        seen = read_contents(path, stream)
    manifest = check_contents(path, seen)
    return VerifiedBundle(
        path=path,
        manifest=manifest,
        texts=seen.texts,
        signed_by=key,
        has_signature=signature_of(path).exists() or SIGNATURE in seen.sums,
    )


def require_archive(path: Path) -> None:
    """Refuse a path that is not meant as an archive.

    Raises:
        InputFileError: it is none.
    """
    if not archive.is_archive(path):
        raise InputFileError(
            f"{path}: not an archive, which ends in {archive.TAR} or {archive.ZST}. Make one of a folder: edgekd bundle pack"
        )


def signature_of(path: Path) -> Path:
    """Where a bundle's signature lies."""
    return path / SIGNATURE if path.is_dir() else path.with_name(path.name + signing.SUFFIX)


@contextmanager
def open_archive(path: Path) -> Iterator[IO[bytes] | None]:
    """An archive's bytes; None for a folder."""
    if path.is_dir():
        yield None
        return
    if not archive.is_archive(path):
        raise InputFileError(
            f"{path}: not a bundle (a folder, or a file that ends in {archive.TAR} or {archive.ZST})."
        )
    try:
        # Not to wait for the other end of a pipe that has this name.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise InputFileError(f"{path}: {error.strerror}.") from error
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        if not path.is_file():
            raise InputFileError(f"{path}: not a plain file.")
        yield stream


def require_signed(
    path: Path,
    stream: IO[bytes] | None,
    trusted: Sequence[signing.PublicKey],
    signature: Path | None,
) -> str | None:
    """The key that signed what is there. Nothing is parsed but the signature's four lines.

    Raises:
        IntegrityError: none of the trusted ones did; says where it differs, if its sums know.
    """
    if not trusted:
        return None
    lies = signature or signature_of(path)
    kind: signing.Kind = "folder" if stream is None else "archive"
    if not lies.is_file() or lies.is_symlink():
        raise IntegrityError(f"{path}: not signed (no {lies}).")
    with lies.open("rb") as file:
        made = file.read(signing.LARGEST)
    problem = signing.fault(made, kind=kind, digest=signed_digest(path, stream), trusted=trusted)
    if problem is None:
        return next(key.origin for key in trusted if key.id.encode() in made)
    raise IntegrityError(f"{path}: {lies.name} is {problem}.{_where(path, stream)}")


def signed_digest(path: Path, stream: IO[bytes] | None) -> str:
    if stream is not None:
        stream.seek(0)
        digest = hashlib.sha256()
        while data := stream.read(CHUNK):
            digest.update(data)
        stream.seek(0)
        return digest.hexdigest()
    sums = path / SUMS
    if sums.is_symlink() or not sums.is_file():
        raise IntegrityError(f"{path}: {SUMS}: missing, or not a plain file.")
    return digest_of(sums)


def _where(path: Path, stream: IO[bytes] | None) -> str:
    """What headers and sums say of a bundle whose signature does not hold; nothing else is looked at."""
    try:
        problems = _against_sums(read_contents(path, stream))
    except IntegrityError as error:
        problems = [str(error).removeprefix(f"{path}: ")]
    if not problems:
        return "\n  Its files are those of its sums: it is another bundle, or the signature or the key is another's."
    return _join_problems(problems)


def _join_problems(problems: Sequence[str]) -> str:
    return "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))


def read_contents(path: Path, stream: IO[bytes] | None, into: Path | None = None) -> BundleContents:
    """Read all of a bundle.

    Args:
        path: of it.
        stream: of an archive; None: `path` is a folder.
        into: an empty folder that gets the archive's files.

    Raises:
        InputFileError: no folder of a bundle.
        IntegrityError: an archive that is not as edgekd writes it.
    """
    return _read_folder(path) if stream is None else _read_archive(path, stream, into)


def _read_folder(folder: Path) -> BundleContents:
    if not (folder / MANIFEST).exists() and not (folder / SUMS).exists():
        raise InputFileError(f"{folder}: not a bundle (no {MANIFEST} in it).")
    seen = BundleContents()
    for name in list_names(folder):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            seen.problems.append(f"{name}: a link, or not a plain file")
            continue
        try:
            size = path.stat().st_size
            seen.sums[name] = Checksum(sha256=digest_of(path), size=size)
            if name in TEXTS and size <= LARGEST_TEXT:
                seen.texts[name] = path.read_bytes()
        except OSError as error:
            raise InputFileError(f"{path}: {error.strerror}.") from error
    return seen


def _read_archive(path: Path, stream: IO[bytes], into: Path | None) -> BundleContents:
    seen = BundleContents()
    digests: dict[str, tuple[ArchiveEntry, hashlib._Hash]] = {}
    texts: dict[str, bytearray] = {}
    out: IO[bytes] | None = None

    def take(found: ArchiveEntry) -> Callable[[bytes], None]:
        nonlocal out
        digest = hashlib.sha256()
        digests[found.name] = (found, digest)
        takers: list[Callable[[bytes], object]] = [digest.update]
        if found.name in TEXTS and found.size <= LARGEST_TEXT:
            texts[found.name] = bytearray()
            takers.append(texts[found.name].extend)
        if into is not None:
            if out is not None:
                out.close()
            target = into / found.name
            target.parent.mkdir(parents=True, exist_ok=True)
            out = target.open("xb")
            takers.append(out.write)

        def put(data: bytes) -> None:
            for taker in takers:
                taker(data)

        return put

    try:
        archive.read_archive(path, stream, take)
    finally:
        if out is not None:
            out.close()
    for name, (found, digest) in digests.items():
        seen.sums[name] = Checksum(sha256=digest.hexdigest(), size=found.size)
        seen.places[name] = found.place
    seen.texts = {name: bytes(text) for name, text in texts.items()}
    return seen


def _against_sums(seen: BundleContents) -> list[str]:
    """What differs between a bundle's files and its sums."""
    problems = list(seen.problems)
    text = seen.texts.get(SUMS)
    if text is None:
        return [*problems, f"{SUMS}: missing, or too large"]
    listed: dict[str, str] = {}
    # Not `splitlines`, which takes other bytes than the newline for one as well.
    for number, line in enumerate(text.removesuffix(b"\n").split(b"\n"), start=1):
        found = _SUM_LINE.fullmatch(line)
        if found is None:
            problems.append(f"{seen.describe_origin(SUMS)}: line {number} is not a sum")
            continue
        digest, name = (part.decode() for part in found.groups())
        if name in listed:
            problems.append(
                f"{seen.describe_origin(SUMS)}: line {number} names {name} a second time"
            )
        listed[name] = digest
        if name not in seen.sums:
            problems.append(
                f"{name}: missing, or not a plain file; it is in line {number} of {seen.describe_origin(SUMS)}"
            )
        elif seen.sums[name].sha256 != digest:
            problems.append(
                f"{seen.describe_origin(name)}: changed, or line {number} of {seen.describe_origin(SUMS)} is"
            )
    problems += [
        f"{seen.describe_origin(name)}: not in {SUMS}"
        for name in seen.sums
        if name not in listed and name not in {SUMS, SIGNATURE}
    ]
    problems += [f"{name}: not in {SUMS}" for name in (MANIFEST, REPORT) if name not in listed]
    problems += [f"{SUMS}: has {name}" for name in (SUMS, SIGNATURE) if name in listed]
    if not problems and sums_text(listed).encode() != text:
        problems.append(
            f"{seen.describe_origin(SUMS)}: not in the order and form that edgekd writes"
        )
    return problems


def check_contents(path: Path, seen: BundleContents) -> Manifest:
    """The manifest of a bundle that was read, when everything holds."""
    problems = _against_sums(seen)
    if problems:
        raise IntegrityError(f"{path}: the bundle is not what was made:{_join_problems(problems)}")
    if MANIFEST not in seen.texts:
        raise InputFileError(f"{path}: {MANIFEST} is too large to be one.")
    manifest = from_json(
        Manifest, seen.texts[MANIFEST], origin=f"{path}: {MANIFEST}", schema="manifest"
    )
    for listed in manifest.files:
        if listed.path not in seen.sums:
            problems.append(f"{listed.path}: in the manifest, not in the bundle")
        elif seen.sums[listed.path] != Checksum(sha256=listed.sha256, size=listed.size_bytes):
            problems.append(f"{listed.path}: not the file that the manifest names")
    if digest_of_content(json.loads(seen.texts[MANIFEST])) != manifest.content_digest:
        problems.append(f"{MANIFEST}: its content digest does not hold")
    problems += _broken_chain(manifest)
    problems += _against_report(seen)
    if problems:
        raise IntegrityError(f"{path}: the bundle is not what was made:{_join_problems(problems)}")
    return manifest


def _against_report(seen: BundleContents) -> Iterator[str]:
    """Whether the engine that the report names is the one that is there; it is no content, so no manifest names it."""
    try:
        report = json.loads(seen.texts.get(REPORT, b"{}"))
    except (ValueError, RecursionError):
        # Its own reader says what is wrong with it
        return
    engine = report.get("engine") if isinstance(report, dict) else None
    if not isinstance(engine, dict) or not isinstance(engine.get("path"), str):
        return
    found = seen.sums.get(engine["path"])
    if found is None:
        yield f"{engine['path']}: in {REPORT}, not in the bundle"
    elif found.sha256 != engine.get("digest"):
        yield f"{engine['path']}: not the engine that {REPORT} names"


def _broken_chain(manifest: Manifest) -> Iterator[str]:
    """Where what one step made is not what the next was made from: teacher, student, ONNX."""
    digests = {listed.path: listed.sha256 for listed in manifest.files}
    teacher, student = manifest.teacher, manifest.student
    known = {student.digest, *(model.digest for model in manifest.models)}
    made = [(student.checkpoint, student.digest, student.teacher_digest, {teacher.state_digest})]
    made += [(model.path, model.digest, model.made_from, known) for model in manifest.models]
    if manifest.calibration is not None:
        images = manifest.calibration
        made.append((images.file, images.digest, images.teacher_digest, {teacher.state_digest}))
    for path, digest, made_from, origins in made:
        if digests.get(path) != digest:
            yield f"{MANIFEST}: {path} has another digest where it is described than in the list of files"
        if made_from not in origins:
            yield f"{MANIFEST}: {path} was made from {made_from[:16]}, which is nothing in this bundle"
