"""Charts as SVG to be set into a page: they take text size and colours from it, light or dark.

No text from a bundle goes into a chart; captions are the page's.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

# Drawn in colours that nobody chooses, which become the page's own.
INK: Final = "#010203"
QUIET: Final = "#010204"
FIRST: Final = "#010205"
SECOND: Final = "#010206"
_IN_THE_PAGE: Final = {
    INK: "currentColor",
    QUIET: "var(--line)",
    FIRST: "var(--series)",
    SECOND: "var(--accent)",
}
# Shown at about this size on a phone, so that text stays text.
WIDTH_PT: Final = 330.0
HEIGHT_PT: Final = 170.0
# Of a value; beyond it the arithmetic of axes overflows
LARGEST: Final = 1e100
MOST_POINTS: Final = 300
BINS: Final = 32


def line(
    points: Sequence[tuple[float, float]],
    *,
    name: str,
    percent: bool = False,
    height_pt: float = HEIGHT_PT,
) -> str:
    """Values over the steps of a run; what cannot be drawn is left out.

    Args:
        points: step and value.
        name: of the chart in the page, for its inner references.
        percent: values are shares, on an axis from 0 to 100 %.
        height_pt: of the whole chart.
    """
    kept = points[:: max(1, -(-len(points) // MOST_POINTS))]
    kept = [point for point in kept if all(abs(part) <= LARGEST for part in point)]
    steps, values = [step for step, _ in kept], [value for _, value in kept]
    with _axes(name, height_pt) as (axes, svg):
        axes.plot(steps, values, color=FIRST, linewidth=1.6)
        if len(kept) == 1 or percent:
            axes.plot(steps, values, color=FIRST, marker="o", markersize=2.5, linestyle="none")
        axes.set_xlabel("step of the student")
        axes.xaxis.set_major_locator(_ticker().MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(_ticker().StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_locator(_ticker().MaxNLocator(4))
        axes.ticklabel_format(axis="y", useOffset=False)
        if percent:
            axes.set_ylim(0, 1.03)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
            axes.yaxis.set_major_formatter(_ticker().PercentFormatter(1.0, decimals=0))
    return svg[0]


def histogram(
    values: Sequence[float], *, marks: Sequence[tuple[str, float]], unit: str, name: str
) -> tuple[str, int]:
    """How often each value occurs, without the last hundredth; and how many values that leaves out.

    Args:
        values: at most `LARGEST`, already in `unit`.
        marks: lines to draw, with their names; the first is drawn whole, others dashed.
        unit: of the axis.
        name: of the chart in the page, for its inner references.
    """
    taken = np.asarray(values, np.float64)
    low, high = float(taken.min()), float(np.percentile(taken, 99))
    high = max(high, *(value for _, value in marks))
    # All the same
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    with _axes(name, HEIGHT_PT) as (axes, svg):
        axes.hist(taken, bins=BINS, range=(low, high), color=FIRST, rwidth=0.9)
        # The names of the marks stand above the bars
        axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
        top = axes.get_ylim()[1]
        for place, (label, value) in enumerate(marks):
            axes.axvline(value, color=SECOND, linewidth=1.4, linestyle="--" if place else "-")
            right = value - low > 0.7 * (high - low)
            axes.annotate(
                label,
                (value, top * (1.0 - 0.13 * place)),
                xytext=(-4 if right else 4, 0),
                textcoords="offset points",
                ha="right" if right else "left",
                va="top",
                color=INK,
            )
        axes.set_xlabel(f"one call, {unit}")
        axes.set_ylabel("calls")
        axes.xaxis.set_major_locator(_ticker().MaxNLocator(5))
        axes.yaxis.set_major_locator(_ticker().MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(_ticker().StrMethodFormatter("{x:,.0f}"))
    return svg[0], int((taken > high).sum())


def stages(parts: Sequence[tuple[str, float, float]], *, unit: str, name: str) -> str:
    """Bars of what comes on top of what.

    Args:
        parts: a bar's name, how much lies beneath, and how much on top, from the top down; in `unit`.
        unit: of the axis.
        name: of the chart in the page, for its inner references.
    """
    with _axes(name, HEIGHT_PT * 0.7) as (axes, svg):
        names = [title for title, _, _ in parts]
        beneath = [low for _, low, _ in parts]
        axes.barh(names, beneath, color=QUIET, height=0.55)
        axes.barh(names, [high for _, _, high in parts], left=beneath, color=FIRST, height=0.55)
        for row, (_, low, high) in enumerate(parts):
            axes.annotate(
                f"{high:,.1f}",
                (low + max(high, 0), row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(unit)
    return svg[0]


def power(
    points: Sequence[tuple[float, float]],
    *,
    windows: Sequence[tuple[float, float]],
    idle: Sequence[tuple[float, float]],
    name: str,
) -> str:
    """Watts over the time of a run; windows of calls are shaded, idle times lie under a bar.

    Args:
        points: seconds and watts, at most `LARGEST`, rising in time.
        windows: from and to, in seconds.
        idle: likewise.
        name: of the chart in the page, for its inner references.
    """
    kept = envelope(points, MOST_POINTS)
    watts = [value for _, value in kept]
    low, high = min(0.0, *watts), max(0.0, *watts)
    room = (high - low) or 1.0
    with _axes(name, HEIGHT_PT) as (axes, svg):
        for begin, end in windows:
            axes.axvspan(begin, end, color=SECOND, alpha=0.18, linewidth=0)
        bar = high + 0.12 * room
        for begin, end in idle:
            axes.plot([begin, end], [bar, bar], color=INK, linewidth=3, solid_capstyle="butt")
        axes.plot([at for at, _ in kept], watts, color=FIRST, linewidth=1.2)
        labelled = [(span, "idle") for span in idle]
        labelled += [((windows[0][0], windows[-1][1]), "windows")] if windows else []
        for (begin, end), label in labelled:
            place = ((begin + end) / 2, bar + 0.04 * room)
            axes.annotate(label, place, ha="center", va="bottom", color=INK)
        axes.set_ylim(low, high + 0.35 * room)
        axes.set_xlabel("seconds")
        axes.set_ylabel("watts")
        axes.xaxis.set_major_locator(_ticker().MaxNLocator(5))
        axes.yaxis.set_major_locator(_ticker().MaxNLocator(4))
        axes.ticklabel_format(useOffset=False)
    return svg[0]


def envelope(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most so many points that keep every extreme: of each stretch, its least and its largest, in order."""
    if len(points) <= most:
        return list(points)
    kept = []
    for stretch in np.array_split(np.arange(len(points)), most // 2):
        values = [points[place][1] for place in stretch]
        extremes = {int(stretch[np.argmin(values)]), int(stretch[np.argmax(values)])}
        kept += [points[place] for place in sorted(extremes)]
    return kept


def _ticker() -> Any:  # noqa: ANN401
    from matplotlib import ticker

    return ticker


@contextmanager
def _axes(name: str, height_pt: float) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; when the block ends the list holds the SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    svg: list[str] = []
    with mpl.rc_context():
        # Not what a matplotlibrc of this machine says: the same figures are the same page.
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edgekd", "font.size": 11.5})
        figure = Figure(figsize=(WIDTH_PT / 72, height_pt / 72), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.grid(visible=True, color=QUIET, linewidth=0.6)
        axes.tick_params(colors=INK, length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(INK)
        yield axes, svg
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(INK)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
        svg.append(_for_a_page(drawn.getvalue(), name))


def _for_a_page(svg: str, name: str) -> str:
    """The element alone, sized by the page, with names of its own and the page's colours."""
    svg = svg[svg.index("<svg") :]
    # A style sheet in an element is that of the whole page.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]+"', svg)
    # Matplotlib always writes one
    assert box is not None
    # The figure that holds it says what it shows.
    svg = re.sub(
        r"<svg[^>]*>", f'<svg {box[0]} aria-hidden="true" focusable="false">', svg, count=1
    )
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r"font-family: [^;\"]+; ", "", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for drawn, meant in _IN_THE_PAGE.items():
        svg = svg.replace(drawn, meant)
    return svg.strip()
