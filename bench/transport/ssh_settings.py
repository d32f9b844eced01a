"""What every call of ssh is told, whatever `~/.ssh/config` says of the host.

A config is written for people who log in: a command that starts tmux, a terminal, forwards, connections that stay. Here
ssh carries bytes of a program, so that what would change or swallow them is set on the command line, which goes first.
"""

import functools
import re
import subprocess
from typing import Final

CONNECT_S: Final = 15
_ALWAYS: Final = {
    # No question is asked, no key taken on trust
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    # One connection for all, which ends with the contact
    "ControlPersist": "no",
    "LogLevel": "ERROR",
    # stdin and stdout belong to the agent
    "RequestTTY": "no",
    "EscapeChar": "none",
    "PermitLocalCommand": "no",
    "VisualHostKey": "no",
    # Ports that are taken here already would end it (ExitOnForwardFailure); nothing of this host is lent to the board
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "Tunnel": "no",
}
# Options that an older ssh refuses, with the version that brought them (OpenSSH release notes)
_SINCE: Final = {
    (7, 6): {"RemoteCommand": "none"},
    (8, 7): {"SessionType": "default", "StdinNull": "no", "ForkAfterAuthentication": "no"},
}


def settings(socket: str, *, master: bool) -> list[str]:
    """Words for ssh.

    Args:
        socket: of the connection that all calls share.
        master: whether the call makes it.
    """
    chosen = _ALWAYS | {"ControlMaster": "yes" if master else "no", "ControlPath": socket}
    for version, options in _SINCE.items():
        if _version() >= version:
            chosen |= options
    if master:
        # -N
        chosen.pop("SessionType", None)
    return [word for name, value in chosen.items() for word in ("-o", f"{name}={value}")]


@functools.cache
def _version() -> tuple[int, int]:
    """Of the OpenSSH here; of another program none, which knows no options of newer ones."""
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False)
    found = re.search(r"OpenSSH\D*(\d+)\.(\d+)", said.stderr + said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)
