"""`edgekd bundle ...`: parses, calls one function, prints. Nothing heavy is imported until a command needs it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgekd.bundle.bundle import VerifiedBundle
    from edgekd.bundle.signing import PublicKey

app = typer.Typer(help="What `compress` wrote: check, sign, pack, compare.", no_args_is_help=True)

_OUTPUT = "Output"
_SIGNATURE = "Signature"
_REGISTRY = "Registry"

Bundle = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder, .tar or .tar.zst.")
]
BundleFolder = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="The folder that `compress` wrote.")
]
Archive = Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A .tar or .tar.zst of `pack`.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an output that exists.", rich_help_panel=_OUTPUT)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the record on stdout.", rich_help_panel=_OUTPUT)
]
Keys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Public key (PEM) that must have signed it; repeatable: any of them.",
        rich_help_panel=_SIGNATURE,
    ),
]
SignatureFile = Annotated[
    Path | None,
    typer.Option(
        "--signature",
        metavar="FILE",
        help="Where the signature is (default: beside an archive, in a folder).",
        rich_help_panel=_SIGNATURE,
    ),
]
Reference = Annotated[
    str, typer.Argument(metavar="REF", help="HOST/NAME:TAG, or HOST/NAME@sha256:DIGEST.")
]
PlainHttp = Annotated[
    bool,
    typer.Option("--plain-http", help="Without TLS, as on loopback.", rich_help_panel=_REGISTRY),
]


@app.command("verify")
def bundle_verify(
    path: Bundle, keys: Keys = None, signature: SignatureFile = None, as_json: Json = False
) -> None:
    """Check signature (with --key), sums and manifest, in this order."""
    from edgekd.bundle import bundle

    found = bundle.verify_bundle(
        path, trusted=_load_trusted_keys(keys, signature), signature=signature
    )
    if as_json:
        _print_record(found.manifest, "manifest")
        return
    print(_verdict(found))


@app.command("inspect")
def bundle_inspect(path: Bundle, as_json: Json = False) -> None:
    """What a bundle says of itself; a folder is not checked, an archive is."""
    from edgekd.bundle import bundle
    from edgekd.report.bundle_summary import description

    whole = None if path.is_dir() else bundle.verify_bundle(path)
    manifest = bundle.read_manifest(path) if whole is None else whole.manifest
    if as_json:
        _print_record(manifest, "manifest")
        return
    print(description(manifest, bundle.read_report(path) if whole is None else whole.report))


@app.command("report")
def bundle_report(
    folder: BundleFolder,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: report.html in the bundle).")
    ] = None,
    force: Force = False,
) -> None:
    """Write report.html anew; the images over time are known only to the run."""
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
            help="A .tar or .tar.zst (default: BUNDLE.tar).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Write a bundle as one file: the same bytes for the same bundle, wherever and whenever."""
    from edgekd.bundle import archive, bundle

    whole = folder if folder.name not in {"", ".."} else folder.resolve()
    target = out or whole.with_name(whole.name + archive.TAR)
    manifest = bundle.pack(folder, target, date=archive.date_of(os.environ), force=force)
    print(f"{target}: {target.stat().st_size:,} bytes, content {manifest.content_digest}")


@app.command("unpack")
def bundle_unpack(
    path: Archive,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write.", rich_help_panel=_OUTPUT)
    ],
    keys: Keys = None,
    signature: SignatureFile = None,
    force: Force = False,
) -> None:
    """Check an archive and write its files into a folder, all or none."""
    from edgekd.bundle import bundle

    found = bundle.unpack(
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
            help="Private Ed25519 key: a PEM file, or a PKCS#11 URI with module-path.",
            rich_help_panel=_SIGNATURE,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File for the signature (default: beside an archive, in a folder).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the public key there too, as PEM for `verify --key`.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
) -> None:
    """Check a bundle and sign it: an archive's bytes, or a folder's SHA256SUMS."""
    from edgekd.bundle import bundle, signing
    from edgekd.files import write_atomically

    with signing.signer(key, ask=_ask) as signer:
        written = bundle.sign(path, signer, out=out)
        if public is not None:
            write_atomically(public, signing.public_pem(signer.public))
    print(f"{written}: signed with key {signer.public.id}")


@app.command("diff")
def bundle_diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A bundle: folder or archive.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    as_json: Json = False,
) -> None:
    """What changed from one bundle to another; both are checked first."""
    from edgekd.bundle import bundle, diff

    found = diff.difference(bundle.verify_bundle(before), bundle.verify_bundle(after))
    if as_json:
        _print_record(found, "bundle-diff")
        return
    print(diff.format_diff(found))


@app.command("push")
def bundle_push(path: Archive, reference: Reference, plain_http: PlainHttp = False) -> None:
    """Send an archive, with the signature beside it, to an OCI registry."""
    from edgekd.bundle import bundle, oci_registry

    bundle.require_archive(path)
    bundle.verify_bundle(path)
    digest = oci_registry.push(path, reference, plain_http=plain_http)
    print(f"{reference.partition('@')[0]}@{digest}")


@app.command("pull")
def bundle_pull(
    reference: Reference,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="File to write, .tar or .tar.zst.", rich_help_panel=_OUTPUT
        ),
    ],
    keys: Keys = None,
    plain_http: PlainHttp = False,
    force: Force = False,
) -> None:
    """Fetch an archive from an OCI registry; it is there only if it verifies."""
    from edgekd.bundle import bundle, oci_registry

    bundle.require_archive(out)
    trusted = _load_trusted_keys(keys, None)
    with bundle.receive_archive(out, trusted=trusted, force=force) as place:
        oci_registry.pull(reference, place, plain_http=plain_http)
    print(_verdict(bundle.verify_bundle(out, trusted=trusted)))


def _load_trusted_keys(paths: list[Path] | None, signature: Path | None) -> "tuple[PublicKey, ...]":
    from edgekd.bundle import signing
    from edgekd.errors import UsageError

    if signature is not None and not paths:
        raise UsageError("--signature says where it is, --key whose it must be: add --key.")
    return tuple(signing.public_key(path) for path in paths or ())


def _verdict(found: "VerifiedBundle") -> str:
    manifest = found.manifest
    told = f"{found.path} OK: {len(manifest.files)} files, content {manifest.content_digest}, quality: {manifest.quality}"
    if found.signed_by is not None:
        return f"{told}, signed with {found.signed_by}"
    return (
        f"{told}, signature not looked at (no --key)"
        if found.has_signature
        else f"{told}, not signed"
    )


def _ask(what: str) -> str | None:
    """A secret that is typed; None where there is no terminal."""
    if not sys.stdin.isatty():
        return None
    import getpass

    return getpass.getpass(f"{what}: ")


def _print_record(value: object, schema: str) -> None:
    from edgekd.records import to_json

    sys.stdout.write(to_json(value, schema=schema))
