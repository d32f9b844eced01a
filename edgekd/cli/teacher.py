"""`edgekd teacher ...`."""

import sys
from typing import Annotated

import typer

from edgekd.cli.framework.option_groups import TeacherGroup
from edgekd.cli.framework.options import (
    OUTPUT,
    EvaluationImages,
    Force,
    Json,
    TeacherPath,
    option_groups,
)

app = typer.Typer(help="Describe a teacher file, and check how it is fed.", no_args_is_help=True)


@app.command("describe")
@option_groups
def describe(
    teacher: TeacherPath,
    teacher_group: TeacherGroup,
    write: Annotated[
        bool,
        typer.Option(
            "--write/--no-write",
            help="Write the description to a .toml file next to the teacher.",
            rich_help_panel=OUTPUT,
        ),
    ] = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Describe what a file holds and what is missing, without running any of it."""
    from edgekd.cli.framework.output import print_record
    from edgekd.workflows import describe_teacher as workflow

    found, known = workflow.describe_teacher(teacher, teacher_group.options())
    if as_json:
        print_record(found, "teacher-description")
    else:
        print(workflow.format_description(found))
    if write:
        sys.stderr.write(f"{workflow.write_toml(known, found, force=force)}\n")


@app.command("check")
@option_groups
def check(
    teacher: TeacherPath,
    evaluation: EvaluationImages,
    teacher_group: TeacherGroup,
    as_json: Json = False,
) -> None:
    """Check preprocessing and class order on labelled images."""
    from edgekd.cli.framework.output import print_record
    from edgekd.workflows import check_teacher as workflow

    found = workflow.check_teacher(teacher, evaluation, teacher_group.options())
    if as_json:
        print_record(found, "teacher-check")
    else:
        print(workflow.format_teacher_check(found))
    workflow.require_right(found)
