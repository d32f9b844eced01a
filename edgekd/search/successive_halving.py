"""Successive halving: all candidates learn a little, the best third learns three times as long, and so on.

Jamieson and Talwalkar, AISTATS 2016; a factor of three as in Hyperband (Li et al., JMLR 2018). Every run is one of
`workflows.distill`, on the same images, with its own schedule for its own length: a run of a later rung is not the earlier one
gone on, whose rate had fallen to nothing. Runs that are done stand in their folder and are not made again.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from edgekd.errors import CollapseError
from edgekd.files import read_text, write_atomically
from edgekd.progress import SilentDisplay
from edgekd.records import Student, from_json, record
from edgekd.workflows.distill import distil
from edgekd.workflows.run_setup import DistillJob

FACTOR: Final = 3


@record
class Run:
    """One candidate in one rung."""

    name: str
    rung: int
    steps: int
    # 0 where it collapsed
    agreement: float
    # That the agreement was measured on
    images: int
    # Relative to the search's
    folder: str
    # Why there is no student
    lost: str | None = None


@dataclass(frozen=True)
class Rung:
    candidates: int
    steps: int


def rungs(candidates: int, last: int) -> tuple[Rung, ...]:
    """How many candidates learn for how many steps; the last rung is of `last` steps.

    >>> rungs(12, 900)
    (Rung(candidates=12, steps=100), Rung(candidates=4, steps=300), Rung(candidates=2, steps=900))
    """
    counts = [candidates]
    while counts[-1] > 2:
        counts.append(max(2, math.ceil(counts[-1] / FACTOR)))
    lengths = [
        max(1, round(last / FACTOR ** (len(counts) - 1 - number))) for number in range(len(counts))
    ]
    return tuple(Rung(count, steps) for count, steps in zip(counts, lengths, strict=True))


class Pool(Protocol):
    """Where runs are made: here, one after the other, or on the machines of a cluster."""

    def map(
        self, function: Callable[[DistillJob], None], options: Sequence[DistillJob]
    ) -> Iterator[int]:
        """Run all; the numbers of those that are done, as they are done."""


class LocalExecutor:
    """One after the other: a run takes all processors."""

    def map(
        self, function: Callable[[DistillJob], None], options: Sequence[DistillJob]
    ) -> Iterator[int]:
        """In their order."""
        for number, each in enumerate(options):
            function(each)
            yield number


def successive_halving(
    names: Sequence[str],
    options: DistillJob,
    folder: Path,
    *,
    steps: int,
    pool: Pool,
    told: Callable[[Run], None],
) -> Iterator[list[Run]]:
    """The runs of each rung, the best first.

    Args:
        names: of the candidates.
        options: of every run, but for student, length and folder.
        folder: of the search.
        steps: of a run in the last rung.
        pool: where they are made.
        told: of each run as it is done.
    """
    left = list(names)
    for number, rung in enumerate(rungs(len(names), steps)):
        left = left[: rung.candidates]
        folders = [folder / f"rung-{number}" / _file_name(name) for name in left]
        missing = [
            replace(
                options,
                out=out,
                training=replace(options.training, student=name, steps=rung.steps, minutes=None),
                run=replace(options.run, force=True),
            )
            for name, out in zip(left, folders, strict=True)
            if not ((out / "student.json").is_file() or _note(out).is_file())
        ]
        waiting = {each.training.student for each in missing}
        done = [
            _run(name, number, rung.steps, out, folder)
            for name, out in zip(left, folders, strict=True)
            if name not in waiting
        ]
        for each in done:
            told(each)
        for finished in pool.map(distill_quietly, missing):
            name, out = missing[finished].training.student, missing[finished].out
            done.append(_run(name, number, rung.steps, out, folder))
            told(done[-1])
        done.sort(key=lambda run: (-run.agreement, left.index(run.name)))
        left = [run.name for run in done if run.lost is None]
        yield done


def distill_quietly(options: DistillJob) -> None:
    """One run, without a word; picklable, for other machines. One that collapses leaves a note instead of a student."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        distil(options, SilentDisplay())
    except CollapseError as error:
        write_atomically(_note(options.out), str(error))


def _note(out: Path) -> Path:
    return out.with_name(f"{out.name}.lost")


def _run(name: str, rung: int, steps: int, out: Path, folder: Path) -> Run:
    path = out / "student.json"
    place = out.relative_to(folder).as_posix()
    if not path.is_file() and _note(out).is_file():
        why = read_text(_note(out))
        return Run(
            name=name, rung=rung, steps=steps, agreement=0.0, images=1, folder=place, lost=why
        )
    student = from_json(Student, read_text(path), origin=str(path), schema="student")
    return Run(
        name=name,
        rung=rung,
        steps=steps,
        agreement=student.agreement,
        images=student.agreement_images,
        folder=place,
    )


def _file_name(name: str) -> str:
    return name.replace(":", "-").replace("/", "-")
