"""The candidates of a search as a picture: agreement against what they cost."""

import io
from typing import Any, Protocol

from edgekd.bench.format import format_bytes, format_quantity
from edgekd.gate.budget_file import KINDS
from edgekd.records import Budget, Metric
from edgekd.search.candidates import SHOWN, Candidate
from edgekd.search.successive_halving import Run


class PlottedSearch(Protocol):
    """What is drawn of a search."""

    @property
    def candidates(self) -> tuple[Candidate, ...]: ...
    @property
    def runs(self) -> tuple[Run, ...]: ...
    @property
    def front(self) -> tuple[str, ...]: ...
    @property
    def chosen(self) -> str: ...
    @property
    def budget(self) -> Budget: ...


def picture(found: PlottedSearch) -> bytes:
    """PNG: one panel a cost that all candidates have; full points are the front, a star is the choice."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kept = {each.name: each for each in found.candidates if not each.over}
    agreement = {run.name: run.agreement for run in found.runs if run.lost is None}
    metrics: list[Metric] = [
        metric for metric in SHOWN if all(metric in each.costs for each in kept.values())
    ]
    figure, panels = plt.subplots(
        1, len(metrics), figsize=(4.6 * len(metrics), 3.8), squeeze=False, layout="constrained"
    )
    for metric, axes in zip(metrics, panels[0], strict=True):
        _panel(axes, metric, found, agreement)
    panels[0][0].set_ylabel("agreement with the teacher, %")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    return stream.getvalue()


def _panel(axes: Any, metric: Metric, found: PlottedSearch, agreement: dict[str, float]) -> None:  # noqa: ANN401
    unit = KINDS[metric].unit
    longest = max(run.steps for run in found.runs)
    # Of candidates that were dropped, after how many steps: they had less time to learn.
    label = {
        run.name: run.name if run.steps == longest else f"{run.name} ({run.steps} steps)"
        for run in found.runs
    }
    for each in found.candidates:
        if each.over or each.name not in agreement:
            continue
        x, y = each.costs[metric].value, 100 * agreement[each.name]
        front = each.name in found.front
        axes.plot(
            x,
            y,
            marker="*" if each.name == found.chosen else "o",
            markersize=13 if each.name == found.chosen else 6,
            color="tab:orange" if each.name == found.chosen else "tab:blue",
            fillstyle="full" if front else "none",
        )
        axes.annotate(
            label[each.name], (x, y), fontsize=7, xytext=(4, -9), textcoords="offset points"
        )
    limit = found.budget.limits.get(metric)
    if limit is not None and limit.value is not None:
        axes.axvline(limit.value, color="tab:red", linewidth=1, linestyle="--")
    axes.set_xlabel(metric + (", estimated" if _estimated(metric, found) else ""))
    axes.xaxis.set_major_formatter(
        lambda value, _: format_bytes(value) if unit == "B" else format_quantity(value, unit)
    )
    axes.tick_params(axis="x", labelsize=7, rotation=20)
    axes.grid(visible=True, alpha=0.3)


def _estimated(metric: Metric, found: PlottedSearch) -> bool:
    return any(metric in each.costs and each.costs[metric].estimated for each in found.candidates)
