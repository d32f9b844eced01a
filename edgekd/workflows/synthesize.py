"""`edgekd synthesize`: images ahead of any student, kept as a set that runs share and that can grow."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgekd import __version__
from edgekd.distill.compute.device import Compute, choose_compute
from edgekd.distill.compute.memory import available_bytes
from edgekd.distill.data.synthetic_set import (
    CLASSES,
    IMAGES,
    RECORD,
    ImageSet,
)
from edgekd.distill.models.student_choice import map_bytes
from edgekd.distill.recipes.adaptation import BATCH_BYTES, KEPT_MAPS, for_memory
from edgekd.distill.recipes.config import Recipe
from edgekd.distill.recipes.recipe_file import is_recipe_file
from edgekd.distill.synthesis.image_set_builder import STEPS, Synthesis
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.training.checkpoint import RunFolder
from edgekd.distill.training.cost_forecast import (
    format_duration,
    peak_bytes,
    resident_bytes,
    shorten,
    work,
)
from edgekd.errors import UsageError
from edgekd.files import check_writable, digest_of, new_folder
from edgekd.interrupts import Interrupts, caught
from edgekd.options import RunOptions, SynthesisOptions
from edgekd.progress import Display
from edgekd.records import SyntheticSet, TeacherInfo, to_json
from edgekd.report import image_strips
from edgekd.sole_writer import left_by_killed, sole_writer
from edgekd.workflows.distill import REVEALING, Checkpoints, coverage_of
from edgekd.workflows.run_setup import LARGE_PIXELS, image_set, load_and_report_teacher, recipe_for

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
    if found is not None and sum(there) >= options.count and left_by_killed(options.out):
        # Put in place by a run that was killed before it ended
        with sole_writer(options.out, wait=False):
            shutil.rmtree(RunFolder.beside(options.out), ignore_errors=True)
        _closing(options, found.record, display)
        return found.record
    if sum(there) >= options.count:
        raise UsageError(
            f"{options.out} has {sum(there):,} images already; --count says how many it is to have in all."
        )
    recipe = _recipe(options, teacher, compute, display)
    run = _fresh(options, teacher, recipe, compute, there)
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
            _forecast(lambda each: _fresh(options, teacher, each, compute, there), recipe, display)
        _run(run, folder, interrupts, display)
        teacher.verify_unchanged()
        record = _write_set(options, run, teacher, found, display, done=folder.discard)
    _closing(options, record, display)
    return record


def _there(found: ImageSet | None, info: TeacherInfo) -> tuple[int, ...]:
    if found is None:
        return (0,) * info.classes
    return tuple(int(count) for count in np.bincount(found.classes, minlength=info.classes))


def _recipe(options: SynthesisJob, teacher: Teacher, compute: Compute, display: Display) -> Recipe:
    """As it is used: on a CPU batches of large images are as large as memory allows, and that is said."""
    recipe = recipe_for(options.synthesis.recipe, teacher)
    info = teacher.info
    large = max(info.input.height, info.input.width) >= LARGE_PIXELS
    if not large or compute.device.type != "cpu" or is_recipe_file(options.synthesis.recipe):
        return recipe
    smaller = for_memory(recipe, map_bytes(teacher.module, shape=info.input.shape))
    if smaller != recipe:
        display.say(
            f"         batches of {smaller.source.batch} images instead of {recipe.source.batch}, so that one takes about "
            f"{BATCH_BYTES / 2**30:.0f} GiB"
        )
    return smaller


def _fresh(
    options: SynthesisJob,
    teacher: Teacher,
    recipe: Recipe,
    compute: Compute,
    there: tuple[int, ...],
) -> Synthesis:
    return Synthesis(
        teacher,
        recipe,
        count=options.count,
        there=there,
        # What is added must not be what is there.
        seed=options.run.seed + sum(there),
        compute=compute,
    )


def _forecast(fresh: Callable[[Recipe], Synthesis], recipe: Recipe, display: Display) -> None:
    """From two batches, or parts of them where one takes minutes: the first also allocates.

    Args:
        fresh: makes a run of the same set-up with a recipe; it is used up.
        recipe: of the real run.
        display: the forecast is said there.
    """
    scratch = fresh(recipe)
    info, count, batches = scratch.teacher.info, scratch.count, scratch.batches
    shape = info.input.shape
    timed = shorten(recipe, shape[1] * shape[2])
    if timed is not recipe:
        scratch = fresh(timed)
    seconds: list[float] = []
    spent_s = 0.0
    # Parts are short, and what else runs on the machine shows in them
    for point, _ in zip(scratch.events(), range(2 if timed is recipe else 4), strict=False):
        longer = STEPS if point.step > timed.first_batches else 1
        seconds.append((point.elapsed_s - spent_s) / longer)
        spent_s = point.elapsed_s
    step_s = min(seconds) * work(recipe) / work(timed)
    batch_s = step_s * STEPS
    total_s = recipe.first_batches * step_s + -(-count // recipe.source.batch) * batch_s
    image_bytes = shape[0] * shape[1] * shape[2]
    held = batches * recipe.source.batch * image_bytes
    maps = KEPT_MAPS * map_bytes(scratch.teacher.module, shape=shape) * recipe.source.batch
    on_cpu = scratch.compute.device.type == "cpu"
    memory_bytes = (max(peak_bytes(), resident_bytes() + maps) if on_cpu else maps) + held
    display.say(
        f"images   {count:,} by recipe {recipe.name} on {scratch.compute.device.type} in {scratch.compute.precision}: "
        f"about {format_duration(total_s)} if every class comes as it is asked for, {batch_s:.1f} s per batch "
        f"of {recipe.source.batch}; about {memory_bytes / 2**20:,.0f} MiB of memory, "
        f"{count * image_bytes / 2**20:,.1f} MiB on the disk"
    )
    free = available_bytes()
    if free is not None and held > free:
        raise UsageError(
            f"--count {count}: up to {held / 2**30:.1f} GiB of images are held in memory, and {free / 2**30:.1f} "
            "GiB are free. Make fewer, and add to them with --extend."
        )
    if free is not None and on_cpu and memory_bytes > free + resident_bytes():
        display.warn(
            f"about {memory_bytes / 2**30:.1f} GiB of memory are wanted, and {free / 2**30:.1f} GiB are free: the run may be "
            "killed by the system. It goes on from where it was when it is started again; --device cuda has memory of its own"
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
    *,
    done: Callable[[], None],
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
    force = options.run.force or options.synthesis.extend
    with new_folder(options.out, force=force, done=done) as folder:
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
