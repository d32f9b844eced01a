"""Measurements as text for people. Units are chosen here and nowhere else."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from edgekd.bench.analysis import statistics
from edgekd.records import (
    Energy,
    Figure,
    MachineState,
    Measurements,
    Memory,
    Paced,
    Range,
    Samples,
    Unmeasured,
)

_PREFIXES: Final = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"))


def report(measurements: Measurements) -> str:
    """Lines for a terminal; the first says where the figures were taken."""
    return "\n".join(
        [
            place(measurements),
            _subject(measurements),
            "",
            *_latency(measurements),
            *_format_paced(measurements.paced),
            *_memory(measurements.memory),
            *_energy(measurements.energy),
            *_conditions(measurements),
            *_warnings(measurements),
            "",
        ]
    )


def brief(measurements: Measurements) -> str:
    """One line of what matters, and how many warnings there are; `report` has the rest."""
    latency, memory = measurements.latency, measurements.memory.model_pss
    parts = [
        _format_unmeasured(latency)
        if isinstance(latency, Unmeasured)
        else f"median {format_quantity(statistics.median(latency), 's')} "
        f"(p99 {format_quantity(statistics.percentile(latency, 99), 's')}) per call",
        f"memory {_bytes(memory)}",
        f"energy {_brief_energy(measurements.energy)}",
        f"{len(measurements.warnings)} warnings",
    ]
    return f"{measurements.subject}: {', '.join(parts)}"


def slower_int8(taken: Sequence[Measurements]) -> Iterator[str]:
    """Where INT8 costs time beyond doubt, which precision to ship instead.

    Args:
        taken: of the files of one network, on any number of machines.
    """
    timed = [found for found in taken if not isinstance(found.latency, Unmeasured)]
    for found in timed:
        others = [
            other
            for other in timed
            if other.precision != "int8"
            and (other.device, other.conditions.batch) == (found.device, found.conditions.batch)
        ]
        if found.precision != "int8" or not others:
            continue
        best = min(others, key=_median_s)
        assert not isinstance(found.latency, Unmeasured)
        assert not isinstance(best.latency, Unmeasured)
        if (
            statistics.level_interval(found.latency)[0]
            <= statistics.level_interval(best.latency)[1]
        ):
            continue
        where = "the target" if found.is_target else found.taken_on
        yield (
            f"INT8 is slower than {best.precision.upper()} on {where}: {found.subject} takes "
            f"{format_quantity(_median_s(found), 's')} per call, {best.subject} {format_quantity(_median_s(best), 's')}."
            + (
                " Ship that, unless size decides; --no-int8 leaves INT8 out."
                if found.is_target
                else ""
            )
        )


def _median_s(found: Measurements) -> float:
    assert not isinstance(found.latency, Unmeasured)
    return statistics.median(found.latency)


def _brief_energy(energy: Energy | Unmeasured) -> str:
    if isinstance(energy, Unmeasured) or isinstance(energy.gross, Unmeasured):
        return "not measured"
    return energy_text(energy, energy.gross, "gross")


def energy_text(energy: Energy, figure: Samples, part: Literal["gross", "idle", "net"]) -> str:
    """A mean over the windows with its interval; an estimate says that it is one.

    Args:
        energy: that the figure is of.
        figure: one of its figures.
        part: which one.
    """
    mean = sum(figure.values) / len(figure.values)
    uncertainty = energy.uncertainty
    half = None if uncertainty is None else getattr(uncertainty, f"{part}_j")
    known = "" if half is None else f" ± {format_quantity(half, 'J')}"
    marked = "estimate, not measured: " if energy.kind == "estimate" else ""
    return f"{marked}{format_quantity(mean, 'J')}{known} per call"


def format_quantity(value: float, unit: str) -> str:
    """Three significant figures: `1.23 ms`, `45.6 uJ`, `0 s`."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{_three(value / factor)} {prefix}{unit}"
    factor, prefix = _PREFIXES[-1] if value else _PREFIXES[0]
    return f"{_three(value / factor)} {prefix}{unit}"


def format_bytes(value: float) -> str:
    """`37.1 MiB`, `512 B`."""
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= factor:
            return f"{_three(value / factor)} {unit}"
    return f"{value:.0f} B"


def _three(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def place(measurements: Measurements) -> str:
    """Where the figures were taken, and whether that is the target."""
    if measurements.is_target:
        return f"Measured on the target: {measurements.taken_on}"
    return (
        f"Measured on {measurements.taken_on}. "
        "This is not the target: none of these figures is the target's."
    )


def _subject(measurements: Measurements) -> str:
    conditions = measurements.conditions
    threads = f"{conditions.threads} thread{'s' if conditions.threads != 1 else ''}"
    return (
        f"{measurements.subject} ({measurements.precision}), {conditions.runtime}, "
        f"{conditions.provider}, {threads}, batch {conditions.batch}"
    )


def _latency(measurements: Measurements) -> Iterator[str]:
    figure = measurements.latency
    if isinstance(figure, Unmeasured):
        yield _row("latency", _format_unmeasured(figure))
        return
    low, high = statistics.level_interval(figure)
    yield _row(
        "latency",
        f"median {format_quantity(statistics.median(figure), 's')} per call "
        f"(95 % interval {format_quantity(low, 's')} to {format_quantity(high, 's')})",
    )
    percentiles = [
        f"p{percent} {format_quantity(statistics.percentile(figure, percent), 's')}"
        for percent in (90, 95, 99)
    ]
    lowest, highest = min(figure.values), max(figure.values)
    yield _row(
        "",
        f"{', '.join(percentiles)}, min {format_quantity(lowest, 's')}, max {format_quantity(highest, 's')}",
    )
    yield _row(
        "",
        f"{len(figure.values)} calls in {measurements.conditions.processes} processes, "
        f"{statistics.outlier_count(figure)} outliers (kept)",
    )


def _format_paced(paced: Paced | None) -> Iterator[str]:
    if paced is None:
        return
    if isinstance(paced.latency, Unmeasured):
        yield _row("", f"at {paced.fps:g} calls per second: {_format_unmeasured(paced.latency)}")
        return
    figure = paced.latency
    yield _row(
        "",
        f"at {paced.fps:g} calls per second: median {format_quantity(statistics.median(figure), 's')}, "
        f"p99 {format_quantity(statistics.percentile(figure, 99), 's')}, {paced.late} of {len(figure.values)} "
        "started late",
    )


def _memory(memory: Memory) -> Iterator[str]:
    rows = (
        ("memory", "runtime", memory.runtime_pss, memory.runtime_uss),
        ("", "+ model loaded", memory.session_pss, memory.session_uss),
        ("", "+ after runs", memory.model_pss, memory.model_uss),
    )
    for title, stage, pss, uss in rows:
        if isinstance(pss, Samples) and isinstance(uss, Samples):
            yield _row(title, f"{stage:<15} {_bytes(pss)} PSS, {_bytes(uss)} USS")
        else:
            missing = pss if isinstance(pss, Unmeasured) else uss
            yield _row(title, f"{stage:<15} {_bytes(missing)}")
    yield _row("", f"{'peak RSS':<15} {_bytes(memory.peak_rss)}, runtime and model")
    others = (
        ("without arena", memory.no_arena_pss, "PSS after runs, ONNX Runtime's arena off"),
        ("by the engine", memory.declared, "declared: weights and scratch"),
        ("of the board", memory.board, "less available while it ran"),
        ("by the GPU", memory.gpu, "of it more in use while it ran"),
    )
    for title, figure, what in others:
        if isinstance(figure, Samples):
            yield _row("", f"{title:<15} {_bytes(figure)}, {what}")


def _energy(energy: Energy | Unmeasured) -> Iterator[str]:
    if isinstance(energy, Unmeasured):
        yield _row("energy", _format_unmeasured(energy))
        return
    gross = energy.gross
    if isinstance(gross, Unmeasured):
        yield _row("energy", _format_unmeasured(gross))
    else:
        yield _row("energy", f"gross {energy_text(energy, gross, 'gross')}, idle included")
        parts: tuple[tuple[Literal["idle", "net"], Figure], ...] = (
            ("idle", energy.idle),
            ("net", energy.net),
        )
        for part, figure in parts:
            if isinstance(figure, Samples):
                yield _row("", f"{part:<5} {energy_text(energy, figure, part)}")
        yield _row("", _windows(energy, gross))
    yield _row("", f"scope: {energy.scope}; sensor: {energy.sensor}")


def _windows(energy: Energy, gross: Samples) -> str:
    parts = [f"{len(gross.values)} windows"]
    if energy.window_s is not None:
        parts[0] += f" of {format_quantity(energy.window_s, 's')}"
    if energy.rate_hz is not None:
        parts.append(f"{_three(energy.rate_hz)} fresh readings per second")
    if energy.idle_before_w is not None and energy.idle_after_w is not None:
        before, after = energy.idle_before_w, energy.idle_after_w
        parts.append(
            f"idle {format_quantity(before, 'W')} before, {format_quantity(after, 'W')} after"
        )
    if energy.uncertainty is not None:
        parts.append("± holds the truth in at least 95 % of runs")
    return ", ".join(parts)


def _conditions(measurements: Measurements) -> Iterator[str]:
    conditions = measurements.conditions
    parts = [
        conditions.os,
        f"governor {_format_known(conditions.governor)}",
        f"clock before {_format_known(conditions.cpu_mhz, '.0f', ' MHz')}",
        f"temperature before {_format_known(conditions.temperature_c, '.0f', ' C')}",
        f"busy before {_format_known(conditions.load_before, '.1f', ' processors')}",
        f"warm-up {format_quantity(conditions.warmup_s, 's')}",
    ]
    yield _row("conditions", ", ".join(parts))
    yield _row("", f"while timed: {ranges(conditions.clocks_mhz, 'MHz')}")
    yield _row("", f"through the runs: {ranges(conditions.temperatures_c, 'C')}")
    yield from _setup(conditions.setup)
    if conditions.note:
        yield _row("", f"note: {conditions.note}")


def ranges(found: Mapping[str, Range], unit: str) -> str:
    """`GPU 306 to 1020 MHz, ...`; looks are a second apart, so short runs have none of the clocks."""
    if not found and unit == "MHz":
        return "clocks not seen (not readable, or timed for less than a second)"
    if not found:
        return "temperatures not readable"
    parts = (f"{name} {_span(each)} {unit}" for name, each in found.items())
    return ", ".join(parts)


def _span(found: Range) -> str:
    lowest, highest = f"{found.lowest:.0f}", f"{found.highest:.0f}"
    return lowest if lowest == highest else f"{lowest} to {highest}"


def _setup(setup: MachineState | None) -> Iterator[str]:
    """The lines of a board; a desk has none of it."""
    if setup is None or setup.l4t is None:
        return
    parts = [
        f"{setup.board or 'board not readable'} ({', '.join(setup.parts) or 'parts not readable'})",
        f"JetPack {_format_known(setup.jetpack)}, L4T {setup.l4t}",
        f"CUDA {_format_known(setup.cuda)}, TensorRT {_format_known(setup.tensorrt or setup.trtexec)}",
        f"power mode {_format_known(setup.power_mode)}",
        f"GPU {_format_known(setup.gpu_mhz, '.0f', ' MHz')}, fan {_format_known(setup.fan, '.0%')}",
    ]
    yield _row("board", "; ".join(parts))


def _warnings(measurements: Measurements) -> Iterator[str]:
    for index, warning in enumerate(measurements.warnings):
        title = "" if index else "warnings"
        yield _row(title, f"{warning.code}: {warning.message}; {warning.advice}")


def _row(title: str, text: str) -> str:
    return f"{title:<11}{text}"


def _bytes(figure: Figure) -> str:
    if isinstance(figure, Unmeasured):
        return _format_unmeasured(figure)
    return format_bytes(statistics.median(figure))


def _format_unmeasured(figure: Unmeasured) -> str:
    return f"not measured: {figure.reason}"


def _format_known(value: float | str | None, style: str = "", unit: str = "") -> str:
    return "not readable" if value is None else f"{value:{style}}{unit}"
