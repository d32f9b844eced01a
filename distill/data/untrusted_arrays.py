"""Arrays of files that nobody vouches for: `.npy`, `.npz` and idx.

numpy believes what a header claims. Here a claim is compared with the file and with memory before
anything is allocated, and whatever the libraries raise over a damaged file becomes one error.
"""

import contextlib
import gzip
import math
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import numpy.typing as npt

from edgekd.distill.compute.memory import available_bytes
from edgekd.errors import EdgekdError, InputFileError

# Of a header; numpy's own limit, since its text is parsed as Python
_LONGEST_HEADER: Final = 10_000
_READERS: Final[dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Truth, numbers and text: no objects, records, dates
_KINDS: Final = frozenset("biufUS")
# What numpy.savez writes. Others cost memory that no header tells of.
_COMPRESSIONS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 1
# More members than any set has: the table of contents is parsed whole
_MOST_MEMBERS: Final = 10_000
_CHUNK: Final = 1 << 20
_NPY: Final = b"\x93NUMPY"
_ZIP: Final = b"PK"
_GZIP: Final = b"\x1f\x8b"
_IDX_TYPES: Final[dict[int, np.dtype[Any]]] = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_IDX_DIMENSIONS: Final = 32


@contextlib.contextmanager
def as_input_errors(path: Path, failure: str) -> Iterator[None]:
    """Within the block, whatever a library raises over the file at `path` is an error of the file.

    Only calls of libraries belong into it: a fault of ours would be taken for one of the file.

    Args:
        path: of the file.
        failure: what to say of it: "cannot be read as a table".

    Raises:
        InputFileError: something else than our own errors was raised.
    """
    try:
        yield
    except EdgekdError:
        raise
    except MemoryError as error:
        raise InputFileError(f"{path}: {failure} (it takes more memory than there is).") from error
    except OSError as error:
        # Of the operating system without the path, which is said already
        reason = error.strerror or str(error) or type(error).__name__
        raise InputFileError(f"{path}: {failure} ({reason}).") from error
    # A damaged file raises what no documentation lists: TypeError, IndexError, RecursionError ...
    except Exception as error:
        reason = _short(str(error)) or type(error).__name__
        raise InputFileError(f"{path}: {failure} ({reason}).") from error


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file: a pipe or a device could wait or give forever.

    Raises:
        InputFileError: it is missing, unreadable or something else.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            what = "a folder" if path.is_dir() else "a device or a pipe"
            raise InputFileError(f"{path}: {what}, where a file is expected.")
        return path.open("rb")
    except OSError as error:
        raise InputFileError(f"{path}: {error.strerror}.") from error


def require_memory(path: Path, claimed: int) -> None:
    """Refuse what does not fit into memory, before it is allocated.

    Args:
        path: of the file.
        claimed: bytes that its values take.

    Raises:
        InputFileError: there is less.
    """
    there = available_bytes()
    if there is not None and claimed > there:
        raise InputFileError(
            f"{path}: claims {claimed:,} bytes of values, more than the {there:,} bytes of memory that are free."
        )


def read_npy(path: Path, *, mapped: bool = False, what: str = "an array") -> npt.NDArray[Any]:
    """The array of a `.npy` file, in the byte order of this machine.

    Args:
        path: of the file.
        mapped: whether the values stay in the file until they are looked at.
        what: it is read as, for the message.

    Raises:
        InputFileError: not such a file, cut short, of objects or records, or larger than memory.
    """
    with open_file(path) as stream:
        size = path.stat().st_size
        with as_input_errors(path, f"cannot be read as {what}"):
            shape, fortran, dtype = _header(stream)
            _require_all(_bytes_of(shape, dtype), there=size - stream.tell())
            if mapped and _bytes_of(shape, dtype):
                return np.memmap(
                    path, dtype, "r", stream.tell(), shape, order="F" if fortran else "C"
                )
            require_memory(path, _bytes_of(shape, dtype))
            return _values(stream, shape, dtype, fortran=fortran)


class Archive:
    """The arrays of a `.npz` file by name; each is read when it is asked for."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in self._members:
                raise InputFileError(f"{path}: holds {_short(name)} twice; which is meant?")
            self._members[name] = member
        self.files = tuple(self._members)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """An array, in the byte order of this machine.

        Raises:
            KeyError: there is none of that name.
            InputFileError: it is no array, damaged, encrypted, or larger than memory.
        """
        member, path = self._members[name], self._path
        if member.flag_bits & _ENCRYPTED:
            raise InputFileError(f"{path}: {name} is encrypted; save it without a password.")
        if member.compress_type not in _COMPRESSIONS:
            raise InputFileError(
                f"{path}: {name} is compressed in a way that edgekd does not read "
                f"(method {member.compress_type}); save it with numpy.savez_compressed."
            )
        with (
            as_input_errors(path, f"{_short(name)} cannot be read as an array"),
            self._archive.open(member) as stream,
        ):
            shape, fortran, dtype = _header(stream)
            claimed = _bytes_of(shape, dtype)
            _require_all(claimed, there=member.file_size - stream.tell())
            require_memory(path, claimed)
            found = _values(stream, shape, dtype, fortran=fortran)
            # The checksum is looked at where the end is reached
            if stream.read(1):
                raise ValueError("more values than it claims")
            return found


@contextlib.contextmanager
def open_npz(path: Path, *, what: str = "arrays") -> Iterator[Archive]:
    """The arrays of a `.npz` file.

    Args:
        path: of the file.
        what: it is read as, for the message.

    Raises:
        InputFileError: not such a file, or a name stands twice in it.
    """
    with open_file(path) as stream:
        with as_input_errors(path, f"cannot be read as {what}"):
            archive = zipfile.ZipFile(stream)
        with archive:
            if len(archive.infolist()) > _MOST_MEMBERS:
                raise InputFileError(f"{path}: more than {_MOST_MEMBERS:,} members; not a set.")
            yield Archive(path, archive)


def read_idx(path: Path) -> npt.NDArray[Any]:
    """The values of an idx file, packed by gzip or not, in the byte order of this machine.

    LeCun's format: two zero bytes, type, dimensions, their sizes big-endian, values.

    Raises:
        InputFileError: not such a file, cut short, longer than it claims, or larger than memory.
    """
    with open_file(path) as file, as_input_errors(path, "cannot be read as an idx file"):
        # By what it is, not by its name: browsers unpack and keep the name
        packed = file.read(2) == _GZIP
        file.seek(0)
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file
        zero, kind, dimensions = struct.unpack(">HBB", stream.read(4))
        if zero != 0 or kind not in _IDX_TYPES or not 1 <= dimensions <= _IDX_DIMENSIONS:
            raise InputFileError(f"{path}: not an idx file.")
        shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
        dtype = _IDX_TYPES[kind]
        claimed = _bytes_of(shape, dtype)
        if not packed:
            _require_all(claimed, there=path.stat().st_size - stream.tell())
        require_memory(path, claimed)
        found = _values(stream, shape, dtype, fortran=False)
        if stream.read(1):
            raise ValueError("more values than it claims")
        return found


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type that a `.npy` claims; what it raises is translated by the caller."""
    magic = stream.read(len(_NPY))
    if magic.startswith(_ZIP):
        raise ValueError("an archive of arrays, not one array")
    if magic != _NPY:
        raise ValueError("it does not begin as a .npy file does")
    version = (stream.read(1) or b"?")[0], (stream.read(1) or b"?")[0]
    reader = _READERS.get(version)
    if reader is None:
        raise ValueError(f"version {version} of the format")
    with warnings.catch_warnings():
        # Of files that Python 2 wrote, which are read all the same
        warnings.simplefilter("ignore")
        shape, fortran, dtype = reader(stream, max_header_size=_LONGEST_HEADER)
    if dtype.kind not in _KINDS or (not dtype.itemsize and dtype.kind not in "US"):
        raise ValueError(f"it holds {_short(str(dtype))}, not numbers or text")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"the shape {_short(str(shape))}")
    if not dtype.itemsize and math.prod(shape) > 1:
        raise ValueError("values of no bytes")
    return shape, fortran, dtype


def _require_all(claimed: int, *, there: int) -> None:
    if claimed != there:
        raise ValueError(f"{claimed:,} bytes of values are claimed, {there:,} are there")


def _bytes_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _values(
    stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], *, fortran: bool
) -> npt.NDArray[Any]:
    """Values of a size that was compared with memory, read in parts that cost none beside them."""
    raw = np.empty(_bytes_of(shape, dtype), np.uint8)
    view, at = raw.data, 0
    while at < len(view):
        part = stream.read(min(_CHUNK, len(view) - at))
        if not part:
            raise EOFError(f"cut short: {at:,} of {len(view):,} bytes of values")
        view[at : at + len(part)] = part
        at += len(part)
    found: npt.NDArray[Any] = np.ndarray(shape, dtype, raw, order="F" if fortran else "C")
    return found.astype(dtype.newbyteorder("="), copy=False)


def _short(text: str) -> str:
    """The first line of what a file or a library says: headers are as long as their author likes."""
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= 200 else f"{line[:200]} ..."
