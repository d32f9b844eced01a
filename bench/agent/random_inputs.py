"""Values for the inputs of an engine, without numpy, which boards do not have."""

import array
import random
import struct
from typing import List

from edgekd.bench.agent.errors import RefusedError

# TensorRT's names of types: numpy's, and bytes of one value.
NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
_BYTES = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "INT64": 8, "UINT8": 1, "BOOL": 1}


def size_of(dtype: str, shape: List[int]) -> int:
    """Bytes of a tensor.

    Raises:
        RefusedError: a type that is not known, or a shape that is open.
    """
    if dtype not in _BYTES:
        raise RefusedError("inputs", "the engine has a tensor of type {}".format(dtype))
    size = _BYTES[dtype]
    for length in shape:
        if length < 1:
            raise RefusedError("inputs", "the engine leaves the shape {} open".format(shape))
        size *= length
    return size


def random_bytes(dtype: str, shape: List[int], seed: int) -> bytes:
    """Standard normal values, or zeros and ones for what is no float.

    Raises:
        RefusedError: as `size_of`.
    """
    size = size_of(dtype, shape)
    draw = random.Random(seed)
    count = size // _BYTES[dtype]
    if dtype == "FLOAT":
        return array.array("f", (draw.gauss(0, 1) for _ in range(count))).tobytes()
    if dtype == "HALF":
        return b"".join(struct.pack("<e", draw.gauss(0, 1)) for _ in range(count))
    one = [int(draw.randrange(2)).to_bytes(_BYTES[dtype], "little") for _ in range(count)]
    return b"".join(one)
