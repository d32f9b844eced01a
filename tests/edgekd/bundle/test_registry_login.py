"""Logins at registries: Debian's docker-registry with htpasswd, and servers that would like to have them."""

import base64
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edgekd.bundle import archive, packing
from edgekd.errors import InputFileError, MissingToolError, RegistryError
from tests.edgekd.bundles import write_bundle

oras = pytest.importorskip("oras", reason="the extra oci is not installed")

from edgekd.bundle.registry_login import Login, find_login  # noqa: E402 - brings requests

CONFIGURATION = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/kept}}}}
http: {{addr: 127.0.0.1:{port}}}
auth: {{htpasswd: {{realm: Registry, path: {folder}/htpasswd}}}}
"""
BASIC = base64.b64encode(b"anna:s3cret:x").decode()


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """The host of a registry that asks for a name and a password."""
    for program in ("docker-registry", "htpasswd"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: Debian's docker-registry and apache2-utils")
    folder = tmp_path_factory.mktemp("registry")
    written = subprocess.run(
        ["htpasswd", "-nbB", "anna", "s3cret:x"], capture_output=True, check=True
    ).stdout
    (folder / "htpasswd").write_bytes(written.strip() + b"\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "c.yml").write_text(CONFIGURATION.format(folder=folder, port=port))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "c.yml")], stdout=log, stderr=log
        )
    try:
        for _ in range(100):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def configure(tmp_path, monkeypatch):
    """Write docker's configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()

    def write(content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "docker" / "config.json").write_text(text)

    return write


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """A helper called docker-credential-test."""

    def write(script):
        program = tmp_path / "bin" / "docker-credential-test"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return write


@pytest.fixture
def packed(tmp_path):
    folder = write_bundle(tmp_path / "b")
    packing.pack(folder, tmp_path / "b.tar", date=archive.DEFAULT_DATE, force=False)
    return tmp_path / "b.tar"


GIVES = """printf '{"ServerURL": "x", "Username": "anna", "Secret": "s3cret:x"}'"""


@pytest.mark.parametrize("way", ["auths", "address", "names", "credsStore", "credHelpers"])
def test_what_docker_login_wrote_opens_a_registry(
    registry, configure, helper, packed, tmp_path, edgekd, way
):
    helper(GIVES)
    configure(
        {
            "auths": {"auths": {registry: {"auth": BASIC}}},
            "address": {"auths": {f"http://{registry}/v1/": {"auth": BASIC}}},
            "names": {"auths": {registry: {"username": "anna", "password": "s3cret:x"}}},
            "credsStore": {"auths": {registry: {}}, "credsStore": "test"},
            "credHelpers": {"credHelpers": {registry: "test"}},
        }[way]
    )
    reference = f"{registry}/models/{way.lower()}:1"
    code, out, err = edgekd("bundle", "push", packed, reference, "--plain-http")
    assert code == 0, err
    for number, asked in enumerate((reference, out.strip())):
        target = tmp_path / f"p{number}.tar"
        code, _, err = edgekd("bundle", "pull", asked, "--plain-http", "--out", target)
        assert code == 0, err
        assert target.read_bytes() == packed.read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "asks for a login. Give one: docker login"),
        ({"auths": {"127.0.0.1:1": {"auth": BASIC}}}, "asks for a login"),
        ({"auths": {"HOST": {"auth": base64.b64encode(b"anna:no").decode()}}}, "refuses the login"),
    ],
    ids=["none", "of another", "wrong"],
)
def test_without_the_right_login_it_is_said_what_to_do(
    registry, configure, packed, edgekd, content, said
):
    configure(json.dumps(content).replace("HOST", registry))
    for arguments in (("push", packed), ("pull",)):
        reference = (*arguments, f"{registry}/models/x:1", "--plain-http")
        more = () if arguments[0] == "push" else ("--out", packed.with_name("p.tar"))
        code, _, err = edgekd("bundle", *reference, *more)
        assert code == 6
        assert said in err
        assert BASIC not in err


def test_a_login_that_is_not_needed_is_not_read(configure, packed, edgekd, listener):
    configure("{ damaged")
    host = listener(lambda _: (404, {}, b""))
    code, _, err = edgekd(
        *("bundle", "pull", f"{host}/m/x:1", "--plain-http", "--out", packed.with_name("p.tar"))
    )
    assert code == 6
    assert "404" in err


@pytest.fixture
def listener():
    """Servers that answer as a function says, and keep the headers that they were sent."""
    servers = []

    def start(answer, heard=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if heard is not None:
                    heard.append((self.command, self.path, self.headers.get("Authorization")))
                length = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(length)
                code, headers, body = answer(self)
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815 - names of the library

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def basic_or(found):
    """Asks for the login first."""

    def answer(request):
        if not request.headers.get("Authorization"):
            return 401, {"WWW-Authenticate": 'Basic realm="R"'}, b""
        return found(request)

    return answer


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_login_elsewhere(configure, packed, edgekd, listener, code):
    heard: list[tuple[str, str, str | None]] = []
    other = listener(lambda _: (404, {}, b""), heard)
    host = listener(
        basic_or(lambda request: (code, {"Location": f"http://{other}{request.path}"}, b""))
    )
    configure({"auths": {host: {"auth": BASIC}, other: {"auth": BASIC}}})
    pull = ("bundle", "pull", f"{host}/m/x:1", "--plain-http", "--out", packed.with_name("p.tar"))
    assert edgekd(*pull)[0] == 6
    assert heard
    assert {header for _, _, header in heard} == {None}


def test_a_redirect_that_asks_for_a_login_gets_none(configure, packed, edgekd, listener):
    heard: list[tuple[str, str, str | None]] = []
    other = listener(lambda _: (401, {"WWW-Authenticate": 'Basic realm="R"'}, b""), heard)
    host = listener(
        basic_or(lambda request: (307, {"Location": f"http://{other}{request.path}"}, b""))
    )
    configure({"auths": {host: {"auth": BASIC}, other: {"auth": BASIC}}})
    code, _, err = edgekd(
        *("bundle", "pull", f"{host}/m/x:1", "--plain-http", "--out", packed.with_name("p.tar"))
    )
    assert code == 6
    assert "another host" in err
    assert {header for _, _, header in heard} == {None}


def test_an_upload_that_is_sent_elsewhere_takes_no_login_along(configure, packed, edgekd, listener):
    heard: list[tuple[str, str, str | None]] = []
    other = listener(lambda _: (201, {}, b""), heard)
    host = listener(
        basic_or(
            lambda request: (
                (202, {"Location": f"http://{other}/upload"}, b"")
                if request.command == "POST"
                else (404, {}, b"")
            )
        )
    )
    configure({"auths": {host: {"auth": BASIC}, other: {"auth": BASIC}}})
    edgekd("bundle", "push", packed, f"{host}/m/x:1", "--plain-http")
    assert heard
    assert {header for _, _, header in heard} == {None}


@pytest.mark.parametrize("same", [True, False], ids=["its own", "another host"])
def test_tokens_are_got_with_the_login_from_the_registry_alone(
    configure, packed, edgekd, listener, same
):
    heard: list[tuple[str, str, str | None]] = []
    realm: list[str] = []

    def answer(request):
        if request.path.startswith("/token"):
            return 200, {}, b'{"token": "abc"}'
        if request.headers.get("Authorization") == "Bearer abc":
            return 404, {}, b""
        asked = f'Bearer realm="{realm[0]}",service="s",scope="repository:m/x:pull,push"'
        return 401, {"WWW-Authenticate": asked}, b""

    host = listener(answer, heard)
    other = listener(answer, heard)
    realm.append(f"http://{host if same else other}/token")
    configure({"auths": {host: {"auth": BASIC}, other: {"auth": BASIC}}})
    pull = ("bundle", "pull", f"{host}/m/x:1", "--plain-http", "--out", packed.with_name("p.tar"))
    code, _, err = edgekd(*pull)
    assert code == 6
    got = [(path, header) for _, path, header in heard if path.startswith("/token")]
    if same:
        assert "404" in err
        assert got == [
            ("/token?service=s&scope=repository%3Am%2Fx%3Apull%2Cpush", f"Basic {BASIC}")
        ]
    else:
        assert "another host" in err
        assert got == []
    # Without a login anybody may give a token
    heard.clear()
    configure({})
    code, _, err = edgekd(*pull)
    assert "404" in err
    assert {header for _, path, header in heard if path.startswith("/token")} == {None}


def test_a_token_that_a_helper_keeps_is_exchanged(configure, packed, edgekd, listener, helper):
    bodies = []

    def answer(request):
        if request.path == "/token":
            bodies.append(request.command)
            return 200, {}, b'{"access_token": "abc"}'
        if request.headers.get("Authorization") == "Bearer abc":
            return 404, {}, b""
        return 401, {"WWW-Authenticate": f'Bearer realm="http://{host}/token",service="s"'}, b""

    host = listener(answer)
    helper("""printf '{"Username": "<token>", "Secret": "long"}'""")
    configure({"credsStore": "test"})
    pull = ("bundle", "pull", f"{host}/m/x:1", "--plain-http", "--out", packed.with_name("p.tar"))
    code, _, err = edgekd(*pull)
    assert (code, bodies) == (6, ["POST"]), err
    assert "404" in err


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Bearer", 'Bearer realm="Registry"', 'Bearer realm="file:///etc/passwd"', 'Digest realm="x"'])  # fmt: skip
def test_a_challenge_that_is_none_is_said(configure, packed, edgekd, listener, challenge):
    host = listener(lambda _: (401, {"WWW-Authenticate": challenge}, b""))
    configure({"auths": {host: {"auth": BASIC}}})
    pull = ("bundle", "pull", f"{host}/m/x:1", "--plain-http", "--out", packed.with_name("p.tar"))
    code, _, err = edgekd(*pull)
    assert code == 6
    assert host in err


@pytest.mark.parametrize(
    ("content", "host", "login"),
    [
        ({"auths": {"h.io": {"auth": BASIC}}}, "h.io", Login("anna", "s3cret:x")),
        ({"auths": {"h.io": {"auth": BASIC}}}, "h.io:5000", None),
        ({"auths": {"h.io": {"auth": BASIC}}}, "x.h.io", None),
        ({"auths": {"https://h.io/v2/": {"auth": BASIC}}}, "h.io", Login("anna", "s3cret:x")),
        (
            {"auths": {"https://index.docker.io/v1/": {"auth": BASIC}}},
            "docker.io",
            Login("anna", "s3cret:x"),
        ),
        ({"auths": {"h.io": {"identitytoken": "t"}}}, "h.io", Login("<token>", "t")),
        ({"auths": {"h.io": None}}, "h.io", None),
        ({"auths": []}, "h.io", None),
        ({"credsStore": 3}, "h.io", None),
    ],
)
def test_logins_are_found_by_the_host_and_its_port(configure, content, host, login):
    configure(content)
    assert find_login(host) == login


@pytest.mark.parametrize(
    "content",
    ["{", "[" * 100_000, "[]", '{"auths": {"h.io": {"auth": "?"}}}', '{"auths": {"h.io": {"auth": "YWJj"}}}', '{"credsStore": "../x"}'],
    ids=["cut", "nested", "a list", "no base64", "no colon", "a path"],
)  # fmt: skip
def test_a_damaged_configuration_is_named(configure, content):
    configure(content)
    with pytest.raises(InputFileError, match=r"config\.json"):
        find_login("h.io")


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'credentials not found in native keychain'; exit 1", None),
        ("exit 1", None),
        ("echo locked >&2; exit 1", RegistryError),
        ("echo nonsense", RegistryError),
        ("echo '[]'", RegistryError),
        ("""echo '{"Username": 3, "Secret": null}'""", RegistryError),
    ],
)
def test_helpers_that_have_none_or_fail(configure, helper, script, found):
    helper(script)
    configure({"credsStore": "test"})
    if found is None:
        assert find_login("h.io") is None
    else:
        with pytest.raises(found, match="docker-credential-test"):
            find_login("h.io")


def test_a_helper_that_is_missing_is_a_missing_tool(configure):
    configure({"credsStore": "nowhere-at-all"})
    with pytest.raises(MissingToolError, match="docker-credential-nowhere-at-all"):
        find_login("h.io")
