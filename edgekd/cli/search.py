"""`edgekd search`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgekd import options as defaults
from edgekd.cli.framework.option_groups import (
    BudgetGroup,
    OutputGroup,
    RunGroup,
    TeacherGroup,
)
from edgekd.cli.framework.options import (
    RUN,
    BenchDevice,
    Flip,
    ImageSet,
    RecipeName,
    TargetName,
    TeacherPath,
    option_groups,
    record_of,
)
from edgekd.options import SEARCH_MINUTES


@dataclass(frozen=True, kw_only=True)
class SearchGroup:
    """How a search goes about it."""

    candidate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Student to try: a built-in name, timm:NAME, torchvision:NAME, NAME@SIDE, or a part of the teacher (cut:macs=0.25); repeatable (default: a selection).",
            rich_help_panel=RUN,
        ),
    ] = None
    minutes: Annotated[
        float | None,
        typer.Option(
            min=defaults.RANGES["SearchOptions.minutes"][0],
            help=f"Time budget of the whole search in minutes (default: {SEARCH_MINUTES:g}, unless --steps is given).",
            rich_help_panel=RUN,
        ),
    ] = defaults.SearchOptions.minutes
    steps: Annotated[
        int | None,
        typer.Option(
            min=defaults.RANGES["SearchOptions.steps"][0],
            help="Training steps of each run in the last rung.",
            rich_help_panel=RUN,
        ),
    ] = defaults.SearchOptions.steps
    count: Annotated[
        int,
        typer.Option(
            min=defaults.RANGES["SearchOptions.count"][0],
            help="Number of images in the set that all candidates share.",
            rich_help_panel=RUN,
        ),
    ] = defaults.SearchOptions.count
    recipe: RecipeName = defaults.SearchOptions.recipe
    images: ImageSet = defaults.SearchOptions.images
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Ray cluster to run on; `local` starts one here. All machines must see the --out folder.",
            rich_help_panel=RUN,
        ),
    ] = defaults.SearchOptions.ray

    def options(self) -> defaults.SearchOptions:
        """The record for the API."""
        return record_of(defaults.SearchOptions, self, candidates=tuple(self.candidate or ()))


@option_groups
def search(
    teacher: TeacherPath,
    target: TargetName,
    output: OutputGroup,
    how: SearchGroup,
    budget: BudgetGroup,
    run: RunGroup,
    teacher_group: TeacherGroup,
    flip: Flip = None,
    bench_device: BenchDevice = defaults.BundleOptions.bench_device,
) -> None:
    """Find the best student that a budget allows."""
    from edgekd.doctor.requirements import require_libraries

    require_libraries("search")
    import edgekd
    from edgekd.cli.framework.output import print_events, print_record
    from edgekd.search import search as workflow
    from edgekd.search.summary import front_text

    out = output.out or Path(f"{teacher.stem}{defaults.SEARCH_SUFFIX}")
    found = edgekd.search(
        teacher_group.teacher_file(teacher, flip=flip),
        target=target,
        out=out,
        budget=budget.options(),
        options=how.options(),
        bench_device=bench_device,
        run=run.options(force=output.force),
        on_event=print_events(),
    )
    if output.as_json:
        print_record(found, workflow.SCHEMA)
    else:
        front = front_text(found.front, found.runs, found.candidates, found.chosen)
        print(f"{front}\n\n{found.reason}")
    workflow.require_agreement(found, out)
