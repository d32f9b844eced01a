"""The networks of the rows as kernels: built, exported and folded once, then kept in a CSV."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import timm
import torchvision
from torch import nn

from benchmarks.bench.yolo import YOLO11
from benchmarks.rows import append_row, read_rows
from edgekd.bench.estimator.graph_cost import network_of
from edgekd.bench.estimator.kernel_fusion import Kernel
from edgekd.export.torch_to_onnx import fp32_model
from edgekd.records import InputSpec
from edgekd.targets.catalogue import load_target

TARGET: Final = "jetson-agx-xavier"  # whose exporter and opset fit every row's software best


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Equal kernels once, with how often each is launched."""

    kernels: tuple[Kernel, ...]
    counts: tuple[int, ...]

    @property
    def macs(self) -> int:
        return sum(each.macs * count for each, count in zip(self.kernels, self.counts, strict=True))


def built(model: str) -> nn.Module:
    """A network by the name that its rows have; random weights."""
    if model.startswith("yolo11"):
        return YOLO11(model.removeprefix("yolo11"))
    if model.startswith("efficientvit"):
        module: nn.Module = timm.create_model(model, pretrained=False)
        return module
    return getattr(torchvision.models, model)(weights=None)  # type: ignore[no-any-return]


def kernels_of(network: str, cache: Path) -> Kernels:
    """Of `MODEL@SIDE`, out of the cache, or into it."""
    known = [row for row in read_rows(cache) if row["network"] == network]
    if not known:
        known = [{key: str(value) for key, value in row.items()} for row in _fold_network(network)]
        for row in known:
            append_row(cache, row)
    fields = Kernel.__dataclass_fields__
    return Kernels(
        kernels=tuple(
            Kernel(
                kind=row["kind"],  # type: ignore[arg-type]  # text of our own file
                **{name: int(row[name]) for name in fields if name != "kind"},
            )
            for row in known
        ),
        counts=tuple(int(row["count"]) for row in known),
    )


def _fold_network(network: str) -> list[dict[str, object]]:
    model, side = network.split("@")
    spec = InputSpec(channels=3, height=int(side), width=int(side), mean=(0.0,) * 3, std=(1.0,) * 3)
    module = built(model).eval().requires_grad_(False)
    exported = fp32_model(module, spec=spec, software=load_target(TARGET).software)
    folded = network_of(exported, origin=network)
    assert not folded.notes, folded.notes
    return [
        {"network": network, "count": count, **asdict(kernel)}
        for kernel, count in Counter(folded.kernels).items()
    ]
