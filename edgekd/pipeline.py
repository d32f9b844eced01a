"""The way from a teacher to a bundle: the stages in order, each handing the next what it needs."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from edgekd import __version__, bundle, gate, page, pictures
from edgekd.bench import local
from edgekd.bench.report import brief, place
from edgekd.distill import architectures, imagesets, recipes
from edgekd.distill.checkpoint import RunFolder
from edgekd.distill.data import LabelledImages, load_labelled, normalised
from edgekd.distill.engine import Distillation, Place
from edgekd.distill.place import choose_place
from edgekd.distill.preflight import (
    MEASURED_PIXELS,
    Forecast,
    available_bytes,
    forecast,
    spoken,
)
from edgekd.distill.recipes import RECIPES, Recipe
from edgekd.distill.said import TeacherOptions
from edgekd.distill.schedule import RunBudget
from edgekd.distill.statistics import watch_batch_norm
from edgekd.distill.teacher import Teacher, load_teacher
from edgekd.distill.weights import read_weights
from edgekd.errors import InputFileError, UsageError
from edgekd.evaluation import module_logits
from edgekd.export import models as exporting
from edgekd.export.parity import TOLERANCES, agreement, logits_of
from edgekd.export.precision import layer_precision
from edgekd.files import check_writable, digest_of, new_folder, read_text
from edgekd.interrupts import Interrupts, caught
from edgekd.manifest import (
    Accuracy,
    Evaluation,
    FileEntry,
    GoldenVectors,
    Manifest,
    Report,
    TargetInfo,
)
from edgekd.progress import Display, duration
from edgekd.records import (
    Coverage,
    DataUsed,
    InputSpec,
    LayerPrecision,
    Measurements,
    OnnxModel,
    Student,
    SyntheticSet,
    Target,
    TeacherInfo,
    from_json,
    record,
    to_json,
)
from edgekd.targets.catalogue import load_target

CALIBRATION_IMAGES: Final = 512
HELD_OUT_IMAGES: Final = 256
GOLDEN_IMAGES: Final = 16
# Seconds between checkpoints: twenty times what the last one took, within these.
CHECKPOINT_LEAST_S: Final = 5.0
CHECKPOINT_MOST_S: Final = 60.0
STUDENT_FILE: Final = "student.safetensors"
CALIBRATION_FILE: Final = "calibration.npy"
HELD_OUT_FILE: Final = "held-out.npy"
FP32_FILE: Final = "model-fp32.onnx"
INT8_FILE: Final = "model-int8.onnx"
REVEALING: Final = (
    "the bundle holds images that were inverted out of the teacher; they can reveal what it was "
    "trained on. --no-images leaves them out."
)

Pixels = npt.NDArray[np.uint8]  # (N, H, W, C)


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """What `edgekd distill` and the first half of `edgekd compress` are told."""

    teacher: Path
    said: TeacherOptions
    student: str
    recipe: str
    budget: RunBudget
    seed: int
    device: str
    threads: int | None
    out: Path
    force: bool
    restart: bool
    command: tuple[str, ...]
    images: Path | None = None  # a set that was made ahead


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    distil: DistilOptions
    target: Target
    evaluation: Path | None
    min_agreement: float
    keep_images: bool
    bench: bool


@record
class Outcome:
    """What `edgekd compress --json` prints."""

    bundle: str
    manifest: Manifest
    report: Report


@record
class Exported:
    """What `edgekd export --json` prints, and `models.json`."""

    models: tuple[OnnxModel, ...]
    without: dict[str, str]


@record
class Measured:
    """What `edgekd bench --json` prints."""

    measurements: tuple[Measurements, ...]


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A delivered student with the images that later stages calibrate and check on. Not a record."""

    module: nn.Module  # evaluation mode, CPU
    choice: architectures.Choice
    size: architectures.Size
    agreement: float
    run: Distillation
    calibration: Pixels
    held_out: Pixels
    ahead: SyntheticSet | None  # what was learned from, where it was made before

    @property
    def teacher(self) -> TeacherInfo:
        return self.run.teacher.info


# --- compress -------------------------------------------------------------------------------------


def default_out(teacher: Path, target: Target) -> Path:
    return Path(f"{teacher.stem}-{target.board.name}")


def compress(options: CompressOptions, display: Display) -> Outcome:
    """Teacher to bundle. A failed quality gate is in the outcome: see `require_quality`.

    Raises:
        EdgekdError: see each stage.
    """
    distil, target = options.distil, options.target
    check_writable(distil.out, force=distil.force)
    if target.asked != target.id:
        display.say(
            f"target   {target.asked} is {target.id}: {target.board.title}, {_software(target)}"
        )
    else:
        display.say(f"target   {target.board.title}, {_software(target)}")
    if options.keep_images:
        display.warn(REVEALING)
    place = choose_place(distil.device, threads=distil.threads)
    teacher = _teacher(distil, display)
    data = _evaluation_data(options.evaluation, teacher.info)
    found = _image_set(distil, teacher.info)
    with caught() as interrupts, _run_folder(distil, teacher, place, found) as folder:
        distilled = _distilled(distil, teacher, place, folder, found, interrupts, display)
        with new_folder(distil.out, force=distil.force) as temporary:
            outcome = _bundled(options, distilled, data, temporary, display)
        folder.discard()
    _closing(outcome, display)
    return outcome


def require_quality(outcome: Outcome) -> None:
    """Raise when a gate of a bundle failed; the bundle stays, marked.

    Raises:
        QualityError: naming each gate.
    """
    gate.require(outcome.manifest.quality_gates, bundle=outcome.bundle)


def _software(target: Target) -> str:
    parts = [target.software.name]
    if target.software.tensorrt:
        parts.append(f"TensorRT {target.software.tensorrt}")
    return f"{', '.join(parts)}, opset {target.software.opset}"


def _evaluation_data(path: Path | None, teacher: TeacherInfo) -> LabelledImages | None:
    if path is None:
        return None
    return load_labelled(path, spec=teacher.input, classes=teacher.classes)


def _bundled(
    options: CompressOptions,
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
    exported = _export(
        distilled.module,
        student,
        target=target,
        folder=folder,
        calibration=normalised(distilled.calibration, spec),
        held_out=normalised(distilled.held_out, spec),
        display=display,
    )
    golden = _golden(folder, exported, distilled, images=options.keep_images)
    calibration = _synthetic_set(distilled, folder) if options.keep_images else None
    gates = (
        gate.agreement(
            student.agreement, least=options.min_agreement, images=student.agreement_images
        ),
        *(gate.parity(model) for model in exported.models),
    )
    evaluation = _evaluated(data, distilled, exported, folder, display)
    measured = _benched(exported, folder, display) if options.bench else ()
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
        golden=golden,
        data_used=_data_used(distilled, evaluated=data is not None),
        quality="passed" if all(result.passed for result in gates) else "failed",
        quality_gates=gates,
        warnings=(*student.warnings, *((REVEALING,) if options.keep_images else ())),
        files=tuple(_listed(folder)),
        content_digest="0" * 64,
    )
    report = Report(
        made_with=f"edgekd {__version__}",
        command=options.distil.command,
        device=str(distilled.run.place.device),
        precision=distilled.run.place.precision,
        threads=torch.get_num_threads(),
        elapsed_s=round(distilled.run.elapsed_s, 1),
        history=student.history,
        evaluation=evaluation,
        measurements=measured,
        gates=gates,
        layer_precision=_layer_precision(distilled, exported, folder),
    )
    timeline = _timeline(distilled.run) if options.keep_images else None
    sealed = bundle.seal(
        folder,
        manifest,
        report,
        page=lambda sealed: page.html(folder, sealed, report, timeline=timeline),
    )
    return Outcome(bundle=str(options.distil.out), manifest=sealed, report=report)


def _data_used(distilled: Distilled, *, evaluated: bool) -> DataUsed:
    found = distilled.ahead
    statement = "none: the images were inverted out of the teacher"
    if found is not None:
        statement += f" ahead of the run, as a set of {found.count:,}"
    if evaluated:
        statement += "; labelled images were evaluated on, and selected nothing"
    digests = {found.file: found.digest} if found is not None else {}
    return DataUsed(kind="none", statement=statement, digests=digests)


_ROLES: Final[dict[str, Any]] = {
    FP32_FILE: "model",
    INT8_FILE: "model",
    STUDENT_FILE: "student",
    "student.json": "record",
    CALIBRATION_FILE: "calibration images",
    HELD_OUT_FILE: "calibration images",
    "golden-inputs.npy": "golden inputs",
    "golden-fp32.npy": "golden outputs",
    "golden-int8.npy": "golden outputs",
}


def _listed(folder: Path) -> Iterator[FileEntry]:
    for path in sorted(folder.iterdir()):
        yield bundle.entry(folder, path.name, _ROLES[path.name])


def _target_info(target: Target) -> TargetInfo:
    return TargetInfo(
        id=target.id,
        title=target.board.title,
        asked=target.asked,
        software=target.software,
        facts=target.board.facts,
    )


def _golden(
    folder: Path, exported: Exported, distilled: Distilled, *, images: bool
) -> GoldenVectors:
    spec = distilled.teacher.input
    if images:
        pixels = distilled.held_out[:GOLDEN_IMAGES]
    else:
        draw = np.random.default_rng(distilled.run.seed)
        pixels = draw.integers(
            0, 256, (GOLDEN_IMAGES, spec.height, spec.width, spec.channels), np.uint8
        )
    inputs = normalised(pixels, spec)
    np.save(folder / "golden-inputs.npy", inputs)
    outputs = {}
    tolerance = 0.0
    for model in exported.models:
        logits = logits_of(folder / model.path, inputs)
        name = f"golden-{model.precision}.npy"
        np.save(folder / name, logits)
        outputs[model.precision] = name
        relative = TOLERANCES["fp32"].relative
        if model.precision == "fp32" and relative is not None:
            tolerance = float(relative * np.abs(logits).max())
    return GoldenVectors(
        inputs="golden-inputs.npy",
        outputs=outputs,  # type: ignore[arg-type]
        count=len(inputs),
        made_of="synthetic images" if images else "noise",
        tolerance=tolerance,
    )


def _layer_precision(
    distilled: Distilled, exported: Exported, folder: Path
) -> tuple[LayerPrecision, ...]:
    paths = {model.precision: folder / model.path for model in exported.models}
    if "int8" not in paths:
        return ()
    images = normalised(distilled.held_out, distilled.teacher.input)
    return layer_precision(paths["fp32"], paths["int8"], images=images)


def _timeline(run: Distillation) -> pictures.Timeline:
    return pictures.Timeline(
        moments=tuple(
            pictures.Moment(
                progress=taken.progress,
                step=taken.step,
                classes=taken.classes,
                images=_pixels(taken.images),
            )
            for taken in run.snapshots.taken
        ),
        late=run.snapshots.late,
    )


def _synthetic_set(distilled: Distilled, folder: Path) -> SyntheticSet:
    np.save(folder / CALIBRATION_FILE, distilled.calibration)
    np.save(folder / HELD_OUT_FILE, distilled.held_out)
    info = distilled.teacher
    return SyntheticSet(
        file=CALIBRATION_FILE,
        digest=digest_of(folder / CALIBRATION_FILE),
        count=len(distilled.calibration),
        input=info.input,
        teacher_digest=info.state_digest,
        seed=distilled.run.seed,
        coverage=_coverage(distilled),
    )


@torch.no_grad()
def _coverage(distilled: Distilled) -> Coverage:
    module, info = distilled.run.teacher.module, distilled.teacher
    images = torch.from_numpy(normalised(distilled.calibration, info.input))
    with watch_batch_norm(module) as statistics:
        logits = module(images)
    confidence, decided = logits.softmax(1).max(1)
    layers = len(statistics.seen)
    return Coverage(
        class_histogram=tuple(torch.bincount(decided, minlength=info.classes).tolist()),
        mean_confidence=round(min(1.0, float(confidence.mean())), 4),
        batch_norm_distance=round(float(statistics.distance()) / layers, 4) if layers else None,
    )


def _evaluated(
    data: LabelledImages | None,
    distilled: Distilled,
    exported: Exported,
    folder: Path,
    display: Display,
) -> Evaluation | None:
    if data is None:
        return None
    inputs = data.normalised(distilled.teacher.input)
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
    display.say(f"eval     {data.name}, {len(data.labels):,} images (reported, selected nothing)")
    for result in results:
        display.say(
            f"         {result.model:8} {result.accuracy:7.2%} right, {result.agreement_with_teacher:7.2%} as the teacher"
        )
    if same is not None:
        display.say(f"         INT8 answers as FP32 on {same:.2%}")
    return Evaluation(
        data=data.name,
        data_digest=data.digest,
        images=len(data.labels),
        results=results,
        int8_same_as_fp32=same,
    )


def _benched(exported: Exported, folder: Path, display: Display) -> tuple[Measurements, ...]:
    display.say("bench    ONNX Runtime on this machine, one thread, in processes of its own")
    taken = []
    for model in exported.models:
        found = local.measure(
            folder / model.path, precision=model.precision, subject=model.path, is_target=False
        )
        taken.append(found)
        display.say(f"         {brief(found)}")
    display.say(f"         {place(taken[0])}")
    return tuple(taken)


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
        f"next     edgekd bundle inspect {outcome.bundle}   (all figures, with their doubts)\n"
        f"         {outcome.bundle}/{bundle.PAGE}   (the same with pictures, for a browser)\n"
        f"         copy {outcome.bundle} to the board and build {manifest.models[-1].path} there: "
        f"{_build_command(manifest)}"
    )


def _build_command(manifest: Manifest) -> str:
    model = manifest.models[-1]
    software = manifest.target.software
    if software.runtime == "onnxruntime":
        return f"onnxruntime.InferenceSession('{model.path}')"
    if software.typing == "strong":
        return f"trtexec --onnx={model.path} --saveEngine=model.engine --stronglyTyped"
    flags = "--int8 --fp16" if model.precision == "int8" else "--fp16"
    return f"trtexec --onnx={model.path} --saveEngine=model.engine {flags}"


# --- distill --------------------------------------------------------------------------------------


def distil(options: DistilOptions, display: Display) -> Student:
    """Teacher to student folder: weights, record, images for calibration."""
    check_writable(options.out, force=options.force)
    place = choose_place(options.device, threads=options.threads)
    teacher = _teacher(options, display)
    found = _image_set(options, teacher.info)
    with caught() as interrupts, _run_folder(options, teacher, place, found) as folder:
        distilled = _distilled(options, teacher, place, folder, found, interrupts, display)
        with new_folder(options.out, force=options.force) as temporary:
            student = write_student(distilled, temporary)
            synthetic = _synthetic_set(distilled, temporary)
            (temporary / "synthetic.json").write_text(to_json(synthetic, schema="synthetic-set"))
        folder.discard()
    display.say(
        f"student  {options.out}: agreement {student.agreement:.1%} on held-out synthetic images"
    )
    display.say(f"next     edgekd export {options.out} --target jetson")
    return student


def _teacher(options: DistilOptions, display: Display) -> Teacher:
    return teacher_said(options.teacher, options.said, seed=options.seed, display=display)


def teacher_said(path: Path, said: TeacherOptions, *, seed: int, display: Display) -> Teacher:
    """Load a teacher and say what was understood of it."""
    teacher = load_teacher(
        path,
        said,
        generator=torch.Generator().manual_seed(seed),
        say=lambda text: display.warn(text),
    )
    info = teacher.info
    display.say(
        f"teacher  {info.file}: {info.architecture}, {info.parameters:,} parameters, {info.macs / 1e6:,.1f} M MACs, "
        f"{info.classes} classes, input {'x'.join(map(str, info.input.shape))} (from {info.metadata_from})"
    )
    for note in info.notes:
        display.say(f"         {note}")
    if info.batch_norm_trained:
        display.say(f"         {info.batch_norm_layers} batch-norm layers with trained statistics")
    else:
        kind = "untrained batch-norm statistics" if info.batch_norm_layers else "no batch-norm"
        display.warn(f"{kind}: inversion loses its best signal, expect a weaker student")
    noise = info.noise
    display.say(
        f"         to noise it answers {noise.distinct_classes} of {info.classes} classes, mean confidence "
        f"{noise.mean_confidence:.2f}, logit deviation {noise.logit_std:.2g}"
    )
    return teacher


def _recipe(options: DistilOptions, info: TeacherInfo) -> Recipe:
    return recipe_for(options.recipe, info)


def recipe_for(name: str, info: TeacherInfo) -> Recipe:
    """A recipe by name, as it is used for this teacher.

    Raises:
        UsageError: no recipe is called so.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}. There is: {', '.join(RECIPES)}.")
    adapted = recipes.for_teacher(RECIPES[name], batch_norm=info.batch_norm_trained)
    return recipes.for_images(adapted, info.input.shape)


def _choice(options: DistilOptions, info: TeacherInfo) -> architectures.Choice:
    size = architectures.Size(parameters=info.parameters, macs=info.macs)
    return architectures.choose_student(options.student, teacher=info.architecture, size=size)


def _image_set(options: DistilOptions, info: TeacherInfo) -> imagesets.ImageSet | None:
    return image_set(options.images, info) if options.images is not None else None


def image_set(path: Path, info: TeacherInfo) -> imagesets.ImageSet:
    """A set of images of this teacher; see `imagesets.read_set`."""
    return imagesets.read_set(
        path, teacher_digest=info.state_digest, spec=info.input, classes=info.classes
    )


def _run_folder(
    options: DistilOptions, teacher: Teacher, place: Place, found: imagesets.ImageSet | None
) -> Any:  # noqa: ANN401
    """The folder of the unfinished run beside the output, for what decides the result."""
    info = teacher.info
    identity = {
        "edgekd": __version__,
        "teacher": info.state_digest,
        "input": asdict(info.input),
        "flip": teacher.flip,
        "student": str(_choice(options, info).architecture),
        "recipe": asdict(_recipe(options, info)),
        "budget": asdict(options.budget),
        "seed": options.seed,
        "precision": place.precision,
        "images": found.record.digest if found is not None else None,
    }
    path = options.out.with_name(f"{options.out.name}.run")
    return RunFolder.opened(path, identity, restart=options.restart)


def _distilled(
    options: DistilOptions,
    teacher: Teacher,
    place: Place,
    folder: RunFolder,
    found: imagesets.ImageSet | None,
    interrupts: Interrupts,
    display: Display,
) -> Distilled:
    info = teacher.info
    choice, recipe = _choice(options, info), _recipe(options, info)
    ahead = imagesets.parted(found, origin=str(options.images)) if found is not None else None

    def fresh(recipe: Recipe) -> Distillation:
        return Distillation(
            teacher,
            choice.architecture,
            recipe,
            budget=options.budget,
            seed=options.seed,
            place=place,
            ahead=ahead,
        )

    run = fresh(recipe)
    size = architectures.size_of(architectures.build(choice.architecture), shape=info.input.shape)
    display.say(
        f"student  {choice.architecture}: {size.parameters:,} parameters, {size.macs / 1e6:,.1f} M MACs ({choice.reason})"
    )
    if folder.load(run):
        display.say(
            f"distil   goes on from step {run.step:,} ({run.progress:.0%}, {duration(run.elapsed_s)} spent)"
        )
    else:
        expected = forecast(fresh, recipe, pixels=info.input.height * info.input.width)
        display.say(
            f"distil   recipe {recipe.name} on {place.device.type} in {place.precision}: {expected}"
        )
        _warn_of_size(expected, info, place, display)
    _run(run, folder, interrupts, display)
    teacher.unchanged()
    module = run.deliver()
    calibration = torch.cat(run.pool.best_batches(-(-CALIBRATION_IMAGES // run.pool.batch)))
    held_out = run.held_out.images[: min(run.held_out.made, run.held_out.capacity)].flatten(0, 1)
    delivered = module.to(place.device)
    agreed = run.agreement(delivered)
    return Distilled(
        module=delivered.cpu(),
        choice=choice,
        size=size,
        agreement=agreed,
        run=run,
        calibration=_pixels(calibration[:CALIBRATION_IMAGES]),
        held_out=_pixels(held_out[:HELD_OUT_IMAGES]),
        ahead=found.record if found is not None else None,
    )


def _warn_of_size(expected: Forecast, info: TeacherInfo, place: Place, display: Display) -> None:
    """Large images: nothing of it was ever measured, and that is no reason to stop."""
    if max(info.input.height, info.input.width) >= MEASURED_PIXELS:
        display.warn(
            f"images of {info.input.height} x {info.input.width} are outside of what was measured (32 pixels): as "
            f"many steps as the CIFAR-10 benchmark made are about {spoken(expected.usual_s)} here and "
            f"{expected.memory_bytes / 2**30:.1f} GiB; scaled from a part of a batch. Going on"
        )
    if place.device.type == "cpu" and not expected.fits:
        display.warn(
            f"about {expected.memory_bytes / 2**30:.1f} GiB of memory are wanted, and "
            f"{(available_bytes() or 0) / 2**30:.1f} GiB are free: the run may be killed by the system. "
            "It goes on from where it was when it is started again; --device cuda has memory of its own"
        )


def _pixels(images: torch.Tensor) -> Pixels:  # (N, C, H, W) -> (N, H, W, C)
    return np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())


def _run(run: Distillation, folder: RunFolder, interrupts: Interrupts, display: Display) -> None:
    """Drive the loop: show events, save between them, stop at a signal."""
    saved_at = time.monotonic()
    pause_s = CHECKPOINT_LEAST_S
    first: tuple[float, float] | None = None  # progress and seconds after the first, slower round
    with interrupts.deferred(), display.running() as show:
        for event in run.events():
            first = first or (event.progress, run.elapsed_s)
            show(event.point, event.progress, _left_s(run, event.progress, first))
            for warning in event.warnings:
                display.warn(warning)
            due = time.monotonic() - saved_at >= pause_s
            if due or interrupts.pending is not None or event.progress >= 1.0:
                started = time.monotonic()
                folder.save(run)
                saved_at = time.monotonic()
                pause_s = min(CHECKPOINT_MOST_S, max(CHECKPOINT_LEAST_S, 20 * (saved_at - started)))
            if interrupts.pending is not None:
                raise interrupts.pending


def _left_s(run: Distillation, progress: float, first: tuple[float, float]) -> float | None:
    """Seconds that the rest will take at the rate so far; None until there is one."""
    if run.budget.minutes is not None:
        return max(0.0, 60 * run.budget.minutes - run.elapsed_s)
    done = progress - first[0]
    return (run.elapsed_s - first[1]) / done * (1 - progress) if done > 0 else None


def write_student(distilled: Distilled, folder: Path) -> Student:
    """The weights as safetensors and the record beside them."""
    path = folder / STUDENT_FILE
    state = {name: tensor.contiguous() for name, tensor in distilled.module.state_dict().items()}
    path.write_bytes(safetensors_bytes(state))  # its own writer makes files that others can't read
    run = distilled.run
    student = Student(
        checkpoint=STUDENT_FILE,
        digest=digest_of(path),
        architecture=distilled.choice.architecture,
        input=distilled.teacher.input,
        parameters=distilled.size.parameters,
        macs=distilled.size.macs,
        chosen_because=distilled.choice.reason,
        teacher_digest=distilled.teacher.state_digest,
        recipe=run.recipe.name,
        seed=run.seed,
        steps=run.step,
        precision=run.place.precision,
        agreement=round(distilled.agreement, 6),
        agreement_images=min(run.held_out.made, run.held_out.capacity) * run.held_out.batch,
        warnings=tuple(run.warnings),
        history=tuple(run.history),
    )
    # The log holds seconds, which no two runs share; the report has it.
    (folder / "student.json").write_text(to_json(replace(student, history=()), schema="student"))
    return student


# --- export and bench -----------------------------------------------------------------------------


def export(
    source: Path,
    *,
    target: Target,
    out: Path,
    force: bool,
    display: Display,
    images: Path | None = None,
) -> Exported:
    """Student folder (or bundle with images) to ONNX files for a target.

    Args:
        source: the folder.
        target: what the files must be legal for.
        out: folder to write.
        force: replace it where it exists.
        display: what happens is said there.
        images: a set of the same teacher to calibrate and check on, instead of the folder's own.

    Raises:
        InputFileError: the folder lacks something, or its weights are not the recorded ones.
    """
    check_writable(out, force=force)
    student = from_json(
        Student,
        read_text(source / "student.json"),
        origin=f"{source}/student.json",
        schema="student",
    )
    weights = source / student.checkpoint
    if digest_of(_existing(weights)) != student.digest:
        raise InputFileError(f"{weights}: not the weights that student.json names.")
    module = architectures.build(student.architecture)
    module.load_state_dict(read_weights(weights).state)
    display.say(f"export   {student.architecture} for {target.id}, {_software(target)}")
    calibration, held_out = _calibration(source, student, images)
    with new_folder(out, force=force) as folder:
        exported = _export(
            module.eval().requires_grad_(False),
            student,
            target=target,
            folder=folder,
            calibration=normalised(calibration, student.input),
            held_out=normalised(held_out, student.input),
            display=display,
        )
        (folder / "models.json").write_text(to_json(exported, schema="models"))
    gate.require(tuple(gate.parity(model) for model in exported.models), bundle=str(out))
    return exported


def _calibration(source: Path, student: Student, images: Path | None) -> tuple[Pixels, Pixels]:
    """Images to calibrate on, and others to check on."""
    if images is None:
        spec = student.input
        return _images(source / CALIBRATION_FILE, spec), _images(source / HELD_OUT_FILE, spec)
    found = imagesets.read_set(
        images,
        teacher_digest=student.teacher_digest,
        spec=student.input,
        classes=student.architecture.classes,
    )
    ahead = imagesets.parted(found, origin=str(images))
    return (
        _pixels(ahead.images[:CALIBRATION_IMAGES]),
        _pixels(ahead.held_out[:HELD_OUT_IMAGES]),
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputFileError(f"{path}: no such file.")
    return path


def _images(path: Path, spec: InputSpec) -> Pixels:
    try:
        images = np.load(_existing(path), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputFileError(f"{path}: not readable as images ({error}).") from error
    shape = (spec.height, spec.width, spec.channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise InputFileError(
            f"{path}: {images.dtype} of shape {images.shape}; expected uint8 (N, *{shape})."
        )
    return np.asarray(images, np.uint8)


def _export(
    module: nn.Module,
    student: Student,
    *,
    target: Target,
    folder: Path,
    calibration: npt.NDArray[np.float32],
    held_out: npt.NDArray[np.float32],
    display: Display,
) -> Exported:
    fp32 = exporting.export_fp32(
        module,
        spec=student.input,
        target=target,
        out=folder / FP32_FILE,
        images=held_out,
        made_from=student.digest,
    )
    display.say(
        f"         {fp32.path}: opset {fp32.opset}, {fp32.size_bytes / 1024:,.0f} KiB, equal to PyTorch within "
        f"{fp32.parity.max_abs_error:.1e} of a logit"
    )
    if not target.software.int8:
        reason = f"{target.board.title} runs no INT8 under {target.software.name}"
        display.warn(f"no INT8 model: {reason}")
        return Exported(models=(fp32,), without={"int8": reason})
    int8 = exporting.export_int8(
        folder / FP32_FILE,
        target=target,
        out=folder / INT8_FILE,
        calibration=calibration,
        held_out=held_out,
    )
    assert int8.calibration is not None
    display.say(
        f"         {int8.path}: ranges by {int8.calibration.method} over {int8.calibration.images} synthetic images, "
        f"decides as FP32 on {int8.parity.top1_agreement:.1%} of {int8.parity.images} others"
    )
    return Exported(models=(fp32, int8), without={})


def bench(path: Path, display: Display) -> tuple[Measurements, ...]:
    """Measure an ONNX file, or every model of a bundle, on this machine."""
    if path.is_dir():
        manifest = bundle.read_manifest(path)
        files = [(path / model.path, model.precision) for model in manifest.models]
    else:
        files = [(_existing(path), exporting.precision_of(path))]
    taken = []
    for file, precision in files:
        display.say(f"bench    {file.name}")
        taken.append(local.measure(file, precision=precision, subject=file.name, is_target=False))
    return tuple(taken)


def target_named(spec: str) -> Target:
    return load_target(spec)


def command_line() -> tuple[str, ...]:
    """The command as it was typed, paths cut to their last part: bundles travel, home folders do not."""
    return ("edgekd", *(argument.rsplit("/", 1)[-1] for argument in sys.argv[1:]))
