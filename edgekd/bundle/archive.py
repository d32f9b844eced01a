"""The archive of a bundle: one tar format to the byte, and a reader that takes nothing else.

It is what GNU tar writes with `--format=ustar --owner=0 --group=0 --numeric-owner --mode=0644 --mtime=@N`: plain files
only, in the order of their names' bytes. The headers are made here, because those of Python's tarfile differ between
its versions. The reader takes a name, a size and a date out of a header, and the header that is made from them must
be the one that it read: so there are no two archives of the same contents and date, and nothing to hide in.
"""

import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from edgekd.errors import InputFileError, IntegrityError, UsageError

BLOCK: Final = 512
# What GNU tar fills an archive up to
RECORD: Final = 20 * BLOCK
LONGEST_NAME: Final = 100
# Bytes, by the field of a header
LARGEST_FILE: Final = 8**11 - 1
# Seconds since 1970, likewise
LATEST: Final = 8**11 - 1
# 1980: the earliest date that ZIP and FAT know; tools warn of 1970.
DEFAULT_DATE: Final = 315_532_800
CHUNK: Final = 256 * 1024
TAR: Final = ".tar"
ZST: Final = ".tar.zst"
_NAME: Final = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_OCTAL: Final = re.compile(rb"[0-7]{11}\0")
# Of zstd; a window of 4 MiB
_LEVEL: Final = 12
# What a reader keeps at most: 16 MiB
_WINDOW_LOG: Final = 24
_KINDS: Final = {
    b"1": "a hard link",
    b"2": "a link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a pipe",
    b"g": "a header of the pax format",
    b"x": "a header of the pax format",
    b"K": "a header of the GNU format",
    b"L": "a header of the GNU format",
    b"S": "a sparse file",
    b"\0": "a file of a format before POSIX",
}


@dataclass(frozen=True, kw_only=True)
class ArchiveLimits:
    """What an archive may hold, so that a small one cannot fill a disk."""

    files: int = 4096
    # Of the plain archive
    bytes: int = 16 * 2**30
    # Of the plain archive to a compressed one
    ratio: int = 200
    # Bytes below which the ratio does not count
    ratio_from: int = 16 * 2**20


LIMITS: Final = ArchiveLimits()


@dataclass(frozen=True, kw_only=True)
class ArchiveEntry:
    """A file in an archive: `size` bytes from `offset` of the plain archive on."""

    name: str
    size: int
    offset: int

    @property
    def place(self) -> str:
        return f"bytes {self.offset} to {self.offset + self.size} of the archive"


@dataclass(frozen=True, kw_only=True)
class Checksum:
    sha256: str
    size: int


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


def date_of(environment: Mapping[str, str]) -> int:
    """The date that every file of an archive gets: `SOURCE_DATE_EPOCH`, or 1980.

    Raises:
        UsageError: it is no date that a header can hold.
    """
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return DEFAULT_DATE
    if not re.fullmatch(r"[0-9]{1,11}", text) or int(text) > LATEST:
        raise UsageError(
            f"SOURCE_DATE_EPOCH={text}: write whole seconds since 1970, from 0 to {LATEST}."
        )
    return int(text)


def is_archive(path: Path) -> bool:
    """Whether a path is meant as an archive, by its name; folders are bundles as they are."""
    return path.name.endswith((TAR, ZST)) and not path.is_dir()


# --- writing --------------------------------------------------------------------------------------


def header(name: bytes, size: int, date: int) -> bytes:
    """The 512 bytes before a file's own."""
    fields = (
        name.ljust(LONGEST_NAME, b"\0"),
        b"0000644\0" + b"0000000\0" + b"0000000\0",  # mode, owner, group
        b"%011o\0" % size + b"%011o\0" % date,
        b" " * 8,  # the sum, taken with blanks in its place
        b"0" + bytes(100),  # a plain file, no link
        b"ustar\0" + b"00" + bytes(32 + 32),  # no names of owner and group
        b"0000000\0" + b"0000000\0",  # no device
        bytes(155 + 12),
    )
    plain = b"".join(fields)
    return plain[:148] + b"%06o\0 " % sum(plain) + plain[156:]


def write_archive(
    folder: Path, names: Iterable[str], sink: IO[bytes], *, date: int, compressed: bool
) -> dict[str, Checksum]:
    """Write files of a folder as an archive; the sums of what was written.

    Args:
        folder: that they lie in.
        names: of the files, in any order.
        sink: gets the archive.
        date: seconds since 1970.
        compressed: by zstd, as one frame with a sum of its own.

    Raises:
        InputFileError: a name or size that the format does not hold.
        IntegrityError: a file is a link, or changed while it was read.
    """
    encoder = _compressor() if compressed else None

    def put(data: bytes | memoryview) -> None:
        sink.write(data if encoder is None else encoder.compress(data))

    sums: dict[str, Checksum] = {}
    written = 0
    for name in sorted(names, key=str.encode):
        sums[name] = _write_file(folder, name, put, date)
        written += BLOCK + _up_to(sums[name].size, BLOCK)
    put(bytes(_up_to(written + 2 * BLOCK, RECORD) - written))
    if encoder is not None:
        sink.write(encoder.flush())
    return sums


def _write_file(
    folder: Path, name: str, put: Callable[[bytes | memoryview], None], date: int
) -> Checksum:
    encoded = name.encode()
    if not _NAME.fullmatch(encoded) or len(encoded) > LONGEST_NAME:
        raise InputFileError(f"{folder / name}: no name for an archive, or longer than 100 bytes.")
    # What is a link by now was a file when the folder was looked at.
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise IntegrityError(f"{folder / name}: {error.strerror}.") from error
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        found = os.fstat(stream.fileno())
        size = found.st_size
        if not stat.S_ISREG(found.st_mode):
            raise IntegrityError(f"{folder / name}: not a plain file.")
        if size > LARGEST_FILE:
            raise InputFileError(f"{folder / name}: an archive holds files of less than 8 GiB.")
        put(header(encoded, size, date))
        digest, count = hashlib.sha256(), 0
        buffer = memoryview(bytearray(CHUNK))
        while got := stream.readinto(buffer):
            digest.update(buffer[:got])
            put(buffer[:got])
            count += got
    if count != size:
        raise IntegrityError(f"{folder / name}: changed while it was packed.")
    put(bytes(_up_to(size, BLOCK) - size))
    return Checksum(sha256=digest.hexdigest(), size=size)


def _up_to(size: int, unit: int) -> int:
    return -(-size // unit) * unit


# --- reading --------------------------------------------------------------------------------------


def read_archive(
    path: Path,
    stream: IO[bytes],
    take: Callable[[ArchiveEntry], Callable[[bytes], None]],
    *,
    limits: ArchiveLimits = LIMITS,
) -> dict[str, ArchiveEntry]:
    """Read an archive that nobody has vouched for, from its first byte to its last.

    Args:
        path: by whose name it is plain or compressed; for messages.
        stream: its bytes.
        take: asked about each file before its bytes come; answers with what takes them, in pieces.
        limits: to what it may hold.

    Returns:
        Its files, in their order.

    Raises:
        IntegrityError: it is not what `write` writes; says at which byte, of the plain archive.
    """
    length = os.fstat(stream.fileno()).st_size
    if path.name.endswith(ZST):
        source: Source = _Inflated(path, stream, length, limits)
        found = _read_plain(path, source, take, limits)
    else:
        found = _read_plain(path, stream, take, limits)
    return found


def _read_plain(
    path: Path,
    source: Source,
    take: Callable[[ArchiveEntry], Callable[[bytes], None]],
    limits: ArchiveLimits,
) -> dict[str, ArchiveEntry]:
    found: dict[str, ArchiveEntry] = {}
    date: bytes | None = None
    at = 0
    last = b""
    while (block := _exactly(source, BLOCK, at, path)) != bytes(BLOCK):
        name, size = _understood(block, at, path)
        date = date or block[136:148]
        if block[136:148] != date:
            raise _wrong(path, at + 136, "another date than that of the first file")
        if name <= last:
            what = "a second time" if name.decode() in found else "out of order"
            raise _wrong(path, at, f"{name.decode()} comes {what}")
        if any(parent in found for parent in _parents(name.decode())):
            raise _wrong(path, at, f"{name.decode()} lies in a file")
        if len(found) == limits.files:
            raise _wrong(path, at, f"more than {limits.files} files")
        entry = ArchiveEntry(name=name.decode(), size=size, offset=at + BLOCK)
        if entry.offset + size > limits.bytes:
            raise _wrong(path, at, f"more than the {limits.bytes} bytes that it may have")
        found[entry.name], last = entry, name
        _pass_on(source, entry, take(entry), path)
        at = entry.offset + _up_to(size, BLOCK)
        padding = _exactly(source, at - entry.offset - size, entry.offset + size, path)
        _require_zeros(padding, entry.offset + size, path, f"after {entry.name}")
    end = _up_to(at + 2 * BLOCK, RECORD)
    rest = _exactly(source, end - at - BLOCK, at + BLOCK, path)
    _require_zeros(rest, at + BLOCK, path, "after the last file")
    if source.read(1):
        raise _wrong(path, end, "bytes after its end")
    return found


def _understood(block: bytes, at: int, path: Path) -> tuple[bytes, int]:
    """Name and size of a header that is exactly what is written for them."""
    name = block[:LONGEST_NAME].rstrip(b"\0")
    shown = name.decode("ascii", "backslashreplace")
    kind = block[156:157]
    if kind in _KINDS and block[257:262] == b"ustar":
        raise _wrong(path, at + 156, f"{shown} is {_KINDS[kind]}; only plain files are taken")
    if not _NAME.fullmatch(name):
        raise _wrong(path, at, f"{shown!r} is no name for a file of a bundle")
    for start, what in ((124, "size"), (136, "date")):
        if not _OCTAL.fullmatch(block[start : start + 12]):
            raise _wrong(path, at + start, f"no {what} of {shown}")
    size, date = int(block[124:135], 8), int(block[136:147], 8)
    expected = header(name, size, date)
    if block != expected:
        first = next(i for i in range(BLOCK) if block[i] != expected[i])
        raise _wrong(path, at + first, f"the header of {shown} is not what edgekd writes for it")
    return name, size


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    for count in range(1, len(parts)):
        yield "/".join(parts[:count])


def _pass_on(
    source: Source, entry: ArchiveEntry, taker: Callable[[bytes], None], path: Path
) -> None:
    left = entry.size
    while left:
        data = source.read(min(CHUNK, left))
        if not data:
            raise _wrong(path, entry.offset + entry.size - left, f"cut short in {entry.name}")
        taker(data)
        left -= len(data)


def _exactly(source: Source, size: int, at: int, path: Path) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = source.read(size - len(data))
        if not more:
            raise _wrong(path, at + len(data), "cut short")
        data += more
    return bytes(data)


def _require_zeros(data: bytes, at: int, path: Path, where: str) -> None:
    filled = len(data) - len(data.lstrip(b"\0"))
    if filled != len(data):
        raise _wrong(path, at + filled, f"bytes that are not zero {where}")


def _wrong(path: Path, at: int, what: str) -> IntegrityError:
    inside = " of the tar inside" if path.name.endswith(ZST) else ""
    return IntegrityError(
        f"{path}: not an archive as edgekd writes it: at byte {at}{inside}: {what}."
    )


# --- zstd -----------------------------------------------------------------------------------------

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd


def _compressor() -> "zstd.ZstdCompressor":
    return zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.compression_level: _LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
            # One thread: more of them cut the input, and so the output, elsewhere.
            zstd.CompressionParameter.nb_workers: 0,
        }
    )


class _Inflated:
    """The bytes inside of one zstd frame, never more of them at a time than are asked for."""

    def __init__(self, path: Path, stream: IO[bytes], length: int, limits: ArchiveLimits) -> None:
        self._path, self._stream = path, stream
        self._most = min(limits.bytes, max(limits.ratio_from, limits.ratio * length))
        self._decoder = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        )
        # Bytes of the file
        self._taken = 0
        self._given = 0

    def read(self, size: int, /) -> bytes:
        while not self._decoder.eof:
            data = b""
            if self._decoder.needs_input:
                data = self._stream.read(CHUNK)
                if not data:
                    raise self._wrong("cut short")
                self._taken += len(data)
            try:
                out = self._decoder.decompress(data, max_length=size)
            except zstd.ZstdError as error:
                raise self._wrong(f"no zstd: {error}") from error
            self._given += len(out)
            if self._given > self._most:
                raise self._wrong(f"it unpacks to more than {self._most} bytes")
            if out:
                return out
        if self._decoder.unused_data or self._stream.read(1):
            self._taken -= len(self._decoder.unused_data)
            raise self._wrong("bytes after its end")
        return b""

    def _wrong(self, what: str) -> IntegrityError:
        return IntegrityError(f"{self._path}: about byte {self._taken}: {what}.")
