"""One row: a run of the engine on a pair, measured on all of its real test images."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch

from benchmarks.distill.pairs import PAIRS, TOY_IMAGES, accuracy, rank_correlation, teacher_of
from benchmarks.machine import processor
from edgekd.distill.compute.device import Compute
from edgekd.distill.data.given_data import GivenData
from edgekd.distill.data.real_images import RealImages
from edgekd.distill.recipes.adaptation import for_batch, for_inherited
from edgekd.distill.recipes.config import Recipe, adjust
from edgekd.distill.recipes.schedule import RunBudget
from edgekd.distill.recipes.selection import select_recipe
from edgekd.distill.synthesis.generators import affordable_width
from edgekd.distill.training.distiller import Distillation
from edgekd.distill.training.progress_figures import ProgressImages
from edgekd.records import HistoryPoint
from edgekd.workflows.select_student import select_student

TOY_BATCH = 16
WATCHED = 2000  # test images that are looked at along the way


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is run. `name` and `seed` identify it within its table."""

    name: str
    pair: str
    recipe: str
    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)  # "losses.alignment": 0.0
    student: str | None = (
        None  # begun from the teacher: "cut:macs=0.25", or a name; None: the pair's, drawn
    )
    real: str | None = None  # "dm:10" or "real:10": condensed or real images, of each class


def change_recipe(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with other values, by their paths."""
    for path, value in changes.items():
        found = _with(recipe, path.split("."), value)
        assert isinstance(found, Recipe)
        recipe = found
    return recipe


def _with(record: object, path: list[str], value: object) -> object:
    assert is_dataclass(record)
    assert not isinstance(record, type)
    assert hasattr(record, path[0]), f"no {path[0]} in {type(record).__name__}"
    inner = value if len(path) == 1 else _with(getattr(record, path[0]), path[1:], value)
    return replace(record, **{path[0]: inner})


def run(
    row: Row,
    *,
    shared: Path,
    cache: Path,
    compute: Compute,
    say: Callable[[str], None],
    real: Callable[[Row], RealImages | None],
    show: bool = False,
    toy: bool = False,
) -> dict[str, object]:
    """Distil, measure, and say under which conditions; a toy only shows that all of it runs."""
    pair = PAIRS[row.pair]
    teacher = teacher_of(pair, shared=shared, cache=cache, compute=compute, say=say, toy=toy)
    images, labels = pair.data.tensors(shared, "test")
    if toy:
        images, labels = images[:TOY_IMAGES], labels[:TOY_IMAGES]
    found, budget = real(row), RunBudget(steps=row.steps, minutes=row.minutes)
    recipe = change_recipe(
        select_recipe(row.recipe, teacher, real=found, budget=budget).recipe, row.changes
    )
    if toy:
        recipe = replace(for_batch(recipe, TOY_BATCH), first_batches=1)
        recipe = replace(
            recipe,
            source=adjust(recipe.source, steps=1),
            learning=replace(recipe.learning, steps=4),
        )
    started = time.monotonic()
    student = select_student(
        row.student or pair.student,
        teacher,
        seed=row.seed,
        from_scratch=row.student is None,
        say=say,
    )
    if student.initial is not None:
        recipe = change_recipe(
            for_inherited(
                recipe,
                statistics=student.initial.statistics,
                width=affordable_width(teacher.info.input, macs=teacher.info.macs),
                steps=row.steps,
            ),
            row.changes,
        )
    engine = Distillation(
        teacher,
        student.architecture,
        recipe,
        budget=budget,
        seed=row.seed,
        compute=compute,
        given=GivenData(real=found, initial=student.initial),
        watched=ProgressImages(images=images[:WATCHED], labels=labels[:WATCHED]),
    )
    for event in engine.events():
        if show and event.point.agreement is not None:
            point = event.point
            losses = " ".join(f"{name} {value:.3g}" for name, value in point.losses.items())
            say(
                f"  {event.progress:4.0%} step {point.step} acc {point.accuracy:.4f} raw {point.raw_accuracy:.4f} "
                f"agreement {point.agreement:.3f} {losses}"
            )
    teacher.verify_unchanged()
    wall_s = time.monotonic() - started
    reached = accuracy(engine.deliver(), images, labels)
    return {
        "name": row.name,
        "pair": row.pair,
        "recipe": recipe.name,
        "seed": row.seed,
        "minutes": row.minutes or "",
        "steps": engine.step,
        "images": engine.synthesizer.made,
        "seconds": round(engine.elapsed_s, 1),
        "seconds_images": round(engine.images_s, 1),
        "seconds_wall": round(wall_s, 1),
        "teacher_accuracy": f"{accuracy(teacher.module, images, labels):.4f}",
        "accuracy": f"{reached:.4f}",
        **stability(engine.history),
        "agreement": f"{engine.agreement(engine.average):.4f}",
        "memory_bytes": engine.nbytes,
        "vae_keeps": _measure_fidelity(engine),
        "device": torch.cuda.get_device_name() if compute.device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "precision": compute.precision,
        "torch": torch.__version__,
        "commit": commit(),
        "changes": " ".join(
            f"{key}={value}"
            for key, value in {
                **({} if row.student is None else {"student": row.student}),
                **row.changes,
            }.items()
        ),
    }


def stability(history: list[HistoryPoint]) -> dict[str, str]:
    """Of the watched images' accuracy over the run, for the student as it learns and its average."""
    found: dict[str, str] = {}
    for kind, values in (
        ("raw", [point.raw_accuracy or 0.0 for point in history]),
        ("delivered", [point.accuracy or 0.0 for point in history]),
    ):
        last = values[-max(2, len(values) // 5) :]
        found |= {
            f"{kind}_final": f"{values[-1]:.4f}",
            f"{kind}_best": f"{max(values):.4f}",
            f"{kind}_mean": f"{fmean(values):.4f}",
            f"{kind}_sd": f"{pstdev(values):.4f}",
            f"{kind}_last_fifth_sd": f"{pstdev(last):.4f}",
        }
    agreed = [point.agreement or 0.0 for point in history]
    tracks = rank_correlation(agreed, [point.accuracy or 0.0 for point in history])
    return {**found, "agreement_tracks": f"{tracks:.3f}"}


def _measure_fidelity(engine: Distillation) -> str:
    """Share of the kept images whose class the replay gives back."""
    replay = engine.synthesizer.replay
    if replay is None:
        return ""
    kept = min(engine.pool.made, engine.pool.capacity)
    images = engine.pool.images[:kept].flatten(0, 1).float() / 255
    return f"{replay.measure_fidelity(engine.synthesizer.criterion, images):.4f}"


def commit() -> str:
    """Of the working tree; "-dirty" where it was changed since."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
