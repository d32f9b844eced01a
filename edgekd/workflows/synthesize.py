"""`edgekd synthesize`: images ahead of any student, kept as a set that runs share and that can grow."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgekd import __version__
from edgekd.distill.compute.device import Compute, choose_compute
from edgekd.distill.data.synthetic_set import (
    CLASSES,
    IMAGES,
    RECORD,
    ImageSet,
)
from edgekd.distill.synthesis.image_set_builder import STEPS, Synthesis
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.training.checkpoint import RunFolder
from edgekd.distill.training.cost_forecast import available_bytes, format_duration
from edgekd.errors import UsageError
from edgekd.files import check_writable, digest_of, new_folder
from edgekd.interrupts import Interrupts, caught
from edgekd.options import RunOptions, SynthesisOptions
from edgekd.progress import Display
from edgekd.records import SyntheticSet, TeacherInfo, to_json
from edgekd.report import image_strips
from edgekd.workflows.distill import REVEALING, Checkpoints, coverage_of
from edgekd.workflows.run_setup import image_set, load_and_report_teacher, recipe_for

PREVIEW: Final = "preview.png"
PREVIEW_CLASSES: Final = 20
PREVIEW_IMAGES: Final = 10  # of a class
# Pixels of an image in it, at most
PREVIEW_SIDE: Final = 64

Pixels = npt.NDArray[np.uint8]  # (N, H, W, C)


@dataclass(frozen=True, kw_only=True)
class SynthesisJob:
    """What `edgekd synthesize` is asked to do."""

    teacher: Path
    teacher_options: TeacherOptions = field(default_factory=TeacherOptions)
    count: int
    out: Path
    synthesis: SynthesisOptions = field(default_factory=SynthesisOptions)
    run: RunOptions = field(default_factory=RunOptions)


def synthesize(options: SynthesisJob, display: Display) -> SyntheticSet:
    """Make the images, or those that are missing, and write the set.

    Raises:
        UsageError: the set has as many already.
        InputFileError: a set to extend is of another teacher, or is none.
    """
    if options.count < 1:
        raise UsageError(f"--count {options.count}: at least 1.")
    RunFolder.require_free(RunFolder.beside(options.out))
    check_writable(options.out, force=options.run.force or options.synthesis.extend)
    display.warn(REVEALING.replace("the bundle holds", "a set holds").partition(" --no-images")[0])
    compute = choose_compute(options.run.device, threads=options.run.threads)
    teacher = load_and_report_teacher(
        options.teacher, options.teacher_options, seed=options.run.seed, display=display
    )
    info = teacher.info
    found = image_set(options.out, info) if options.synthesis.extend else None
    there = _there(found, info)
    if sum(there) >= options.count:
        raise UsageError(
            f"{options.out} has {sum(there):,} images already; --count says how many it is to have in all."
        )
    run = _fresh(options, teacher, compute, there)
    identity = {
        "edgekd": __version__,
        "teacher": info.state_digest,
        "input": asdict(info.input),
        "recipe": asdict(run.recipe),
        "count": options.count,
        "seed": options.run.seed,
        "precision": compute.precision,
        "extends": found.record.digest if found is not None else None,
    }
    path = RunFolder.beside(options.out)
    with (
        caught() as interrupts,
        RunFolder.open(path, identity, restart=options.run.restart) as folder,
    ):
        if folder.load(run):
            display.say(f"images   goes on from {run.progress:.0%}")
        else:
            _forecast(_fresh(options, teacher, compute, there), display)
        _run(run, folder, interrupts, display)
        teacher.verify_unchanged()
        record = _write_set(options, run, teacher, found, display)
        folder.discard()
    _closing(options, record, display)
    return record


def _there(found: ImageSet | None, info: TeacherInfo) -> tuple[int, ...]:
    if found is None:
        return (0,) * info.classes
    return tuple(int(count) for count in np.bincount(found.classes, minlength=info.classes))


def _fresh(
    options: SynthesisJob, teacher: Teacher, compute: Compute, there: tuple[int, ...]
) -> Synthesis:
    return Synthesis(
        teacher,
        recipe_for(options.synthesis.recipe, teacher),
        count=options.count,
        there=there,
        # What is added must not be what is there.
        seed=options.run.seed + sum(there),
        compute=compute,
    )


def _forecast(scratch: Synthesis, display: Display) -> None:
    """From two batches: the first also allocates."""
    shape, count = scratch.teacher.info.input.shape, scratch.count
    seconds: list[float] = []
    for point, _ in zip(scratch.events(), range(2), strict=False):
        seconds.append(point.elapsed_s - sum(seconds))
    recipe = scratch.recipe
    batch_s = min(seconds) * STEPS
    total_s = recipe.first_batches * min(seconds) + -(-count // recipe.source.batch) * batch_s
    image_bytes = shape[0] * shape[1] * shape[2]
    display.say(
        f"images   {count:,} by recipe {recipe.name} on {scratch.compute.device.type} in {scratch.compute.precision}: "
        f"about {format_duration(total_s)} if every class comes as it is asked for, {batch_s:.1f} s per batch "
        f"of {recipe.source.batch}; {count * image_bytes / 2**20:,.1f} MiB on the disk"
    )
    free = available_bytes()
    most = scratch.batches * recipe.source.batch * image_bytes
    if free is not None and most > free:
        raise UsageError(
            f"--count {count}: up to {most / 2**30:.1f} GiB of images are held in memory, and {free / 2**30:.1f} "
            "GiB are free. Make fewer, and add to them with --extend."
        )


def _run(run: Synthesis, folder: RunFolder, interrupts: Interrupts, display: Display) -> None:
    checkpoints = Checkpoints(folder, run)
    teacher_options = len(run.warnings)
    with interrupts.defer(), display.running() as show:
        for point in run.events():
            progress = run.progress
            show(point, progress, run.elapsed_s * (1 / progress - 1) if progress else None)
            for warning in run.warnings[teacher_options:]:
                display.warn(warning)
            teacher_options = len(run.warnings)
            checkpoints.after_step(at_once=interrupts.pending is not None or progress >= 1.0)
            if interrupts.pending is not None:
                raise interrupts.pending


def _write_set(
    options: SynthesisJob,
    run: Synthesis,
    teacher: Teacher,
    found: ImageSet | None,
    display: Display,
) -> SyntheticSet:
    made = run.select_images()
    images: Pixels = np.ascontiguousarray(made.images.permute(0, 2, 3, 1).numpy())
    classes = made.classes.numpy().astype(np.int64)
    grown: tuple[int, ...] = (len(images),)
    if found is not None:
        # The first images stay as they are: whoever learned from them can say so.
        images = np.concatenate([found.images, images])
        classes = np.concatenate([found.classes, classes])
        grown = (*(found.record.grown or (found.record.count,)), len(images))
    info = teacher.info
    with new_folder(options.out, force=options.run.force or options.synthesis.extend) as folder:
        np.save(folder / IMAGES, images)
        np.save(folder / CLASSES, classes)
        record = SyntheticSet(
            file=IMAGES,
            digest=digest_of(folder / IMAGES),
            count=len(images),
            input=info.input,
            teacher_digest=info.state_digest,
            seed=options.run.seed,
            coverage=coverage_of(teacher, images, classes),
            classes_file=CLASSES,
            classes_digest=digest_of(folder / CLASSES),
            recipe=run.recipe.name,
            grown=grown,
            lacking=made.lacking,
        )
        (folder / RECORD).write_text(to_json(record, schema="synthetic-set"))
        _preview(folder / PREVIEW, images, classes, info)
    for number, short in made.lacking.items():
        display.warn(
            f"class {_name(info, number)} has {short:,} images fewer than its share: the teacher decided so for too few "
            "of those that were made; others stand in their place"
        )
    return record


def _name(info: TeacherInfo, number: int) -> str:
    return info.class_names[number] if info.class_names is not None else str(number)


def _preview(path: Path, images: Pixels, classes: npt.NDArray[np.int64], info: TeacherInfo) -> None:
    """A row a class, spread over all of them where there are many."""
    shown = min(info.classes, PREVIEW_CLASSES)
    rows = [
        images[classes == info.classes * compute // shown][:PREVIEW_IMAGES]
        for compute in range(shown)
    ]
    kept = [row for row in rows if len(row)]
    path.write_bytes(image_strips.sheet(kept, info.input, side=PREVIEW_SIDE))


def _closing(options: SynthesisJob, record: SyntheticSet, display: Display) -> None:
    counts = record.coverage.class_histogram
    display.say(
        f"set      {options.out}: {record.count:,} images, {min(counts):,} to {max(counts):,} a class, mean confidence "
        f"{record.coverage.mean_confidence:.2f}; {options.out}/{PREVIEW} shows some"
    )
    display.say(f"next     edgekd distill {options.teacher} --images {options.out}")
