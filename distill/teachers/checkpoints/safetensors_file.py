"""safetensors, read by hand: a header of JSON whose every claim is compared with the file."""

import json
import math
import re
from pathlib import Path
from typing import IO, Any, Final, TypeGuard

from edgekd.distill.teachers.checkpoints.file_contents import ITEM_BYTES, ByteSpan, FileContents
from edgekd.distill.teachers.checkpoints.pickle_values import StorageRef, TensorRef
from edgekd.errors import InputFileError

# What the safetensors library allows
LARGEST_HEADER: Final = 100_000_000
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

_METADATA: Final = "__metadata__"
_NAME: Final = re.compile(r"[^\x00-\x1f]{1,1000}")


def read_safetensors(path: Path, stream: IO[bytes], size: int) -> FileContents:
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
            raise InputFileError(
                f"{path}: {name[:60]} has the type {str(kind)[:20]}, which edgekd does not read. Save the weights as float32: "
                "{name: value.float() for name, value in state.items()}; quantised ones as they were before."
            )
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
        # Refused by name where it is used
        return {"edgekd": {"unreadable": text[:40]}}
