"""Files and folders that are there whole or not at all, and their digests."""

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from edgekd.errors import InputFileError, OutputError
from edgekd.sole_writer import TEMPORARY, left_by_killed, sole_writer

AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2  # linux/fs.h


def digest_of(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """UTF-8 text of a file that a user named.

    Raises:
        InputFileError: it is missing, unreadable, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputFileError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})."
        ) from error
    except OSError as error:
        raise InputFileError(f"{path}: {error.strerror}.") from error


def write_atomically(
    path: Path,
    content: bytes | memoryview | str,
    *,
    final: bool = False,
    done: Callable[[], object] | None = None,
) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it into place.

    Args:
        path: of the file.
        content: of it.
        final: see `sole_writer`.
        done: see `new_file`.

    Raises:
        OutputError: it cannot be written.
    """
    with new_file(path, final=final, done=done) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def new_file(
    path: Path, *, final: bool = False, done: Callable[[], object] | None = None
) -> Iterator[IO[bytes]]:
    """A file to fill that appears at `path` whole, when the block ends without an error.

    Args:
        path: of the file.
        final: see `sole_writer`.
        done: what belongs to the same output and follows; a run that is killed before it ends can be repeated.

    Raises:
        OutputError: it cannot be written.
    """
    with translate_os_errors(path), sole_writer(path, wait=True, final=final) as output:
        try:
            with output.temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            output.claim(output.temporary)
            output.temporary.replace(path)
        except BaseException:
            output.temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        if done is not None:
            done()


def write_together(files: Sequence[tuple[Path, Callable[[], str]]]) -> None:
    """Write several files that are one output: until all are there, the first is `left_by_killed`.

    Args:
        files: each with what makes its text.

    Raises:
        OutputError: one cannot be written.
    """
    if files:
        (path, made), *rest = files
        write_atomically(path, made(), final=True, done=lambda: _write_each(rest))


def _refuse_existing(path: Path, *, force: bool) -> None:
    if (path.exists() or path.is_symlink()) and not force and not left_by_killed(path):
        raise OutputError(f"{path} exists. Choose another --out, or replace it with --force.")


def _write_each(files: Sequence[tuple[Path, Callable[[], str]]]) -> None:
    for path, made in files:
        write_atomically(path, made())


def sync_folder(folder: Path) -> None:
    """Make renames and new names inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path, *, force: bool) -> None:
    """Refuse an output folder before hours are spent on what goes into it.

    Raises:
        OutputError: it exists and `force` is false, or its parent cannot be written.
    """
    _refuse_existing(folder, force=force)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; the output is a folder. Choose another --out.")
    _probe(folder)


def check_writable_file(path: Path, *, force: bool) -> None:
    """The same for an output that is one file.

    Raises:
        OutputError: it exists and `force` is false, it is a folder, or its parent cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; the output is a file. Choose another --out.")
    _refuse_existing(path, force=force)
    _probe(path)


def _probe(path: Path) -> None:
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.parent / f".{path.name}{TEMPORARY}{os.getpid()}-probe"
        try:
            # Access bits do not tell of read-only mounts, quotas or full disks; a write does.
            probe.write_bytes(b"\0" * 4096)
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(
    folder: Path, *, force: bool, done: Callable[[], object] | None = None
) -> Iterator[Path]:
    """A folder to fill that appears at `folder` whole, when the block ends without an error.

    What a killed run left under a temporary name is removed first. A folder that exists is
    exchanged in one step, and the old one removed afterwards.

    Args:
        folder: the output.
        force: replace one that exists.
        done: what belongs to the same output and follows; a run that is killed before it ends can be repeated.

    Raises:
        OutputError: see `check_writable`; or the disk is full; or another process is writing it.
    """
    check_writable(folder, force=force)
    with translate_os_errors(folder), sole_writer(folder, wait=False, final=True) as output:
        # Another process may have written it since
        _refuse_existing(folder, force=force)
        temporary = output.temporary
        temporary.mkdir()
        try:
            yield temporary
            for path in sorted(temporary.rglob("*")):
                _sync(path)
            output.claim(temporary)
            _put_in_place(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder.parent)
        if done is not None:
            done()


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
        return
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _put_in_place(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        temporary.rename(folder)
        return
    if not _exchanged(temporary, folder):
        # No exchange on this file system: there is a moment without the folder, and the old
        # one is only moved aside, so nothing is lost if we die here.
        aside = folder.with_name(f".{folder.name}{TEMPORARY}old")
        folder.rename(aside)
        temporary.rename(folder)
        temporary = aside
    shutil.rmtree(temporary)


def _exchanged(first: Path, second: Path) -> bool:
    """Swap two names in one step, where the kernel and the file system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done = rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)
    return bool(done == 0)


@contextlib.contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about an output into what the user can do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise OutputError(
                f"{path}: the disk is full. Free some space, or choose another --out; "
                "the same command continues from its last checkpoint."
            ) from error
        if error.errno in {
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.ENAMETOOLONG,
        }:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror}). Choose another --out."
            ) from error
        raise
