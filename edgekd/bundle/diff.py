"""What changed from one bundle to another: each as a table of facts, compared by what they are of."""

from collections.abc import Iterator

from edgekd.bench.analysis.statistics import median
from edgekd.bench.format import format_bytes
from edgekd.bundle import sbom
from edgekd.bundle.layout import BILL
from edgekd.bundle.verification import VerifiedBundle
from edgekd.records import (
    Digest,
    Figure,
    Measurements,
    Samples,
    record,
)


@record
class Change:
    """None: it is not there."""

    section: str
    what: str
    before: str | None
    after: str | None


@record
class BundleDiff:
    """Differences of two bundles that are whole. Figures are of samples: whether they differ beyond chance is not said."""

    # Content digests
    before: Digest
    after: Digest
    changes: tuple[Change, ...]


def difference(before: VerifiedBundle, after: VerifiedBundle) -> BundleDiff:
    """What changed, in the order of the sections.

    Raises:
        InputFileError: a report cannot be read.
    """
    old, new = dict(_facts(before)), dict(_facts(after))
    return BundleDiff(
        before=before.manifest.content_digest,
        after=after.manifest.content_digest,
        changes=tuple(
            Change(section=section, what=what, before=old.get(fact), after=new.get(fact))
            for fact in dict.fromkeys([*old, *new])
            for section, what in [fact]
            if old.get(fact) != new.get(fact)
        ),
    )


def format_diff(found: BundleDiff) -> str:
    """For a terminal."""
    lines = [f"content {found.before[:12]} -> {found.after[:12]}"]
    if found.before == found.after:
        lines = [f"content {found.before[:12]}, the same in both"]
    section = None
    for change in found.changes:
        if change.section != section:
            section = change.section
            lines.append(f"\n{section}")
        if change.before is None:
            lines.append(f"  {change.what}: new: {change.after}")
        elif change.after is None:
            lines.append(f"  {change.what}: gone, was {change.before}")
        else:
            lines.append(f"  {change.what}: {change.before} -> {change.after}")
    return "\n".join(lines)


def _facts(whole: VerifiedBundle) -> Iterator[tuple[tuple[str, str], str]]:
    manifest, report = whole.manifest, whole.report
    teacher, student = manifest.teacher, manifest.student
    plain: dict[str, dict[str, object]] = {
        "target": {
            "board": manifest.target.id,
            "software": manifest.target.software.tensorrt or manifest.target.software.name,
        },
        "teacher": {
            "file": teacher.file,
            "file, sha256": teacher.file_digest[:16],
            "weights, sha256": teacher.state_digest[:16],
            "architecture": teacher.architecture,
        },
        "data": {
            "used": manifest.data_used.statement,
            **{f"{name}, sha256": sha[:16] for name, sha in manifest.data_used.digests.items()},
        },
        "input": {
            "shape": "x".join(map(str, manifest.input.shape)),
            "mean": _numbers(manifest.input.mean),
            "std": _numbers(manifest.input.std),
            "colours": manifest.input.colour_order,
            "classes": manifest.classes,
        },
        "student": {
            "architecture": student.architecture,
            "weights, sha256": student.digest[:16],
            "parameters": f"{student.parameters:,}",
            "MACs": f"{student.macs:,}",
            "recipe": student.recipe,
            "steps": f"{student.steps:,}",
            "seed": student.seed,
        },
        "models": {},
        "quality": {
            "verdict": manifest.quality,
            **{
                f"gate {gate.name}": f"{'passed' if gate.passed else 'FAILED'}, {gate.value} "
                f"({gate.unit}; limit {gate.limit:g})"
                for gate in manifest.quality_gates
            },
        },
        "accuracy": {},
        "measured": {},
        "software": {
            **sbom.tools_in(whole.texts.get(BILL, b"")),
            "made with": manifest.made_with,
        },
        "files": {listed.path: listed.sha256[:16] for listed in manifest.files},
    }
    for model in manifest.models:
        plain["models"] |= {
            f"{model.path}, sha256": model.digest[:16],
            f"{model.path}, precision": model.precision,
            f"{model.path}, opset": model.opset,
            f"{model.path}, size": format_bytes(model.size_bytes),
            f"{model.path}, embedded": ", ".join(model.embedded) or "nothing",
        }
    if report.evaluation is not None:
        plain["accuracy"]["data"] = (
            f"{report.evaluation.data} ({report.evaluation.data_digest[:16]})"
        )
        for result in report.evaluation.results:
            plain["accuracy"] |= {
                result.model: f"{result.accuracy:.2%}",
                f"{result.model}, agreement with teacher": f"{result.agreement_with_teacher:.2%}",
            }
    for measured in report.measurements:
        plain["measured"] |= _summarize_measurements(measured)
    for section, facts in plain.items():
        for what, value in facts.items():
            yield (section, what), str(value)


def _summarize_measurements(found: Measurements) -> dict[str, object]:
    where = f"{found.subject}, {found.taken_on}"
    facts: dict[str, object] = {
        f"{where}: median latency": _figure(found.latency, 1e6, "us"),
        f"{where}: memory": _figure(found.memory.model_pss, 2**-20, "MiB"),
        f"{where}: runtime": found.conditions.runtime,
    }
    if found.engine is not None:
        facts[f"{where}: engine, sha256"] = found.engine.digest[:16]
    return facts


def _figure(figure: Figure, factor: float, unit: str) -> str:
    if not isinstance(figure, Samples) or not figure.values:
        return "not measured"
    return f"{median(figure) * factor:,.3g} {unit}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
