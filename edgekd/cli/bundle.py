"""`edgekd bundle ...`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.framework.options import OUTPUT, Force, Json

if TYPE_CHECKING:
    from edgekd.bundle.signing import PublicKey
    from edgekd.bundle.verification import VerifiedBundle

app = typer.Typer(
    help="Verify, sign, pack and compare bundles of `compress`.", no_args_is_help=True
)

_SIGNATURE = "Signature"
_REGISTRY = "Registry"

Bundle = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Bundle: a folder, .tar or .tar.zst.")
]
BundleFolder = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Folder that `compress` wrote.")
]
Archive = Annotated[
    Path, typer.Argument(metavar="ARCHIVE", help="Archive of `bundle pack`: .tar or .tar.zst.")
]
Keys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Public key (PEM) that must have signed the bundle; repeatable, any of them suffices.",
        rich_help_panel=_SIGNATURE,
    ),
]
SignatureFile = Annotated[
    Path | None,
    typer.Option(
        "--signature",
        metavar="FILE",
        help="Signature file (default: next to an archive, inside a folder).",
        rich_help_panel=_SIGNATURE,
    ),
]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="Image reference: HOST/NAME:TAG or HOST/NAME@sha256:DIGEST."
    ),
]
PlainHttp = Annotated[
    bool,
    typer.Option(
        "--plain-http",
        help="Connect without TLS, for example to a registry on this machine.",
        rich_help_panel=_REGISTRY,
    ),
]


@app.command("verify")
def bundle_verify(
    path: Bundle, keys: Keys = None, signature: SignatureFile = None, as_json: Json = False
) -> None:
    """Verify the signature (with --key), the checksums and the manifest, in this order."""
    import edgekd
    from edgekd.cli.framework.output import print_record

    found = edgekd.verify_bundle(path, keys=keys or (), signature=signature)
    if as_json:
        print_record(found.manifest, "manifest")
        return
    print(_verdict(found))


@app.command("inspect")
def bundle_inspect(path: Bundle, as_json: Json = False) -> None:
    """Show what a bundle states about itself; an archive is verified first, a folder is not."""
    from edgekd.bundle import layout, verification
    from edgekd.cli.framework.output import print_record
    from edgekd.report.bundle_summary import description

    whole = None if path.is_dir() else verification.verify_bundle(path)
    manifest = layout.read_manifest(path) if whole is None else whole.manifest
    if as_json:
        print_record(manifest, "manifest")
        return
    print(description(manifest, layout.read_report(path) if whole is None else whole.report))


@app.command("report")
def bundle_report(
    folder: BundleFolder,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: report.html in the bundle).")
    ] = None,
    force: Force = False,
) -> None:
    """Write report.html again, without the images over time, which only the run knows."""
    from edgekd.report import bundle_page

    print(bundle_page.write_page(folder, out=out, force=force))


@app.command("pack")
def bundle_pack(
    folder: BundleFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Archive to write, .tar or .tar.zst (default: BUNDLE.tar).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Pack a bundle into one file; the same bundle always gives the same bytes."""
    from edgekd.bundle import archive, packing

    whole = folder if folder.name not in {"", ".."} else folder.resolve()
    target = out or whole.with_name(whole.name + archive.TAR)
    manifest = packing.pack(folder, target, date=archive.date_of(os.environ), force=force)
    print(f"{target}: {target.stat().st_size:,} bytes, content {manifest.content_digest}")


@app.command("unpack")
def bundle_unpack(
    path: Archive,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write.", rich_help_panel=OUTPUT)
    ],
    keys: Keys = None,
    signature: SignatureFile = None,
    force: Force = False,
) -> None:
    """Verify an archive and unpack it into a folder, all files or none."""
    from edgekd.bundle import packing

    found = packing.unpack(
        path, out, trusted=_load_trusted_keys(keys, signature), signature=signature, force=force
    )
    print(_verdict(found))


@app.command("sign")
def bundle_sign(
    path: Bundle,
    key: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="Private Ed25519 key: a PEM file, or a PKCS#11 URI with a module-path.",
            rich_help_panel=_SIGNATURE,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Signature file to write (default: next to an archive, inside a folder).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write the public key to, as PEM for `bundle verify --key`.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Sign a bundle whose quality gates failed, too.")
    ] = False,
) -> None:
    """Verify a bundle and sign it: the bytes of an archive, or the SHA256SUMS of a folder."""
    from edgekd.bundle import packing, signing
    from edgekd.files import write_atomically

    with signing.signer(key, ask=_ask) as signer:
        written = packing.sign(path, signer, out=out, force=force)
        if public is not None:
            write_atomically(public, signing.public_pem(signer.public))
    print(f"{written}: signed with key {signer.public.id}")


@app.command("diff")
def bundle_diff(
    before: Annotated[
        Path, typer.Argument(metavar="A", help="Bundle to compare: a folder or archive.")
    ],
    after: Annotated[Path, typer.Argument(metavar="B", help="Bundle to compare it with.")],
    as_json: Json = False,
) -> None:
    """Show what changed between two bundles; both are verified first."""
    from edgekd.bundle import diff, verification
    from edgekd.cli.framework.output import print_record

    found = diff.difference(verification.verify_bundle(before), verification.verify_bundle(after))
    if as_json:
        print_record(found, "bundle-diff")
        return
    print(diff.format_diff(found))


@app.command("push")
def bundle_push(path: Archive, reference: Reference, plain_http: PlainHttp = False) -> None:
    """Push an archive, with the signature next to it, to an OCI registry."""
    from edgekd.bundle import oci_registry, verification

    verification.require_archive(path)
    verification.verify_bundle(path)
    digest = oci_registry.push(path, reference, plain_http=plain_http)
    print(f"{reference.partition('@')[0]}@{digest}")


@app.command("pull")
def bundle_pull(
    reference: Reference,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Archive to write, .tar or .tar.zst.", rich_help_panel=OUTPUT
        ),
    ],
    keys: Keys = None,
    plain_http: PlainHttp = False,
    force: Force = False,
) -> None:
    """Pull an archive from an OCI registry; it is kept only if it verifies."""
    from edgekd.bundle import oci_registry, packing, verification

    verification.require_archive(out)
    trusted = _load_trusted_keys(keys, None)
    with packing.receive_archive(out, trusted=trusted, force=force) as place:
        oci_registry.pull(reference, place, plain_http=plain_http)
    print(_verdict(verification.verify_bundle(out, trusted=trusted)))


def _load_trusted_keys(paths: list[Path] | None, signature: Path | None) -> "tuple[PublicKey, ...]":
    from edgekd.bundle import signing
    from edgekd.errors import UsageError

    if signature is not None and not paths:
        raise UsageError("--signature says where it is, --key whose it must be: add --key.")
    return tuple(signing.public_key(path) for path in paths or ())


def _verdict(found: "VerifiedBundle") -> str:
    manifest = found.manifest
    verdict = f"{found.path} OK: {len(manifest.files)} files, content {manifest.content_digest}, quality: {manifest.quality}"
    if found.signed_by is not None:
        return f"{verdict}, signed with {found.signed_by}"
    return (
        f"{verdict}, signature not looked at (no --key)"
        if found.has_signature
        else f"{verdict}, not signed"
    )


def _ask(what: str) -> str | None:
    """A secret that is typed; None where there is no terminal."""
    if not sys.stdin.isatty():
        return None
    import getpass

    return getpass.getpass(f"{what}: ")
