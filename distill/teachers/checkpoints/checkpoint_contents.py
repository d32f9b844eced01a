"""The sets of weights in a checkpoint, without a framework: `state_dict`, `ema`, a module's own.

A tensor is a reference until `values` reads it; checking a file costs one pass over its bytes and
little memory.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgekd.distill.models.parameter_names import PREFIXES, Shape
from edgekd.distill.teachers.checkpoints.file_contents import (
    ITEM_BYTES,
    FileContents,
    damaged_file_error,
)
from edgekd.distill.teachers.checkpoints.module_tree import (
    METADATA_KEY,
    TENSORS,
    ModuleWalk,
    mappings,
    whole_module,
)
from edgekd.distill.teachers.checkpoints.pickle_values import (
    BadPickle,
    TensorRef,
    UnbuiltObject,
    UnsupportedTensor,
)
from edgekd.errors import InputFileError, UsageError

# Where training scripts put the weights, in the order in which they are looked for.
WRAPPERS: Final = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "teacher",
    "weights",
    "student",
    "params",
)
# Averages of the weights over training, as scripts call them.
_AVERAGES: Final = re.compile(r"ema|averag|swa|shadow|polyak", re.IGNORECASE)
# Values that are checked at once
_CHUNK: Final = 1 << 22


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """Tensors by name, without what wrappers put before every name."""

    # The entry of the file; "" when the file is the state dict
    key: str
    tensors: Mapping[str, TensorRef | UnsupportedTensor]
    # What was taken off
    prefix: str
    # Names of the same entry that are not of it
    left: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, Shape]:
        return {
            name: tensor.shape if isinstance(tensor, TensorRef) else ()
            for name, tensor in self.tensors.items()
        }

    @property
    def original(self) -> dict[str, Shape]:
        """Names as the file has them."""
        return {f"{self.prefix}{name}": shape for name, shape in self.shapes.items()}

    @property
    def averaged(self) -> bool:
        return bool(_AVERAGES.search(self.key))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file of weights holds."""

    opened: FileContents
    # The first is what is taken unless told otherwise
    sets: tuple[WeightSet, ...]
    metadata: Mapping[str, Any]
    # Class of a module that was saved whole, whose code is not here
    module: str | None

    @property
    def path(self) -> Path:
        return self.opened.path


def examine(opened: FileContents) -> Checkpoint:
    """Find the sets of weights of a file of torch, TorchScript or safetensors.

    Raises:
        InputFileError: it holds no tensors by name.
    """
    try:
        return _examine(opened)
    except BadPickle as error:
        raise damaged_file_error(opened.path, error) from error


def _examine(opened: FileContents) -> Checkpoint:
    content = opened.content
    whole = whole_module(content)
    found: list[WeightSet] = []
    if opened.format == "torchscript" and isinstance(content, UnbuiltObject):
        found = [_set("", dict(ModuleWalk().walk_scripted(content)))]
    else:
        for key, mapping in mappings(content):
            found += _split(key, mapping)
    sets = sorted((each for each in found if each.tensors), key=_rank)
    if not sets and opened.format != "torchscript":
        what = f"a {_kind(content)}" if not isinstance(content, dict) else "no tensors by name"
        raise InputFileError(
            f"{opened.path}: holds {what}. edgekd takes a state dict, bare or under one of: "
            f"{', '.join(WRAPPERS)}."
        )
    metadata = content.get(METADATA_KEY, {}) if isinstance(content, dict) else {}
    return Checkpoint(
        opened=opened,
        sets=tuple(sets),
        metadata=metadata if isinstance(metadata, dict) else {},
        module=whole.name if whole is not None else None,
    )


def select_weights(checkpoint: Checkpoint, asked: str | None) -> WeightSet:
    """The set that was asked for by (a part of) its key, or the first.

    Raises:
        UsageError: none or several are called so.
    """
    sets = checkpoint.sets
    if asked is None:
        return sets[0]
    exact = [each for each in sets if each.key == asked]
    near = exact or [each for each in sets if asked.lower() in each.key.lower()]
    if not near and asked.lower() == "ema":
        near = [each for each in sets if each.averaged]
    if len(near) != 1:
        names = ", ".join(each.key or "(the whole file)" for each in sets)
        what = "no weights are" if not near else f"{len(near)} sets of weights are"
        raise UsageError(f"{checkpoint.path}: {what} called {asked!r}. Available: {names}.")
    return near[0]


def _kind(content: Any) -> str:  # noqa: ANN401
    return content.name if isinstance(content, UnbuiltObject) else type(content).__name__


def _set(
    key: str, tensors: Mapping[str, TensorRef | UnsupportedTensor], *, at: str = ""
) -> WeightSet:
    if len(tensors) > TENSORS:
        raise InputFileError(
            f"{key or 'the file'} names {len(tensors):,} tensors; no classifier does."
        )
    # The counter of torch.optim.swa_utils.AveragedModel is no weight.
    tensors = {name: value for name, value in tensors.items() if name != "n_averaged"}
    prefix = _common_prefix(tensors)
    return WeightSet(
        key=key,
        tensors={name[len(prefix) :]: value for name, value in tensors.items()},
        prefix=at + prefix,
    )


def _common_prefix(names: Mapping[str, Any]) -> str:
    """What wrappers put before every name (`module.` and the like)."""
    prefixes = {(found[0] if (found := PREFIXES.match(name)) else "") for name in names}
    shortest = min(prefixes, key=len, default="")
    return shortest if all(prefix.startswith(shortest) for prefix in prefixes) else ""


def _split(key: str, tensors: dict[str, TensorRef | UnsupportedTensor]) -> list[WeightSet]:
    """The set, and where only some of its names share a wrapper's prefix, those alone as well."""
    whole = _set(key, tensors)
    sets = [whole]
    firsts: dict[str, int] = {}
    for name in whole.tensors:
        match = PREFIXES.match(name)
        if match:
            first = match[0].partition(".")[0]
            firsts[first] = firsts.get(first, 0) + 1
    for first, count in firsts.items():
        if count == len(whole.tensors):
            continue
        under = {
            name[len(first) + 1 :]: value
            for name, value in whole.tensors.items()
            if name.startswith(f"{first}.")
        }
        if any(len(shape) > 1 for shape in _set("", under).shapes.values()):
            part = _set(f"{key}.{first}".strip("."), under, at=f"{whole.prefix}{first}.")
            left = tuple(name for name in whole.tensors if not name.startswith(f"{first}."))
            sets.append(
                WeightSet(key=part.key, tensors=part.tensors, prefix=part.prefix, left=left)
            )
    return sets


def _rank(found: WeightSet) -> tuple[bool, bool, bool, int, bool, int]:
    """Weights before averages of them, matrices before scalars, known names before others."""
    matrices = any(len(shape) > 1 for shape in found.shapes.values())
    parts = found.key.split(".")
    known = min((WRAPPERS.index(part) for part in parts if part in WRAPPERS), default=len(WRAPPERS))
    return (not matrices, bool(found.left), found.averaged, known, bool(found.key), len(parts))


# --- values --------------------------------------------------------------------------------------


def check_weights(checkpoint: Checkpoint, weights: WeightSet) -> None:
    """Every tensor is dense, all there, and finite. One pass over the bytes, a few MiB at a time.

    Raises:
        InputFileError: naming the first that is not.
    """
    path = checkpoint.path
    with path.open("rb") as stream:
        for name, tensor in weights.tensors.items():
            problem = _claims(checkpoint.opened, tensor)
            if problem is not None:
                raise InputFileError(f"{path}: {name} {problem}")
            # An odd one was a problem
            assert isinstance(tensor, TensorRef)
            if tensor.dtype not in _FLOATS:
                continue
            span = checkpoint.opened.storages[tensor.storage.key]
            count = span.length // ITEM_BYTES[tensor.dtype]
            bad = 0
            for start in range(*_window(tensor, count), _CHUNK):
                stream.seek(span.start + start * ITEM_BYTES[tensor.dtype])
                wanted = min(_CHUNK, _window(tensor, count)[1] - start)
                bad += _not_finite(stream.read(wanted * ITEM_BYTES[tensor.dtype]), tensor.dtype)
            if bad:
                raise InputFileError(
                    f"{path}: {name} has {bad:,} values that are NaN or infinite. The training diverged, or "
                    "the file is damaged; take an earlier checkpoint."
                )


_FLOATS: Final = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}


def _window(tensor: TensorRef, count: int) -> tuple[int, int]:
    """First and last-but-one element of the storage that the tensor reaches."""
    return tensor.offset, min(count, tensor.offset + _reach(tensor))


def _reach(tensor: TensorRef) -> int:
    return 1 + sum(
        (size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True)
    )


def _not_finite(raw: bytes, dtype: str) -> int:
    values: npt.NDArray[Any] = np.frombuffer(raw, _FLOATS[dtype])
    # numpy has none: all bits of the exponent are set
    if dtype == "bfloat16":
        return int(np.count_nonzero((values & 0x7F80) == 0x7F80))
    return len(values) - int(np.count_nonzero(np.isfinite(values)))


def _claims(opened: FileContents, tensor: TensorRef | UnsupportedTensor) -> str | None:
    """What is wrong with a tensor before its values are read: a view can claim terabytes."""
    if isinstance(tensor, UnsupportedTensor) or tensor.dtype not in ITEM_BYTES:
        kind = tensor.kind if isinstance(tensor, UnsupportedTensor) else tensor.dtype.strip("?")
        return f"is not a plain dense tensor ({kind}); save the float weights."
    if math.prod(tensor.shape) == 0:
        return f"is empty, of shape {tensor.shape}."
    span = opened.storages.get(tensor.storage.key)
    if span is None:
        return f"has no values in the file (storage {tensor.storage.key[:20]!r}). Was it cut short?"
    item = ITEM_BYTES[tensor.dtype]
    if max(math.prod(tensor.shape), tensor.offset + _reach(tensor)) * item > span.length:
        return (
            f"is not a plain dense tensor: shape {tensor.shape} claims more than the {span.length:,} bytes "
            "that are there."
        )
    return None


def values(checkpoint: Checkpoint, tensor: TensorRef) -> npt.NDArray[Any]:
    """A small tensor's values, for a look at it; bfloat16 as float32.

    Raises:
        InputFileError: it claims more than is there.
    """
    problem = _claims(checkpoint.opened, tensor)
    if problem is not None:
        raise InputFileError(f"{checkpoint.path}: a tensor {problem}")
    raw = checkpoint.opened.raw(tensor.storage)
    if tensor.dtype == "bfloat16":
        flat = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        kinds = {"bool": "?", "int64": "<i8", "int32": "<i4", "int16": "<i2"}
        kind = _FLOATS.get(tensor.dtype) or kinds.get(tensor.dtype, tensor.dtype)
        item = ITEM_BYTES[tensor.dtype]
        flat = np.frombuffer(raw, kind, count=len(raw) // item)
    strides = tuple(step * flat.itemsize for step in tensor.stride)
    found: npt.NDArray[Any] = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return found
