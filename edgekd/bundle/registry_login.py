"""The login of a registry: from `docker login`, and to nobody but the registry that was named.

The oras library sends what it has to every address that a registry names, and knows no registries that ask for a name
and a password themselves (`Basic`, as Debian's docker-registry with htpasswd). So requests are signed here.
"""

import base64
import binascii
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from edgekd.errors import InputFileError, MissingToolError, RegistryError
from edgekd.files import read_text

_TIMEOUT_S: Final = 30.0
# A helper may ask the user to unlock something
_HELPER_S: Final = 120.0
_CHALLENGE: Final = re.compile(r"\s*(\w+)(?:\s+(.*))?", re.DOTALL)
_PARAMETER: Final = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Docker Hub has its logins on another host, and under another name
_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HUB_LOGINS: Final = "auth.docker.io"
_HUB_KEY: Final = "https://index.docker.io/v1/"
# As helpers call what is no password but a token that others are got with
_IDENTITY: Final = "<token>"
_LARGEST_ANSWER: Final = 1 << 20


@dataclass(frozen=True)
class Login:
    """A name and a password, or a token that others are got with."""

    user: str
    secret: str

    @property
    def header(self) -> str:
        return f"Basic {base64.b64encode(f'{self.user}:{self.secret}'.encode()).decode()}"


class RegistryLogin(AuthBase):
    """Signs requests to one registry; takes the place of oras's own backend.

    Args:
        host: of the registry, with its port: "registry.example.com:5000".
        prefix: "http" or "https".
        session: that requests go through.
    """

    def __init__(self, host: str, prefix: str, session: requests.Session) -> None:
        self._host, self._prefix, self._session = host, prefix, session
        self._origin = _origin(f"{prefix}://{host}")
        self._header: str | None = None
        session.auth = self

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request, if it goes to the registry: uploads may be sent elsewhere."""
        if self._header is not None and _origin(request.url or "") == self._origin:
            request.headers["Authorization"] = self._header
        return request

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], refresh: bool = False
    ) -> tuple[dict[str, str], bool]:
        """What oras calls where a request was refused, before it tries once more.

        Args:
            original: the refusal.
            headers: of the request.
            refresh: whether it is refused for the second time.

        Raises:
            InputFileError, MissingToolError: the login cannot be read.
            RegistryError: there is no login, or it is refused, or it would go to another host.
        """
        if original.status_code == 403 or refresh:
            raise RegistryError(
                f"{self._host}: the login has no right to this (403). Another: docker login {self._host}"
            )
        if _origin(original.url) != self._origin:
            raise RegistryError(
                f"{self._host} sent on to {urlsplit(original.url).netloc}, which asks for a login. None is given to "
                "another host."
            )
        scheme, asked = _parse(original.headers.get("WWW-Authenticate", ""))
        if scheme == "basic":
            login = find_login(self._host)
            if login is None:
                raise RegistryError(
                    f"{self._host} asks for a login. Give one: docker login {self._host}"
                )
            if login.header == self._header:
                raise RegistryError(
                    f"{self._host} refuses the login of {login.user!r}. Another: docker login {self._host}"
                )
            self._header = login.header
        elif scheme == "bearer":
            self._header = f"Bearer {self._token(asked)}"
        else:
            raise RegistryError(f"{self._host} asks for a login of a kind that is not known.")
        return headers, True

    def _token(self, asked: dict[str, str]) -> str:
        """A token of the address that the registry names; the login goes there only if it is the registry's own."""
        realm = asked.get("realm", "")
        if urlsplit(realm).scheme not in {"http", "https"}:
            raise RegistryError(f"{self._host} names no address that gives tokens.")
        login = find_login(self._host)
        parameters = {key: asked[key] for key in ("service", "scope") if key in asked}
        if login is not None and not self._is_own(realm):
            raise RegistryError(
                f"{self._host} wants the login to be sent to {urlsplit(realm).netloc}, another host. edgekd does not. "
                f"If it is right, pull with docker or oras; without a login: docker logout {self._host}"
            )
        if login is not None and login.user == _IDENTITY:
            form = parameters | {"grant_type": "refresh_token", "client_id": "edgekd"}
            form["refresh_token"] = login.secret
            # What is posted would be sent again to where a redirect leads
            answer = self._session.post(
                realm, data=form, auth=_Unsigned(), timeout=_TIMEOUT_S, allow_redirects=False
            )
        else:
            signed = _Unsigned() if login is None else _Signed(login.header)
            answer = self._session.get(realm, params=parameters, auth=signed, timeout=_TIMEOUT_S)
        if answer.status_code in {401, 403}:
            raise RegistryError(
                f"{self._host} refuses the login. Another: docker login {self._host}"
            )
        try:
            plain = json.loads(answer.content[:_LARGEST_ANSWER]) if answer.ok else {}
        except (ValueError, RecursionError):
            plain = {}
        token = (
            (plain.get("token") or plain.get("access_token")) if isinstance(plain, dict) else None
        )
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryError(f"{self._host}: {urlsplit(realm).netloc} gave no token.")
        return token

    def _is_own(self, realm: str) -> bool:
        """Whether an address is the registry's: itself, or with TLS the domain that it lies in, as registry.gitlab.com does."""
        if _origin(realm) == self._origin:
            return True
        where, host = urlsplit(realm), urlsplit(f"{self._prefix}://{self._host}").hostname or ""
        if where.scheme != "https" or self._prefix != "https" or where.port not in {None, 443}:
            return False
        name = where.hostname or ""
        return (host in _HUB and name == _HUB_LOGINS) or (
            name.count(".") >= 1
            and not name.replace(".", "").isdigit()
            and host.endswith(f".{name}")
        )


class _Unsigned(AuthBase):
    """Nothing, and nothing of `.netrc` either."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Signed(AuthBase):
    def __init__(self, header: str) -> None:
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", "", None
    return parts.scheme, (parts.hostname or "").lower(), port


def _parse(challenge: str) -> tuple[str, dict[str, str]]:
    """Scheme and parameters of WWW-Authenticate."""
    found = _CHALLENGE.match(challenge)
    if found is None:
        return "", {}
    asked = {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
        for name, quoted, plain in _PARAMETER.findall(found[2] or "")
    }
    return found[1].lower(), asked


# --- what docker login wrote ------------------------------------------------------------------------


def find_login(host: str) -> Login | None:
    """The login of a registry in docker's configuration; None where there is none.

    Args:
        host: with its port.

    Raises:
        InputFileError: the configuration is damaged.
        MissingToolError: a helper that it names is not installed.
        RegistryError: a helper fails.
    """
    folder = os.environ.get("DOCKER_CONFIG")
    path = (Path(folder) if folder else Path.home() / ".docker") / "config.json"
    if not path.exists():
        return None
    try:
        plain: Any = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{path}: not JSON. Log in anew: docker login {host}") from error
    if not isinstance(plain, dict):
        raise InputFileError(f"{path}: not a configuration of docker.")
    keys = [key for name in ("auths", "credHelpers") for key in _table(plain, name)]
    named = [key for key in dict.fromkeys(keys) if _host_of(key) == _host_of(host)]
    for key in [*named, _HUB_KEY if host in _HUB else host]:
        helper = _table(plain, "credHelpers").get(key) or plain.get("credsStore")
        found = _ask(helper, key, path) if isinstance(helper, str) and helper else None
        found = found or _inline(_table(plain, "auths").get(key), key, path)
        if found is not None:
            return found
    return None


def _table(plain: dict[str, Any], name: str) -> dict[str, Any]:
    found = plain.get(name)
    return found if isinstance(found, dict) else {}


def _host_of(key: str) -> str:
    """Keys are hosts, or addresses of a version of the interface: "https://host:5000/v1/"."""
    host = key.split("://", 1)[-1].split("/", 1)[0].lower()
    return "docker.io" if host in _HUB else host


def _inline(entry: Any, key: str, path: Path) -> Login | None:  # noqa: ANN401
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("identitytoken"), str) and entry["identitytoken"]:
        return Login(_IDENTITY, entry["identitytoken"])
    text = entry.get("auth")
    if isinstance(text, str) and text:
        try:
            user, colon, secret = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, ValueError) as error:
            raise InputFileError(
                f"{path}: the login of {key} is damaged. Anew: docker login {key}"
            ) from error
        if not colon:
            raise InputFileError(f"{path}: the login of {key} is damaged. Anew: docker login {key}")
        # docker pads some with zero bytes
        return Login(user, secret.rstrip("\0"))
    name, password = entry.get("username"), entry.get("password")
    if isinstance(name, str) and name and isinstance(password, str):
        return Login(name, password)
    return None


def _ask(helper: str, key: str, path: Path) -> Login | None:
    """The login that a program keeps; None where it has none for this registry."""
    if not _HELPER.fullmatch(helper):
        raise InputFileError(f"{path}: {helper!r} is no name of a helper.")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=key.encode(),
            capture_output=True,
            check=False,
            timeout=_HELPER_S,
        )
    except FileNotFoundError as error:
        raise MissingToolError(
            f"{program} keeps the logins, says {path}, and is not installed."
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryError(f"{program} did not answer ({type(error).__name__}).") from error
    if done.returncode:
        # Helpers say so on stdout, with a code as for failures
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        if "not found" in said.lower() or not said:
            return None
        raise RegistryError(f"{program} failed: {said.splitlines()[-1][:200]}")
    try:
        plain = json.loads(done.stdout)
        user, secret = plain["Username"], plain["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RegistryError(f"{program} answered nonsense.") from error
    if not isinstance(user, str) or not isinstance(secret, str):
        raise RegistryError(f"{program} answered nonsense.")
    return Login(user, secret)
