"""Whether checkpoints are recognised: 60 networks of timm and 40 of torchvision, wrapped five ways each.

python benchmarks/recognition.py [--seed 0] [--out benchmarks/results/recognition.csv]

Every network gets random weights and 17 classes, and is saved as people save them. Right: edgekd
names one network, and that one, built anew from the file, answers as the saved one does. Question:
it asks, and the saved network is among the answers offered. Wrong is everything else.
"""

import argparse
import csv
import os
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from edgekd.distill.models import architectures
from edgekd.distill.teachers import architecture_recognition, fingerprints
from edgekd.distill.teachers.build_module import load_state
from edgekd.distill.teachers.inspection import inspect_teacher
from edgekd.distill.teachers.inspection.kinds import Inspection
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.teachers.state_dict import state_of
from edgekd.records import Architecture

CLASSES = 17
LARGEST = 60_000_000  # parameters; five copies of each are written to the disk


def bare(module: nn.Module, path: Path) -> None:
    torch.save(module.state_dict(), path)


def parallel(module: nn.Module, path: Path) -> None:
    state = torch.nn.DataParallel(module).state_dict()
    torch.save({"epoch": 90, "arch": "?", "state_dict": state, "best_acc1": 76.1}, path)


def compiled(module: nn.Module, path: Path) -> None:
    torch.save({"model": torch.compile(module).state_dict(), "step": 7}, path)


def lightning(module: nn.Module, path: Path) -> None:
    state = {f"model.{name}": value for name, value in module.state_dict().items()}
    state["criterion.weight"] = torch.ones(CLASSES)
    torch.save(
        {
            "epoch": 3,
            "global_step": 900,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": state,
            "optimizer_states": [
                {"state": {0: {"exp_avg": torch.zeros(3, 3)}}, "param_groups": []}
            ],
            "hyper_parameters": {"lr": 0.1},
        },
        path,
    )


def averaged(module: nn.Module, path: Path) -> None:
    average = torch.optim.swa_utils.AveragedModel(module)
    torch.save({"state_dict": module.state_dict(), "state_dict_ema": average.state_dict()}, path)


def tensors(module: nn.Module, path: Path) -> None:
    state = {name: value.contiguous().clone() for name, value in module.state_dict().items()}
    save_file(state, path)


WRAPPINGS = {
    "state dict": (bare, ".pt"),
    "DataParallel": (parallel, ".pth"),
    "compiled": (compiled, ".pt"),
    "Lightning": (lightning, ".ckpt"),
    "EMA": (averaged, ".pth"),
    "safetensors": (tensors, ".safetensors"),
}


def choose_names(seed: int) -> list[str]:
    """A hundred names, drawn from what the index knows and a disk holds."""
    entries = fingerprints.load_index().entries
    draw = random.Random(seed)
    names = []
    for source, count in (("timm:", 60), ("torchvision:", 40)):
        known = sorted(
            name
            for name, entry in entries.items()
            if name.startswith(source)
            and entry.kind == "classifier"
            and entry.parameters <= LARGEST
            and entry.configurations
        )
        names += draw.sample(known, count)
    return names


@torch.no_grad()
def answers_alike(known: Inspection, module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the network that was found, with the file's weights, answers as the saved one."""
    assert known.network is not None
    assert known.taken is not None
    source, name = known.network.source, known.network.name
    found = Architecture(
        source=source, name=name, channels=3, classes=CLASSES, height=shape[1], width=shape[2]
    )
    other = architectures.build(found)
    state = state_of(known.taken.checkpoint, known.taken.weights)
    if known.network.original_names:
        state = {f"{known.taken.weights.prefix}{part}": value for part, value in state.items()}
    load_state(known.known.path, other, state, what=str(found))
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    expected, answer = module.eval()(images), other.eval()(images)
    return bool((expected - answer).abs().max() <= 1e-4 * expected.abs().max())


def judge(known: Inspection, truth: str, module: nn.Module, shape: tuple[int, ...]) -> str:
    if known.network is not None:
        if not answers_alike(known, module, shape):
            return "wrong"
        # How images are made is another matter: of 17 classes nobody publishes weights
        return (
            "question"
            if any("--arch" in each.option for each in known.known.questions)
            else "right"
        )
    found = None if known.taken is None else architecture_recognition.recognise(known.taken.weights)
    offered = found.functions if found is not None else ()
    asked = {value for question in known.known.questions for value, _ in question.choices}
    honest = any(truth in each.names and each.names[0] in asked for each in offered)
    return "question" if honest else "wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recognition.csv"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    fingerprints.load_index()
    rows = []
    wrappings = list(WRAPPINGS.items())
    for number, truth in enumerate(choose_names(options.seed)):
        torch.manual_seed(options.seed + number)  # noqa: TID251 - the libraries draw from it
        source, _, name = truth.partition(":")
        shape = fingerprints.load_index().entries[truth].configurations[0].input
        module = architectures.build(
            Architecture(
                source=source,
                name=name,
                channels=3,
                classes=CLASSES,
                height=shape[1],
                width=shape[2],
            )
        )
        # Five of six, another left out each time.
        for wrapping, (save, suffix) in wrappings[: number % 6] + wrappings[number % 6 + 1 :]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"teacher{suffix}"
                save(module, path)
                started = time.perf_counter()
                known = inspect_teacher(path, TeacherOptions())
                seconds = time.perf_counter() - started
                verdict = judge(known, truth, module, shape)
            rows.append((truth, wrapping, verdict, str(known.network or ""), f"{seconds:.3f}"))
            if verdict == "wrong":
                print(f"wrong: {truth} as {wrapping}: {known.network} {known.known.questions}")
        print(f"{number + 1:3} {truth}: {', '.join(row[2] for row in rows[-5:])}", flush=True)
    with options.out.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("network", "wrapping", "verdict", "found", "seconds"))
        writer.writerows(rows)
    counts = {
        verdict: sum(row[2] == verdict for row in rows)
        for verdict in ("right", "question", "wrong")
    }
    seconds = [float(row[4]) for row in rows]
    print(
        f"{len(rows)} files: {counts['right']} right, {counts['question']} honest questions, {counts['wrong']} wrong; "
        f"{statistics.median(seconds):.3f} s in the middle, {max(seconds):.3f} s at most"
    )


if __name__ == "__main__":
    main()
