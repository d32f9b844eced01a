"""Detached signatures: Ed25519 over a statement of three lines that names a SHA-256.

    edgekd signature 1
    archive sha256 <of the archive's bytes>     or: folder sha256 <of SHA256SUMS>
    key sha256 <of the public key, as DER>
    <the signature of the lines above, base64>

The statement holds a digest instead of the bytes themselves because Ed25519 reads its message twice: an archive would
have to fit into memory, and into a token. `openssl pkeyutl -verify -rawin` checks one without edgekd (docs/bundle.md).
"""

import base64
import hashlib
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from edgekd.errors import (
    InputFileError,
    IntegrityError,
    MissingToolError,
    UsageError,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SUFFIX: Final = ".sig"
PKCS11: Final = "pkcs11:"
# Bytes of a key or signature that are read at all
LARGEST: Final = 64 * 1024
Kind = Literal["archive", "folder"]
# Asks for a secret by what it is of; None where nobody can be asked.
Ask = Callable[[str], str | None]
_SIGNATURE: Final = re.compile(
    rb"edgekd signature 1\n(archive|folder) sha256 ([0-9a-f]{64})\nkey sha256 ([0-9a-f]{64})\n([A-Za-z0-9+/]{86}==)\n"
)


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    origin: str
    # SHA-256 of it as DER (SubjectPublicKeyInfo)
    id: str
    key: "Ed25519PublicKey"


@dataclass(frozen=True, kw_only=True)
class Signer:
    public: PublicKey
    sign: Callable[[bytes], bytes]


def public_key(path: Path) -> PublicKey:
    """A key to trust, from a PEM file.

    Raises:
        InputFileError: it is none, is private, or of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise InputFileError(
            f"{path}: a private key; to verify, the public one is enough: openssl pkey -in {path} -pubout"
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputFileError(f"{path}: not a public key in PEM.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputFileError(f"{path}: not a key for Ed25519.")
    return _name_key(key, str(path))


def public_pem(key: PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@contextmanager
def signer(key: str, *, ask: Ask) -> Iterator[Signer]:
    """A private key while the block lasts.

    Args:
        key: a PEM file, or a PKCS#11 URI (RFC 7512) with `module-path`.
        ask: for a passphrase or PIN that no file holds.

    Raises:
        InputFileError: no such key, or it cannot be used.
        MissingToolError: python-pkcs11 is not installed.
        UsageError: a URI that is not understood, or nobody there to ask.
    """
    if key.startswith(PKCS11):
        with _token_signer(key, ask) as found:
            yield found
    else:
        yield _file_signer(Path(key), ask)


def signed(signer: Signer, *, kind: Kind, digest: str) -> bytes:
    """A signature as it stands in its file.

    Raises:
        IntegrityError: what the key made does not hold.
    """
    text = _statement(kind, digest, signer.public.id)
    made = text + base64.b64encode(signer.sign(text)) + b"\n"
    problem = fault(made, kind=kind, digest=digest, trusted=[signer.public])
    if problem is not None:
        raise IntegrityError(
            f"{signer.public.origin}: what it signed does not hold under its public key."
        )
    return made


def fault(signature: bytes, *, kind: Kind, digest: str, trusted: Sequence[PublicKey]) -> str | None:
    """What is wrong with a signature; None when it holds.

    Args:
        signature: its file.
        kind: of what it should be of.
        digest: SHA-256 of the archive, or of a folder's sums.
        trusted: keys of which one must have made it.
    """
    from cryptography.exceptions import InvalidSignature

    found = _SIGNATURE.fullmatch(signature)
    if found is None:
        return "not a signature of edgekd, or damaged"
    signed_kind, signed_digest, key_id = (part.decode() for part in found.groups()[:3])
    raw = base64.b64decode(found[4])
    if base64.b64encode(raw) != found[4]:
        return "damaged: there is another way to write it"
    keys = [key for key in trusted if key.id == key_id]
    if not keys:
        ids = ", ".join(f"{key.origin} ({key.id[:16]})" for key in trusted)
        return f"made with another key ({key_id[:16]}) than {ids}, or damaged"
    try:
        keys[0].key.verify(raw, signature[: found.start(4)])
    except InvalidSignature:
        return f"damaged, or not made with {keys[0].origin}"
    if signed_kind != kind:
        return f"of another kind: it is of the {signed_kind}, this is the {kind}"
    if signed_digest != digest:
        return f"of something else: it is of {signed_digest[:16]}, this is {digest[:16]}"
    return None


def _statement(kind: Kind, digest: str, key_id: str) -> bytes:
    return f"edgekd signature 1\n{kind} sha256 {digest}\nkey sha256 {key_id}\n".encode()


def _name_key(key: "Ed25519PublicKey", origin: str) -> PublicKey:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(origin=origin, id=hashlib.sha256(der).hexdigest(), key=key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise InputFileError(f"{path}: {error.strerror}.") from error
    if len(data) > LARGEST:
        raise InputFileError(f"{path}: too large for a key.")
    return data


# --- keys in files --------------------------------------------------------------------------------


def _file_signer(path: Path, ask: Ask) -> Signer:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    encrypted = b"ENCRYPTED" in data
    secret = _ask_secret(ask, f"passphrase of {path}").encode() if encrypted else None
    try:
        key = load_pem_private_key(data, password=secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "the passphrase is wrong, or it" if encrypted else "it"
        raise InputFileError(f"{path}: {why} is not a private key in PEM.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputFileError(
            f"{path}: not a key for Ed25519. Make one: openssl genpkey -algorithm ed25519 -out release.pem"
        )
    return Signer(public=_name_key(key.public_key(), str(path)), sign=key.sign)


def _ask_secret(ask: Ask, what: str) -> str:
    secret = ask(what)
    if secret is None:
        raise UsageError(f"{what}: nobody is here to be asked; run it in a terminal.")
    return secret


# --- keys in tokens -------------------------------------------------------------------------------


@contextmanager
def _token_signer(uri: str, ask: Ask) -> Iterator[Signer]:
    try:
        import pkcs11
    except ModuleNotFoundError as error:
        raise MissingToolError(
            "PKCS#11 needs python-pkcs11: pip install 'edgekd[pkcs11]'"
        ) from error
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    where = _parse_uri(uri)
    named: dict[str, Any] = {"label": where.get("object")}
    if "id" in where:
        named["id"] = where["id"].encode("latin-1")
    pin = _pin(where, ask)
    try:
        token = pkcs11.lib(where["module-path"]).get_token(token_label=where["token"])
        with token.open(user_pin=pin) as session:
            private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, **named)
            public = session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, **named)
            point = public[pkcs11.Attribute.EC_POINT]
            # An OCTET STRING of DER around 32 bytes, or these alone; Ed448 has longer ones.
            if private.key_type != pkcs11.KeyType.EC_EDWARDS or len(point) not in {32, 34}:
                raise InputFileError(f"{_mask_uri(uri)}: not a key for Ed25519.")
            key = Ed25519PublicKey.from_public_bytes(point[-32:])
            yield Signer(
                public=_name_key(key, _mask_uri(uri)),
                sign=lambda text: private.sign(text, mechanism=pkcs11.Mechanism.EDDSA),
            )
    except pkcs11.exceptions.PKCS11Error as error:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
        what = ": ".join(part for part in (name.removeprefix("pkcs11error"), str(error)) if part)
        raise InputFileError(f"{_mask_uri(uri)}: {what}.") from error
    except RuntimeError as error:  # a module that cannot be loaded
        raise InputFileError(f"{_mask_uri(uri)}: {error}.") from error


def _mask_uri(uri: str) -> str:
    return uri.partition("?")[0]


def _parse_uri(uri: str) -> dict[str, str]:
    """The parts of a PKCS#11 URI; bytes of `id` as characters up to 255."""
    path, _, query = uri.removeprefix(PKCS11).partition("?")
    found: dict[str, str] = {}
    for part in [*path.split(";"), *query.split("&")]:
        if not part:
            continue
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise UsageError(
                "pin-value: a command line is seen by every user of the machine. Write pin-source=file:FILE, or leave "
                "it out and be asked."
            )
        if name not in {"token", "object", "id", "type", "module-path", "pin-source"} or not equals:
            raise UsageError(
                f"{_mask_uri(uri)}: {name} is not understood; token, object, id, module-path and pin-source are."
            )
        encoding = "latin-1" if name == "id" else "utf-8"
        found[name] = urllib.parse.unquote(value, encoding=encoding)
    for name in ("token", "module-path"):
        if name not in found:
            raise UsageError(
                f"{_mask_uri(uri)}: write pkcs11:token=NAME;object=KEY?module-path=LIBRARY (no {name} is in it)."
            )
    if not {"object", "id"} & set(found):
        raise UsageError(f"{_mask_uri(uri)}: which key of the token? Add object=NAME or id=%01.")
    return found


def _pin(where: dict[str, str], ask: Ask) -> str:
    source = where.get("pin-source")
    if source is None:
        return _ask_secret(ask, f"PIN of token {where['token']}")
    path = Path(source.removeprefix("file:"))
    return _read(path).decode("utf-8", "replace").rstrip("\r\n")
