"""Boards: how they are reached, and the verbs of `edgekd bench` that take no model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgekd import options as defaults
from edgekd.cli.framework import completion
from edgekd.cli.framework.options import DEVICE, Json, option_groups
from edgekd.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BoardGroup:
    """Which boards, and how they are reached."""

    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="ssh://USER@HOST[:PORT]",
            help="Board, or its name in the fleet file; repeatable (default: this machine).",
            rich_help_panel=DEVICE,
        ),
    ] = None
    fleet: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with boards by name (docs/remote.md).", rich_help_panel=DEVICE
        ),
    ] = defaults.ConnectionOptions.fleet
    ssh_config: Annotated[
        Path | None,
        typer.Option(
            help="OpenSSH configuration file to use instead of yours.", rich_help_panel=DEVICE
        ),
    ] = defaults.ConnectionOptions.ssh_config
    device_python: Annotated[
        str | None,
        typer.Option(
            metavar="PROGRAM",
            help="Python on the board that has the runtime (default: python3).",
            rich_help_panel=DEVICE,
        ),
    ] = defaults.ConnectionOptions.python

    def connection(self) -> defaults.ConnectionOptions:
        """The record for the API."""
        return defaults.ConnectionOptions(
            fleet=self.fleet, ssh_config=self.ssh_config, python=self.device_python
        )


@option_groups
def probe(
    boards: BoardGroup,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="Board that the machine is expected to be.",
            autocompletion=completion.targets,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a machine is and has: board, software, runtimes, power sensors."""
    from edgekd.api.targets import find_target
    from edgekd.bench.transport import fleet
    from edgekd.cli.framework.output import print_record
    from edgekd.workflows.measure import benchmark, benchmark_output

    chosen = None if target is None else find_target(target)
    found = benchmark.probes(
        fleet.devices(
            boards.device or [],
            boards.fleet,
            ssh_config=boards.ssh_config,
            python=boards.device_python,
        ),
        target=chosen,
    )
    if as_json:
        print_record(found, "probes")
        return
    print("\n\n".join(benchmark_output.probe_text(each) for each in found.probes))


@option_groups
def clean(boards: BoardGroup) -> None:
    """Remove everything that edgekd keeps on boards: agents, models, engines."""
    from edgekd.bench.transport import fleet
    from edgekd.workflows.measure import benchmark

    devices = fleet.devices(
        boards.device or [], boards.fleet, ssh_config=boards.ssh_config, python=boards.device_python
    )
    if not devices:
        raise UsageError("Which board? Give --device ssh://user@host, or --fleet FILE.")
    for board in devices:
        benchmark.clean(board)
        print(f"{board.name}: nothing of edgekd is left")
