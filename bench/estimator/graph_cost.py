"""What an ONNX file computes and moves, kernel by kernel. Files are not trusted; weights are not read."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError
from onnx import checker, helper, shape_inference

from edgekd.bench.estimator.kernel_fusion import Folding, Kernel, Shape
from edgekd.errors import InputFileError

# What a protobuf holds
MOST_BYTES: Final = 2**31
# Numbers; what shapes are computed from is smaller
_SMALL: Final = 1024
_CONTROL_FLOW: Final = frozenset(("If", "Loop", "Scan"))


@dataclass(frozen=True, kw_only=True)
class Network:
    """A graph as kernels, for one batch. Not a record: it is derived from the file each time."""

    kernels: tuple[Kernel, ...]
    # Of the largest input, with the batch
    input_shape: Shape
    # It has Q/DQ pairs
    quantised: bool
    notes: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        return sum(kernel.macs for kernel in self.kernels)

    @property
    def weights(self) -> int:
        """Elements."""
        return sum(kernel.weights for kernel in self.kernels)


def read_network(path: Path) -> Network:
    """The kernels of an ONNX file; an open batch counts as 1.

    Raises:
        InputFileError: it cannot be read, is no valid model, has sizes that are open beyond the
            batch or follow from values, or control flow.
    """
    return network_of(_read(path), origin=str(path))


def network_of(model: onnx.ModelProto, *, origin: str) -> Network:
    """The same of a model in memory, which is changed: weights and open batch go.

    Raises:
        InputFileError: as `read_network`.
    """
    _close_batch(model.graph, origin)
    constants = _without_weights(model.graph)
    try:
        graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except (shape_inference.InferenceError, checker.ValidationError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputFileError(f"{origin}: the sizes of its tensors do not fit ({first}).") from error
    except ValueError as error:  # text that is none, a type that there is not
        raise InputFileError(f"{origin}: the file is damaged ({error}).") from error
    inside = sorted({node.op_type for node in graph.node} & _CONTROL_FLOW)
    if inside:
        raise InputFileError(
            f"{origin}: {', '.join(inside)}: how often a branch or loop runs is not in the file, so its "
            "time cannot be told. Export without it."
        )
    shapes = _shapes(graph, constants, origin)
    names = frozenset(constants)
    try:
        folded = Folding(graph, shapes=shapes, constants=names)
    except ValueError as error:
        raise InputFileError(f"{origin}: {error}; the file is damaged.") from error
    except (KeyError, IndexError) as error:
        raise InputFileError(
            f"{origin}: an operator lacks an input or a size ({error}); the file is damaged, or a size "
            "in it follows from values. Write it with fixed sizes."
        ) from error
    notes = tuple(
        f"{count} x {operator}: no rule for it, counted as a copy"
        for operator, count in sorted(folded.unknown.items())
    )
    if not folded.kernels:
        raise InputFileError(f"{origin}: nothing in it is computed from its inputs.")
    inputs = [shapes[each.name] for each in graph.input if each.name not in names]
    return Network(
        kernels=tuple(folded.kernels),
        input_shape=max(inputs, key=prod),
        quantised=any(node.op_type == "QuantizeLinear" for node in graph.node),
        notes=notes,
    )


def _read(path: Path) -> onnx.ModelProto:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputFileError(f"{path}: more than 2 GiB, which no ONNX file in one piece holds.")
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise InputFileError(f"{path}: not a readable ONNX model ({error}).") from error
    if not model.graph.node:
        raise InputFileError(f"{path}: an ONNX model without a single operator; is it cut short?")
    return model


def _close_batch(graph: onnx.GraphProto, origin: str) -> None:
    """Set an open first dimension of the inputs to 1; of the outputs it follows."""
    initialisers = {tensor.name for tensor in graph.initializer}
    for entry in graph.input:
        if entry.name in initialisers:
            continue
        for place, dimension in enumerate(entry.type.tensor_type.shape.dim):
            if dimension.HasField("dim_value") and dimension.dim_value > 0:
                continue
            if place > 0:
                raise InputFileError(
                    f"{origin}: input {entry.name!r} is open in dimension {place} "
                    f"({dimension.dim_param or '?'}); only the batch may be. Export it at the size that "
                    "the board will get."
                )
            dimension.dim_value = 1
    for entry in graph.output:
        entry.type.tensor_type.ClearField("shape")
    # Said by the file, for the batch that was open
    del graph.value_info[:]


def _without_weights(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Make large initialisers inputs, whose values nobody copies then; shapes of all of them."""
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    inputs = {entry.name for entry in graph.input}
    kept = []
    for tensor in graph.initializer:
        if prod(tensor.dims) <= _SMALL and not tensor.external_data:
            kept.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return constants


def _shapes(graph: onnx.GraphProto, constants: dict[str, Shape], origin: str) -> dict[str, Shape]:
    shapes = dict(constants)
    for entry in (*graph.input, *graph.value_info, *graph.output):
        tensor = entry.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[entry.name] = tuple(d.dim_value for d in tensor.shape.dim)
    for node in graph.node:
        for name in filter(None, node.output):
            # Shapes that are computed by the graph itself need no kernel, and may stay unknown.
            if name not in shapes and node.op_type in ("Conv", "Gemm", "MatMul", "Concat"):
                raise InputFileError(
                    f"{origin}: the size of {name!r} follows from values and is not in the file. "
                    "Write it with fixed sizes."
                )
    return shapes
