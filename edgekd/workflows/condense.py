"""`edgekd condense`: a data set made into a few images a class, where the data is.

The one command that reads training data: whoever has it runs this, and hands on one small file.
"""

import io
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgekd import __version__
from edgekd.distill.compute.device import choose_compute
from edgekd.distill.data.class_folders import number_folders
from edgekd.distill.data.condensation import (
    METHODS,
    STEPS,
    Condensed,
    Plan,
    condense_images,
    input_of,
)
from edgekd.distill.data.image_files import FoundImages, read_images
from edgekd.errors import InputFileError, UsageError
from edgekd.files import check_writable_file, write_atomically
from edgekd.interrupts import caught
from edgekd.options import CondenseOptions, RunOptions
from edgekd.progress import Display, duration
from edgekd.records import (
    CondensedSet,
    HistoryPoint,
    InputSpec,
    to_json,
)

SCHEMA: Final = "condensed-set"
SHOWING: Final = "a condensed set is made of images of the data and shows what they show; keep it as you keep the data."


@dataclass(frozen=True, kw_only=True)
class CondenseJob:
    """What `edgekd condense` is asked to do."""

    data: Path
    per_class: int
    out: Path
    settings: CondenseOptions = field(default_factory=CondenseOptions)
    run: RunOptions = field(default_factory=RunOptions)


def condense(options: CondenseJob, display: Display) -> CondensedSet:
    """Make a set and write it as one file.

    Raises:
        UsageError: an unknown method, or more images than a class has.
        InputFileError: the data cannot be used.
        OutputError: the file is there, or cannot be written.
    """
    method = next((name for name in METHODS if name == options.settings.method), None)
    if method is None:
        raise UsageError(f"--method {options.settings.method}: choose from {', '.join(METHODS)}.")
    if options.out.suffix != ".npz":
        raise UsageError(f"--out {options.out}: the file is to end in .npz.")
    check_writable_file(options.out, force=options.run.force)
    compute = choose_compute(options.run.device, threads=options.run.threads)
    found = read_images(options.data, shape=options.settings.input, strict=options.settings.strict)
    if found.warning is not None:
        display.warn(found.warning)
    labels, class_names, told = _classes(found, options.data)
    classes = len(class_names) if class_names else int(labels.max()) + 1
    for note in (*found.notes, *told):
        display.warn(f"{found.name}: {note}")
    spec = input_of(found.images)
    plan = Plan(
        method=method,
        classes=classes,
        per_class=options.per_class,
        steps=STEPS[method] if options.settings.steps is None else options.settings.steps,
        seed=options.run.seed,
        # As for a teacher: colour images are of things that have no left and right.
        flip=spec.channels == 3 if options.settings.flip is None else options.settings.flip,
    )
    display.warn(SHOWING)
    display.say(
        f"data     {found.name}: {len(found.images):,} images of {classes} classes, "
        f"{spec.channels}x{spec.height}x{spec.width}, mean {_numbers(spec.mean)}, std {_numbers(spec.std)}"
    )
    display.say(f"condense {method} on {compute.device.type}: {_intention(plan)}")
    last: list[HistoryPoint] = []

    # A signal ends it at once: there is no half of a set to keep.
    with caught("Nothing was written; the same command starts again."), display.running() as show:

        def report_progress(point: HistoryPoint, progress: float) -> None:
            last[:] = [point]
            show(point, progress, point.elapsed_s * (1 / progress - 1))

        made = condense_images(
            found.images, labels, plan, spec=spec, device=compute.device, show=report_progress
        )
    record = _record(options, plan, spec, found, made, class_names=class_names)
    write_atomically(options.out, _archive(made, record), final=True)
    took = f" in {duration(last[0].elapsed_s)}" if last else ""
    display.say(f"set      {options.out}: {record.count:,} images, {plan.per_class} a class{took}")
    display.say(f"next     edgekd distill TEACHER --condensed {options.out}")
    return record


def _classes(
    found: FoundImages, path: Path
) -> tuple[npt.NDArray[np.int64], tuple[str, ...] | None, tuple[str, ...]]:
    """Labels, the names of the classes in their order where folders have some, and notes.

    Raises:
        InputFileError: there are no labels, fewer than two classes, or folders that say no order.
    """
    if found.labels is None:
        raise InputFileError(
            f"{path}: images without classes. Sort them into one folder for each class, or give a .npz with labels."
        )
    folders = found.class_names
    classes = len(folders) if folders else int(found.labels.max()) + 1
    if classes < 2:
        raise InputFileError(
            f"{path}: all images are of one class; a classifier needs two at least. Is this the folder above the classes?"
        )
    if folders is None:
        return found.labels, None, ()
    places, notes = number_folders(path, folders, classes=None)
    names = tuple(folders[place] for place in np.argsort(places))
    return places[found.labels], names, notes


def _intention(plan: Plan) -> str:
    wanted = f"{plan.per_class} images of each class"
    if plan.method == "random":
        return f"{wanted}, drawn"
    if plan.method == "herding":
        return f"{wanted}, chosen by features of a network after {plan.steps:,} steps on the data"
    return f"{wanted}, learned in {plan.steps:,} steps"


def _record(
    options: CondenseJob,
    plan: Plan,
    spec: InputSpec,
    found: FoundImages,
    made: Condensed,
    *,
    class_names: tuple[str, ...] | None,
) -> CondensedSet:
    return CondensedSet(
        file=options.out.name,
        digest=sha256(made.images.tobytes() + made.labels.tobytes()).hexdigest(),
        count=len(made.images),
        classes=plan.classes,
        class_names=class_names,
        per_class=plan.per_class,
        input=spec,
        method=plan.method,
        steps=plan.steps,
        seed=plan.seed,
        flip=plan.flip,
        source=found.name,
        source_digest=found.digest,
        source_images=len(found.images),
        source_skipped=len(found.skipped),
        made_with=f"edgekd {__version__}",
    )


def _archive(made: Condensed, record: CondensedSet) -> bytes:
    """The bytes of the `.npz`; numpy dates its members 1980, so the same set is the same file."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        images=made.images,
        labels=made.labels,
        mean=np.asarray(record.input.mean, np.float64),
        std=np.asarray(record.input.std, np.float64),
        about=np.asarray(to_json(record, schema=SCHEMA)),
    )
    return content.getvalue()


def format_condensed_set(record: CondensedSet) -> str:
    """What was made, for a terminal."""
    return (
        f"{record.file}: {record.count:,} images, {record.per_class} of each of {record.classes} classes, "
        f"by {record.method} from {record.source_images:,} images of {record.source}; content {record.digest[:12]}"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4f}" for value in values)
