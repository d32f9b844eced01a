"""Weights as tensors, out of files that nobody vouches for: nothing is executed."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from edgekd.distill.models.parameter_names import canonical
from edgekd.distill.teachers.checkpoints import checkpoint_contents
from edgekd.distill.teachers.checkpoints.checkpoint_contents import Checkpoint, WeightSet
from edgekd.distill.teachers.checkpoints.file_contents import NAMES
from edgekd.distill.teachers.checkpoints.file_formats import open_file
from edgekd.distill.teachers.checkpoints.pickle_values import TensorRef
from edgekd.errors import InputFileError

_DTYPES: Final = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16"),
        *("int64", "int32", "int16", "int8", "uint8", "bool"),
    )
}


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a file holds: tensors by name in our spelling, and what it says of itself."""

    state: dict[str, Tensor]
    # The entry that was taken; "" when the file is the state dict
    key: str
    metadata: Mapping[str, Any]


def read_weights(path: Path, *, weights: str | None = None) -> WeightFile:
    """The state dict of a file of torch or safetensors.

    Args:
        path: of the file.
        weights: which of several sets in it; see `checkpoint_contents.select_weights`.

    Raises:
        InputFileError: missing, empty, truncated, refused because it would execute code, a program
            instead of weights, without tensors, or with values that are not finite.
        UsageError: no set is called so.
    """
    file = open_file(path)
    if file.format in {"pt2", "onnx", "torchscript"}:
        raise InputFileError(f"{path}: {NAMES[file.format]}, not a file of weights.")
    checkpoint = checkpoint_contents.examine(file)
    if checkpoint.module is not None:
        raise InputFileError(
            f"{path}: a whole pickled module ({checkpoint.module}); save its weights instead: "
            "torch.save(model.state_dict(), 'teacher.pt')."
        )
    found = checkpoint_contents.select_weights(checkpoint, weights)
    state = state_of(checkpoint, found)
    return WeightFile(
        state=canonical_keys(state),
        key=found.key,
        metadata=checkpoint.metadata,
    )


def canonical_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """In our spelling; as it was where two names would become one: nothing may be lost."""
    spelt = {canonical(name): tensor for name, tensor in state.items()}
    return spelt if len(spelt) == len(state) else state


def state_of(checkpoint: Checkpoint, found: WeightSet) -> dict[str, Tensor]:
    """The tensors of a set, read and checked; those that share values in the file share them here.

    Raises:
        InputFileError: a tensor is not dense, not all there, or not finite.
    """
    checkpoint_contents.check_weights(checkpoint, found)
    flat: dict[str, Tensor] = {}
    state = {}
    for name, tensor in found.tensors.items():
        # `check` refuses any other
        assert isinstance(tensor, TensorRef)
        key = f"{tensor.storage.key}|{tensor.dtype}"
        if key not in flat:
            dtype = _DTYPES[tensor.dtype]
            raw = checkpoint.opened.raw(tensor.storage)
            flat[key] = torch.frombuffer(raw, dtype=dtype, count=len(raw) // dtype.itemsize)
        state[name] = flat[key].as_strided(tensor.shape, tensor.stride, tensor.offset)
    return state


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the order of the names."""
    digest = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
