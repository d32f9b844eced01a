"""Architectures of timm with random weights, for the software of every board: exported, or refused by name."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import timm
import torch
from torch import nn

from benchmarks.distill.running import commit
from benchmarks.machine import processor
from benchmarks.rows import append_row, read_rows
from edgekd.errors import IncompatibleError, QualityError
from edgekd.export import parity
from edgekd.export.compatibility import check_model
from edgekd.export.parity import Array
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.records import InputSpec, Software
from edgekd.targets import catalogue

CLASSES: Final = 10
IMAGES: Final = 4


@dataclass(frozen=True, kw_only=True)
class Network:
    """One of timm, at the smallest size that it takes without losing a part."""

    name: str
    side: int = 64  # pixels
    options: dict[str, Any] = field(default_factory=dict)


def _of_size(name: str, side: int, **options: object) -> Network:
    """Of a network that must be told its size."""
    return Network(name=name, side=side, options={"img_size": side, **options})


NETWORKS: Final = (
    Network(name="resnet18"),
    Network(name="mobilenetv2_100"),
    _of_size("vit_tiny_patch16_224", 64),
    Network(name="convnext_atto"),
    Network(name="efficientnet_b0"),
    Network(name="mobilenetv3_small_100"),
    Network(name="mobilenetv4_conv_small"),
    Network(name="regnety_002"),
    Network(name="resnet50"),
    Network(name="ghostnet_100"),
    Network(name="repvgg_a0"),
    Network(name="tinynet_e"),
    Network(name="hardcorenas_a"),
    _of_size("deit_tiny_patch16_224", 64),
    _of_size("mixer_s16_224", 64),
    Network(name="poolformer_s12"),
    Network(name="edgenext_xx_small"),
    Network(name="fastvit_t8"),
    _of_size("levit_128s", 224),
    _of_size("swin_tiny_patch4_window7_224", 128, window_size=4),
    Network(name="tf_efficientnetv2_b0"),
    Network(name="densenet121"),
    Network(name="mobilevit_xxs"),
    Network(name="nf_regnet_b0"),
    Network(name="efficientvit_b0"),
    Network(name="repghostnet_050"),
    Network(name="rexnet_100"),
    Network(name="vgg11"),
    Network(name="pvt_v2_b0"),
    Network(name="starnet_s1"),
    Network(name="inception_v3", side=96),
    _of_size("xcit_nano_12_p16_224", 64),
)


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Every row that is not there yet."""
    path = options.results / "export-graphs.csv"
    groups = _groups()
    for network in NETWORKS:
        there = {(row["architecture"], row["software"]) for row in read_rows(path)}
        missing = {
            how: [each for each in group if (network.name, each.name) not in there]
            for how, group in groups.items()
        }
        if not any(missing.values()):
            continue
        module, images = make_module(network), _images(network)
        for group in filter(None, missing.values()):
            for row in _rows(network, module, images, group):
                append_row(path, row)
                say(
                    f"{row['architecture']} {row['software']}: {row['verdict']} {row['reason']} ({row['cpu_seconds']} s)"
                )


def _groups() -> dict[tuple[str, int], list[Software]]:
    """The software of all boards, by what decides the graph: exporter and opset."""
    known = {
        software.name: software
        for board in catalogue.boards()
        for software in board.software.values()
    }
    groups: dict[tuple[str, int], list[Software]] = {}
    for name in sorted(known):
        groups.setdefault((known[name].exporter, known[name].opset), []).append(known[name])
    return groups


def make_module(network: Network) -> nn.Module:
    """One of the networks, in evaluation mode."""
    return draw_weights(
        lambda: timm.create_model(
            network.name, pretrained=False, num_classes=CLASSES, **network.options
        )
    )


def draw_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """With random weights, the same each time; nothing is left at zero or one, where parity would hold of itself."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(draw.get_state())
        module = build()
    for parameter in module.parameters():
        if parameter.numel() == 1 or float(parameter.detach().std()) == 0:
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.data += (0.1 if parameter.ndim < 2 else 0.02) * noise
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_var is not None:
            assert layer.running_mean is not None
            layer.running_mean += 0.1 * torch.randn(layer.running_mean.shape, generator=draw)
            layer.running_var *= 0.5 + torch.rand(layer.running_var.shape, generator=draw)
    return module.eval().requires_grad_(False)


def _images(network: Network) -> Array:
    draw = np.random.default_rng(0)
    return draw.standard_normal((IMAGES, 3, network.side, network.side)).astype(np.float32)


def _rows(
    network: Network, module: nn.Module, images: Array, group: list[Software]
) -> Iterator[dict[str, object]]:
    """One export, judged for each software that gets this graph."""
    side = network.side
    spec = InputSpec(channels=3, height=side, width=side, mean=(0.5,) * 3, std=(0.25,) * 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        started = time.process_time()
        failed, nodes, error = _export(module, images, spec=spec, software=group[0], path=path)
        seconds = time.process_time() - started
        for software in group:
            found = failed
            if not found:
                violations = check_model(path, software)
                found = next((f"{each}" for each in violations if each.refuses), "")
            yield {
                "architecture": network.name,
                "pixels": side,
                "software": software.name,
                "tensorrt": software.tensorrt or "none",
                "exporter": software.exporter,
                "opset": software.opset,
                "verdict": "refused" if found else "exported",
                "reason": found,
                "nodes": nodes,
                "relative_error": error,
                "cpu_seconds": f"{seconds:.1f}",
                "device": processor(),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "timm": timm.__version__,
                "commit": commit(),
            }


def _export(
    module: nn.Module, images: Array, *, spec: InputSpec, software: Software, path: Path
) -> tuple[str, object, str]:
    """Why not, if not; the number of nodes; and the largest error as a share of the largest logit."""
    with torch.no_grad():
        reference = np.concatenate(
            [module(torch.from_numpy(image[None])).numpy() for image in images]
        )
    try:
        write_fp32(module, spec=spec, software=software, out=path)
        answers = parity.logits_of(path, images)
        compared = parity.compare(answers, reference, against="PyTorch", precision="fp32")
        parity.require_parity(compared, what=path.name)
    except (IncompatibleError, QualityError) as error:
        return str(error).splitlines()[0], "", ""
    return (
        "",
        len(onnx.load(path).graph.node),
        f"{compared.max_abs_error / float(np.abs(reference).max()):.1e}",
    )
