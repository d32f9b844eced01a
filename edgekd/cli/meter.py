"""`edgekd bench meter`, and how measurements are printed."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edgekd import options as defaults
from edgekd.cli.framework.options import OUTPUT, Force, Json, option_groups, record_of
from edgekd.errors import UsageError

if TYPE_CHECKING:
    from edgekd.bench.analysis.meter_log import LogColumns
    from edgekd.records import Measured

_METER: Final = "Meter"
_COLUMNS: Final = "Log columns (where the header does not name them)"


@dataclass(frozen=True, kw_only=True)
class MeterGroup:
    """What is known of the meter."""

    name: Annotated[str, typer.Option(help="Name of the meter.", rich_help_panel=_METER)] = (
        defaults.MeterOptions.name
    )
    offset_watts: Annotated[
        float | None,
        typer.Option(
            min=defaults.RANGES["MeterOptions.offset_watts"][0],
            help="Maximum zero offset in watts, from the datasheet.",
            rich_help_panel=_METER,
        ),
    ] = defaults.MeterOptions.offset_watts
    gain: Annotated[
        list[float] | None,
        typer.Option(
            metavar="FRACTION",
            min=0,
            max=1,
            help="Maximum relative gain error (0.001 is 0.1 %); repeatable, one per independent factor.",
            rich_help_panel=_METER,
        ),
    ] = None
    step_watts: Annotated[
        float,
        typer.Option(
            min=defaults.RANGES["MeterOptions.step_watts"][0],
            help="Resolution of the meter's converter in watts.",
            rich_help_panel=_METER,
        ),
    ] = defaults.MeterOptions.step_watts

    def options(self) -> defaults.MeterOptions:
        """The record for the workflow."""
        return record_of(defaults.MeterOptions, self, gains=tuple(self.gain or ()))


@dataclass(frozen=True, kw_only=True)
class ColumnsGroup:
    """Which columns of the log hold what."""

    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Names of all columns of a log without a header, with units: time_s,voltage_v,current_a; - skips one.",
            rich_help_panel=_COLUMNS,
        ),
    ] = None
    time_column: Annotated[
        str | None,
        typer.Option(help="Name of the column with times.", rich_help_panel=_COLUMNS),
    ] = None
    time_unit: Annotated[
        str | None,
        typer.Option(help="Unit of the times: s, ms, us or ns.", rich_help_panel=_COLUMNS),
    ] = None
    power_column: Annotated[
        str | None,
        typer.Option(help="Name of the column with powers.", rich_help_panel=_COLUMNS),
    ] = None
    power_unit: Annotated[
        str | None, typer.Option(help="Unit of the powers: W, mW or uW.", rich_help_panel=_COLUMNS)
    ] = None
    current_column: Annotated[
        str | None,
        typer.Option(help="Name of the column with currents.", rich_help_panel=_COLUMNS),
    ] = None
    current_unit: Annotated[
        str | None,
        typer.Option(help="Unit of the currents: A, mA or uA.", rich_help_panel=_COLUMNS),
    ] = None
    voltage_column: Annotated[
        str | None,
        typer.Option(help="Name of the column with voltages.", rich_help_panel=_COLUMNS),
    ] = None
    voltage_unit: Annotated[
        str | None,
        typer.Option(help="Unit of the voltages: V, mV or uV.", rich_help_panel=_COLUMNS),
    ] = None
    supply_volts: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Supply voltage in volts, for a log with currents only.",
            rich_help_panel=_COLUMNS,
        ),
    ] = None

    def options(self) -> "LogColumns":
        """The record for the workflow.

        Raises:
            UsageError: columns are named twice.
        """
        from edgekd.bench.analysis.meter_log import LogColumns

        if self.columns is not None:
            named = {
                "--time-column": self.time_column,
                "--power-column": self.power_column,
                "--current-column": self.current_column,
                "--voltage-column": self.voltage_column,
            }
            given = next((option for option, value in named.items() if value is not None), None)
            if given is not None:
                raise UsageError(f"--columns names all columns of the log: leave out {given}.")
        return LogColumns(
            header=None
            if self.columns is None
            else tuple(name.strip() for name in self.columns.split(",")),
            time=self.time_column,
            time_unit=self.time_unit,
            power=self.power_column,
            power_unit=self.power_unit,
            current=self.current_column,
            current_unit=self.current_unit,
            voltage=self.voltage_column,
            voltage_unit=self.voltage_unit,
            volts=self.supply_volts,
        )


@option_groups
def attach(
    result: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT", help="JSON file of `edgekd bench --energy-sensor none --out`."
        ),
    ],
    log: Annotated[
        Path,
        typer.Argument(metavar="LOG", help="CSV log that the meter wrote during the measurement."),
    ],
    scope: Annotated[
        str,
        typer.Option(
            help='What the meter measures, for example "5 V input, display included".',
            rich_help_panel=_METER,
        ),
    ],
    how: MeterGroup,
    columns: ColumnsGroup,
    subject: Annotated[
        str | None, typer.Option(help="Model to attach the energy to, if several were measured.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file to write the measurements to.", rich_help_panel=OUTPUT),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="HTML page with charts to write.", rich_help_panel=OUTPUT),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Attach energy from the log of an external meter; the clocks are aligned by the run itself."""
    from edgekd.workflows.measure import benchmark_output
    from edgekd.workflows.measure import import_meter_log as workflow

    benchmark_output.check_outputs(out, html, force=force)
    options = how.options()
    found, placed = workflow.attach_meter_energy(
        benchmark_output.read_measured(result),
        log,
        meter=workflow.describe_meter(options, scope=scope),
        bound=options.offset_watts is not None and bool(options.gains),
        columns=columns.options(),
        subject=subject,
    )
    sys.stderr.write(f"bench    {workflow.format_alignment(placed)}\n")
    print_measured(found, out=out, page=html, as_json=as_json)


def print_measured(
    found: "Measured",
    *,
    out: Path | None = None,
    table: Path | None = None,
    page: Path | None = None,
    as_json: bool,
) -> None:
    """Write and print measurements.

    Raises:
        DeviceError: a board gave nothing.
    """
    from edgekd.cli.framework.output import print_record
    from edgekd.workflows.measure import benchmark_output

    benchmark_output.write_outputs(found, out=out, table=table, page=page)
    if as_json:
        print_record(found, benchmark_output.SCHEMA)
    else:
        print(benchmark_output.format_measured(found))
    benchmark_output.require_measured(found)
