"""Student or teacher to ONNX for a target, and ONNX measured on this machine."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgekd.bundle.golden_vectors import clearest, write_golden
from edgekd.distill.compute.device import choose_compute
from edgekd.distill.data.labelled import normalise
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.training.int8_finetuning import FinetuneConfig
from edgekd.errors import UsageError
from edgekd.export.fake_quant import FakeQuantised
from edgekd.files import (
    check_writable,
    new_folder,
    write_atomically,
)
from edgekd.gate import gates as verdicts
from edgekd.progress import Display
from edgekd.records import (
    Target,
    to_json,
)
from edgekd.workflows.calibration_data import (
    NOISE_IMAGES,
    CalibrationSource,
    of_noise,
    of_own_images,
    of_student,
    of_teacher,
)
from edgekd.workflows.evaluate import module_logits
from edgekd.workflows.export_options import (
    INT8_FILE,
    PLAIN,
    ExportPlan,
    require_possible,
)
from edgekd.workflows.finetune import tuner
from edgekd.workflows.measure.build_engines import build_all
from edgekd.workflows.model_files import (
    Exported,
    ExportImages,
    Network,
    embed_parts,
    export_network,
    gates,
    software_text,
)
from edgekd.workflows.portable_engine import PORTABLE, build_portable
from edgekd.workflows.read_student import read_student
from edgekd.workflows.run_setup import load_and_report_teacher

# --- export ---------------------------------------------------------------------------------------


def export(
    source: Path,
    *,
    target: Target,
    out: Path,
    force: bool,
    display: Display,
    images: Path | None = None,
    own_images: Path | None = None,
    options: ExportPlan = PLAIN,
) -> Exported:
    """Student folder (or bundle with images) to ONNX files for a target.

    Args:
        source: the folder.
        target: what the files must be legal for.
        out: folder to write.
        force: replace it where it exists.
        display: what happens is said there.
        images: a set of the same teacher to calibrate and check on, instead of the folder's own.
        own_images: images of the user for it, instead of either.
        options: what else is asked of the files.

    Raises:
        InputFileError: the folder lacks something, or its weights are not the recorded ones.
        IncompatibleError: the target cannot take what is asked of it.
        QualityError: a file answers otherwise; those of INT8 are kept.
        UsageError: it is to be tuned, and its teacher is not at hand.
    """
    if options.tune:
        raise UsageError(
            "--tune learns from the teacher, which is not in a student's folder: give it to `edgekd compress`, or "
            "export the teacher itself with --teacher TEACHER."
        )
    _require_one_kind(images, own_images)
    require_possible(options, target)
    check_writable(out, force=force)
    student, module = read_student(source)
    display.say(f"export   {student.architecture} for {target.id}, {software_text(target)}")
    return _write_models(
        Network(module=module, spec=student.input, digest=student.digest),
        of_student(source, student, images)
        if own_images is None
        else of_own_images(own_images, student.input, teacher=None, display=display),
        target=target,
        out=out,
        force=force,
        options=options,
        display=display,
    )


def export_teacher(
    path: Path,
    teacher_options: TeacherOptions,
    *,
    target: Target,
    out: Path,
    force: bool,
    display: Display,
    images: Path | None = None,
    own_images: Path | None = None,
    options: ExportPlan = PLAIN,
) -> Exported:
    """The teacher itself to ONNX files for a target.

    Without images files are calibrated and compared on structured noise.

    Args:
        path: of the teacher.
        teacher_options: of it, where its file does not say.
        target: what the files must be legal for.
        out: folder to write.
        force: replace it where it exists.
        display: what happens is said there.
        images: a set of this teacher.
        own_images: images of the user, instead of a set.
        options: what else is asked of the files.

    Raises:
        UsageError: the images are too few, or of both kinds.
        InputFileError: the teacher or the images cannot be used, or are not of one another.
        IncompatibleError: the target cannot take the teacher, or what is asked of it.
        QualityError: a file answers otherwise, or the images do not reach what the teacher saw; INT8 is kept.
    """
    _require_one_kind(images, own_images)
    require_possible(options, target)
    check_writable(out, force=force)
    teacher = load_and_report_teacher(path, teacher_options, seed=0, display=display)
    info = teacher.info
    display.say(f"export   the teacher, for {target.id}, {software_text(target)}")
    brought = _images_of_teacher(teacher, images, own_images, options, target, display)
    return _write_models(
        Network(module=teacher.module, spec=info.input, digest=info.state_digest),
        brought,
        target=target,
        out=out,
        force=force,
        options=options,
        display=display,
        tune=_tuner(teacher, brought, options, display) if options.tune else None,
    )


def _require_one_kind(images: Path | None, own_images: Path | None) -> None:
    if images is not None and own_images is not None:
        raise UsageError(
            "--images and --calibration are two kinds of one thing: a set of `synthesize`, or your own images. Give one."
        )


def _images_of_teacher(
    teacher: Teacher,
    images: Path | None,
    own_images: Path | None,
    options: ExportPlan,
    target: Target,
    display: Display,
) -> CalibrationSource:
    """What was brought, else structured noise."""
    spec = teacher.info.input
    if images is not None:
        return of_teacher(teacher, images)
    if own_images is not None:
        return of_own_images(own_images, spec, teacher=teacher, display=display)
    if not options.makes_int8(target):
        display.say(
            "images   structured noise, made here: files of floating point are compared on it"
        )
        return of_noise(spec, teacher=None, seed=0)
    display.say(
        f"images   {NOISE_IMAGES} of structured noise, made here in a second, to calibrate INT8 on; --calibration DIR takes your "
        "own, --images SET those of `edgekd synthesize`"
    )
    return of_noise(spec, teacher=teacher, seed=0)


def _tuner(
    teacher: Teacher, brought: CalibrationSource, options: ExportPlan, display: Display
) -> Callable[[FakeQuantised], None]:
    # Of a teacher there is a set
    assert brought.learned is not None
    return tuner(
        teacher,
        brought.learned,
        FinetuneConfig(steps=options.tune),
        compute=choose_compute("cpu", threads=None),
        seed=0,
        display=display,
    )


def _write_models(
    network: Network,
    brought: CalibrationSource,
    *,
    target: Target,
    out: Path,
    force: bool,
    options: ExportPlan,
    display: Display,
    tune: Callable[[FakeQuantised], None] | None = None,
) -> Exported:
    """A folder of files that passed, with their record."""
    exported: Exported

    def finish() -> None:
        nonlocal exported
        verdicts.require_passed(
            gates(exported),
            bundle=str(out),
            closing=f"{out} is kept; do not ship {INT8_FILE} of it. Other images (--calibration DIR, or edgekd synthesize, "
            "then --images SET) or "
            "--keep-fp16 0.1, which leaves the layers that INT8 hurts most in floating point, may help.",
        )
        # The ONNX files stand whatever becomes of it
        if options.engine is not None:
            engines = build_all(
                exported.models, out, target=target, options=options.engine, display=display
            )
            exported = replace(exported, engines=engines)
            _write_record(exported, out)

    with new_folder(out, force=force, done=finish) as folder:
        exported = export_network(
            network,
            ExportImages(
                calibration=normalise(brought.calibration, network.spec),
                held_out=normalise(brought.held_out, network.spec),
                teacher=brought.answers,
                outside=brought.outside,
                made_of=brought.made_of,
            ),
            target=target,
            folder=folder,
            options=options,
            display=display,
            tune=tune,
        )
        exported = embed_parts(
            exported,
            folder,
            spec=network.spec,
            target=target,
            options=options,
            held_out=brought.held_out,
        )
        shown, made_of = brought.golden(network.spec)
        exported = replace(
            exported,
            golden=write_golden(
                folder,
                exported.models,
                clearest(shown, module_logits(network.module, normalise(shown, network.spec))),
                spec=network.spec,
                software=target.software,
                parts=options.embed,
                made_of=made_of,
            ),
        )
        if options.engine is not None:
            _bring_engines(out, folder)
        exported = replace(
            exported,
            portable=build_portable(exported.models, folder, target=target, display=display),
        )
        _write_record(exported, folder)
    return exported


def _write_record(exported: Exported, folder: Path) -> None:
    write_atomically(folder / "models.json", to_json(exported, schema="models").encode())


def _bring_engines(old: Path, new: Path) -> None:
    """Engines of the folder that is replaced, with their records: each may still be the one that is asked for."""
    for path in old.glob("*.engine*"):
        # One for several kinds of GPU is built anew, of the new files
        if not path.name.endswith(PORTABLE):
            shutil.copy2(path, new / path.name)
