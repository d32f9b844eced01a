"""What a run is made of: everything it is told and given, loaded and checked before hours are spent."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from edgekd.distill.compute.device import Compute, choose_compute
from edgekd.distill.compute.distributed import SINGLE_PROCESS
from edgekd.distill.compute.memory import available_bytes
from edgekd.distill.data import synthetic_set
from edgekd.distill.data.given_data import GivenData
from edgekd.distill.data.labelled import LabelledImages, load_labelled, normalise
from edgekd.distill.data.real_images import RealImages, read_condensed, read_samples
from edgekd.distill.data.untrusted_arrays import read_npy
from edgekd.distill.models import student_choice
from edgekd.distill.models.student_choice import StudentVariant
from edgekd.distill.recipes.adaptation import (
    BATCH_BYTES,
    KEPT_MAPS,
    for_inherited,
    for_memory,
    for_ranks,
)
from edgekd.distill.recipes.config import Recipe
from edgekd.distill.recipes.recipe_file import is_recipe_file
from edgekd.distill.recipes.schedule import RunBudget, run_budget
from edgekd.distill.recipes.selection import SelectedRecipe, select_recipe
from edgekd.distill.synthesis.generators import affordable_width
from edgekd.distill.teachers.loader import Teacher, load_teacher, refuse_constant
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.training.cost_forecast import (
    LEAST_STEPS,
    MEASURED_PIXELS,
    Forecast,
    forecast,
    format_duration,
)
from edgekd.distill.training.distiller import Distillation
from edgekd.distill.training.progress_figures import ProgressImages
from edgekd.errors import InputFileError, UsageError
from edgekd.files import check_writable
from edgekd.options import DataOptions, RunOptions, TrainingOptions
from edgekd.progress import Display
from edgekd.records import TeacherInfo
from edgekd.workflows.select_student import NO_BOARD, BoardCosts, select_student

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# Labelled images that are looked at along the way
WATCHED: Final = 1000
# Along a side: batches are as large as was measured for images that are smaller
LARGE_PIXELS: Final = 128


@dataclass(frozen=True, kw_only=True)
class DistillJob:
    """What `edgekd distill` and the first half of `edgekd compress` are asked to do."""

    teacher: Path
    teacher_options: TeacherOptions = field(default_factory=TeacherOptions)
    out: Path
    training: TrainingOptions = field(default_factory=TrainingOptions)
    data: DataOptions = field(default_factory=DataOptions)
    run: RunOptions = field(default_factory=RunOptions)
    # As it was typed, for the report
    command: tuple[str, ...] = ()

    @property
    def budget(self) -> RunBudget | None:
        """Steps or minutes; None: the paper's own length.

        Raises:
            UsageError: both are given, or one is not positive.
        """
        training = self.training
        return run_budget(training.steps, training.minutes, default=not training.faithful)


def choose_run_compute(options: DistillJob) -> Compute:
    """Where to compute, and whether the output can be written there: the first process writes it."""
    compute = choose_compute(options.run.device, threads=options.run.threads, several=True)
    if compute.is_main:
        check_writable(options.out, force=options.run.force)
    return compute


def load_and_report_teacher(
    path: Path, teacher_options: TeacherOptions, *, seed: int, display: Display
) -> Teacher:
    """Load a teacher and say what was understood of it."""
    teacher = load_teacher(
        path,
        teacher_options,
        generator=torch.Generator().manual_seed(seed),
        say=lambda text: display.warn(text),
    )
    refuse_constant(teacher, generator=torch.Generator().manual_seed(seed))
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
        f"         on random noise it predicts {noise.distinct_classes} of {info.classes} classes, mean confidence "
        f"{noise.mean_confidence:.2f}, logit deviation {noise.logit_std:.2g}"
    )
    return teacher


def recipe_for(name: str, teacher: Teacher) -> Recipe:
    """A recipe by name, as it is used for this teacher and nothing else.

    Raises:
        UsageError: no recipe is called so, or the teacher is not for it.
    """
    return select_recipe(name, teacher, real=None).recipe


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """What a run is made of, settled and checked. Not a record."""

    options: DistillJob
    teacher: Teacher
    compute: Compute
    chosen: SelectedRecipe
    budget: RunBudget
    student: StudentVariant
    ahead: synthetic_set.ImageSet | None
    real: RealImages | None
    embeddings: torch.Tensor | None
    # Labelled images to report on. They select nothing.
    evaluation: LabelledImages | None = None

    def fresh(self, recipe: Recipe, *, compute: Compute | None = None) -> Distillation:
        """A run from the start; elsewhere, where a place is given."""
        found = self.ahead
        origin = str(self.options.data.images)
        return Distillation(
            self.teacher,
            self.student.architecture,
            recipe,
            budget=self.budget,
            seed=self.options.run.seed,
            compute=compute or self.compute,
            given=GivenData(
                ahead=synthetic_set.split_held_out(found, origin=origin)
                if found is not None
                else None,
                real=self.real,
                embeddings=self.embeddings,
                initial=self.student.initial,
            ),
            watched=_select_watched(self.evaluation, self.teacher.info),
            compiles=self.options.training.compile,
        )


def prepare_run(
    options: DistillJob,
    display: Display,
    *,
    board: Callable[[Teacher], BoardCosts] = lambda _: NO_BOARD,
) -> RunSetup:
    """Load and check all that a run is given, before hours are spent.

    Args:
        options: of the run.
        display: what happens is said there.
        board: of a teacher, what its students cost on their board.

    Raises:
        EdgekdError: what is wrong with it.
    """
    budget = options.budget
    statistics = condensed_statistics(options.data)
    compute = choose_run_compute(options)
    teacher = load_and_report_teacher(
        options.teacher, options.teacher_options, seed=options.run.seed, display=display
    )
    info = teacher.info
    # Files first: choosing a student may export and measure some.
    path = options.data.evaluation
    evaluation = None
    if path is not None:
        evaluation = load_labelled(
            path, spec=info.input, classes=info.classes, class_names=info.class_names
        )
        for note in evaluation.notes:
            display.warn(f"{evaluation.name}: {note}")
    if options.data.condensed is not None and options.data.samples is not None:
        raise UsageError("--condensed and --samples are two kinds of one thing: give one of them.")
    real = _real(options.data, info, statistics)
    chosen = select_recipe(
        options.training.recipe,
        teacher,
        real=real,
        faithful=options.training.faithful,
        batch=options.training.batch,
        budget=budget,
    )
    if options.data.images is not None and chosen.recipe.source.kind == "noise":
        raise UsageError(
            f"recipe {chosen.recipe.name} learns from nothing but noise: leave out --images."
        )
    ahead = image_set(options.data.images, info) if options.data.images is not None else None
    embeddings = _embeddings(options.data.embeddings, chosen.recipe, info)
    for note in chosen.notes:
        display.warn(note) if note.startswith("weaker") else display.say(f"         {note}")
    student = select_student(
        options.training.student,
        teacher,
        seed=options.run.seed,
        from_scratch=options.training.from_scratch,
        board=board(teacher),
        say=display.say,
    )
    # Whoever names the settings of a paper, or writes some, means them.
    as_written = options.training.faithful or is_recipe_file(options.training.recipe)
    if student.initial is not None and not as_written:
        adapted = for_inherited(
            chosen.recipe,
            statistics=student.initial.statistics,
            width=affordable_width(info.input, macs=info.macs),
            steps=None if budget is None else budget.steps,
        )
        chosen = replace(chosen, recipe=adapted)
    large = max(info.input.height, info.input.width) >= LARGE_PIXELS
    if large and compute.device.type == "cpu" and not options.training.batch and not as_written:
        kept = student_choice.map_bytes(teacher.module, shape=info.input.shape)
        smaller = for_memory(chosen.recipe, kept)
        if smaller != chosen.recipe:
            display.say(
                f"         batches of {smaller.source.batch} images instead of {chosen.recipe.source.batch}, so that one takes about "
                f"{BATCH_BYTES / 2**30:.0f} GiB ({KEPT_MAPS} times the teacher's maps, {kept / 2**20:,.0f} MiB an image); --batch N takes "
                "another number"
            )
        chosen = replace(chosen, recipe=smaller)
    return RunSetup(
        options=options,
        teacher=teacher,
        compute=compute,
        chosen=chosen,
        budget=budget or RunBudget(steps=chosen.steps),
        student=student,
        ahead=ahead,
        real=real,
        embeddings=embeddings,
        evaluation=evaluation,
    )


def condensed_statistics(data: DataOptions) -> Statistics | None:
    """Mean and standard deviation that condensed images were normalised with, where they are given.

    Raises:
        UsageError: only one of them is.
    """
    mean, std = data.condensed_mean, data.condensed_std
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UsageError("--condensed-mean and --condensed-std belong together: give both.")
    return mean, std


def _real(data: DataOptions, info: TeacherInfo, statistics: Statistics | None) -> RealImages | None:
    if data.condensed is not None:
        return read_condensed(
            data.condensed,
            spec=info.input,
            classes=info.classes,
            number=data.condensed_number,
            statistics=statistics,
            class_names=info.class_names,
        )
    if data.samples is not None:
        return read_samples(
            data.samples,
            spec=info.input,
            classes=info.classes,
            class_names=info.class_names,
            strict=data.strict,
        )
    return None


def _embeddings(path: Path | None, recipe: Recipe, info: TeacherInfo) -> torch.Tensor | None:
    """A table (K, E) from a `.npy` file.

    Raises:
        UsageError: the recipe takes none.
        InputFileError: it is not one.
    """
    if path is None:
        return None
    if recipe.source.kind != "noisy_layer":
        raise UsageError(
            f"--embeddings is for recipe nayer; recipe {recipe.name} does not ask for embeddings."
        )
    table = read_npy(path)
    right = table.ndim == 2 and len(table) == info.classes and table.dtype.kind == "f"
    if not right or not table.size or not np.isfinite(table).all():
        raise InputFileError(
            f"{path}: {table.dtype} of shape {table.shape}; expected finite floats, one row for each of the "
            f"{info.classes} classes."
        )
    return torch.from_numpy(table.astype(np.float32))


def _select_watched(found: LabelledImages | None, info: TeacherInfo) -> ProgressImages | None:
    """Some of the labelled images, to be looked at along the way."""
    if found is None:
        return None
    # Spread over the set: files are often sorted by class.
    chosen = np.linspace(0, len(found.labels) - 1, min(WATCHED, len(found.labels))).astype(np.int64)
    images = normalise(found.images[chosen], info.input)
    return ProgressImages(
        images=torch.from_numpy(images), labels=torch.from_numpy(found.labels[chosen])
    )


def image_set(path: Path, info: TeacherInfo) -> synthetic_set.ImageSet:
    """A set of images of this teacher; see `synthetic_set.read_set`."""
    return synthetic_set.read_set(
        path, teacher_digest=info.state_digest, spec=info.input, classes=info.classes
    )


def plan_run(setup: RunSetup, recipe: Recipe, display: Display) -> Forecast:
    """Say what a run would do and cost; nothing is written."""
    compute, info = setup.compute, setup.teacher.info
    architecture = setup.student.architecture
    size = student_choice.size_of(setup.student.build(), shape=info.input.shape)
    display.say(
        f"student  {architecture}: {size.parameters:,} parameters, {size.macs / 1e6:,.1f} M MACs ({setup.student.reason})"
    )
    # Every rank times its own share, at the same time as the others do: cores are shared.
    by_itself = functools.partial(setup.fresh, compute=replace(compute, group=SINGLE_PROCESS))
    share = for_ranks(recipe, compute.world_size)
    expected = forecast(by_itself, share, pixels=info.input.height * info.input.width)
    expected = replace(expected, images=expected.images * compute.world_size)
    settings = "the paper's settings" if setup.options.training.faithful else setup.chosen.reason
    several = f", {compute.world_size} processes" if compute.world_size > 1 else ""
    display.say(
        f"distil   recipe {recipe.name} ({settings}) on {compute.device.type} in {compute.precision}{several}: {expected}"
    )
    if setup.budget.minutes is not None and expected.steps < LEAST_STEPS:
        display.warn(
            f"the minutes are enough for about {expected.steps} of the student's steps, and fewer than {LEAST_STEPS} are hardly "
            f"worth a run: give --minutes {math.ceil(expected.least_s / 60)}"
        )
    _warn_of_size(expected, info, compute, display)
    return expected


def _warn_of_size(
    expected: Forecast, info: TeacherInfo, compute: Compute, display: Display
) -> None:
    """Large images: nothing of it was ever measured, and that is no reason to stop."""
    if max(info.input.height, info.input.width) >= MEASURED_PIXELS:
        display.warn(
            f"images of {info.input.height} x {info.input.width} are outside of what was measured (32 pixels): as "
            f"many steps as the CIFAR-10 benchmark made are about {format_duration(expected.usual_s)} here and "
            f"{expected.memory_bytes / 2**30:.1f} GiB; scaled from a part of a batch. Going on"
        )
    if compute.device.type == "cpu" and not expected.fits:
        display.warn(
            f"about {expected.memory_bytes / 2**30:.1f} GiB of memory are wanted, and "
            f"{(available_bytes() or 0) / 2**30:.1f} GiB are free: the run may be killed by the system. "
            "It goes on from where it was when it is started again; --device cuda has memory of its own"
        )
