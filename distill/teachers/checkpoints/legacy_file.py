"""torch's flat format, which it wrote before 1.6."""

from pathlib import Path
from typing import IO, Final

from edgekd.distill.teachers.checkpoints.file_contents import (
    ITEM_BYTES,
    LARGEST_PICKLE,
    ByteSpan,
    FileContents,
    damaged_file_error,
)
from edgekd.distill.teachers.checkpoints.pickle_values import StorageRef
from edgekd.distill.teachers.checkpoints.safe_unpickle import read_pickle
from edgekd.errors import InputFileError

_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001


def read_legacy(path: Path, stream: IO[bytes], size: int) -> FileContents:
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
