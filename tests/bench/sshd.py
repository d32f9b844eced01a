"""An OpenSSH server on a loopback port, with a folder of its own as the agent's home."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
REASON = "no OpenSSH server here: apt install openssh-server"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@dataclass
class Server:
    """A running server, and what a client needs to reach it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return "ssh://board"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def options(self) -> tuple[str, ...]:
        return ("-F", str(self.config))

    @property
    def home(self) -> Path:
        """The agent's folder on the "board"."""
        return self.folder / "cache" / "edgekd"

    def sessions(self) -> list[int]:
        """Processes of the connections."""
        done = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(word) for word in done.stdout.split()]

    def cut(self) -> None:
        """End all connections, as a cable that is pulled and noticed does."""
        for number in self.sessions():
            subprocess.run(["pkill", "-KILL", "-P", str(number)], check=False)
            # It may have ended with its children
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, 9)


def start(folder: Path, *settings: str, key_known: bool = True) -> Server:
    """Start a server whose commands have `folder/cache` as their cache.

    Args:
        folder: empty.
        settings: more lines of sshd_config.
        key_known: whether the client knows its host key.
    """
    if not os.access(SSHD, os.X_OK):
        pytest.skip(REASON)
    for name in ("host", "client"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    port = free_port()
    (folder / "authorized").write_text((folder / "client.pub").read_text())
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    environment = f"XDG_CACHE_HOME={folder / 'cache'}"
    lines = [
        *settings,
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'authorized'}",
        f"PidFile {folder / 'pid'}",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "StrictModes no",
        "UsePAM no",
    ]
    if not any(line.startswith("SetEnv") for line in settings):
        lines.append(f"SetEnv {environment}")
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    known = f"[127.0.0.1]:{port} " + " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(known + "\n" if key_known else "")
    write_config(folder, port)
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log, stdout=log
        )
    wait_for(port, process, folder / "sshd.log")
    return Server(folder, port, process)


def write_config(folder: Path, port: int, *more: str, user: str | None = None) -> None:
    """What the client is told, in OpenSSH's own file."""
    lines = [
        "Host board",
        "  HostName 127.0.0.1",
        f"  Port {port}",
        f"  User {user or pwd.getpwuid(os.getuid()).pw_name}",
        f"  IdentityFile {folder / 'client'}",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {folder / 'known'}",
        *(f"  {line}" for line in more),
    ]
    (folder / "ssh_config").write_text("\n".join(lines) + "\n")


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"sshd ended: {log.read_text()}")
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"sshd does not listen: {log.read_text()}")


def stop(server: Server) -> None:
    server.cut()
    server.process.terminate()
    server.process.wait(20)


def settled(condition: object, seconds: float = 20) -> bool:
    """Whether something becomes true within a while."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def listing(folder: Path) -> Sequence[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
