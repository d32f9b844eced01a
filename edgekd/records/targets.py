"""Boards, and what runs on them."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from edgekd.records._record import Exporter, Runtime, record


@record
class Fact:
    """A hardware fact with where it was read; `unverified` until somebody looked it up."""

    value: str | int | float | bool | tuple[str | int | float, ...]
    source: str

    @property
    def verified(self) -> bool:
        return self.source != "unverified"


@record
class Software:
    """What a board runs, and what a model must look like for it."""

    # "jp6.2"
    name: str
    runtime: Runtime
    opset: Annotated[int, Field(ge=9, le=25)]
    exporter: Exporter
    typing: Literal["weak", "strong", "none"]
    int8: bool
    source: str
    jetpack: str | None = None
    l4t: str | None = None
    tensorrt: str | None = None
    cuda: str | None = None
    python: str | None = None
    # Weights may be INT8 constants with a DequantizeLinear alone; False: FP32 with a pair, which all take
    int8_weights: bool = False


# Before the version of TensorRT-RTX, which counts its own
RTX: Final = "rtx-"


def is_rtx(tensorrt: str | None) -> bool:
    """Whether a version is TensorRT-RTX's."""
    return tensorrt is not None and tensorrt.startswith(RTX)


def runtime_text(tensorrt: str | None) -> str:
    """What runs models on a board, of the version of TensorRT that its software names: "TensorRT 10.3.0"."""
    if tensorrt is None:
        return "ONNX Runtime"
    name = "TensorRT-RTX" if is_rtx(tensorrt) else "TensorRT"
    return f"{name} {tensorrt.removeprefix(RTX)}"


def compute_capabilities(facts: Mapping[str, Fact]) -> tuple[str, ...]:
    """Of the board's GPU, or of all that it may have; empty where nothing is known."""
    fact = facts.get("sm")
    if fact is None:
        return ()
    values = fact.value if isinstance(fact.value, tuple) else (fact.value,)
    return tuple(map(str, values))


@record
class Board:
    name: str
    title: str
    family: Literal["jetson", "raspberry-pi", "x86", "other"]
    facts: dict[str, Fact]
    software: dict[str, Software]
    default_software: str
    notes: tuple[str, ...] = ()
    # Its file's table, as it stands.
    budget: dict[str, Any] = field(default_factory=dict)


@record
class Target:
    """One board with one set of software: `jetson-orin-nano-8gb@jp6.2`."""

    board: Board
    software: Software
    # What the user typed.
    asked: str

    @property
    def id(self) -> str:
        return f"{self.board.name}@{self.software.name}"
