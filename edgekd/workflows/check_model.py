"""`edgekd export check`: for which TensorRT an ONNX file is legal, and why not for the others."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgekd.errors import IncompatibleError, MissingToolError
from edgekd.export.compatibility import check_each, is_external, read_graph
from edgekd.export.dla import (
    AGAIN,
    LAST,
    has_dla,
    on_dla,
)
from edgekd.export.nvidia_parser import (
    NAME,
    TURING,
    NvidiaParser,
    ParserAnswer,
    ParserDiedError,
    ParserReason,
    ParserRequest,
    clean,
    find_module,
    in_words,
    numbers_of,
    require_module,
    sms_of,
)
from edgekd.export.tensorrt_operators import version_of
from edgekd.export.tensorrt_rules import GPU_RULE, QUANTISING, Violation
from edgekd.files import digest_of
from edgekd.records import (
    Share,
    Software,
    Target,
    compute_capabilities,
    is_rtx,
    record,
    runtime_text,
)
from edgekd.targets import catalogue

SCHEMA: Final = "graph-check"
# Of operators that a DLA cannot run are named
MOST_KINDS: Final = 5
# Compute capability of the boards whose DLA is of the second generation
_ORIN: Final = "8.7"
# Of its compiler, where a graph is right and a GPU has no kernel for it
_NO_KERNEL: Final = re.compile(r"Myelin|no runners|Cannot compile|dedicated kernel")
# By rule, why NVIDIA's parser may take what edgekd refuses
_WHY_TAKEN: Final = {
    "activation per channel": "its compiler takes such scales, NVIDIA's documents one for each activation",
    "checker": "it does not hold a file against the standard",
    "dead scale": "it does not look at the values of scales",
    "dynamic dimension": "it was built for one size",
    "element type": "it lets the type pass here, NVIDIA's documents do not",
    "no INT8": "it knows nothing of the board",
    "not finite": "it does not look at values",
    "opset": "it reads more than NVIDIA's documents name",
    "operator": "it looks into operators that edgekd does not",
    "quantised type": "it reads UINT8 as INT8, and what is above 127 is lost",
    "restriction": "that it builds does not say that its answers are right",
    "scale": "it does not look at the values of scales",
}


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
class ParserCheck:
    """What NVIDIA's own parser and builder said, beside edgekd's verdicts."""

    # "TensorRT-RTX"
    name: str
    # None: it was not asked, or died before it said
    version: str | None
    # Compute capabilities that it built for
    compute_capabilities: tuple[str, ...]
    # None: there is none
    answer: ParserAnswer | None
    # Why there is no answer
    reason: str | None
    # Beside edgekd's verdict for the newest TensorRT
    comparison: str | None = None


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
    # None: NVIDIA's parser was not asked for, or is not installed
    parser: ParserCheck | None = None


def check_model(
    path: Path, *, target: Target | None, parser: bool | None = None, timeout_s: float | None = None
) -> GraphCheck:
    """Judge an ONNX file for a target, if one is given, and for every TensorRT from 8.2 to 11.

    Args:
        path: the file.
        target: what it is for.
        parser: whether NVIDIA's parser is asked too; None: where it is installed.
        timeout_s: seconds that the parser may take; None: its default.

    Raises:
        InputFileError: not an ONNX model.
        MissingToolError: the parser is asked for and not installed, or does not load.
    """
    asks = find_module() is not None if parser is None else parser
    if asks:
        require_module()
    # It would look for such weights by itself, wherever the file says that they are.
    why_not = "the weights are in another file" if asks and is_external(read_graph(path)) else None
    sms = sms_of({} if target is None else target.board.facts)
    with contextlib.ExitStack() as stack:
        # It works in a process of its own while the rules are looked at here.
        running = (
            stack.enter_context(_parser(path, sms, timeout_s)) if asks and why_not is None else None
        )
        found = _check(path, target)
        if not asks:
            return found
        # Its own where that is asked for, else that of the newest TensorRT
        rtx = is_rtx(found.verdicts[0].tensorrt)
        judged = found.verdicts[0 if rtx else -1]
        return replace(
            found, parser=_parser_check(running, sms, why_not, judged, insists=parser is True)
        )


def _parser(path: Path, sms: tuple[str, ...], timeout_s: float | None) -> NvidiaParser:
    # Where one kind of GPU stops the build, what the others say is still worth knowing.
    rest = tuple(sm for sm in sms if sm != TURING)
    requests = [ParserRequest(model=path, sms=each) for each in dict.fromkeys((sms, rest or sms))]
    return (
        NvidiaParser(requests) if timeout_s is None else NvidiaParser(requests, timeout_s=timeout_s)
    )


def _parser_check(
    running: NvidiaParser | None,
    sms: tuple[str, ...],
    why_not: str | None,
    judged: Verdict,
    *,
    insists: bool,
) -> ParserCheck:
    answers: list[ParserAnswer] = []
    version: str | None = None
    if running is not None:
        try:
            answers.extend(running.answers())
        except ParserDiedError as died:
            why_not = str(died)
        except MissingToolError as error:
            if insists:
                raise
            why_not = str(error)
        version = running.version
    answer = answers[0] if answers else None
    if len(answers) > 1 and answers[0].built is False:
        left = f"not built for SM {TURING}: {answers[0].reasons[0].message}"
        answer = replace(answers[1], warnings=(left, *answers[1].warnings))
        sms = tuple(sm for sm in sms if sm != TURING)
    return ParserCheck(
        name=NAME,
        version=version,
        compute_capabilities=sms,
        answer=answer,
        reason=None if answer is not None else why_not,
        comparison=None if answer is None else _compare(answer, judged),
    )


def _compare(answer: ParserAnswer, verdict: Verdict) -> str:
    """Whether NVIDIA's parser and edgekd agree, and why they may not."""
    of = runtime_text(verdict.tensorrt)
    refusing = [reason for reason in verdict.reasons if reason.refuses]
    rules = dict.fromkeys(reason.rule for reason in refusing)
    if answer.taken and verdict.legal:
        return f"the same as edgekd's verdict for {of}"
    if not answer.taken and not verdict.legal:
        named = {reason.node for reason in answer.reasons} & {each.where for each in refusing}
        if any(named):
            return f"refused as by edgekd for {of}, for the same node {min(filter(None, named))}"
        return f"edgekd refuses it for {of}, too ({', '.join(rules)})"
    if answer.taken:
        why = [f"{rule}: {_WHY_TAKEN[rule]}" for rule in rules if rule in _WHY_TAKEN]
        return f"edgekd refuses it for {of} ({'; '.join(why or rules)})"
    return f"edgekd calls it legal for {of}: {_why_refused(answer, verdict)}"


def _why_refused(answer: ParserAnswer, verdict: Verdict) -> str:
    """Why NVIDIA's parser or builder may refuse what edgekd calls legal."""
    words = " ".join(reason.message for reason in answer.reasons)
    gpu = [reason.message for reason in verdict.reasons if reason.rule == GPU_RULE]
    if answer.read and gpu:
        return gpu[0]
    if answer.read and _NO_KERNEL.search(words):
        return "the file is read, and its compiler has no kernel for it"
    if not answer.read and "plugin" in words.lower():
        return f"{NAME} has not the plugin that TensorRT has"
    return "edgekd may lack a rule for it"


def _check(path: Path, target: Target | None) -> GraphCheck:
    asked = [] if target is None else [target.software]
    known = catalogue.tensorrts()
    # INT8 is asked of the target's board alone: without one there is no board that could lack it.
    judges = [*asked, *(replace(software, int8=True) for software in known)]
    # Of several that a board is sold with, the least must do.
    lowest = (
        None
        if target is None
        else min(compute_capabilities(target.board.facts), default=None, key=numbers_of)
    )
    sms = [lowest] * len(asked) + [None] * (len(judges) - len(asked))
    verdicts = tuple(map(_verdict, judges, check_each(path, judges, run=True), sms))
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


def _verdict(software: Software, found: tuple[Violation, ...], sm: str | None) -> Verdict:
    """What is made of the file by one software, on a GPU of that compute capability where one is known."""
    reasons = tuple(_reason(violation, sm) for violation in found)
    return Verdict(
        software=software.name,
        tensorrt=software.tensorrt,
        legal=not any(reason.refuses for reason in reasons),
        reasons=reasons,
    )


def _reason(found: Violation, sm: str | None) -> Reason:
    needed = found.needs_gpu
    lacking = needed is not None and sm is not None and numbers_of(sm) < numbers_of(needed)
    return Reason(
        rule=found.rule,
        # Names in a file may hold anything
        where=clean(found.where),
        message=clean(found.message),
        advice=found.advice,
        refuses=found.refuses or lacking,
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
        software = runtime_text(verdict.tensorrt)
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
    if check.parser is not None:
        yield from _of_parser(check.parser)


def _of_dla(found: DlaCheck) -> str:
    if found.dla_share is None:
        return f"DLA: {found.reason}"
    on_gpu = f"; on the GPU: {', '.join(found.cannot)}" if found.cannot else ""
    return f"DLA: {found.dla_share:.1%} of the multiply-accumulates in FP16{on_gpu}"


def _of_parser(found: ParserCheck) -> Iterator[str]:
    head = f"NVIDIA's parser ({' '.join(filter(None, (found.name, found.version)))})"
    answer = found.answer
    if answer is None:
        yield f"{head}: no answer: {found.reason}"
        return
    yield f"{head}: {in_words(answer, found.compute_capabilities)}"
    yield from (f"  {_told(reason)}" for reason in answer.reasons)
    yield from (f"  warning: {text}" for text in answer.warnings)
    if found.comparison is not None:
        yield f"  {found.comparison}"


def _told(reason: ParserReason) -> str:
    where = " ".join(part for part in (reason.operator, reason.node and f"({reason.node})") if part)
    return f"{where}: {reason.message}" if where else reason.message


def _alike(reason: Reason) -> tuple[str, str, str]:
    """A reason without its place, and without the version that it was found for."""
    return reason.rule, reason.message.partition("; the board has ")[0], reason.advice
