"""Floors of the recipes: one short run each, as the test suite repeats it.

    python benchmarks/floors.py            # records what is missing of 5 seeds a recipe
    python benchmarks/floors.py --seeds 8

LeNet-5, trained for seconds on 700 images that come with edgekd, to half of it: 32 images at once and
600 steps of the student, ten seconds of a core. That is far from what a recipe reaches in minutes,
and far from chance where it works. A floor is the mean of the recorded runs less three standard
deviations.
"""

import argparse
import contextlib
import math
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch comes
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.distill.pairs import EXAMPLES, MNIST, PAIRS, accuracy
from benchmarks.distill.running import commit
from benchmarks.machine import processor
from benchmarks.rows import append_row, read_rows
from edgekd.distill.compute.device import Compute
from edgekd.distill.data import augment
from edgekd.distill.data.given_data import GivenData
from edgekd.distill.data.real_images import RealImages
from edgekd.distill.models import architectures, networks
from edgekd.distill.recipes.adaptation import for_batch
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import Recipe, adjust
from edgekd.distill.recipes.schedule import RunBudget
from edgekd.distill.recipes.selection import select_recipe
from edgekd.distill.teachers.loader import Teacher, load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.training.distiller import Distillation

RESULTS = Path(__file__).parent / "results" / "floors.csv"
STEPS, BATCH = 600, 32
TRAINING, TESTED, EPOCHS = 700, 300, 12  # images, images
KEPT = 100  # of the former, for recipes that take some real ones
CHANCE = 0.1


def digits() -> tuple[Tensor, Tensor]:
    """The 1,000 test images that come with edgekd, normalised (N, 1, 28, 28), and labels (N,)."""
    with np.load(EXAMPLES / "test-1000.npz") as found:
        images, labels = (torch.from_numpy(found[key]) for key in ("images", "labels"))
    return MNIST.normalise(images.permute(0, 3, 1, 2)).contiguous(), labels.long()


def small_teacher(seed: int) -> Teacher:
    """LeNet-5 after two seconds of training."""
    images, labels = digits()
    draw = torch.Generator().manual_seed(seed)
    module = architectures.build(PAIRS["mnist-lenet"].architecture("lenet5"))
    networks.initialise(module, generator=draw)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.05, total_steps=EPOCHS * (TRAINING // 50)
    )
    for _ in range(EPOCHS):
        for chosen in torch.split(torch.randperm(TRAINING, generator=draw), 50):
            shown = augment.shift(images[chosen], share=0.07, generator=draw)
            loss = functional.cross_entropy(module(shown), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.pt"
        torch.save(module.state_dict(), path)
        teacher_options = TeacherOptions(
            arch="lenet5", input=(1, 28, 28), mean=MNIST.mean, std=MNIST.std
        )
        return load_teacher(path, teacher_options, generator=torch.Generator().manual_seed(0))


def shorten(recipe: Recipe) -> Recipe:
    """The recipe as it is, but for lengths and sizes."""
    small = for_batch(recipe, BATCH)
    inner = 60 if small.source.kind == "pixels" else 10  # pixels learn more slowly than weights
    return replace(
        small,
        source=adjust(small.source, steps=min(inner, small.inner_steps), width=8, latents=32),
        memory=adjust(small.memory, width=8, latents=32),
        learning=replace(small.learning, steps=min(20, small.learning.steps)),
        first_batches=2,
        held_out_every=STEPS,
    )


def short_run(name: str, seed: int, *, compute: Compute) -> float:
    """Accuracy of the delivered student on the 300 images that nothing has seen."""
    images, labels = digits()
    few = None
    if RECIPES[name].losses.alignment:
        few = RealImages(
            images=images[:KEPT],
            labels=labels[:KEPT],
            kind="samples",
            name="test-1000.npz",
            digest="0" * 64,
            notes=(),
        )
    teacher = small_teacher(seed)
    run = Distillation(
        teacher,
        PAIRS["mnist-lenet"].architecture("lenet5-half"),
        shorten(select_recipe(name, teacher, real=few).recipe),
        budget=RunBudget(steps=STEPS),
        seed=seed,
        compute=compute,
        given=GivenData(real=few),
    )
    for _ in run.events():
        pass
    teacher.verify_unchanged()
    return accuracy(run.deliver(), images[-TESTED:], labels[-TESTED:])


def read_recorded() -> dict[str, list[float]]:
    """Accuracy of every recorded run, by recipe."""
    found: dict[str, list[float]] = {}
    for row in read_rows(RESULTS):
        found.setdefault(row["recipe"], []).append(float(row["accuracy"]))
    return found


def floors() -> dict[str, float]:
    """What a short run must reach, by recipe."""
    return {
        name: fmean(values) - 3 * _deviation(values) for name, values in read_recorded().items()
    }


def _deviation(values: list[float]) -> float:
    """Of a run's accuracy: that of the sample, or of drawing this many images where that is more.

    Five runs that happen to lie close would make a floor that some run on another processor
    falls through.
    """
    mean = fmean(values)
    return max(stdev(values), math.sqrt(mean * (1 - mean) / TESTED))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    compute = Compute(  # as the tests have it: float32, whatever the processor can
        device=torch.device("cpu"),
        precision="fp32",
        autocast=contextlib.nullcontext,
        backward=lambda loss: loss.backward(),  # type: ignore[no-untyped-call]
    )
    for name in RECIPES:
        for seed in range(len(read_recorded().get(name, [])), options.seeds):
            reached = short_run(name, seed, compute=compute)
            append_row(
                RESULTS,
                {
                    "recipe": name,
                    "seed": seed,
                    "accuracy": f"{reached:.4f}",
                    "device": processor(),
                    "precision": compute.precision,
                    "torch": torch.__version__,
                    "commit": commit(),
                },
            )
    lowest = floors()
    for name, values in read_recorded().items():
        print(f"{name:20} {len(values)} runs, mean {fmean(values):.2%}, floor {lowest[name]:.2%}")


if __name__ == "__main__":
    main()
