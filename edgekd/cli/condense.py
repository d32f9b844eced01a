"""`edgekd condense`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgekd import options as defaults
from edgekd.cli.framework import completion
from edgekd.cli.framework.options import (
    OUTPUT,
    RUN,
    ComputeDevice,
    Force,
    Json,
    Seed,
    Threads,
    option_groups,
    parse_shape,
    record_of,
)
from edgekd.options import CONDENSE_STEPS, CONDENSED_FILE

_STEPS = ", ".join(f"{steps} {method}" for method, steps in CONDENSE_STEPS.items() if steps)


@dataclass(frozen=True, kw_only=True)
class CondenseGroup:
    """How images are condensed."""

    method: Annotated[
        str,
        typer.Option(
            help="Method: dm, dsa, herding or random.",
            autocompletion=completion.methods,
            rich_help_panel=RUN,
        ),
    ] = defaults.CondenseOptions.method
    steps: Annotated[
        int | None,
        typer.Option(
            min=defaults.RANGES["CondenseOptions.steps"][0],
            help=f"Training steps (default: {_STEPS}).",
            rich_help_panel=RUN,
        ),
    ] = defaults.CondenseOptions.steps
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="CxHxW",
            help="Shape of the condensed images (default: that of the first image).",
            rich_help_panel=RUN,
        ),
    ] = None
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="State whether a mirrored image keeps its class (default: yes for colour images).",
            rich_help_panel=RUN,
        ),
    ] = defaults.CondenseOptions.flip
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Fail on unreadable files instead of skipping them.",
            rich_help_panel=RUN,
        ),
    ] = defaults.CondenseOptions.strict

    def options(self) -> defaults.CondenseOptions:
        """The record for the API.

        Raises:
            UsageError: the shape is none.
        """
        return record_of(defaults.CondenseOptions, self, input=parse_shape(self.input_shape))


@option_groups
def condense(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled images: a folder with one folder per class, .npz or idx.",
        ),
    ],
    per_class: Annotated[
        int,
        typer.Option(min=1, help="Images per class, for example 1, 10 or 50.", rich_help_panel=RUN),
    ],
    how: CondenseGroup,
    seed: Seed = defaults.RunOptions.seed,
    device: ComputeDevice = defaults.RunOptions.device,
    threads: Threads = defaults.RunOptions.threads,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write (.npz).", rich_help_panel=OUTPUT)
    ] = Path(CONDENSED_FILE),
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Condense labelled images into a few images per class, where the data is."""
    from edgekd.doctor.requirements import require_libraries

    require_libraries("condense")
    import edgekd
    from edgekd.cli.framework.output import print_events, print_record
    from edgekd.workflows import condense as workflow

    found = edgekd.condense(
        data,
        per_class=per_class,
        out=out,
        options=how.options(),
        run=edgekd.RunOptions(seed=seed, device=device, threads=threads, force=force),
        on_event=print_events(),
    )
    if as_json:
        print_record(found, workflow.SCHEMA)
    else:
        print(workflow.format_condensed_set(found))
