"""`edgekd export check`: for which TensorRT an ONNX file is legal, and why not for the others."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgekd.errors import IncompatibleError
from edgekd.export.legality import check_each
from edgekd.export.rules import Violation
from edgekd.files import digest_of
from edgekd.records import Software, Target, record
from edgekd.targets import catalogue

SCHEMA: Final = "graph-check"
NEWEST: Final = "11.4.1"  # that no board here brings yet


@record
class Reason:
    """One reason why a graph is not legal."""

    rule: str
    where: str  # name of a node, tensor or input; "model" for all of it
    message: str
    advice: str


@record
class Verdict:
    """What one software makes of the file."""

    software: str  # "jp6.2"
    tensorrt: str | None
    legal: bool
    reasons: tuple[Reason, ...]


@record
class GraphCheck:
    """What `edgekd export check --json` prints."""

    model: str  # name of the file
    digest: str
    target: str | None  # that was asked for
    verdicts: tuple[Verdict, ...]  # the target's first, then every TensorRT


def checked(path: Path, *, target: Target | None) -> GraphCheck:
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
    )


def _verdict(software: Software, found: tuple[Violation, ...]) -> Verdict:
    return Verdict(
        software=software.name,
        tensorrt=software.tensorrt,
        legal=not found,
        reasons=tuple(map(_reason, found)),
    )


def _reason(found: Violation) -> Reason:
    return Reason(rule=found.rule, where=found.where, message=found.message, advice=found.advice)


def require(check: GraphCheck) -> None:
    """Raise where a target was asked for and does not take the file.

    Raises:
        IncompatibleError: it names both.
    """
    if check.target is None or check.verdicts[0].legal:
        return
    raise IncompatibleError(
        f"{check.model} is not legal for {check.target}; the reasons were printed."
    )


def text(check: GraphCheck) -> str:
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
        said = "legal" if verdict.legal else f"refused: {', '.join(map(str, why))}"
        yield f"{name:<28} {software:<18} {said}"
    for (rule, message, advice), found in places.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield f"{numbers[rule, message, advice]:>3}. {rule} ({found[0]}{more}): {message}; {advice}"


def _alike(reason: Reason) -> tuple[str, str, str]:
    """A reason without its place, and without the version that it was found for."""
    return reason.rule, reason.message.partition("; the board has ")[0], reason.advice
