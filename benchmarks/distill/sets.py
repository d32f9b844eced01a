"""Condensed sets and few real images, for rows that have some; made once, kept in the cache."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.distill.pairs import PAIRS, Data
from benchmarks.distill.running import Row
from edgekd.distill.compute.device import Compute
from edgekd.distill.data.condensation import Plan, condense_images, input_of
from edgekd.distill.data.real_images import RealImages

TOY_IMAGES = 1000
STEPS = 500  # of distribution matching


def real_images(
    row: Row, *, shared: Path, cache: Path, compute: Compute, toy: bool = False
) -> RealImages | None:
    """What `row.real` says: "dm:10" (condensed) or "real:10", images a class."""
    if row.real is None:
        return None
    method, _, number = row.real.partition(":")
    data = PAIRS[row.pair].data
    path = cache / f"{data.name}-{method}-{number}.npz"
    if not path.exists():
        _make(
            path,
            data,
            "random" if method == "real" else method,
            int(number),
            shared,
            compute,
            toy=toy,
        )
    with np.load(path) as found:
        images, labels = found["images"], found["labels"]  # (N, H, W, C) of 0..1, (N,)
    mean, std = (np.asarray(each, np.float32) for each in (data.mean, data.std))
    normalised = torch.from_numpy(((images - mean) / std).transpose(0, 3, 1, 2).copy())
    return RealImages(
        images=normalised.float(),
        labels=torch.from_numpy(labels),
        kind="samples" if method == "real" else "condensed",
        name=path.name,
        digest="0" * 64,
        notes=(),
    )


def _make(
    path: Path,
    data: Data,
    method: str,
    per_class: int,
    shared: Path,
    compute: Compute,
    *,
    toy: bool,
) -> None:
    images, labels = data.load(shared, "train")
    images, labels = images.copy(), labels.copy()
    if toy:
        images, labels = images[:TOY_IMAGES], labels[:TOY_IMAGES]
    plan = Plan(
        method=method,  # type: ignore[arg-type]
        classes=10,
        per_class=per_class,
        steps=(2 if toy else STEPS) if method == "dm" else 0,
        seed=0,
        flip=data.flip,
    )
    made = condense_images(images, labels, plan, spec=input_of(images), device=compute.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=made.images, labels=made.labels)
