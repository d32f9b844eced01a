"""`edgekd distill`."""

from typing import Annotated

import typer

from edgekd.cli.framework.option_groups import (
    DataGroup,
    OutputGroup,
    RunGroup,
    TeacherGroup,
    TrainingGroup,
)
from edgekd.cli.framework.options import RUN, TeacherPath, option_groups

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Forecast what the run would do and cost, and write nothing.",
        rich_help_panel=RUN,
    ),
]


@option_groups
def distill(
    teacher: TeacherPath,
    output: OutputGroup,
    training: TrainingGroup,
    run: RunGroup,
    teacher_group: TeacherGroup,
    data: DataGroup,
    dry_run: DryRun = False,
) -> None:
    """Train a student from a teacher, for `edgekd export`."""
    from edgekd.doctor.requirements import require_libraries

    require_libraries("distill")
    import edgekd
    from edgekd.cli.framework.output import print_events, print_record

    source = teacher_group.teacher_file(teacher, flip=data.flip)
    if dry_run:
        plan = edgekd.plan_distillation(
            source,
            out=output.out,
            training=training.options(),
            data=data.options(),
            run=run.options(force=output.force),
            on_event=print_events(),
        )
        if output.as_json:
            print_record(plan, "plan")
        return
    found = edgekd.distill(
        source,
        out=output.out,
        training=training.options(),
        data=data.options(),
        run=run.options(force=output.force),
        on_event=print_events(),
    )
    if output.as_json and found is not None:
        print_record(found, "student")
