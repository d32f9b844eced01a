"""`edgekd synthesize`."""

from typing import Annotated

import typer

from edgekd import options as defaults
from edgekd.cli.framework.option_groups import OutputGroup, RunGroup, TeacherGroup
from edgekd.cli.framework.options import (
    OUTPUT,
    RUN,
    RecipeName,
    TeacherPath,
    option_groups,
)

Count = Annotated[
    int,
    typer.Option(
        "--count", "-n", min=1, help="Number of images in the whole set.", rich_help_panel=RUN
    ),
]
Extend = Annotated[
    bool,
    typer.Option(
        "--extend",
        help="Add to an existing set until it has --count images.",
        rich_help_panel=OUTPUT,
    ),
]


@option_groups
def synthesize(
    teacher: TeacherPath,
    count: Count,
    output: OutputGroup,
    run: RunGroup,
    teacher_group: TeacherGroup,
    recipe: RecipeName = defaults.SynthesisOptions.recipe,
    extend: Extend = defaults.SynthesisOptions.extend,
) -> None:
    """Synthesize images from a teacher, as a set that several runs share."""
    from edgekd.doctor.requirements import require_libraries

    require_libraries("synthesize")
    import edgekd
    from edgekd.cli.framework.output import print_events, print_record

    found = edgekd.synthesize(
        teacher_group.teacher_file(teacher),
        count=count,
        out=output.out,
        options=edgekd.SynthesisOptions(recipe=recipe, extend=extend),
        run=run.options(force=output.force),
        on_event=print_events(),
    )
    if output.as_json:
        print_record(found, "synthetic-set")
