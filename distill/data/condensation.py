"""Condensed sets: a few images for each class that stand for a data set.

random    images of the class, drawn
herding   images of the class whose mean feature comes nearest to that of all (Welling, ICML 2009),
          chosen one after the other; features of a small network that was trained on the data
dm        pixels learned so that random networks embed them where the class is on average
          (distribution matching, Zhao & Bilen, WACV 2023)
dsa       pixels learned so that a network in training gets the gradients that the class would give
          (Zhao & Bilen, ICLR and ICML 2021)

All four start from images of the data, and work in its own mean and standard deviation.
N images, C channels, H x W pixels, K classes, D features.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekd.distill.data.condensation_losses import (
    convnet,
    distribution_distance,
    embed,
    gradient_distance,
    train_network,
)
from edgekd.distill.data.siamese_augmentation import siamese
from edgekd.errors import InputFileError, UsageError
from edgekd.options import CONDENSE_STEPS
from edgekd.records import HistoryPoint, InputSpec

Method: TypeAlias = Literal["dm", "dsa", "herding", "random"]
Pixels: TypeAlias = npt.NDArray[np.uint8]  # (N, H, W, C)
Labels: TypeAlias = npt.NDArray[np.int64]  # (N,)
# A point, and progress 0..1
Show: TypeAlias = Callable[[HistoryPoint, float], None]

METHODS: Final[tuple[Method, ...]] = ("dm", "dsa", "herding", "random")
# Of pixels for dm and dsa, of the network whose features herding looks at.
STEPS: Final[dict[Method, int]] = {method: CONDENSE_STEPS[method] for method in METHODS}

# (width of the network, real images of a class for each step, of all for herding). The papers': 128
# and 256.
_SIZES: Final = {"cuda": (128, 256), "cpu": (64, 64)}
_IMAGE_RATE: Final = {"dm": 1.0, "dsa": 0.1}
_IMAGE_MOMENTUM: Final = 0.5
_NETWORK_MOMENTUM: Final = 0.5
_NETWORK_BATCH: Final = 256
# Of the images for one network, at least and at most
_UPDATES: Final = (10, 50)
_EPOCHS: Final = {
    "cuda": 500,
    "cpu": 100,
}  # of a network between those updates, in all; the paper's 500
# Of a class, drawn, that herding chooses from
_CANDIDATES: Final = 1000
# Images through a network for their features
_AT_ONCE: Final = 512


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to make."""

    method: Method
    classes: int
    per_class: int
    steps: int
    seed: int
    # Whether a mirrored image keeps its class
    flip: bool = False


@dataclass(frozen=True, kw_only=True)
class Condensed:
    """What was made, class after class."""

    images: npt.NDArray[np.float32]  # (K * per class, H, W, C); 0..1 but not clamped
    labels: Labels  # (K * per class,)


def input_of(images: Pixels) -> InputSpec:
    """The shape of a data set, with its own mean and standard deviation of 0..1 pixels.

    Raises:
        InputFileError: a channel has the same value everywhere, or sizes that no network takes.
    """
    _, height, width, channels = images.shape
    # Over a histogram: exact, and no copy of the data in float.
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(channels):
        # In parts, since counting makes eight bytes of each.
        counts = sum(
            np.bincount(part.reshape(-1), minlength=256)
            for part in np.split(images[..., channel], range(_AT_ONCE, len(images), _AT_ONCE))
        )
        mean.append(float(np.average(values, weights=counts)))
        std.append(math.sqrt(float(np.average((values - mean[-1]) ** 2, weights=counts))))
        if std[-1] == 0:
            raise InputFileError(
                f"channel {channel} of the images has the same value everywhere: there is nothing to condense."
            )
    try:
        return InputSpec(
            channels=channels, height=height, width=width, mean=tuple(mean), std=tuple(std)
        )
    except ValueError as error:
        raise InputFileError(
            f"images of {height} x {width} pixels and {channels} channels are not supported: 8 to 4096 pixels "
            "a side, 1 to 16 channels."
        ) from error


def condense_images(
    images: Pixels,
    labels: Labels,
    plan: Plan,
    *,
    spec: InputSpec,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    show: Show | None = None,
) -> Condensed:
    """Make a condensed set. The same plan and data give the same set on the same CPU.

    Args:
        images: all of the data, uint8.
        labels: of them, below `plan.classes`.
        plan: what to make.
        spec: of the data; see `input_of`.
        device: where to compute. On CUDA sums are not in a fixed order: the last bits differ.
        clock: in seconds.
        show: what to call after each step.

    Raises:
        UsageError: a class has fewer images than are asked for, or a number makes no sense.
    """
    if plan.per_class < 1 or plan.steps < 0:
        raise UsageError("--per-class is at least 1, --steps at least 0.")
    counts = np.bincount(labels, minlength=plan.classes)
    short = [number for number, count in enumerate(counts) if count < plan.per_class]
    if short:
        named = ", ".join(f"{number} ({counts[number]})" for number in short[:10])
        raise UsageError(
            f"--per-class {plan.per_class}: {len(short)} of {plan.classes} classes have fewer images, among them "
            f"{named}. Ask for fewer, or bring more data."
        )
    run = _Run(images, labels, plan, spec, device)
    show = show or _quiet
    if plan.method == "random":
        chosen = run.draw()
    elif plan.method == "herding":
        chosen = _herding(run, clock, show)
    else:
        chosen = _learn(run, clock, show)
    mean, std = (values.view(1, -1, 1, 1) for values in (run.mean, run.std))
    pixels = (chosen * std + mean).permute(0, 2, 3, 1)  # (K * per class, H, W, C)
    return Condensed(
        images=np.ascontiguousarray(pixels.cpu().numpy()), labels=run.made_labels.cpu().numpy()
    )


def _quiet(_: HistoryPoint, __: float) -> None:
    """For those who do not watch."""


class _Run:
    """The data on the device, and the draws of one run."""

    def __init__(
        self, images: Pixels, labels: Labels, plan: Plan, spec: InputSpec, device: torch.device
    ) -> None:
        self.plan, self.spec, self.device = plan, spec, device
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.width, self.batch = _SIZES["cuda" if device.type == "cuda" else "cpu"]
        # Bytes: normalised as a whole, a data set would take four times the memory.
        # A copy: idx files come as arrays that cannot be written, which torch does not take.
        self.images = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C")).to(device)
        self.mean = torch.tensor(spec.mean, device=device)
        self.std = torch.tensor(spec.std, device=device)
        # Where the images of each class are.
        self.places = [
            torch.from_numpy(np.flatnonzero(labels == number)) for number in range(plan.classes)
        ]
        self.made_labels = torch.arange(plan.classes, device=device).repeat_interleave(
            plan.per_class
        )
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)

    def normalise(self, places: Tensor) -> Tensor:  # (M,) -> (M, C, H, W)
        pixels = self.images[places.to(self.device)].float().div_(255)
        return pixels.sub_(self.mean.view(1, -1, 1, 1)).div_(self.std.view(1, -1, 1, 1))

    def some(self, number: int, count: int) -> Tensor:
        """Different images of a class: (min(count, all), C, H, W)."""
        places = self.places[number]
        order = torch.randperm(len(places), generator=self.generator)[:count]
        return self.normalise(places[order])

    def draw(self) -> Tensor:
        """Images of each class, to keep or to start from: (K * per class, C, H, W)."""
        drawn = [self.some(number, self.plan.per_class) for number in range(self.plan.classes)]
        return torch.cat(drawn)

    def network(self) -> list[Tensor]:
        """A new one, untrained."""
        return convnet(
            self.spec.shape,
            classes=self.plan.classes,
            width=self.width,
            generator=self.generator,
            device=self.device,
        )

    def seed(self) -> int:
        """Of one draw that two batches share."""
        return int(torch.randint(2**31, (), generator=self.generator))

    def alike(self, images: Tensor, seed: int) -> Tensor:
        """All images (M, C, H, W) moved by the one transform that this seed draws."""
        generator = torch.Generator().manual_seed(seed)
        return siamese(images, generator=generator, same=True, flip=self.plan.flip)


# --- herding --------------------------------------------------------------------------------------


def _herding(run: _Run, clock: Callable[[], float], show: Show) -> Tensor:
    weights, plan, start = run.network(), run.plan, clock()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(plan.steps):
            places = torch.randint(len(run.images), (run.batch,), generator=run.generator)
            images = siamese(run.normalise(places), generator=run.generator, flip=plan.flip)
            yield images, run.labels[places.to(run.device)]

    candidates = [
        places[
            torch.randperm(len(places), generator=run.generator)[: max(_CANDIDATES, plan.per_class)]
        ]
        for places in run.places
    ]
    # A step costs three times what the features of its images cost.
    whole = 3 * plan.steps * run.batch + sum(map(len, candidates))
    done = 0
    loss: float | None = None
    for step, loss in enumerate(train_network(weights, batches(), momentum=0.9), 1):
        done += 3 * run.batch
        show(_point(step, step * run.batch, clock() - start, loss), done / whole)
    chosen = []
    for places in candidates:
        with torch.no_grad():
            parts = [embed(weights, run.normalise(part)) for part in torch.split(places, _AT_ONCE)]
        chosen.append(places[select_by_herding(torch.cat(parts), plan.per_class)])
        done += len(places)
        point = _point(plan.steps, plan.steps * run.batch, clock() - start, loss)
        show(point, done / whole)
    return run.normalise(torch.cat(chosen))


def select_by_herding(features: Tensor, count: int) -> list[int]:
    """Rows of (N, D) whose mean comes nearest to that of all, chosen greedily; each once."""
    goal = features.mean(0)  # (D,)
    total = torch.zeros_like(goal)
    chosen: list[int] = []
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    for size in range(1, count + 1):
        far = ((total + features) / size - goal).square().sum(1)  # (N,)
        best = int(far.masked_fill(~left, math.inf).argmin())
        chosen.append(best)
        left[best] = False
        total += features[best]
    return chosen


# --- learned pixels -------------------------------------------------------------------------------


def _learn(run: _Run, clock: Callable[[], float], show: Show) -> Tensor:
    plan, start = run.plan, clock()
    made = run.draw().requires_grad_()
    optimiser = torch.optim.SGD([made], lr=_IMAGE_RATE[plan.method], momentum=_IMAGE_MOMENTUM)
    networks = _untrained_networks(run) if plan.method == "dm" else _in_training(run, made)
    apart = distribution_distance if plan.method == "dm" else gradient_distance
    seen = 0
    for step in range(1, plan.steps + 1):
        weights = next(networks)
        optimiser.zero_grad()
        total = 0.0
        # A class at a time: the graphs of all would not fit into memory where classes are many.
        for number in range(plan.classes):
            real, seed = run.some(number, run.batch), run.seed()
            part = made[number * plan.per_class : (number + 1) * plan.per_class]
            loss = apart(weights, run.alike(real, seed), run.alike(part, seed), number)
            (slope,) = torch.autograd.grad(loss, made)
            made.grad = slope if made.grad is None else made.grad + slope
            total += float(loss.detach())
            seen += len(real)
        optimiser.step()
        show(_point(step, seen, clock() - start, total / plan.classes), step / plan.steps)
    return made.detach()


def _untrained_networks(run: _Run) -> Iterator[list[Tensor]]:
    while True:
        yield run.network()


def _in_training(run: _Run, made: Tensor) -> Iterator[list[Tensor]]:
    """A network that learns from the images between their updates, and a new one after some.

    The more images a class has, the longer it is followed. On CUDA these are the paper's 10 updates
    with 50 epochs between them for 10 images a class, 50 with 10 for 50, and an untrained network for
    a single image; on a CPU a fifth of the epochs, which were most of the time.
    """
    least, most = _UPDATES
    updates = 1 if run.plan.per_class == 1 else max(least, min(run.plan.per_class, most))
    epochs = _EPOCHS["cuda" if run.device.type == "cuda" else "cpu"] // updates
    while True:
        weights = run.network()
        for update in range(updates):
            if update:
                for _ in train_network(weights, _epochs(run, made, epochs), _NETWORK_MOMENTUM):
                    pass
            yield weights


def _epochs(run: _Run, made: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    images = made.detach()
    for _ in range(count):
        order = torch.randperm(len(images), generator=run.generator)
        for places in torch.split(order, _NETWORK_BATCH):
            there = places.to(run.device)
            batch = siamese(images[there], generator=run.generator, flip=run.plan.flip)
            yield batch, run.made_labels[there]


def _point(step: int, images: int, elapsed_s: float, loss: float | None) -> HistoryPoint:
    return HistoryPoint(
        step=step,
        images=images,
        elapsed_s=elapsed_s,
        losses={} if loss is None else {"loss": loss},
        agreement=None,
    )
