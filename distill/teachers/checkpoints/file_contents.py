"""What a weight file holds, tensors unread: the tree that was saved, and where the bytes lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from edgekd.distill.teachers.checkpoints.pickle_values import StorageRef
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
# Bytes of opcodes; tensors lie elsewhere
LARGEST_PICKLE: Final = 128 << 20

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
    # Mappings, lists, values, `TensorRef` and `UnbuiltObject`
    content: Any
    # By the key of a `StorageRef`
    storages: Mapping[str, ByteSpan] = field(default_factory=dict)
    # Values that are constants of a program's code, without names
    constants: int = 0
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
