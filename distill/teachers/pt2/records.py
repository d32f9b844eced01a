"""What was read of a `.pt2` archive: its graph, and where its tensors lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Value:
    """What a node refers to by name: a tensor, or a size that is known only when the program runs."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A number of torch's serialisation that stands for something that only torch has."""

    kind: Literal["dtype", "layout", "memory_format", "device"]
    number: int


Argument: TypeAlias = "Value | Constant | bool | int | float | str | list[Argument] | None"


@dataclass(frozen=True, slots=True)
class Node:
    """One call: `torch.ops.aten.relu.default`, its arguments by name, and the names of its results."""

    target: str
    arguments: Mapping[str, Argument]
    outputs: tuple[str | tuple[str, ...] | None, ...]
    # The module that it came from, "layer1.0.bn1"; "" where the file does not say
    at: str


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """The type and place of a tensor."""

    dtype: str
    # None where it is known only when the program runs
    sizes: tuple[int | None, ...]
    # The sizes it was exported with
    hints: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorPayload:
    """Where in the archive the values of one tensor are; offset and strides in elements."""

    member: str
    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    is_parameter: bool


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A validated archive. Nothing of the weights has been read yet."""

    path: Path
    nodes: tuple[Node, ...]
    # The name of the images
    input: str
    # The name of the answer
    output: str
    attributes: Mapping[str, str]  # name in the graph -> name in `weights` or `constants`
    # Inputs of the graph that are no tensors
    literals: Mapping[str, Argument]
    metas: Mapping[str, TensorMeta]
    # Parameters and persistent buffers: the state dict
    weights: Mapping[str, TensorPayload]
    constants: Mapping[str, TensorPayload]
    torch_version: str
