"""Teacher to student: the run, its folder, and what it leaves for the stages after it."""

import contextlib
import functools
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from edgekd import __version__
from edgekd.distill.compute.distributed import ProcessGroup
from edgekd.distill.data.labelled import normalise
from edgekd.distill.data.real_images import RealImages
from edgekd.distill.models import architectures, student_choice
from edgekd.distill.models.batch_norm import watch_batch_norm, watch_reach
from edgekd.distill.recipes.adaptation import for_batch
from edgekd.distill.recipes.config import Recipe
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.teachers.pt2.writer import write_program
from edgekd.distill.training import stability
from edgekd.distill.training.checkpoint import Resumable, RunFolder
from edgekd.distill.training.distiller import Distillation
from edgekd.errors import InterruptedRunError, TerminatedRunError, UsageError
from edgekd.files import digest_of, new_folder
from edgekd.interrupts import Interrupts, caught
from edgekd.progress import Display, duration
from edgekd.records import (
    Coverage,
    Plan,
    Student,
    SyntheticSet,
    TeacherInfo,
    to_json,
)
from edgekd.workflows.evaluate import module_logits
from edgekd.workflows.run_setup import (
    DistillJob,
    RunSetup,
    plan_run,
    prepare_run,
)

CALIBRATION_IMAGES: Final = 512
HELD_OUT_IMAGES: Final = 256
# Seconds between checkpoints: twenty times what the last one took, within these.
CHECKPOINT_LEAST_S: Final = 5.0
CHECKPOINT_MOST_S: Final = 60.0
STUDENT_FILE: Final = "student.safetensors"
CUT_FILE: Final = "student.cut.json"
PROGRAM_FILE: Final = "student.pt2"
CALIBRATION_FILE: Final = "calibration.npy"
HELD_OUT_FILE: Final = "held-out.npy"
ANSWERS_FILE: Final = "held-out-teacher.npy"
# Images, in one pass of the teacher
AT_ONCE: Final = 128
# Noted in the folder of a run that starts over with half of its batch
HALVED: Final = "batch"
LEAST_BATCH: Final = 8
REVEALING: Final = (
    "the bundle holds images that were inverted out of the teacher; they can reveal what it was "
    "trained on. --no-images leaves them out."
)


Pixels = npt.NDArray[np.uint8]  # (N, H, W, C)


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A delivered student with the images that later stages calibrate and check on. Not a record."""

    # Evaluation mode, CPU
    module: nn.Module
    choice: student_choice.StudentVariant
    size: student_choice.Size
    agreement: float
    run: Distillation
    calibration: Pixels
    held_out: Pixels
    # What was learned from, where it was made before
    ahead: SyntheticSet | None
    # What else was
    real: RealImages | None

    @functools.cached_property
    def answers(self) -> npt.NDArray[np.float32]:  # (M, K)
        """The teacher's logits on the held-out images, which `export` chooses INT8's ranges by."""
        return module_logits(self.run.teacher.module, normalise(self.held_out, self.teacher.input))

    @functools.cached_property
    def coverage(self) -> Coverage:
        """How the calibration images lie in the teacher's view."""
        return coverage_of(self.run.teacher, self.calibration)

    @property
    def teacher(self) -> TeacherInfo:
        return self.run.teacher.info


# --- distill --------------------------------------------------------------------------------------


def plan(options: DistillJob, display: Display) -> Plan:
    """What a run would do and cost; nothing is written."""
    setup = prepare_run(options, display)
    expected = plan_run(setup, setup.chosen.recipe, display)
    return Plan(
        recipe=setup.chosen.recipe.name,
        because=setup.chosen.reason,
        faithful=options.training.faithful,
        student=setup.student.architecture,
        steps=expected.steps,
        images=expected.images,
        image_batch_s=round(expected.image_batch_s, 4),
        student_step_s=round(expected.student_step_s, 5),
        duration_s=round(expected.duration_s, 1),
        memory_bytes=expected.memory_bytes,
        device=str(setup.compute.device),
        precision=setup.compute.precision,
    )


def distil(options: DistillJob, display: Display) -> Student | None:
    """Teacher to student folder: weights, record, images for calibration.

    Of several processes the first one writes it; the others return None.
    """
    RunFolder.require_free(RunFolder.beside(options.out))
    setup = prepare_run(options, display)
    with caught() as interrupts, run_folder(setup) as folder:
        distilled = run_distillation(setup, folder, interrupts, display)
        if distilled is None:
            return None
        with new_folder(options.out, force=options.run.force, done=folder.discard) as temporary:
            student = write_student(distilled, temporary)
            synthetic = synthetic_set(distilled, temporary)
            (temporary / "synthetic.json").write_text(to_json(synthetic, schema="synthetic-set"))
    display.say(
        f"student  {options.out}: agreement {student.agreement:.1%} on held-out synthetic images"
    )
    display.say(f"next     edgekd export {options.out} --target jetson")
    return student


def run_folder(setup: RunSetup) -> contextlib.AbstractContextManager[RunFolder]:
    """The folder of the unfinished run beside the output, for what decides the result."""
    options, info = setup.options, setup.teacher.info
    identity = {
        "edgekd": __version__,
        "teacher": info.state_digest,
        "input": asdict(info.input),
        "flip": setup.teacher.flip,
        "student": str(setup.student.architecture),
        "cut": asdict(setup.student.cut) if setup.student.cut is not None else None,
        "initial_weights": setup.student.initial_weights,
        "recipe": asdict(setup.chosen.recipe),
        "budget": asdict(setup.budget),
        "seed": options.run.seed,
        "precision": setup.compute.precision,
        "compiled": options.training.compile,
        "images": setup.ahead.record.digest if setup.ahead is not None else None,
        "real": setup.real.digest if setup.real is not None else None,
        "embeddings": digest_of(options.data.embeddings)
        if options.data.embeddings is not None
        else None,
        "ranks": setup.compute.world_size if setup.compute.world_size > 1 else None,
    }
    return RunFolder.open(
        RunFolder.beside(options.out),
        identity,
        restart=options.run.restart,
        group=setup.compute.group,
    )


def run_distillation(
    setup: RunSetup, folder: RunFolder, interrupts: Interrupts, display: Display
) -> Distilled | None:
    """Run to the end of the budget, from the start or from where it was.

    None on all of several processes but the first, which goes on alone.

    Raises:
        UsageError: the device's memory does not hold half of a batch either.
        EdgekdError: see `Distillation.events`.
    """
    halved = folder.read_note(HALVED) is not None
    recipe = setup.chosen.recipe
    if halved:
        recipe = for_batch(recipe, recipe.source.batch // 2)
    with contextlib.suppress(torch.OutOfMemoryError):
        run = _ran(setup, recipe, folder, interrupts, display)
        run.gather()
        return _deliver(setup, run, display) if setup.compute.is_main else None
    # Not in an except clause: the error would hold on to the memory that the next run needs.
    half = recipe.source.batch // 2
    # One of several processes cannot start over by itself.
    if halved or half < LEAST_BATCH or setup.compute.world_size > 1:
        raise UsageError(
            f"the device has too little memory for {recipe.source.batch} images at once. Set --batch {max(LEAST_BATCH, half)}, take a smaller --student, or --device cpu."
        )
    display.warn(
        f"out of memory with {recipe.source.batch} images at once: starts over with {half}, once"
    )
    torch.cuda.empty_cache()
    folder.forget()
    folder.note(HALVED, str(half))
    return run_distillation(setup, folder, interrupts, display)


def _ran(
    setup: RunSetup, recipe: Recipe, folder: RunFolder, interrupts: Interrupts, display: Display
) -> Distillation:
    run = setup.fresh(recipe)
    if folder.load(run):
        display.say(
            f"distil   goes on from step {run.step:,} ({run.progress:.0%}, {duration(run.elapsed_s)} spent)"
        )
    else:
        plan_run(setup, recipe, display)
    _run(run, folder, interrupts, display)
    return run


def _deliver(setup: RunSetup, run: Distillation, display: Display) -> Distilled:
    setup.teacher.verify_unchanged()
    for line in stability.format_stability(run.history):
        display.say(f"steady   {line}")
    display.say(
        f"         image synthesis took {duration(run.images_s)} of {duration(run.elapsed_s)}; the replay memory holds "
        f"{run.nbytes / 2**20:,.1f} MiB"
    )
    module = run.deliver()
    calibration = torch.cat(run.pool.best_batches(-(-CALIBRATION_IMAGES // run.pool.batch)))
    held_out = run.held_out.images[: min(run.held_out.made, run.held_out.capacity)].flatten(0, 1)
    delivered = module.to(setup.compute.device)
    agreed = run.agreement(delivered)
    shape = setup.teacher.info.input.shape
    return Distilled(
        module=delivered.cpu(),
        choice=setup.student,
        size=student_choice.size_of(setup.student.build(), shape=shape),
        agreement=agreed,
        run=run,
        calibration=pixels_of(calibration[:CALIBRATION_IMAGES]),
        held_out=pixels_of(held_out[:HELD_OUT_IMAGES]),
        ahead=setup.ahead.record if setup.ahead is not None else None,
        real=setup.real,
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
        due = at_once or started - self.saved_at >= self.pause_s
        if not self.folder.group.broadcast_number(due):
            return
        self.folder.save(self.run)
        self.saved_at = time.monotonic()
        took_s = self.saved_at - started
        self.pause_s = min(CHECKPOINT_MOST_S, max(CHECKPOINT_LEAST_S, 20 * took_s))


def _run(run: Distillation, folder: RunFolder, interrupts: Interrupts, display: Display) -> None:
    """Drive the loop: show events, save between them, stop at a signal."""
    checkpoints = Checkpoints(folder, run)
    # Progress and seconds after the first, slower round
    first: tuple[float, float] | None = None
    with interrupts.defer(), display.running() as show:
        for event in run.events():
            first = first or (event.progress, run.elapsed_s)
            show(event.point, event.progress, _remaining_s(run, event.progress, first))
            for warning in event.warnings:
                display.warn(warning)
            stop = _agree_on_interrupt(interrupts, run.compute.group)
            checkpoints.after_step(at_once=stop is not None or event.progress >= 1.0)
            if stop is not None:
                raise stop


def _agree_on_interrupt(interrupts: Interrupts, group: ProcessGroup) -> InterruptedRunError | None:
    """What stops the run, the same on every rank after the same round: a signal may not reach all."""
    pending = interrupts.pending
    code = group.all_reduce_max(0 if pending is None else pending.exit_code)
    if pending is None and code:
        interrupts.stop(
            TerminatedRunError if code == TerminatedRunError.exit_code else InterruptedRunError
        )
    return interrupts.pending


def _remaining_s(run: Distillation, progress: float, first: tuple[float, float]) -> float | None:
    """Seconds that the rest will take at the rate so far; None until there is one."""
    if run.budget.minutes is not None:
        return max(0.0, 60 * run.budget.minutes - run.elapsed_s)
    done = progress - first[0]
    return (run.elapsed_s - first[1]) / done * (1 - progress) if done > 0 else None


def write_student(distilled: Distilled, folder: Path) -> Student:
    """The weights as safetensors and the record beside them."""
    path = folder / STUDENT_FILE
    # Weights that layers share are written under each name: the format knows no sharing
    state = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in distilled.module.state_dict().items()
    }
    # Its own writer makes files that others can't read
    path.write_bytes(safetensors_bytes(state))
    run, choice = distilled.run, distilled.choice
    if choice.cut is not None:
        (folder / CUT_FILE).write_text(to_json(choice.cut, schema="cut"))
    by_program = choice.architecture.source not in architectures.BUILDABLE
    if by_program:
        shape = distilled.teacher.input.shape
        write_program(distilled.module, folder / PROGRAM_FILE, shape=shape)
    student = Student(
        checkpoint=STUDENT_FILE,
        digest=digest_of(path),
        architecture=choice.architecture,
        input=distilled.teacher.input,
        parameters=distilled.size.parameters,
        macs=distilled.size.macs,
        chosen_because=choice.reason,
        initial_weights=choice.initial_weights,
        cut=CUT_FILE if choice.cut is not None else None,
        cut_digest=digest_of(folder / CUT_FILE) if choice.cut is not None else None,
        program=PROGRAM_FILE if by_program else None,
        program_digest=digest_of(folder / PROGRAM_FILE) if by_program else None,
        teacher_digest=distilled.teacher.state_digest,
        recipe=run.recipe.name,
        seed=run.seed,
        steps=run.step,
        precision=run.compute.precision,
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
    np.save(folder / ANSWERS_FILE, distilled.answers)
    info = distilled.teacher
    return SyntheticSet(
        file=CALIBRATION_FILE,
        digest=digest_of(folder / CALIBRATION_FILE),
        count=len(distilled.calibration),
        input=info.input,
        teacher_digest=info.state_digest,
        seed=distilled.run.seed,
        coverage=distilled.coverage,
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
    with watch_reach(teacher.module) as reached:
        # As floats, all of them can be large
        for start in range(0, len(images), AT_ONCE):
            part = images[start : start + AT_ONCE]
            with watch_batch_norm(teacher.module) as statistics:
                logits = teacher.module(torch.from_numpy(normalise(part, info.input)))
            confidence += float(logits.softmax(1).max(1).values.sum())
            decided.append(logits.argmax(1).numpy())
            layers = len(statistics.seen)
            distances += float(statistics.distance()) * len(part) if layers else 0.0
    found = np.concatenate(decided) if classes is None else classes
    return Coverage(
        class_histogram=tuple(np.bincount(found, minlength=info.classes).tolist()),
        mean_confidence=round(min(1.0, confidence / len(images)), 4),
        batch_norm_distance=round(distances / len(images) / layers, 4) if layers else None,
        outside={name: round(share, 4) for name, share in reached.outside().items()},
    )
