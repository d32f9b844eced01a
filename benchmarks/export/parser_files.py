"""What the table of agreement is asked of: groups of files, each made when its rows are missing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import onnx

from edgekd.records import Software
from edgekd.targets import catalogue

# Files that NVIDIA's process is given at once
CHUNK: Final = 100


@dataclass(frozen=True, kw_only=True)
class File:
    """One ONNX file, or why there is none."""

    name: str
    variant: str
    # None: it was not made
    path: Path | None
    # By whom its legality is judged: all of them must take it
    softwares: tuple[Software, ...]
    # Why it was not made, and whether that is a verdict or a fault
    refused: str = ""
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Files that are made together."""

    # Name and variant of each
    keys: tuple[tuple[str, str], ...]
    # Writes into a folder
    make: Callable[[Path], Iterator[File]]


def newest() -> Software:
    """The newest TensorRT that edgekd knows, on a board that runs everything."""
    return replace(catalogue.tensorrts()[-1], name="newest", int8=True)


Model = Callable[[], onnx.ModelProto]


def given(model: onnx.ModelProto) -> Model:
    """A graph that was made already."""
    return lambda: model


def group_models(models: list[tuple[str, str, Model]]) -> Iterator[Group]:
    """Graphs that are made in no time, in groups: name, variant and the function that makes each."""
    software = (newest(),)
    for start in range(0, len(models), CHUNK):
        part = models[start : start + CHUNK]

        def make(folder: Path, part: list[tuple[str, str, Model]] = part) -> Iterator[File]:
            for number, (name, variant, model) in enumerate(part):
                path = folder / f"{number}.onnx"
                onnx.save(model(), path)
                yield File(name=name, variant=variant, path=path, softwares=software)

        yield Group(keys=tuple((name, variant) for name, variant, _ in part), make=make)
