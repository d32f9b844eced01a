"""Students that a search tries, and what each costs on the board before it has learned anything.

Costs do not depend on weights: a network is exported as it is drawn, in every precision that the board has, and
measured or estimated; it would be deployed in the fastest precision that keeps the budget.
"""

import contextlib
import copy
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import nn

from edgekd.bench.config import BenchConfig
from edgekd.bench.transport.fleet import Device
from edgekd.distill.data.labelled import normalise
from edgekd.distill.models import architectures, student_choice
from edgekd.distill.pruning.cut_request import is_cut
from edgekd.distill.teachers.build_module import silent
from edgekd.distill.teachers.loader import Teacher
from edgekd.errors import IncompatibleError, InputFileError, UsageError
from edgekd.gate.budget_file import NAMES
from edgekd.gate.figures import figure, taken_there
from edgekd.progress import Display, SilentDisplay
from edgekd.records import (
    Architecture,
    Budget,
    Measurements,
    Metric,
    OnnxModel,
    Precision,
    Target,
    TeacherInfo,
    record,
)
from edgekd.targets.board_detection import is_board
from edgekd.workflows.distill import Pixels
from edgekd.workflows.measure.benchmark import RequestedModel, bench_models
from edgekd.workflows.measure.estimate_latency import estimate, precision_run
from edgekd.workflows.model_files import Exported, ExportImages, Network, export_network
from edgekd.workflows.select_student import BoardCosts, select_student

COSTS: Final[tuple[Metric, ...]] = ("latency-p50", "latency-p99", "energy", "peak-memory", "size")
# The axes of the front
SHOWN: Final[tuple[Metric, ...]] = ("latency-p50", "energy", "size")
# Short, as there are many: a median of 200 calls and more is known to a few percent on a quiet board.
QUICK: Final = BenchConfig(
    processes=2,
    seconds=0.5,
    memory_processes=1,
    warmup_min_s=0.2,
    warmup_max_s=1.0,
    energy_windows=1,
)
# Of ours, from small to large and of unlike shapes; a search without --candidate starts from these.
OWN: Final = (
    "resnet8-w4", "resnet8-w8@20", "resnet8-w8", "resnet14-w4", "resnet8-w12", "resnet14-w8@20", "resnet14-w8",
    "resnet20-w4", "resnet8", "resnet14-w12", "resnet20-w8", "resnet14", "mobilenetv2-0.25@20", "mobilenetv2-0.25",
    "lenet5-half", "lenet5",
)  # fmt: skip


@record
class Cost:
    """A figure of a candidate. `estimated`: by a model, not a measurement on the board."""

    value: float
    estimated: bool


@record
class Candidate:
    """A network that could be the student. `over`: budget keys that it does not keep."""

    name: str
    architecture: Architecture
    parameters: int
    macs: int
    # That it would be deployed in
    precision: Precision
    costs: dict[Metric, Cost]
    # By how much, as a ratio
    over: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class CostMeasurement:
    """How candidates are costed."""

    target: Target
    budget: Budget
    # None: this machine, where it is the target's board
    device: Device | None
    # May stay unknown, or be estimated
    allowed: frozenset[Metric]
    estimates: bool = True
    images: Pixels  # (N, H, W, C), N at least 64: what INT8 is exported with; costs do not depend on them
    # Of those that no name builds
    networks: Mapping[Architecture, nn.Module] = field(default_factory=dict)

    def build(self, architecture: Architecture) -> nn.Module:
        found = self.networks.get(architecture)
        return architectures.build(architecture) if found is None else copy.deepcopy(found)


def list_candidates(names: Sequence[str], teacher: TeacherInfo) -> list[Architecture]:
    """The candidates by name; without names, those of ours that are smaller than the teacher.

    Parts of the teacher are `list_cuts`.

    Raises:
        UsageError: a name is none, is given twice, or nothing is smaller.
    """
    shape = {
        "channels": teacher.input.channels,
        "classes": teacher.classes,
        "height": teacher.input.height,
        "width": teacher.input.width,
    }
    if names:
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise UsageError(f"--candidate {doubled[0]}: given twice.")
        return [
            architectures.find_architecture(name, **shape) for name in names if not is_cut(name)
        ]
    found = []
    for name in OWN:
        try:
            architecture = architectures.find_architecture(name, **shape)
        except UsageError:
            # Not for images of this size
            continue
        size = _size(architectures.build, architecture, teacher)
        if size.parameters < teacher.parameters and size.macs < teacher.macs:
            found.append(architecture)
    if not found:
        raise UsageError(
            f"none of our networks is smaller than the teacher ({teacher.parameters:,} parameters, {teacher.macs:,} "
            "MACs). Name some with --candidate."
        )
    return found


def list_cuts(
    names: Sequence[str], teacher: Teacher, *, seed: int, board: BoardCosts
) -> dict[Architecture, nn.Module]:
    """Those candidates that are parts of the teacher (`cut:macs=0.25`), as they are before they learn.

    Raises:
        UsageError: one is not understood, or the teacher cannot be cut so.
    """
    found = {}
    for name in filter(is_cut, names):
        student = select_student(name, teacher, seed=seed, board=board, say=silent)
        found[student.architecture] = student.build()
    return found


def name_of(architecture: Architecture) -> str:
    """What `--student` takes for it."""
    return architecture.cut or str(architecture)


def measure_costs(
    wanted: Sequence[Architecture],
    teacher: TeacherInfo,
    costing: CostMeasurement,
    folder: Path,
    display: Display,
) -> list[Candidate]:
    """Each candidate with what it costs, measured in one go: their turns see the same machine.

    Args:
        wanted: the candidates.
        teacher: whose students they would be.
        costing: how.
        folder: to write files into.
        display: what happens is said there.

    Raises:
        UsageError: the budget limits what can neither be measured nor estimated here.
        EdgekdError: of the board.
    """
    folders = {architecture: folder / str(number) for number, architecture in enumerate(wanted)}
    exported = {
        architecture: _export(architecture, teacher, costing, place)
        for architecture, place in folders.items()
    }
    taken = _measure(exported, folders, costing, display)
    return [
        _candidate(architecture, teacher, files, folders[architecture], taken, costing)
        for architecture, files in exported.items()
    ]


def limit_of(metric: Metric, budget: Budget) -> float | None:
    """The absolute limit of a cost.

    Raises:
        UsageError: it is relative, and nothing is there yet that it could be relative to.
    """
    limit = budget.limits.get(metric)
    if limit is None:
        return None
    if limit.degradation is not None:
        raise UsageError(
            f"{metric}: a search takes absolute limits of what a student costs: {NAMES[metric]}."
        )
    return limit.value


def _size(
    build: Callable[[Architecture], nn.Module], architecture: Architecture, teacher: TeacherInfo
) -> student_choice.Size:
    with torch.random.fork_rng(devices=[]):
        return student_choice.size_of(build(architecture), shape=teacher.input.shape)


def _export(
    architecture: Architecture, teacher: TeacherInfo, costing: CostMeasurement, folder: Path
) -> Exported:
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # noqa: TID251  # libraries take no generator
        module = costing.build(architecture).eval().requires_grad_(False)
    images = normalise(costing.images[:64], teacher.input)
    return export_network(
        Network(module=module, spec=teacher.input, digest="0" * 64),
        ExportImages(calibration=images[:32], held_out=images[32:]),
        target=costing.target,
        folder=folder,
        display=SilentDisplay(),
    )


def _measure(
    exported: Mapping[Architecture, Exported],
    folders: Mapping[Architecture, Path],
    costing: CostMeasurement,
    display: Display,
) -> dict[str, Measurements]:
    """By digest; empty where there is no board."""
    if costing.device is None and not is_here(costing.target):
        return {}
    wanted = [
        RequestedModel(folders[architecture] / model.path, model.precision, model)
        for architecture, files in exported.items()
        for model in _deployable(files, costing.budget)
    ]
    where = "this machine" if costing.device is None else costing.device.name
    display.say(f"bench    {len(wanted)} files on {where}, in turns")
    taken = bench_models(
        wanted,
        display=SilentDisplay(),
        config=QUICK,
        target=costing.target,
        devices=() if costing.device is None else (costing.device,),
    ).measurements
    elsewhere = next(
        (each.taken_on for each in taken if not taken_there(each, costing.target)), None
    )
    if elsewhere is not None:
        raise UsageError(
            f"{where} is {elsewhere}, not {costing.target.board.name}: its figures say nothing about that board."
        )
    return {each.subject_digest: each for each in taken}


def _deployable(files: Exported, budget: Budget) -> list[OnnxModel]:
    """Those of the budget's precision; without one, all."""
    found = [each for each in files.models if budget.precision in {None, each.precision}]
    if not found:
        there = ", ".join(each.precision for each in files.models)
        raise UsageError(f"the budget is for {budget.precision}, and the target has {there}.")
    return found


def _candidate(
    architecture: Architecture,
    teacher: TeacherInfo,
    files: Exported,
    folder: Path,
    taken: Mapping[str, Measurements],
    costing: CostMeasurement,
) -> Candidate:
    models = _deployable(files, costing.budget)
    costs = {model.precision: _costs(model, folder, taken, costing) for model in models}
    over = {name: _over(found, costing) for name, found in costs.items()}
    precision = _choose_precision(costs, over, costing.budget)
    size = _size(costing.build, architecture, teacher)
    return Candidate(
        name=name_of(architecture),
        architecture=architecture,
        parameters=size.parameters,
        macs=size.macs,
        precision=precision,
        costs=costs[precision],
        over=over[precision],
    )


def _choose_precision(
    costs: Mapping[Precision, Mapping[Metric, Cost]],
    over: Mapping[Precision, Mapping[str, float]],
    budget: Budget,
) -> Precision:
    """Of those whose limited costs are known and kept, the fastest: INT8 only where it wins.

    Where no time is known, the target's own preference, which is the last file.
    """
    limited = [metric for metric in COSTS if metric in budget.limits]
    known = [name for name in costs if all(metric in costs[name] for metric in limited)]
    known = known or list(costs)
    kept = [name for name in known if not over[name]] or known
    timed = [name for name in kept if "latency-p50" in costs[name]]
    if not timed:
        return kept[-1]
    return min(reversed(timed), key=lambda name: costs[name]["latency-p50"].value)


def _over(costs: Mapping[Metric, Cost], costing: CostMeasurement) -> dict[str, float]:
    """By how much limits are passed, as ratios, by budget key.

    Raises:
        UsageError: a limited cost is not known, and may not pass so.
    """
    over = {}
    for metric in COSTS:
        limit = limit_of(metric, costing.budget)
        cost = costs.get(metric)
        if limit is None or (cost is None and metric in costing.allowed):
            continue
        if cost is None:
            raise UsageError(unknown(metric))
        if cost.value > limit:
            over[NAMES[metric]] = cost.value / limit
    return over


def unknown(metric: Metric) -> str:
    """What to do about a limit on what is not known."""
    return (
        f"the budget limits {metric}, and it can be neither measured nor estimated here. Measure on the board: "
        f"--bench-device ssh://...; or let it pass unchecked: --allow-estimates {NAMES[metric]}."
    )


def is_here(target: Target) -> bool:
    """Whether this machine is the target's board."""
    return is_board(target.board, parts=(), model=None, architecture=platform.machine())


def _costs(
    model: OnnxModel, folder: Path, taken: Mapping[str, Measurements], costing: CostMeasurement
) -> dict[Metric, Cost]:
    found: dict[Metric, Cost] = {"size": Cost(value=float(model.size_bytes), estimated=False)}
    measured = taken.get(model.digest)
    for metric in COSTS:
        value = None if measured is None or metric == "size" else figure(metric, measured)[0]
        if value is not None:
            found[metric] = Cost(value=value, estimated=False)
    if "latency-p50" not in found and "latency-p50" in costing.allowed and costing.estimates:
        # The limit then says so
        with contextlib.suppress(IncompatibleError, InputFileError):
            precision = precision_run(model.precision, costing.target)
            path = folder / model.path
            latency = estimate(path, target=costing.target, precision=precision).latency
            found["latency-p50"] = Cost(value=latency.value, estimated=True)
    return found
