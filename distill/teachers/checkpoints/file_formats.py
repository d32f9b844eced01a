"""The files that weights come in, opened without a framework: what they claim is checked first.

torch's archives (a zip of stored members since 1.6), its older flat format, and safetensors. What
comes out is the tree that was saved, with every tensor a reference (`unpickle.TensorRef`) and a
way to its bytes. A file is never believed: sizes are compared with what is there before anything
is allocated, and nothing of it is run.
"""

import io
import json
import math
import re
import stat
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias, TypeGuard

from edgekd.distill.teachers.checkpoints.safe_unpickle import (
    BadPickle,
    StorageRef,
    TensorRef,
    UnbuiltObject,
    UnsafePickle,
    read_pickle,
)
from edgekd.errors import InputFileError

Format: TypeAlias = Literal["torch", "torch-legacy", "safetensors", "torchscript", "pt2", "onnx"]

NAMES: Final[dict[Format, str]] = {
    "torch": "a file of torch.save",
    "torch-legacy": "a file of torch.save, in the format before torch 1.6",
    "safetensors": "a safetensors file",
    "torchscript": "a TorchScript program",
    "pt2": "an exported program (.pt2)",
    "onnx": "an ONNX model",
}
SUFFIXES: Final = (
    *(".pt", ".pth", ".th", ".ckpt", ".tar", ".bin", ".safetensors"),
    *(".pt2", ".onnx", ".torchscript", ".jit"),
)
MEMBERS: Final = 100_000
LARGEST_PICKLE: Final = 128 << 20  # bytes of opcodes; tensors lie elsewhere
LARGEST_HEADER: Final = 100_000_000  # what the safetensors library allows
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001

ITEM_BYTES: Final[dict[str, int]] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
_SAFETENSORS_TYPES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class ByteSpan:
    """Bytes of the file."""

    start: int
    length: int


@dataclass(frozen=True, kw_only=True)
class FileContents:
    """A file's content, tensors unread."""

    path: Path
    format: Format
    content: Any  # mappings, lists, values, `TensorRef` and `Foreign`
    storages: Mapping[str, ByteSpan] = field(default_factory=dict)  # by the key of a `StorageRef`
    constants: int = 0  # values that are constants of a program's code, without names
    notes: tuple[str, ...] = ()

    def raw(self, storage: StorageRef) -> bytearray:
        """The bytes of a storage."""
        span = self.storages[storage.key]
        found = bytearray(span.length)
        with self.path.open("rb") as stream:
            stream.seek(span.start)
            if stream.readinto(found) != span.length:
                raise damaged_file_error(self.path, "it ends too early")
        return found


def damaged_file_error(path: Path, reason: object) -> InputFileError:
    text = " ".join(str(reason).split())[:160]
    return InputFileError(
        f"{path}: cannot be read as a weight file ({text}). Was it cut short, or is it something else?"
    )


def unsupported_file_error(path: Path, wanted: str) -> InputFileError:
    return InputFileError(
        f"{path}: refused. It is a pickle that can run code when loaded: it asks for {wanted!r}, so it is more "
        "than tensors. Nothing was executed. Save the weights alone, if you trust its author: "
        "torch.save(model.state_dict(), 'teacher.pt')."
    )


def open_file(path: Path, *, trusted: bool = False) -> FileContents:
    """Open a file by what it is, whatever it is called.

    Args:
        path: of the file.
        trusted: whether a pickle that asks for code is no reason to refuse; its content is None.

    Raises:
        InputFileError: missing, empty, damaged, hostile, or nothing that edgekd knows.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputFileError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        what = "a folder, not a weight file" if path.is_dir() else "no such file"
        raise InputFileError(f"{path}: {what}.")
    size = path.stat().st_size
    if size == 0:
        raise InputFileError(f"{path}: the file is empty. Was the copy cut short?")
    if path.suffix.lower() == ".onnx":
        return FileContents(path=path, format="onnx", content=None)
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
            if path.suffix.lower() == ".safetensors" or head[8:9] == b"{":
                return _safetensors(path, stream, size)
            if head[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
                return _archive(path, stream, size)
            return _legacy(path, stream, size)
    except UnsafePickle as error:
        if trusted:
            return FileContents(path=path, format="torch", content=None)
        raise unsupported_file_error(path, str(error)) from error
    except BadPickle as error:
        raise damaged_file_error(path, error) from error
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror}).") from error
    except (RecursionError, MemoryError) as error:
        raise damaged_file_error(
            path, f"it is nested or sized like no checkpoint: {error}"
        ) from error


# --- zip archives -------------------------------------------------------------------------------


def _archive(path: Path, stream: IO[bytes], size: int) -> FileContents:
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
            continue  # TorchScript's sources are compressed; they are never read
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


# --- the flat format ----------------------------------------------------------------------------


def _legacy(path: Path, stream: IO[bytes], size: int) -> FileContents:
    """Magic number, protocol, system, content, keys; then each storage as a count and its bytes."""
    stream.seek(0)
    if size > LARGEST_PICKLE and not _starts_legacy(stream):
        raise damaged_file_error(path, "it does not start as torch.save starts")
    stream.seek(0)
    if read_pickle(stream, tensors=False) != _LEGACY_MAGIC:
        raise InputFileError(
            f"{path}: a bare pickle, not a file of torch.save. Nothing was executed. Save the weights: "
            "torch.save(model.state_dict(), 'teacher.pt')."
        )
    if read_pickle(stream, tensors=False) != _LEGACY_PROTOCOL:
        raise damaged_file_error(path, "another version of torch's flat format")
    system = read_pickle(stream, tensors=False)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputFileError(f"{path}: written on a big-endian machine; save it again.")
    found: dict[str, StorageRef] = {}
    content = read_pickle(stream, storages=found)
    keys = read_pickle(stream, tensors=False)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise damaged_file_error(path, "no list of storages")
    storages: dict[str, ByteSpan] = {}
    at = stream.tell()
    for key in keys:
        stream.seek(at)
        count_bytes = stream.read(8)
        if key not in found or len(count_bytes) != 8:
            raise damaged_file_error(path, "its storages are not what its tensors name")
        count = int.from_bytes(count_bytes, "little", signed=True)
        length = count * ITEM_BYTES.get(found[key].dtype, 1)
        if count != found[key].numel or at + 8 + length > size:
            raise damaged_file_error(
                path, f"storage {key[:20]} of {count:,} values is not all there"
            )
        storages[key] = ByteSpan(at + 8, length)
        at += 8 + length
    return FileContents(path=path, format="torch-legacy", content=content, storages=storages)


def _starts_legacy(stream: IO[bytes]) -> bool:
    """Whether the magic number is among the first bytes, before pickletools reads lines of any length."""
    return _LEGACY_MAGIC.to_bytes(10, "little") in stream.read(32)


# --- safetensors --------------------------------------------------------------------------------

_METADATA: Final = "__metadata__"
_NAME: Final = re.compile(r"[^\x00-\x1f]{1,1000}")


def _safetensors(path: Path, stream: IO[bytes], size: int) -> FileContents:
    """Eight bytes of header length, the header in JSON, then one block of values."""

    def wrong(reason: str) -> InputFileError:
        return InputFileError(f"{path}: not a readable safetensors file ({reason}). Copy it again.")

    stream.seek(0)
    first = stream.read(8)
    length = int.from_bytes(first, "little")
    if len(first) != 8 or length > min(LARGEST_HEADER, size - 8):
        raise wrong(f"its header claims {length:,} bytes of a file of {size:,}")
    try:
        header = json.loads(stream.read(length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise wrong(f"its header is not JSON: {str(error)[:80]}") from error
    if not isinstance(header, dict):
        raise wrong("its header is no table")
    data = 8 + length
    content: dict[str, Any] = {}
    storages: dict[str, ByteSpan] = {}
    spans: list[ByteSpan] = []
    for name, entry in header.items():
        if name == _METADATA:
            continue
        if not _NAME.fullmatch(name) or not isinstance(entry, dict):
            raise wrong(f"{name[:40]!r} is no name of a tensor")
        kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if kind not in _SAFETENSORS_TYPES:
            raise wrong(f"{name[:60]} has the type {str(kind)[:20]}, which edgekd does not read")
        if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
            raise wrong(f"{name[:60]} has no shape or no place")
        dtype = _SAFETENSORS_TYPES[kind]
        count = math.prod(shape)
        start, end = offsets
        if end - start != count * ITEM_BYTES[dtype] or data + end > size:
            raise wrong(
                f"{name[:60]} claims {count:,} values of {kind} in bytes {start:,} to {end:,} of {size - data:,}"
            )
        spans.append(ByteSpan(start, end - start))
        storages[name] = ByteSpan(data + start, end - start)
        content[name] = TensorRef(
            storage=StorageRef(key=name, dtype=dtype, numel=count),
            dtype=dtype,
            offset=0,
            shape=tuple(shape),
            stride=_contiguous(shape),
        )
    at = 0
    for span in sorted(spans, key=lambda span: (span.start, span.length)):
        if span.start != at:
            raise wrong(f"its tensors overlap or leave a gap at byte {at:,}")
        at += span.length
    if data + at != size:
        raise wrong(f"{size - data - at:,} bytes belong to no tensor")
    metadata = header.get(_METADATA)
    if isinstance(metadata, dict):
        content |= _own_metadata(metadata)
    return FileContents(path=path, format="safetensors", content=content, storages=storages)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _sizes(values: Any) -> TypeGuard[list[int]]:  # noqa: ANN401
    return (
        isinstance(values, list)
        and len(values) <= 64
        and all(type(value) is int and 0 <= value < 1 << 62 for value in values)
    )


def _contiguous(shape: list[int]) -> tuple[int, ...]:
    steps = [1]
    for size in reversed(shape[1:]):
        steps.append(steps[-1] * size)
    return tuple(reversed(steps))[: len(shape)]


def _own_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """What `edgekd` wrote of itself: JSON text, since safetensors keeps text alone."""
    text = metadata.get("edgekd")
    if not isinstance(text, str):
        return {}
    try:
        return {"edgekd": json.loads(text)}
    except (ValueError, RecursionError):
        return {"edgekd": {"unreadable": text[:40]}}  # refused by name where it is used


def whole_module(content: Any) -> UnbuiltObject | None:  # noqa: ANN401
    """The module that was pickled whole, if one was: at the top or in an entry of it."""
    candidates = [content]
    if isinstance(content, dict):
        candidates += list(content.values())
    for value in candidates:
        if not isinstance(value, UnbuiltObject):
            continue
        if isinstance(value.state, dict) and {"_modules", "_parameters"} <= value.state.keys():
            return value
    return None
