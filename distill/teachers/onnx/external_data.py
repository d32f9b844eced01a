"""Weights that lie beside an ONNX model: read only out of plain files in its folder, and only what is there."""

import math
from pathlib import Path
from typing import Final

from onnx import TensorProto, helper

from edgekd.errors import InputFileError

# Of a protobuf
MAX_BYTES: Final = (1 << 31) - 1
# A whole and its parts may share bytes of a data file; more than this is a lie.
MAX_CLAIMED: Final = 4


def item_bytes(tensor: TensorProto) -> int:
    return int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def read_external(path: Path, tensors: list[TensorProto]) -> None:
    outside = [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]
    folder = path.resolve().parent
    places = [(tensor, *_place(path, folder, tensor)) for tensor in outside]
    available = sum(data.stat().st_size for data in {data for _, data, _, _ in places})
    claimed = sum(length for *_, length in places)
    if claimed > min(MAX_CLAIMED * available, MAX_BYTES):
        raise InputFileError(
            f"{path}: refused. Its tensors claim {claimed:,} bytes of data files of {available:,}."
        )
    for tensor, data, offset, length in places:
        with data.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT


def _place(path: Path, folder: Path, tensor: TensorProto) -> tuple[Path, int, int]:
    location_entries = {entry.key: entry.value for entry in tensor.external_data}
    location = location_entries.get("location", "")
    name = tensor.name[:80] or "a constant"
    try:
        data = (folder / location).resolve()
        inside = data.parent == folder and data.name == location
    except (OSError, ValueError):
        raise InputFileError(f"{path}: refused. {name} is in a file of no possible name.") from None
    # Plain files beside the model, by their names: no folders, no links that lead elsewhere.
    if not inside:
        raise InputFileError(
            f"{path}: refused. The values of {name} are said to be in {location[:80]!r}, which is not a plain "
            "file beside the model. Put them into one file: onnx.save(onnx.load('model.onnx'), 'one.onnx')."
        )
    if not data.is_file():
        raise InputFileError(
            f"{path}: {location[:80]}, which holds its weights, is not beside it. Copy it as well."
        )
    needed = math.prod(tensor.dims) * item_bytes(tensor)
    offset, length = (
        location_entries.get("offset", "0"),
        location_entries.get("length", str(needed)),
    )
    if not (offset.isdecimal() and length.isdecimal() and len(offset) < 19 and len(length) < 19):
        raise InputFileError(f"{path}: refused. {name} has no place in {location[:80]}.")
    if int(length) != needed or int(offset) + needed > data.stat().st_size:
        raise InputFileError(
            f"{path}: {name} claims {needed:,} bytes, of shape {list(tensor.dims)[:8]}, that are not in "
            f"{location[:80]}. Was the copy cut short?"
        )
    return data, int(offset), needed
