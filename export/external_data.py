"""Weights that lie in a file beside their model."""

from collections.abc import Iterator
from pathlib import Path

import onnx

from edgekd.errors import InputFileError


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All of a graph, of its nodes, and of the graphs inside of them, whose depth the reader limits."""
    yield from graph.initializer
    for node in graph.node:
        for entry in node.attribute:
            yield from (entry.t, *entry.tensors)
            for inner in (entry.g, *entry.graphs):
                if inner.node or inner.initializer:
                    yield from tensors_of(inner)


def missing_data(model: onnx.ModelProto, folder: Path) -> str | None:
    """The name of a file beside a model that should hold weights of it, and is not there."""
    for tensor in tensors_of(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location" and not _is_file(folder / entry.value):
                return str(entry.value)
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # of a damaged model: no possible name
        return False


def require_data(path: Path) -> None:
    """Refuse a model whose weights should be beside it, and are not.

    Raises:
        InputFileError: it names the file that is missing.
    """
    lacking = missing_data(onnx.load(path, load_external_data=False), path.parent)
    if lacking is not None:
        raise InputFileError(
            f"{path}: {lacking}, which holds its weights, is not beside it. Copy it as well."
        )
