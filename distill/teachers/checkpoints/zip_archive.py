"""torch's zip archives of stored members: each member is checked before any is read."""

import io
import math
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, Final

from edgekd.distill.teachers.checkpoints.file_contents import (
    LARGEST_PICKLE,
    SUFFIXES,
    ByteSpan,
    FileContents,
    damaged_file_error,
)
from edgekd.distill.teachers.checkpoints.pickle_values import BadPickle, TensorRef, UnsafePickle
from edgekd.distill.teachers.checkpoints.safe_unpickle import read_pickle
from edgekd.errors import InputFileError

MEMBERS: Final = 100_000


def read_archive(path: Path, stream: IO[bytes], size: int) -> FileContents:
    try:
        with zipfile.ZipFile(stream) as archive:
            members = _members(path, archive, size)
            return _content(path, archive, members, stream)
    except (UnsafePickle, BadPickle):
        raise
    # The library is written for archives that are whole, and fails on others as it may.
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        struct.error,
        ValueError,
        EOFError,
        IndexError,
    ) as error:
        raise damaged_file_error(path, str(error) or type(error).__name__) from error


def _members(path: Path, archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Every member by name below the archive's folder, each checked before any is read."""
    listed = archive.infolist()
    if len(listed) > MEMBERS:
        raise damaged_file_error(
            path, f"{len(listed):,} members; a checkpoint has some thousands at most"
        )
    total = 0
    found: dict[str, zipfile.ZipInfo] = {}
    for member in listed:
        name = member.filename
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
            raise InputFileError(
                f"{path}: refused. Its member {name[:60]!r} points out of the archive; no tool of torch writes that."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputFileError(f"{path}: refused. Its member {name[:60]!r} is a link.")
        if member.is_dir():
            continue
        below = "/".join(parts[1:]) if len(parts) > 1 else name
        if member.flag_bits & 0x1:
            raise InputFileError(f"{path}: refused. Its member {name[:60]!r} is encrypted.")
        if below.startswith("code/"):
            # TorchScript's sources are compressed; they are never read
            continue
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise InputFileError(
                f"{path}: refused. Its member {name[:60]!r} is compressed, and could unpack to any size; torch.save "
                "compresses nothing. If this is a zip around a checkpoint, unpack it first."
            )
        total += member.file_size
        if total > size or member.header_offset + member.file_size > size:
            raise InputFileError(
                f"{path}: refused. Its members claim {total:,} bytes, more than the file's {size:,}: it is cut "
                "short or made to mislead."
            )
        if below in found:
            raise InputFileError(f"{path}: refused. Two of its members are called {below[:60]!r}.")
        found[below] = member
    return found


def _content(
    path: Path,
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    stream: IO[bytes],
) -> FileContents:
    if "models/model.json" in members or any(
        name.endswith("serialized_exported_program.json") for name in members
    ):
        return FileContents(path=path, format="pt2", content=None)
    if "data.pkl" not in members:
        inner = next((name for name in members if name.endswith(SUFFIXES)), None)
        raise InputFileError(
            f"{path}: a zip without the data.pkl of a checkpoint"
            + (f"; it holds {inner!r}: unpack it first." if inner else ".")
        )
    order = members.get("byteorder")
    if order is not None and _small(path, archive, order) != b"little":
        raise InputFileError(
            f"{path}: written on a big-endian machine; save it on a little-endian one."
        )
    notes = []
    prefix = "data/"
    scripted = "constants.pkl" in members
    content = _pickle_of(path, archive, members["data.pkl"])
    storages = {
        name.removeprefix(prefix): _span(path, stream, member)
        for name, member in members.items()
        if name.startswith(prefix) and name != prefix
    }
    constants = 0
    if scripted:
        frozen = _tensors_in(_pickle_of(path, archive, members["constants.pkl"]))
        constants = sum(math.prod(tensor.shape) for tensor in frozen)
        if frozen:
            notes.append(
                f"{len(frozen)} tensors are constants of its code: the module was frozen, and names and batch-norm "
                "are gone"
            )
    return FileContents(
        path=path,
        format="torchscript" if scripted else "torch",
        content=content,
        storages=storages,
        constants=constants,
        notes=tuple(notes),
    )


def _tensors_in(constants: Any) -> list[TensorRef]:  # noqa: ANN401
    values = constants if isinstance(constants, list | tuple) else ()
    return [value for value in values if isinstance(value, TensorRef) and value.shape]


def _small(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > 64:
        raise damaged_file_error(path, f"{member.filename} has {member.file_size:,} bytes")
    return archive.read(member)


def _pickle_of(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:  # noqa: ANN401
    if member.file_size > LARGEST_PICKLE:
        raise damaged_file_error(
            path, f"{member.filename} has {member.file_size:,} bytes beside its tensors"
        )
    return read_pickle(io.BytesIO(archive.read(member)))


def _span(path: Path, stream: IO[bytes], member: zipfile.ZipInfo) -> ByteSpan:
    """Where a stored member's bytes lie: behind its own header, whose lengths may differ."""
    stream.seek(member.header_offset)
    header = stream.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise damaged_file_error(path, f"{member.filename} is not where the archive says")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    if stream.read(name_length) != member.filename.encode():
        raise damaged_file_error(path, f"{member.filename} is called something else inside")
    return ByteSpan(member.header_offset + 30 + name_length + extra_length, member.file_size)
