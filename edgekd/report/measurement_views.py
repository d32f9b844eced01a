"""What the pages say of measurements: `report.html` and the page of `edgekd bench --html`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from edgekd.bench.analysis import statistics
from edgekd.bench.format import (
    energy_text,
    format_bytes,
    format_quantity,
    place,
    ranges,
)
from edgekd.records import (
    Conditions,
    Energy,
    Figure,
    MachineState,
    Measurements,
    MeasurementWarning,
    Paced,
    PowerTrace,
    Samples,
    Unmeasured,
)
from edgekd.report import charts

# Of a run: what is shown of its trace before it and after
AROUND: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Value:
    """A figure as text, or why there is none."""

    text: str
    measured: bool = True


@dataclass(frozen=True, kw_only=True)
class Chart:
    title: str
    # Markup: the only text that is not escaped
    svg: Any
    caption: str


@dataclass(frozen=True, kw_only=True)
class Latency:
    chart: Chart
    median: str
    interval: str
    p95: str
    p99: str


@dataclass(frozen=True, kw_only=True)
class MeasurementView:
    subject: str
    precision: str
    place: str
    is_target: bool
    latency: Latency | None
    no_latency: str
    memory: tuple[tuple[str, Value], ...]
    paced: Value | None
    energy: Value
    energy_scope: str
    conditions: tuple[tuple[str, str], ...]
    warnings: tuple[MeasurementWarning, ...]
    charts: tuple[Chart, ...]


def markup(svg: str) -> Any:  # noqa: ANN401
    from markupsafe import Markup

    # Only what charts.py drew, which puts no text of a bundle into it.
    return Markup(svg)


def view_of(found: Measurements, name: str) -> MeasurementView:
    latency = _usable(found.latency)
    return MeasurementView(
        subject=found.subject,
        precision=found.precision.upper(),
        place=place(found),
        is_target=found.is_target,
        latency=_latency(latency, name) if isinstance(latency, Samples) else None,
        no_latency=latency.reason if isinstance(latency, Unmeasured) else "",
        memory=(
            ("Memory: runtime", _bytes(found.memory.runtime_pss)),
            ("Model loaded, on top of it", _bytes(found.memory.session_pss)),
            ("After the runs, on top of it", _bytes(found.memory.model_pss)),
            ("The same, without the runtime's arena", _bytes(found.memory.no_arena_pss)),
            ("Peak resident memory", _bytes(found.memory.peak_rss)),
            ("Declared by the engine", _bytes(found.memory.declared)),
            ("Of the board, meanwhile", _bytes(found.memory.board)),
            ("Shared with the GPU", _bytes(found.memory.gpu)),
        ),
        paced=None if found.paced is None else _view_paced(found.paced),
        energy=_energy(found.energy),
        energy_scope=f"{found.energy.scope}; sensor {found.energy.sensor}"
        if isinstance(found.energy, Energy)
        else "",
        conditions=_conditions(found.conditions),
        warnings=found.warnings,
        charts=tuple(_charts(found, name)),
    )


def _usable(figure: Figure) -> Figure:
    if isinstance(figure, Samples) and not (
        figure.values and all(abs(value) <= charts.LARGEST for value in figure.values)
    ):
        return Unmeasured(reason="the report holds values that are no measurement")
    return figure


def _latency(samples: Samples, name: str) -> Latency:
    median, p95, p99 = (statistics.percentile(samples, percent) for percent in (50, 95, 99))
    low, high = statistics.level_interval(samples)
    factor, unit = (1e3, "ms") if median >= 1e-3 else (1e6, "µs")
    svg, beyond = charts.histogram(
        [value * factor for value in samples.values],
        marks=(("median", median * factor), ("p95", p95 * factor)),
        unit=unit,
        name=name,
    )
    over = f" {beyond} slower calls, up to {_seconds(max(samples.values))}, lie right of it."
    return Latency(
        chart=Chart(
            title="Latency",
            svg=markup(svg),
            caption=f"{len(samples.values):,} calls: median {_seconds(median)}, p95 {_seconds(p95)}, "
            f"fastest {_seconds(min(samples.values))}.{over if beyond else ''}",
        ),
        median=_seconds(median),
        interval=f"95% interval {_seconds(low)} to {_seconds(high)}",
        p95=_seconds(p95),
        p99=_seconds(p99),
    )


def _view_paced(paced: Paced) -> Value:
    figure = _usable(paced.latency)
    if isinstance(figure, Unmeasured):
        return _view_unmeasured(figure)
    return Value(
        text=f"median {_seconds(statistics.median(figure))} per call at {paced.fps:g} calls per second, {paced.late} of "
        f"{len(figure.values)} started late"
    )


def _charts(found: Measurements, name: str) -> Iterator[Chart]:
    yield from _memory_chart(found, name)
    if isinstance(found.energy, Energy) and found.energy.trace is not None:
        yield from _power_chart(found.energy, found.energy.trace, name)


def _memory_chart(found: Measurements, name: str) -> Iterator[Chart]:
    stages = (
        ("runtime", found.memory.runtime_pss, None),
        ("model loaded", found.memory.session_pss, found.memory.runtime_pss),
        ("after runs", found.memory.model_pss, found.memory.runtime_pss),
    )
    heights = []
    for title, figure, base in stages:
        known, below = _usable(figure), None if base is None else _usable(base)
        if isinstance(known, Unmeasured) or isinstance(below, Unmeasured):
            return
        beneath = 0.0 if below is None else statistics.median(below)
        heights.append((title, beneath / 2**20, statistics.median(known) / 2**20))
    yield Chart(
        title="Memory",
        svg=markup(charts.stages(heights, unit="MiB", name=f"{name}-memory")),
        caption="Memory (PSS) by stages of fresh processes: what the runtime takes, and the model on top of it.",
    )


def _power_chart(energy: Energy, trace: PowerTrace, name: str) -> Iterator[Chart]:
    """What the sensor said from shortly before the first span to shortly after the last."""
    windows, idle = (
        [(span.begin_s, span.end_s) for span in spans if _is_shown(span.begin_s, span.end_s)]
        for spans in (trace.windows, trace.idle)
    )
    spans = [*windows, *idle]
    begin = min((at for at, _ in spans), default=0.0)
    end = max((at for _, at in spans), default=0.0)
    margin = AROUND * (end - begin)
    points = [
        point
        for point in zip(trace.seconds, trace.watts, strict=True)
        if _is_shown(*point) and begin - margin <= point[0] <= end + margin
    ]
    if len(points) < 2:
        return
    watts = [value for _, value in points]
    marked = [f"shaded: {len(windows)} windows of calls"] if windows else []
    marked += ["under a bar: idle, with the model loaded"] if idle else []
    yield Chart(
        title="Power",
        svg=markup(charts.power(points, windows=windows, idle=idle, name=f"{name}-power")),
        caption=f"Power by {energy.sensor}: {len(points):,} readings in {_seconds(points[-1][0] - points[0][0])}, "
        f"{format_quantity(min(watts), 'W')} to {format_quantity(max(watts), 'W')}. "
        f"{'; '.join(marked).capitalize()}.",
    )


def _is_shown(*values: float) -> bool:
    return all(abs(value) <= charts.LARGEST for value in values)


def _seconds(value: float) -> str:
    return format_quantity(value, "s").replace(" us", " µs")


def _bytes(figure: Figure) -> Value:
    known = _usable(figure)
    if isinstance(known, Unmeasured):
        return _view_unmeasured(known)
    return Value(text=format_bytes(statistics.median(known)))


def _energy(energy: Energy | Unmeasured) -> Value:
    if isinstance(energy, Unmeasured):
        return _view_unmeasured(energy)
    gross = _usable(energy.gross)
    if isinstance(gross, Unmeasured):
        return _view_unmeasured(gross)
    text = f"{energy_text(energy, gross, 'gross')}, idle included"
    net = _usable(energy.net)
    if isinstance(net, Samples):
        text += f"; {energy_text(energy, net, 'net')} without it"
    return Value(text=text, measured=energy.kind == "measured")


def _view_unmeasured(figure: Unmeasured) -> Value:
    return Value(text=f"not measured: {figure.reason}", measured=False)


def _conditions(taken: Conditions) -> tuple[tuple[str, str], ...]:
    def format_known(value: float | str | None, style: str = "", unit: str = "") -> str:
        return "not readable" if value is None else f"{value:{style}}{unit}"

    return (
        ("Machine", taken.machine),
        ("System", taken.os),
        ("Runtime", f"{taken.runtime}, {taken.provider}"),
        ("Threads, batch", f"{taken.threads}, {taken.batch}"),
        ("Processes", f"{taken.processes}, each after a warm-up of {_seconds(taken.warmup_s)}"),
        ("Governor", format_known(taken.governor)),
        ("Clock before", format_known(taken.cpu_mhz, ".0f", " MHz")),
        ("Temperature before", format_known(taken.temperature_c, ".0f", " °C")),
        ("Clocks in the runs", ranges(taken.clocks_mhz, "MHz")),
        ("Temperatures in the runs", ranges(taken.temperatures_c, "°C")),
        ("Busy before", format_known(taken.load_before, ".1f", " processors")),
        ("Emulated", "yes" if taken.emulated else "no"),
        *_setup(taken.setup),
    )


def _setup(setup: MachineState | None) -> Iterator[tuple[str, str]]:
    if setup is None:
        return
    rows = (
        ("JetPack, L4T", " / ".join(filter(None, (setup.jetpack, setup.l4t)))),
        ("CUDA", setup.cuda),
        ("TensorRT", setup.tensorrt or setup.trtexec),
        ("Power mode", setup.power_mode),
        ("Power sensor", setup.sensor),
    )
    yield from ((name, text) for name, text in rows if text)
