"""Whether a student is worth its size on the board, and keeps the budget: `--student auto`."""

import copy
import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from edgekd.bench.estimator.estimate import estimate_latency, fit_for
from edgekd.bench.estimator.graph_cost import network_of
from edgekd.bench.format import format_quantity
from edgekd.bench.transport.fleet import Device
from edgekd.distill.models.student_choice import StudentVariant, Worth
from edgekd.distill.teachers.loader import Teacher
from edgekd.errors import EdgekdError, IncompatibleError, InputFileError
from edgekd.export.torch_to_onnx import fp32_model
from edgekd.gate.budget_file import NONE as NO_BUDGET
from edgekd.progress import Display, SilentDisplay
from edgekd.records import (
    Budget,
    Estimate,
    Exporter,
    InputSpec,
    Precision,
    Target,
    TeacherInfo,
)
from edgekd.search.candidates import (
    COSTS,
    Candidate,
    CostMeasurement,
    is_here,
    measure_costs,
)
from edgekd.search.summary import row
from edgekd.workflows.distill import Pixels
from edgekd.workflows.select_student import NO_BOARD, BoardCosts

PRECISION: Final[Precision] = "fp16"
QUICKER: Final[Exporter] = "torchscript"


def time_gained(
    teacher: Teacher, target: Target, display: Display
) -> Callable[[StudentVariant], Worth]:
    """What tells whether a student is estimated to gain time on the target over its teacher.

    At a quarter of the size a network can still be as slow on a GPU, which waits for each of its layers. Where no
    estimate is possible, that is said, and every student may gain.
    """
    try:
        fit_for(target, PRECISION)
        limit = _estimate(copy.deepcopy(teacher.module).cpu(), teacher.info.input, target)
    except (IncompatibleError, InputFileError) as error:
        display.say(f"         the student is chosen by its size alone: {error}")
        return lambda _: "gains"

    said: set[str] = set()

    def worth(student: StudentVariant) -> Worth:
        name = student.architecture
        try:
            found = _estimate(student.build().eval(), teacher.info.input, target)
        except (IncompatibleError, InputFileError) as error:
            reason = ", likewise" if str(error) in said else f": {error}"
            said.add(str(error))
            display.say(f"         {name} is judged by its size alone{reason}")
            return "unsure"
        # Within the interval of the teacher's estimate a difference is none
        gains = found.value < limit.interval[0]
        display.say(
            f"         estimated for {target.board.name}, {PRECISION.upper()}, not measured: {name} "
            f"{_format_estimate(found)}, teacher {_format_estimate(limit)}"
            + ("" if gains else "; the difference is within the doubt")
        )
        if gains:
            return "gains"
        return "too costly" if found.value > limit.value else "unsure"

    return worth


def board_costs(
    teacher: TeacherInfo,
    target: Target,
    display: Display,
    *,
    device: Device | None,
    worth: Callable[[StudentVariant], Worth] = NO_BOARD.worth,
) -> BoardCosts:
    """What students cost on a board; nothing is estimated or measured before one is asked about."""

    @functools.cache
    def latency() -> Callable[[StudentVariant], float]:
        return _latency_on(target, teacher, display, device=device)

    fact = target.board.facts.get("channel_multiple")
    return BoardCosts(
        worth=worth,
        latency=lambda student: latency()(student),
        channel_multiple=NO_BOARD.channel_multiple if fact is None else int(str(fact.value)),
    )


def _latency_on(
    target: Target, teacher: TeacherInfo, display: Display, *, device: Device | None
) -> Callable[[StudentVariant], float]:
    """What tells the seconds of one image on the board: measured where it is at hand, or else estimated.

    Raises:
        IncompatibleError: it is not at hand, and no estimate is possible.
    """
    if device is None and not is_here(target):
        fit_for(target, PRECISION)
        display.say(
            f"         times are estimated for {target.board.name}, {PRECISION.upper()}, not measured"
        )
        return lambda student: _estimate(student.build().eval(), teacher.input, target).value
    costing = CostMeasurement(
        target=target,
        budget=NO_BUDGET,
        device=device,
        allowed=frozenset(COSTS),
        estimates=False,
        images=_noise(teacher),
    )
    display.say(f"         times are medians measured on {target.board.name}, of the fastest file")

    def latency(student: StudentVariant) -> float:
        found = _measure_cost(student, teacher, costing)
        return found.costs["latency-p50"].value

    return latency


def _measure_cost(
    student: StudentVariant, teacher: TeacherInfo, costing: CostMeasurement
) -> Candidate:
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        of_this = replace(costing, networks={student.architecture: student.build()})
        (found,) = measure_costs(
            [student.architecture], teacher, of_this, Path(folder), SilentDisplay()
        )
    return found


def _estimate(module: nn.Module, spec: InputSpec, target: Target) -> Estimate:
    """Of the graph as the quicker exporter writes it, a twentieth of the other's time; a network it refuses gets the other.

    The estimate was the same within 0.3 % on eleven networks of timm (torch 2.14), and nothing else is taken of it.
    """
    software = target.software
    with torch.random.fork_rng(devices=[]):
        try:
            model = fp32_model(module, spec=spec, software=replace(software, exporter=QUICKER))
        except EdgekdError:
            model = fp32_model(module, spec=spec, software=software)
    return estimate_latency(network_of(model, origin="the network"), target, PRECISION)


def _format_estimate(found: Estimate) -> str:
    low, high = (format_quantity(each, "s") for each in found.interval)
    return f"about {format_quantity(found.value, 's')} ({low} to {high})"


def over_budget(
    budget: Budget,
    target: Target,
    teacher: TeacherInfo,
    display: Display,
    *,
    device: Device | None,
    passed_over: list[Candidate],
) -> Callable[[StudentVariant], bool]:
    """What tells whether a student would cost more than a budget allows.

    By what is measured on the board, where there is one, and by the size of its file, of the model that the budget is held
    against at the end; what cannot be known yet is held against it then.

    Args:
        budget: its absolute limits of costs.
        target: the board.
        teacher: whose student it would be.
        display: what happens is said there.
        device: the board itself; None: it is not at hand.
        passed_over: is given those that cost too much.
    """
    absolute = {
        metric: limit
        for metric, limit in budget.limits.items()
        if metric in COSTS and limit.degradation is None
    }
    if not absolute:
        return lambda _: False
    precision = budget.precision or ("int8" if target.software.int8 else None)
    costing = CostMeasurement(
        target=target,
        budget=replace(budget, limits=absolute, precision=precision),
        device=device,
        allowed=frozenset(COSTS),
        estimates=False,
        images=_noise(teacher),
    )

    def over(student: StudentVariant) -> bool:
        found = _measure_cost(student, teacher, costing)
        if found.over:
            display.say(f"         {row(found)}")
            passed_over.append(found)
        return bool(found.over)

    return over


def _noise(teacher: TeacherInfo) -> Pixels:
    """Enough to export INT8 with: what it decides is of no matter, what it costs is."""
    spec = teacher.input
    shape = (64, spec.height, spec.width, spec.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
