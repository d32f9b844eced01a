"""Budgets: what a board may spend, from a project file, a board's file and options; the later wins.

```toml
[budget]
target = "jetson-orin-nano-8gb"
precision = "int8"
baseline = "released/report.json"
latency-p50-ms = 5.0
size-kib = 200

[budget.accuracy]
max-degradation = 0.5
of = "teacher"
```
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from edgekd.errors import InputFileError, UsageError
from edgekd.files import read_text
from edgekd.records import (
    Budget,
    Limit,
    Metric,
    Precision,
    Target,
)
from edgekd.targets.board_schema import suggestion
from edgekd.toml_text import parse_toml

PROJECT: Final = "edgekd.toml"


@dataclass(frozen=True)
class MetricKind:
    """How a metric is written and meant."""

    metric: Metric
    unit: Literal["s", "B", "J", "share of images"]
    # From what is written to the unit
    factor: float
    bound: Literal["at least", "at most"] = "at most"


KEYS: Final[Mapping[str, MetricKind]] = {
    "latency-p50-ms": MetricKind("latency-p50", "s", 1e-3),
    "latency-p99-ms": MetricKind("latency-p99", "s", 1e-3),
    "size-kib": MetricKind("size", "B", 1024.0),
    "peak-memory-mib": MetricKind("peak-memory", "B", 2.0**20),
    "energy-mj": MetricKind("energy", "J", 1e-3),
    "agreement": MetricKind("agreement", "share of images", 1.0, "at least"),
    "accuracy": MetricKind("accuracy", "share of images", 1.0, "at least"),
}
KINDS: Final[Mapping[Metric, MetricKind]] = {kind.metric: kind for kind in KEYS.values()}
NAMES: Final[Mapping[Metric, str]] = {kind.metric: key for key, kind in KEYS.items()}
# A relative limit names the metric without a unit: percent has none.
_TABLES: Final[Mapping[str, MetricKind]] = {**{kind.metric: kind for kind in KEYS.values()}, **KEYS}
_OTHERS: Final = ("target", "precision", "baseline")
_OF: Final = ("teacher", "baseline")
NONE: Final = Budget(limits={})


def budget_of(
    *,
    file: Path | None = None,
    target: Target | None = None,
    limits: tuple[str, ...] = (),
    checked: bool = True,
) -> Budget:
    """The budget that these say together; empty where none says anything.

    Args:
        file: a project file; None: `edgekd.toml` in this folder, where there is one.
        target: whose file may hold a budget, and whose figures count.
        limits: options, `KEY=VALUE`.
        checked: refuse what contradicts itself.

    Raises:
        InputFileError: a file is missing, is not TOML, or holds what no budget has.
        UsageError: an option is not of that form; or the budget contradicts itself.
    """
    found = NONE
    if file is None and Path(PROJECT).is_file():
        file = Path(PROJECT)
    if file is not None:
        found = _merge_budgets(found, read_project(file))
    if target is not None:
        origin = f"{target.board.name}'s file"
        for key in ("target", "baseline"):
            if key in target.board.budget:
                raise InputFileError(
                    f"{origin}: budget.{key}: belongs in a project file or an option."
                )
        found = _merge_budgets(found, _budget(target.board.budget, origin))
    if limits:
        found = _merge_budgets(found, _of_options(limits))
    if checked:
        _check(found)
    return found


def read_project(path: Path) -> Budget:
    """The `[budget]` of a project file.

    Raises:
        InputFileError: it is missing, not TOML, or holds what no budget has.
    """
    try:
        plain = parse_toml(read_text(path))
    except ValueError as error:
        raise InputFileError(f"{path}: not TOML ({error}).") from error
    for key in plain:
        if key != "budget":
            raise InputFileError(f"{path}: {key}: unknown key.{suggestion(key, ['budget'])}")
    table = plain.get("budget", {})
    if not isinstance(table, dict):
        raise InputFileError(f"{path}: budget: should be a table.")
    found = _budget(table, str(path))
    # Files are meant from where they are written.
    if found.baseline is not None:
        found = replace(found, baseline=str(path.parent / found.baseline))
    if found.target is not None and ".toml" in found.target:
        found = replace(found, target=str(path.parent / found.target))
    return found


def to_budget_unit(metric: Metric, value: float) -> float:
    """A value as the budget's key has it: 0.005 s of `latency-p50-ms` is 5."""
    return value / KINDS[metric].factor


def _budget(table: Mapping[str, Any], origin: str) -> Budget:
    limits: dict[Metric, Limit] = {}
    others: dict[str, str] = {}
    for key, value in table.items():
        kind = _TABLES.get(key)
        if key in _OTHERS:
            if not isinstance(value, str) or not value:
                raise InputFileError(f"{origin}: budget.{key}: should be a text.")
            others[key] = value
        elif kind is None:
            raise InputFileError(
                f"{origin}: budget.{key}: unknown key.{suggestion(key, [*KEYS, *_OTHERS])}"
            )
        elif kind.metric in limits:
            raise InputFileError(f"{origin}: budget.{key}: {kind.metric} is limited twice.")
        else:
            limits[kind.metric] = _limit(key, kind, value, origin)
    precision = others.get("precision")
    if precision is not None and precision not in get_args(Precision):
        near = suggestion(precision, get_args(Precision))
        raise InputFileError(f"{origin}: budget.precision: {precision!r} is none.{near}")
    return Budget(
        limits=limits,
        target=others.get("target"),
        precision=cast(Precision | None, precision),
        baseline=others.get("baseline"),
        origins=dict.fromkeys(others, origin),
    )


def _limit(key: str, kind: MetricKind, value: object, origin: str) -> Limit:
    where = f"{origin}: budget.{key}"
    if not isinstance(value, Mapping):
        if key not in KEYS:
            raise InputFileError(
                f"{where}: a limit has its unit in its name: {NAMES[kind.metric]}."
            )
        return Limit(value=_number(value, kind, where), degradation=None, of=None, origin=origin)
    known = ("limit", "max-degradation", "of")
    for name in value:
        if name not in known:
            raise InputFileError(f"{where}.{name}: unknown key.{suggestion(name, known)}")
    limit, degradation, of = (value.get(name) for name in known)
    if limit is None and degradation is None:
        raise InputFileError(f"{where}: neither limit nor max-degradation.")
    if limit is not None and key not in KEYS:
        raise InputFileError(
            f"{where}.limit: its unit belongs into the name: [budget.{NAMES[kind.metric]}]."
        )
    if degradation is not None and of not in _OF:
        raise InputFileError(f"{where}: of: should be one of {', '.join(_OF)}.")
    if degradation is None and of is not None:
        raise InputFileError(f"{where}: of: only max-degradation has it.")
    if of == "teacher" and kind.bound == "at most":
        raise InputFileError(
            f'{where}: of: no report holds what the teacher costs. Give of = "baseline", and a report of it as the baseline.'
        )
    return Limit(
        value=None if limit is None else _number(limit, kind, f"{where}.limit"),
        degradation=None if degradation is None else _percent(degradation, kind, where),
        of=of,
        origin=origin,
    )


def _number(value: object, kind: MetricKind, where: str) -> float:
    found = _finite(value, where) * kind.factor
    if not 0 < found < math.inf:
        raise InputFileError(f"{where}: should be above 0 and no more than a board can have.")
    if kind.bound == "at least" and found > 1:
        raise InputFileError(f"{where}: a share of images, so at most 1; {found:g} is given.")
    return found


def _percent(value: object, kind: MetricKind, where: str) -> float:
    found = _finite(value, f"{where}: max-degradation") / 100
    if found < 0:
        raise InputFileError(f"{where}: max-degradation: should not be negative.")
    if kind.bound == "at least" and found >= 1:
        raise InputFileError(f"{where}: max-degradation: 100 points and more allow anything.")
    return found


def _finite(value: object, where: str) -> float:
    try:
        found = math.nan if isinstance(value, bool | str) else float(cast(float, value))
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise InputFileError(f"{where}: should be a number.")
    return found


def _of_options(options: tuple[str, ...]) -> Budget:
    table: dict[str, Any] = {}
    for option in options:
        key, given, text = option.partition("=")
        if not given or not text:
            raise UsageError(f"--limit {option}: should be KEY=VALUE, as in latency-p50-ms=5.")
        if key in table:
            raise UsageError(f"--limit {option}: {key} is given twice.")
        try:
            table[key] = float(text) if key in KEYS else text
        except ValueError as error:
            raise UsageError(f"--limit {option}: {text!r} is no number.") from error
    try:
        return _budget(table, "--limit")
    except InputFileError as error:  # it was no file that said so
        raise UsageError(str(error).replace("--limit: budget.", "--limit ")) from error


def _merge_budgets(under: Budget, over: Budget) -> Budget:
    """What the second says, and what only the first says."""
    return Budget(
        limits={**under.limits, **over.limits},
        target=over.target or under.target,
        precision=over.precision or under.precision,
        baseline=over.baseline or under.baseline,
        origins={**under.origins, **over.origins},
    )


def _check(budget: Budget) -> None:
    """Raise where a budget contradicts itself."""
    p50, p99 = (budget.limits.get(name) for name in ("latency-p50", "latency-p99"))
    if p50 and p99 and p50.value and p99.value and p99.value < p50.value:
        raise UsageError(
            f"the budget contradicts itself: latency-p99-ms ({p99.value * 1e3:g}, {p99.origin}) is below latency-p50-ms "
            f"({p50.value * 1e3:g}, {p50.origin}), and no model's p99 is below its median."
        )
    for metric, limit in budget.limits.items():
        if limit.of == "baseline" and budget.baseline is None:
            raise UsageError(
                f"{limit.origin}: {metric} is limited relative to a baseline, and there is none. "
                'Name a report or bundle: baseline = "released/report.json".'
            )
