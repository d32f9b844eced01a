"""`edgekd export check`: for which TensorRT an ONNX file is legal, and why not for the others."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgekd.errors import IncompatibleError
from edgekd.export.compatibility import check_each, read_graph
from edgekd.export.dla import (
    AGAIN,
    LAST,
    has_dla,
    on_dla,
)
from edgekd.export.tensorrt_operators import version_of
from edgekd.export.tensorrt_rules import QUANTISING, Violation
from edgekd.files import digest_of
from edgekd.records import (
    Share,
    Software,
    Target,
    record,
)
from edgekd.targets import catalogue

SCHEMA: Final = "graph-check"
# That no board here brings yet
NEWEST: Final = "11.4.1"
# Of operators that a DLA cannot run are named
MOST_KINDS: Final = 5
# Compute capability of the boards whose DLA is of the second generation
_ORIN: Final = "8.7"


@record
class Reason:
    """One reason why a graph is not legal, or what is legal and does harm."""

    rule: str
    # Name of a node, tensor or input; "model" for all of it
    where: str
    message: str
    advice: str
    # False: it is taken, and is worse for it
    refuses: bool = True


@record
class Verdict:
    """What one software makes of the file."""

    software: str  # "jp6.2"
    tensorrt: str | None
    legal: bool
    reasons: tuple[Reason, ...]


@record
class DlaCheck:
    """How much of a file the board's deep-learning accelerator could compute in FP16."""

    # Of the multiply-accumulates
    dla_share: Share | None
    # Why there is no share
    reason: str | None
    # Kinds of operators that stay on the GPU, the first few
    cannot: tuple[str, ...] = ()


@record
class GraphCheck:
    """What `edgekd export check --json` prints."""

    # Name of the file
    model: str
    digest: str
    # That was asked for
    target: str | None
    # The target's first, then every TensorRT
    verdicts: tuple[Verdict, ...]
    # Of the target
    dla: DlaCheck | None = None


def check_model(path: Path, *, target: Target | None) -> GraphCheck:
    """Judge an ONNX file for a target, if one is given, and for every TensorRT from 8.2 to 11.

    Raises:
        InputFileError: not an ONNX model.
    """
    asked = [] if target is None else [target.software]
    known = catalogue.tensorrts()
    newest = replace(known[-1], name="newest", tensorrt=NEWEST)
    # INT8 is asked of the target's board alone: without one there is no board that could lack it.
    judges = [*asked, *(replace(software, int8=True) for software in (*known, newest))]
    verdicts = tuple(map(_verdict, judges, check_each(path, judges)))
    return GraphCheck(
        model=path.name,
        digest=digest_of(path),
        target=None if target is None else target.id,
        verdicts=verdicts,
        dla=None if target is None else _dla(path, target, verdicts[0]),
    )


def _dla(path: Path, target: Target, verdict: Verdict) -> DlaCheck:
    why = _no_dla(target)
    if why is None and {"checker", "external data"} & {each.rule for each in verdict.reasons}:
        why = "the file is not whole or not valid"
    if why is not None:
        return DlaCheck(dla_share=None, reason=why)
    model = read_graph(path)
    if any(node.op_type in QUANTISING for node in model.graph.node):
        why = "the file has Q/DQ pairs, and what a DLA runs in FP16 is the FP32 file: check that"
        return DlaCheck(dla_share=None, reason=why)
    sm = target.board.facts.get("sm")
    found = on_dla(
        model, version=version_of(target.software), orin=sm is not None and sm.value == _ORIN
    )
    return DlaCheck(
        dla_share=found.share,
        reason="there are no multiply-accumulates in it" if found.share is None else None,
        cannot=tuple(f"{kind} ({reason})" for kind, reason in found.cannot[:MOST_KINDS]),
    )


def _no_dla(target: Target) -> str | None:
    """Why nothing runs on a DLA there, whatever the graph."""
    title, software = target.board.title, target.software
    cores = target.board.facts.get("dla_cores")
    if software.tensorrt is None:
        return f"{software.name} runs without TensorRT, which alone reaches a DLA"
    if cores is None:
        return f"what is known of {title} does not say how many DLA cores it has (dla_cores)"
    if not cores.value:
        return f"{title} has no DLA"
    if not has_dla(software.tensorrt):
        last, again = (".".join(map(str, version)) for version in (LAST, AGAIN))
        return f"TensorRT {software.tensorrt} has no DLA: {last} was the last until {again} has it again"
    return None


def _verdict(software: Software, found: tuple[Violation, ...]) -> Verdict:
    return Verdict(
        software=software.name,
        tensorrt=software.tensorrt,
        legal=not any(violation.refuses for violation in found),
        reasons=tuple(map(_reason, found)),
    )


def _reason(found: Violation) -> Reason:
    return Reason(
        rule=found.rule,
        where=found.where,
        message=found.message,
        advice=found.advice,
        refuses=found.refuses,
    )


def require_compatible(check: GraphCheck) -> None:
    """Raise where a target was asked for and does not take the file.

    Raises:
        IncompatibleError: it names both.
    """
    if check.target is None or check.verdicts[0].legal:
        return
    raise IncompatibleError(
        f"{check.model} is not legal for {check.target}; the reasons were printed."
    )


def format_graph_check(check: GraphCheck) -> str:
    """For people: a line for each software, and each reason once."""
    return "\n".join(_lines(check))


def _lines(check: GraphCheck) -> Iterator[str]:
    # What is alike is one reason: numbered as it comes, said once below, with the places where it holds.
    places: dict[tuple[str, ...], list[str]] = {}
    for verdict in check.verdicts:
        for reason in verdict.reasons:
            found = places.setdefault(_alike(reason), [])
            if reason.where not in found:
                found.append(reason.where)
    numbers = {reason: number for number, reason in enumerate(places, start=1)}
    for place, verdict in enumerate(check.verdicts):
        name = check.target if place == 0 and check.target else verdict.software
        software = f"TensorRT {verdict.tensorrt}" if verdict.tensorrt else "ONNX Runtime"
        why = sorted({numbers[_alike(reason)] for reason in verdict.reasons})
        said = ("legal" if verdict.legal else "refused") + (
            f"{', but' if verdict.legal else ':'} {', '.join(map(str, why))}" if why else ""
        )
        yield f"{name:<28} {software:<18} {said}"
    if check.dla is not None:
        yield _of_dla(check.dla)
    for (rule, message, advice), found in places.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield f"{numbers[rule, message, advice]:>3}. {rule} ({found[0]}{more}): {message}; {advice}"


def _of_dla(found: DlaCheck) -> str:
    if found.dla_share is None:
        return f"DLA: {found.reason}"
    on_gpu = f"; on the GPU: {', '.join(found.cannot)}" if found.cannot else ""
    return f"DLA: {found.dla_share:.1%} of the multiply-accumulates in FP16{on_gpu}"


def _alike(reason: Reason) -> tuple[str, str, str]:
    """A reason without its place, and without the version that it was found for."""
    return reason.rule, reason.message.partition("; the board has ")[0], reason.advice
