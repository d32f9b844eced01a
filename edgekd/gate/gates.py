"""Verdicts: a figure against its limit."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgekd.bench.format import format_bytes, format_quantity
from edgekd.bundle.signing import PublicKey
from edgekd.errors import (
    EdgekdError,
    OverBudgetError,
    QualityError,
    UsageError,
)
from edgekd.export.parity import format_highest
from edgekd.gate import figures
from edgekd.gate.budget_file import KEYS, KINDS, NAMES
from edgekd.gate.figures import Finding, Model, Reports
from edgekd.records import (
    Budget,
    GateResult,
    Limit,
    Metric,
    OnnxModel,
    Student,
    Target,
    printable,
    record,
)
from edgekd.records.manifest import Evaluation
from edgekd.targets.board_schema import suggestion

# In the worst layer: 0.5 to 3 % for images that INT8 is well calibrated on, 9 % and more for others (docs/log.md).
MOST_OUTSIDE: Final = 0.08
_QUALITY: Final = ("agreement", "accuracy")


@record
class Judgement:
    """What `edgekd gate --json` prints."""

    # The model that was judged; None: quality alone
    subject: str | None
    target: str | None
    passed: bool
    results: tuple[GateResult, ...]


def agreement(student: Student, evaluation: Evaluation | None, *, least: float) -> GateResult:
    """The student's agreement with the teacher, on labelled images where there are some.

    Synthetic images rank runs, but say little of how good one is (docs/log.md).

    Args:
        student: with what it reached on held-out synthetic images.
        evaluation: of it on labelled images.
        least: share that is asked for.
    """
    value, images, made_of = (
        student.agreement,
        student.agreement_images,
        "held-out synthetic images",
    )
    if evaluation is not None:
        (found,) = (each for each in evaluation.results if each.model == "student")
        value, images = found.agreement_with_teacher, evaluation.images
        made_of = f"images of {evaluation.data}"
    return GateResult(
        name="agreement",
        kind="quality",
        passed=value >= least,
        value=value,
        limit=least,
        unit="share of images",
        reason=f"agreement with teacher {value:.2%} on {images:,} {made_of}",
    )


def parity(model: OnnxModel) -> GateResult:
    """A model's decisions against those of what it was made from."""
    found = model.parity
    return GateResult(
        name=f"parity {model.precision}",
        kind="quality",
        passed=found.passed,
        value=found.top1_agreement,
        limit=found.top1_tolerance,
        unit="share of images",
        reason=f"{model.path}: top-1 matches {found.against} on {found.top1_agreement:.2%} of {found.images} images"
        f"{format_highest(found)}",
    )


def coverage(model: OnnxModel) -> tuple[GateResult, ...]:
    """Whether synthetic images reach what the teacher's batch-norms saw in training; none without any.

    Of noise and of a user's own images it says nothing: INT8 was as good with 32 % beyond them, and real images
    themselves left 19 % (docs/log.md).
    """
    found = model.calibration
    if found is None or found.made_of != "synthetic images" or not found.outside:
        return ()
    outside = found.outside
    worst = max(outside, key=lambda layer: outside[layer])
    return (
        GateResult(
            name=f"calibration {model.precision}",
            kind="quality",
            passed=outside[worst] <= MOST_OUTSIDE,
            value=1 - outside[worst],
            limit=1 - MOST_OUTSIDE,
            unit="share of training's values",
            reason=f"the calibration images reach {1 - outside[worst]:.1%} of what the teacher's {worst} saw in "
            "training; INT8 may cut off what real images cause",
        ),
    )


def judge(
    reports: Reports,
    budget: Budget,
    *,
    allowed: Collection[Metric] = (),
    estimated: Callable[[Metric, Model, Target], Finding | None] = lambda *_: None,
    trusted: Sequence[PublicKey] = (),
) -> Judgement:
    """Every limit of a budget, and what the bundle says of its own quality.

    Args:
        reports: what was measured.
        budget: the limits.
        allowed: metrics that pass without a figure of the board, marked, as long as no estimate is over the limit.
        estimated: asked for an estimate of an allowed metric that has no figure.
        trusted: keys of which one must have signed a baseline that is a bundle.

    Raises:
        UsageError: the budget does not say for which board or model, where the reports leave it open.
        InputFileError: a baseline cannot be read.
    """
    results = [] if reports.manifest is None else list(reports.manifest.quality_gates)
    if not budget.limits:
        return _judgement(None, None, results)
    model = figures.model_of(reports, budget)
    target = figures.target_of(reports, budget)
    old = None
    if any(limit.of == "baseline" for limit in budget.limits.values()):
        # Budgets._check
        assert budget.baseline is not None
        old = figures.read_reports([Path(budget.baseline)], trusted=trusted)
    for metric in KINDS:
        limit = budget.limits.get(metric)
        if limit is None:
            continue
        found = figures.find_figure(metric, reports, model, target)
        if found.kind == "unmeasured" and metric in allowed and target is not None:
            guess = estimated(metric, model, target)
            if guess is not None and guess.kind == "unmeasured":
                found = replace(found, told=f"{found.told}; {guess.told}")
            else:
                found = guess or found
        least_or_most, problem = _resolve_limit(metric, limit, reports, old, budget, target)
        results.append(_verdict(metric, found, least_or_most, problem, allowed=metric in allowed))
    return _judgement(model, target, results)


def parse_allowed_metrics(options: Sequence[str]) -> frozenset[Metric]:
    """What `--allow-estimates` names: budget keys, several with commas between.

    Raises:
        UsageError: one is none, or is a figure that is never estimated.
    """
    found = set()
    for key in ",".join(options).split(","):
        if not key:
            continue
        kind = KEYS.get(key)
        if kind is None:
            raise UsageError(
                f"--allow-estimates {key}: no figure of a budget.{suggestion(key, KEYS)}"
            )
        if kind.metric in (*_QUALITY, "size"):
            raise UsageError(
                f"--allow-estimates {key}: {kind.metric} needs no board and is never estimated."
            )
        found.add(kind.metric)
    return frozenset(found)


def require_passed(
    results: Sequence[GateResult], *, bundle: str, listed: bool = False, closing: str | None = None
) -> None:
    """Raise when one failed.

    Args:
        results: the verdicts.
        bundle: that is kept; empty where nothing was made.
        listed: the verdicts were printed already, and are named only.
        closing: what became of the files and what to do, of a command with other options than `compress`.

    Raises:
        QualityError: agreement, accuracy, parity or calibration failed, whatever else did.
        OverBudgetError: only latency, memory, energy or size is over its limit, or was not measured.
    """
    failed = [result for result in results if not result.passed]
    if not failed:
        return
    lines = "\n  ".join(format_result(result) for result in failed)
    if listed:
        lines = ", ".join(result.name for result in failed)
    kind: type[EdgekdError] = OverBudgetError
    advice = "A smaller --student, or another limit, helps; what is not measured wants --device or --bench-device."
    if any(result.kind == "quality" for result in failed):
        kind = QualityError
        limit = "the budget" if select_budget(failed) else "--min-agreement"
        advice = f"More --minutes or a larger --student helps; {limit} sets the limit."
    what = "quality gate failed" if kind is QualityError else "over budget"
    kept = f"{bundle} is kept and marked 'quality: failed'. " if bundle else ""
    if bundle and kind is OverBudgetError:
        kept = f"{bundle} is kept, and its report says so. "
    if closing is not None:
        kept, advice = "", closing
    raise kind(f"{what}: {lines}. {advice}" if listed else f"{what}:\n  {lines}\n{kept}{advice}")


def select_budget(results: Sequence[GateResult]) -> tuple[GateResult, ...]:
    """Those of a report's gates that are verdicts on limits of a budget, on agreement too."""
    return tuple(result for result in results if result.metric is not None)


def format_result(result: GateResult) -> str:
    """One line: what was found, what is asked, and by how much it is missed."""
    line = printable(f"{result.name}: {result.reason}")
    if result.limit is None:
        return line
    line += f", {result.bound} {format_value(result.limit, result.unit)} is asked"
    if result.value is None:
        return line
    # So few images may pass with a share below the limit
    if result.bound == "at least" and result.value < result.limit and not result.passed:
        return f"{line}: {(result.limit - result.value) * 100:.2f} points short"
    if result.bound == "at least" or result.value <= result.limit:
        return line
    ratio = result.value / result.limit
    return f"{line}: {ratio - 1:.1%} over" if ratio < 2 else f"{line}: {ratio:.1f} times that"


def format_value(value: float, unit: str) -> str:
    """A limit or figure for people."""
    if unit == "B":
        return format_bytes(value)
    return f"{value:.2%}" if unit.startswith("share") else format_quantity(value, unit)


def _judgement(
    model: Model | None, target: Target | None, results: Sequence[GateResult]
) -> Judgement:
    return Judgement(
        subject=None if model is None else model.name,
        target=None if target is None else target.id,
        passed=all(result.passed for result in results),
        results=tuple(results),
    )


def _verdict(
    metric: Metric, found: Finding, limit: float | None, problem: str, *, allowed: bool
) -> GateResult:
    kind = KINDS[metric]
    keeps = (
        found.value is not None
        and limit is not None
        and (found.value >= limit if kind.bound == "at least" else found.value <= limit)
    )
    passed, mark, reason = keeps, found.kind, found.told
    if found.value is not None:
        reason = f"{format_value(found.value, kind.unit)}, {found.told}"
    if found.kind == "unmeasured":
        passed = allowed
        reason = f"Unmeasured ({found.told})"
    elif found.kind == "estimate" and not allowed:
        passed = False
        reason += f"; an estimate does not count, unless --allow-estimates {NAMES[metric]} says so"
    if limit is None:
        passed, reason = False, f"{reason}; {problem}"
    return GateResult(
        name=f"budget {metric}",
        kind="quality" if metric in _QUALITY else "budget",
        metric=metric,
        passed=passed,
        value=found.value,
        limit=limit,
        unit=kind.unit,
        reason=reason
        + (
            "; passed unchecked, as --allow-estimates says"
            if passed and found.kind == "unmeasured"
            else ""
        ),
        bound=kind.bound,
        mark="not checked" if mark == "unmeasured" else mark,
    )


def _resolve_limit(
    metric: Metric,
    limit: Limit,
    reports: Reports,
    old: Reports | None,
    budget: Budget,
    target: Target | None,
) -> tuple[float | None, str]:
    """The limit as a number; None, and why, where what it is relative to is not known."""
    if limit.degradation is None:
        return limit.value, ""
    if limit.of == "teacher":
        reference = figures.teachers(metric, reports)
        problem = "what it is relative to, the teacher's, is not known: compress with --eval DATA"
    else:
        assert old is not None  # judge
        finding = figures.find_figure(metric, old, figures.model_of(old, budget), target)
        reference = finding.value if finding.kind == "measured" else None
        problem = f"what it is relative to, {budget.baseline}, has no such figure: {finding.told}"
    if reference is None:
        return None, problem
    if KINDS[metric].bound == "at least":
        relative = reference - limit.degradation
        return (relative if limit.value is None else max(relative, limit.value)), ""
    relative = reference * (1 + limit.degradation)
    return (relative if limit.value is None else min(relative, limit.value)), ""
