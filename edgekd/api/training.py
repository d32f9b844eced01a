"""Teacher to student, and the images in between."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.api.events import OnEvent, display_to
from edgekd.api.teachers import TeacherLike, teacher_file
from edgekd.options import (
    CONDENSED_FILE,
    IMAGES_SUFFIX,
    STUDENT_SUFFIX,
    CondenseOptions,
    DataOptions,
    RunOptions,
    SynthesisOptions,
    TrainingOptions,
    require_record,
)

if TYPE_CHECKING:
    from edgekd.records import (
        CondensedSet,
        Plan,
        Student,
        SyntheticSet,
    )
    from edgekd.workflows.run_setup import DistillJob


def distill(
    teacher: TeacherLike,
    *,
    out: str | Path | None = None,
    student: str | None = None,
    recipe: str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    training: TrainingOptions | None = None,
    data: DataOptions | None = None,
    run: RunOptions | None = None,
    on_event: OnEvent | None = None,
) -> "Student | None":
    """Train a student on images that are synthesized from a teacher.

    Args:
        teacher: The teacher, or the path of its file.
        out: Folder to write; None takes the teacher's name with `-student`.
        student: Architecture of the student; overrides `training`, as the next three do.
        recipe: Name of a recipe; see `list_recipes`.
        steps: Budget in training steps of the student; reproducible.
        minutes: Budget in minutes. With no budget, `edgekd.options.DISTILL_MINUTES` applies.
        training: Student, recipe, budget and further settings.
        data: Images that the run is given.
        run: Seed, device, threads, and what happens to existing output.
        on_event: Called with every `Event` of the run.

    Returns:
        The record of the student, whose weights lie in `out`. None in processes of `torchrun` other than the first.

    Raises:
        UsageError: The options cannot be combined, or the memory does not suffice.
        InputFileError: The teacher or an image set cannot be used.
        OutputError: `out` exists and `run.force` is not set, or it cannot be written.
        CollapseError: The images or the student collapsed and did not recover.
        InterruptedRunError: The run was interrupted; the same call continues it.
    """
    from edgekd.workflows.distill import distil

    shortcuts = training_options(
        training, student=student, recipe=recipe, steps=steps, minutes=minutes
    )
    return distil(distill_job(teacher, out, shortcuts, data, run), display_to(on_event))


def plan_distillation(
    teacher: TeacherLike,
    *,
    out: str | Path | None = None,
    training: TrainingOptions | None = None,
    data: DataOptions | None = None,
    run: RunOptions | None = None,
    on_event: OnEvent | None = None,
) -> "Plan":
    """Forecast what `distill` would do and cost; nothing is written.

    Args:
        teacher: The teacher, or the path of its file.
        out: Folder that the run would write.
        training: Student, recipe, budget and further settings.
        data: Images that the run would be given.
        run: Seed, device and threads.
        on_event: Called with every `Event`.

    Returns:
        Steps, images, seconds and bytes of memory.

    Raises:
        UsageError: The options cannot be combined.
        InputFileError: The teacher or an image set cannot be used.
    """
    from edgekd.workflows.distill import plan

    job = distill_job(teacher, out, require_record(training, TrainingOptions), data, run)
    return plan(job, display_to(on_event))


def synthesize(
    teacher: TeacherLike,
    *,
    count: int,
    out: str | Path | None = None,
    options: SynthesisOptions | None = None,
    run: RunOptions | None = None,
    on_event: OnEvent | None = None,
) -> "SyntheticSet":
    """Synthesize images from a teacher, as a set that several runs share.

    Args:
        teacher: The teacher, or the path of its file.
        count: Images in the whole set.
        out: Folder to write; None takes the teacher's name with `-images`.
        options: Recipe, and whether an existing set is extended.
        run: Seed, device, threads, and what happens to existing output.
        on_event: Called with every `Event` of the run.

    Returns:
        The record of the set: digest, images per class, coverage.

    Raises:
        UsageError: The set has as many images already, or the recipe does not fit the teacher.
        InputFileError: The teacher cannot be used, or a set to extend is another teacher's.
        OutputError: `out` exists, or it cannot be written.
        InterruptedRunError: The run was interrupted; the same call continues it.
    """
    from edgekd.workflows import synthesize as workflow

    source = teacher_file(teacher)
    job = workflow.SynthesisJob(
        teacher=source.path,
        teacher_options=source.options,
        count=count,
        out=Path(out) if out is not None else Path(f"{source.path.stem}{IMAGES_SUFFIX}"),
        synthesis=require_record(options, SynthesisOptions),
        run=require_record(run, RunOptions),
    )
    return workflow.synthesize(job, display_to(on_event))


def condense(
    data: str | Path,
    *,
    per_class: int,
    out: str | Path | None = None,
    options: CondenseOptions | None = None,
    run: RunOptions | None = None,
    on_event: OnEvent | None = None,
) -> "CondensedSet":
    """Condense labelled images into a few images per class, where the data is.

    Args:
        data: Folder with one folder per class, .npz or idx file.
        per_class: Images per class.
        out: .npz file to write; None writes `condensed.npz`.
        options: Method and its settings.
        run: Seed, device, threads, and whether existing output is replaced.
        on_event: Called with every `Event` of the run.

    Returns:
        The record of the set.

    Raises:
        UsageError: The method is unknown, or a class has fewer images than `per_class`.
        InputFileError: The data cannot be used.
        OutputError: The file exists, or it cannot be written.
    """
    from edgekd.workflows import condense as workflow

    job = workflow.CondenseJob(
        data=Path(data),
        per_class=per_class,
        out=Path(out) if out is not None else Path(CONDENSED_FILE),
        settings=require_record(options, CondenseOptions),
        run=require_record(run, RunOptions),
    )
    return workflow.condense(job, display_to(on_event))


def distill_job(
    teacher: TeacherLike,
    out: str | Path | None,
    training: TrainingOptions,
    data: DataOptions | None,
    run: RunOptions | None,
    *,
    command: tuple[str, ...] = (),
) -> "DistillJob":
    """The job of a workflow, from what a function of the API was given."""
    from edgekd.workflows.run_setup import DistillJob

    source = teacher_file(teacher)
    return DistillJob(
        teacher=source.path,
        teacher_options=source.options,
        out=Path(out) if out is not None else Path(f"{source.path.stem}{STUDENT_SUFFIX}"),
        training=training,
        data=require_record(data, DataOptions),
        run=require_record(run, RunOptions),
        command=command,
    )


def training_options(
    training: TrainingOptions | None,
    *,
    student: str | None,
    recipe: str | None,
    steps: int | None,
    minutes: float | None,
) -> TrainingOptions:
    """The settings, with what was given by name in their place."""
    found = require_record(training, TrainingOptions)
    if student is not None:
        found = replace(found, student=student)
    if recipe is not None:
        found = replace(found, recipe=recipe)
    # One budget replaces the other
    if steps is not None or minutes is not None:
        found = replace(found, steps=steps, minutes=minutes)
    return found
