"""Archives of bundles as OCI artefacts, through oras. The only place of edgekd that talks to a registry.

A manifest with one layer, the archive, and a second one, its signature, where there is one. Its names are not used:
where things go on this machine is said by who pulls them.
"""

import hashlib
import inspect
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from edgekd.bundle import archive
from edgekd.bundle.signing import LARGEST, SUFFIX
from edgekd.errors import (
    InputFileError,
    IntegrityError,
    MissingToolError,
    RegistryError,
    UsageError,
)
from edgekd.files import new_file

ARTIFACT: Final = "application/vnd.edgekd.bundle.v1"
LAYERS: Final = {
    archive.TAR: "application/vnd.edgekd.bundle.v1.tar",
    archive.ZST: "application/vnd.edgekd.bundle.v1.tar+zstd",
}
SIGNATURE: Final = "application/vnd.edgekd.signature.v1"
_TITLE: Final = "org.opencontainers.image.title"
# Bytes of an upload that are in memory
_CHUNK: Final = 4 * 2**20
_TIMEOUT_S: Final = 30.0  # of silence
_LARGEST_MANIFEST: Final = 4 * 2**20
# With a host that is one: without, the library would go to a public registry.
_REFERENCE: Final = re.compile(
    r"[A-Za-z0-9-]*[.:][A-Za-z0-9.:-]*/[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def push(path: Path, reference: str, *, plain_http: bool) -> str:
    """Send an archive, and the signature beside it; the digest of the manifest, to pull exactly this.

    Args:
        path: of the archive; that it is whole is the caller's matter.
        reference: HOST/NAME:TAG.
        plain_http: without TLS.

    Raises:
        MissingToolError: oras is not installed.
        RegistryError: the registry was not reached, or refused.
        UsageError: no reference.
    """
    with _connect(reference, plain_http) as (client, container):
        import oras.oci

        manifest: dict[str, Any] = oras.oci.NewManifest()
        manifest["artifactType"] = ARTIFACT
        manifest["annotations"] = {_TITLE: path.name}
        signature = path.with_name(path.name + SUFFIX)
        files = [(path, LAYERS[_suffix(path)])]
        files += [(signature, SIGNATURE)] if signature.is_file() else []
        for file, media_type in files:
            layer = oras.oci.NewLayer(str(file), media_type)
            layer["annotations"] = {_TITLE: file.name}
            _require_done(
                client.upload_blob(str(file), container, layer, do_chunked=True, chunk_size=_CHUNK)
            )
            manifest["layers"].append(layer)
        with tempfile.TemporaryDirectory() as folder:
            empty = Path(folder) / "config"
            empty.write_bytes(b"{}")
            config, _ = oras.oci.ManifestConfig(str(empty), ARTIFACT)
            _require_done(client.upload_blob(str(empty), container, config))
        manifest["config"] = config
        response = client.upload_manifest(manifest, container)
        _require_done(response)
        body = response.request.body
        return (
            "sha256:"
            + hashlib.sha256(body if isinstance(body, bytes) else body.encode()).hexdigest()
        )


def pull(reference: str, out: Path, *, plain_http: bool) -> Path | None:
    """Fetch an archive and its signature; where the signature lies, if there is one.

    Args:
        reference: HOST/NAME:TAG or HOST/NAME@sha256:DIGEST.
        out: for the archive; it has the suffix of what was pushed.
        plain_http: without TLS.

    Raises:
        IntegrityError: what came is not what the manifest, or the reference, names.
        MissingToolError, RegistryError, UsageError: see `push`.
    """
    with _connect(reference, plain_http) as (client, container):
        layers = _layers(_manifest(client, container, reference), reference)
        wanted = LAYERS[_suffix(out)]
        if wanted not in layers:
            there = next(suffix for suffix, kind in LAYERS.items() if kind in layers)
            raise UsageError(f"{reference} holds a {there}: name --out so, not {out.name}.")
        _fetch(client, container, layers[wanted], out, archive.LIMITS.bytes)
        if SIGNATURE not in layers:
            return None
        signature = out.with_name(out.name + SUFFIX)
        _fetch(client, container, layers[SIGNATURE], signature, LARGEST)
        return signature


def _suffix(path: Path) -> str:
    found = next((suffix for suffix in LAYERS if path.name.endswith(suffix)), None)
    if found is None:
        raise InputFileError(f"{path}: not an archive; make one: edgekd bundle pack BUNDLE")
    return found


@contextmanager
def _connect(reference: str, plain_http: bool) -> Iterator[tuple[Any, Any]]:
    """A client and the place that is meant; what goes wrong with them as an error of ours."""
    if not _REFERENCE.fullmatch(reference):
        raise UsageError(
            f"{reference}: write HOST/NAME:TAG, for example registry.example.com/models/mnist:1.0"
        )
    try:
        import oras.client
        import requests

        from edgekd.bundle.registry_login import RegistryLogin
    except ModuleNotFoundError as error:
        raise MissingToolError("Registries need oras: pip install 'edgekd[oci]'") from error
    try:
        client = oras.client.OrasClient(insecure=plain_http)
        container = client.get_container(reference)
        # The library waits without end for an answer, and repeats what failed for two minutes, refusals too.
        client.session.request = partial(client.session.request, timeout=_TIMEOUT_S)
        client.do_request = partial(inspect.unwrap(type(client).do_request), client)
        client.auth = RegistryLogin(container.registry, client.prefix, client.session)
        yield client, container
    except requests.exceptions.SSLError as error:
        raise RegistryError(
            f"{reference}: no TLS ({error}). For a registry without it: --plain-http"
        ) from error
    except (requests.exceptions.RequestException, ValueError, KeyError) as error:
        raise RegistryError(f"{reference}: {error}") from error


def _require_done(response: Any) -> None:  # noqa: ANN401
    if response.status_code == 401 and response.history:
        raise ValueError(
            f"it sent on to {urlsplit(response.url).netloc}, which asks for a login; none is given to another host"
        )
    if response.status_code == 401:
        raise ValueError("the registry refuses the login. Another: docker login HOST")
    if response.status_code not in {200, 201, 202}:
        raise ValueError(f"the registry answered {response.status_code} ({response.reason})")


def _manifest(client: Any, container: Any, reference: str) -> bytes:  # noqa: ANN401
    """The manifest's own bytes: a reference by digest is held to them."""
    headers = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    url = f"{client.prefix}://{container.manifest_url()}"
    with client.do_request(url, "GET", headers=headers, stream=True) as response:
        _require_done(response)
        data = bytearray()
        for chunk in response.iter_content(64 * 1024):
            data += chunk
            if len(data) > _LARGEST_MANIFEST:
                raise ValueError("its manifest is too large to be one")
    asked = reference.partition("@sha256:")[2]
    if asked and hashlib.sha256(data).hexdigest() != asked:
        raise IntegrityError(f"{reference}: the registry gave another manifest than this digest's.")
    return bytes(data)


def _layers(manifest: bytes, reference: str) -> dict[str, dict[str, Any]]:
    """By media type, each once."""
    try:
        plain = json.loads(manifest)
        found = [(str(layer["mediaType"]), layer) for layer in plain["layers"]]
        sound = all(
            re.fullmatch(r"sha256:[0-9a-f]{64}", layer["digest"]) and type(layer["size"]) is int
            for _, layer in found
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RegistryError(f"{reference}: its manifest is none of an artefact.") from error
    layers = dict(found)
    kinds = set(layers)
    if not sound or len(layers) != len(found) or len(kinds & set(LAYERS.values())) != 1:
        raise RegistryError(
            f"{reference}: not one bundle, but {', '.join(sorted(kinds)) or 'nothing'}."
        )
    return layers


def _fetch(client: Any, container: Any, layer: dict[str, Any], out: Path, most: int) -> None:  # noqa: ANN401
    size, digest = layer["size"], layer["digest"]
    if not 0 <= size <= most:
        raise IntegrityError(f"{container}: a layer of {size} bytes, of at most {most}.")
    count, found = 0, hashlib.sha256()
    with new_file(out) as sink, client.get_blob(container, digest, stream=True) as response:
        _require_done(response)
        for chunk in response.iter_content(archive.CHUNK):
            count += len(chunk)
            if count > size:
                break
            found.update(chunk)
            sink.write(chunk)
        if count != size or f"sha256:{found.hexdigest()}" != digest:
            raise IntegrityError(
                f"{container}: what came is not the layer that its manifest names."
            )
