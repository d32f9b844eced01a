"""Whether a teacher is fed as it was trained, for `edgekd teacher check`: on labelled images.

Preprocessing and the order of classes are invisible in weights, and a student of a teacher that is
fed wrongly succeeds at the wrong thing. N images, H x W pixels, C channels, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from edgekd.bench.analysis.statistics import share_interval
from edgekd.distill.data.labelled import load_labelled, normalise
from edgekd.distill.teachers.inspection import inspect_teacher
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import QualityError
from edgekd.records import (
    Count,
    Digest,
    InputSpec,
    Share,
    record,
)
from edgekd.workflows.evaluate import Logits, module_logits

# A share is then known to about 2 %
MOST_IMAGES: Final = 2000
# Blue, green, red; of 0..255 pixels
_CAFFE_MEAN: Final = (103.94, 116.78, 123.68)
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Pixels = npt.NDArray[np.uint8]  # (N, H, W, C)
Prepared = npt.NDArray[np.float32]  # (N, C, H, W)


@record
class Variant:
    """The teacher on the same images, prepared otherwise."""

    name: str
    accuracy: Share


@record
class ClassOrder:
    """A renaming of classes that makes the teacher right."""

    accuracy: Share
    # For each output of the teacher, the label it answers to
    label_of: tuple[int | None, ...]


@record
class TeacherCheck:
    """What `edgekd teacher check --json` prints."""

    teacher: str
    data: str
    data_digest: Digest
    images: Annotated[int, Field(ge=1)]
    classes: Count
    accuracy: Share
    # 95 %, Wilson
    accuracy_interval: tuple[Share, Share]
    variants: tuple[Variant, ...]  # best first
    # Where another order does clearly better
    class_order: ClassOrder | None
    verdict: Literal["right", "wrong", "chance"]
    hints: tuple[str, ...]
    # Networks with the names and shapes of the file, where it does not say which; best first
    networks: tuple[Variant, ...] = ()
    # Of the images: what was left out, and what was made of them
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Preprocessing:
    name: str
    # What to do if this is the best
    hint: str
    prepare: Callable[[Pixels], Prepared]


def check_teacher(path: Path, evaluation: Path, teacher_options: TeacherOptions) -> TeacherCheck:
    """Run a teacher on labelled images as configured, and in other ways.

    Where the file's names and shapes fit several networks, each is run, and what is said is of the best.

    Args:
        path: of the teacher.
        evaluation: see `data.load_labelled`; at most `MOST_IMAGES` of it are used, evenly taken.
        teacher_options: of the teacher, where its file does not say it.

    Raises:
        InputFileError: the teacher or the images cannot be used.
    """
    candidates = _candidates(path, teacher_options)
    if not candidates:
        return _check(path, evaluation, teacher_options)
    found = {
        name: _check(path, evaluation, replace(teacher_options, arch=name)) for name in candidates
    }
    ranked = sorted(found, key=lambda name: -found[name].accuracy)
    best, second = found[ranked[0]], found[ranked[1]]
    apart = best.accuracy_interval[0] > second.accuracy_interval[1]
    hint = (
        f"--arch {ranked[0]}" if apart else "these images do not tell which network it is: --arch"
    )
    return replace(
        best,
        networks=tuple(Variant(name=name, accuracy=found[name].accuracy) for name in ranked),
        hints=(*best.hints, hint),
    )


def _candidates(path: Path, teacher_options: TeacherOptions) -> tuple[str, ...]:
    """Networks that the file may be of, where nothing else is open."""
    questions = inspect_teacher(path, teacher_options).known.questions
    if len(questions) != 1 or questions[0].option != "--arch NAME":
        return ()
    names = tuple(name for name, _ in questions[0].choices if ".py:" not in name)
    return names if len(names) > 1 else ()


def _check(path: Path, evaluation: Path, teacher_options: TeacherOptions) -> TeacherCheck:
    teacher = load_teacher(path, teacher_options, generator=torch.Generator().manual_seed(0))
    spec, classes = teacher.info.input, teacher.info.classes
    data = load_labelled(
        evaluation, spec=spec, classes=classes, class_names=teacher.info.class_names
    )
    taken = np.unique(np.linspace(0, len(data.labels) - 1, MOST_IMAGES).astype(np.int64))
    images, labels = data.images[taken], data.labels[taken]
    logits = module_logits(teacher.module, normalise(images, spec))
    accuracy = float(np.mean(logits.argmax(1) == labels))
    interval = share_interval(accuracy, len(labels))
    ways = [*_ways(spec), _own(images, spec)]
    shares = {
        way.name: float(
            np.mean(module_logits(teacher.module, way.prepare(images)).argmax(1) == labels)
        )
        for way in ways
    }
    # Of ways that cannot be told apart the commonest; the images' own statistics come last.
    least = share_interval(max(shares.values()), len(labels))[0]
    best = next(way for way in ways if shares[way.name] >= least)
    order = _order(logits, labels, classes)
    # Of two explanations the one that makes more images right; by luck both can do better than none.
    told = [
        (shares[best.name], f"looks like {best.name} ({shares[best.name]:.1%} right): {best.hint}")
    ]
    if order is not None:
        told.append((order.accuracy, _order_hint(order, teacher.info.class_names)))
    share, hint = max(told)
    better = share_interval(share, len(labels))[0] > interval[1]
    hints = [hint] if better else []
    if order is not None and (not better or share > order.accuracy):
        order = None
    # Whoever always answers the most frequent class is right so often.
    chance = float(np.bincount(labels, minlength=classes).max()) / len(labels)
    verdict: Literal["right", "wrong", "chance"] = "wrong" if hints else "right"
    if not hints and interval[0] <= chance:
        verdict = "chance"
        hints.append(
            "no better than answering one class always, however the images are prepared: are these images of "
            "its task, and is this the right file?"
        )
    return TeacherCheck(
        teacher=path.name,
        data=data.name,
        data_digest=data.digest,
        images=len(labels),
        classes=classes,
        accuracy=accuracy,
        accuracy_interval=interval,
        variants=tuple(
            Variant(name=way.name, accuracy=shares[way.name])
            for way in sorted(ways, key=lambda way: -shares[way.name])
        ),
        class_order=order,
        verdict=verdict,
        hints=tuple(hints),
        notes=data.notes,
    )


def require_right(found: TeacherCheck) -> None:
    """Raise when the teacher is fed wrongly.

    Raises:
        QualityError: with what it looks like.
    """
    if found.verdict != "right":
        raise QualityError(f"{found.teacher}: {'; '.join(found.hints)}")


# --- other ways to prepare images ---------------------------------------------------------------


def _ways(spec: InputSpec) -> list[_Preprocessing]:
    plain = InputSpec(
        channels=spec.channels,
        height=spec.height,
        width=spec.width,
        mean=(0.0,) * spec.channels,
        std=(1.0,) * spec.channels,
    )

    def with_(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Pixels], Prepared]:
        other = InputSpec(
            channels=spec.channels, height=spec.height, width=spec.width, mean=mean, std=std
        )
        return lambda images: normalise(images, other)

    half = (0.5,) * spec.channels
    ways = [
        _Preprocessing(
            name="pixels of 0..255, not normalised",
            hint="--mean 0 --std 0.00392157",
            prepare=lambda images: normalise(images, plain) * np.float32(255),
        ),
        _Preprocessing(
            name="pixels of 0..1, without mean and std",
            hint="--mean 0 --std 1",
            prepare=with_(plain.mean, plain.std),
        ),
        _Preprocessing(
            name="pixels of -1..1", hint="--mean 0.5 --std 0.5", prepare=with_(half, half)
        ),
        _Preprocessing(
            name="inverted pixels (dark for bright)",
            hint="the images are negatives of what it was trained on",
            prepare=lambda images: normalise(255 - images, spec),
        ),
    ]
    if spec.height == spec.width:
        ways.append(
            _Preprocessing(
                name="transposed images (rows for columns)",
                hint="height and width are exchanged in the images or in training",
                prepare=lambda images: normalise(images.transpose(0, 2, 1, 3), spec),
            )
        )
    if spec.channels == 3:
        ways += [
            _Preprocessing(
                name="BGR",
                hint="it was trained on blue, green, red: exchange the first and third input channel of its "
                "first layer, and mean and std with them",
                prepare=lambda images: normalise(images[..., ::-1], spec),
            ),
            _Preprocessing(
                name="BGR pixels of 0..255 with their mean taken off (Caffe)",
                hint="exchange the first and third input channel of its first layer; "
                "--mean 0.485,0.458,0.408 --std 0.00392157",
                prepare=_caffe,
            ),
            _Preprocessing(
                name="ImageNet's mean and std",
                hint="--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
                prepare=with_(*_IMAGENET),
            ),
        ]
    return ways


def _own(images: Pixels, spec: InputSpec) -> _Preprocessing:
    """Normalised by their own statistics, as whoever trained on such images may have done."""
    flat = images.reshape(-1, spec.channels).astype(np.float64) / 255
    mean = tuple(round(float(value), 4) for value in flat.mean(0))
    std = tuple(max(1e-4, round(float(value), 4)) for value in flat.std(0))
    other = InputSpec(
        channels=spec.channels, height=spec.height, width=spec.width, mean=mean, std=std
    )
    told = f"--mean {','.join(map(str, mean))} --std {','.join(map(str, std))}"
    return _Preprocessing(
        name="mean and std of these images",
        hint=told,
        prepare=lambda images: normalise(images, other),
    )


def _caffe(images: Pixels) -> Prepared:
    shifted = images[..., ::-1].astype(np.float32) - np.asarray(_CAFFE_MEAN, np.float32)
    return np.ascontiguousarray(shifted.transpose(0, 3, 1, 2))


# --- the order of classes -----------------------------------------------------------------------


def _order(logits: Logits, labels: npt.NDArray[np.int64], classes: int) -> ClassOrder | None:
    """The renaming of outputs that fits the labels, matched greedily from the most frequent pair."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (logits.argmax(1), labels), 1)
    left = counts.copy()
    label_of: list[int | None] = [None] * classes
    for _ in range(classes):
        output, label = divmod(int(left.argmax()), classes)
        if left[output, label] <= 0:
            break
        label_of[output] = label
        left[output, :] = -1
        left[:, label] = -1
    right = sum(
        int(counts[output, label]) for output, label in enumerate(label_of) if label is not None
    )
    if all(label is None or label == output for output, label in enumerate(label_of)):
        return None
    return ClassOrder(accuracy=right / len(labels), label_of=tuple(label_of))


def _order_hint(order: ClassOrder, names: tuple[str, ...] | None) -> str:
    moved = [
        (output, label)
        for output, label in enumerate(order.label_of)
        if label is not None and label != output
    ]
    shifts = {label - output for output, label in moved}
    what = ", ".join(
        f"output {output}{f' ({names[output]})' if names else ''} is label {label}"
        for output, label in moved[:5]
    )
    shifted = f", all shifted by {shifts.pop()}" if len(shifts) == 1 else ""
    more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
    return (
        f"looks like another order of classes{shifted} ({order.accuracy:.1%} right): {what}{more}; "
        "renumber the labels of the images, or give class_names in the teacher's order"
    )


def format_teacher_check(found: TeacherCheck) -> str:
    """The check for a terminal."""
    low, high = found.accuracy_interval
    lines = [
        f"{found.teacher} on {found.data}, {found.images:,} images, {found.classes} classes",
        f"  {found.accuracy:7.2%}  as configured (95 %: {low:.1%}..{high:.1%})",
    ]
    lines += [f"  {each.accuracy:7.2%}  {each.name}" for each in found.variants]
    lines += [f"  note: {note}" for note in found.notes]
    if found.networks:
        lines.append(
            "the file may be of each of these networks; what stands above is of the first:"
        )
        lines += [f"  {each.accuracy:7.2%}  --arch {each.name}" for each in found.networks]
    if found.verdict == "right":
        network = f" ({found.hints[-1]})" if found.networks else ""
        lines.append(
            f"right{network}: no other preparation and no other order of classes does clearly better"
        )
    else:
        lines += [f"{found.verdict}: {hint}" for hint in found.hints]
    return "\n".join(lines)
