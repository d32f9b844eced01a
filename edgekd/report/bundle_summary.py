"""A bundle in words."""

from edgekd.bench.format import report as bench_text
from edgekd.distill.training import stability
from edgekd.gate.gates import select_budget
from edgekd.gate.reporters import verdict
from edgekd.records import printable, runtime_text
from edgekd.records.manifest import Manifest, Report


def description(manifest: Manifest, report: Report) -> str:
    """What a bundle says of itself, for a terminal."""
    teacher, student = manifest.teacher, manifest.student
    lines = [
        f"made with  {manifest.made_with}",
        f"target     {manifest.target.id}: {manifest.target.title}",
        f"teacher    {teacher.file}: {teacher.architecture}, {teacher.parameters:,} parameters",
        f"student    {student.architecture}: {student.parameters:,} parameters, {student.macs / 1e6:,.1f} M MACs",
        f"input      {'x'.join(map(str, manifest.input.shape))}, mean {_numbers(manifest.input.mean)}, "
        f"std {_numbers(manifest.input.std)} of 0..1 pixels, {manifest.input.colour_order}",
        f"data used  {manifest.data_used.statement}",
        f"quality    {manifest.quality}",
    ]
    lines += [
        f"           {'passed' if gate.passed else 'FAILED'}: {gate.reason}"
        for gate in manifest.quality_gates
    ]
    budget = select_budget(report.gates)
    if budget:
        passed = all(result.passed for result in budget)
        lines.append(f"budget     {'passed' if passed else 'failed'}")
        lines += [f"           {verdict(result)}" for result in budget]
    if report.bench_failed is not None:
        lines.append(f"bench      the board was not measured: {printable(report.bench_failed)}")
    lines += [f"steady     {line}" for line in stability.format_stability(report.history)]
    for model in manifest.models:
        lines.append(
            f"model      {model.path}: {model.precision}, opset {model.opset}, {model.size_bytes:,} bytes"
        )
    if report.engine is not None:
        made = report.engine
        lines.append(
            f"engine     {made.path}: {made.precision}, {runtime_text(made.tensorrt)}, "
            f"SM {', '.join(made.compute_capabilities)}, {made.size_bytes:,} bytes; not content, run by nothing here"
        )
    lines += [f"left out   {name}: {reason}" for name, reason in manifest.without.items()]
    lines += [f"warning    {warning}" for warning in manifest.warnings]
    lines.append(f"content    {manifest.content_digest}")
    if report.evaluation is not None:
        lines.append(f"evaluated  on {report.evaluation.data}, {report.evaluation.images:,} images")
        lines += [
            f"           {result.model:8} accuracy {result.accuracy:7.2%}, agreement with teacher {result.agreement_with_teacher:7.2%}"
            for result in report.evaluation.results
        ]
        lines += [
            f"           the student is right on 0 of {count:,} images of class {name}"
            for name, count in report.evaluation.never_right.items()
        ]
    lines += ["", *(bench_text(found) for found in report.measurements)]
    return "\n".join(lines)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
