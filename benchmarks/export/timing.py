"""How long an export takes with all its checks, against torch's exporter alone with the same options."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet50

from benchmarks.distill.running import commit
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.export.convert import export_fp32
from edgekd.export.torch_to_onnx import INPUT, OUTPUT
from edgekd.records import InputSpec, Target
from edgekd.targets.catalogue import load_target

TARGETS: Final = ("jetson@jp5.1", "jetson@jp6.2")  # one of each exporter
REPEATS: Final = 5
SIDE: Final = 224
IMAGES: Final = (
    1  # that parity is measured on: more cost what the network costs, twice or three times each
)


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """A row a run, torch's and ours in turn, after one of each that is thrown away."""
    path = options.results / "export-time.csv"
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    module = network()
    for name in TARGETS:
        target = load_target(name)
        taken: dict[str, list[float]] = {"torch": [], "edgekd": []}
        for repeat in range(REPEATS + 1):
            for who, run in (("torch", alone), ("edgekd", ours)):
                load = os.getloadavg()[0]
                with tempfile.TemporaryDirectory() as folder:
                    started = time.perf_counter_ns(), time.process_time_ns()
                    run(module, target, Path(folder) / "m.onnx")
                    ended = time.perf_counter_ns(), time.process_time_ns()
                wall_s, cpu_s = (
                    (end - start) / 1e9 for start, end in zip(started, ended, strict=True)
                )
                note = "" if repeat else " (not counted)"
                say(f"{target.id} {who}: {wall_s:.2f} s, {cpu_s:.2f} s of the processor{note}")
                if repeat:
                    taken[who].append(cpu_s)
                    append_row(part, _row(target, who, repeat, wall_s, cpu_s, load))
        middle = {who: median(values) for who, values in taken.items()}
        say(
            f"{target.id}: medians of processor time {middle['edgekd']:.2f} s and {middle['torch']:.2f} s, "
            f"{middle['edgekd'] / middle['torch']:.2f} times"
        )
    part.replace(path)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        module: nn.Module = resnet50(weights=None)
    return module.eval().requires_grad_(False)


def alone(module: nn.Module, target: Target, path: Path) -> None:
    software = target.software
    dynamo = software.exporter == "dynamo"
    torch.onnx.export(
        module,
        (torch.zeros(1, 3, SIDE, SIDE),),
        path,
        dynamo=dynamo,
        opset_version=software.opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        **({"external_data": False, "verbose": False} if dynamo else {}),
    )


def ours(module: nn.Module, target: Target, path: Path) -> None:
    draw = np.random.default_rng(0)
    export_fp32(
        module,
        spec=InputSpec(channels=3, height=SIDE, width=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3),
        target=target,
        out=path,
        images=draw.standard_normal((IMAGES, 3, SIDE, SIDE)).astype(np.float32),
        made_from="0" * 64,
    )


def _row(
    target: Target, who: str, repeat: int, wall_s: float, cpu_s: float, load: float
) -> dict[str, object]:
    return {
        "network": "torchvision resnet50",
        "pixels": SIDE,
        "images": IMAGES,
        "software": target.software.name,
        "exporter": target.software.exporter,
        "opset": target.software.opset,
        "who": who,
        "repeat": repeat,
        "wall_s": f"{wall_s:.3f}",
        "cpu_s": f"{cpu_s:.3f}",  # what other work on the machine does not change
        "load_before": f"{load:.2f}",
        "device": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
    }
