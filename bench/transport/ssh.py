"""A board over ssh: the system's OpenSSH, an agent pushed by its digest, nothing left behind.

On the board there is one folder, `~/.cache/edgekd` (or under `XDG_CACHE_HOME`). Agents, models and vectors lie in its
`store` by their SHA-256 and stay, so that a second run sends nothing; what belongs to one contact is in `runs`, and is
removed at its end, or at the next contact if the link was cut. A lock lets one host in at a time.
"""

import contextlib
import getpass
import logging
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from edgekd.bench.protocol.responses import (
    PROTOCOL,
    HeldResponse,
    HelloResponse,
    RefusedResponse,
    Response,
    Text,
    Whole,
    read_answer,
)
from edgekd.bench.transport import agent_process, bootstrap_scripts
from edgekd.bench.transport.agent_zipapp import agent_archive
from edgekd.bench.transport.ssh_address import Address
from edgekd.bench.transport.ssh_settings import CONNECT_S, settings
from edgekd.errors import DeviceError, IntegrityError, MissingToolError
from edgekd.files import digest_of
from edgekd.records import printable, record

logger = logging.getLogger(__name__)

CONTACT_S: Final = 60.0
PUSH_S: Final = 3600.0
HEARTBEAT_S: Final = 5.0
OLDEST_PYTHON: Final = (3, 6)
# ssh's own code: everything else is the remote command's
SSH_FAILED: Final = 255

# What OpenSSH says, and what to do about it.
_REASONS: Final = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is another one than before. If the board was set up "
     "anew, remove the old key: ssh-keygen -R {host}; else somebody may stand between"),
    ("Host key verification failed", "its host key is not known here. Look at it once: ssh {url}, or ssh-keyscan"),
    ("Permission denied", "the user or the key is wrong: BatchMode asks for no password. Try: ssh {url}"),
    ("Could not resolve hostname", "no such name. Check the address, or ~/.ssh/config"),
    ("No route to host", "there is no route to it. Is it switched on, and in this network?"),
    ("Network is unreachable", "there is no route to it. Is it switched on, and in this network?"),
    ("Connection refused", "nothing answers there. Does sshd run on that port?"),
    ("Connection timed out", "it does not answer. Is it switched on, and in this network?"),
    ("timed out", "the link was lost"),
    ("Connection reset", "the link was lost"),
    ("Broken pipe", "the link was lost"),
    ("closed by remote host", "the link was lost"),
    ("not responding", "the link was lost"),
)  # fmt: skip

# A command that ends when stdin closes, so that a killed bench leaves no connection open. What a shell starts in the
# background has no stdin; a second descriptor has.
_GUARDED: Final = (
    "sh",
    "-c",
    'exec 3<&0; "$@" 3<&- & p=$!; { read -r _ <&3; kill "$p"; } 2>/dev/null & wait "$p"',
    "sh",
)
PYTHONS: Final = ("python3", "/usr/bin/python3", "/usr/local/bin/python3")


@record
class _Contact:
    home: Text
    python: Annotated[tuple[Whole, ...], Field(min_length=3, max_length=3)]
    missing: Annotated[tuple[Text, ...], Field(max_length=16)]
    executable: Annotated[Text, Field(min_length=1)]
    store: Annotated[tuple[Text, ...], Field(max_length=100_000)]


class SshAccess:
    """A board that is held: locked, with its agent there, until the block ends."""

    def __init__(
        self, address: Address, *, python: str | None = None, options: Sequence[str] = ()
    ) -> None:
        """Reach nothing yet.

        Args:
            address: of the board.
            python: the program there; None: the first `python3`.
            options: more words for ssh, before the destination.
        """
        self.address = address
        # Names and bytes of what was pushed
        self.sent: list[tuple[str, int]] = []
        self._options = tuple(options)
        self._pythons = (python,) if python is not None else PYTHONS
        self._folder = ""
        self._stack = contextlib.ExitStack()
        self._python = ""
        self._agent = ""
        self._home = ""
        self._store: set[str] = set()
        self._run_folder = ""

    @property
    def name(self) -> str:
        return self.address.url

    def __enter__(self) -> "SshAccess":
        """Contact the board, push the agent, take the lock.

        Raises:
            DeviceError: it cannot be reached, its disk is full, or somebody else has it.
            MissingToolError: no ssh here, or no usable Python there.
        """
        if shutil.which("ssh") is None:
            raise MissingToolError(
                "ssh is not installed here. On Debian: apt install openssh-client"
            )
        with self._stack:
            # A short name: the path of a socket has at most 107 bytes.
            self._folder = self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ekd-", dir="/tmp")
            )
            self._connect()
            self._contact()
            archive = Path(self._folder, "agent.pyz")
            archive.write_bytes(agent_archive())
            self._agent = self.place(archive)
            self._hold()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def place(self, file: Path) -> str:
        digest = digest_of(file)
        if digest in self._store:
            return f"{self._home}/store/{digest}"
        with file.open("rb") as stream:
            return self._send(file.name, digest, file.stat().st_size, stream)

    def engine_path(self, name: str) -> str:
        return f"{self._home}/engines/{name}"

    def ask(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        heard: Callable[[Response], None] | None = None,
    ) -> list[Response]:
        command = [
            *("env", *(f"{name}={value}" for name, value in (environment or {}).items())),
            *(self._python, self._agent, *arguments),
            *("--run-folder", self._run_folder, "--watch-stdin", "--deadline-s", f"{timeout_s:g}"),
        ]
        return agent_process.ask(
            self._ssh(command),
            timeout_s=timeout_s + CONNECT_S,
            heard=heard,
            explain=self._explain,
            hold_stdin=True,
        )

    def clear(self) -> None:
        """Remove all that edgekd keeps on the board, and let it go.

        Raises:
            DeviceError: it was lost.
        """
        self._let_go()
        self._run([self._python, "-c", bootstrap_scripts.CLEAR, self._home])
        self._store.clear()

    # --- the steps of a contact ----------------------------------------------------------------

    def _connect(self) -> None:
        """One connection, in a process of its own, that all others go through."""
        errors = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        master = subprocess.Popen(
            [*_GUARDED, "ssh", "-N", "-T", *self._settings(master=True), *self.address.words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # an interrupt is for this program, which then cleans up through it
        )
        self._stack.callback(_end_process, master)
        deadline = time.monotonic() + 2 * CONNECT_S
        while not Path(self._socket).exists():
            if master.poll() is not None:
                errors.seek(0)
                self._explain(SSH_FAILED, errors.read(8192).decode(errors="replace"))
            if time.monotonic() > deadline:
                raise DeviceError(f"{self.name} did not answer within {2 * CONNECT_S:g} s.")
            time.sleep(0.02)

    def _contact(self) -> None:
        tries = "; ".join(
            f'command -v {name} >/dev/null 2>&1 && exec {name} -c "$c"'
            for name in map(shlex.quote, self._pythons)
        )
        script = f"c={shlex.quote(bootstrap_scripts.CONTACT)}; {tries}; exit {bootstrap_scripts.NO_PYTHON}"
        done = self._run(["sh", "-c", script], codes={0, bootstrap_scripts.NO_PYTHON})
        if done.returncode == bootstrap_scripts.NO_PYTHON:
            tried = ", ".join(self._pythons)
            raise MissingToolError(
                f"{self.name} has no Python 3 ({tried}); the agent needs 3.6 or newer. Name another: --device-python"
            )
        try:
            found = TypeAdapter(_Contact).validate_json(done.stdout, strict=False)
        except ValidationError as error:
            text = printable(done.stdout[:80].decode(errors="replace"))
            raise DeviceError(
                f"{self.name} answered nonsense: {text!r}. Does its shell print something at login?"
            ) from error
        version = ".".join(map(str, found.python))
        if found.python[:2] < OLDEST_PYTHON:
            raise MissingToolError(
                f"{self.name} has Python {version}; the agent needs 3.6 or newer."
            )
        if found.missing:
            raise MissingToolError(
                f"{self.name}: its Python {version} lacks {', '.join(found.missing)}. Install the whole of it (Debian: "
                "apt install python3; Yocto: python3-modules)."
            )
        self._python = found.executable
        self._home = found.home
        self._store = {name for name in found.store if re.fullmatch(r"[0-9a-f]{64}", name)}

    def _send(self, name: str, digest: str, size: int, stream: IO[bytes]) -> str:
        logger.info("%s: sending %s, %d bytes", self.name, name, size)
        command = [self._python, "-c", bootstrap_scripts.PUSH, self._home, digest, str(size)]
        done = self._run(
            command,
            given=stream,
            codes={0, bootstrap_scripts.NO_SPACE, bootstrap_scripts.CUT},
            timeout_s=PUSH_S,
        )
        if done.returncode == bootstrap_scripts.NO_SPACE:
            text = (
                printable(done.stderr.decode(errors="replace")).partition("no space: ")[2].strip()
            )
            raise DeviceError(
                f"{self.name} has no room for {name} ({text}). Make room, or: edgekd bench clean --device {self.name}"
            )
        if done.returncode == bootstrap_scripts.CUT:
            raise IntegrityError(f"{name} did not arrive whole at {self.name}. Try again.")
        self._store.add(digest)
        self.sent.append((name, size))
        return f"{self._home}/store/{digest}"

    def _hold(self) -> None:
        owner = f"{getpass.getuser()}@{socket.gethostname()} (process {os.getpid()})"
        command = [self._python, self._agent, "hold", "--home", self._home, "--owner", owner]
        errors = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        holder = subprocess.Popen(
            self._ssh([*command, "--protocol", str(PROTOCOL)]),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        self._holder = holder
        self._silent = threading.Event()
        self._stack.callback(self._let_go)
        watch = threading.Timer(CONTACT_S, holder.kill)
        watch.start()
        try:
            held = self._await_hello(holder)
        finally:
            watch.cancel()
        if held is None:
            holder.wait()
            errors.seek(0)
            self._explain(holder.returncode, errors.read(4096).decode(errors="replace"))
            raise DeviceError(f"{self.name}: the agent did not take the board.")
        if held.cleaned:
            logger.info("%s: %d contacts were cut before; cleaned up", self.name, held.cleaned)
        self._run_folder = held.folder
        threading.Thread(target=self._beat, daemon=True).start()

    def _await_hello(self, holder: subprocess.Popen[bytes]) -> HeldResponse | None:
        assert holder.stdout is not None
        for number, line in enumerate(holder.stdout, start=1):
            answer = read_answer(line, number)
            match answer:
                case HeldResponse():
                    return answer
                case RefusedResponse():
                    raise DeviceError(f"{self.name}: {answer.message}. Wait, or ask them.")
                case HelloResponse() if answer.protocol == PROTOCOL:
                    continue
                case _:
                    raise DeviceError(f"{self.name}: the agent answered nonsense.")
        return None

    def _beat(self) -> None:
        """Tell the board now and then that this host is there."""
        assert self._holder.stdin is not None
        while not self._silent.wait(HEARTBEAT_S):
            try:
                self._holder.stdin.write(b"\n")
                self._holder.stdin.flush()
            except (OSError, ValueError):
                # The next question will find the link cut, and say so
                return

    def _let_go(self) -> None:
        """Close the pipe that holds the board, and wait until it is clean."""
        self._silent.set()
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            self._holder.stdin.close()
        try:
            self._holder.wait(CONNECT_S)
        except subprocess.TimeoutExpired:
            logger.warning("%s: not reached any more; the next contact cleans it up", self.name)
            self._holder.kill()
            self._holder.wait()
        self._holder.stdout.close()

    # --- ssh ------------------------------------------------------------------------------------

    @property
    def _socket(self) -> str:
        return f"{self._folder}/c"

    def _settings(self, *, master: bool = False) -> list[str]:
        """Of every call."""
        return [*settings(self._socket, master=master), *self._options]

    def _ssh(self, command: Sequence[str]) -> list[str]:
        """A command there; ssh joins its words and the remote shell splits them, so each is quoted."""
        words = ["ssh", "-T", *self._settings(), *self.address.words, "--"]
        return [*words, "exec", *map(shlex.quote, command)]

    def _run(
        self,
        command: Sequence[str],
        *,
        given: IO[bytes] | None = None,
        codes: set[int] | None = None,
        timeout_s: float = CONTACT_S,
    ) -> subprocess.CompletedProcess[bytes]:
        """A short command on the board.

        Raises:
            DeviceError: it cannot be reached, or the command failed.
        """
        try:
            done = subprocess.run(
                self._ssh(command),
                stdin=given or subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{self.name} did not answer within {timeout_s:g} s.") from error
        if done.returncode not in (codes or {0}):
            text = done.stderr.decode(errors="replace")
            self._explain(done.returncode, text)
            raise DeviceError(
                f"{self.name}: a command failed with code {done.returncode}: {_last(text)}"
            )
        return done

    def _explain(self, code: int, text: str) -> None:
        """Raise where ssh itself failed, in words that help."""
        if code != SSH_FAILED:
            return
        for words, advice in _REASONS:
            if words.lower() in text.lower():
                host = (
                    f"[{self.address.host}]:{self.address.port}"
                    if self.address.port
                    else self.address.host
                )
                raise DeviceError(
                    f"{self.name}: {advice.format(host=host, url=self.name)}.{_quote(text)}"
                )
        raise DeviceError(f"{self.name}: ssh failed, or the link was lost.{_quote(text)}")


def _end_process(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _last(text: str) -> str:
    lines = [printable(line) for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _quote(text: str) -> str:
    lines = [
        printable(line)
        for line in text.splitlines()
        if line.strip() and "Its last words" not in line
    ]
    return f"\n  {lines[-1].strip()}" if lines else ""
