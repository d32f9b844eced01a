"""Models beside one another on labelled images: `edgekd eval`. It reports and selects nothing.

N images, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, ValidationError
from torch import nn

from edgekd.bench.analysis.statistics import share_interval
from edgekd.bundle import layout, verification
from edgekd.distill.data.labelled import LabelledImages, load_labelled
from edgekd.distill.teachers.answers import PROBABILITIES, as_logits, kind_of
from edgekd.distill.teachers.hugging_face import CONFIG
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import InputFileError, UsageError
from edgekd.export.parity import agreement
from edgekd.records import (
    Count,
    Digest,
    InputSpec,
    Share,
    record,
)
from edgekd.workflows.onnx_classifier import OnnxClassifier, read_classifier
from edgekd.workflows.read_student import read_student

Logits = npt.NDArray[np.float32]  # (N, K)

# Of the calibration error, as Guo et al. have them
BINS: Final = 15
WORST_PAIRS: Final = 5


@record
class Confusion:
    """Images of one class that were taken for another."""

    truth: Count
    taken_for: Count
    images: Count


@record
class ModelResult:
    """One model on the images."""

    model: str
    accuracy: Share
    # 95 %, Wilson
    accuracy_interval: tuple[Share, Share]
    agreement_with_first: Share
    # Accuracy; None for a class without images
    per_class: tuple[Share | None, ...]
    # The most frequent, first
    confusions: tuple[Confusion, ...]
    # Expected, over equal bins of confidence
    calibration_error: Share
    mean_confidence: Share


@record
class Comparison:
    """What `edgekd eval --json` prints."""

    data: str
    data_digest: Digest
    images: Annotated[int, Field(ge=1)]
    classes: Count
    class_names: tuple[str, ...] | None
    results: tuple[ModelResult, ...]
    # Of images and models: what was left out, and what was made of them
    notes: tuple[str, ...] = ()


class _Subject:
    """A model that was asked about: what it takes, and its answers. Not a record."""

    def __init__(self, name: str, spec: InputSpec | None, classes: int | None) -> None:
        self.name = name
        # None: the file does not say (bare ONNX)
        self.spec = spec
        self.classes = classes
        self.names: tuple[str, ...] | None = None
        self.module: nn.Module | None = None
        self.onnx: OnnxClassifier | None = None
        # What is unusual of it
        self.notes: tuple[str, ...] = ()

    def answers(self, data: LabelledImages, spec: InputSpec) -> Logits:
        if self.onnx is not None:
            return self.onnx.answers(data.images, spec)
        # One or the other
        assert self.module is not None
        return module_logits(self.module, data.normalise(spec))


def compare(
    models: Sequence[Path], evaluation: Path, teacher_options: TeacherOptions
) -> Comparison:
    """Run every model on the same labelled images.

    Args:
        models: teacher files, student folders, bundles, ONNX files; agreement is with the first.
        evaluation: see `data.load_labelled`.
        teacher_options: of teacher files, where they do not say it.

    Raises:
        InputFileError: a model or the images cannot be used, or two take other inputs or classes.
        UsageError: only ONNX files are given, and mean and standard deviation are not.
    """
    found = [_subjects(path, teacher_options) for path in models]
    subjects = [subject for each, _ in found for subject in each]
    first = next((each for each in subjects if each.spec is not None), None)
    if first is None:
        first = _state_input(subjects[0], teacher_options)
    spec, classes = first.spec, first.classes
    assert spec is not None
    for each in subjects:
        if each.spec is not None and (each.spec != spec or each.classes != classes):
            raise InputFileError(
                f"{each.name} takes {each.spec} and knows {each.classes} classes; {first.name} takes "
                f"{spec} and knows {classes}. Evaluate them apart."
            )
        if each.onnx is not None and each.onnx.shape not in (None, spec.shape):
            raise InputFileError(
                f"{each.name} takes images of (channels, height, width) {each.onnx.shape}, not {spec.shape}."
            )
    if classes is None:
        raise UsageError(f"{first.name} does not say how many classes it knows: give --classes.")
    names = next((each.names for each in subjects if each.names), None)
    data = load_labelled(evaluation, spec=spec, classes=classes, class_names=names)
    answers = [each.answers(data, spec) for each in subjects]
    notes = [note for _, told in found for note in told]
    for each, logits in zip(subjects, answers, strict=True):
        if logits.shape != (len(data.labels), classes) or not bool(np.isfinite(logits).all()):
            raise InputFileError(
                f"{each.name} answers with shape {logits.shape}, or not finite; expected "
                f"({len(data.labels)}, {classes}). Is it made of the same teacher?"
            )
        told = (PROBABILITIES,) if kind_of(logits) == "probabilities" else ()
        notes += [f"{each.name}: {note}" for note in (*each.notes, *told)]
    answers = list(map(as_logits, answers))
    return Comparison(
        data=data.name,
        data_digest=data.digest,
        images=len(data.labels),
        classes=classes,
        class_names=names,
        notes=(*data.notes, *notes),
        results=tuple(
            result(each.name, logits, data.labels, answers[0])
            for each, logits in zip(subjects, answers, strict=True)
        ),
    )


# --- what was named -------------------------------------------------------------------------------


def _state_input(subject: _Subject, options: TeacherOptions) -> _Subject:
    """An ONNX file, with what it does not say of its input.

    Raises:
        UsageError: mean and standard deviation are not given, or its size is open and not given.
    """
    found = subject.onnx
    assert found is not None
    shape, mean, std = options.input or found.shape, options.mean, options.std
    if found.takes_pixels:
        mean, std = (0.0,), (1.0,)
    if mean is None or std is None:
        raise UsageError(
            "ONNX files do not say with which mean and standard deviation images are normalised. "
            "Give --mean and --std, or name a teacher, student folder or bundle beside them."
        )
    if shape is None:
        raise UsageError(f"{subject.name} takes images of any size: give --input CxHxW.")
    channels, height, width = shape
    mean = mean * channels if len(mean) == 1 else mean
    std = std * channels if len(std) == 1 else std
    try:
        spec = InputSpec(channels=channels, height=height, width=width, mean=mean, std=std)
    except ValidationError as error:
        raise UsageError(
            f"{subject.name}: --input, --mean or --std cannot be used: {error.errors()[0]['msg']}."
        ) from error
    subject.spec, subject.classes = spec, found.classes or options.classes
    subject.names = options.class_names
    return subject


def _subjects(
    path: Path, teacher_options: TeacherOptions
) -> tuple[list[_Subject], tuple[str, ...]]:
    """What a path stands for, and what there is to say of what it holds besides."""
    if path.suffix == ".onnx":
        return [_of_onnx(path, str(path))], ()
    if (path / layout.MANIFEST).is_file():
        return _of_bundle(path)
    # A folder of `save_pretrained` is a teacher
    if path.is_dir() and not (path / CONFIG).is_file():
        return [_of_student(path)], ()
    teacher = load_teacher(path, teacher_options, generator=torch.Generator().manual_seed(0))
    subject = _Subject(str(path), teacher.info.input, teacher.info.classes)
    subject.names, subject.module = teacher.info.class_names, teacher.module
    if PROBABILITIES in teacher.info.notes:
        subject.notes = (PROBABILITIES,)
    return [subject], ()


def _of_onnx(path: Path, name: str) -> _Subject:
    subject = _Subject(name, None, None)
    subject.onnx = read_classifier(path)
    subject.notes = () if subject.onnx.note is None else (subject.onnx.note,)
    return subject


def _of_bundle(path: Path) -> tuple[list[_Subject], tuple[str, ...]]:
    """The student and its models, after the bundle's sums were checked."""
    manifest = verification.verify_bundle(path).manifest
    subjects, left = [_of_student(path)], []
    for model in manifest.models:
        name = str(path / model.path)
        if "top1" in model.embedded:
            left.append(f"{name}: left out, it answers with classes alone (top1)")
            continue
        subject = _of_onnx(path / model.path, name)
        subject.spec, subject.classes = manifest.input, manifest.classes
        subjects.append(subject)
    for subject in subjects:
        subject.names = manifest.class_names
    return subjects, tuple(left)


def _of_student(path: Path) -> _Subject:
    student, module = read_student(path)
    subject = _Subject(str(path / student.checkpoint), student.input, student.architecture.classes)
    subject.module = module
    return subject


@torch.no_grad()
def module_logits(module: nn.Module, inputs: npt.NDArray[np.float32]) -> Logits:
    """Outputs (N, K) of a CPU module for normalised images (N, C, H, W)."""
    parts = np.array_split(inputs, max(1, len(inputs) // 250))
    return np.concatenate([module(torch.from_numpy(part)).numpy() for part in parts])


# --- figures --------------------------------------------------------------------------------------


def result(name: str, logits: Logits, labels: npt.NDArray[np.int64], first: Logits) -> ModelResult:
    """The figures of one model.

    Args:
        name: as it is printed.
        logits: (N, K) of the model.
        labels: (N,) the truth.
        first: (N, K) of the model that agreement is with.
    """
    decided = logits.argmax(1)
    right = decided == labels
    classes = range(logits.shape[1])
    confidence = _confidence(logits)
    return ModelResult(
        model=name,
        accuracy=float(right.mean()),
        accuracy_interval=share_interval(float(right.mean()), len(right)),
        agreement_with_first=agreement(logits, first),
        per_class=tuple(
            float(right[labels == number].mean()) if bool((labels == number).any()) else None
            for number in classes
        ),
        confusions=tuple(_confusions(labels, decided)),
        calibration_error=calibration_error(confidence, right),
        mean_confidence=float(confidence.mean()),
    )


def never_right(
    student: Logits, teacher: Logits, labels: npt.NDArray[np.int64], names: tuple[str, ...] | None
) -> dict[str, int]:
    """Images by class, of the classes that a student never finds and its teacher does.

    Args:
        student: logits (N, K).
        teacher: likewise.
        labels: (N,).
        names: of the classes; None: their numbers.
    """
    lost = {}
    for number in np.unique(labels):
        inside = labels == number
        found = (logits[inside].argmax(1) == number for logits in (student, teacher))
        ours, theirs = (bool(right.any()) for right in found)
        if theirs and not ours:
            lost[names[number] if names is not None else str(number)] = int(inside.sum())
    return lost


def _confidence(logits: Logits) -> npt.NDArray[np.float64]:  # (N, K) -> (N,), 0..1
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    shares: npt.NDArray[np.float64] = 1.0 / np.exp(shifted).sum(1)
    return shares


def _confusions(labels: npt.NDArray[np.int64], decided: npt.NDArray[np.int64]) -> list[Confusion]:
    wrong = labels != decided
    pairs = np.stack([labels[wrong], decided[wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:WORST_PAIRS]
    return [
        Confusion(truth=int(found[k][0]), taken_for=int(found[k][1]), images=int(counts[k]))
        for k in order
    ]


def calibration_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error: gap of accuracy and confidence, weighted over equal bins.

    Guo et al., ICML 2017 ("On Calibration of Modern Neural Networks"), section 2, 15 bins.
    """
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    total = 0.0
    for number in range(BINS):
        inside = bins == number
        if bool(inside.any()):
            gap = abs(float(right[inside].mean()) - float(confidence[inside].mean()))
            total += gap * float(inside.mean())
    return min(1.0, total)


# --- in words -------------------------------------------------------------------------------------


def format_comparison(found: Comparison) -> str:
    """The comparison for a terminal."""
    names = found.class_names or tuple(map(str, range(found.classes)))
    width = max(len(each.model) for each in found.results)
    lines = [
        f"{found.data}: {found.images:,} images, {found.classes} classes. For reporting only.",
        f"{'':{width}}  accuracy       95 %    agreement 1st  calibration error",
    ]
    for each in found.results:
        low, high = each.accuracy_interval
        lines.append(
            f"{each.model:{width}}  {each.accuracy:8.2%}  {low:.1%}..{high:.1%}  "
            f"{each.agreement_with_first:12.2%}  {each.calibration_error:12.2%}"
        )
    lines += [f"note: {note}" for note in found.notes]
    for each in found.results:
        lines.append(f"{each.model}")
        known = [(share, names[k]) for k, share in enumerate(each.per_class) if share is not None]
        worst = [pair for pair in sorted(known)[:WORST_PAIRS] if pair[0] < 1.0]
        lines.append(
            "  weakest classes  "
            + (", ".join(f"{name} {share:.1%}" for share, name in worst) or "none: all are correct")
        )
        if each.confusions:
            lines.append(
                "  most confused    "
                + ", ".join(
                    f"{names[pair.truth]} as {names[pair.taken_for]} ({pair.images})"
                    for pair in each.confusions
                )
            )
    return "\n".join(lines)
