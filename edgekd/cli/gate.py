"""Commands about budgets: `edgekd gate`, `edgekd config show`. Thin, as `cli` is; nothing heavy is imported."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli import completion

BUDGET = "The budget"
_OUTPUT = "Output"

BudgetFile = Annotated[
    Path | None,
    typer.Option(
        "--budget",
        help="A project file with a [budget] (default: edgekd.toml of this folder, where there is one).",
        rich_help_panel=BUDGET,
    ),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="KEY=VALUE",
        help="As in the file: latency-p50-ms=5. Wins over files. Repeatable.",
        rich_help_panel=BUDGET,
    ),
]
BudgetTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="Whose figures count; wins over the file's.",
        autocompletion=completion.targets,
        rich_help_panel=BUDGET,
    ),
]
AllowEstimates = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-estimates",
        metavar="KEYS",
        help="Budget keys that pass without a figure of the board, marked: latency-p50-ms,energy-mj.",
        rich_help_panel=BUDGET,
    ),
]
JUnit = Annotated[
    Path | None,
    typer.Option("--junit", help="JUnit XML to write, one case a gate.", rich_help_panel=_OUTPUT),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the record on stdout.", rich_help_panel=_OUTPUT)
]

config_app = typer.Typer(help="What is set, and where.", no_args_is_help=True)


def gate(
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT...",
            help="A bundle (folder or archive) or its report.json, and what `bench --out` or `bench estimate --json` wrote.",
        ),
    ],
    budget: BudgetFile = None,
    limit: Limits = None,
    target: BudgetTarget = None,
    allow_estimates: AllowEstimates = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Public key (PEM) that must have signed the bundle; repeatable: any of them.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    junit: JUnit = None,
    summary: Annotated[
        Path | None,
        typer.Option(help="File to add a table in Markdown to.", rich_help_panel=_OUTPUT),
    ] = None,
    github: Annotated[
        bool,
        typer.Option(
            "--github", help="Print annotations for GitHub Actions.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hold figures against a budget: exit code 0, 4 or 5."""
    from edgekd.gate import reporters
    from edgekd.gate.gates import require_passed
    from edgekd.records import to_json
    from edgekd.workflows import gate as budgeting

    found = budgeting.judge_reports(
        reports,
        file=budget,
        limits=tuple(limit or ()),
        target=target,
        allowed=tuple(allow_estimates or ()),
        keys=key or (),
        junit=junit,
    )
    budgeting.write_judgement(found, junit=junit, summary=summary)
    if as_json:
        sys.stdout.write(to_json(found, schema=budgeting.SCHEMA))
    else:
        sys.stdout.write(reporters.format_judgement(found))
    if github:
        # GitHub reads them from either; stdout holds the record and nothing else.
        (sys.stderr if as_json else sys.stdout).write(reporters.annotations(found))
    require_passed(found.results, bundle="", listed=not as_json)


@config_app.command("show")
def config_show(
    budget: BudgetFile = None,
    limit: Limits = None,
    target: BudgetTarget = None,
    as_json: AsJson = False,
) -> None:
    """The budget that files and options make together, and where each value comes from."""
    from edgekd.records import to_json
    from edgekd.workflows import gate as budgeting

    found = budgeting.read_budget(file=budget, limits=tuple(limit or ()), target=target)
    if as_json:
        sys.stdout.write(to_json(found, schema="budget"))
        return
    sys.stdout.write(budgeting.format_budget(found))
