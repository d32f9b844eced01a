"""Student to ONNX for a target, and ONNX measured on this machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import nn

from edgekd import bundle, gate
from edgekd.bench import local
from edgekd.distill import architectures, imagesets
from edgekd.distill.data import normalised
from edgekd.distill.weights import read_weights
from edgekd.distilling import (
    ANSWERS_FILE,
    CALIBRATION_FILE,
    CALIBRATION_IMAGES,
    HELD_OUT_FILE,
    HELD_OUT_IMAGES,
    Pixels,
    pixels_of,
)
from edgekd.errors import InputFileError, IntegrityError, UsageError
from edgekd.export import models as exporting
from edgekd.export.described import precision_of
from edgekd.export.embedding import Part, checked
from edgekd.export.fakequant import FakeQuantised
from edgekd.export.models import TUNED, Keeping, TuningOf
from edgekd.export.sensitivity import BY
from edgekd.files import check_writable, digest_of, new_folder, read_text
from edgekd.progress import Display
from edgekd.records import (
    GateResult,
    InputSpec,
    Measurements,
    OnnxModel,
    Student,
    SyntheticSet,
    Target,
    from_json,
    record,
    to_json,
)

FP32_FILE: Final = "model-fp32.onnx"
FP16_FILE: Final = "model-fp16.onnx"
INT8_FILE: Final = "model-int8.onnx"
COMPARED: Final = 32  # images, of a file with everything inside and the plain one


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is asked of the files beyond what the target decides."""

    embed: tuple[Part, ...] = ()
    keeping: Keeping | None = None  # layers of an INT8 network may stay in floating point
    tune: int = 0  # steps


def export_options(
    embed: Sequence[str], *, keep: float, keep_by: str, tune: int = 0
) -> ExportOptions:
    """From what was typed.

    Raises:
        UsageError: an unknown part or kind, or no share.
    """
    if keep_by not in BY:
        raise UsageError(f"--keep-by {keep_by}: choose from {', '.join(BY)}.")
    if not 0 <= keep <= 1:
        raise UsageError(f"--keep-fp16 {keep:g}: a share is between 0 and 1.")
    if tune and keep:
        raise UsageError("--tune learns all layers in INT8: leave out --keep-fp16.")
    keeping = Keeping(share=keep, by=keep_by) if keep else None
    return ExportOptions(embed=checked(tuple(embed)), keeping=keeping, tune=tune)


@record
class Exported:
    """What `edgekd export --json` prints, and `models.json`."""

    models: tuple[OnnxModel, ...]
    without: dict[str, str]


@record
class Measured:
    """What `edgekd bench --json` prints."""

    measurements: tuple[Measurements, ...]


# --- export and bench -----------------------------------------------------------------------------


def export(
    source: Path,
    *,
    target: Target,
    out: Path,
    force: bool,
    display: Display,
    images: Path | None = None,
    options: ExportOptions = ExportOptions(),
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
    display.say(f"export   {student.architecture} for {target.id}, {software_text(target)}")
    brought = _brought(source, student, images)
    with new_folder(out, force=force) as folder:
        exported = export_student(
            module.eval().requires_grad_(False),
            student,
            target=target,
            folder=folder,
            calibration=normalised(brought.calibration, student.input),
            held_out=normalised(brought.held_out, student.input),
            options=options,
            display=display,
            teacher=brought.answers,
            outside=brought.outside,
        )
        exported = embedded_models(
            exported,
            folder,
            spec=student.input,
            target=target,
            options=options,
            held_out=brought.held_out,
        )
        (folder / "models.json").write_text(to_json(exported, schema="models"))
    gate.require(gates(exported), bundle=str(out))
    return exported


def gates(exported: Exported) -> tuple[GateResult, ...]:
    """Verdicts on the files."""
    return tuple(
        verdict
        for model in exported.models
        for verdict in (gate.parity(model), *gate.coverage(model))
    )


@dataclass(frozen=True, kw_only=True)
class _Brought:
    """What INT8 is made with, where the teacher is not at hand."""

    calibration: Pixels
    held_out: Pixels
    answers: npt.NDArray[np.float32] | None  # the teacher's on `held_out`
    outside: Mapping[str, float]  # of its batch-norms, what `calibration` does not reach


def _brought(source: Path, student: Student, images: Path | None) -> _Brought:
    """From a set that was made ahead, or what `distill` and `compress` left in the folder."""
    spec, classes = student.input, student.architecture.classes
    if images is not None:
        found = imagesets.read_set(
            images, teacher_digest=student.teacher_digest, spec=spec, classes=classes
        )
        ahead = imagesets.parted(found, origin=str(images))
        return _Brought(
            calibration=pixels_of(ahead.images[:CALIBRATION_IMAGES]),
            held_out=pixels_of(ahead.held_out[:HELD_OUT_IMAGES]),
            answers=None,
            outside=found.record.coverage.outside,
        )
    calibration, held_out = (
        _images(source / name, spec) for name in (CALIBRATION_FILE, HELD_OUT_FILE)
    )
    recorded = _recorded(source)
    if recorded is not None and digest_of(source / CALIBRATION_FILE) != recorded.digest:
        raise IntegrityError(
            f"{source / CALIBRATION_FILE}: not the images that were recorded. Copy the folder again."
        )
    return _Brought(
        calibration=calibration,
        held_out=held_out,
        answers=_answers(source, len(held_out), classes),
        outside={} if recorded is None else recorded.coverage.outside,
    )


def _recorded(source: Path) -> SyntheticSet | None:
    """What a student folder, or a bundle, says of its calibration images."""
    if (source / "synthetic.json").is_file():
        path = source / "synthetic.json"
        return from_json(SyntheticSet, read_text(path), origin=str(path), schema="synthetic-set")
    if (source / bundle.MANIFEST).is_file():
        return bundle.read_manifest(source).calibration
    return None


def _answers(source: Path, images: int, classes: int) -> npt.NDArray[np.float32] | None:
    """The teacher's logits (M, K) on the held-out images; None in folders that were written without."""
    path = source / ANSWERS_FILE
    if not path.exists():
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputFileError(f"{path}: not readable as numbers ({error}).") from error
    if (
        found.dtype != np.float32
        or found.shape != (images, classes)
        or not np.isfinite(found).all()
    ):
        raise InputFileError(
            f"{path}: {found.dtype} of shape {found.shape}; expected finite float32 ({images}, {classes})."
        )
    return np.asarray(found, np.float32)


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


def export_student(
    module: nn.Module,
    student: Student,
    *,
    target: Target,
    folder: Path,
    calibration: npt.NDArray[np.float32],
    held_out: npt.NDArray[np.float32],
    display: Display,
    options: ExportOptions = ExportOptions(),
    teacher: npt.NDArray[np.float32] | None = None,
    outside: Mapping[str, float] | None = None,
    tune: Callable[[FakeQuantised], None] | None = None,
) -> Exported:
    """Every precision that the target runs.

    Args:
        module: the student, in evaluation mode, on the CPU.
        student: its record.
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
    models = [fp32]
    if target.software.typing == "strong":
        fp16 = exporting.export_fp16(
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
        reason = f"{target.board.title} runs no INT8 under {target.software.name}"
        display.warn(f"no INT8 model: {reason}")
        return Exported(models=tuple(models), without={"int8": reason})
    int8 = exporting.export_int8(
        folder / FP32_FILE,
        target=target,
        out=folder / INT8_FILE,
        calibration=calibration,
        held_out=held_out,
        teacher=teacher,
        outside=outside,
        keeping=options.keeping,
        tuning=TuningOf(module=module, tune=tune, steps=options.tune) if tune else None,
    )
    assert int8.calibration is not None
    display.say(
        f"         {int8.path}: ranges by {int8.calibration.method} over {int8.calibration.images} synthetic images, "
        f"decides as FP32 on {int8.parity.top1_agreement:.1%} of {int8.parity.images} others"
    )
    if tune and int8.calibration.method != TUNED:
        display.warn("tuned weights decide less like the teacher, and were given up")
    if int8.calibration.kept:
        display.say(f"         kept in floating point: {', '.join(int8.calibration.kept)}")
    return Exported(models=(*models, int8), without={})


def embedded_models(
    exported: Exported,
    folder: Path,
    *,
    spec: InputSpec,
    target: Target,
    options: ExportOptions,
    held_out: Pixels,
) -> Exported:
    """The same files with preprocessing and head inside, where that was asked; compared on some images."""
    if not options.embed:
        return exported
    pixels = held_out[:COMPARED]
    models = [
        exporting.embed(
            folder / model.path,
            model,
            parts=options.embed,
            spec=spec,
            target=target,
            pixels=pixels,
            images=normalised(pixels, spec),
        )
        for model in exported.models
    ]
    # The plain FP32 file that the others were made from is no more.
    fp32 = models[0]
    others = [replace(model, made_from=fp32.digest) for model in models[1:]]
    return replace(exported, models=(fp32, *others))


def bench(path: Path, display: Display) -> tuple[Measurements, ...]:
    """Measure an ONNX file, or every model of a bundle, on this machine."""
    if path.is_dir():
        manifest = bundle.read_manifest(path)
        files = [(path / model.path, model.precision) for model in manifest.models]
    else:
        files = [(_existing(path), precision_of(path))]
    taken = []
    for file, precision in files:
        display.say(f"bench    {file.name}")
        taken.append(local.measure(file, precision=precision, subject=file.name, is_target=False))
    return tuple(taken)


def software_text(target: Target) -> str:
    parts = [target.software.name]
    if target.software.tensorrt:
        parts.append(f"TensorRT {target.software.tensorrt}")
    return f"{', '.join(parts)}, opset {target.software.opset}"
