"""What a pickle is made of where nothing of it is made: names, unmade objects, and where tensors lie."""

from dataclasses import dataclass, field
from typing import Any


class UnsafePickle(ValueError):  # noqa: N818 - it is an answer, not a mistake
    """The pickle asks for something that no checkpoint needs."""


class BadPickle(ValueError):  # noqa: N818
    """Not a pickle that a checkpoint is made of."""


@dataclass(frozen=True)
class GlobalReference:
    """A name that was looked up: `module.attribute`. Nothing was imported."""

    name: str


@dataclass(eq=False, slots=True)
class UnbuiltObject:
    """An object that was left unmade: what would have been called, and what with."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    appended: list[Any] | None = None


@dataclass(frozen=True, eq=False)
class StorageRef:
    """A flat block of values beside the pickle."""

    key: str
    # "float32"; "" where the tensor says it
    dtype: str
    numel: int


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor that was not read: a view into a storage."""

    storage: StorageRef
    dtype: str
    # In elements, as the strides
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class UnsupportedTensor:
    """A tensor that is no plain dense array: sparse, quantised, on the meta device, nested."""

    kind: str
