"""Where the time of the default recipe goes: shares of teacher, student, generator and all else.

    python benchmarks/shares.py --pair mnist-demo
    python benchmarks/shares.py --pair cifar10 --shared ../shared

Times whole rounds, then each network's passes by themselves, as often as a round has them. What the
passes do not account for (losses, statistics, augmentation, optimizers, averages) is overhead.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch comes
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.distill.pairs import PAIRS, teacher_of
from benchmarks.machine import processor
from edgekd.distill.compute.device import choose_compute
from edgekd.distill.recipes.schedule import RunBudget
from edgekd.distill.recipes.selection import select_recipe
from edgekd.distill.synthesis.generator_sources import MetaGenerator
from edgekd.distill.training.distiller import Distillation

ROUNDS = 5
PASSES = 7


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pair", default="mnist-demo", choices=PAIRS)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    compute = choose_compute(options.device, threads=options.threads)
    pair = PAIRS[options.pair]
    teacher = teacher_of(
        pair, shared=options.shared, cache=Path("out") / "benchmarks", compute=compute, say=print
    )
    recipe = select_recipe("auto", teacher, real=None).recipe
    run = Distillation(
        teacher,
        pair.architecture(pair.student),
        recipe,
        budget=RunBudget(steps=10**6),
        seed=0,
        compute=compute,
    )
    source, learning = run.synthesizer.source, recipe.learning
    assert isinstance(source, MetaGenerator)
    run.synthesizer.round(0.5, generator=run.generator)
    run.student.train()
    fit_s = time_calls(lambda: run.synthesizer.invert(generator=run.generator), ROUNDS, run)
    step_s = time_calls(lambda: run.student_step(), PASSES, run)
    latents = torch.randn(recipe.source.batch, source.source.latents, device=compute.device)
    with compute.autocast():
        images = source.network(latents).detach()
    shown = run.synthesizer.criterion.normalise(images)

    def generator() -> None:
        with compute.autocast():
            made = source.network(latents)
        made.sum().backward()

    def through(network: torch.nn.Module) -> Callable[[], None]:
        """Forward, and backward to the images."""

        def call() -> None:
            seen = shown.clone().requires_grad_()
            with compute.autocast():
                answers = network(seen)
            answers.float().sum().backward()

        return call

    def asked() -> None:
        with compute.autocast(), torch.no_grad():
            run.teacher_module(shown)

    def learned() -> None:
        with compute.autocast():
            answers = run.student(shown)
        answers.float().sum().backward()

    inner, steps = recipe.inner_steps, learning.steps
    parts = {
        "generator": inner * time_calls(generator, PASSES, run),
        "teacher, images": inner * time_calls(through(run.teacher_module), PASSES, run),
        "student, images": inner * time_calls(through(run.student.eval()), PASSES, run),
        "teacher, targets": steps * time_calls(asked, PASSES, run),
        "student, learning": steps * time_calls(learned, PASSES, run),
    }
    whole = fit_s + steps * step_s
    parts["overhead"] = whole - sum(parts.values())
    print(
        f"{options.pair}, recipe {recipe.name}, {processor()}, {torch.get_num_threads()} threads, {compute.precision}"
    )
    print(
        f"round {whole:.2f} s: images {fit_s:.2f} s, {steps} student steps of {1e3 * step_s:.1f} ms"
    )
    for name, seconds in parts.items():
        print(f"  {name:18} {seconds:6.2f} s  {seconds / whole:4.0%}")


def time_calls(call: Callable[[], object], times: int, run: Distillation) -> float:
    """Median seconds, after one call that nobody counts."""
    call()
    found = []
    for _ in range(times):
        run.compute.synchronize()
        started = time.perf_counter()
        call()
        run.compute.synchronize()
        found.append(time.perf_counter() - started)
    return median(found)


if __name__ == "__main__":
    main()
