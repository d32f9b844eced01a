"""What reports say about one model's figures, and what of it counts for a board."""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from edgekd.bench.analysis import statistics
from edgekd.bundle import archive, layout, verification
from edgekd.bundle.signing import PublicKey
from edgekd.errors import InputFileError, UsageError
from edgekd.files import read_text
from edgekd.gate.budget_file import KINDS
from edgekd.records import (
    Budget,
    Energy,
    Estimate,
    Measured,
    Measurements,
    Metric,
    ModelEstimate,
    Precision,
    Samples,
    Target,
    Unmeasured,
    from_json,
)
from edgekd.records.manifest import Manifest, Report
from edgekd.targets.board_detection import is_board
from edgekd.targets.catalogue import load_target

# Bytes of a report that is read at all
_LARGEST: Final = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Reports:
    """All that was given, read."""

    manifest: Manifest | None = None
    report: Report | None = None
    measurements: tuple[Measurements, ...] = ()
    estimates: tuple[ModelEstimate, ...] = ()


@dataclass(frozen=True)
class Model:
    """The model that is deployed."""

    name: str
    precision: Precision
    digest: str
    size_bytes: int | None


@dataclass(frozen=True)
class Finding:
    """A figure in the unit of its metric; without one, why. An estimate never counts by itself."""

    kind: Literal["measured", "estimate", "unmeasured"]
    value: float | None
    # "median of 6,000 calls on NVIDIA Jetson Orin Nano"
    told: str


def read_reports(paths: Sequence[Path], *, trusted: Sequence[PublicKey] = ()) -> Reports:
    """Bundles, reports, and what `edgekd bench` and `bench estimate` wrote.

    Args:
        paths: of them; a bundle is a folder or an archive.
        trusted: keys of which one must have signed a bundle; none: signatures are not looked at.

    Raises:
        InputFileError: one is none of these, or is of a model that the bundle has not.
        IntegrityError: a bundle is not what was sealed.
        UsageError: there are two bundles.
    """
    manifest: Manifest | None = None
    report: Report | None = None
    measurements: list[Measurements] = []
    estimates: list[ModelEstimate] = []
    # Digests of what was measured apart
    origins: list[tuple[str, Path]] = []
    for path in paths:
        beside = path.name == layout.REPORT and (path.parent / layout.MANIFEST).is_file()
        if path.is_dir() or beside or archive.is_archive(path):
            folder = path.parent if beside else path
            if manifest is not None:
                raise UsageError(f"{path}: a second bundle. Judge each by itself.")
            whole = verification.verify_bundle(folder, trusted=trusted)
            manifest, report = whole.manifest, whole.report
            measurements += report.measurements
            continue
        text = _text(path)
        match _schema(text, path):
            case "measurements":
                found = from_json(Measured, text, origin=str(path), schema="measurements")
                measurements += found.measurements
                origins += [(each.subject_digest, path) for each in found.measurements]
            case "model-estimate":
                estimate = from_json(ModelEstimate, text, origin=str(path), schema="model-estimate")
                estimates.append(estimate)
                origins.append((estimate.subject_digest, path))
            case other:
                raise InputFileError(
                    f"{path}: a file of schema {other!r}. A bundle, its {layout.REPORT}, or what `edgekd bench --out` "
                    "wrote is judged."
                )
    if manifest is not None:
        known = {listed.sha256 for listed in manifest.files}
        for digest, path in origins:
            if digest not in known:
                raise InputFileError(
                    f"{path}: is about another model (SHA-256 {digest[:12]}) than any of the bundle's. Measure the "
                    "bundle's own."
                )
    return Reports(
        manifest=manifest,
        report=report,
        measurements=tuple(measurements),
        estimates=tuple(estimates),
    )


def model_of(reports: Reports, budget: Budget) -> Model:
    """The model that the budget is about: of its precision, else the bundle's last, which its closing words name.

    Raises:
        UsageError: the reports hold no such model, or several.
    """
    wanted = budget.precision
    if reports.manifest is not None:
        models = [
            each for each in reports.manifest.models if wanted is None or each.precision == wanted
        ]
        if not models:
            there = ", ".join(each.precision for each in reports.manifest.models)
            raise UsageError(f"the budget is for {wanted}, and the bundle has {there}.")
        last = models[-1]
        return Model(last.path, last.precision, last.digest, last.size_bytes)
    said: tuple[Measurements | ModelEstimate, ...] = (*reports.measurements, *reports.estimates)
    subjects = {
        each.subject_digest: Model(each.subject, each.precision, each.subject_digest, None)
        for each in said
        if wanted is None or each.precision == wanted
    }
    if len(subjects) != 1:
        named = ", ".join(sorted(each.name for each in subjects.values())) or "none"
        raise UsageError(
            f"the budget is about one model, and the reports have {named}. Give one model's reports, its bundle, or a "
            "precision in the budget."
        )
    return next(iter(subjects.values()))


def target_of(reports: Reports, budget: Budget) -> Target | None:
    """The board whose figures count: the budget's, else the bundle's."""
    if budget.target is not None:
        return load_target(budget.target)
    if reports.manifest is not None:
        return load_target(reports.manifest.target.id)
    return None


def find_figure(metric: Metric, reports: Reports, model: Model, target: Target | None) -> Finding:
    """What the reports say of a metric; of several that count, the worst."""
    match metric:
        case "size":
            if model.size_bytes is None:
                return Finding("unmeasured", None, "the bundle says the size, and it was not given")
            return Finding("measured", float(model.size_bytes), f"size of {model.name}")
        case "agreement":
            return _agreement(reports)
        case "accuracy":
            return _accuracy(reports, model)
        case "latency-p50" | "latency-p99" | "peak-memory" | "energy":
            return _on_board(metric, reports, model, target)


def teachers(metric: Metric, reports: Reports) -> float | None:
    """The teacher's own agreement (1) and accuracy."""
    if metric == "agreement":
        return 1.0
    return _accuracy_of("teacher", reports)


def _agreement(reports: Reports) -> Finding:
    if reports.manifest is None:
        return Finding("unmeasured", None, "the bundle says the agreement, and it was not given")
    student = reports.manifest.student
    told = f"agreement with the teacher on {student.agreement_images} held-out synthetic images"
    return Finding("measured", student.agreement, told)


def _accuracy(reports: Reports, model: Model) -> Finding:
    value = _accuracy_of(model.precision, reports)
    if value is None or reports.report is None or reports.report.evaluation is None:
        return Finding(
            "unmeasured", None, "no labelled images were given: compress with --eval DATA"
        )
    data = reports.report.evaluation
    return Finding("measured", value, f"accuracy on {data.images:,} images of {data.data}")


def _accuracy_of(name: str, reports: Reports) -> float | None:
    if reports.report is None or reports.report.evaluation is None:
        return None
    results = reports.report.evaluation.results
    return next((each.accuracy for each in results if each.model == name), None)


def _on_board(metric: Metric, reports: Reports, model: Model, target: Target | None) -> Finding:
    if target is None:
        raise UsageError(
            f"{metric}: whose? Name the board in the budget (target = ...), or with --target."
        )
    about = [each for each in reports.measurements if each.subject_digest == model.digest]
    found = [_of_measurement(metric, each, target) for each in about]
    counted = [each for each in found if each.kind == "measured" and each.value is not None]
    if counted:
        worst = max(counted, key=lambda each: each.value or 0.0)
        more = f", the worst of {len(counted)}" if len(counted) > 1 else ""
        return Finding("measured", worst.value, worst.told + more)
    estimates = [each for each in found if each.kind == "estimate"]
    estimates += list(_find_estimate(metric, reports, model, target))
    if estimates:
        return max(estimates, key=lambda each: each.value or 0.0)
    reasons = dict.fromkeys(each.told for each in found)
    why = "; ".join(reasons) or f"nothing measured {model.name} on {target.board.name}"
    return Finding("unmeasured", None, why)


def _of_measurement(metric: Metric, taken: Measurements, target: Target) -> Finding:
    if not taken_there(taken, target):
        return Finding(
            "unmeasured", None, f"taken on {taken.taken_on}, which is not {target.board.name}"
        )
    batch, runtime = taken.conditions.batch, taken.conditions.runtime
    if batch != 1:
        return Finding(
            "unmeasured", None, f"taken with a batch of {batch}; a budget is for one image"
        )
    if not runtime.lower().startswith(target.software.runtime):
        return Finding(
            "unmeasured",
            None,
            f"taken by {runtime}, and {target.id} runs {target.software.runtime}",
        )
    wanted = target.software.tensorrt
    if wanted is not None and _release(runtime) != _release(wanted):
        return Finding(
            "unmeasured",
            None,
            f"taken by {runtime}, and {target.id} has {target.software.runtime} {wanted}",
        )
    value, told = figure(metric, taken)
    if value is None:
        return Finding("unmeasured", None, told)
    if taken.conditions.emulated:
        return Finding("estimate", value, f"{told}, emulated")
    if metric == "energy" and isinstance(taken.energy, Energy) and taken.energy.kind == "estimate":
        return Finding("estimate", value, f"{told}, which {taken.energy.sensor} only estimates")
    return Finding("measured", value, f"{told} by {runtime} on {taken.taken_on}")


def _release(text: str) -> str | None:
    """Major and minor version: what builds other engines, where a patch seldom does."""
    found = re.match(r"(?:tensorrt )?((?:rtx-)?\d+\.\d+)", text.lower())
    return None if found is None else found[1]


def taken_there(taken: Measurements, target: Target) -> bool:
    """Whether figures were taken on a target's board, by what the machine said of itself."""
    setup, provider = taken.conditions.setup, taken.conditions.provider
    return setup is not None and is_board(
        target.board,
        parts=setup.parts,
        model=setup.board,
        architecture=setup.architecture,
        # As the agent writes it of what ran on a GPU
        sm=provider.removeprefix("SM ") if provider.startswith("SM ") else None,
    )


def figure(metric: Metric, taken: Measurements) -> tuple[float | None, str]:
    """A cost in the unit of its metric, and what it is of; None, and why there is none."""
    readers: dict[str, Callable[[Samples], tuple[float, str]]] = {
        "latency-p50": lambda each: (
            statistics.median(each),
            f"median of {len(each.values):,} calls",
        ),
        "latency-p99": lambda each: (
            statistics.percentile(each, 99),
            f"99th percentile of {len(each.values):,} calls",
        ),
        "peak-memory": lambda each: (max(each.values), "peak resident memory, runtime and model"),
        "energy": lambda each: (
            sum(each.values) / len(each.values),
            f"gross energy per call over {len(each.values)} windows",
        ),
    }
    found = _figure(metric, taken)
    if isinstance(found, Unmeasured):
        return None, found.reason
    if (
        found.unit != KINDS[metric].unit
        or not found.values
        or not all(math.isfinite(value) and value >= 0 for value in found.values)
    ):
        return None, f"the report has no {metric} in {KINDS[metric].unit} that could be one"
    return readers[metric](found)


def _figure(metric: Metric, taken: Measurements) -> Samples | Unmeasured:
    if metric == "peak-memory":
        return taken.memory.peak_rss
    if metric == "energy":
        return taken.energy if isinstance(taken.energy, Unmeasured) else taken.energy.gross
    return taken.latency


def _find_estimate(
    metric: Metric, reports: Reports, model: Model, target: Target
) -> Iterator[Finding]:
    """By `edgekd bench estimate`, for that board; its upper end is not what is asked: its value is, marked."""
    for each in reports.estimates:
        if each.subject_digest != model.digest or load_target(each.target).board != target.board:
            continue
        found = {"latency-p50": each.latency, "energy": each.energy}.get(metric)
        if isinstance(found, Estimate):
            yield Finding("estimate", found.value, f"an estimate ({found.basis})")


def _schema(text: str, path: Path) -> Any:  # noqa: ANN401
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{path}: not JSON ({error}). Was it cut short?") from error
    return plain.get("schema") if isinstance(plain, dict) else None


def _text(path: Path) -> str:
    if path.is_file() and path.stat().st_size > _LARGEST:
        raise InputFileError(f"{path}: too large for a report.")
    return read_text(path)
