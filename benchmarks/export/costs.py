"""Processor time and peak memory of an export, against torch's exporter and ONNX Runtime's quantiser alone.

Each run is a child that was forked after all was imported and a small network exported, so that none pays
for what another has loaded; its peak is the whole process's, of which the imports are most for small networks.
"""

import argparse
import logging
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet18

from benchmarks.distill.running import commit
from benchmarks.export.timing import SIDE, TARGETS, alone, network, ours
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.export.convert import export_int8
from edgekd.export.parity import Array
from edgekd.export.torch_to_onnx import INPUT, write_fp32
from edgekd.records import InputSpec, Target
from edgekd.targets.catalogue import load_target

REPEATS: Final = 3
CALIBRATION: Final = 16  # images
HELD_OUT: Final = 8
INT8_TARGET: Final = "jetson@jp6.2"

Run = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same job done by another and by us."""

    job: str
    target: Target
    other: str
    runs: tuple[Run, Run]


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """A row a run, the other's and ours in turn."""
    path = options.results / "export-costs.csv"
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    # The quantiser's advice to preprocess, which export did
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        for pair in _pairs(Path(folder)):
            taken: dict[str, list[tuple[float, int]]] = {pair.other: [], "edgekd": []}
            for repeat in range(1, REPEATS + 1):
                for who, run in zip(taken, pair.runs, strict=True):
                    cpu_s, peak_bytes = _in_child(run, Path(folder) / "out.onnx")
                    taken[who].append((cpu_s, peak_bytes))
                    append_row(part, _row(pair, who, repeat, cpu_s, peak_bytes))
            first, second = (
                [median(each[place] for each in taken[who]) for place in (0, 1)] for who in taken
            )
            say(
                f"{pair.job} {pair.target.id}: {second[0]:.2f} s and {first[0]:.2f} s of {pair.other}, "
                f"{second[0] / first[0]:.2f} times; {second[1] / 2**20:.0f} MiB and "
                f"{first[1] / 2**20:.0f} MiB, {second[1] / first[1]:.2f} times"
            )
    part.replace(path)


def _pairs(folder: Path) -> Iterator[Pair]:
    module = network()
    small = resnet18(weights=None).eval().requires_grad_(False)
    for target in map(load_target, TARGETS):
        # What the exporters import and remember at their first call
        for run in (alone, ours):
            run(small, target, folder / "small.onnx")
        yield Pair(
            job="fp32",
            target=target,
            other="torch",
            runs=(
                lambda path, target=target: alone(module, target, path),  # type: ignore[misc]
                lambda path, target=target: ours(module, target, path),  # type: ignore[misc]
            ),
        )
    yield _quantisers(module, small, load_target(INT8_TARGET), folder)


def _quantisers(module: nn.Module, small: nn.Module, target: Target, folder: Path) -> Pair:
    draw = np.random.default_rng(0)
    spec = InputSpec(channels=3, height=SIDE, width=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
    calibration, held_out = (
        draw.standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)
        for count in (CALIBRATION, HELD_OUT)
    )

    def quantise(fp32: Path, shown: Array, judged: Array, path: Path) -> None:
        export_int8(fp32, target=target, out=path, calibration=shown, held_out=judged)

    for name, each in (("small", small), ("large", module)):
        write_fp32(each, spec=spec, software=target.software, out=folder / f"{name}.onnx")
    _quantise_alone(folder / "small.onnx", calibration[:1], folder / "q.onnx")
    quantise(folder / "small.onnx", calibration[:1], held_out[:2], folder / "q.onnx")
    return Pair(
        job="int8",
        target=target,
        other="onnxruntime",
        runs=(
            lambda path: _quantise_alone(folder / "large.onnx", calibration, path),
            lambda path: quantise(folder / "large.onnx", calibration, held_out, path),
        ),
    )


def _quantise_alone(fp32: Path, images: Array, path: Path) -> None:
    """ONNX Runtime's, in the form that TensorRT takes, with largest values as ranges."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {INPUT: image[None]}

    quantization.quantize_static(
        fp32,
        path,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
        },
    )


def _in_child(run: Run, path: Path) -> tuple[float, int]:
    """Processor seconds of a run, and the peak of its process in bytes."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(run, path, there))
    child.start()
    there.close()
    cpu_s, peak_bytes = here.recv()
    child.join()
    return cpu_s, peak_bytes


def _measure(run: Run, path: Path, answer: Connection) -> None:
    started = time.process_time_ns()
    run(path)
    taken = (time.process_time_ns() - started) / 1e9
    # Linux counts kibibytes
    answer.send((taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def _row(pair: Pair, who: str, repeat: int, cpu_s: float, peak_bytes: int) -> dict[str, object]:
    return {
        "network": "torchvision resnet50",
        "pixels": SIDE,
        "job": pair.job,
        "software": pair.target.software.name,
        "who": who,
        "repeat": repeat,
        "cpu_s": f"{cpu_s:.3f}",
        "peak_bytes": peak_bytes,
        "images": f"{CALIBRATION} and {HELD_OUT}" if pair.job == "int8" else "1",
        "device": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
    }
