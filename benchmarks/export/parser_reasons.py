"""Whether edgekd's verdict and NVIDIA's are the same, and why they are not: each pattern was looked into once."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from edgekd.export.nvidia_parser import ParserAnswer, ParserReason
from edgekd.export.tensorrt_rules import GPU_RULE, Violation

LONGEST: Final = 160  # letters of a verdict
UNEXPLAINED: Final = "unexplained"
YES: Final = "yes"
NO: Final = "no"
OUT_OF_SCOPE: Final = "out of scope"

# edgekd refuses, NVIDIA takes: by edgekd's "rule: message"
_WE_REFUSE: Final[Mapping[str, str]] = {
    r"^operator: (If|Loop|Scan) ": "edgekd does not look into graphs within a node, and passes nothing unseen",
    r"^operator: \S+ is unknown": "in no table of onnx-tensorrt's, and edgekd passes no operator that is in none",
    r"^operator: \S+ is read by no": "the table says that no TensorRT reads it, and RTX does",
    r"^element type: .*UINT8: bytes": "NVIDIA's documents have UINT8 at the ends of a network alone; RTX lets it pass",
    r"^element type: ": "NVIDIA's documents do not have the type there; RTX lets it pass",
    r"^checker: .*MeanVarianceNormalization": "onnx's checker refuses this test of its own, and edgekd holds to the checker",
    r"^checker: Nodes in a graph must be topologically": "the standard asks for nodes in order; the parser puts them in order itself",
    r"^checker: ": "not valid after the standard, which the parser does not hold a file against",
    r"^FP16 scale: ": "the standard has FP16 in Q/DQ from opset 19 on; RTX does not look at the opset",
    r"^opset: ": "below the opsets that any table of onnx-tensorrt's names; RTX does not look",
    r"^restriction: GroupNormalization: one group": "TensorRT 10.16 built it and normalised channel by channel; that RTX builds it does not say that its answers are right",
    r"^activation per channel: ": "NVIDIA's documents have one scale for an activation; RTX's compiler takes more",
    r"^quantised type: UINT8": "RTX reads UINT8 with a zero point of 0 as INT8, and what is above 127 is lost",
    r"^dead scale: ": "a value of a scale that kills the tensor; the parser does not look at it",
    r"^scale: a scale is not finite": "a scale that makes every answer NaN; the parser looks only at its sign",
    r"^dynamic dimension: ": "edgekd has only the batch open; NVIDIA's was built for one size",
    r"^not finite: ": "constants that make answers NaN; the parser does not look at values",
}
# edgekd takes, NVIDIA refuses: by its "operator: message"
_THEY_REFUSE: Final[Mapping[str, str]] = {
    r"^NonZero: .*plugin creator": "RTX brings no plugin for NonZero, which TensorRT has",
    r"^RoiAlign: .*plugin was not found": "RTX brings no plugin for RoiAlign, which TensorRT has",
    r"^Unsupported reduction type": "RTX brings no plugin for reductions of ScatterElements, which TensorRT has from 10.0 on",
    r"^Attention: .*mask must be broadcastable": "a gap of edgekd's: the standard lets a mask be shorter than the keys, the builder does not",
    r"^MatMul: .*reshape changes volume": "a vector times a stack of matrices: the parser computes the shape wrongly",
}


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """What NVIDIA made of a file for one GPU."""

    text: str
    # None: it did not answer
    taken: bool | None
    # Whether an engine came of it
    built: bool


def theirs(answer: ParserAnswer | str) -> Theirs:
    """Its verdict in a line.

    Args:
        answer: what it said, or how its process ended.
    """
    if isinstance(answer, str):
        how = "late" if answer.startswith("no answer within") else "died"
        return Theirs(text=shorten(f"{how}: {answer}"), taken=None, built=False)
    reason = answer.reasons[0] if answer.reasons else None
    told = "" if reason is None else _told(reason)
    if not answer.read:
        return Theirs(text=shorten(f"refused: {told}"), taken=False, built=False)
    if answer.built is None:
        return Theirs(text="read", taken=True, built=True)
    if answer.built:
        return Theirs(text="built", taken=True, built=True)
    # The builder looks at the network first, and says so where it refuses it; a compiler that fails on
    # one for lack of kernels, or by a fault of its own, says nothing of what TensorRT would do.
    if "API Usage Error" in told:
        return Theirs(text=shorten(f"read, refused: {told}"), taken=False, built=False)
    return Theirs(text=shorten(f"read, not compiled: {told}"), taken=True, built=False)


def _told(reason: ParserReason) -> str:
    # In which file on whose machine says nothing to a reader.
    message = re.sub(r"\bIn (\S+) at /[^\s)]*", r"in \1", reason.message)
    message = re.sub(r"^IBuilder::buildSerializedNetwork: ", "", message)
    return f"{reason.operator}: {message}" if reason.operator else message


def shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def refusing(found: Iterable[Violation], sm: str) -> dict[str, str]:
    """By rule, the first message of what refuses a file on a GPU of that compute capability."""
    rules: dict[str, str] = {}
    for each in found:
        lacking = each.needs_gpu is not None and _numbers(sm) < _numbers(each.needs_gpu)
        if each.refuses or lacking:
            rules.setdefault(each.rule, each.message)
    return rules


def _numbers(sm: str) -> tuple[int, ...]:
    return tuple(map(int, sm.split(".")))


def ours_text(rules: Mapping[str, str]) -> str:
    """The verdict of edgekd in a line."""
    if not rules:
        return "legal"
    return shorten("; ".join(f"{rule}: {message}" for rule, message in rules.items()))


def agree(rules: Mapping[str, str], found: Theirs) -> bool:
    """Whether both take the file, or both refuse it.

    Of a GPU that lacks a type, NVIDIA's says so only when it compiles: there, building counts.
    """
    if set(rules) == {GPU_RULE}:
        return not found.built
    return found.taken == (not rules)


def why_not(rules: Mapping[str, str], found: Theirs) -> str:
    """Why they disagree, one reason for each rule that refuses alone."""
    if not rules:
        return _look_up(_THEY_REFUSE, re.sub(r"^(read, )?refused: ", "", found.text))
    reasons = [_look_up(_WE_REFUSE, f"{rule}: {message}") for rule, message in rules.items()]
    return "; ".join(dict.fromkeys(reasons))


def _look_up(table: Mapping[str, str], text: str) -> str:
    found = next((why for pattern, why in table.items() if re.search(pattern, text)), None)
    return UNEXPLAINED if found is None else found
