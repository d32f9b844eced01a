"""Joules of an external meter, put into measurements that waited for them: `edgekd bench meter`."""

from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from edgekd.bench.analysis import external_meter, meter_log
from edgekd.bench.analysis.external_meter import Alignment, Meter
from edgekd.bench.analysis.meter_log import LogColumns
from edgekd.errors import InputFileError, UsageError
from edgekd.options import MeterOptions
from edgekd.records import Energy, Measured, Measurements, MeasurementWarning, PowerTrace

UNBOUND = MeasurementWarning(
    code="meter-bounds",
    message="how far off the meter may be was not said, so the joules come without an interval",
    advice="give its bounds by its datasheet: --offset-watts and --gain",
)


def attach_meter_energy(
    found: Measured,
    log: Path,
    *,
    meter: Meter,
    bound: bool,
    columns: LogColumns,
    subject: str | None = None,
) -> tuple[Measured, Alignment]:
    """A measurement with the energy that a meter logged meanwhile.

    Args:
        found: of a file of `edgekd bench --out`.
        log: CSV of the meter.
        meter: its name, scope and bounds.
        bound: whether the bounds are known; without them the energy has no interval.
        columns: what the header of the log does not say.
        subject: the model; None: the only one there is.

    Raises:
        UsageError: there are several models, or none of that name.
        InputFileError: the run cannot be found in the log, or was measured without windows.
    """
    one = _select_subject(found, subject)
    trace = _trace(one)
    analysis, placed = external_meter.energy_from_log(
        trace, meter_log.read_log(log, columns), meter
    )
    energy = analysis.energy if bound else replace(analysis.energy, uncertainty=None)
    warnings = [*external_meter.warnings_of_log(analysis, meter), *([] if bound else [UNBOUND])]
    changed = replace(one, energy=energy, warnings=(*one.warnings, *warnings))
    return Measured(measurements=(changed,)), placed


def _select_subject(found: Measured, subject: str | None) -> Measurements:
    fitting = [each for each in found.measurements if subject in {None, each.subject}]
    names = ", ".join(each.subject for each in found.measurements) or "no model"
    if not fitting:
        raise UsageError(f"--subject {subject}: there is {names}.")
    if len(fitting) > 1:
        raise UsageError(f"Several models were measured ({names}). Name one: --subject NAME.")
    return fitting[0]


def _trace(one: Measurements) -> PowerTrace:
    trace = one.energy.trace if isinstance(one.energy, Energy) else None
    if trace is None:
        raise InputFileError(
            f"{one.subject} was measured without windows of calls. Measure it with: edgekd bench MODEL --energy-sensor "
            "none --out FILE.json"
        )
    return trace


def describe_meter(options: MeterOptions, *, scope: str) -> Meter:
    """A meter with the bounds that its energies get their intervals from.

    Raises:
        UsageError: one makes no sense.
    """
    try:
        return Meter(
            name=options.name,
            scope=scope,
            offset_w=options.offset_watts or 0.0,
            gains=options.gains,
            step_w=options.step_watts,
        )
    except ValidationError as error:
        first = error.errors()[0]
        names = {"offset_w": "offset-watts", "gains": "gain", "step_w": "step-watts"}
        field = str(first["loc"][0])
        raise UsageError(f"--{names.get(field, field)}: {first['msg']}.") from error


def format_alignment(placed: Alignment) -> str:
    """Where the run was found, for a terminal."""
    return (
        f"Found the run {placed.offset_s:.3f} s into the log, known to {placed.step_s * 1e3:.3g} ms (correlation "
        f"{placed.correlation:.3f}; elsewhere {placed.rival:.3f} at most)"
    )
