"""Networks that the bench is tried with, from under 50 microseconds a call to milliseconds; random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import timm
import torch
import torchvision
from torch import nn

from edgekd.distill.models import architectures
from edgekd.export import qdq
from edgekd.export.calibration import METHODS
from edgekd.export.torch_to_onnx import fp32_model
from edgekd.records import Architecture, InputSpec
from edgekd.targets.catalogue import load_target

TARGET: Final = "x86"
CALIBRATION: Final = 16  # images; times do not depend on the ranges


@dataclass(frozen=True, kw_only=True)
class Network:
    channels: int
    side: int  # pixels
    build: Callable[[], nn.Module]
    int8: bool = False


def _ours(name: str) -> nn.Module:
    return architectures.build(
        Architecture(source="edgekd", name=name, channels=1, classes=10, height=28, width=28)
    )


NETWORKS: Final = {
    "lenet5-half": Network(channels=1, side=28, build=lambda: _ours("lenet5-half")),
    "resnet8-w4": Network(channels=1, side=28, build=lambda: _ours("resnet8-w4")),
    "resnet8-w8": Network(channels=1, side=28, build=lambda: _ours("resnet8-w8")),
    "resnet8-w8 int8": Network(channels=1, side=28, build=lambda: _ours("resnet8-w8"), int8=True),
    "mobilenetv2_050": Network(
        channels=3, side=96, build=lambda: timm.create_model("mobilenetv2_050", pretrained=False)
    ),
    "resnet18": Network(
        channels=3, side=64, build=lambda: torchvision.models.resnet18(weights=None)
    ),
}


def write(name: str, folder: Path, *, seed: int) -> Path:
    """The network as ONNX, as it is exported for an x86 machine."""
    network = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        module = network.build().eval().requires_grad_(False)
    channels, side = network.channels, network.side
    spec = InputSpec(
        channels=channels, height=side, width=side, mean=(0.0,) * channels, std=(1.0,) * channels
    )
    model = fp32_model(module, spec=spec, software=load_target(TARGET).software)
    if network.int8:
        draw = np.random.default_rng(seed)
        images = draw.standard_normal((CALIBRATION, channels, side, side)).astype(np.float32)
        chosen = qdq.choose(model, calibration=images, held_out=images, methods=tuple(METHODS)[:1])
        model = qdq.with_pairs(model, chosen.limits)
    path = folder / f"{name.replace(' ', '-')}.onnx"
    onnx.save(model, path)
    return path
