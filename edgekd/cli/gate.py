"""`edgekd gate` and `edgekd config`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd import options as defaults
from edgekd.cli.framework import completion
from edgekd.cli.framework.option_groups import BudgetGroup
from edgekd.cli.framework.options import (
    BUDGET,
    OUTPUT,
    BudgetFile,
    Json,
    JUnit,
    Limits,
    option_groups,
)

if TYPE_CHECKING:
    from edgekd.records import GateResult

config_app = typer.Typer(help="Show the settings in effect.", no_args_is_help=True)

BudgetTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="Board whose measurements count; overrides the file's.",
        autocompletion=completion.targets,
        rich_help_panel=BUDGET,
    ),
]


@option_groups
def gate(
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT...",
            help="Bundles (folders or archives) or their report.json, and files of `bench --out` or `bench estimate --json`.",
        ),
    ],
    budget: BudgetGroup,
    target: BudgetTarget = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Public key (PEM) that must have signed the bundle; repeatable, any of them suffices.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    junit: JUnit = None,
    summary: Annotated[
        Path | None,
        typer.Option(help="Markdown file to append a table to.", rich_help_panel=OUTPUT),
    ] = None,
    github: Annotated[
        bool,
        typer.Option(
            "--github", help="Print annotations for GitHub Actions.", rich_help_panel=OUTPUT
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check reports against a budget: exit code 0, 4 or 5."""
    import edgekd
    from edgekd.cli.framework.output import print_record
    from edgekd.gate import reporters
    from edgekd.gate.gates import require_passed
    from edgekd.workflows.gate import SCHEMA

    found = edgekd.gate(
        reports,
        budget=budget.options(),
        target=target,
        keys=key or (),
        junit=junit,
        summary=summary,
    )
    if as_json:
        print_record(found, SCHEMA)
    else:
        sys.stdout.write(reporters.format_judgement(found))
    if github:
        # GitHub reads them from either; stdout holds the record and nothing else.
        (sys.stderr if as_json else sys.stdout).write(reporters.annotations(found))
    require_passed(
        found.results,
        bundle="",
        listed=not as_json,
        closing=_advise(found.results),
    )


def _advise(results: "Sequence[GateResult]") -> str:
    """What a failed gate can be mended by, in options of the commands that mend it."""
    failed = [result for result in results if not result.passed]
    advice = []
    if any(result.value is None for result in failed):
        advice.append("Measure what is not measured on the budget's board: edgekd bench --device.")
    if any(result.value is not None for result in failed):
        advice.append("Compress it again for longer or with another student, or change the limit.")
    return " ".join(advice)


@config_app.command("show")
def show(
    budget: BudgetFile = defaults.BudgetOptions.file,
    limit: Limits = None,
    target: BudgetTarget = None,
    as_json: Json = False,
) -> None:
    """Show the budget that files and options make together, with the source of each value."""
    from edgekd.cli.framework.output import print_record
    from edgekd.workflows import gate as workflow

    found = workflow.read_budget(file=budget, limits=tuple(limit or ()), target=target)
    if as_json:
        print_record(found, "budget")
        return
    sys.stdout.write(workflow.format_budget(found))
