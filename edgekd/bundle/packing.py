"""A bundle as one file: packed, unpacked, received from elsewhere, signed."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekd.bundle import archive, signing
from edgekd.bundle.layout import (
    LARGEST_TEXT,
    MANIFEST,
    SIGNATURE,
    SUMS,
    TEXTS,
    list_names,
)
from edgekd.bundle.verification import (
    BundleContents,
    VerifiedBundle,
    check_contents,
    open_archive,
    read_contents,
    require_archive,
    require_signed,
    signature_of,
    signed_digest,
    verify_bundle,
)
from edgekd.errors import InputFileError, IntegrityError, OutputError, QualityError
from edgekd.files import (
    check_writable_file,
    new_file,
    new_folder,
    sync_folder,
    translate_os_errors,
    write_atomically,
)
from edgekd.records.manifest import Manifest
from edgekd.sole_writer import sole_writer


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
    seen = BundleContents()
    with new_file(out, final=True) as sink:
        # Each file is read once: what goes into the archive is what is checked.
        seen.sums = archive.write_archive(
            folder,
            list_names(folder),
            sink,
            date=date,
            compressed=out.name.endswith(archive.ZST),
        )
        for name in TEXTS:
            if name in seen.sums and seen.sums[name].size <= LARGEST_TEXT:
                seen.texts[name] = (folder / name).read_bytes()
                if hashlib.sha256(seen.texts[name]).hexdigest() != seen.sums[name].sha256:
                    raise IntegrityError(f"{folder / name}: changed while it was packed.")
        return check_contents(folder, seen)


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
        InputFileError, IntegrityError: see `verify_bundle`.
        OutputError: the folder exists or cannot be written.
    """
    with open_archive(path) as stream:
        if stream is None:
            raise InputFileError(f"{path}: a folder, and no archive.")
        key = require_signed(path, stream, trusted, signature)
        with new_folder(out, force=force) as temporary:
            seen = read_contents(path, stream, temporary)
            manifest = check_contents(path, seen)
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
        InputFileError, IntegrityError: see `verify_bundle`.
        OutputError: it exists or cannot be written.
    """
    check_writable_file(out, force=force)
    with translate_os_errors(out), sole_writer(out, wait=False, final=True) as output:
        output.temporary.mkdir()
        try:
            place = output.temporary / out.name
            yield place
            verify_bundle(place, trusted=trusted)
            output.claim(place)
            # An archive without its signature fails; one with that of another would as well, but look like an attack.
            signature_of(out).unlink(missing_ok=True)
            place.replace(out)
            if signature_of(place).exists():
                signature_of(place).replace(signature_of(out))
            sync_folder(out.parent)
        finally:
            shutil.rmtree(output.temporary)


def sign(
    path: Path, signer: signing.Signer, *, out: Path | None = None, force: bool = False
) -> Path:
    """Sign a bundle that is whole; where the signature lies.

    Args:
        path: a folder or an archive.
        signer: the key.
        out: for the signature, if not beside the archive or in the folder.
        force: sign a bundle whose quality gates failed, too.

    Raises:
        InputFileError, IntegrityError: see `verify_bundle`; what is broken is not signed.
        QualityError: it is marked failed.
        OutputError: it cannot be written.
    """
    lies = out or signature_of(path)
    # In a folder, what a killed run left of it is a file that belongs to no bundle
    with sole_writer(lies, wait=True):
        pass
    manifest = verify_bundle(path).manifest
    if manifest.quality == "failed" and not force:
        failed = ", ".join(gate.name for gate in manifest.quality_gates if not gate.passed)
        raise QualityError(
            f"{path}: marked 'quality: failed' ({failed}), and a signature says that it may ship. --force signs it all the same."
        )
    with open_archive(path) as stream:
        digest = signed_digest(path, stream)
    kind: signing.Kind = "folder" if path.is_dir() else "archive"
    write_atomically(lies, signing.signed(signer, kind=kind, digest=digest))
    return lies
