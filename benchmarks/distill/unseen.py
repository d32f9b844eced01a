"""Teachers that no one tuned to: ordinary networks of timm and torchvision, compressed as a user would.

    python -m benchmarks.distill.unseen --list
    python -m benchmarks.distill.unseen --shared ../shared --minutes 4 --threads 1
    python -m benchmarks.distill.unseen --only resnet10t

Each teacher is trained once, from seed 0, for minutes, and kept as a plain state dict. `edgekd compress`
then runs with every other option as it comes; `student` and `recipe` are what it chose. One row each goes
into benchmarks/results/unseen.csv, whatever came of it. Rows that stand there are not run again.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch comes

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.distill.pairs import CIFAR10, FASHION, MNIST, Data, accuracy
from benchmarks.distill.running import commit
from benchmarks.machine import processor
from benchmarks.rows import append_row, read_rows
from edgekd.distill.data import augment
from edgekd.errors import OverBudgetError, QualityError

RESULTS: Final = Path(__file__).parents[1] / "results" / "unseen.csv"
CACHE: Final = Path("out") / "benchmarks" / "unseen"
PADDED: Final = 32  # pixels; digits and clothes have 28
TESTED: Final = 2000  # images
BATCH: Final = 64
# With which a bundle is written
FINISHED: Final = (0, QualityError.exit_code, OverBudgetError.exit_code)
OF_BUNDLE: Final = (
    *("student", "initial_weights", "recipe", "teacher_parameters", "parameters", "teacher_macs"),
    *("macs", "accuracy", "int8_accuracy", "agreement_held_out", "agreement_test"),
    *("int8_agreement_test", "steps", "images", "seconds"),
)


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """A teacher, as `--arch` names it, and how it is trained."""

    arch: str
    data: Data
    images: int  # of the training set
    epochs: int
    rate: float
    adam: bool = False  # AdamW; otherwise SGD
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the library's constructor

    @property
    def name(self) -> str:
        return self.arch.partition(":")[2]

    def build(self) -> nn.Module:
        """The network as its library draws it, for ten classes."""
        source, _, name = self.arch.partition(":")
        if source == "timm":
            import timm

            made: nn.Module = timm.create_model(name, num_classes=10, **self.arguments)
        else:
            from torchvision import models

            made = models.get_model(name, weights=None, num_classes=10, **self.arguments)
        return made


def _as_rgb(data: Data, side: int) -> Data:
    """The data as three channels of `side` x `side` pixels."""
    repeat = 3 // data.channels
    return replace(data, channels=3, side=side, mean=data.mean * repeat, std=data.std * repeat)


MNIST_32 = _as_rgb(MNIST, 32)
FASHION_32, FASHION_64 = _as_rgb(FASHION, 32), _as_rgb(FASHION, 64)
CIFAR10_32, CIFAR10_64 = _as_rgb(CIFAR10, 32), _as_rgb(CIFAR10, 64)

TEACHERS: Final = {
    teacher.name: teacher
    for teacher in (
        Unseen(arch="timm:resnet10t", data=FASHION_32, images=20_000, epochs=2, rate=0.05),
        Unseen(arch="timm:mobilenetv3_small_050", data=FASHION_64, images=40_000, epochs=2, rate=0.05),
        Unseen(arch="timm:regnetx_002", data=FASHION_32, images=40_000, epochs=2, rate=0.05),
        Unseen(arch="timm:ghostnet_050", data=MNIST_32, images=30_000, epochs=2, rate=0.05),
        Unseen(arch="timm:convnext_atto", data=FASHION_32, images=20_000, epochs=2, rate=1e-3, adam=True),
        Unseen(arch="torchvision:resnet18", data=CIFAR10_32, images=49_000, epochs=1, rate=0.05),
        Unseen(arch="timm:mnasnet_small", data=MNIST_32, images=28_000, epochs=2, rate=0.05),
        Unseen(arch="torchvision:shufflenet_v2_x0_5", data=CIFAR10_64, images=49_000, epochs=3, rate=0.05),
        Unseen(arch="torchvision:mobilenet_v2", data=FASHION_32, images=20_000, epochs=2, rate=0.05),
        Unseen(
            arch="timm:vit_tiny_patch16_224", data=FASHION_64, images=15_000, epochs=2, rate=5e-4, adam=True,
            arguments={"img_size": 64},
        ),
        Unseen(arch="torchvision:vgg11_bn", data=MNIST_32, images=5_000, epochs=1, rate=0.01),
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distill.unseen",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="teachers, test images, bundles")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=TEACHERS)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    options = parser.parse_args()
    if options.list:
        print(list_teachers())
        return
    torch.set_num_threads(options.threads)
    for name, teacher in TEACHERS.items():
        stands = name in {row["name"] for row in read_rows(options.results)}
        if stands or options.only not in {None, name}:
            continue
        say(f"{name} on {teacher.data.name}, {teacher.data.side} pixels")
        weights = train(teacher, shared=options.shared, cache=options.cache)
        found = compress(
            teacher,
            weights,
            test=keep_test_images(teacher.data, shared=options.shared, cache=options.cache),
            minutes=options.minutes,
            threads=options.threads,
        )
        append_row(options.results, {**found, "note": options.note})
        say(
            f"  code {found['exit_code']}, accuracy {found['accuracy']} of {found['teacher_accuracy']}, "
            f"INT8 {found['int8_accuracy']}, {found['student']}, {found['seconds_wall']} s {found['error']}"
        )


def list_teachers() -> str:
    """A line each."""
    return "\n".join(
        f"{name:22} {teacher.arch.partition(':')[0]:12} {teacher.data.name:14} {teacher.data.side} pixels"
        for name, teacher in TEACHERS.items()
    )


# --- teachers -------------------------------------------------------------------------------------


def train(teacher: Unseen, *, shared: Path, cache: Path) -> Path:
    """The teacher's weights, trained now if they are not there: one cycle, shifts and flips, seed 0."""
    path = cache / f"{teacher.name}.pt"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    data, started = teacher.data, time.monotonic()
    generator = torch.Generator().manual_seed(0)
    raw, truth = data.load(shared, "train")
    images, labels = fit(raw[: teacher.images], data), torch.from_numpy(truth.copy())
    torch.manual_seed(0)  # noqa: TID251 - the libraries' networks draw by themselves
    model = teacher.build().train()
    if teacher.adam:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            model.parameters(), lr=teacher.rate, weight_decay=0.05
        )
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=teacher.rate, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=teacher.rate, total_steps=teacher.epochs * steps
    )
    for epoch in range(teacher.epochs):
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for chosen in torch.split(order[: steps * BATCH], BATCH):
            shown = augment.shift(images[chosen], share=0.125, generator=generator)
            if data.flip:
                shown = augment.flip(shown, generator=generator)
            loss = functional.cross_entropy(model(data.normalise(shown)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        say(
            f"  epoch {epoch + 1} of {teacher.epochs}: loss {total / steps:.3f}, "
            f"{time.monotonic() - started:.0f} s"
        )
    part = path.with_suffix(".part")
    torch.save(model.state_dict(), part)
    part.rename(path)
    return path


def fit(images: np.ndarray, data: Data) -> Tensor:
    """uint8 images (N, H, W, C) as the teacher's users have them: (N, 3, side, side)."""
    tensor = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    border = (PADDED - tensor.shape[-1]) // 2
    tensor = functional.pad(tensor, (border,) * 4)
    if data.side != PADDED:
        tensor = functional.interpolate(tensor, size=(data.side, data.side), mode="bilinear")
    return tensor.expand(-1, data.channels, -1, -1)


def keep_test_images(data: Data, *, shared: Path, cache: Path) -> Path:
    """A file for `--eval`: the first of the test images, uint8 (N, H, W, C), and labels (N,)."""
    path = cache / f"{data.name}-{data.side}-test-{TESTED}.npz"
    if not path.exists():
        images, labels = data.load(shared, "test")
        fitted = fit(images[:TESTED], data).permute(0, 2, 3, 1).contiguous()
        np.savez_compressed(path, images=fitted.numpy(), labels=labels[:TESTED])
    return path


def teacher_accuracy(teacher: Unseen, weights: Path, test: Path) -> float:
    """On the images of `--eval`, by the network that was trained, not by what edgekd makes of it."""
    model = teacher.build()
    model.load_state_dict(torch.load(weights, weights_only=True))
    with np.load(test) as found:
        images, labels = (torch.from_numpy(found[key]) for key in ("images", "labels"))
    return accuracy(model, teacher.data.normalise(images.permute(0, 3, 1, 2)), labels)


# --- runs -----------------------------------------------------------------------------------------


def compress(
    teacher: Unseen, weights: Path, *, test: Path, minutes: float, threads: int
) -> dict[str, object]:
    """Run the command line, and say what came of it; all that it says goes to runs/NAME.log."""
    bundle = weights.parent / "runs" / teacher.name
    bundle.parent.mkdir(exist_ok=True)
    if bundle.exists():
        shutil.rmtree(bundle)  # so that what is read is of this run
    data, log = teacher.data, bundle.with_suffix(".log")
    command = [
        *("edgekd", "compress", str(weights), "--arch", teacher.arch),
        *("--input", f"{data.channels}x{data.side}x{data.side}"),
        *("--mean", _join(data.mean), "--std", _join(data.std)),
        *("-t", "jetson", "--minutes", f"{minutes:g}", "--eval", str(test)),
        *("--threads", str(threads), "--out", str(bundle), "--force"),
    ]
    before, started = commit(), time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        stream.write(f"$ {shlex.join(command)}\n")
        stream.flush()
        done = subprocess.run(
            [sys.executable, "-m", *command], stdout=stream, stderr=subprocess.STDOUT, check=False
        )
        seconds = time.monotonic() - started
        stream.write(f"$ exit code {done.returncode} after {seconds:.0f} s\n")
    return {
        "name": teacher.name,
        "data": data.name,
        "pixels": data.side,
        "minutes": f"{minutes:g}",
        "teacher_accuracy": f"{teacher_accuracy(teacher, weights, test):.4f}",
        **read_bundle(bundle, code=done.returncode),
        "exit_code": done.returncode,
        "error": last_error(log.read_text(encoding="utf-8")) if done.returncode else "",
        "seconds_wall": f"{seconds:.1f}",
        "threads": threads,
        "torch": torch.__version__,
        "commit": before,
        "processor": processor(),
    }


def read_bundle(bundle: Path, *, code: int) -> dict[str, object]:
    """What a bundle says of both networks and of the run; blanks where there is none."""
    if code not in FINISHED or not (bundle / "manifest.json").exists():
        return dict.fromkeys(OF_BUNDLE, "")
    manifest, report = (
        json.loads((bundle / name).read_text(encoding="utf-8"))
        for name in ("manifest.json", "report.json")
    )
    tested = {entry["model"]: entry for entry in report["evaluation"]["results"]}
    taught, student = manifest["teacher"], manifest["student"]
    network = student["architecture"]
    found = {
        "student": f"{network['source']}:{network['name']} {network['cut']}".strip(),
        "initial_weights": student["initial_weights"],
        "recipe": student["recipe"],
        "teacher_parameters": taught["parameters"],
        "parameters": student["parameters"],
        "teacher_macs": taught["macs"],
        "macs": student["macs"],
        "accuracy": _share(tested, "student", "accuracy"),
        "int8_accuracy": _share(tested, "int8", "accuracy"),
        "agreement_held_out": f"{student['agreement']:.4f}",
        "agreement_test": _share(tested, "student", "agreement_with_teacher"),
        "int8_agreement_test": _share(tested, "int8", "agreement_with_teacher"),
        "steps": student["steps"],
        "images": report["history"][-1]["images"] if report["history"] else "",
        "seconds": f"{report['elapsed_s']:.1f}",
    }
    return {column: found[column] for column in OF_BUNDLE}


def last_error(log: str) -> str:
    """What the command line says that it failed of; without that, the last line of all."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and line[0] != "$"]
    said = [number for number, line in enumerate(lines) if line.startswith("edgekd: ")]
    return " ".join(lines[said[-1] :] if said else lines[-1:])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _share(tested: Mapping[str, Mapping[str, float]], model: str, key: str) -> str:
    return f"{tested[model][key]:.4f}" if model in tested else ""


def _join(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    main()
