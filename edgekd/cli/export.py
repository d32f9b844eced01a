"""`edgekd export` and its verb `check`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from edgekd import options as defaults
from edgekd.cli.framework import completion
from edgekd.cli.framework.option_groups import ExportGroup, OutputGroup, TeacherGroup
from edgekd.cli.framework.options import (
    OUTPUT,
    Json,
    TargetName,
    option_groups,
    record_of,
)
from edgekd.cli.framework.verbs import VerbGroup
from edgekd.errors import UsageError

_ENGINE: Final = "TensorRT engines"

app = typer.Typer(
    cls=VerbGroup, help="Export a student folder, or a teacher, to ONNX for a target."
)

Source = Annotated[
    Path | None,
    typer.Argument(metavar="[STUDENT]", help="Folder of `distill`, or a bundle with images."),
]
TeacherOption = Annotated[
    Path | None,
    typer.Option(
        metavar="TEACHER",
        help="Teacher to export instead of a student.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class CalibrationGroup:
    """What INT8 is calibrated on."""

    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="SET",
            help="Image set of `synthesize` to calibrate INT8 on, instead of the student's own images.",
        ),
    ] = None
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="PATH",
            help="Your own images to calibrate INT8 on: a folder of pictures or a .npy; labels are not needed.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FilesGroup:
    """Which files there are, and of which form."""

    dynamic_batch: Annotated[
        bool,
        typer.Option(
            "--dynamic-batch",
            help="Leave the batch size open instead of 1.",
            rich_help_panel=OUTPUT,
        ),
    ] = defaults.ExportOptions.dynamic_batch
    no_int8: Annotated[
        bool,
        typer.Option(
            "--no-int8",
            help="Leave out the INT8 model.",
            rich_help_panel=OUTPUT,
        ),
    ] = not defaults.ExportOptions.int8


@dataclass(frozen=True, kw_only=True)
class EngineGroup:
    """Whether engines are built, and how."""

    engine: Annotated[
        bool,
        typer.Option(
            "--engine",
            help="Also build TensorRT engines, on this machine.",
            rich_help_panel=_ENGINE,
        ),
    ] = False
    dla: Annotated[
        int | None,
        typer.Option(
            metavar="CORE", help="DLA core to build for, in FP16.", rich_help_panel=_ENGINE
        ),
    ] = defaults.BuildOptions.dla
    workspace_mb: Annotated[
        int | None,
        typer.Option(
            min=defaults.RANGES["BuildOptions.workspace_mb"][0],
            metavar="MIB",
            help="Maximum workspace of the builder (default: a sixteenth of the memory).",
            rich_help_panel=_ENGINE,
        ),
    ] = defaults.BuildOptions.workspace_mb
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Timing cache to start from, instead of that of the last build.",
            rich_help_panel=_ENGINE,
        ),
    ] = defaults.BuildOptions.timing_cache

    def options(self) -> defaults.BuildOptions | None:
        """The record for the API; None: no engines.

        Raises:
            UsageError: options of engines are given, and none are asked for.
        """
        given = (self.dla, self.workspace_mb, self.timing_cache)
        if not self.engine:
            if any(each is not None for each in given):
                raise UsageError(
                    "--dla, --workspace-mb and --timing-cache are about engines: add --engine."
                )
            return None
        return record_of(defaults.BuildOptions, self)


@app.command(completion.DEFAULT_VERB)
@option_groups
def export(
    target: TargetName,
    teacher_group: TeacherGroup,
    output: OutputGroup,
    how: ExportGroup,
    engine: EngineGroup,
    shown: CalibrationGroup,
    files: FilesGroup,
    source: Source = None,
    teacher: TeacherOption = None,
) -> None:
    """Export a student folder, or a teacher, to ONNX for a target: FP32, FP16 where types are in the graph, INT8."""
    from edgekd.doctor.requirements import require_libraries

    require_libraries("export")
    import edgekd
    from edgekd.cli.framework.output import print_events, print_record

    built = engine.options()
    if (teacher is None) == (source is None):
        raise UsageError(
            "name what to export: a student folder, or --teacher TEACHER, and not both."
        )
    if source is not None and (option := teacher_group.first_given()) is not None:
        raise UsageError(f"{option} describes a teacher: it goes with --teacher TEACHER.")
    # One of both is there.
    subject = teacher_group.teacher_file(teacher) if teacher is not None else source or Path()
    found = edgekd.export(
        subject,
        target=target,
        out=output.out,
        images=shown.images,
        calibration=shown.calibration,
        options=how.options(dynamic_batch=files.dynamic_batch, int8=not files.no_int8),
        engine=built,
        force=output.force,
        on_event=print_events(),
    )
    if output.as_json:
        print_record(found, "models")


@app.command("check")
def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="Target board; exit with code 8 if its TensorRT does not take the file.",
            autocompletion=completion.targets,
        ),
    ] = None,
    parser: Annotated[
        bool | None,
        typer.Option(
            "--parser/--no-parser",
            help="Also ask NVIDIA's own parser and builder (default: where edgekd\\[tensorrt-rtx] is installed).",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check for which versions of TensorRT an ONNX file is legal, and why not."""
    import edgekd
    from edgekd.cli.framework.output import print_record
    from edgekd.workflows import check_model as workflow

    found = edgekd.check_model(model, target=target, parser=parser)
    if as_json:
        print_record(found, workflow.SCHEMA)
    else:
        print(workflow.format_graph_check(found))
    workflow.require_compatible(found)
