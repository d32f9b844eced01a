"""The way from a teacher to a bundle: the stages in order, each handing the next what it needs."""

import functools
import shlex
from collections.abc import Callable
from pathlib import Path

from edgekd.bundle import layout
from edgekd.distill.models.student_choice import StudentVariant, Worth
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.training.checkpoint import RunFolder
from edgekd.errors import DeviceError, OverBudgetError, UsageError
from edgekd.files import new_folder
from edgekd.gate import gates as verdicts
from edgekd.gate.budget_file import NONE as NO_BUDGET
from edgekd.gate.figures import Reports, model_of
from edgekd.interrupts import caught
from edgekd.progress import Display
from edgekd.records import Target
from edgekd.search.auto_student import board_costs, over_budget, time_gained
from edgekd.search.candidates import Candidate
from edgekd.search.summary import nearest
from edgekd.workflows.data_used import warn_of_images
from edgekd.workflows.distill import run_distillation, run_folder
from edgekd.workflows.export_options import require_possible
from edgekd.workflows.fill_bundle import CompressJob, Outcome, fill_bundle
from edgekd.workflows.gate import check_budget
from edgekd.workflows.model_files import software_text
from edgekd.workflows.run_setup import prepare_run
from edgekd.workflows.select_student import BoardCosts

# --- compress -------------------------------------------------------------------------------------


def default_out(teacher: Path, target: Target) -> Path:
    return Path(f"{teacher.stem}-{target.board.name}")


def compress(options: CompressJob, display: Display) -> Outcome | None:
    """Teacher to bundle. A failed quality gate is in the outcome: see `require_gates`.

    Of several processes the first one makes it; the others return None when the student is done.

    Raises:
        EdgekdError: see each stage.
    """
    distil, target = options.distil, options.target
    RunFolder.require_free(RunFolder.beside(distil.out))
    require_possible(options.export, target)
    if options.bench_device is not None and not options.bundle.bench:
        raise UsageError(
            "--bench-device measures on a board, and --no-bench asks not to: leave out one of them."
        )
    check_budget(options.budget, junit=options.bundle.junit)
    if target.asked != target.id:
        display.say(
            f"target   {target.asked} is {target.id}: {target.board.title}, {software_text(target)}"
        )
    else:
        display.say(f"target   {target.board.title}, {software_text(target)}")
    passed_over: list[Candidate] = []
    try:
        # Students may be measured
        with caught():
            setup = prepare_run(
                distil,
                display,
                board=lambda teacher: _board(teacher, options, display, passed_over),
            )
    except UsageError as error:
        if not passed_over:
            raise
        raise OverBudgetError(nearest(passed_over, option="--student")) from error
    if options.bundle.keep_images:
        display.warn(warn_of_images(distil))
    with caught() as interrupts, run_folder(setup) as folder:
        distilled = run_distillation(setup, folder, interrupts, display)
        if distilled is None:
            return None
        with new_folder(distil.out, force=distil.run.force, done=folder.discard) as temporary:
            outcome = fill_bundle(options, distilled, setup.evaluation, temporary, display)
    _closing(outcome, display)
    return outcome


def _board(
    teacher: Teacher, options: CompressJob, display: Display, passed_over: list[Candidate]
) -> BoardCosts:
    """What students cost on the board; only `auto` asks whether they are worth it."""

    @functools.cache
    def worth() -> Callable[[StudentVariant], Worth]:
        return _worth(teacher, options, display, passed_over)

    return board_costs(
        teacher.info,
        options.target,
        display,
        device=options.bench_device,
        worth=lambda student: worth()(student),
    )


def _worth(
    teacher: Teacher, options: CompressJob, display: Display, passed_over: list[Candidate]
) -> Callable[[StudentVariant], Worth]:
    """What tells whether a student gains time on the board, or is over the budget."""
    gained = time_gained(teacher, options.target, display)
    over = over_budget(
        options.budget,
        options.target,
        teacher.info,
        display,
        device=options.bench_device,
        passed_over=passed_over,
    )

    def worth(student: StudentVariant) -> Worth:
        found = gained(student)
        return "too costly" if found != "too costly" and over(student) else found

    return worth


def require_gates(outcome: Outcome) -> None:
    """Raise when a gate of a bundle failed; the bundle stays, marked.

    Raises:
        QualityError: naming each gate.
        OverBudgetError: likewise, where quality passed.
        DeviceError: all passed, and the board that was to be measured on gave nothing.
    """
    verdicts.require_passed(outcome.report.gates, bundle=outcome.bundle)
    if outcome.report.bench_failed is not None:
        raise DeviceError(
            f"{outcome.report.bench_failed}\n{outcome.bundle} is whole, without figures of the board. Take them with: "
            f"edgekd bench {outcome.bundle} --device ..."
        )


def judgement(outcome: Outcome) -> verdicts.Judgement:
    """The verdicts on a bundle, as `edgekd gate` has them."""
    model = model_of(Reports(manifest=outcome.manifest), outcome.report.budget or NO_BUDGET)
    return verdicts.Judgement(
        subject=model.name,
        target=outcome.manifest.target.id,
        passed=all(result.passed for result in outcome.report.gates),
        results=outcome.report.gates,
    )


def _closing(outcome: Outcome, display: Display) -> None:
    manifest = outcome.manifest
    student, teacher = manifest.student, manifest.teacher
    share = teacher.parameters / student.parameters
    sizes = ", ".join(
        f"{model.precision.upper()} {model.size_bytes / 1024:,.0f} KiB" for model in manifest.models
    )
    display.say(
        f"student  {student.architecture}: {student.parameters:,} parameters, {share:.1f} times fewer than the "
        f"teacher; agreement {student.agreement:.1%} on held-out synthetic images; ONNX {sizes}"
    )
    display.say(
        f"bundle   {outcome.bundle} (quality: {manifest.quality}, content {manifest.content_digest[:12]})"
    )
    display.say(
        f"next     edgekd bundle inspect {outcome.bundle}   (all results and warnings)\n"
        f"         {outcome.bundle}/{layout.PAGE}   (the same with pictures, for a browser)"
    )
    for line in _on_the_board(outcome):
        display.say(f"         {line}")


def _on_the_board(outcome: Outcome) -> tuple[str, ...]:
    """What measures the bundle there, and what makes of its last model what runs there."""
    name = shlex.quote(str(outcome.bundle))
    model = outcome.manifest.models[-1].path
    runtime = outcome.manifest.target.software.runtime
    made = "ONNX Runtime's form" if runtime == "onnxruntime" else "an engine"
    return (
        f"edgekd bench {name} --device ssh://USER@BOARD   (measures it there)",
        "python3 firstboot/agent.pyz firstboot --bundle . --state ../engine   "
        f"(on the board, in a copy of the bundle: makes {made} of {model}, and checks it)",
    )
