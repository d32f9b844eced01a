"""The best student that a budget allows: candidates, costs, successive halving, a front, a choice.

Objective: the highest agreement with the teacher within the budget, on held-out synthetic images that no candidate
learned from; of candidates that are not more than one image apart, the faster.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from torch import nn

from edgekd import __version__
from edgekd.bench.transport.fleet import Device
from edgekd.distill.data.synthetic_set import ImageSet
from edgekd.distill.recipes.recipe_file import identify_recipe
from edgekd.distill.training.checkpoint import RunFolder
from edgekd.errors import (
    CollapseError,
    InputFileError,
    OverBudgetError,
    QualityError,
    UsageError,
)
from edgekd.files import (
    check_writable,
    new_folder,
    read_text,
    write_atomically,
)
from edgekd.gate.budget_file import NAMES
from edgekd.interrupts import caught
from edgekd.options import SEARCH_MINUTES, SearchOptions, SynthesisOptions
from edgekd.progress import Display, SilentDisplay, duration
from edgekd.records import (
    Architecture,
    Budget,
    Metric,
    Target,
    TeacherInfo,
    from_json,
    record,
    to_json,
)
from edgekd.search.auto_student import board_costs
from edgekd.search.candidates import (
    COSTS,
    Candidate,
    CostMeasurement,
    is_here,
    limit_of,
    list_candidates,
    list_cuts,
    measure_costs,
    name_of,
    unknown,
)
from edgekd.search.successive_halving import (
    LocalExecutor,
    Pool,
    Run,
    rungs,
    successive_halving,
)
from edgekd.search.summary import (
    choose,
    explain_choice,
    front,
    nearest,
    row,
)
from edgekd.sole_writer import remove_at_once
from edgekd.workflows.distill import plan
from edgekd.workflows.run_setup import DistillJob, image_set, load_and_report_teacher
from edgekd.workflows.synthesize import SynthesisJob, synthesize

SCHEMA: Final = "search"
FILE: Final = "search.json"
STUDENT: Final = "student"
IMAGES: Final = "images"
STATE: Final = "state.json"
# Of a run in the last rung
LEAST_STEPS, MOST_STEPS = 90, 20_000
# Of a run whose speed is forecast
PROBE_STEPS: Final = 100


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """What `edgekd search` is asked to do."""

    # Of every run; its budget is not looked at
    distil: DistillJob
    target: Target
    budget: Budget
    names: tuple[str, ...] = SearchOptions.candidates
    # In all; None: `steps` says it
    minutes: float | None
    # Of a run in the last rung
    steps: int | None
    count: int = SearchOptions.count
    device: Device | None = None
    allowed: frozenset[Metric] = frozenset()
    pool: Pool = field(default_factory=LocalExecutor)


@record
class Search:
    """`search.json`, and what `edgekd search --json` prints."""

    made_with: str
    target: str
    budget: Budget
    teacher_digest: str
    images_digest: str
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]
    # That no other beats in agreement and in every cost
    front: tuple[str, ...]
    chosen: str
    reason: str


@record
class _State:
    """What a search that goes on must not decide anew."""

    steps: int | None
    candidates: tuple[Candidate, ...]


def search_minutes(minutes: float | None, steps: int | None) -> float | None:
    """Minutes of a search; None where steps say how long it is.

    Raises:
        UsageError: both are given.
    """
    if minutes is not None and steps is not None:
        raise UsageError("give either --minutes or --steps, not both.")
    return SEARCH_MINUTES if minutes is None and steps is None else minutes


def search(options: SearchJob, display: Display) -> Search:
    """Find the student, and write it with the record of the search.

    Raises:
        UsageError: the budget limits what cannot be known here.
        OverBudgetError: no candidate keeps the budget's costs.
        CollapseError: no candidate became a student.
        EdgekdError: of the stages.
    """
    begin = time.monotonic()
    distil, out = options.distil, options.distil.out
    folder = out.with_name(f"{out.name}.search")
    # Before --restart throws away what another process is at
    RunFolder.require_free(folder)
    check_writable(out, force=distil.run.force)
    _require_judgeable(options)
    loaded = load_and_report_teacher(
        distil.teacher, distil.teacher_options, seed=distil.run.seed, display=display
    )
    teacher = loaded.info
    board = board_costs(teacher, options.target, display, device=options.device)
    # A part of a certain latency is measured some times over
    with caught():
        cuts = list_cuts(options.names, loaded, seed=distil.run.seed, board=board)
    wanted = [*list_candidates(options.names, teacher), *cuts]
    brought = None if distil.data.images is None else image_set(distil.data.images, teacher)
    if distil.run.restart:
        shutil.rmtree(folder, ignore_errors=True)
    identity = _identity(options, teacher, wanted, brought)
    with caught(), RunFolder.open(folder, identity, restart=False):
        result = _search(options, teacher, wanted, cuts, brought, folder, begin, display)
    remove_at_once(folder, of=out)
    display.say(
        f"search   {duration(time.monotonic() - begin)} in all: {out}/{FILE}, {out}/search.png"
    )
    display.say(f"next     edgekd export {out}/{STUDENT} --target {options.target.asked}")
    return result


def _require_judgeable(options: SearchJob) -> None:
    """Raise where the budget limits what a search cannot hold anything against.

    Raises:
        UsageError: it does.
    """
    measured = options.device is not None or is_here(options.target)
    for metric, limit in options.budget.limits.items():
        if metric == "accuracy":
            raise UsageError(
                "accuracy: a search sees no labelled images. Leave it to the gate: --budget of `edgekd compress --eval`."
            )
        if metric == "agreement" and limit.of == "baseline":
            raise UsageError("agreement: a search takes it absolute, or relative to the teacher.")
        if metric in COSTS:
            limit_of(metric, options.budget)
            if metric != "size" and not measured and metric not in options.allowed:
                raise UsageError(unknown(metric))


def _identity(
    options: SearchJob,
    teacher: TeacherInfo,
    wanted: Sequence[Architecture],
    brought: ImageSet | None,
) -> dict[str, Any]:
    """What decides the result; a search goes on only as the same one."""
    distil = options.distil
    return {
        "edgekd": __version__,
        "teacher": teacher.state_digest,
        "input": asdict(teacher.input),
        "candidates": [name_of(each) for each in wanted],
        "target": options.target.id,
        "budget": {name: asdict(limit) for name, limit in options.budget.limits.items()},
        "precision": options.budget.precision,
        "allowed": sorted(options.allowed),
        "board": None if options.device is None else options.device.url,
        "minutes": options.minutes,
        "steps": options.steps,
        "seed": distil.run.seed,
        "recipe": identify_recipe(distil.training.recipe),
        "images": options.count if brought is None else brought.record.digest,
    }


def _search(
    options: SearchJob,
    teacher: TeacherInfo,
    wanted: Sequence[Architecture],
    cuts: Mapping[Architecture, nn.Module],
    brought: ImageSet | None,
    folder: Path,
    begin: float,
    display: Display,
) -> Search:
    """From images to what is written."""
    out = options.distil.out
    images = options.distil.data.images or _images(options, folder, display)
    found = brought or image_set(images, teacher)
    state = _read_state(folder / STATE)
    if state is None:
        costing = CostMeasurement(
            target=options.target,
            budget=options.budget,
            device=options.device,
            allowed=options.allowed,
            images=found.images,
            networks=cuts,
        )
        state = _State(
            steps=None,
            candidates=tuple(measure_costs(wanted, teacher, costing, folder / "costs", display)),
        )
    else:
        display.say("search   goes on with what it costed before")
    candidates = state.candidates
    kept = [each for each in candidates if not each.over]
    for each in candidates:
        display.say(f"         {row(each)}")
    if not kept:
        raise OverBudgetError(nearest(candidates, option="--candidate"))
    distil = replace(
        options.distil, data=replace(options.distil.data, images=images.absolute()), command=()
    )
    # For workers that stand elsewhere
    distil = replace(distil, teacher=distil.teacher.absolute())
    if state.steps is None:
        left_s = None
        if options.minutes is not None:
            left_s = 60 * options.minutes - (time.monotonic() - begin)
        state = replace(state, steps=options.steps or _steps(kept, distil, left_s))
        write_atomically(folder / STATE, to_json(state))
    assert state.steps is not None
    runs = _runs(kept, distil, folder.absolute(), state.steps, options, display)
    last = [run for run in runs if run.rung == runs[-1].rung and run.lost is None]
    if not last:
        raise CollapseError(
            f"no candidate became a student: {next(run.lost for run in runs if run.lost)}"
        )
    choice = choose(last, {each.name: each for each in kept})
    chosen = choice.run
    result = Search(
        made_with=f"edgekd {__version__}",
        target=options.target.id,
        budget=options.budget,
        teacher_digest=teacher.state_digest,
        images_digest=found.record.digest,
        candidates=candidates,
        runs=tuple(runs),
        front=front(runs, kept),
        chosen=chosen.name,
        reason=explain_choice(choice, candidates, options.budget),
    )
    from edgekd.search.plot import picture  # matplotlib

    with new_folder(out, force=options.distil.run.force) as temporary:
        shutil.copytree(folder / chosen.folder, temporary / STUDENT)
        if options.distil.data.images is None:
            shutil.copytree(images, temporary / IMAGES)
        (temporary / FILE).write_text(to_json(result, schema=SCHEMA), encoding="utf-8")
        (temporary / "search.png").write_bytes(picture(result))
    return result


def _images(options: SearchJob, folder: Path, display: Display) -> Path:
    """The set that all candidates share, made now unless it stands."""
    images = folder / IMAGES
    if not images.is_dir():
        distil = options.distil
        display.say(f"images   {options.count:,}, which all candidates share")
        synthesize(
            SynthesisJob(
                teacher=distil.teacher,
                teacher_options=distil.teacher_options,
                count=options.count,
                out=images,
                synthesis=SynthesisOptions(recipe=distil.training.recipe),
                run=replace(distil.run, force=False, restart=False),
            ),
            SilentDisplay(),
        )
    return images


def _read_state(path: Path) -> _State | None:
    if not path.is_file():
        return None
    return from_json(_State, read_text(path), origin=str(path))


def _steps(kept: Sequence[Candidate], options: DistillJob, left_s: float | None) -> int:
    """Of a run in the last rung, so that all runs fit into the time that is left."""
    # Either minutes or steps
    assert left_s is not None
    ordered = sorted(kept, key=lambda each: each.macs)
    probed = {ordered[0].name, ordered[len(ordered) // 2].name, ordered[-1].name}
    step_s = [
        plan(
            replace(
                options,
                training=replace(options.training, student=name, steps=PROBE_STEPS, minutes=None),
            ),
            SilentDisplay(),
        ).student_step_s
        for name in sorted(probed)
    ]
    mean_s = sum(step_s) / len(step_s)
    share = sum(rung.candidates * rung.steps for rung in rungs(len(kept), MOST_STEPS)) / MOST_STEPS
    # A tenth for what is between the steps: loading, measuring, delivering.
    steps = int(0.9 * max(0.0, left_s) / (share * mean_s))
    if steps < LEAST_STEPS:
        raise UsageError(
            f"{duration(max(0.0, left_s))} are left, and {len(kept)} candidates want {duration(LEAST_STEPS * share * mean_s)} "
            "at least. Give more --minutes, fewer --candidate, or --images that are made already."
        )
    return min(MOST_STEPS, steps)


def _runs(
    kept: Sequence[Candidate],
    distil: DistillJob,
    folder: Path,
    steps: int,
    options: SearchJob,
    display: Display,
) -> list[Run]:
    shape = ", then ".join(
        f"{each.candidates} for {each.steps:,} steps" for each in rungs(len(kept), steps)
    )
    display.say(f"search   {shape}")

    def report_run(run: Run) -> None:
        if run.lost is not None:
            display.warn(f"dropped {run.name}: {run.lost}")
            return
        display.say(f"         {run.name}: {run.agreement:.1%} after {run.steps:,} steps")

    runs: list[Run] = []
    names = [each.name for each in kept]
    for done in successive_halving(
        names, distil, folder, steps=steps, pool=options.pool, told=report_run
    ):
        runs += done
    return runs


def require_agreement(found: Search, out: Path) -> None:
    """Raise where the chosen student does not agree as the budget asks.

    Raises:
        QualityError: it does not.
    """
    limit = found.budget.limits.get("agreement")
    if limit is None:
        return
    chosen = next(run for run in reversed(found.runs) if run.name == found.chosen)
    least = max(limit.value or 0.0, 1 - limit.degradation if limit.degradation is not None else 0.0)
    if chosen.agreement < least:
        raise QualityError(
            f"the best within the budget agrees on {chosen.agreement:.2%} ({chosen.name}), and {NAMES['agreement']} asks "
            f"for {least:.2%}. It is in {out}. More --minutes or --count helps, or a wider limit of what it costs."
        )


def read_search(path: Path) -> Search:
    """The record of a search.

    Raises:
        InputFileError: it is none.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InputFileError(f"{path}: no {FILE}.")
    return from_json(Search, read_text(file), origin=str(file), schema=SCHEMA)
