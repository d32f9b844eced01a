"""Where the tensors of a `.pt2` archive lie: every claim is compared with the bytes that are there."""

import math
import zipfile
from pathlib import Path
from typing import Final, Literal

from edgekd.distill.teachers.pt2.archive import (
    MAX_NAME,
    damaged_file_error,
    pickled_file_error,
    unsupported_file_error,
)
from edgekd.distill.teachers.pt2.records import TensorPayload
from edgekd.distill.teachers.pt2.schema import (
    DTYPES,
    JsonPayloadMeta,
    JsonPayloads,
    JsonSize,
    JsonTensorMeta,
    read_json,
)
from edgekd.errors import InputFileError

MAX_DIMENSIONS: Final = 16
# Of dots in a name: modules nest by them
MAX_DEPTH: Final = 32
# A whole and views of its parts are both named where weights are fused; more than this is a lie.
MAX_CLAIMED: Final = 4
STRIDED: Final = 7


def read_payloads(
    path: Path,
    archive: zipfile.ZipFile,
    root: str,
    model: str,
    kind: Literal["weights", "constants"],
) -> dict[str, TensorPayload]:
    folder = f"{root}data/{kind}/"
    config = read_json(path, archive, f"{folder}{model}_{kind}_config.json", JsonPayloads).config
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    found = {}
    for name, payload in config.items():
        _check_name(path, name)
        if payload.use_pickle or payload.tensor_meta is None:
            raise pickled_file_error(path, name)
        member = folder + payload.path_name
        if member not in sizes:
            raise damaged_file_error(path, f"the values of {name} are missing")
        found[name] = _payload(path, name, payload, payload.tensor_meta, member, sizes[member])
    return found


def _payload(
    path: Path,
    name: str,
    payload: JsonPayloadMeta,
    meta: JsonTensorMeta,
    member: str,
    available: int,
) -> TensorPayload:
    if meta.dtype not in DTYPES or meta.layout != STRIDED:
        raise InputFileError(
            f"{path}: {name} is not a plain dense tensor of floats or integers; export the float network."
        )
    dtype, width = DTYPES[meta.dtype]
    sizes = tuple(_find_size(path, name, size) for size in meta.sizes)
    strides = tuple(_find_size(path, name, stride) for stride in meta.strides)
    offset = _find_size(path, name, meta.storage_offset)
    if len(sizes) != len(strides) or len(sizes) > MAX_DIMENSIONS:
        raise unsupported_file_error(
            path, f"{name} has {len(sizes)} sizes and {len(strides)} strides"
        )
    if math.prod(sizes) == 0:
        raise InputFileError(f"{path}: {name} is empty, of shape {sizes}.")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    # A stride of 0 would make terabytes out of one value.
    needed = max(last + 1, math.prod(sizes)) * width
    if needed > available or available % width:
        raise unsupported_file_error(
            path,
            f"{name} claims {needed:,} bytes, of shape {sizes[:8]}, where {available:,} are there",
        )
    return TensorPayload(member, dtype, sizes, strides, offset, payload.is_param)


def _find_size(path: Path, name: str, size: JsonSize) -> int:
    if size.as_int is None or size.as_int < 0:
        raise unsupported_file_error(path, f"{name} is of no fixed shape")
    return size.as_int


def _check_name(path: Path, name: str) -> None:
    parts = name.split(".")
    if len(name) > MAX_NAME or len(parts) > MAX_DEPTH or not all(parts):
        raise unsupported_file_error(path, f"a tensor is called {name[:80]!r}")


def check_claims(path: Path, payloads: list[TensorPayload]) -> None:
    """Names may share bytes, but loading makes a tensor of each that differs."""
    distinct = {(p.member, p.dtype, p.sizes, p.strides, p.offset) for p in payloads}
    width = dict(DTYPES.values())
    claimed = sum(math.prod(sizes) * width[dtype] for _, dtype, sizes, _, _ in distinct)
    size = path.stat().st_size
    if claimed > MAX_CLAIMED * size:
        raise unsupported_file_error(
            path, f"its tensors claim {claimed:,} bytes of a file of {size:,}"
        )
