"""The way from a teacher to a bundle: the stages in order, each handing the next what it needs."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import torch

from edgekd import __version__
from edgekd.bench.format import brief, place
from edgekd.bench.transport.fleet import Device
from edgekd.bundle import (
    firmware_files,
    golden_vectors,
    layout,
    model_card,
    sbom,
    sealing,
)
from edgekd.distill.data.labelled import LabelledImages, load_labelled, normalise
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.training.distiller import Distillation
from edgekd.errors import (
    DeviceError,
    EdgekdError,
    OverBudgetError,
    UsageError,
)
from edgekd.export.parity import agreement, logits_of
from edgekd.export.sqnr import layer_precision
from edgekd.files import new_folder
from edgekd.gate import gates as gate
from edgekd.gate.budget_file import NONE as NO_BUDGET
from edgekd.gate.figures import Reports, model_of
from edgekd.gate.reporters import verdict
from edgekd.interrupts import caught
from edgekd.options import BundleOptions
from edgekd.progress import Display, SilentDisplay
from edgekd.records import (
    Architecture,
    Budget,
    DataUsed,
    LayerPrecision,
    Measurements,
    Metric,
    Precision,
    Target,
    TeacherInfo,
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
from edgekd.search.auto_student import over_budget, slower_than
from edgekd.search.candidates import Candidate
from edgekd.search.summary import nearest
from edgekd.workflows.benchmark import RequestedModel, bench_models
from edgekd.workflows.distill import (
    ANSWERS_FILE,
    CALIBRATION_FILE,
    HELD_OUT_FILE,
    REVEALING,
    STUDENT_FILE,
    Distilled,
    pixels_of,
    run_distillation,
    run_folder,
    synthetic_set,
    tuner_of,
    write_student,
)
from edgekd.workflows.evaluate import module_logits
from edgekd.workflows.export import (
    Exported,
    Network,
    embed_parts,
    export_network,
    software_text,
)
from edgekd.workflows.export import gates as export_gates
from edgekd.workflows.export_options import (
    FP16_FILE,
    FP32_FILE,
    INT8_FILE,
    PLAIN,
    ExportPlan,
    require_possible,
)
from edgekd.workflows.gate import Estimator
from edgekd.workflows.gate import check_budget as check_budget
from edgekd.workflows.run_setup import DistillJob, prepare_run


@dataclass(frozen=True, kw_only=True)
class CompressJob:
    """What `edgekd compress` is asked to do."""

    distil: DistillJob
    target: Target
    bundle: BundleOptions = field(default_factory=BundleOptions)
    export: ExportPlan = PLAIN
    bench_device: Device | None = None  # the board, over ssh; None: this machine
    budget: Budget = NO_BUDGET
    allowed: frozenset[Metric] = frozenset()  # limits that pass without a figure of the board


@record
class Outcome:
    """What `edgekd compress --json` prints."""

    bundle: str
    manifest: Manifest
    report: Report


# --- compress -------------------------------------------------------------------------------------


def default_out(teacher: Path, target: Target) -> Path:
    return Path(f"{teacher.stem}-{target.board.name}")


def compress(options: CompressJob, display: Display) -> Outcome | None:
    """Teacher to bundle. A failed quality gate is in the outcome: see `require_quality`.

    Of several processes the first one makes it; the others return None when the student is done.

    Raises:
        EdgekdError: see each stage.
    """
    distil, target = options.distil, options.target
    require_possible(options.export, target)
    if options.bench_device is not None and not options.bundle.bench:
        raise UsageError(
            "--bench-device measures on a board, and --no-bench asks not to: leave out one of them."
        )
    check_budget(options.budget, junit=options.bundle.junit)
    if target.asked != target.id:
        display.say(
            f"target   {target.asked} is {target.id}: {target.board.title}, {software_text(target)}"
        )
    else:
        display.say(f"target   {target.board.title}, {software_text(target)}")
    if options.bundle.keep_images:
        display.warn(_revealing(distil))
    passed_over: list[Candidate] = []
    try:
        setup = prepare_run(
            distil,
            display,
            too_costly=lambda teacher: _too_costly(teacher, options, display, passed_over),
        )
    except UsageError as error:
        if not passed_over:
            raise
        raise OverBudgetError(nearest(passed_over)) from error
    data = _evaluation_data(distil.data.evaluation, setup.teacher.info)
    with caught() as interrupts, run_folder(setup) as folder:
        distilled = run_distillation(setup, folder, interrupts, display)
        if distilled is None:
            return None
        with new_folder(distil.out, force=distil.run.force) as temporary:
            outcome = _fill_bundle(options, distilled, data, temporary, display)
        folder.discard()
    _closing(outcome, display)
    return outcome


def _too_costly(
    teacher: Teacher, options: CompressJob, display: Display, passed_over: list[Candidate]
) -> Callable[[Architecture], bool]:
    """What tells whether a student is slower than its teacher, or over the budget."""
    slower = slower_than(teacher, options.target, display)
    over = over_budget(
        options.budget,
        options.target,
        teacher.info,
        display,
        device=options.bench_device,
        passed_over=passed_over,
    )
    return lambda student: slower(student) or over(student)


def require_gates(outcome: Outcome) -> None:
    """Raise when a gate of a bundle failed; the bundle stays, marked.

    Raises:
        QualityError: naming each gate.
        OverBudgetError: likewise, where quality passed.
        DeviceError: all passed, and the board that was to be measured on gave nothing.
    """
    gate.require_passed(outcome.report.gates, bundle=outcome.bundle)
    if outcome.report.bench_failed is not None:
        raise DeviceError(
            f"{outcome.report.bench_failed}\n{outcome.bundle} is whole, without figures of the board. Take them with: "
            f"edgekd bench {outcome.bundle} --device ..."
        )


def judgement(outcome: Outcome) -> gate.Judgement:
    """The verdicts on a bundle, as `edgekd gate` has them."""
    model = model_of(Reports(manifest=outcome.manifest), outcome.report.budget or NO_BUDGET)
    return gate.Judgement(
        subject=model.name,
        target=outcome.manifest.target.id,
        passed=all(result.passed for result in outcome.report.gates),
        results=outcome.report.gates,
    )


def _evaluation_data(path: Path | None, teacher: TeacherInfo) -> LabelledImages | None:
    if path is None:
        return None
    return load_labelled(path, spec=teacher.input, classes=teacher.classes)


def _fill_bundle(
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
        target=target,
        folder=folder,
        calibration=normalise(distilled.calibration, spec),
        held_out=normalise(distilled.held_out, spec),
        display=display,
        options=options.export,
        teacher=distilled.answers,
        outside=distilled.coverage.outside,
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
        gate.agreement(
            student.agreement, least=options.bundle.min_agreement, images=student.agreement_images
        ),
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
        data_used=_data_used(distilled, evaluated=data is not None),
        quality="passed" if all(result.passed for result in gates) else "failed",
        quality_gates=gates,
        warnings=(
            *student.warnings,
            *((_revealing(options.distil),) if options.bundle.keep_images else ()),
        ),
        files=tuple(_list_files(folder)),
        content_digest="0" * 64,
    )
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


def _revealing(options: DistillJob) -> str:
    """What the images of a bundle can give away."""
    if options.data.condensed is None and options.data.samples is None:
        return REVEALING
    return f"{REVEALING} Views of the images that were given may be among them."


def _data_used(distilled: Distilled, *, evaluated: bool) -> DataUsed:
    found, real = distilled.ahead, distilled.real
    kind: Literal["none", "condensed", "few real"] = "none"
    statement = "none: the images were inverted out of the teacher"
    digests = {}
    if found is not None:
        statement += f" ahead of the run, as a set of {found.count:,}"
        digests[found.file] = found.digest
    if real is not None:
        kind = "condensed" if real.kind == "condensed" else "few real"
        what = "condensed" if real.kind == "condensed" else "real"
        statement = f"{len(real.images):,} {what} images ({real.name}), and images inverted out of the teacher"
        if distilled.run.synthesizer.expansion is not None:
            statement += ", some begun as views of them"
        digests[real.name] = real.digest
    if evaluated:
        statement += "; labelled images were evaluated on, and selected nothing"
    return DataUsed(kind=kind, statement=statement, digests=digests)


_ROLES: Final[dict[str, Any]] = {
    FP32_FILE: "model",
    FP16_FILE: "model",
    INT8_FILE: "model",
    STUDENT_FILE: "student",
    "student.json": "record",
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
    paths = {model.precision: folder / model.path for model in exported.models}
    if "int8" not in paths:
        return ()
    images = normalise(distilled.held_out, distilled.teacher.input)
    return layer_precision(paths["fp32"], paths["int8"], images=images)


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
    display.say(f"eval     {data.name}, {len(data.labels):,} images (for reporting only)")
    for result in results:
        display.say(
            f"         {result.model:8} accuracy {result.accuracy:7.2%}, agreement with teacher {result.agreement_with_teacher:7.2%}"
        )
    if same is not None:
        display.say(f"         INT8 top-1 matches FP32 on {same:.2%}")
    return Evaluation(
        data=data.name,
        data_digest=data.digest,
        images=len(data.labels),
        results=results,
        int8_top1_agreement=same,
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
    return taken, None


def _apply_budget(
    report: Report, manifest: Manifest, folder: Path, options: CompressJob, display: Display
) -> Report:
    """The report with the verdicts of the budget, where there is one."""
    if not options.budget.limits:
        return report
    found = gate.judge(
        Reports(manifest=manifest, report=report, measurements=report.measurements),
        options.budget,
        allowed=options.allowed,
        estimated=Estimator([folder]),
    )
    display.say(f"gate     {'passed' if found.passed else 'FAILED'}")
    for result in found.results:
        display.say(f"         {verdict(result)}")
    return replace(report, gates=found.results, budget=options.budget)


def _closing(outcome: Outcome, display: Display) -> None:
    manifest = outcome.manifest
    student, teacher = manifest.student, manifest.teacher
    share = teacher.parameters / student.parameters
    sizes = ", ".join(
        f"{model.precision.upper()} {model.size_bytes / 1024:,.0f} KiB" for model in manifest.models
    )
    display.say(
        f"student  {student.architecture}: {student.parameters:,} parameters, {share:.1f} times fewer than the "
        f"teacher; agreement {student.agreement:.1%} on held-out synthetic images; ONNX {sizes}"
    )
    display.say(
        f"bundle   {outcome.bundle} (quality: {manifest.quality}, content {manifest.content_digest[:12]})"
    )
    display.say(
        f"next     edgekd bundle inspect {outcome.bundle}   (all results and warnings)\n"
        f"         {outcome.bundle}/{layout.PAGE}   (the same with pictures, for a browser)"
    )
    for line in _on_the_board(outcome):
        display.say(f"         {line}")


def _on_the_board(outcome: Outcome) -> tuple[str, ...]:
    """What measures the bundle there, and what makes of its last model what runs there."""
    name = shlex.quote(str(outcome.bundle))
    model = outcome.manifest.models[-1].path
    runtime = outcome.manifest.target.software.runtime
    made = "ONNX Runtime's form" if runtime == "onnxruntime" else "an engine"
    return (
        f"edgekd bench {name} --device ssh://USER@BOARD   (measures it there)",
        "python3 firstboot/agent.pyz firstboot --bundle . --state ../engine   "
        f"(on the board, in a copy of the bundle: makes {made} of {model}, and checks it)",
    )
