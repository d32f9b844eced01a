"""Where a board is: `ssh://user@host:port`."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from edgekd.errors import UsageError
from edgekd.records import printable

_HOST: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.:%-]*$")
_USER: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.@-]*$")


@dataclass(frozen=True)
class Address:
    """`ssh://user@host:port`; what is left out is ssh's configuration's."""

    host: str
    user: str | None = None
    port: int | None = None

    @property
    def url(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{self.host}{f':{self.port}' if self.port else ''}"

    @property
    def words(self) -> list[str]:
        """As arguments of ssh: the destination last."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, f"{self.user}@{self.host}" if self.user else self.host]


def read_address(text: str) -> Address:
    """An address of a board.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urlsplit(text if "://" in text else f"ssh://{text}")
        host, user, port = parts.hostname or "", parts.username, parts.port
    except ValueError as error:
        raise UsageError(f"--device {printable(text)}: {error}.") from error
    good = parts.scheme == "ssh" and parts.path in {"", "/"} and not parts.query
    # A name that begins with a dash would be an option of ssh.
    if not (
        good and _HOST.match(host) and parts.password is None and (not user or _USER.match(user))
    ):
        raise UsageError(
            f"--device {printable(text)}: no address of a board. Give ssh://user@host, with :port where it is not 22; "
            "keys and jump hosts are taken from ~/.ssh/config."
        )
    return Address(host=host, user=user, port=port)
