"""The tables: rows in the order of their worth."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.distill.running import Row

TOY_STEPS: Final = 4
BASELINES: Final = (
    "memory-bank",
    "pseudo-replay",
    "fast",
    "nayer",
    "cmi",
    "deep-inversion",
    "dafl",
    "dfad",
    "zskt",
    "noise",
)


@dataclass(frozen=True, kw_only=True)
class Table:
    about: str
    rows: tuple[Row, ...]
    seeds: int
    cuda: bool = False

    def in_order(self, seeds: int | None, *, toy: bool) -> Iterator[Row]:
        """The first seed of all rows, then the second of all."""
        for seed in range(seeds or self.seeds):
            for row in self.rows:
                found = replace(row, seed=seed)
                yield replace(found, minutes=None, steps=TOY_STEPS) if toy else found


def _ablation(*reals: str, steps: int) -> tuple[Row, ...]:
    """What each part of condensed expansion adds, at equal steps and with paired seeds."""
    without = {"losses.alignment": 0.0, "source.expansion": 0.0}
    parts: tuple[tuple[str, dict[str, Any]], ...] = (
        ("conditional", {}),
        ("naive mixing", {**without, "learning.real": 0.25}),
        ("unconditional", {"losses.unconditional_alignment": True}),
    )
    common = Row(
        name="none",  # which set is not looked at makes no difference
        pair="cifar10",
        recipe="condensed-expansion",
        steps=steps,
        real=reals[0],
        changes={**without, "learning.real": 0.0},
    )
    return (
        common,
        *(
            replace(common, name=f"{real} {name}", real=real, changes=changes)
            for real in reals
            for name, changes in parts
        ),
    )


TABLES: Final[dict[str, Table]] = {
    "mnist": Table(
        about="MNIST, LeNet-5 (no batch-norm) to half, and the demo's ResNet to a fifth",
        seeds=3,
        rows=(
            Row(name="lenet auto 10 min", pair="mnist-lenet", recipe="auto", minutes=10),
            Row(name="demo auto 5 min", pair="mnist-demo", recipe="auto", minutes=5),
            Row(name="lenet memory-bank", pair="mnist-lenet", recipe="memory-bank", minutes=30),
            Row(name="lenet pseudo-replay", pair="mnist-lenet", recipe="pseudo-replay", minutes=30),
            Row(name="lenet auto 30 min", pair="mnist-lenet", recipe="auto", minutes=30),
        ),
    ),
    "no-batch-norm": Table(
        about="MNIST, teachers with LayerNorm (a ViT) and GroupNorm to a small ResNet",
        seeds=1,
        rows=tuple(
            Row(name=f"{pair} {name}", pair=f"mnist-{pair}", recipe=name, minutes=4)
            for pair in ("vit", "groupnorm")
            for name in ("auto", "memory-bank", "dfad")
        ),
    ),
    "fashion": Table(
        about="Fashion-MNIST, ResNet-20 to ResNet-8: every recipe for ten minutes",
        seeds=1,
        rows=(
            Row(name="auto", pair="fashion", recipe="auto", minutes=10),
            *(
                Row(name=name, pair="fashion", recipe=name, minutes=10, real=None)
                for name in BASELINES
            ),
            Row(
                name="condensed-expansion dm:10",
                pair="fashion",
                recipe="condensed-expansion",
                minutes=10,
                real="dm:10",
            ),
            Row(name="auto 30 min", pair="fashion", recipe="auto", minutes=30),
        ),
    ),
    "condensed": Table(
        about="CIFAR-10, ResNet-20 to ResNet-8: what condensed and real images add, at equal steps",
        seeds=2,
        rows=_ablation("dm:10", "real:10", "dm:1", steps=1000),
    ),
    "cifar10": Table(
        about="CIFAR-10, ResNet-20 to ResNet-8: auto for an hour",
        seeds=1,
        rows=(Row(name="auto 60 min", pair="cifar10", recipe="auto", minutes=60),),
    ),
    "cut": Table(
        about="students that begin from the teacher beside those that are drawn, at equal minutes",
        seeds=1,
        rows=(
            Row(name="cifar10 quarter", pair="cifar10", recipe="auto", minutes=10, student="cut:macs=0.25"),
            Row(name="cifar10 resnet8 drawn", pair="cifar10", recipe="auto", minutes=10),
            Row(name="demo quarter", pair="mnist-demo", recipe="auto", minutes=3, student="cut:macs=0.25"),
            Row(name="demo resnet8-w8 drawn", pair="mnist-demo", recipe="auto", minutes=3),
            Row(name="lenet half", pair="mnist-lenet", recipe="auto", minutes=10, student="cut:0.5"),
            Row(name="fashion quarter", pair="fashion", recipe="auto", minutes=10, student="cut:macs=0.25"),
            Row(name="fashion resnet8", pair="fashion", recipe="auto", minutes=10, student="resnet8"),
        ),
    ),
    "gpu-resnet34": Table(
        about="CIFAR-10, ResNet-34 to ResNet-18 on a GPU: recipes at equal minutes",
        seeds=1,
        cuda=True,
        rows=(
            Row(name="auto", pair="cifar10-resnet34", recipe="auto", minutes=7),
            *(
                Row(name=name, pair="cifar10-resnet34", recipe=name, minutes=7)
                for name in ("fast", "nayer", "pseudo-replay", "memory-bank", "dafl")
            ),
        ),
    ),
    "gpu-wrn": Table(
        about="CIFAR-10, WRN-40-2 to WRN-16-2 on a GPU: recipes at equal minutes",
        seeds=1,
        cuda=True,
        rows=tuple(
            Row(name=name, pair="cifar10-wrn", recipe=name, minutes=7)
            for name in ("auto", "fast", "nayer", "pseudo-replay")
        ),
    ),
}  # fmt: skip
