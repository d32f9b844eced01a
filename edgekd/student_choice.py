"""Whether a student is worth its size on the board: `--student auto`, by estimates."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from edgekd.bench.estimate import estimate_latency, fit_for
from edgekd.bench.layers import network_of
from edgekd.bench.report import format_quantity
from edgekd.distill import architectures
from edgekd.distill.teacher import Teacher
from edgekd.errors import IncompatibleError, InputFileError
from edgekd.export.graph import fp32_model
from edgekd.progress import Display
from edgekd.records import Architecture, Estimate, InputSpec, Precision, Target

PRECISION: Precision = "fp16"


def slower_than(
    teacher: Teacher, target: Target, display: Display
) -> Callable[[Architecture], bool]:
    """What tells whether a student is estimated to be slower on the target than its teacher.

    At a quarter of the size a network can still be slower on a GPU, which waits for each of its layers; a student
    like that is no student. Where no estimate is possible nothing is slower, and it is said.
    """
    try:
        fit_for(target, PRECISION)
        limit = _estimated(copy.deepcopy(teacher.module).cpu(), teacher.info.input, target)
    except (IncompatibleError, InputFileError) as error:
        display.say(f"         the student is chosen by its size alone: {error}")
        return lambda _: False

    def slower(student: Architecture) -> bool:
        module = architectures.build(student).eval()
        try:
            found = _estimated(module, teacher.info.input, target)
        except (IncompatibleError, InputFileError) as error:
            display.say(f"         {student.name} is judged by its size alone: {error}")
            return False
        display.say(
            f"         estimated for {target.board.name}, {PRECISION.upper()}, not measured: {student.name} "
            f"{_shown(found)}, teacher {_shown(limit)}"
        )
        return found.value > limit.value

    return slower


def _estimated(module: nn.Module, spec: InputSpec, target: Target) -> Estimate:
    with torch.random.fork_rng(devices=[]):
        model = fp32_model(module, spec=spec, software=target.software)
    return estimate_latency(network_of(model, origin="the network"), target, PRECISION)


def _shown(found: Estimate) -> str:
    low, high = (format_quantity(each, "s") for each in found.interval)
    return f"about {format_quantity(found.value, 's')} ({low} to {high})"
