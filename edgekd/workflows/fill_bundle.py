"""A bundle's folder filled from a distilled student: exported, evaluated, measured, judged, sealed."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch

from edgekd import __version__
from edgekd.bench.format import brief, place, slower_int8
from edgekd.bench.transport.fleet import Device
from edgekd.bundle import (
    firmware_files,
    golden_vectors,
    layout,
    model_card,
    sbom,
    sealing,
)
from edgekd.distill.data.labelled import LabelledImages, normalise
from edgekd.distill.training.distiller import Distillation
from edgekd.errors import EdgekdError
from edgekd.export.parity import agreement, logits_of
from edgekd.export.sqnr import layer_precision
from edgekd.gate import gates as verdicts
from edgekd.gate.budget_file import NONE as NO_BUDGET
from edgekd.gate.figures import Reports
from edgekd.gate.reporters import verdict
from edgekd.options import BundleOptions
from edgekd.progress import Display, SilentDisplay
from edgekd.records import (
    Budget,
    LayerPrecision,
    Measurements,
    Metric,
    Precision,
    Target,
    record,
)
from edgekd.records.manifest import (
    Accuracy,
    Evaluation,
    FileEntry,
    GoldenVectors,
    Manifest,
    Report,
    TargetInfo,
)
from edgekd.report import bundle_page, image_strips
from edgekd.workflows.data_used import describe_data, warn_of_images
from edgekd.workflows.distill import (
    ANSWERS_FILE,
    CALIBRATION_FILE,
    CUT_FILE,
    HELD_OUT_FILE,
    PROGRAM_FILE,
    STUDENT_FILE,
    Distilled,
    pixels_of,
    synthetic_set,
    write_student,
)
from edgekd.workflows.evaluate import module_logits, never_right
from edgekd.workflows.export_options import (
    FP16_FILE,
    FP32_FILE,
    INT8_FILE,
    PLAIN,
    ExportPlan,
)
from edgekd.workflows.finetune import tuner_of
from edgekd.workflows.gate import Estimator
from edgekd.workflows.measure.benchmark import RequestedModel, bench_models
from edgekd.workflows.model_files import (
    Exported,
    ExportImages,
    Network,
    embed_parts,
    export_network,
)
from edgekd.workflows.model_files import gates as export_gates
from edgekd.workflows.portable_engine import build_portable
from edgekd.workflows.run_setup import DistillJob


@dataclass(frozen=True, kw_only=True)
class CompressJob:
    """What `edgekd compress` is asked to do."""

    distil: DistillJob
    target: Target
    bundle: BundleOptions = field(default_factory=BundleOptions)
    export: ExportPlan = PLAIN
    # The board, over ssh; None: this machine
    bench_device: Device | None = None
    budget: Budget = NO_BUDGET
    # Limits that pass without a figure of the board
    allowed: frozenset[Metric] = frozenset()


@record
class Outcome:
    """What `edgekd compress --json` prints."""

    bundle: str
    manifest: Manifest
    report: Report


def fill_bundle(
    options: CompressJob,
    distilled: Distilled,
    data: LabelledImages | None,
    folder: Path,
    display: Display,
) -> Outcome:
    """Fill the bundle's folder."""
    target = options.target
    student = write_student(distilled, folder)
    display.say("export   ONNX for " + target.id)
    spec = distilled.teacher.input
    exported = export_network(
        Network(module=distilled.module, spec=spec, digest=student.digest),
        ExportImages(
            calibration=normalise(distilled.calibration, spec),
            held_out=normalise(distilled.held_out, spec),
            teacher=distilled.answers,
            outside=distilled.coverage.outside,
        ),
        target=target,
        folder=folder,
        display=display,
        options=options.export,
        tune=tuner_of(distilled, options.export.tune, display) if options.export.tune else None,
    )
    # Both look at the plain files: at normalised images, logits and inner tensors.
    evaluation = _evaluate(data, distilled, exported, folder, display)
    precision = _layer_precision(distilled, exported, folder)
    exported = embed_parts(
        exported,
        folder,
        spec=spec,
        target=target,
        options=options.export,
        held_out=distilled.held_out,
    )
    vectors = _golden(folder, exported, distilled, options)
    calibration = synthetic_set(distilled, folder) if options.bundle.keep_images else None
    gates = (
        verdicts.agreement(student, evaluation, least=options.bundle.min_agreement),
        *export_gates(exported),
    )
    measured, bench_failed = _benchmark(exported, vectors, folder, options, display)
    firmware_files.write_firmware_files(folder)
    manifest = Manifest(
        made_with=f"edgekd {__version__}",
        target=_target_info(target),
        input=spec,
        classes=distilled.teacher.classes,
        class_names=distilled.teacher.class_names,
        teacher=distilled.teacher,
        student=replace(student, history=()),
        models=exported.models,
        without=exported.without,
        calibration=calibration,
        golden=vectors,
        data_used=describe_data(distilled, evaluated=data is not None),
        quality="passed" if all(result.passed for result in gates) else "failed",
        quality_gates=gates,
        warnings=(
            *student.warnings,
            *((warn_of_images(options.distil),) if options.bundle.keep_images else ()),
        ),
        files=tuple(_list_files(folder)),
        content_digest="0" * 64,
    )
    # Its bytes need not be twice the same: it lies in the bundle and in its sums, and is none of its content.
    engine = build_portable(exported.models, folder, target=target, display=display)
    report = Report(
        made_with=f"edgekd {__version__}",
        command=options.distil.command,
        device=str(distilled.run.compute.device),
        precision=distilled.run.compute.precision,
        threads=torch.get_num_threads(),
        elapsed_s=round(distilled.run.elapsed_s, 1),
        history=student.history,
        evaluation=evaluation,
        measurements=measured,
        gates=gates,
        layer_precision=precision,
        bench_failed=bench_failed,
        engine=engine,
    )
    report = _apply_budget(report, manifest, folder, options, display)
    timeline = _timeline(distilled.run) if options.bundle.keep_images else None
    sealed = sealing.seal(
        folder,
        manifest,
        report,
        pages={
            layout.PAGE: lambda sealed: bundle_page.html(folder, sealed, report, timeline=timeline),
            layout.CARD: lambda sealed: model_card.model_card(sealed, report),
            layout.LICENCES: model_card.licences,
            layout.BILL: lambda sealed: sbom.bill(sealed, report, sbom.versions()),
            **firmware_files.pages(folder),
        },
    )
    return Outcome(bundle=str(options.distil.out), manifest=sealed, report=report)


_ROLES: Final[dict[str, Any]] = {
    FP32_FILE: "model",
    FP16_FILE: "model",
    INT8_FILE: "model",
    STUDENT_FILE: "student",
    "student.json": "record",
    CUT_FILE: "record",
    PROGRAM_FILE: "student",
    CALIBRATION_FILE: "calibration images",
    HELD_OUT_FILE: "calibration images",
    ANSWERS_FILE: "calibration images",
    golden_vectors.INPUTS_FILE: "golden inputs",
    **{
        golden_vectors.outputs_file(precision): "golden outputs"
        for precision in get_args(Precision)
    },
    **{
        golden_vectors.vectors_file(precision): "golden outputs"
        for precision in get_args(Precision)
    },
    firmware_files.AGENT: "integration",
    firmware_files.UNIT: "integration",
}


def _list_files(folder: Path) -> Iterator[FileEntry]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(names):
        yield layout.entry(folder, name, _ROLES[name])


def _target_info(target: Target) -> TargetInfo:
    return TargetInfo(
        id=target.id,
        title=target.board.title,
        asked=target.asked,
        software=target.software,
        facts=target.board.facts,
    )


def _golden(
    folder: Path, exported: Exported, distilled: Distilled, options: CompressJob
) -> GoldenVectors:
    spec = distilled.teacher.input
    if options.bundle.keep_images:
        logits = module_logits(distilled.module, normalise(distilled.held_out, spec))
        pixels = golden_vectors.clearest(distilled.held_out, logits)
    else:
        pixels = golden_vectors.noise(spec, seed=distilled.run.seed)
    return golden_vectors.write_golden(
        folder,
        exported.models,
        pixels,
        spec=spec,
        software=options.target.software,
        parts=options.export.embed,
        made_of="synthetic images" if options.bundle.keep_images else "noise",
    )


def _layer_precision(
    distilled: Distilled, exported: Exported, folder: Path
) -> tuple[LayerPrecision, ...]:
    models = {model.precision: model for model in exported.models}
    if "int8" not in models:
        return ()
    calibration = models["int8"].calibration
    return layer_precision(
        folder / models["fp32"].path,
        folder / models["int8"].path,
        images=normalise(distilled.held_out, distilled.teacher.input),
        equalised=calibration is not None and calibration.equalised,
    )


def _timeline(run: Distillation) -> image_strips.Timeline:
    return image_strips.Timeline(
        moments=tuple(
            image_strips.StripMoment(
                progress=taken.progress,
                step=taken.step,
                classes=taken.classes,
                images=pixels_of(taken.images),
            )
            for taken in run.snapshots.taken
        ),
        late=run.snapshots.late,
    )


def _evaluate(
    data: LabelledImages | None,
    distilled: Distilled,
    exported: Exported,
    folder: Path,
    display: Display,
) -> Evaluation | None:
    if data is None:
        return None
    inputs = data.normalise(distilled.teacher.input)
    teacher = module_logits(distilled.run.teacher.module, inputs)
    answers = {"teacher": teacher, "student": module_logits(distilled.module, inputs)}
    answers |= {
        model.precision: logits_of(folder / model.path, inputs) for model in exported.models
    }
    results = tuple(
        Accuracy(
            model=name,
            accuracy=float(np.mean(logits.argmax(1) == data.labels)),
            agreement_with_teacher=agreement(logits, teacher),
        )
        for name, logits in answers.items()
    )
    same = agreement(answers["int8"], answers["fp32"]) if "int8" in answers else None
    display.say(
        f"eval     {data.name}, {len(data.labels):,} images (they are reported and gated on, and select nothing)"
    )
    for result in results:
        display.say(
            f"         {result.model:8} accuracy {result.accuracy:7.2%}, agreement with teacher {result.agreement_with_teacher:7.2%}"
        )
    lost = never_right(answers["student"], teacher, data.labels, distilled.teacher.class_names)
    for name, count in lost.items():
        display.warn(f"the student is right on 0 of {count:,} images of class {name}")
    if same is not None:
        display.say(f"         INT8 top-1 matches FP32 on {same:.2%}")
    return Evaluation(
        data=data.name,
        data_digest=data.digest,
        images=len(data.labels),
        results=results,
        int8_top1_agreement=same,
        never_right=lost,
    )


def _benchmark(
    exported: Exported,
    vectors: GoldenVectors,
    folder: Path,
    options: CompressJob,
    display: Display,
) -> tuple[tuple[Measurements, ...], str | None]:
    """Figures of this machine or of the board; and why not, where the board gave none: hours of work are not lost for it."""
    device = options.bench_device
    if not options.bundle.bench:
        return (), None
    if device is None:
        display.say("bench    ONNX Runtime on this machine, one thread, in processes of its own")
    else:
        display.say(f"bench    {device.name}")
    golden_files = {name: folder / file for name, file in vectors.vectors.items()}
    try:
        taken = bench_models(
            [
                RequestedModel(folder / model.path, model.precision, model, golden_files)
                for model in exported.models
            ],
            display=SilentDisplay() if device is None else display,
            target=options.target,
            devices=() if device is None else (device,),
        ).measurements
    except EdgekdError as error:
        if device is None:
            raise
        display.warn(f"the board was not measured: {error}")
        return (), str(error)
    for found in taken:
        display.say(f"         {brief(found)}")
    display.say(f"         {place(taken[0])}")
    for line in slower_int8(taken):
        display.warn(line)
    return taken, None


def _apply_budget(
    report: Report, manifest: Manifest, folder: Path, options: CompressJob, display: Display
) -> Report:
    """The report with the verdicts of the budget, where there is one."""
    if not options.budget.limits:
        return report
    found = verdicts.judge(
        Reports(manifest=manifest, report=report, measurements=report.measurements),
        options.budget,
        allowed=options.allowed,
        estimated=Estimator([folder]),
    )
    display.say(f"gate     {'passed' if found.passed else 'FAILED'}")
    for result in found.results:
        display.say(f"         {verdict(result)}")
    return replace(report, gates=found.results, budget=options.budget)
