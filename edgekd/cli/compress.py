"""`edgekd compress`."""

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from edgekd import options as defaults
from edgekd.cli.framework.option_groups import (
    BudgetGroup,
    DataGroup,
    ExportGroup,
    OutputGroup,
    RunGroup,
    TeacherGroup,
    TrainingGroup,
)
from edgekd.cli.framework.options import (
    BUDGET,
    OUTPUT,
    RUN,
    BenchDevice,
    JUnit,
    TargetName,
    TeacherPath,
    option_groups,
    record_of,
)


@dataclass(frozen=True, kw_only=True)
class BundleGroup:
    """What a bundle contains and must reach."""

    min_agreement: Annotated[
        float,
        typer.Option(
            min=defaults.RANGES["BundleOptions.min_agreement"][0],
            max=defaults.RANGES["BundleOptions.min_agreement"][1],
            help="Minimum agreement with the teacher: on the images of --eval, else on held-out synthetic ones.",
            rich_help_panel=RUN,
        ),
    ] = defaults.BundleOptions.min_agreement
    keep_images: Annotated[
        bool,
        typer.Option(
            "--keep-images/--no-images",
            help="Keep the synthesized images in the bundle.",
            rich_help_panel=OUTPUT,
        ),
    ] = defaults.BundleOptions.keep_images
    bench_it: Annotated[
        bool,
        typer.Option(
            "--bench/--no-bench", help="Measure the models at the end.", rich_help_panel=BUDGET
        ),
    ] = defaults.BundleOptions.bench
    bench_device: BenchDevice = defaults.BundleOptions.bench_device
    junit: JUnit = defaults.BundleOptions.junit

    def options(self) -> defaults.BundleOptions:
        """The record for the API."""
        return record_of(defaults.BundleOptions, self, bench=self.bench_it)


@option_groups
def compress(
    teacher: TeacherPath,
    target: TargetName,
    output: OutputGroup,
    training: TrainingGroup,
    run: RunGroup,
    teacher_group: TeacherGroup,
    data: DataGroup,
    bundle: BundleGroup,
    budget: BudgetGroup,
    export: ExportGroup,
) -> None:
    """Make a bundle from a teacher: distil, export, measure, seal."""
    from edgekd.doctor.requirements import require_libraries

    require_libraries("compress")
    import edgekd
    from edgekd.cli.framework.output import print_events, print_record
    from edgekd.pipeline import require_gates

    outcome = edgekd.compress(
        teacher_group.teacher_file(teacher, flip=data.flip),
        target=target,
        out=output.out,
        options=edgekd.CompressOptions(
            training=training.options(),
            data=data.options(),
            export=export.options(),
            bundle=bundle.options(),
            budget=budget.options(),
            run=run.options(force=output.force),
        ),
        command=typed_command(),
        on_event=print_events(),
    )
    # Another process of `torchrun` has it
    if outcome is None:
        return
    if output.as_json:
        print_record(outcome, "outcome")
    require_gates(outcome)


def typed_command() -> tuple[str, ...]:
    """The command as it was typed, paths cut to their last part: bundles travel, home folders do not."""
    return ("edgekd", *(argument.rsplit("/", 1)[-1] for argument in sys.argv[1:]))
