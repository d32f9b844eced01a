"""report.html: a bundle as one page for people, with nothing outside it.

What stands in a bundle is text that somebody else may have written, so the template escapes
everything but the charts, which hold none of it.
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekd.bench.analysis import statistics
from edgekd.bundle import layout, sealing
from edgekd.distill.training import stability
from edgekd.errors import MissingToolError, OutputError
from edgekd.export.nvidia_parser import (
    NAME,
    NvidiaParser,
    ParserDiedError,
    ParserRequest,
    find_module,
    in_words,
    sms_of,
)
from edgekd.files import write_atomically
from edgekd.gate.gates import select_budget
from edgekd.gate.reporters import verdict
from edgekd.records import HistoryPoint, LayerPrecision, runtime_text
from edgekd.records.manifest import Manifest, Report
from edgekd.report import charts
from edgekd.report.image_strips import (
    IMAGES_SHOWN,
    Timeline,
    class_rows,
    moment_rows,
)
from edgekd.report.measurement_views import (
    Chart,
    Value,
    markup,
    view_of,
)
from edgekd.sole_writer import left_by_killed
from edgekd.templating import render

LAYERS_SHOWN: Final = 10
FULL_BAR_DB: Final = 50.0
# A report may name any number of losses
CHARTS_SHOWN: Final = 12
LOSSES: Final = {
    "kd": "the student's distance from the teacher's answers; its weights follow this one",
    "one_hot": "how far the teacher is from seeing the class that was asked for",
    "bn": "how far the images' statistics are from those that the teacher learned",
    "balance": "how unevenly the classes occur in a batch",
    "tv": "how rough the images are",
    "adversarial": "lower: the images are more of what the student still gets wrong",
}


# --- what the template gets -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    name: str
    what: str
    accuracy: Value
    # Of the accuracy
    interval: str
    agreement: Value
    size: Value
    parameters: int
    macs: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    tensor: str
    made_by: str
    db: str
    # Of a full bar, per cent
    share: float


def html(
    folder: Path, manifest: Manifest, report: Report, *, timeline: Timeline | None = None
) -> str:
    """The page of a bundle.

    Args:
        folder: of the bundle; its images and FP32 model are read, where they are there.
        manifest: of it.
        report: of it.
        timeline: of the run; a bundle's files do not hold it.
    """
    classes, no_classes = class_rows(folder, manifest)
    budget = select_budget(report.gates)
    return render(
        "report.html",
        manifest=manifest,
        report=report,
        budget=budget,
        budget_passed=all(result.passed for result in budget),
        verdict=verdict,
        command=shlex.join(report.command),
        head=_head(manifest, report),
        models=tuple(_model_rows(manifest, report)),
        parser=_asked(folder, manifest),
        fp32=next((model for model in manifest.models if model.precision == "fp32"), None),
        int8=next((model for model in manifest.models if model.precision == "int8"), None),
        classes=classes,
        no_classes=no_classes,
        classes_left_out=max(0, manifest.classes - len(classes)),
        timeline=timeline,
        moments=moment_rows(manifest, timeline),
        agreement=_agreement_chart(report.history),
        losses=tuple(_loss_charts(report.history)),
        measurements=tuple(
            view_of(found, f"latency-{number}") for number, found in enumerate(report.measurements)
        ),
        layers=tuple(_worst(report.layer_precision)),
        layers_left_out=max(0, len(report.layer_precision) - LAYERS_SHOWN),
        images_shown=IMAGES_SHOWN,
        full_bar_db=FULL_BAR_DB,
    )


def write_page(folder: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Write the page of a bundle that is there, without what only its run knew; where it lies.

    Args:
        folder: the bundle.
        out: the file; the bundle's own, with its sum, when none is given.
        force: replace a file that exists. The page of the run cannot be made again.

    Raises:
        InputFileError: no bundle.
        OutputError: the file exists, or cannot be written.
    """
    text = html(folder, layout.read_manifest(folder), layout.read_report(folder))
    path = out or folder / layout.PAGE
    if (path.exists() or path.is_symlink()) and not force and not left_by_killed(path):
        raise OutputError(
            f"{path} exists; the page that a run wrote has images over time, which cannot be made "
            "again. Choose another --out, or replace it with --force."
        )
    if out is None:
        sealing.put_page(folder, text)
    else:
        write_atomically(out, text, final=True)
    return path


def _asked(folder: Path, manifest: Manifest) -> str | None:
    """What NVIDIA's parser says of the models; None where it is not installed, or the board has no TensorRT."""
    software, facts = manifest.target.software, manifest.target.facts
    models = [model for model in manifest.models if (folder / model.path).is_file()]
    if software.tensorrt is None or find_module() is None or not models:
        return None
    requests = [
        ParserRequest(model=folder / model.path, sms=sms_of(facts, model.precision))
        for model in models
    ]
    said = []
    with NvidiaParser(requests) as asked:
        try:
            for request, answer in zip(requests, asked.answers(), strict=False):
                why = f" ({answer.reasons[0].message})" if answer.reasons else ""
                told = in_words(answer, request.sms, timed=False)
                said.append(f"{request.model.name} {told}{why}")
        except (ParserDiedError, MissingToolError) as error:
            said.append(str(error))
    return (
        f"{NAME} {asked.version or ''} on the machine that made this page, beside the board's "
        f"{runtime_text(software.tensorrt)}: {'; '.join(said)}"
    )


# --- head and tables ------------------------------------------------------------------------------


def _head(manifest: Manifest, report: Report) -> tuple[tuple[str, str], ...]:
    teacher, student, spec = manifest.teacher, manifest.student, manifest.input
    software = manifest.target.software
    runs = [software.name, runtime_text(software.tensorrt)]
    return (
        ("Teacher", f"{teacher.architecture} from {teacher.file}"),
        ("Student", f"{student.architecture}, chosen: {student.chosen_because}"),
        ("Target", f"{manifest.target.title} ({manifest.target.id}): {', '.join(runs)}"),
        (
            "Input",
            f"{' x '.join(map(str, spec.shape))} (channels, height, width), {spec.colour_order}; "
            f"mean {_numbers(spec.mean)}, std {_numbers(spec.std)} of pixels in 0 to 1",
        ),
        ("Data used", manifest.data_used.statement),
        (
            "Run",
            f"recipe {student.recipe}, seed {student.seed}, {student.steps:,} steps in "
            f"{_duration(report.elapsed_s)} on {report.device} in {report.precision}, "
            f"{report.threads} threads",
        ),
        (
            "Steady over the run",
            "; ".join(stability.format_stability(report.history)) or "not looked at",
        ),
        *_engine(report),
        ("Made with", manifest.made_with),
        ("Content digest", manifest.content_digest),
    )


def _engine(report: Report) -> Iterator[tuple[str, str]]:
    made = report.engine
    if made is not None:
        sms = ", ".join(made.compute_capabilities)
        yield (
            "Engine",
            f"{made.path}: {made.precision}, {runtime_text(made.tensorrt)}, for compute capabilities {sms}; "
            "built without a GPU, run by none here",
        )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "an unknown time"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _model_rows(manifest: Manifest, report: Report) -> Iterator[ModelRow]:
    teacher, student = manifest.teacher, manifest.student
    found = (
        {result.model: result for result in report.evaluation.results} if report.evaluation else {}
    )
    images = report.evaluation.images if report.evaluation else 0
    sizes = {listed.path: listed.size_bytes for listed in manifest.files}
    named = [
        ("teacher", str(teacher.architecture), None, teacher.parameters, teacher.macs),
        ("student", str(student.architecture), sizes.get(student.checkpoint), student.parameters,
         student.macs),
        *((model.precision, model.path, model.size_bytes, student.parameters, student.macs)
          for model in manifest.models),
    ]  # fmt: skip
    missing = Value(text="not evaluated", measured=False)
    for name, what, size, parameters, macs in named:
        result = found.get(name)
        yield ModelRow(
            name=name if name in {"teacher", "student"} else name.upper(),
            what=what,
            accuracy=Value(text=f"{result.accuracy:.2%}") if result else missing,
            interval=_interval(result.accuracy, images) if result and images else "",
            agreement=Value(text=f"{result.agreement_with_teacher:.2%}") if result else missing,
            size=Value(text="not in the bundle", measured=False)
            if size is None
            else Value(text=f"{size:,} B ({size / 1024:,.1f} KiB)"),
            parameters=parameters,
            macs=f"{macs / 1e6:,.2f} M",
        )


def _interval(share: float, count: int) -> str:
    low, high = statistics.share_interval(share, count)
    return f"{low:.1%} to {high:.1%}"


# --- charts ---------------------------------------------------------------------------------------


def _agreement_chart(history: Sequence[HistoryPoint]) -> Chart | None:
    points = [(point.step, point.agreement) for point in history if point.agreement is not None]
    if not points:
        return None
    (first_step, first), (last_step, last) = points[0], points[-1]
    return Chart(
        title="Agreement with the teacher",
        svg=markup(charts.line(points, name="agreement", percent=True)),
        caption=f"From {first:.1%} at step {first_step:,} to {last:.1%} at step {last_step:,}, "
        f"on held-out synthetic images; {len(points)} points.",
    )


def _loss_charts(history: Sequence[HistoryPoint]) -> Iterator[Chart]:
    names = list(dict.fromkeys(name for point in history for name in point.losses))
    names.sort(key=lambda name: (name != "kd", list(LOSSES).index(name) if name in LOSSES else 99))
    for number, name in enumerate(names[:CHARTS_SHOWN]):
        points = [
            (point.step, point.losses[name])
            for point in history
            if abs(point.losses.get(name, math.nan)) <= charts.LARGEST
        ]
        if points:
            meaning = f"{LOSSES[name]}. " if name in LOSSES else ""
            yield Chart(
                title=name,
                svg=markup(charts.line(points, name=f"loss-{number}", height_pt=130)),
                caption=f"{meaning[:1].upper()}{meaning[1:]}From {points[0][1]:.3g} to {points[-1][1]:.3g}.",
            )


def _worst(layers: Sequence[LayerPrecision]) -> Iterator[Bar]:
    for layer in sorted(layers, key=lambda layer: layer.sqnr_db)[:LAYERS_SHOWN]:
        yield Bar(
            tensor=layer.tensor,
            made_by=layer.made_by,
            db=f"{layer.sqnr_db:.1f} dB",
            share=round(100 * min(1.0, max(0.0, layer.sqnr_db / FULL_BAR_DB)), 1),
        )
