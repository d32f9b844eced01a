"""A board's TOML file as a record: no unknown key, no missing key, no value of another type."""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from edgekd.errors import InputFileError
from edgekd.files import read_text
from edgekd.records import (
    Exporter,
    Fact,
    Runtime,
    record,
)
from edgekd.toml_text import parse_toml

T = TypeVar("T")

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
SoftwareName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
FactName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")]
Text: TypeAlias = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]

# Every fact that may be stated, so that a misspelt one is refused, with what its value must be.
# Units are in the names: GB is 10^9 bytes. `_super` values hold in the Super power modes only.
FACTS: Final[Mapping[str, Literal["text", "whole", "number", "flag"]]] = {
    "cpu": "text",
    "cpu_cores": "whole",
    "sm": "text",
    "cuda_cores": "whole",
    "tensor_cores": "whole",
    "dla_cores": "whole",
    "int8": "flag",
    # Channels that it computes at once: parts of a teacher keep multiples of it where a layer is wide enough
    "channel_multiple": "whole",
    # How an x86 processor adds products of bytes: "vnni" in 32 bits, "none" in pairs in 16, which saturate
    "dot_product": "text",
    "int8_tops": "number",
    "int8_tops_sparse": "number",
    "int8_tops_sparse_super": "number",
    "int8_tops_sparse_gpu": "number",
    "int8_tops_sparse_dla": "number",
    "fp16_tflops_dense": "number",
    "fp16_tflops_dense_super": "number",
    "fp4_tflops_sparse": "number",
    "memory_gb": "number",
    "memory_bandwidth_gb_s": "number",
    "memory_bandwidth_gb_s_super": "number",
    "power_modes_w": "number",
    "power_modes_w_super": "number",
    "power_range_w": "number",
    "part_numbers": "text",
    # Of the device tree: what is this board where no module has a number there; the model; and what is another board
    "compatible_names": "text",
    "model_names": "text",
    "other_boards": "text",
}
DOT_PRODUCTS: Final = ("vnni", "none")
_WORDS: Final[Mapping[str, str]] = {
    "text": "text in quotes",
    "whole": "a whole number",
    "number": "a number",
    "flag": "true or false",
}
# Pydantic's name for it
_UNKNOWN_KEY: Final = "unexpected_keyword_argument"
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "text": (str,),
    "whole": (int,),
    "number": (int, float),
    "flag": (bool,),
}


@record
class SoftwareTable:
    """One table of `software.toml`, or `[software.NAME]` of a board's file."""

    runtime: Runtime
    exporter: Exporter
    opset: Annotated[int, Field(ge=9, le=25)]
    typing: Literal["weak", "strong", "none"]
    int8: bool
    source: Text
    jetpack: Text | None = None
    l4t: Text | None = None
    tensorrt: Text | None = None
    cuda: Text | None = None
    python: Text | None = None
    # Weights may be INT8 constants with a DequantizeLinear alone; False: FP32 with a pair, which all take
    int8_weights: bool = False


@record
class BoardFile:
    name: Name
    title: Text
    family: Literal["jetson", "raspberry-pi", "x86", "other"]
    default_software: SoftwareName
    runs: tuple[SoftwareName, ...] = ()
    aliases: tuple[Name, ...] = ()
    notes: tuple[Text, ...] = ()
    facts: dict[str, Fact] = Field(default_factory=dict)
    # Nothing is computed from these, so any name will do: a new fact needs no code.
    other_facts: dict[FactName, Fact] = Field(default_factory=dict)
    software: dict[SoftwareName, SoftwareTable] = Field(default_factory=dict)
    budget: dict[str, Any] = Field(default_factory=dict)


def read_board(path: Path) -> BoardFile:
    """A board's file, its facts checked against `FACTS`.

    Raises:
        InputFileError: naming the file and the key.
    """
    file = _read(BoardFile, path)
    for key, fact in file.facts.items():
        if key not in FACTS:
            near = suggestion(key, FACTS)
            raise InputFileError(
                f"{path}: facts.{key}: unknown key.{near} A fact of your own goes into [other_facts]."
            )
        values = fact.value if isinstance(fact.value, tuple) else (fact.value,)
        types = _TYPES[FACTS[key]]
        # bool is an int to isinstance, and no count of cores.
        if not values or not all(type(value) in types for value in values):
            raise InputFileError(f"{path}: facts.{key}.value: should be {_WORDS[FACTS[key]]}.")
        if key == "dot_product" and fact.value not in DOT_PRODUCTS:
            raise InputFileError(
                f"{path}: facts.dot_product.value: should be {' or '.join(DOT_PRODUCTS)}."
            )
        if key == "channel_multiple" and not (len(values) == 1 and int(str(values[0])) >= 1):
            raise InputFileError(f"{path}: facts.{key}.value: should be one number, 1 or more.")
    for key in file.other_facts:
        if key in FACTS:
            raise InputFileError(
                f"{path}: other_facts.{key}: edgekd knows this fact; put it into [facts]."
            )
    return file


def read_software(path: Path) -> dict[str, SoftwareTable]:
    """A file of software tables, by name.

    Raises:
        InputFileError: naming the file and the key.
    """
    return _read(dict[SoftwareName, SoftwareTable], path)


def suggestion(word: str, known: Iterable[str]) -> str:
    """` Did you mean ...?` with the nearest known names; empty when nothing is near."""
    names, word = list(known), word.lower()
    # A typing slip first. Then a part: difflib alone answers "jetson-nano" to "orin-nano".
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.85)
    near = near or [name for name in names if len(word) > 2 and word in name]
    near = near or difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in near[:3])}?" if near else ""


def _read(kind: type[T], path: Path) -> T:
    try:
        plain = parse_toml(read_text(path))
    except ValueError as error:
        raise InputFileError(f"{path}: not TOML ({error}).") from error
    try:
        # By way of JSON: pydantic is strict about types there, and still takes lists as tuples.
        text = json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputFileError(f"{path}: dates, inf and nan have no place here ({error}).") from error
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        # A misspelt key is also a missing one; the misspelling is the better message.
        problems = error.errors()
        first = next((one for one in problems if one["type"] == _UNKNOWN_KEY), problems[0])
        raise InputFileError(
            f"{path}: {_problem(first['loc'], first['type'], first['msg'])}"
        ) from error


def _problem(location: tuple[Any, ...], kind: str, message: str) -> str:
    key = ".".join(str(part) for part in location) or "top level"
    if kind == _UNKNOWN_KEY:
        known = [*BoardFile.__annotations__, *SoftwareTable.__annotations__]
        return f"{key}: unknown key.{suggestion(str(location[-1]), known)}"
    if kind in {"missing", "missing_keyword_only_argument"}:
        return f"{key}: missing."
    return f"{key}: {message}."
