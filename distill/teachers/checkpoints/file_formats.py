"""The files that weights come in, opened without a framework: what they claim is checked first.

torch's archives (a zip of stored members since 1.6), its older flat format, and safetensors. What
comes out is the tree that was saved, with every tensor a reference (`TensorRef`) and a
way to its bytes. A file is never believed: sizes are compared with what is there before anything
is allocated, and nothing of it is run.
"""

from pathlib import Path

from edgekd.distill.teachers.checkpoints.file_contents import (
    SUFFIXES,
    FileContents,
    damaged_file_error,
)
from edgekd.distill.teachers.checkpoints.legacy_file import read_legacy
from edgekd.distill.teachers.checkpoints.pickle_values import BadPickle, UnsafePickle
from edgekd.distill.teachers.checkpoints.safetensors_file import read_safetensors
from edgekd.distill.teachers.checkpoints.zip_archive import read_archive
from edgekd.errors import InputFileError


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
                return read_safetensors(path, stream, size)
            if head[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
                return read_archive(path, stream, size)
            return read_legacy(path, stream, size)
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
