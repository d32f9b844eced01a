"""Teacher to student: the run, its folder, and what it leaves for the stages after it."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from edgekd import __version__
from edgekd.distill import architectures, imagesets, recipes
from edgekd.distill.checkpoint import Resumable, RunFolder
from edgekd.distill.data import normalised
from edgekd.distill.engine import Distillation, Place
from edgekd.distill.place import choose_place
from edgekd.distill.preflight import (
    MEASURED_PIXELS,
    Forecast,
    available_bytes,
    forecast,
    spoken,
)
from edgekd.distill.recipes import RECIPES, Recipe
from edgekd.distill.said import TeacherOptions
from edgekd.distill.schedule import RunBudget
from edgekd.distill.statistics import watch_batch_norm
from edgekd.distill.teacher import Teacher, load_teacher
from edgekd.errors import UsageError
from edgekd.files import check_writable, digest_of, new_folder
from edgekd.interrupts import Interrupts, caught
from edgekd.progress import Display, duration
from edgekd.records import (
    Coverage,
    Student,
    SyntheticSet,
    TeacherInfo,
    to_json,
)

CALIBRATION_IMAGES: Final = 512
HELD_OUT_IMAGES: Final = 256
# Seconds between checkpoints: twenty times what the last one took, within these.
CHECKPOINT_LEAST_S: Final = 5.0
CHECKPOINT_MOST_S: Final = 60.0
STUDENT_FILE: Final = "student.safetensors"
CALIBRATION_FILE: Final = "calibration.npy"
HELD_OUT_FILE: Final = "held-out.npy"
AT_ONCE: Final = 128  # images, in one pass of the teacher
REVEALING: Final = (
    "the bundle holds images that were inverted out of the teacher; they can reveal what it was "
    "trained on. --no-images leaves them out."
)


Pixels = npt.NDArray[np.uint8]  # (N, H, W, C)


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """What `edgekd distill` and the first half of `edgekd compress` are told."""

    teacher: Path
    said: TeacherOptions
    student: str
    recipe: str
    budget: RunBudget
    seed: int
    device: str
    threads: int | None
    out: Path
    force: bool
    restart: bool
    command: tuple[str, ...]
    images: Path | None = None  # a set that was made ahead


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A delivered student with the images that later stages calibrate and check on. Not a record."""

    module: nn.Module  # evaluation mode, CPU
    choice: architectures.Choice
    size: architectures.Size
    agreement: float
    run: Distillation
    calibration: Pixels
    held_out: Pixels
    ahead: SyntheticSet | None  # what was learned from, where it was made before

    @property
    def teacher(self) -> TeacherInfo:
        return self.run.teacher.info


# --- distill --------------------------------------------------------------------------------------


def distil(options: DistilOptions, display: Display) -> Student:
    """Teacher to student folder: weights, record, images for calibration."""
    check_writable(options.out, force=options.force)
    place = choose_place(options.device, threads=options.threads)
    teacher = teacher_of(options, display)
    found = image_set_of(options, teacher.info)
    with caught() as interrupts, run_folder(options, teacher, place, found) as folder:
        distilled = distilled_by(options, teacher, place, folder, found, interrupts, display)
        with new_folder(options.out, force=options.force) as temporary:
            student = write_student(distilled, temporary)
            synthetic = synthetic_set(distilled, temporary)
            (temporary / "synthetic.json").write_text(to_json(synthetic, schema="synthetic-set"))
        folder.discard()
    display.say(
        f"student  {options.out}: agreement {student.agreement:.1%} on held-out synthetic images"
    )
    display.say(f"next     edgekd export {options.out} --target jetson")
    return student


def teacher_of(options: DistilOptions, display: Display) -> Teacher:
    return teacher_said(options.teacher, options.said, seed=options.seed, display=display)


def teacher_said(path: Path, said: TeacherOptions, *, seed: int, display: Display) -> Teacher:
    """Load a teacher and say what was understood of it."""
    teacher = load_teacher(
        path,
        said,
        generator=torch.Generator().manual_seed(seed),
        say=lambda text: display.warn(text),
    )
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
        f"         to noise it answers {noise.distinct_classes} of {info.classes} classes, mean confidence "
        f"{noise.mean_confidence:.2f}, logit deviation {noise.logit_std:.2g}"
    )
    return teacher


def _recipe(options: DistilOptions, info: TeacherInfo) -> Recipe:
    return recipe_for(options.recipe, info)


def recipe_for(name: str, info: TeacherInfo) -> Recipe:
    """A recipe by name, as it is used for this teacher.

    Raises:
        UsageError: no recipe is called so.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}. There is: {', '.join(RECIPES)}.")
    adapted = recipes.for_teacher(RECIPES[name], batch_norm=info.batch_norm_trained)
    return recipes.for_images(adapted, info.input.shape)


def _choice(options: DistilOptions, info: TeacherInfo) -> architectures.Choice:
    size = architectures.Size(parameters=info.parameters, macs=info.macs)
    return architectures.choose_student(options.student, teacher=info.architecture, size=size)


def image_set_of(options: DistilOptions, info: TeacherInfo) -> imagesets.ImageSet | None:
    return image_set(options.images, info) if options.images is not None else None


def image_set(path: Path, info: TeacherInfo) -> imagesets.ImageSet:
    """A set of images of this teacher; see `imagesets.read_set`."""
    return imagesets.read_set(
        path, teacher_digest=info.state_digest, spec=info.input, classes=info.classes
    )


def run_folder(
    options: DistilOptions, teacher: Teacher, place: Place, found: imagesets.ImageSet | None
) -> Any:  # noqa: ANN401
    """The folder of the unfinished run beside the output, for what decides the result."""
    info = teacher.info
    identity = {
        "edgekd": __version__,
        "teacher": info.state_digest,
        "input": asdict(info.input),
        "flip": teacher.flip,
        "student": str(_choice(options, info).architecture),
        "recipe": asdict(_recipe(options, info)),
        "budget": asdict(options.budget),
        "seed": options.seed,
        "precision": place.precision,
        "images": found.record.digest if found is not None else None,
    }
    path = options.out.with_name(f"{options.out.name}.run")
    return RunFolder.opened(path, identity, restart=options.restart)


def distilled_by(
    options: DistilOptions,
    teacher: Teacher,
    place: Place,
    folder: RunFolder,
    found: imagesets.ImageSet | None,
    interrupts: Interrupts,
    display: Display,
) -> Distilled:
    info = teacher.info
    choice, recipe = _choice(options, info), _recipe(options, info)
    ahead = imagesets.parted(found, origin=str(options.images)) if found is not None else None

    def fresh(recipe: Recipe) -> Distillation:
        return Distillation(
            teacher,
            choice.architecture,
            recipe,
            budget=options.budget,
            seed=options.seed,
            place=place,
            ahead=ahead,
        )

    run = fresh(recipe)
    size = architectures.size_of(architectures.build(choice.architecture), shape=info.input.shape)
    display.say(
        f"student  {choice.architecture}: {size.parameters:,} parameters, {size.macs / 1e6:,.1f} M MACs ({choice.reason})"
    )
    if folder.load(run):
        display.say(
            f"distil   goes on from step {run.step:,} ({run.progress:.0%}, {duration(run.elapsed_s)} spent)"
        )
    else:
        expected = forecast(fresh, recipe, pixels=info.input.height * info.input.width)
        display.say(
            f"distil   recipe {recipe.name} on {place.device.type} in {place.precision}: {expected}"
        )
        _warn_of_size(expected, info, place, display)
    _run(run, folder, interrupts, display)
    teacher.unchanged()
    module = run.deliver()
    calibration = torch.cat(run.pool.best_batches(-(-CALIBRATION_IMAGES // run.pool.batch)))
    held_out = run.held_out.images[: min(run.held_out.made, run.held_out.capacity)].flatten(0, 1)
    delivered = module.to(place.device)
    agreed = run.agreement(delivered)
    return Distilled(
        module=delivered.cpu(),
        choice=choice,
        size=size,
        agreement=agreed,
        run=run,
        calibration=pixels_of(calibration[:CALIBRATION_IMAGES]),
        held_out=pixels_of(held_out[:HELD_OUT_IMAGES]),
        ahead=found.record if found is not None else None,
    )


def _warn_of_size(expected: Forecast, info: TeacherInfo, place: Place, display: Display) -> None:
    """Large images: nothing of it was ever measured, and that is no reason to stop."""
    if max(info.input.height, info.input.width) >= MEASURED_PIXELS:
        display.warn(
            f"images of {info.input.height} x {info.input.width} are outside of what was measured (32 pixels): as "
            f"many steps as the CIFAR-10 benchmark made are about {spoken(expected.usual_s)} here and "
            f"{expected.memory_bytes / 2**30:.1f} GiB; scaled from a part of a batch. Going on"
        )
    if place.device.type == "cpu" and not expected.fits:
        display.warn(
            f"about {expected.memory_bytes / 2**30:.1f} GiB of memory are wanted, and "
            f"{(available_bytes() or 0) / 2**30:.1f} GiB are free: the run may be killed by the system. "
            "It goes on from where it was when it is started again; --device cuda has memory of its own"
        )


def pixels_of(images: torch.Tensor) -> Pixels:  # (N, C, H, W) -> (N, H, W, C)
    return np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())


class Checkpoints:
    """Saves a run now and then, so that a twentieth of its time goes into it at most."""

    def __init__(self, folder: RunFolder, run: Resumable) -> None:
        self.folder = folder
        self.run = run
        self.saved_at = time.monotonic()
        self.pause_s = CHECKPOINT_LEAST_S

    def after_step(self, *, at_once: bool) -> None:
        """Save if it is time to, or `at_once`."""
        started = time.monotonic()
        if not at_once and started - self.saved_at < self.pause_s:
            return
        self.folder.save(self.run)
        self.saved_at = time.monotonic()
        took_s = self.saved_at - started
        self.pause_s = min(CHECKPOINT_MOST_S, max(CHECKPOINT_LEAST_S, 20 * took_s))


def _run(run: Distillation, folder: RunFolder, interrupts: Interrupts, display: Display) -> None:
    """Drive the loop: show events, save between them, stop at a signal."""
    checkpoints = Checkpoints(folder, run)
    first: tuple[float, float] | None = None  # progress and seconds after the first, slower round
    with interrupts.deferred(), display.running() as show:
        for event in run.events():
            first = first or (event.progress, run.elapsed_s)
            show(event.point, event.progress, _left_s(run, event.progress, first))
            for warning in event.warnings:
                display.warn(warning)
            checkpoints.after_step(at_once=interrupts.pending is not None or event.progress >= 1.0)
            if interrupts.pending is not None:
                raise interrupts.pending


def _left_s(run: Distillation, progress: float, first: tuple[float, float]) -> float | None:
    """Seconds that the rest will take at the rate so far; None until there is one."""
    if run.budget.minutes is not None:
        return max(0.0, 60 * run.budget.minutes - run.elapsed_s)
    done = progress - first[0]
    return (run.elapsed_s - first[1]) / done * (1 - progress) if done > 0 else None


def write_student(distilled: Distilled, folder: Path) -> Student:
    """The weights as safetensors and the record beside them."""
    path = folder / STUDENT_FILE
    state = {name: tensor.contiguous() for name, tensor in distilled.module.state_dict().items()}
    path.write_bytes(safetensors_bytes(state))  # its own writer makes files that others can't read
    run = distilled.run
    student = Student(
        checkpoint=STUDENT_FILE,
        digest=digest_of(path),
        architecture=distilled.choice.architecture,
        input=distilled.teacher.input,
        parameters=distilled.size.parameters,
        macs=distilled.size.macs,
        chosen_because=distilled.choice.reason,
        teacher_digest=distilled.teacher.state_digest,
        recipe=run.recipe.name,
        seed=run.seed,
        steps=run.step,
        precision=run.place.precision,
        agreement=round(distilled.agreement, 6),
        agreement_images=min(run.held_out.made, run.held_out.capacity) * run.held_out.batch,
        warnings=tuple(run.warnings),
        history=tuple(run.history),
    )
    # The log holds seconds, which no two runs share; the report has it.
    (folder / "student.json").write_text(to_json(replace(student, history=()), schema="student"))
    return student


def synthetic_set(distilled: Distilled, folder: Path) -> SyntheticSet:
    np.save(folder / CALIBRATION_FILE, distilled.calibration)
    np.save(folder / HELD_OUT_FILE, distilled.held_out)
    info = distilled.teacher
    return SyntheticSet(
        file=CALIBRATION_FILE,
        digest=digest_of(folder / CALIBRATION_FILE),
        count=len(distilled.calibration),
        input=info.input,
        teacher_digest=info.state_digest,
        seed=distilled.run.seed,
        coverage=coverage_of(distilled.run.teacher, distilled.calibration),
    )


@torch.no_grad()
def coverage_of(
    teacher: Teacher, images: Pixels, classes: npt.NDArray[np.int64] | None = None
) -> Coverage:
    """How images (N, H, W, C) lie in the view of a teacher on the CPU.

    Args:
        teacher: as it was loaded.
        images: at least one.
        classes: (N,) what it decides, where that is known; asked otherwise.
    """
    info = teacher.info
    decided: list[npt.NDArray[np.int64]] = []
    confidence, distances, layers = 0.0, 0.0, 0
    for start in range(0, len(images), AT_ONCE):  # as floats, all of them can be large
        part = images[start : start + AT_ONCE]
        with watch_batch_norm(teacher.module) as statistics:
            logits = teacher.module(torch.from_numpy(normalised(part, info.input)))
        confidence += float(logits.softmax(1).max(1).values.sum())
        decided.append(logits.argmax(1).numpy())
        layers = len(statistics.seen)
        distances += float(statistics.distance()) * len(part) if layers else 0.0
    found = np.concatenate(decided) if classes is None else classes
    return Coverage(
        class_histogram=tuple(np.bincount(found, minlength=info.classes).tolist()),
        mean_confidence=round(min(1.0, confidence / len(images)), 4),
        batch_norm_distance=round(distances / len(images) / layers, 4) if layers else None,
    )
