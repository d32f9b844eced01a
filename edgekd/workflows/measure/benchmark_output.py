"""Measurements as files and text: `edgekd bench`."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

from edgekd.bench.analysis import compare, statistics
from edgekd.bench.format import format_bytes, format_quantity, report
from edgekd.errors import (
    DeviceError,
    InputFileError,
    OutputError,
    UsageError,
)
from edgekd.files import check_writable_file, read_text, write_together
from edgekd.records import (
    Energy,
    Figure,
    Measured,
    Measurements,
    Samples,
    from_json,
    record,
    to_json,
)
from edgekd.report.measurement_views import view_of
from edgekd.sole_writer import left_by_killed
from edgekd.templating import render
from edgekd.workflows.measure.benchmark import Probed

SCHEMA: Final = "measurements"
COLUMNS: Final = (
    "device", "subject", "precision", "taken_on", "is_target", "runtime", "calls", "processes", "median_s", "p90_s",
    "p99_s", "low_s", "high_s", "paced_fps", "paced_median_s", "memory_runtime_bytes", "memory_model_bytes",
    "memory_peak_bytes", "energy_gross_j", "energy_scope", "warnings",
)  # fmt: skip


@record
class Comparisons:
    """What `edgekd bench compare --json` prints."""

    comparisons: tuple[compare.Comparison, ...]


def check_outputs(*files: Path | None, force: bool) -> None:
    """Raise before anything is measured where a file cannot be written.

    Raises:
        OutputError: it exists, or its folder cannot be written to.
        UsageError: two are the same.
    """
    given = [file for file in files if file is not None]
    # Of several that are one output, the first is known until all are there
    force = force or (bool(given) and left_by_killed(given[0]))
    for file in given:
        check_writable_file(file, force=force)
    paths = [file.resolve() for file in given]
    if len({*paths}) < len(paths):
        raise UsageError("Two outputs are the same file. Give each its own.")


def write_outputs(
    found: Measured, *, out: Path | None = None, table: Path | None = None, page: Path | None = None
) -> None:
    """Write what was asked for; all three hold the same.

    Raises:
        OutputError: a file cannot be written.
    """
    texts: tuple[tuple[Path | None, Callable[[], str]], ...] = (
        (out, lambda: to_json(found, schema=SCHEMA)),
        (table, lambda: csv_of(found.measurements)),
        (page, lambda: html_of(found)),
    )
    try:
        write_together([(path, made) for path, made in texts if path is not None])
    except OSError as error:
        raise OutputError(f"{error.filename}: {error.strerror}. The figures are lost.") from error


def format_measured(found: Measured) -> str:
    """For a terminal: of one model everything, of several a table first; boards that failed last."""
    blocks = []
    if len(found.measurements) > 1:
        blocks.append("\n".join(_table(found.measurements)) + "\n")
    blocks += [report(each) for each in found.measurements]
    blocks += [compare.format_comparison(each) + "\n" for each in pairs(found.measurements)]
    blocks += [f"{name}: not measured: {reason}" for name, reason in found.failed.items()]
    return "\n".join(blocks)


def pairs(measurements: Sequence[Measurements]) -> Iterator[compare.Comparison]:
    """Each pair of models that one machine measured."""
    for old, new in combinations(measurements, 2):
        if (old.device, old.taken_on) == (new.device, new.taken_on):
            yield compare.compare(old, new)


def require_measured(found: Measured) -> None:
    """Raise where a board gave nothing.

    Raises:
        DeviceError: at least one did.
    """
    if found.failed:
        raise DeviceError(
            f"{len(found.failed)} boards gave nothing: {', '.join(found.failed)}. The others' figures stand above."
        )


def read_measured(path: Path) -> Measured:
    """Measurements of a file that `--out` or `--json` wrote.

    Raises:
        InputFileError: it is no such file.
    """
    if not path.is_file():
        raise InputFileError(f"{path}: no such file. Write one: edgekd bench MODEL --out FILE.json")
    return from_json(Measured, read_text(path), origin=str(path), schema=SCHEMA)


def compare_files(old: Path, new: Path | None) -> Comparisons:
    """Models of two files by their names, or of one file by pairs.

    Raises:
        InputFileError: a file cannot be read, or nothing in it can be paired.
    """
    before = read_measured(old).measurements
    if new is None:
        found = tuple(pairs(before))
        if not found:
            raise InputFileError(f"{old} holds one model; name a second file.")
        return Comparisons(comparisons=found)
    after = read_measured(new).measurements
    if len(before) == len(after) == 1:
        return Comparisons(comparisons=(compare.compare(before[0], after[0]),))
    named = {each.subject: each for each in after}
    matched = [(each, named[each.subject]) for each in before if each.subject in named]
    if not matched:
        raise InputFileError(f"{old} and {new} have no model of the same name.")
    return Comparisons(comparisons=tuple(compare.compare(*pair) for pair in matched))


def csv_of(measurements: Sequence[Measurements]) -> str:
    """A row for each model and board; what was not measured is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in measurements:
        writer.writerow(_row(each))
    return buffer.getvalue()


def _row(found: Measurements) -> list[object]:
    latency = found.latency
    times: list[object] = [""] * 6
    if isinstance(latency, Samples):
        low, high = statistics.level_interval(latency)
        middle = [statistics.percentile(latency, percent) for percent in (50, 90, 99)]
        times = [len(latency.values), *middle, low, high]
    paced = found.paced
    memory = found.memory
    energy = found.energy
    return [
        found.device or "",
        found.subject,
        found.precision,
        found.taken_on,
        found.is_target,
        found.conditions.runtime,
        times[0],
        found.conditions.processes,
        *times[1:],
        "" if paced is None else paced.fps,
        "" if paced is None else _level(paced.latency),
        _level(memory.runtime_pss),
        _level(memory.model_pss),
        _level(memory.peak_rss),
        _level(energy.gross) if isinstance(energy, Energy) else "",
        energy.scope if isinstance(energy, Energy) else "",
        " ".join(warning.code for warning in found.warnings),
    ]


def _level(figure: Figure) -> float | str:
    return statistics.median(figure) if isinstance(figure, Samples) else ""


def _table(measurements: Sequence[Measurements]) -> Iterator[str]:
    rows = [("device", "model", "median", "p99", "memory", "energy per call", "warnings")]
    for each in measurements:
        latency, energy = each.latency, each.energy
        gross = energy.gross if isinstance(energy, Energy) else energy
        memory = each.memory.model_pss
        rows.append(
            (
                each.device or "here",
                each.subject,
                _format_figure(latency, "s"),
                _format_figure(latency, "s", percent=99),
                _format_figure(memory, "B"),
                _format_figure(gross, "J"),
                str(len(each.warnings)),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def _format_figure(figure: Figure, unit: str, *, percent: float = 50) -> str:
    if not isinstance(figure, Samples):
        return "not measured"
    value = statistics.percentile(figure, percent)
    return format_bytes(value) if unit == "B" else format_quantity(value, unit)


def html_of(found: Measured) -> str:
    """A page for people, with nothing outside it."""
    names = list(dict.fromkeys(each.subject for each in found.measurements))
    return render(
        "bench.html",
        title=", ".join(names) or "No figures",
        failed=tuple(found.failed.items()),
        measurements=tuple(
            view_of(each, f"latency-{number}") for number, each in enumerate(found.measurements)
        ),
    )


def probe_text(found: Probed) -> str:
    """What a machine is and has, for a terminal."""
    setup = found.setup
    rows = (
        ("board", setup.board or "not in its device tree"),
        ("parts", ", ".join(setup.parts) or "not in its device tree"),
        ("processor", f"{setup.architecture}, {setup.processors} processors"),
        ("memory", "not readable" if setup.memory_bytes is None else format_bytes(setup.memory_bytes)),
        ("kernel", setup.kernel),
        ("python", setup.python),
        ("JetPack", f"{setup.jetpack} (L4T {setup.l4t})" if setup.l4t else "no Jetson"),
        ("CUDA", setup.cuda or "not there"),
        ("power mode", setup.power_mode or "not readable"),
        *((name, getattr(setup, name) or f"not there: {setup.missing.get(name, '?')}")
          for name in ("onnxruntime", "tensorrt", "trtexec")),
        ("power", f"{setup.sensor}: {setup.scope}" if setup.sensor else "no sensor"),
    )  # fmt: skip
    target = {
        True: ["target     yes: it is the board that was named"],
        False: ["target     no: another board"],
    }
    lines = [found.device, *(f"{name:<12}{value}" for name, value in rows)]
    return "\n".join(lines + ([] if found.is_target is None else target[found.is_target]))
