"""A search under a budget of three figures, and every candidate within it distilled as long as the last two were.

    python -m benchmarks.search --minutes 20 --shared ../shared

The demo's teacher, for this machine (target x86): latency, size and agreement are limited. Afterwards each candidate that
keeps the budget learns from the same images for as many steps as a run of the search's last rung, and is held against
MNIST's test images, which selected nothing. Rows go to benchmarks/results/search.csv, the picture to docs/images/search.png.
What was done is not done again: --cache holds it.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.distill.pairs import MNIST, accuracy
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.distill.models import architectures
from edgekd.distill.teachers.state_dict import read_weights
from edgekd.options import (
    SEARCH_MINUTES,
    DataOptions,
    RunOptions,
    SearchOptions,
    TrainingOptions,
)
from edgekd.progress import PlainDisplay
from edgekd.records import Student, from_json
from edgekd.search.search import (
    FILE,
    IMAGES,
    SearchJob,
    read_search,
    search,
)
from edgekd.search.successive_halving import distill_quietly
from edgekd.targets.catalogue import load_target
from edgekd.workflows.gate import read_budget
from edgekd.workflows.run_setup import DistillJob

RESULTS = Path(__file__).parents[1] / "results" / "search.csv"
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "search.png"
TEACHER = Path(__file__).parents[2] / "examples" / "mnist" / "teacher.pt"
LIMITS = ("latency-p50-ms=0.2", "size-kib=120", "agreement=0.9")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, default=Path("out") / "benchmarks" / "search")
    parser.add_argument("--minutes", type=float, default=SEARCH_MINUTES)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", action="append", help=f"default: {', '.join(LIMITS)}")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    out = asked.cache / "found"
    options = DistillJob(
        teacher=TEACHER,
        training=TrainingOptions(recipe=SearchOptions.recipe),
        run=RunOptions(seed=asked.seed, device="cpu", threads=asked.threads),
        out=out,
    )
    target = load_target("x86")
    took = asked.cache / "seconds.json"
    if not out.exists():
        begin = time.monotonic()
        limits = tuple(asked.limit or LIMITS)
        search(
            SearchJob(
                distil=options,
                target=target,
                budget=read_budget(file=None, limits=limits, target=None),
                names=(),
                minutes=asked.minutes,
                steps=None,
            ),
            PlainDisplay(),
        )
        took.write_text(json.dumps(time.monotonic() - begin))
    found = read_search(out / FILE)
    steps = max(run.steps for run in found.runs)
    inputs, labels = MNIST.tensors(asked.shared, "test")
    seen = {run.name: run for run in found.runs}  # the last of each
    for each in found.candidates:
        folder = asked.cache / "every" / each.name
        if not each.over and not (folder / "student.json").is_file():
            print(f"{each.name}: {steps} steps", file=sys.stderr, flush=True)
            distill_quietly(
                replace(
                    options,
                    training=replace(options.training, student=each.name, steps=steps),
                    data=DataOptions(images=out / IMAGES),
                    out=folder,
                )
            )
        row = {
            "name": each.name,
            "chosen": each.name == found.chosen,
            "front": each.name in found.front,
            "parameters": each.parameters,
            "macs": each.macs,
            "precision": each.precision,
            **{metric: f"{cost.value:.6g}" for metric, cost in sorted(each.costs.items())},
            "over": " ".join(sorted(each.over)),
            "search_steps": seen[each.name].steps if each.name in seen else "",
            "search_agreement": f"{seen[each.name].agreement:.4f}" if each.name in seen else "",
            "steps": "" if each.over else steps,
            **dict.fromkeys(("agreement", "accuracy"), ""),
            "search_seconds": f"{json.loads(took.read_text()):.0f}",
            "seed": asked.seed,
            "threads": torch.get_num_threads() if asked.threads is None else asked.threads,
            "device": processor(),
            "torch": torch.__version__,
            "note": asked.note,
        }
        if not each.over:
            row |= _result(folder, inputs, labels)
        append_row(RESULTS, row)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / "search.png", PICTURE)


def _result(folder: Path, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, str]:
    path = folder / "student.json"
    student = from_json(
        Student, path.read_text(encoding="utf-8"), origin=str(path), schema="student"
    )
    module = architectures.build(student.architecture)
    module.load_state_dict(read_weights(folder / student.checkpoint).state)
    with torch.no_grad():
        share = accuracy(module, inputs, labels)
    return {"agreement": f"{student.agreement:.4f}", "accuracy": f"{share:.4f}"}


main()
