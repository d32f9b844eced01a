"""What a firmware build takes: a folder written whole, or its archive, checked by anybody with sha256sum."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

from pydantic import TypeAdapter

from edgekd.bundle import archive, signing
from edgekd.bundle.archive import CHUNK, ArchiveEntry, Checksum
from edgekd.errors import InputFileError, IntegrityError, OutputError
from edgekd.files import (
    check_writable_file,
    digest_of,
    new_file,
    new_folder,
    read_text,
    sync_folder,
    translate_os_errors,
    write_atomically,
)
from edgekd.records import from_json, to_json
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
SIGNATURE: Final = SUMS + signing.SUFFIX  # of a folder; the one file that has no sum
_SUM_LINE: Final = re.compile(
    rb"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*)"
)
_LARGEST_TEXT: Final = 32 * 2**20  # bytes of a manifest or list of sums that is read at all
_TEXTS: Final = (SUMS, MANIFEST, REPORT, BILL)


def content_digest(manifest: Manifest) -> str:
    """SHA-256 of the manifest without this digest itself; its file list covers the contents.

    Measurements and report are not in it: they differ from run to run.
    """
    plain = TypeAdapter(Manifest).dump_python(manifest, mode="json")
    del plain["content_digest"]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


# --- writing a folder -----------------------------------------------------------------------------


def entry(folder: Path, path: str, role: Role) -> FileEntry:
    file = folder / path
    return FileEntry(path=path, role=role, sha256=digest_of(file), size_bytes=file.stat().st_size)


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
    sums = {name: digest_of(folder / name) for name in _names(folder)}
    (folder / SUMS).write_text(_sums_text(sums), encoding="utf-8")
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
    lines = _text(folder / SUMS).splitlines()
    write_atomically(folder / PAGE, text)
    kept = [line for line in lines if not line.endswith(f" {PAGE}")]
    kept.append(f"{digest_of(folder / PAGE)}  {PAGE}")
    kept.sort(key=lambda line: line[66:])
    write_atomically(folder / SUMS, "".join(f"{line}\n" for line in kept))


def _sums_text(sums: Mapping[str, str]) -> str:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def _names(folder: Path) -> list[str]:
    """All that is in a folder and is no folder, links among them, in order."""
    found = []

    def refuse(error: OSError) -> None:
        raise InputFileError(f"{error.filename}: {error.strerror}.") from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        here = Path(root)
        linked = [name for name in folders if (here / name).is_symlink()]
        found += [(here / name).relative_to(folder).as_posix() for name in (*files, *linked)]
    return sorted(found)


# --- reading what nobody has vouched for ------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle's folder that nobody has vouched for.

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


def _text(path: Path) -> str:
    if path.is_symlink() or (path.exists() and path.stat().st_size > _LARGEST_TEXT):
        raise InputFileError(f"{path}: a link, or too large to be what it says.")
    return read_text(path)


# --- checking -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VerifiedBundle:
    """A bundle of which every byte was held to its sums, and its sums to its signature where keys were given."""

    path: Path
    manifest: Manifest
    texts: Mapping[str, bytes]  # of the files in `_TEXTS` that it has
    signed_by: str | None  # the key; None: no keys were given
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
class _Seen:
    """What reading a bundle from end to end found, before any of it is understood."""

    sums: dict[str, Checksum] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)  # of a file in an archive
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
    with _open_archive(path) as stream:
        key = _require_signed(path, stream, trusted, signature)
        seen = _read_contents(path, stream)
    manifest = _understood(path, seen)
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
def _open_archive(path: Path) -> Iterator[IO[bytes] | None]:
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


def _require_signed(
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
    problem = signing.fault(made, kind=kind, digest=_signed_digest(path, stream), trusted=trusted)
    if problem is None:
        return next(key.origin for key in trusted if key.id.encode() in made)
    raise IntegrityError(f"{path}: {lies.name} is {problem}.{_where(path, stream)}")


def _signed_digest(path: Path, stream: IO[bytes] | None) -> str:
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
        problems = _against_sums(_read_contents(path, stream))
    except IntegrityError as error:
        problems = [str(error).removeprefix(f"{path}: ")]
    if not problems:
        return "\n  Its files are those of its sums: it is another bundle, or the signature or the key is another's."
    return _join_problems(problems)


def _join_problems(problems: Sequence[str]) -> str:
    return "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))


def _read_contents(path: Path, stream: IO[bytes] | None, into: Path | None = None) -> _Seen:
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


def _read_folder(folder: Path) -> _Seen:
    if not (folder / MANIFEST).exists() and not (folder / SUMS).exists():
        raise InputFileError(f"{folder}: not a bundle (no {MANIFEST} in it).")
    seen = _Seen()
    for name in _names(folder):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            seen.problems.append(f"{name}: a link, or not a plain file")
            continue
        try:
            size = path.stat().st_size
            seen.sums[name] = Checksum(sha256=digest_of(path), size=size)
            if name in _TEXTS and size <= _LARGEST_TEXT:
                seen.texts[name] = path.read_bytes()
        except OSError as error:
            raise InputFileError(f"{path}: {error.strerror}.") from error
    return seen


def _read_archive(path: Path, stream: IO[bytes], into: Path | None) -> _Seen:
    seen = _Seen()
    digests: dict[str, tuple[ArchiveEntry, hashlib._Hash]] = {}
    texts: dict[str, bytearray] = {}
    out: IO[bytes] | None = None

    def take(found: ArchiveEntry) -> Callable[[bytes], None]:
        nonlocal out
        digest = hashlib.sha256()
        digests[found.name] = (found, digest)
        takers: list[Callable[[bytes], object]] = [digest.update]
        if found.name in _TEXTS and found.size <= _LARGEST_TEXT:
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


def _against_sums(seen: _Seen) -> list[str]:
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
    if not problems and _sums_text(listed).encode() != text:
        problems.append(
            f"{seen.describe_origin(SUMS)}: not in the order and form that edgekd writes"
        )
    return problems


def _understood(path: Path, seen: _Seen) -> Manifest:
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
    if content_digest(manifest) != manifest.content_digest:
        problems.append(f"{MANIFEST}: its content digest does not hold")
    problems += _broken_chain(manifest)
    if problems:
        raise IntegrityError(f"{path}: the bundle is not what was made:{_join_problems(problems)}")
    return manifest


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


# --- archives -------------------------------------------------------------------------------------


def pack(folder: Path, out: Path, *, date: int, force: bool) -> Manifest:
    """Write a bundle's folder as an archive, and check it on the way.

    Args:
        folder: a bundle.
        out: the archive; `.tar.zst` compresses it.
        date: of every file in it, in seconds since 1970.
        force: replace an archive that exists.

    Raises:
        InputFileError: no bundle, or another name than an archive has.
        IntegrityError: the bundle is not whole.
        OutputError: the archive exists or cannot be written.
    """
    require_archive(out)
    if not folder.is_dir():
        raise InputFileError(f"{folder}: not the folder of a bundle.")
    if out.resolve().is_relative_to(folder.resolve()):
        raise OutputError(f"{out} lies in the bundle, which would change it. Choose another --out.")
    check_writable_file(out, force=force)
    if not (folder / MANIFEST).exists() and not (folder / SUMS).exists():
        raise InputFileError(f"{folder}: not a bundle (no {MANIFEST} in it).")
    seen = _Seen()
    with new_file(out) as sink:
        # Each file is read once: what goes into the archive is what is checked.
        seen.sums = archive.write_archive(
            folder,
            _names(folder),
            sink,
            date=date,
            compressed=out.name.endswith(archive.ZST),
        )
        for name in _TEXTS:
            if name in seen.sums and seen.sums[name].size <= _LARGEST_TEXT:
                seen.texts[name] = (folder / name).read_bytes()
                if hashlib.sha256(seen.texts[name]).hexdigest() != seen.sums[name].sha256:
                    raise IntegrityError(f"{folder / name}: changed while it was packed.")
        return _understood(folder, seen)


def unpack(
    path: Path,
    out: Path,
    *,
    trusted: Sequence[signing.PublicKey],
    signature: Path | None,
    force: bool,
) -> VerifiedBundle:
    """Write an archive's files into a folder, which is there only if all of them hold.

    Raises:
        InputFileError, IntegrityError: see `verified`.
        OutputError: the folder exists or cannot be written.
    """
    with _open_archive(path) as stream:
        if stream is None:
            raise InputFileError(f"{path}: a folder, and no archive.")
        key = _require_signed(path, stream, trusted, signature)
        with new_folder(out, force=force) as temporary:
            seen = _read_contents(path, stream, temporary)
            manifest = _understood(path, seen)
    return VerifiedBundle(
        path=out,
        manifest=manifest,
        texts=seen.texts,
        signed_by=key,
        has_signature=SIGNATURE in seen.sums,
    )


@contextmanager
def receive_archive(
    out: Path, *, trusted: Sequence[signing.PublicKey], force: bool
) -> Iterator[Path]:
    """A place for an archive and its signature from elsewhere; at `out` they are only once they hold.

    Raises:
        InputFileError, IntegrityError: see `verified`.
        OutputError: it exists or cannot be written.
    """
    check_writable_file(out, force=force)
    with (
        translate_os_errors(out),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}") as name,
    ):
        place = Path(name) / out.name
        yield place
        verify_bundle(place, trusted=trusted)
        # An archive without its signature fails; one with that of another would as well, but look like an attack.
        signature_of(out).unlink(missing_ok=True)
        place.replace(out)
        if signature_of(place).exists():
            signature_of(place).replace(signature_of(out))
        sync_folder(out.parent)


def sign(path: Path, signer: signing.Signer, *, out: Path | None = None) -> Path:
    """Sign a bundle that is whole; where the signature lies.

    Args:
        path: a folder or an archive.
        signer: the key.
        out: for the signature, if not beside the archive or in the folder.

    Raises:
        InputFileError, IntegrityError: see `verified`; what is broken is not signed.
        OutputError: it cannot be written.
    """
    verify_bundle(path)
    with _open_archive(path) as stream:
        digest = _signed_digest(path, stream)
    kind: signing.Kind = "folder" if path.is_dir() else "archive"
    lies = out or signature_of(path)
    write_atomically(lies, signing.signed(signer, kind=kind, digest=digest))
    return lies
