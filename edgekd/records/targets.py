"""Boards, and what runs on them."""

from dataclasses import field
from typing import Annotated, Any, Literal

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
