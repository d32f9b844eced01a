"""Golden vectors: what goes into a model and what must come out, as raw bytes beside a JSON file.

They are compared without numpy, which boards do not have. Values are little-endian, as every board is.
"""

import array
import hashlib
import json
import math
import os
from typing import Any, Dict, List, NamedTuple, Optional

from edgekd.bench.agent.errors import RefusedError

FORMAT = 1
# numpy's names of types, and `array`'s letters.
LETTERS = {"float32": "f", "int32": "i", "uint8": "B"}

Tensor = NamedTuple(
    "Tensor", [("name", str), ("dtype", str), ("shape", List[int]), ("values", List[bytes])]
)
Vectors = NamedTuple(
    "Vectors",
    [
        ("count", int),
        ("inputs", List[Tensor]),
        ("outputs", List[Tensor]),
        ("relative", Optional[float]),  # largest error, as a share of the largest value; None: any
        ("agreement", float),  # share of vectors with the same decision, at least
    ],
)
Found = NamedTuple(
    "Found",
    [
        ("vectors", int),
        ("max_abs_error", float),
        ("max_abs_tolerance", Optional[float]),
        ("top1_agreement", float),
        ("top1_tolerance", float),
        ("passed", bool),
    ],
)


def read_vectors(path: str) -> Vectors:
    """The vectors of a JSON file, with the bytes that lie beside it.

    Raises:
        RefusedError: they cannot be read, are not of this format, or a digest does not hold.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            record = json.load(stream)
        if record["schema"] != "vectors" or record["schema_version"] != FORMAT:
            raise ValueError("not golden vectors of format {}".format(FORMAT))
        folder, count = os.path.dirname(path), int(record["count"])
        relative = record["relative"]
        return Vectors(
            count,
            [_tensor(folder, each, count) for each in record["inputs"]],
            [_tensor(folder, each, count) for each in record["outputs"]],
            None if relative is None else float(relative),
            float(record["agreement"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedError("inputs", "{}: {}".format(path, error)) from error


def _tensor(folder: str, entry: Dict[str, Any], count: int) -> Tensor:
    name, dtype, shape = entry["name"], entry["dtype"], [int(size) for size in entry["shape"]]
    if os.path.basename(entry["file"]) != entry["file"]:
        raise ValueError("{!r} lies outside its folder".format(entry["file"]))
    with open(os.path.join(folder, entry["file"]), "rb") as stream:
        data = stream.read()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError("{}: its digest does not hold".format(entry["file"]))
    size = array.array(LETTERS[dtype]).itemsize
    for length in shape:
        size *= length
    if count < 1 or size < 1 or len(data) != count * size:
        raise ValueError("{}: {} bytes, not {} of {}".format(entry["file"], len(data), count, size))
    return Tensor(name, dtype, shape, [data[at : at + size] for at in range(0, len(data), size)])


def compare(vectors: Vectors, answers: List[List[bytes]]) -> Found:
    """What came out, against what must.

    Args:
        vectors: golden.
        answers: of each vector, the bytes of each output, in the order of `vectors.outputs`.
    """
    worst, largest, same, finite = 0.0, 0.0, 0, True
    for number, given in enumerate(answers):
        alike = True
        for tensor, data in zip(vectors.outputs, given):  # noqa: B905 - Python 3.6
            expected, found = (_values(tensor, each) for each in (tensor.values[number], data))
            finite = finite and all(math.isfinite(value) for value in (*found, *expected))
            worst = max([worst] + [abs(a - b) for a, b in zip(found, expected)])  # noqa: B905
            largest = max([largest] + [abs(value) for value in expected])
            alike = alike and _decision(found) == _decision(expected)
        same += alike
    agreement = same / float(len(answers))
    allowed = None if vectors.relative is None else vectors.relative * largest
    return Found(
        len(answers),
        worst if finite else 0.0,
        allowed,
        agreement,
        vectors.agreement,
        finite and agreement >= vectors.agreement and (allowed is None or worst <= allowed),
    )


def _values(tensor: Tensor, data: bytes) -> List[float]:
    if len(data) != len(tensor.values[0]):
        raise RefusedError(
            "deviates",
            "{} gives {} bytes, not {}".format(tensor.name, len(data), len(tensor.values[0])),
        )
    values = array.array(LETTERS[tensor.dtype])
    values.frombytes(data)
    return [float(value) for value in values]


def _decision(values: List[float]) -> float:
    """The place of the largest of several values; of one value, the value: it is a decision already."""
    return values[0] if len(values) == 1 else float(values.index(max(values)))
