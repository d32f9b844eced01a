"""Signatures: what they cover, what is looked at before them, and whose they must be."""

import base64
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgekd.bundle import (
    archive,
    layout,
    packing,
    signing,
    verification,
)
from edgekd.errors import InputFileError, IntegrityError, UsageError
from edgekd.files import digest_of
from tests.edgekd.bundles import key_pair, reseal, write_bundle

SOFTHSM = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder, an archive and a compressed one, all signed, with the keys beside them; not to be changed."""
    place = tmp_path_factory.mktemp("released")
    folder = write_bundle(place / "b")
    private, _ = key_pair(place)
    key_pair(place, "other", seed=2)
    for name in ("b.tar", "b.tar.zst"):
        packing.pack(folder, place / name, date=archive.DEFAULT_DATE, force=False)
    with signing.signer(str(private), ask=nobody) as signer:
        for name in ("b", "b.tar", "b.tar.zst"):
            packing.sign(place / name, signer)
    return place


@pytest.fixture
def copy(released, tmp_path):
    return shutil.copytree(released, tmp_path / "r")


def nobody(_):
    return None


def trusted(place, name="release"):
    return (signing.public_key(place / f"{name}.pub"),)


@pytest.mark.parametrize("name", ["b", "b.tar", "b.tar.zst"])
def test_what_was_signed_verifies(released, edgekd, name):
    code, out, _ = edgekd("bundle", "verify", released / name, "--key", released / "release.pub")
    assert code == 0
    assert "signed with" in out
    code, out, _ = edgekd("bundle", "verify", released / name)
    assert code == 0
    assert "signature not looked at" in out
    # Any of several keys, so that one can follow another.
    both = ("--key", released / "other.pub", "--key", released / "release.pub")
    assert edgekd("bundle", "verify", released / name, *both)[0] == 0


def test_a_folder_that_is_signed_still_satisfies_sha256sum(released):
    checked = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=released / "b")
    assert checked.returncode == 0


def test_any_flipped_byte_of_a_signed_archive_is_found_and_located(released, tmp_path, edgekd):
    keys = trusted(released)
    signature = released / "b.tar.sig"
    for name, step in (("b.tar", 211), ("b.tar.zst", 53)):
        data = (released / name).read_bytes()
        spoilt = tmp_path / name
        for place in range(0, len(data), step):
            flipped = bytes([data[place] ^ 1 << place % 8])
            spoilt.write_bytes(data[:place] + flipped + data[place + 1 :])
            with pytest.raises(IntegrityError) as caught:
                verification.verify_bundle(spoilt, trusted=keys, signature=released / f"{name}.sig")
            assert "is of something else" in str(caught.value)
            if name == "b.tar":
                assert "byte" in str(caught.value).partition("\n")[2]
    code, out, err = edgekd(
        *("bundle", "verify", tmp_path / "b.tar", "--signature", signature),
        *("--key", released / "release.pub"),
    )
    assert code == IntegrityError.exit_code
    assert out == ""
    assert "byte" in err


def test_any_flipped_byte_of_any_file_of_a_signed_folder_is_found_and_located(copy, edgekd):
    keys = trusted(copy)
    folder = copy / "b"
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) > 10
    for name in names:
        path = folder / name
        data = path.read_bytes()
        for place in {0, 1, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}:
            flipped = bytes([data[place] ^ 1 << place % 8])
            path.write_bytes(data[:place] + flipped + data[place + 1 :])
            with pytest.raises(IntegrityError) as caught:
                verification.verify_bundle(folder, trusted=keys)
            assert name in str(caught.value)
            if name == layout.SUMS:
                assert "line" in str(caught.value).partition("\n")[2]
        code, _, err = edgekd("bundle", "verify", folder, "--key", copy / "release.pub")
        assert code == IntegrityError.exit_code
        assert name in err
        path.write_bytes(data)
    verification.verify_bundle(folder, trusted=keys)


def test_any_flipped_bit_of_a_signature_is_found(copy):
    keys = trusted(copy)
    digest = digest_of(copy / "b.tar")
    path = copy / "b.tar.sig"
    data = path.read_bytes()
    assert signing.fault(data, kind="archive", digest=digest, trusted=keys) is None
    for place in range(len(data)):
        for bit in range(8):
            spoilt = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            assert signing.fault(spoilt, kind="archive", digest=digest, trusted=keys) is not None
    for spoilt in (b"", data[:-1], data + b"\n", data * 2):
        path.write_bytes(spoilt)
        with pytest.raises(IntegrityError, match=r"b\.tar\.sig"):
            verification.verify_bundle(copy / "b.tar", trusted=keys)


# --- another key, another bundle ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b", "b.tar", "b.tar.zst"])
def test_another_key_is_refused(released, edgekd, name):
    code, out, err = edgekd("bundle", "verify", released / name, "--key", released / "other.pub")
    assert code == IntegrityError.exit_code
    assert out == ""
    assert "made with another key" in err


def test_a_signature_over_another_bundle_is_refused(copy, edgekd):
    other = write_bundle(copy / "o", teacher="another.pt")
    packing.pack(other, copy / "o.tar", date=archive.DEFAULT_DATE, force=False)
    shutil.copy(copy / "b.tar.sig", copy / "o.tar.sig")
    shutil.copy(copy / "b" / layout.SIGNATURE, other / layout.SIGNATURE)
    for name in ("o", "o.tar"):
        code, _, err = edgekd("bundle", "verify", copy / name, "--key", copy / "release.pub")
        assert code == IntegrityError.exit_code
        assert "another bundle" in err


def test_a_signature_of_another_kind_is_refused(copy):
    """A list of sums that is taken for an archive, or the other way round."""
    digest = "a" * 64
    with signing.signer(str(copy / "release.pem"), ask=nobody) as signer:
        made = signing.signed(signer, kind="folder", digest=digest)
    assert signing.fault(made, kind="folder", digest=digest, trusted=trusted(copy)) is None
    found = signing.fault(made, kind="archive", digest=digest, trusted=trusted(copy))
    assert found is not None
    assert "of another kind" in found


def test_no_signature_is_none_that_holds(copy, edgekd):
    for path in (copy / "b" / layout.SIGNATURE, copy / "b.tar.sig"):
        path.unlink()
    for name in ("b", "b.tar"):
        code, _, err = edgekd("bundle", "verify", copy / name, "--key", copy / "release.pub")
        assert code == IntegrityError.exit_code
        assert "not signed" in err


def test_sums_that_a_forger_made_new_do_not_help(copy):
    folder = copy / "b"
    (folder / "model-fp32.onnx").write_bytes(b"another model")
    reseal(folder)
    with pytest.raises(IntegrityError, match=r"SHA256SUMS\.sig is of something else"):
        verification.verify_bundle(folder, trusted=trusted(copy))


# --- before anything else -------------------------------------------------------------------------


def test_nothing_is_parsed_before_the_signature_holds(copy):
    """What would be a bad manifest (code 2) or no archive is a broken signature first."""
    folder = copy / "b"
    (folder / "manifest.json").write_text('{"schema": "manifest", "schema_version": 99}')
    reseal(folder)
    with pytest.raises(InputFileError, match="format 99"):
        verification.verify_bundle(folder)
    with pytest.raises(IntegrityError, match="is of something else"):
        verification.verify_bundle(folder, trusted=trusted(copy))
    (copy / "b.tar").write_bytes(b"no archive at all")
    with pytest.raises(IntegrityError, match="is of something else"):
        verification.verify_bundle(copy / "b.tar", trusted=trusted(copy))


def test_nothing_is_unpacked_before_the_signature_holds(copy, edgekd):
    arguments = ("--out", copy / "u", "--key", copy / "other.pub")
    code, _, err = edgekd("bundle", "unpack", copy / "b.tar", *arguments)
    assert code == IntegrityError.exit_code
    assert "another key" in err
    assert not (copy / "u").exists()


def test_what_is_broken_is_not_signed(copy, edgekd):
    (copy / "b" / "report.html").write_text("another page")
    code, _, err = edgekd("bundle", "sign", copy / "b", "--key", copy / "release.pem")
    assert code == IntegrityError.exit_code
    assert "report.html" in err


def test_a_page_is_not_written_into_a_signed_folder(copy, edgekd):
    code, _, err = edgekd("bundle", "report", copy / "b", "--force")
    assert code == 2
    assert "is signed" in err
    verification.verify_bundle(copy / "b", trusted=trusted(copy))


def test_a_signature_travels_in_the_archive_of_a_signed_folder(copy):
    packing.pack(copy / "b", copy / "s.tar", date=archive.DEFAULT_DATE, force=False)
    packing.unpack(copy / "s.tar", copy / "u", trusted=(), signature=None, force=False)
    assert verification.verify_bundle(copy / "u", trusted=trusted(copy)).signed_by is not None


# --- keys -----------------------------------------------------------------------------------------


def openssl(*arguments):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)


def test_openssl_takes_our_signatures(copy):
    """As docs/bundle.md says it, for boards without edgekd."""
    lines = (copy / "b.tar.sig").read_bytes().splitlines(keepends=True)
    (copy / "said").write_bytes(b"".join(lines[:3]))
    (copy / "sig").write_bytes(base64.b64decode(lines[3]))
    verify = ("pkeyutl", "-verify", "-pubin", "-rawin", "-sigfile", copy / "sig")
    for name, holds in (("release", True), ("other", False)):
        ran = openssl(*verify, "-inkey", copy / f"{name}.pub", "-in", copy / "said")
        assert (ran.returncode == 0) is holds, ran.stderr


def test_a_key_that_openssl_made_signs(copy, edgekd):
    made = openssl("genpkey", "-algorithm", "ed25519", "-out", copy / "o.pem")
    assert made.returncode == 0, made.stderr
    openssl("pkey", "-in", copy / "o.pem", "-pubout", "-out", copy / "o.pub")
    arguments = ("--key", copy / "o.pem", "--public", copy / "same.pub")
    assert edgekd("bundle", "sign", copy / "b.tar", *arguments)[0] == 0
    assert (copy / "same.pub").read_text() == (copy / "o.pub").read_text()
    assert edgekd("bundle", "verify", copy / "b.tar", "--key", copy / "o.pub")[0] == 0


def pem_of(key, secret=None):
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if secret is not None:
        encryption = serialization.BestAvailableEncryption(secret)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def test_keys_of_other_kinds_and_files_that_are_none_are_refused(copy, edgekd):
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (copy / "rsa.pem").write_bytes(pem_of(other))
    public = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (copy / "rsa.pub").write_bytes(public)
    (copy / "text").write_text("no key")
    for command, key, said in (
        ("verify", "rsa.pub", "not a key for Ed25519"),
        ("verify", "release.pem", "a private key"),
        ("verify", "text", "not a public key"),
        ("verify", "none", "No such file"),
        ("sign", "rsa.pem", "openssl genpkey"),
        ("sign", "release.pub", "not a private key"),
        ("sign", "none", "No such file"),
    ):
        code, _, err = edgekd("bundle", command, copy / "b.tar", "--key", copy / key)
        assert code == 2, err
        assert said in err
    code, _, err = edgekd("bundle", "verify", copy / "b.tar", "--signature", copy / "b.tar.sig")
    assert code == UsageError.exit_code
    assert "add --key" in err


def test_a_key_with_a_passphrase_is_asked_for_it(copy):
    path = copy / "secret.pem"
    path.write_bytes(pem_of(Ed25519PrivateKey.generate(), b"open sesame"))
    with signing.signer(str(path), ask=lambda _: "open sesame") as signer:
        packing.sign(copy / "b.tar", signer)
    verification.verify_bundle(copy / "b.tar", trusted=(signer.public,))
    with (
        pytest.raises(InputFileError, match="passphrase is wrong"),
        signing.signer(str(path), ask=lambda _: "no"),
    ):
        pass
    with pytest.raises(UsageError, match="nobody is here"), signing.signer(str(path), ask=nobody):
        pass


# --- tokens ---------------------------------------------------------------------------------------


@pytest.fixture
def token(tmp_path, monkeypatch, released):
    """A token of SoftHSM with the release key in it: its URI, but for the PIN."""
    pytest.importorskip("pkcs11", reason="the extra pkcs11 is not installed")
    module = next((path for path in SOFTHSM if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("no SoftHSM: Debian's softhsm2")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "conf").write_text(
        f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "conf"))
    pins = ("--pin", "1234")
    for arguments in (
        ("--init-token", "--free", "--label", "Release keys", "--so-pin", "5678", *pins),
        ("--import", released / "release.pem", "--token", "Release keys", "--label", "K", "--id", "01",
         *pins),
    ):  # fmt: skip
        ran = subprocess.run(
            ["softhsm2-util", *map(str, arguments)], capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
    (tmp_path / "pin").write_text("1234\n")
    return f"pkcs11:token=Release%20keys;object=K?module-path={module}"


def test_a_key_in_a_token_signs_as_its_file_does(token, copy, tmp_path, edgekd):
    """Ed25519 leaves no choice, so both ways give the same bytes. One test: a module is loaded once in a process."""
    expected = (copy / "b.tar.sig").read_bytes()
    (copy / "b.tar.sig").unlink()
    uri = f"{token}&pin-source=file:{tmp_path}/pin"
    code, _, err = edgekd("bundle", "sign", copy / "b.tar", "--key", uri)
    assert code == 0, err
    assert (copy / "b.tar.sig").read_bytes() == expected
    by_id = uri.replace("object=K", "id=%01")
    assert edgekd("bundle", "sign", copy / "b", "--key", by_id)[0] == 0
    (tmp_path / "wrong").write_text("4321")
    for changed, said in (
        (f"{token}&pin-source=file:{tmp_path}/wrong", "pin incorrect"),
        (uri.replace("object=K", "object=L"), "no such key"),
        (uri.replace("Release%20keys", "None"), "no such token"),
    ):
        code, _, err = edgekd("bundle", "sign", copy / "b.tar", "--key", changed)
        assert code == 2
        assert said in err


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("pkcs11:token=T;object=K", "no module-path"),
        ("pkcs11:object=K?module-path=/m", "no token"),
        ("pkcs11:token=T?module-path=/m", "which key"),
        ("pkcs11:token=T;object=K?module-path=/m&pin-value=1234", "seen by every user"),
        ("pkcs11:token=T;slot-id=K?module-path=/m", "slot-id is not understood"),
        ("pkcs11:token=T;object=K?module-path=/m", "nobody is here"),
    ],
)
def test_uris_that_are_not_understood_are_refused(uri, said):
    pytest.importorskip("pkcs11", reason="the extra pkcs11 is not installed")
    with pytest.raises(UsageError, match=said), signing.signer(uri, ask=nobody):
        pass


def test_a_bundle_that_failed_its_gates_is_signed_where_that_is_said_alone(tmp_path, edgekd):
    folder = write_bundle(
        tmp_path / "b",
        change=lambda made: replace(
            made,
            quality="failed",
            quality_gates=tuple(replace(gate, passed=False) for gate in made.quality_gates),
        ),
    )
    key, _ = key_pair(tmp_path)
    code, _, err = edgekd("bundle", "sign", folder, "--key", key)
    assert code == 4
    assert "--force" in err
    assert not (folder / "SHA256SUMS.sig").exists()
    assert edgekd("bundle", "sign", folder, "--key", key, "--force")[0] == 0
    assert (folder / "SHA256SUMS.sig").exists()
