"""Bundles through a registry: Debian's docker-registry on loopback."""

import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from edgekd.bundle import (
    archive,
    oci_registry,
    packing,
    signing,
    verification,
)
from edgekd.errors import RegistryError
from tests.edgekd.bundles import key_pair, write_bundle

CONFIGURATION = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: 127.0.0.1:{port}}}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A registry of its own: its host and where it keeps what it was given."""
    pytest.importorskip("oras", reason="the extra oci is not installed")
    if shutil.which("docker-registry") is None:
        pytest.skip("no registry: Debian's docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "c.yml").write_text(CONFIGURATION.format(folder=folder / "kept", port=port))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "c.yml")], stdout=log, stderr=log
        )
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
        yield f"127.0.0.1:{port}", folder / "kept"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def place(tmp_path):
    folder = write_bundle(tmp_path / "b")
    private, _ = key_pair(tmp_path)
    key_pair(tmp_path, "other", seed=2)
    for name in ("b.tar", "b.tar.zst"):
        packing.pack(folder, tmp_path / name, date=archive.DEFAULT_DATE, force=False)
    with signing.signer(str(private), ask=lambda _: None) as signer:
        packing.sign(tmp_path / "b.tar", signer)
    return tmp_path


def test_what_is_pulled_is_what_was_pushed(host, place, edgekd):
    reference = f"{host[0]}/models/mnist:1.0"
    code, out, err = edgekd("bundle", "push", place / "b.tar", reference, "--plain-http")
    assert code == 0, err
    by_digest = out.strip()
    assert by_digest.startswith(f"{reference}@sha256:")
    for number, asked in enumerate((reference, by_digest)):
        target = place / f"p{number}.tar"
        arguments = ("--out", target, "--plain-http", "--key", place / "release.pub")
        code, out, err = edgekd("bundle", "pull", asked, *arguments)
        assert code == 0, err
        assert "signed with" in out
        assert target.read_bytes() == (place / "b.tar").read_bytes()
        assert verification.signature_of(target).read_bytes() == (place / "b.tar.sig").read_bytes()


def test_the_manifest_is_that_of_an_artefact(host, place):
    reference = f"{host[0]}/models/shape:1.0"
    digest = oci_registry.push(place / "b.tar", reference, plain_http=True)
    asked = urllib.request.Request(
        f"http://{host[0]}/v2/models/shape/manifests/1.0",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(asked, timeout=10) as response:
        text = response.read()
    assert f"sha256:{hashlib.sha256(text).hexdigest()}" == digest
    manifest = json.loads(text)
    assert manifest["config"]["mediaType"] == "application/vnd.edgekd.bundle.v1"
    assert [layer["mediaType"] for layer in manifest["layers"]] == [
        "application/vnd.edgekd.bundle.v1.tar",
        "application/vnd.edgekd.signature.v1",
    ]
    # The same bundle is the same artefact.
    assert oci_registry.push(place / "b.tar", reference, plain_http=True) == digest


def test_a_compressed_archive_without_a_signature(host, place, edgekd):
    reference = f"{host[0]}/models/mnist:zst"
    assert edgekd("bundle", "push", place / "b.tar.zst", reference, "--plain-http")[0] == 0
    pull = ("bundle", "pull", reference, "--plain-http", "--out")
    code, _, err = edgekd(*pull, place / "p.tar")
    assert code == 2
    assert "holds a .tar.zst" in err
    code, _, err = edgekd(*pull, place / "p.tar.zst", "--key", place / "release.pub")
    assert code == 7
    assert "not signed" in err
    assert not (place / "p.tar.zst").exists()
    code, out, _ = edgekd(*pull, place / "p.tar.zst")
    assert code == 0
    assert "not signed" in out
    code, _, err = edgekd(*pull, place / "p.tar.zst")
    assert code == 2
    assert "exists" in err


def test_what_does_not_hold_is_not_there_after_a_pull(host, place, edgekd):
    reference = f"{host[0]}/models/other:1"
    assert edgekd("bundle", "push", place / "b.tar", reference, "--plain-http")[0] == 0
    before = sorted(path.name for path in place.iterdir())
    arguments = ("--out", place / "p.tar", "--plain-http", "--key", place / "other.pub")
    code, _, err = edgekd("bundle", "pull", reference, *arguments)
    assert code == 7
    assert "another key" in err
    assert sorted(path.name for path in place.iterdir()) == before


def test_a_registry_that_gives_other_bytes_is_found_out(host, place, edgekd):
    reference = f"{host[0]}/models/spoilt:1"
    # Its own blobs: those that others have are shared.
    folder = write_bundle(place / "own", teacher="own.pt")
    packing.pack(folder, place / "own.tar", date=archive.DEFAULT_DATE, force=False)
    code, out, _ = edgekd("bundle", "push", place / "own.tar", reference, "--plain-http")
    assert code == 0
    digest = hashlib.sha256((place / "own.tar").read_bytes()).hexdigest()
    (blob,) = host[1].rglob(f"sha256/{digest[:2]}/{digest}/data")
    data = blob.read_bytes()
    blob.write_bytes(data[:5000] + b"?" + data[5001:])
    pull = ("bundle", "pull", reference, "--plain-http", "--out", place / "p.tar")
    code, _, err = edgekd(*pull)
    assert code == 7
    assert "not the layer" in err
    assert not (place / "p.tar").exists()
    manifest = out.strip().rpartition(":")[2]
    (blob,) = host[1].rglob(f"sha256/{manifest[:2]}/{manifest}/data")
    blob.write_bytes(blob.read_bytes().replace(b"own.tar", b"not.tar"))
    code, _, err = edgekd(*pull[:2], out.strip(), *pull[3:])
    assert code == 7
    assert "another manifest" in err


def test_what_is_no_bundle_in_a_registry_is_refused(host, place):
    with pytest.raises(RegistryError, match="404"):
        oci_registry.pull(f"{host[0]}/models/none:1", place / "p.tar", plain_http=True)
    for text, said in (
        (b"{}", "none of an artefact"),
        (b"[1", "none of an artefact"),
        (b'{"layers": []}', "not one bundle, but nothing"),
        (b'{"layers": [{"mediaType": "x", "digest": "y", "size": 3}]}', "but x"),
        (b'{"layers": [{"mediaType": "x", "digest": 3, "size": 3}]}', "none of an artefact"),
    ):
        with pytest.raises(RegistryError, match=said):
            oci_registry._layers(text, "r")


def test_a_registry_that_is_not_there_is_said_at_once(place, edgekd):
    pytest.importorskip("oras", reason="the extra oci is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    reference = f"127.0.0.1:{port}/models/mnist:1"
    code, _, err = edgekd("bundle", "push", place / "b.tar", reference, "--plain-http")
    assert code == RegistryError.exit_code
    assert "refused" in err
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "reference",
    ["mnist", "models/mnist:1", "localhost/x:1", "https://h.a/x", "h:1/X", "h:1/x:1@sha256:12"],
)
def test_references_without_a_host_are_refused(place, edgekd, reference):
    """The library would take them for names in a public registry."""
    code, _, err = edgekd("bundle", "push", place / "b.tar", reference)
    assert code == 2
    assert "HOST/NAME:TAG" in err
