"""Many stages in one call: a bundle from a teacher, and the best student within a budget."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.api.events import OnEvent, display_to
from edgekd.api.targets import TargetLike, find_device, find_target
from edgekd.api.teachers import TeacherLike, teacher_file
from edgekd.api.training import distill_job, training_options
from edgekd.options import (
    SEARCH_SUFFIX,
    BudgetOptions,
    BundleOptions,
    DataOptions,
    ExportOptions,
    RunOptions,
    SearchOptions,
    TrainingOptions,
    require_record,
)

if TYPE_CHECKING:
    from edgekd.records import Budget, Target
    from edgekd.search.search import Search
    from edgekd.workflows.fill_bundle import Outcome


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """Settings of each stage of `compress`.

    Attributes:
        training: Student, recipe and length of the distillation.
        data: Images that the run is given.
        export: What is asked of the model files.
        bundle: What the bundle contains and must reach.
        budget: What the models may cost on the board.
        run: Seed, device, threads, and what happens to existing output.
    """

    training: TrainingOptions = field(default_factory=TrainingOptions)
    data: DataOptions = field(default_factory=DataOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    bundle: BundleOptions = field(default_factory=BundleOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    run: RunOptions = field(default_factory=RunOptions)


def compress(
    teacher: TeacherLike,
    *,
    target: TargetLike,
    out: str | Path | None = None,
    student: str | None = None,
    recipe: str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    options: CompressOptions | None = None,
    command: tuple[str, ...] = (),
    on_event: OnEvent | None = None,
) -> "Outcome | None":
    """Make a bundle from a teacher: distil a student, export it, measure it, seal it.

    A failed quality gate or budget does not raise: the bundle is written and marked, see `Outcome.manifest.quality` and
    `Outcome.report.gates`.

    Args:
        teacher: The teacher, or the path of its file.
        target: Board, `BOARD@SOFTWARE`, or the path of a board file.
        out: Folder to write; None takes the names of teacher and board.
        student: Architecture of the student; overrides `options.training`, as the next three do.
        recipe: Name of a recipe; see `list_recipes`.
        steps: Budget in training steps of the student; reproducible.
        minutes: Budget in minutes. With no budget, `edgekd.options.DISTILL_MINUTES` applies.
        options: Settings of each stage.
        command: Command line to record in the report.
        on_event: Called with every `Event` of the run.

    Returns:
        Path, manifest and report of the bundle. None in processes of `torchrun` other than the first.

    Raises:
        UsageError: The options cannot be combined.
        InputFileError: The teacher, an image set or a budget file cannot be used.
        OutputError: `out` exists, or it cannot be written.
        IncompatibleError: The target cannot take the graph, or what is asked of it.
        CollapseError: The images or the student collapsed and did not recover.
        OverBudgetError: No student keeps the budget.
        InterruptedRunError: The run was interrupted; the same call continues it.
    """
    from edgekd import pipeline
    from edgekd.gate.gates import parse_allowed_metrics
    from edgekd.workflows import gate as budgets
    from edgekd.workflows.export_options import plan_export
    from edgekd.workflows.fill_bundle import CompressJob

    settings = require_record(options, CompressOptions)
    source, board = teacher_file(teacher), find_target(target)
    training = training_options(
        settings.training, student=student, recipe=recipe, steps=steps, minutes=minutes
    )
    job = CompressJob(
        distil=distill_job(
            teacher,
            out if out is not None else pipeline.default_out(source.path, board),
            training,
            settings.data,
            settings.run,
            command=command,
        ),
        target=board,
        bundle=settings.bundle,
        export=plan_export(settings.export),
        bench_device=find_device(settings.bundle.bench_device),
        budget=_budget(settings.budget, board),
        allowed=parse_allowed_metrics(settings.budget.allow_estimates),
    )
    outcome = pipeline.compress(job, display_to(on_event))
    if outcome is not None:
        budgets.write_judgement(
            pipeline.judgement(outcome), junit=settings.bundle.junit, summary=None
        )
    return outcome


def search(
    teacher: TeacherLike,
    *,
    target: TargetLike,
    out: str | Path | None = None,
    budget: BudgetOptions | None = None,
    options: SearchOptions | None = None,
    bench_device: str | None = None,
    run: RunOptions | None = None,
    on_event: OnEvent | None = None,
) -> "Search":
    """Find the best student that a budget allows.

    Args:
        teacher: The teacher, or the path of its file.
        target: Board, `BOARD@SOFTWARE`, or the path of a board file.
        out: Folder to write; None takes the teacher's name with `-search`.
        budget: What the student may cost.
        options: Candidates, length and shared images.
        bench_device: Board to measure on, `ssh://USER@HOST`.
        run: Seed, device, threads, and what happens to existing output.
        on_event: Called with every `Event` of the search.

    Returns:
        All candidates with their costs, all runs, and the one that was chosen. A student that agrees less than the budget
        asks is returned all the same.

    Raises:
        UsageError: The options cannot be combined, or the budget limits what cannot be known here.
        OverBudgetError: No candidate keeps the budget.
        CollapseError: No candidate became a student.
        DeviceError: The board or the cluster could not be reached.
        MissingToolError: `options.ray` is given and Ray is not installed.
    """
    from edgekd.gate.gates import parse_allowed_metrics
    from edgekd.search import ray_backend
    from edgekd.search import search as workflow
    from edgekd.search.successive_halving import LocalExecutor, Pool

    settings, limits, how = (
        require_record(options, SearchOptions),
        require_record(budget, BudgetOptions),
        require_record(run, RunOptions),
    )
    source, board = teacher_file(teacher), find_target(target)
    minutes = workflow.search_minutes(settings.minutes, settings.steps)

    def job(pool: Pool) -> workflow.SearchJob:
        return workflow.SearchJob(
            distil=distill_job(
                source,
                out if out is not None else f"{source.path.stem}{SEARCH_SUFFIX}",
                TrainingOptions(recipe=settings.recipe),
                DataOptions(images=settings.images),
                how,
            ),
            target=board,
            budget=_budget(limits, board),
            names=settings.candidates,
            minutes=minutes,
            steps=settings.steps,
            count=settings.count,
            device=find_device(bench_device),
            allowed=parse_allowed_metrics(limits.allow_estimates),
            pool=pool,
        )

    display = display_to(on_event)
    if settings.ray is None:
        return workflow.search(job(LocalExecutor()), display)
    with ray_backend.Ray(settings.ray, threads=how.threads or 1) as cluster:
        return workflow.search(job(cluster), display)


def _budget(options: BudgetOptions, target: "Target") -> "Budget":
    from edgekd.workflows.gate import read_budget

    return read_budget(file=options.file, limits=options.limits, target=target.asked)
