"""Teacher and student pairs on real data. The data and third-party teachers are not part of edgekd.

Teachers of ours are trained once, from fixed seeds, into a folder beside the results, and found again.
A training that is stopped goes on from its last epoch.
"""

import importlib.util
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.distill import factories
from edgekd.distill.compute.device import Compute
from edgekd.distill.data import augment
from edgekd.distill.models import architectures, networks
from edgekd.distill.teachers.loader import Teacher, load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.records import Architecture

FACTORIES = Path(__file__).parent / "factories.py"
TOY_IMAGES = 64
EXAMPLES = Path(__file__).parents[2] / "examples" / "mnist"


@dataclass(frozen=True, kw_only=True)
class Data:
    """A real data set: how it is normalised, and whether mirrored images keep their class."""

    name: str  # of the function of data/load.py
    channels: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool

    def load(self, shared: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images (N, H, W, C) and labels (N,)."""
        loaded: tuple[np.ndarray, np.ndarray] = getattr(_loader(shared), self.name)(split)
        return loaded

    def tensors(self, shared: Path, split: str) -> tuple[Tensor, Tensor]:
        """Normalised images (N, C, H, W) and labels (N,)."""
        images, labels = (each.copy() for each in self.load(shared, split))
        return self.normalise(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(
            labels
        )

    def normalise(self, images: Tensor) -> Tensor:  # uint8 (N, C, H, W)
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return (images.float() / 255 - mean) / std


MNIST = Data(name="mnist", channels=1, side=28, mean=(0.1307,), std=(0.3081,), flip=False)
FASHION = Data(name="fashion_mnist", channels=1, side=28, mean=(0.2860,), std=(0.3530,), flip=True)
CIFAR10 = Data(
    name="cifar10",
    channels=3,
    side=32,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    flip=True,
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Who teaches whom, on which data."""

    data: Data
    teacher: str  # an architecture of ours that is trained here, or a file
    student: str
    epochs: int = 0  # of the teacher's training
    rate: float = 0.1
    file: str | None = None  # "examples:..." or "shared:..."

    @property
    def arch(self) -> str:
        """As `--arch` takes it."""
        return (
            f"{FACTORIES}:{self.teacher}" if self.teacher in {"vit", "groupnorm"} else self.teacher
        )

    def build(self) -> torch.nn.Module:
        """The teacher's network without weights."""
        if self.teacher in {"vit", "groupnorm"}:
            module: torch.nn.Module = getattr(factories, self.teacher)()
            return module
        module = architectures.build(self.architecture(self.teacher))
        networks.initialise(module, generator=torch.Generator().manual_seed(0))
        return module

    def architecture(self, name: str) -> Architecture:
        side = self.data.side
        return Architecture(
            source="edgekd",
            name=name,
            channels=self.data.channels,
            classes=10,
            height=side,
            width=side,
        )


PAIRS = {
    "mnist-lenet": Pair(data=MNIST, teacher="lenet5", student="lenet5-half", epochs=6, rate=0.05),
    "mnist-demo": Pair(
        data=MNIST, teacher="resnet14-w12", student="resnet8-w8", file="examples:teacher.pt"
    ),
    "mnist-vit": Pair(data=MNIST, teacher="vit", student="resnet8-w8", epochs=6, rate=0.02),
    "mnist-groupnorm": Pair(
        data=MNIST, teacher="groupnorm", student="resnet8-w8", epochs=4, rate=0.05
    ),
    "fashion": Pair(data=FASHION, teacher="resnet20", student="resnet8", epochs=12, rate=0.2),
    "cifar10": Pair(
        data=CIFAR10, teacher="resnet20a", student="resnet8", file="shared:resnet20-12fca82f.th"
    ),
    "cifar10-resnet34": Pair(
        data=CIFAR10, teacher="resnet34", student="resnet18", epochs=60, rate=0.2
    ),
    "cifar10-wrn": Pair(
        data=CIFAR10, teacher="wrn-40-2", student="wrn-16-2", epochs=60, rate=0.2
    ),
}  # fmt: skip


def teacher_of(
    pair: Pair,
    *,
    shared: Path,
    cache: Path,
    compute: Compute,
    say: Callable[[str], None],
    toy: bool = False,
) -> Teacher:
    """The pair's teacher, trained now if it must be; for a toy, on hardly anything."""
    data = pair.data
    teacher_options = TeacherOptions(
        arch=pair.arch,
        input=(data.channels, data.side, data.side),
        mean=data.mean,
        std=data.std,
        classes=10,
        flip=data.flip,
    )
    if pair.file is None:
        path = train_teacher(pair, shared=shared, cache=cache, compute=compute, say=say, toy=toy)
    else:
        where, _, name = pair.file.partition(":")
        path = (EXAMPLES if where == "examples" else shared / "teachers") / name
        if where == "examples":
            told = tomllib.loads((EXAMPLES / "teacher.toml").read_text(encoding="utf-8"))
            assert tuple(told["mean"]) == data.mean
    return load_teacher(path, teacher_options, generator=torch.Generator().manual_seed(0), say=say)


def train_teacher(
    pair: Pair,
    *,
    shared: Path,
    cache: Path,
    compute: Compute,
    say: Callable[[str], None],
    toy: bool = False,
) -> Path:
    """A checkpoint of the pair's teacher: SGD, one cycle, shifts and flips, seed 0."""
    path = cache / f"{pair.data.name}-{pair.teacher}.pt"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    device, batch = compute.device, TOY_IMAGES // 4 if toy else 128
    epochs = 1 if toy else pair.epochs
    generator = torch.Generator(device).manual_seed(0)
    images, labels = (torch.from_numpy(each.copy()) for each in pair.data.load(shared, "train"))
    if toy:
        images, labels = images[:TOY_IMAGES], labels[:TOY_IMAGES]
    images = images.permute(0, 3, 1, 2).contiguous().to(device)
    labels = labels.to(device)
    torch.manual_seed(0)  # noqa: TID251 - timm's networks draw by themselves
    model = pair.build()
    model.to(device, memory_format=compute.memory_format)  # type: ignore[call-overload]
    steps = len(images) // batch
    optimizer = torch.optim.SGD(
        model.parameters(), lr=pair.rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=pair.rate, total_steps=epochs * steps
    )
    first = 0
    if part.exists():
        state = torch.load(part, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        generator.set_state(state["generator"].cpu())
        first = state["epoch"]
    for epoch in range(first, epochs):
        model.train()
        order = torch.randperm(len(images), generator=generator, device=device)
        for chosen in torch.split(order[: steps * batch], batch):
            shown = augment.shift(images[chosen], share=0.125, generator=generator)
            if pair.data.flip:
                shown = augment.flip(shown, generator=generator)
            shown = pair.data.normalise(shown).contiguous(memory_format=compute.memory_format)
            with compute.autocast():
                loss = functional.cross_entropy(model(shown), labels[chosen])
            optimizer.zero_grad()
            compute.backward(loss)
            optimizer.step()
            schedule.step()
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "generator": generator.get_state(),
                "epoch": epoch + 1,
            },
            part,
        )
        say(f"{pair.teacher} on {pair.data.name}: epoch {epoch + 1} of {epochs}")
    torch.save({"state_dict": model.cpu().state_dict()}, path)
    part.unlink()
    return path


@torch.no_grad()
def accuracy(module: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share that a network in evaluation mode, on the CPU, decides as the labels say; in float32."""
    module.eval()
    parts = zip(torch.split(images, 500), torch.split(labels, 500), strict=True)
    counts = [int((module(part).argmax(1) == truth).sum()) for part, truth in parts]
    return sum(counts) / len(labels)


def _loader(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("load", shared / "data" / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's, with mean ranks for ties; NaN where one of them never changes."""
    if len(first) < 3:
        return math.nan
    ranks = [_ranks(each) for each in (first, second)]
    return (
        float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if all(np.ptp(r) for r in ranks) else math.nan
    )


def _ranks(values: list[float]) -> np.ndarray:
    array = np.asarray(values)
    return np.asarray([(array < v).sum() + ((array == v).sum() - 1) / 2 for v in array])
