"""What files are calibrated and judged on: images of a set, of the user, or made here, and what a teacher says of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekd.bundle import layout
from edgekd.distill.data import synthetic_set
from edgekd.distill.data.image_files import read_images, spread
from edgekd.distill.data.labelled import normalise
from edgekd.distill.data.untrusted_arrays import read_npy
from edgekd.distill.synthesis.structured_noise import draw_shapes
from edgekd.distill.teachers.loader import Teacher
from edgekd.errors import InputFileError, IntegrityError, UsageError
from edgekd.files import digest_of, read_text
from edgekd.progress import Display
from edgekd.records import (
    ImageKind,
    InputSpec,
    Student,
    SyntheticSet,
    from_json,
)
from edgekd.workflows.distill import (
    ANSWERS_FILE,
    CALIBRATION_FILE,
    CALIBRATION_IMAGES,
    HELD_OUT_FILE,
    HELD_OUT_IMAGES,
    Pixels,
    coverage_of,
    pixels_of,
)
from edgekd.workflows.evaluate import module_logits
from edgekd.workflows.run_setup import image_set

# Of structured noise, to calibrate on
NOISE_IMAGES: Final = 256
# Images of the user: so many at least, and of them at least so many apart, of which half judge
OWN_LEAST: Final = 40
OWN_HELD_OUT: Final = 20
# Drawn to choose golden vectors from, where the images themselves must not be in them
_GOLDEN_DRAWN: Final = 64


@dataclass(frozen=True, kw_only=True)
class CalibrationSource:
    """What files are made and judged with."""

    calibration: Pixels
    held_out: Pixels
    made_of: ImageKind = "synthetic images"
    # The teacher's on `held_out`, where it is at hand
    answers: npt.NDArray[np.float32] | None
    # Of its batch-norms, what `calibration` does not reach
    outside: Mapping[str, float]
    learned: Tensor | None = (
        None  # bytes (N, C, H, W) that INT8 can be tuned on, where the teacher is at hand
    )

    def golden(self, spec: InputSpec) -> tuple[Pixels, Literal["synthetic images", "noise"]]:
        """Images that may be shown to whoever gets the files, and what they are: never those of the user."""
        if self.made_of in {"own images", "structured noise"}:
            return pixels_of(draw_shapes(spec, _GOLDEN_DRAWN, seed=1)), "noise"
        return self.held_out, "synthetic images"


def of_student(source: Path, student: Student, images: Path | None) -> CalibrationSource:
    """From a set that was made ahead, or what `distill` and `compress` left in the folder.

    Args:
        source: the student's folder, or a bundle with images.
        student: its record.
        images: a set of the same teacher.

    Raises:
        InputFileError: the images cannot be used.
        IntegrityError: they are not those that were recorded.
    """
    spec, classes = student.input, student.architecture.classes
    if images is not None:
        found = synthetic_set.read_set(
            images, teacher_digest=student.teacher_digest, spec=spec, classes=classes
        )
        calibration, held_out = _split_ahead(
            synthetic_set.split_held_out(found, origin=str(images))
        )
        return CalibrationSource(
            calibration=calibration,
            held_out=held_out,
            answers=None,
            outside=found.record.coverage.outside,
        )
    calibration, held_out = (
        _images(source / name, spec) for name in (CALIBRATION_FILE, HELD_OUT_FILE)
    )
    recorded = _read_calibration_record(source)
    if recorded is not None and digest_of(source / CALIBRATION_FILE) != recorded.digest:
        raise IntegrityError(
            f"{source / CALIBRATION_FILE}: not the images that were recorded. Copy the folder again."
        )
    return CalibrationSource(
        calibration=calibration,
        held_out=held_out,
        answers=_answers(source, len(held_out), classes),
        outside={} if recorded is None else recorded.coverage.outside,
    )


def of_teacher(teacher: Teacher, images: Path) -> CalibrationSource:
    """From a set of this teacher, which answers and judges it itself.

    Args:
        teacher: that is exported.
        images: its set.

    Raises:
        InputFileError: no set, or of another teacher or input.
        IntegrityError: a file of it is not what its record says.
        UsageError: the set is too small.
    """
    ahead = synthetic_set.split_held_out(image_set(images, teacher.info), origin=str(images))
    calibration, held_out = _split_ahead(ahead)
    return CalibrationSource(
        calibration=calibration,
        held_out=held_out,
        answers=module_logits(teacher.module, normalise(held_out, teacher.info.input)),
        outside=coverage_of(teacher, calibration).outside,
        learned=ahead.images,
    )


def of_own_images(
    path: Path, spec: InputSpec, *, teacher: Teacher | None, display: Display
) -> CalibrationSource:
    """From images of the user, which are read and not kept; labels are not looked at.

    Args:
        path: see `image_files.read_images`; pictures in a folder or in folders by class, or a `.npy` of uint8
            (N, H, W, C) or (N, H, W).
        spec: of the network's input.
        teacher: that is exported, which answers and judges them; None: a student is.
        display: what is left out is said there.

    Raises:
        InputFileError: unreadable, or of another size or type.
        UsageError: too few.
    """
    most = CALIBRATION_IMAGES + HELD_OUT_IMAGES
    found = read_images(path, shape=spec.shape, most=most)
    if found.warning is not None:
        display.warn(found.warning.partition(" --strict")[0])
    for note in found.notes:
        display.warn(f"{found.name}: {note}")
    count = len(found.images)
    if count < OWN_LEAST:
        raise UsageError(
            f"--calibration {path}: {count} images; at least {OWN_LEAST} are needed to calibrate on some and to judge on "
            "others. Bring more, or leave it out."
        )
    apart = np.zeros(count, bool)
    apart[spread(count, min(HELD_OUT_IMAGES, max(OWN_HELD_OUT, count // 4)))] = True
    calibration, held_out = found.images[~apart], found.images[apart]
    display.say(
        f"images   {count:,} own images of {found.name}: they are read, and none of them goes into the files. The ranges of "
        "INT8 are figures of them, and golden vectors are made of noise"
    )
    return _judged(teacher, calibration, held_out, made_of="own images")


def of_noise(spec: InputSpec, *, teacher: Teacher | None, seed: int) -> CalibrationSource:
    """From structured noise, which takes no time: what INT8 loses with it on real images is in docs/log.md.

    Args:
        spec: of the network's input.
        teacher: that is exported, which answers and judges them; None: nothing is calibrated, and files are compared alone.
        seed: of the images.
    """
    drawn = pixels_of(draw_shapes(spec, NOISE_IMAGES + HELD_OUT_IMAGES, seed=seed))
    return _judged(teacher, drawn[:NOISE_IMAGES], drawn[NOISE_IMAGES:], made_of="structured noise")


def _judged(
    teacher: Teacher | None, calibration: Pixels, held_out: Pixels, *, made_of: ImageKind
) -> CalibrationSource:
    """Images with what a teacher says of them, where there is one."""
    if teacher is None:
        return CalibrationSource(
            calibration=calibration, held_out=held_out, made_of=made_of, answers=None, outside={}
        )
    return CalibrationSource(
        calibration=calibration,
        held_out=held_out,
        made_of=made_of,
        answers=module_logits(teacher.module, normalise(held_out, teacher.info.input)),
        outside=coverage_of(teacher, calibration).outside,
        learned=torch.from_numpy(np.ascontiguousarray(calibration.transpose(0, 3, 1, 2))),
    )


def _split_ahead(ahead: synthetic_set.SplitSet) -> tuple[Pixels, Pixels]:
    """Images to calibrate on, and others."""
    return (
        pixels_of(ahead.images[:CALIBRATION_IMAGES]),
        pixels_of(ahead.held_out[:HELD_OUT_IMAGES]),
    )


def _read_calibration_record(source: Path) -> SyntheticSet | None:
    """What a student folder, or a bundle, says of its calibration images."""
    if (source / "synthetic.json").is_file():
        path = source / "synthetic.json"
        return from_json(SyntheticSet, read_text(path), origin=str(path), schema="synthetic-set")
    if (source / layout.MANIFEST).is_file():
        return layout.read_manifest(source).calibration
    return None


def _answers(source: Path, images: int, classes: int) -> npt.NDArray[np.float32] | None:
    """The teacher's logits (M, K) on the held-out images; None in folders that were written without."""
    path = source / ANSWERS_FILE
    if not path.exists():
        return None
    found = read_npy(path)
    if (
        found.dtype != np.float32
        or found.shape != (images, classes)
        or not np.isfinite(found).all()
    ):
        raise InputFileError(
            f"{path}: {found.dtype} of shape {found.shape}; expected finite float32 ({images}, {classes})."
        )
    return np.asarray(found, np.float32)


def existing(path: Path) -> Path:
    """The path of a file that is there.

    Raises:
        InputFileError: it is not.
    """
    if not path.is_file():
        raise InputFileError(f"{path}: no such file.")
    return path


def _images(path: Path, spec: InputSpec) -> Pixels:
    images = read_npy(existing(path))
    shape = (spec.height, spec.width, spec.channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise InputFileError(
            f"{path}: {images.dtype} of shape {images.shape}; expected uint8 (N, *{shape})."
        )
    return np.asarray(images, np.uint8)
