"""One process at a time writes an output, and a run that was killed can be repeated.

Beside `out` lie, while it is written, `.out.tmp-lock`, `.out.tmp-new`, and for a moment `.out.tmp-old`, the output that is
replaced. The lock says which file is about to be renamed into place: an output that is this one was written by a run that
was killed since, and is no output of somebody else.
"""

import contextlib
import fcntl
import glob
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekd.errors import OutputError

TEMPORARY: Final = ".tmp-"
# Of the command that runs: outputs that are written, and what gives each free
_HELD: Final[ContextVar[dict[Path, Callable[[], None]] | None]] = ContextVar("held", default=None)


@dataclass(frozen=True)
class Output:
    """An output that this process alone is writing."""

    temporary: Path
    _lock: int

    def claim(self, made: Path) -> None:
        """Note what is about to be renamed into place, so that a repeated run knows it for its own."""
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, _identity(made), 0)


@contextlib.contextmanager
def sole_writer(path: Path, *, wait: bool, final: bool = False) -> Iterator[Output]:
    """Be the only process that writes an output, and remove what a killed one left of it.

    Its lock lies beside the output until the block ends, and stays where a signal ends it.

    Args:
        path: of the output.
        wait: for another process that is writing it, instead of refusing.
        final: whether it is what the command is for, and refused where it exists: it is then held until the command ends
            (`until_the_end`), since a kill before that is to be repeated too.

    Raises:
        OutputError: another process is writing it.
    """
    name = f".{path.name}{TEMPORARY}"
    lock, held = path.with_name(f"{name}lock"), _HELD.get()
    if held is not None and path in held:
        held.pop(path)()
    descriptor = _locked(lock, path, wait=wait)
    keep = False
    try:
        _remove_leftovers(path, keep=lock)
        yield Output(path.with_name(f"{name}new"), descriptor)
    except BaseException as error:
        # A signal while what follows is done: the output is there, and the same command is to go on
        keep = not isinstance(error, Exception) and left_by_killed(path)
        raise
    finally:

        def release() -> None:
            if not keep:
                lock.unlink(missing_ok=True)
            os.close(descriptor)

        if final and held is not None:
            held[path] = release
        else:
            release()


@contextlib.contextmanager
def until_the_end() -> Iterator[None]:
    """A command: it is the writer of its outputs until the block ends, after its last word."""
    held: dict[Path, Callable[[], None]] = {}
    token = _HELD.set(held)
    try:
        yield
    finally:
        _HELD.reset(token)
        for release in held.values():
            release()


def _locked(lock: Path, path: Path, *, wait: bool) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Whoever held it has removed it since: another may have made it anew
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise OutputError(
                f"{path}: another edgekd is writing it. Wait for it, or choose another --out."
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove_leftovers(path: Path, *, keep: Path) -> None:
    """What a killed process left; an output that it had only moved aside goes back."""
    aside = path.with_name(f".{path.name}{TEMPORARY}old")
    if aside.exists() and not path.exists():
        aside.rename(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}{TEMPORARY}*"):
        if leftover == keep:
            continue
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _identity(path: Path) -> bytes:
    """What a rename keeps, and what something else of the same name has not: numbers of inodes are used again."""
    found = path.stat()
    oldest = str(found.st_mtime_ns)
    if stat.S_ISDIR(found.st_mode):
        # Engines may be added to a folder that is in place
        times = sorted((entry.lstat().st_mtime_ns, entry.name) for entry in path.iterdir())
        oldest = str(times[:1])
    return f"{found.st_dev} {found.st_ino} {oldest}\n".encode()


def remove_at_once(folder: Path, *, of: Path) -> None:
    """Remove a folder beside an output: a run that is killed meanwhile finds it whole, or not at all.

    Args:
        folder: to remove.
        of: the output, whose next run removes what is left.
    """
    going = of.with_name(f".{of.name}{TEMPORARY}{folder.suffix.lstrip('.')}")
    if going.exists():
        shutil.rmtree(going)
    folder.rename(going)
    shutil.rmtree(going)


def left_by_killed(path: Path) -> bool:
    """Whether an output was written by a run that was killed before it ended: the same command goes on."""
    lock = path.with_name(f".{path.name}{TEMPORARY}lock")
    with contextlib.suppress(OSError):
        return lock.read_bytes() == _identity(path)
    return False
