"""Which student a teacher gets, and the weights that it begins with."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from edgekd.bench.format import format_quantity
from edgekd.distill.models import student_choice
from edgekd.distill.models.architectures import BUILDABLE
from edgekd.distill.models.student_choice import InitialStudent, Size, StudentVariant, Worth
from edgekd.distill.pruning.cut_request import LatencyRequest, is_cut, parse_cut
from edgekd.distill.pruning.inheritance import inherit
from edgekd.distill.pruning.plan_cut import ROUND_TO, CutPlanner
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.teachers.pt2.writer import check_program
from edgekd.errors import IncompatibleError, UsageError
from edgekd.options import AUTO
from edgekd.records import CutRequest

PROGRAMS: Final = frozenset({"torchscript", "pt2", "onnx"})
# Of the teacher's multiply-accumulates: what `auto` leaves, the first that the board gains from; of a network that keeps
# too much of itself for a quarter, a half
QUARTER: Final = CutRequest(measure="macs", share=0.25)
CUTS: Final = (QUARTER, replace(QUARTER, depth=0.5), replace(QUARTER, share=0.125, depth=0.5))
HALF: Final = replace(QUARTER, share=0.5)
# Fewer parameters than the teacher's by this factor are never chosen unasked
MOST_FEWER: Final = 16
# Halvings of the interval that a part of a certain latency lies in: to a few hundredths of the teacher
HALVINGS: Final = 6


def _gains(_: StudentVariant) -> Worth:
    return "gains"


@dataclass(frozen=True, kw_only=True)
class BoardCosts:
    """What a student costs on its board. Not a record."""

    # One that is too costly is not chosen by `auto`, and one that gains before one that may.
    worth: Callable[[StudentVariant], Worth] = _gains
    # Seconds of one image, estimated or measured; None: no board is known
    latency: Callable[[StudentVariant], float] | None = None
    # Channels of a layer that the board computes at once
    channel_multiple: int = ROUND_TO


NO_BOARD: Final = BoardCosts()


def select_student(
    asked: str,
    teacher: Teacher,
    *,
    seed: int,
    from_scratch: bool = False,
    board: BoardCosts = NO_BOARD,
    say: Callable[[str], None],
) -> StudentVariant:
    """The student that was asked for, with the weights that it begins with.

    Args:
        asked: a name, `cut:...`, or "auto".
        teacher: loaded.
        seed: of what is drawn.
        from_scratch: no weight is taken from the teacher.
        board: what students cost there.
        say: takes what a reader should know.

    Raises:
        UsageError: it is not understood, the teacher cannot be cut, or nothing is small enough for `auto`.
    """
    if is_cut(asked):
        request = parse_cut(asked)
        if from_scratch:
            raise UsageError(
                f"--student {asked} is a part of the teacher, weights and all, and --from-scratch asks for none of them: "
                "name a network instead."
            )
        planner = _planner(teacher, board)
        if isinstance(request, LatencyRequest):
            return _cut_to_latency(planner, request, asked, board, say)
        return _cut(planner, request, "asked for with --student")
    if asked == AUTO and not from_scratch:
        found = _auto_cut(teacher, board, say)
        if found is not None:
            return found
    chosen = student_choice.choose_student(
        asked,
        teacher=teacher.info.architecture,
        size=Size(parameters=teacher.info.parameters, macs=teacher.info.macs),
        too_costly=lambda architecture: (
            board.worth(StudentVariant(architecture=architecture, reason="")) == "too costly"
        ),
        most_fewer=MOST_FEWER,
    )
    return chosen if from_scratch else _inherit_weights(chosen, teacher, seed)


def _planner(teacher: Teacher, board: BoardCosts) -> CutPlanner:
    architecture = teacher.info.architecture
    if architecture.source == "torchscript":
        raise UsageError(
            f"{architecture} cannot be cut: a script shows its answers alone, and no layers. Give the weights with --arch, "
            "or take a student by name with --student."
        )
    return CutPlanner(
        teacher.module,
        architecture=architecture,
        teacher_digest=teacher.info.state_digest,
        round_to=board.channel_multiple,
    )


def _cut(planner: CutPlanner, request: CutRequest, reason: str) -> StudentVariant:
    cut = planner.plan(request)
    module = planner.apply(cut).eval().requires_grad_(False)
    if planner.architecture.source not in BUILDABLE:
        # Before hours are spent
        check_program(module, shape=planner.shape)
    return StudentVariant(
        architecture=replace(planner.architecture, cut=str(request)),
        reason=reason,
        initial=InitialStudent(module=module, cut=cut),
    )


def _cut_to_latency(
    planner: CutPlanner,
    request: LatencyRequest,
    asked: str,
    board: BoardCosts,
    say: Callable[[str], None],
) -> StudentVariant:
    """The largest part that is no slower than was asked for; recorded by its share, which needs no board."""
    if board.latency is None:
        raise UsageError(
            f"--student {asked}: no board is known here. Use edgekd compress with --target, or give a share: cut:macs=0.25."
        )
    whole = board.latency(
        StudentVariant(
            architecture=planner.architecture,
            reason="",
            initial=InitialStudent(module=planner.network),
        )
    )
    if whole <= request.seconds:
        raise UsageError(
            f"--student {asked}: all of the teacher takes {format_quantity(whole, 's')}. Ask for less time, or for a share: "
            "cut:macs=0.25."
        )
    say(
        f"         the teacher takes {format_quantity(whole, 's')}; {HALVINGS} parts of it are tried, each about as long as that took"
    )
    best: tuple[StudentVariant, float] | None = None
    quickest = math.inf
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        share = CutRequest(measure="macs", share=round(middle, 3), depth=request.depth)
        try:
            found = _cut(planner, share, "")
            seconds = board.latency(found)
        except (IncompatibleError, UsageError) as error:
            # Nothing is known of this board, and not of this part alone
            if isinstance(error, IncompatibleError) and quickest == math.inf:
                raise
            say(
                f"         {error}"
                if isinstance(error, UsageError)
                else f"         {share}: {error}"
            )
            low = middle
            continue
        quickest = min(quickest, seconds)
        say(f"         {found.architecture}: {format_quantity(seconds, 's')}")
        if seconds <= request.seconds:
            low, best = middle, (found, seconds)
        else:
            high = middle
    if best is None:
        raise UsageError(
            f"--student {asked}: no part of the teacher is that fast; the fastest that was tried takes "
            f"{format_quantity(quickest, 's')}. Ask for more time, leave blocks out (,depth=0.5), or take a student by name."
        )
    found, seconds = best
    return replace(
        found,
        reason=f"of the parts that were tried, the largest that takes no more than {format_quantity(request.seconds, 's')}: "
        f"{format_quantity(seconds, 's')}",
    )


def _auto_cut(
    teacher: Teacher,
    board: BoardCosts,
    say: Callable[[str], None],
) -> StudentVariant | None:
    """A part of the teacher that the board gains from; None: there is none."""
    try:
        planner = _planner(teacher, board)
    except UsageError as error:
        say(f"         not cut out of the teacher: {error}")
        return None
    unsure: tuple[StudentVariant, CutRequest] | None = None
    tried = 0
    for request in (*CUTS, HALF):
        if (request.depth < 1 and not planner.blocks) or (request == HALF and tried):
            continue
        try:
            found = _cut(planner, request, "")
        except UsageError as error:
            say(f"         {error}")
            continue
        tried += 1
        verdict = board.worth(found)
        if verdict == "gains":
            return _explain(planner, found, request)
        if verdict == "unsure":
            unsure = unsure or (found, request)
    if unsure is None:
        return None
    say(
        "         no part of the teacher is estimated to be faster beyond doubt: measure it on the board"
    )
    return _explain(planner, *unsure)


def _explain(planner: CutPlanner, found: StudentVariant, request: CutRequest) -> StudentVariant:
    """The choice with its reason."""
    assert found.cut is not None
    size, whole = planner.size(found.cut), planner.whole
    reason = (
        f"a part of the teacher with {size.parameters:,} of {whole.parameters:,} parameters and {size.macs:,} of "
        f"{whole.macs:,} MACs; {_neighbours(planner, request)}"
    )
    return replace(found, reason=reason)


def _neighbours(planner: CutPlanner, request: CutRequest) -> str:
    """What the next larger and the next smaller part would cost."""
    parts = []
    for word, share in (("larger", min(0.9, 2 * request.share)), ("smaller", request.share / 2)):
        asked = replace(request, share=share)
        try:
            size = planner.size(planner.plan(asked))
        except UsageError:
            continue
        parts.append(f"{word}: {asked} with {size.macs:,} MACs")
    return ", ".join(parts)


def _inherit_weights(chosen: StudentVariant, teacher: Teacher, seed: int) -> StudentVariant:
    """The student with what fits of the teacher's weights; as it was, where nothing does.

    Of a program that was read from a file nothing is inherited: it was not tried.
    """
    if teacher.info.architecture.source in PROGRAMS:
        return chosen
    initial = inherit(chosen.architecture, teacher.module, seed=seed)
    return replace(chosen, initial=initial)
