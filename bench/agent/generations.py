"""What was made on a board, kept so that a power cut leaves the old one or the new one, whole.

<state>/<signature>-<n>/   one made thing and `record.json`; never changed once it has this name
<state>/current            a link to the one to run
<state>/previous           a link to the one before
<state>/status.json        what the last start found
<state>/lock               held while one is made

Data is flushed before the name that leads to it: files, their folder, its name, then `current`.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from typing import Any, Dict, Iterator, List, Optional

from edgekd.bench.agent.commands import digest_of_file
from edgekd.bench.agent.errors import RefusedError

FORMAT = 1
RECORD = "record.json"
STATUS = "status.json"
CURRENT = "current"
PREVIOUS = "previous"
_NAME = re.compile(r"([0-9a-f]{16})-([0-9]+)")


def sync(path: str) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Generations:
    """A state folder; outside of the slots of an A/B system, for both use it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others out, and remove what a cut start left.

        Raises:
            RefusedError: somebody else has it, or it cannot be written.
        """
        try:
            os.makedirs(self.folder, exist_ok=True)
            with open(self._path("lock"), "a", encoding="ascii") as lock:
                self._take(lock)
                self.clean()
                yield
        except OSError as error:
            raise RefusedError(
                "state", "{}: {}".format(error.filename or self.folder, error.strerror)
            ) from error

    def list_kept(self, signature: str) -> List[str]:
        """Names of what was made under a signature and is whole, the newest first."""
        found = [name for name in self._names() if name.startswith(signature + "-")]
        found.sort(key=lambda name: int(name.rpartition("-")[2]), reverse=True)
        return [name for name in found if self.record(name) is not None]

    def record(self, name: Optional[str]) -> Optional[Dict[str, Any]]:
        """Of a made thing; None where it is missing or damaged."""
        if name is None:
            return None
        try:
            with open(self._path(name, RECORD), encoding="utf-8") as stream:
                record: Dict[str, Any] = json.load(stream)
            file, digest = record["file"], record["digest"]
            if record["format"] == FORMAT and os.path.basename(file) == file:
                return record if digest_of_file(self._path(name, file)) == digest else None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def file(self, name: str) -> str:
        """Where a made thing lies that has a record."""
        record = self.record(name) or {}
        return self._path(name, record["file"])

    def begin(self) -> str:
        """A folder to make something in; without a name yet."""
        folder = self._path(".new")
        os.mkdir(folder)
        return folder

    def publish(self, folder: str, signature: str, record: Dict[str, Any]) -> str:
        """Give what was made its name. It is not current yet."""
        numbers = [int(name.rpartition("-")[2]) for name in self._names()]
        name = "{}-{}".format(signature, max([0, *numbers]) + 1)
        self._write(os.path.join(folder, RECORD), dict(record, format=FORMAT))
        for each in sorted(os.listdir(folder)):
            sync(os.path.join(folder, each))
        sync(folder)
        os.rename(folder, self._path(name))
        sync(self.folder)
        return name

    def point(self, name: str) -> None:
        """Make one current, and keep the one before."""
        before = self.target(CURRENT)
        if before == name:
            return
        if self.record(before) is not None:
            self._link(PREVIOUS, before)
        self._link(CURRENT, name)

    def prune(self) -> None:
        """Remove all but the current one and the one before: the other slot's."""
        for name in self._names():
            if name not in (self.target(CURRENT), self.target(PREVIOUS)):
                # Under another name first: what is half removed must not look like one that is kept.
                os.rename(self._path(name), self._path(".old-" + name))
        self.clean()

    def clean(self) -> None:
        """Remove what has no name: half made, or half removed."""
        for name in os.listdir(self.folder):
            path = self._path(name)
            if name.startswith(".") and os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif name in (".status", ".link"):
                os.unlink(path)

    def target(self, kind: str) -> Optional[str]:
        """What `current` or `previous` leads to."""
        try:
            name = os.readlink(self._path(kind))
        except OSError:
            return None
        return name if _NAME.fullmatch(name) else None

    def say(self, **status: Any) -> None:
        """Write what this start found, for updaters and people."""
        part = self._path(".status")
        self._write(part, dict(status, format=FORMAT, current=self.target(CURRENT)))
        sync(part)
        os.replace(part, self._path(STATUS))
        sync(self.folder)

    def _take(self, lock: Any) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise RefusedError("busy", "another start has {}".format(self.folder)) from error

    def _link(self, kind: str, name: Optional[str]) -> None:
        part = self._path(".link")
        os.symlink(name or "", part)
        os.replace(part, self._path(kind))
        sync(self.folder)

    def _write(self, path: str, values: Dict[str, Any]) -> None:
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(values, stream, indent=1, sort_keys=True)
            stream.write("\n")

    def _names(self) -> List[str]:
        return sorted(name for name in os.listdir(self.folder) if _NAME.fullmatch(name))

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)
