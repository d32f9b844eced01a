"""Which element types TensorRT has, and where it takes each.

Sources: the heads of onnx-tensorrt's `docs/operators.md` (8.4, 10.15) and its changelog for the versions:
INT64 as such, FP8 and BF16 in 9.0, INT4 in 10.0, FP4 in 10.8, UINT8 at the ends of a network in 8.5.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import onnx
from onnx import TensorProto

from edgekd.export.tensorrt_operators import Version

FLOATS: Final = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
)
WHOLE: Final = frozenset({TensorProto.INT32, TensorProto.INT64})
# The first version that has each. DOUBLE is computed as FP32, and INT64 as INT32 before 9.0.
SINCE: Final[Mapping[int, Version]] = {
    TensorProto.FLOAT: (8, 0),
    TensorProto.FLOAT16: (8, 0),
    TensorProto.DOUBLE: (8, 0),
    TensorProto.INT32: (8, 0),
    TensorProto.INT64: (8, 0),
    TensorProto.INT8: (8, 0),
    TensorProto.BOOL: (8, 0),
    TensorProto.UINT8: (8, 5),
    TensorProto.BFLOAT16: (9, 0),
    TensorProto.FLOAT8E4M3FN: (9, 0),
    TensorProto.INT4: (10, 0),
    TensorProto.FLOAT4E2M1: (10, 8),
}
# Between a QuantizeLinear and a DequantizeLinear alone
QUANTISED: Final = frozenset({TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.FLOAT4E2M1})
_BYTES_INTO: Final = frozenset({"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"})
_MOVES: Final = frozenset({"Concat", "Constant", "Identity", "Reshape", "Transpose", "Shape"})


def kinds_of(model: onnx.ModelProto, inferred: onnx.GraphProto) -> dict[str, int]:
    """Element types by the name of the tensor: what is written, and what follows from it."""
    found = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for entry in (*inferred.input, *inferred.value_info, *inferred.output):
        if entry.type.HasField("tensor_type"):
            found[entry.name] = entry.type.tensor_type.elem_type
    for node in model.graph.node:
        for entry in node.attribute:
            # Of a damaged file a node may have no output.
            if node.op_type == "Constant" and entry.name == "value" and node.output:
                found[node.output[0]] = entry.t.data_type
    return {name: kind for name, kind in found.items() if kind != TensorProto.UNDEFINED}


def shapes_of(inferred: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    """Sizes by the name of the tensor, None for one that is open; tensors of unknown rank are left out."""
    return {
        entry.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in entry.type.tensor_type.shape.dim
        )
        for entry in (*inferred.input, *inferred.value_info, *inferred.output)
        if entry.type.tensor_type.HasField("shape")
    }


def type_problems(
    model: onnx.ModelProto, kinds: Mapping[str, int], version: Version
) -> Iterator[tuple[str, str, str]]:
    """Types that this TensorRT has not, or not there: where, what, and what to do; each kind of type once."""
    said: set[int] = set()
    for name, kind in kinds.items():
        since = SINCE.get(kind)
        if kind in said or (since and version >= since):
            continue
        said.add(kind)
        lacking = (
            "TensorRT has no such type"
            if since is None
            else f"needs TensorRT {since[0]}.{since[1]}"
        )
        instead = (
            "leave preprocessing out of the graph"
            if kind == TensorProto.UINT8
            else "export in FP32, FP16 or INT8"
        )
        yield name, f"{name_of(kind)}: {lacking}", instead
    places: set[tuple[int, str, bool]] = set()
    for node in model.graph.node:
        ends = [(name, True) for name in node.input] + [(name, False) for name in node.output]
        for name, taken in ends:
            found = kinds.get(name)
            if found is None or (found, node.op_type, taken) in places:
                continue
            problem = (_taken if taken else _made)(found, node.op_type)
            if problem:
                places.add((found, node.op_type, taken))
                how = f"{node.op_type} {'of' if taken else 'to'} {name_of(found)}"
                yield node.name or node.op_type, f"{how}: {problem}", "cast before it, or quantise"


def _taken(kind: int, operator: str) -> str | None:
    if kind == TensorProto.UINT8 and operator not in _BYTES_INTO:
        return "bytes are taken at the ends of a network alone"
    if kind in QUANTISED and operator not in {"DequantizeLinear", "QuantizeLinear"} | _MOVES:
        return "this type is taken between QuantizeLinear and DequantizeLinear alone"
    return None


def _made(kind: int, operator: str) -> str | None:
    if kind in QUANTISED and operator not in {"QuantizeLinear"} | _MOVES:
        return "this type is taken between QuantizeLinear and DequantizeLinear alone"
    return None


def name_of(kind: int) -> str:
    """As ONNX calls the type."""
    try:
        return str(TensorProto.DataType.Name(kind))
    except ValueError:
        return f"type {kind}"
