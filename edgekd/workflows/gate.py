"""Budgets as commands use them: read, judged, written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgekd.bundle.signing import public_key
from edgekd.errors import (
    IncompatibleError,
    InputFileError,
    OutputError,
    UsageError,
)
from edgekd.files import check_writable_file, digest_of, write_atomically
from edgekd.gate import (
    budget_file,
    figures,
    gates,
    reporters,
)
from edgekd.gate.figures import Finding, Model
from edgekd.gate.gates import Judgement
from edgekd.records import (
    Budget,
    Limit,
    Metric,
    Target,
)
from edgekd.targets.catalogue import load_target

SCHEMA: Final = "judgement"


def read_budget(*, file: Path | None, limits: tuple[str, ...], target: str | None) -> Budget:
    """The budget of a file, a target's file and options; `target` is whose figures count.

    Raises:
        As `budgets.budget_of` and `load_target`.
    """
    name = target or budget_file.budget_of(file=file, limits=limits, checked=False).target
    board = None if name is None else load_target(name)
    found = budget_file.budget_of(file=file, target=board, limits=limits)
    if board is not None:
        _check_precision(found, board)
    if target is None:
        return found
    origins = {**found.origins, "target": "--target"}
    return Budget(**{**vars(found), "target": target, "origins": origins})


def judge_reports(
    paths: Sequence[Path],
    *,
    file: Path | None,
    limits: tuple[str, ...],
    target: str | None,
    allowed: tuple[str, ...],
    keys: Sequence[Path] = (),
    junit: Path | None = None,
) -> Judgement:
    """Reports held against a budget.

    Raises:
        As `read_budget`, `figures.read_reports` and `gate.judge`.
        UsageError: there is neither a budget nor a bundle, so nothing to judge.
    """
    budget = read_budget(file=file, limits=limits, target=target)
    trusted = [public_key(path) for path in keys]
    _check_writable(junit)
    reports = figures.read_reports(paths, trusted=trusted)
    if trusted and reports.manifest is None:
        raise UsageError("--key: there is no bundle that could be signed. Give it too.")
    if not budget.limits and reports.manifest is None:
        raise UsageError(
            f"no limits: give --budget FILE or --limit KEY=VALUE, or write a {budget_file.PROJECT} here."
        )
    metrics = gates.parse_allowed_metrics(allowed)
    found = gates.judge(
        reports, budget, allowed=metrics, estimated=Estimator(paths), trusted=trusted
    )
    if not found.results:
        raise UsageError("nothing was judged: no limits, and no gates in the bundle.")
    return found


def write_judgement(found: Judgement, *, junit: Path | None, summary: Path | None) -> None:
    """Write what pipelines read. A summary is added to, as GitHub's is.

    Raises:
        OutputError: a file cannot be written.
    """
    try:
        if junit is not None:
            write_atomically(junit, reporters.junit(found))
        if summary is not None:
            with summary.open("a", encoding="utf-8") as stream:
                stream.write(reporters.markdown(found))
    except OSError as error:
        raise OutputError(f"{error.filename}: {error.strerror}.") from error


def format_budget(found: Budget) -> str:
    """A line a value: what, and where it was said."""
    rows = [
        (name, value, found.origins[name])
        for name in ("target", "precision", "baseline")
        if (value := getattr(found, name)) is not None
    ]
    rows += [
        (
            budget_file.NAMES[metric] if limit.value is not None else metric,
            _limit(metric, limit),
            limit.origin,
        )
        for metric, limit in found.limits.items()
    ]
    if not rows:
        return "no budget: nothing is limited\n"
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "".join(
        f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}\n" for name, value, origin in rows
    )


def _limit(metric: Metric, limit: Limit) -> str:
    kind = budget_file.KINDS[metric]
    parts = []
    if limit.value is not None:
        parts.append(f"{kind.bound} {budget_file.to_budget_unit(metric, limit.value):g}")
    if limit.degradation is not None:
        unit = "points below" if kind.bound == "at least" else "% above"
        parts.append(f"at most {limit.degradation * 100:g} {unit} the {limit.of}")
    return ", ".join(parts)


def _check_precision(budget: Budget, target: Target) -> None:
    """Raise where the budget is for a file that an export for the target does not write."""
    written = ["fp32"]
    written += ["fp16"] if target.software.typing == "strong" else []
    written += ["int8"] if target.software.int8 else []
    if budget.precision is not None and budget.precision not in written:
        raise UsageError(
            f"the budget contradicts itself: precision {budget.precision} ({budget.origins['precision']}), and for {target.id} there "
            f"are files in {', '.join(written)}. (TensorRT runs a file in FP32 in FP16 where types are not in the graph.)"
        )


def check_budget(budget: Budget, *, junit: Path | None) -> None:
    """What can be known of a budget before hours are spent: its baseline is there, and verdicts can be written.

    Raises:
        InputFileError: the baseline cannot be read.
        OutputError: the file cannot be written.
    """
    if any(limit.of == "baseline" for limit in budget.limits.values()):
        # Budgets._check
        assert budget.baseline is not None
        figures.read_reports([Path(budget.baseline)])
    _check_writable(junit)


def _check_writable(junit: Path | None) -> None:
    if junit is not None:
        check_writable_file(junit, force=True)


class Estimator:
    """Estimates of a bundle's own models, where published rows support one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """`paths` are what was given; only in folders are there files to look at."""
        self._folders = [path if path.is_dir() else path.parent for path in paths]

    def __call__(self, metric: Metric, model: Model, target: Target) -> Finding | None:
        """An estimate, or why there is none; None where the metric is never estimated."""
        if metric not in {"latency-p50", "energy"}:
            return None
        files = [folder / model.name for folder in self._folders]
        file = next(
            (each for each in files if each.is_file() and digest_of(each) == model.digest), None
        )
        if file is None:
            return Finding(
                "unmeasured",
                None,
                f"no file of {model.name} is at hand to estimate; a bundle's folder has it",
            )
        # onnx and numpy: half a second that most gates need not wait
        from edgekd.workflows.measure.estimate_latency import estimate, precision_run

        precision = precision_run(model.precision, target)
        try:
            found = estimate(file, target=target, precision=precision)
        except (IncompatibleError, InputFileError, UsageError) as error:
            return Finding("unmeasured", None, f"no estimate: {error}")
        figure = found.latency if metric == "latency-p50" else found.energy
        if figure.kind == "unmeasured":
            return Finding("unmeasured", None, f"no estimate: {figure.reason}")
        return Finding(
            "estimate", figure.value, f"an estimate in {precision.upper()} ({figure.basis})"
        )
