"""Student or teacher to ONNX for a target, and ONNX measured on this machine."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import nn

from edgekd.bundle import golden_vectors as golden
from edgekd.distill.compute.device import choose_compute
from edgekd.distill.data.labelled import normalise
from edgekd.distill.models import architectures
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.teachers.state_dict import read_weights
from edgekd.distill.training.int8_finetuning import FinetuneConfig
from edgekd.errors import InputFileError, UsageError
from edgekd.export import convert
from edgekd.export.convert import TUNED, FinetuneSource
from edgekd.export.fake_quant import FakeQuantised
from edgekd.files import (
    check_writable,
    digest_of,
    new_folder,
    read_text,
    write_atomically,
)
from edgekd.gate import gates as gate
from edgekd.progress import Display
from edgekd.records import (
    Engine,
    GateResult,
    InputSpec,
    OnnxModel,
    Student,
    Target,
    from_json,
    record,
    to_json,
)
from edgekd.records.manifest import GoldenVectors
from edgekd.workflows.build_engines import build_all
from edgekd.workflows.calibration_data import (
    CalibrationSource,
    existing,
    of_student,
    of_teacher,
)
from edgekd.workflows.distill import Pixels, tuner
from edgekd.workflows.evaluate import module_logits
from edgekd.workflows.export_options import (
    FP16_FILE,
    FP32_FILE,
    INT8_FILE,
    PLAIN,
    ExportPlan,
    fp16_of,
    require_possible,
    without_int8,
)
from edgekd.workflows.run_setup import teacher_said

SET_IMAGES: Final = 768  # of a set that a teacher is exported with: 512 to calibrate on, a tenth apart, and to spare
COMPARED: Final = 32  # images, of a file with everything inside and the plain one


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is exported. Not a record."""

    module: nn.Module  # in evaluation mode, on the CPU
    spec: InputSpec
    digest: str  # of its weights


@record
class Exported:
    """What `edgekd export --json` prints, and `models.json`."""

    models: tuple[OnnxModel, ...]
    without: dict[str, str]
    golden: GoldenVectors | None = None
    engines: tuple[Engine, ...] = ()


# --- export ---------------------------------------------------------------------------------------


def export(
    source: Path,
    *,
    target: Target,
    out: Path,
    force: bool,
    display: Display,
    images: Path | None = None,
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
    require_possible(options, target)
    check_writable(out, force=force)
    student = from_json(
        Student,
        read_text(source / "student.json"),
        origin=f"{source}/student.json",
        schema="student",
    )
    weights = source / student.checkpoint
    if digest_of(existing(weights)) != student.digest:
        raise InputFileError(f"{weights}: not the weights that student.json names.")
    module = architectures.build(student.architecture)
    module.load_state_dict(read_weights(weights).state)
    display.say(f"export   {student.architecture} for {target.id}, {software_text(target)}")
    return _write_models(
        Network(
            module=module.eval().requires_grad_(False), spec=student.input, digest=student.digest
        ),
        of_student(source, student, images),
        target=target,
        out=out,
        force=force,
        options=options,
        display=display,
    )


def export_teacher(
    path: Path,
    said: TeacherOptions,
    *,
    target: Target,
    out: Path,
    force: bool,
    display: Display,
    images: Path | None,
    options: ExportPlan = PLAIN,
) -> Exported:
    """The teacher itself to ONNX files for a target, calibrated on images that were inverted out of it.

    Args:
        path: of the teacher.
        said: of it, where its file does not say.
        target: what the files must be legal for.
        out: folder to write.
        force: replace it where it exists.
        display: what happens is said there.
        images: a set of this teacher.
        options: what else is asked of the files.

    Raises:
        UsageError: there are no images.
        InputFileError: the teacher or the images cannot be used, or are not of one another.
        IncompatibleError: the target cannot take the teacher, or what is asked of it.
        QualityError: a file answers otherwise, or the images do not reach what the teacher saw; INT8 is kept.
    """
    if images is None:
        raise UsageError(
            "--teacher has no images of its own to check and calibrate on. Make some, and give them with --images SET: "
            f"edgekd synthesize {path} -n {SET_IMAGES} --out SET"
        )
    require_possible(options, target)
    check_writable(out, force=force)
    teacher = teacher_said(path, said, seed=0, display=display)
    info = teacher.info
    display.say(f"export   the teacher, for {target.id}, {software_text(target)}")
    brought = of_teacher(teacher, images)
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


def _tuner(
    teacher: Teacher, brought: CalibrationSource, options: ExportPlan, display: Display
) -> Callable[[FakeQuantised], None]:
    assert brought.learned is not None  # of a teacher there is a set
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
    with new_folder(out, force=force) as folder:
        exported = export_network(
            network,
            target=target,
            folder=folder,
            calibration=normalise(brought.calibration, network.spec),
            held_out=normalise(brought.held_out, network.spec),
            options=options,
            display=display,
            teacher=brought.answers,
            outside=brought.outside,
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
        exported = replace(
            exported,
            golden=golden.write_golden(
                folder,
                exported.models,
                golden.clearest(
                    brought.held_out,
                    module_logits(network.module, normalise(brought.held_out, network.spec)),
                ),
                spec=network.spec,
                software=target.software,
                parts=options.embed,
                made_of="synthetic images",
            ),
        )
        if options.engine is not None:
            _bring_engines(out, folder)
        _write_record(exported, folder)
    gate.require_passed(
        gates(exported),
        bundle=str(out),
        closing=f"{out} is kept; do not ship {INT8_FILE} of it. Other images (edgekd synthesize, then --images SET) or "
        "--keep-fp16 0.1, which leaves the layers that INT8 hurts most in floating point, may help.",
    )
    if options.engine is not None:  # the ONNX files stand whatever becomes of it
        engines = build_all(
            exported.models, out, target=target, options=options.engine, display=display
        )
        exported = replace(exported, engines=engines)
        _write_record(exported, out)
    return exported


def _write_record(exported: Exported, folder: Path) -> None:
    write_atomically(folder / "models.json", to_json(exported, schema="models").encode())


def _bring_engines(old: Path, new: Path) -> None:
    """Engines of the folder that is replaced, with their records: each may still be the one that is asked for."""
    for path in old.glob("*.engine*"):
        shutil.copy2(path, new / path.name)


def gates(exported: Exported) -> tuple[GateResult, ...]:
    """Verdicts on the files."""
    return tuple(
        verdict
        for model in exported.models
        for verdict in (gate.parity(model), *gate.coverage(model))
    )


def export_network(
    network: Network,
    *,
    target: Target,
    folder: Path,
    calibration: npt.NDArray[np.float32],
    held_out: npt.NDArray[np.float32],
    display: Display,
    options: ExportPlan = PLAIN,
    teacher: npt.NDArray[np.float32] | None = None,
    outside: Mapping[str, float] | None = None,
    tune: Callable[[FakeQuantised], None] | None = None,
) -> Exported:
    """Every precision that the target runs.

    Args:
        network: a student, or a teacher.
        target: what the files must be legal for.
        folder: to write into.
        calibration: normalised images (N, C, H, W).
        held_out: others (M, C, H, W).
        display: what happens is said there.
        options: what else is asked of the files.
        teacher: its logits (M, K) on `held_out`, where it is at hand.
        outside: of its batch-norms, what the calibration images do not reach.
        tune: learns what an INT8 file is made of, in `options.tune` steps.
    """
    fp32 = convert.export_fp32(
        network.module,
        spec=network.spec,
        target=target,
        out=folder / FP32_FILE,
        images=held_out,
        made_from=network.digest,
        dynamic_batch=options.dynamic_batch,
    )
    display.say(
        f"         {fp32.path}: opset {fp32.opset}, {fp32.size_bytes / 1024:,.0f} KiB, max logit difference from "
        f"PyTorch {fp32.parity.max_abs_error:.1e}"
    )
    models = [fp32]
    if target.software.typing == "strong":
        fp16 = convert.export_fp16(
            folder / FP32_FILE,
            target=target,
            out=folder / FP16_FILE,
            images=held_out,
        )
        display.say(
            f"         {fp16.path}: {fp16.size_bytes / 1024:,.0f} KiB, equal to FP32 within "
            f"{fp16.parity.max_abs_error:.1e} of a logit"
        )
        models.append(fp16)
    left = models[-1].fp32_nodes
    if left:
        display.warn(f"FP16 cannot hold {len(left)} nodes, which stay FP32: {', '.join(left[:4])}")
    if not target.software.int8:
        reason = without_int8(target)
        display.warn(f"no INT8 model: {reason}. {fp16_of(target)}")
        return Exported(models=tuple(models), without={"int8": reason})
    int8 = convert.export_int8(
        folder / FP32_FILE,
        target=target,
        out=folder / INT8_FILE,
        calibration=calibration,
        held_out=held_out,
        teacher=teacher,
        outside=outside,
        keeping=options.keeping,
        tuning=FinetuneSource(module=network.module, tune=tune, steps=options.tune)
        if tune
        else None,
    )
    assert int8.calibration is not None
    display.say(
        f"         {int8.path}: ranges by {int8.calibration.method} over {int8.calibration.images} synthetic images, "
        f"top-1 matches FP32 on {int8.parity.top1_agreement:.1%} of {int8.parity.images} held-out images"
    )
    if tune and int8.calibration.method != TUNED:
        display.warn("the fine-tuned weights agree less with the teacher; they were dropped")
    if int8.calibration.kept:
        display.say(f"         kept in floating point: {', '.join(int8.calibration.kept)}")
    return Exported(models=(*models, int8), without={})


def embed_parts(
    exported: Exported,
    folder: Path,
    *,
    spec: InputSpec,
    target: Target,
    options: ExportPlan,
    held_out: Pixels,
) -> Exported:
    """The same files with preprocessing and head inside, where that was asked; compared on some images."""
    if not options.embed:
        return exported
    pixels = held_out[:COMPARED]
    models = [
        convert.embed(
            folder / model.path,
            model,
            parts=options.embed,
            spec=spec,
            target=target,
            pixels=pixels,
            images=normalise(pixels, spec),
        )
        for model in exported.models
    ]
    # The plain FP32 file that the others were made from is no more.
    fp32 = models[0]
    others = [replace(model, made_from=fp32.digest) for model in models[1:]]
    return replace(exported, models=(fp32, *others))


def software_text(target: Target) -> str:
    parts = [target.software.name]
    if target.software.tensorrt:
        parts.append(f"TensorRT {target.software.tensorrt}")
    return f"{', '.join(parts)}, opset {target.software.opset}"
