"""Floors of the recipes: one short run each, as the test suite repeats it.

    python benchmarks/floors.py            # records what is missing of 5 seeds a recipe
    python benchmarks/floors.py --seeds 8

The demo's teacher, a small student, 32 images at once, 240 steps of the student: ten seconds of a
core, far from what a recipe reaches in minutes, and far from chance where a recipe works. A floor is
the mean of the recorded runs less three standard deviations.
"""

import argparse
import csv
import os
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch comes
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from benchmarks.distill.pairs import EXAMPLES, MNIST, PAIRS, accuracy
from benchmarks.distill.running import commit
from benchmarks.machine import processor
from edgekd.distill.choice import choose
from edgekd.distill.engine import Distillation
from edgekd.distill.place import Place, choose_place
from edgekd.distill.real import RealImages
from edgekd.distill.recipebook import RECIPES
from edgekd.distill.recipes import Recipe, for_batch
from edgekd.distill.said import TeacherOptions
from edgekd.distill.schedule import RunBudget
from edgekd.distill.teacher import Teacher, load_teacher

RESULTS = Path(__file__).parent / "results" / "floors.csv"
STEPS, BATCH, KEPT = 240, 32, 100
STUDENT = "resnet8-w4"


def demo_teacher() -> Teacher:
    """The demo's, which comes with edgekd."""
    told = tomllib.loads((EXAMPLES / "teacher.toml").read_text(encoding="utf-8"))
    said = TeacherOptions(
        arch=told["arch"], input=tuple(told["input"]), mean=tuple(told["mean"]), std=tuple(told["std"])
    )  # fmt: skip
    return load_teacher(EXAMPLES / "teacher.pt", said, generator=torch.Generator().manual_seed(0))


def shortened(recipe: Recipe) -> Recipe:
    """The recipe as it is, but for lengths and sizes."""
    small = for_batch(recipe, BATCH)
    return replace(
        small,
        source=replace(small.source, steps=min(20, small.source.steps), width=16),
        memory=replace(small.memory, width=16),
        learning=replace(small.learning, steps=min(30, small.learning.steps)),
        first_batches=2,
        held_out_every=STEPS,
    )


def short_run(name: str, seed: int, *, teacher: Teacher, place: Place) -> float:
    """Accuracy of the delivered student on 900 real test images; 100 others serve as few real ones."""
    with np.load(EXAMPLES / "test-1000.npz") as found:
        images, labels = (torch.from_numpy(found[key]) for key in ("images", "labels"))
    images, labels = MNIST.normalised(images.permute(0, 3, 1, 2)), labels.long()
    real = RealImages(
        images=images[:KEPT],
        labels=labels[:KEPT],
        kind="samples",
        name="test-1000.npz",
        digest="0" * 64,
        notes=(),
    )
    few = real if RECIPES[name].source.weights.alignment else None
    run = Distillation(
        teacher,
        PAIRS["mnist-demo"].architecture(STUDENT),
        shortened(choose(name, teacher, real=few).recipe),
        budget=RunBudget(steps=STEPS),
        seed=seed,
        place=place,
        real=few,
    )
    for _ in run.events():
        pass
    return accuracy(run.deliver(), images[KEPT:], labels[KEPT:])


def recorded() -> dict[str, list[float]]:
    """Accuracy of every recorded run, by recipe."""
    found: dict[str, list[float]] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                found.setdefault(row["recipe"], []).append(float(row["accuracy"]))
    return found


def floor(reached: list[float]) -> float:
    """Mean less three standard deviations of the sample."""
    return fmean(reached) - 3 * stdev(reached)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    place, teacher = choose_place("cpu", threads=1), demo_teacher()
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(
                ("recipe", "seed", "accuracy", "device", "precision", "torch", "commit")
            )
        for name in RECIPES:
            for seed in range(len(recorded().get(name, [])), options.seeds):
                reached = short_run(name, seed, teacher=teacher, place=place)
                conditions = processor(), place.precision, torch.__version__, commit()
                writer.writerow((name, seed, f"{reached:.4f}", *conditions))
                stream.flush()
                print(f"{name}, seed {seed}: {reached:.2%}")
    for name, values in recorded().items():
        print(f"{name:20} {len(values)} runs, mean {fmean(values):.2%}, floor {floor(values):.2%}")


if __name__ == "__main__":
    main()
