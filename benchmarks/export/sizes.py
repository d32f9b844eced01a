"""How large the files of each precision are, as shares of the FP32 file of the same software."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from benchmarks.distill.running import commit
from benchmarks.export.graphs import NETWORKS, draw_weights, make_module
from benchmarks.rows import append_row
from edgekd.distill.models import architectures
from edgekd.export.convert import export_fp16, export_fp32, export_int8
from edgekd.export.parity import Array
from edgekd.records import Architecture, InputSpec, OnnxModel, Target
from edgekd.targets.catalogue import load_target

# TensorRT 8 with its weights in float, 10 with weak and with strong typing, ONNX Runtime on either processor
TARGETS: Final = ("jetson@jp6.0", "jetson@jp6.2", "jetson@jp7.2", "x86", "raspberry-pi-5")
TIMM: Final = ("mobilenetv2_100", "efficientnet_b0", "vit_tiny_patch16_224")
OURS: Final = "resnet20-w16"
SIDE: Final = 32  # pixels, of ours
IMAGES: Final = 8  # of noise: the sizes do not depend on them


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """A row for every network, target and precision."""
    path = options.results / "export-sizes.csv"
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    for name, module, side in _networks():
        for target in map(load_target, TARGETS):
            whole = None
            for found in _exports(module, side, target):
                whole = found if whole is None else whole
                row = _row(name, side, target, found, whole)
                append_row(part, row)
                say(f"{name} {target.id} {found.precision}: {row['of_fp32']} of FP32")
    part.replace(path)


def _networks() -> Iterator[tuple[str, nn.Module, int]]:
    """Each with its name, and the side of its images in pixels."""
    asked = Architecture(
        source="edgekd", name=OURS, channels=3, classes=10, height=SIDE, width=SIDE
    )
    yield OURS, draw_weights(lambda: architectures.build(asked)), SIDE
    for network in NETWORKS:
        if network.name in TIMM:
            yield network.name, make_module(network), network.side


def _exports(module: nn.Module, side: int, target: Target) -> Iterator[OnnxModel]:
    """FP32 first; FP16 where the graph carries types."""
    draw = np.random.default_rng(0)

    def images() -> Array:
        return draw.standard_normal((IMAGES, 3, side, side)).astype(np.float32)

    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "model.onnx"
        yield export_fp32(
            module,
            spec=InputSpec(channels=3, height=side, width=side, mean=(0.5,) * 3, std=(0.25,) * 3),
            target=target,
            out=fp32,
            images=images(),
            made_from="0" * 64,
        )
        if target.software.typing == "strong":
            yield export_fp16(fp32, target=target, out=fp32.with_name("fp16.onnx"), images=images())
        yield export_int8(
            fp32,
            target=target,
            out=fp32.with_name("int8.onnx"),
            calibration=images(),
            held_out=images(),
        )


def _row(
    name: str, side: int, target: Target, found: OnnxModel, whole: OnnxModel
) -> dict[str, object]:
    return {
        "architecture": name,
        "pixels": side,
        "target": target.id,
        "tensorrt": target.software.tensorrt or "none",
        "opset": found.opset,
        "precision": found.precision,
        "size_bytes": found.size_bytes,
        "of_fp32": f"{found.size_bytes / whole.size_bytes:.4f}",
        "torch": torch.__version__,
        "commit": commit(),
    }
