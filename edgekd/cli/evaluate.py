"""`edgekd eval`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.framework.option_groups import TeacherGroup
from edgekd.cli.framework.options import EvaluationImages, Json, option_groups


@option_groups
def evaluate(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL", help="Teacher files, student folders, bundles or ONNX files."
        ),
    ],
    evaluation: EvaluationImages,
    teacher_group: TeacherGroup,
    as_json: Json = False,
) -> None:
    """Evaluate models on labelled images: accuracy, agreement and calibration."""
    import edgekd
    from edgekd.cli.framework.output import print_record
    from edgekd.workflows.evaluate import format_comparison

    found = edgekd.evaluate(models, evaluation, teacher=teacher_group.options())
    if as_json:
        print_record(found, "comparison")
    else:
        print(format_comparison(found))
