"""INT8 against FP32 in ONNX Runtime on this x86 processor, which should have VNNI: by edgekd, and by ONNX Runtime itself.

Subjects are those of `benchmarks.export.networks`. All files of a network are measured by `edgekd bench` in turns, in
processes of their own, on one thread, batch 1.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from benchmarks.distill.running import commit
from benchmarks.export import networks
from benchmarks.export.networks import Subject
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.bench.analysis import statistics
from edgekd.export import parity, qdq, quantisation
from edgekd.export.parity import Array
from edgekd.progress import SilentDisplay
from edgekd.records import Samples
from edgekd.workflows.measure.benchmark import bench


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """A row for every file."""
    path = options.results / "export-vnni.csv"
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    for subject in networks.subjects(options, say):
        exact = parity.logits_of(subject.model.SerializeToString(), subject.test)
        with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
            files = _write(subject, Path(folder))
            agreed = {
                name: parity.agreement(parity.logits_of(each, subject.test), exact)
                for name, each in files.items()
            }
            taken = bench(list(files.values()), display=SilentDisplay()).measurements
        timed: dict[str, Samples] = {}
        for (name, _), found in zip(files.items(), taken, strict=True):
            assert isinstance(found.latency, Samples)
            timed[name] = found.latency
        whole = statistics.median(timed["fp32"])
        for name, latency in timed.items():
            low, high = statistics.level_interval(latency)
            middle = statistics.median(latency)
            append_row(
                part,
                {
                    "network": subject.name,
                    "pixels": subject.spec.height,
                    "file": name,
                    "median_us": f"{middle * 1e6:.1f}",
                    "interval_us": f"{low * 1e6:.1f} to {high * 1e6:.1f}",
                    "fp32_over_it": f"{whole / middle:.3f}",
                    "agreement": f"{agreed[name]:.4f}",
                    "test_images": len(exact),
                    "device": processor(),
                    "commit": commit(),
                },
            )
            say(
                f"{subject.name}: {name}: {middle * 1e6:.0f} us, FP32 {whole / middle:.2f} times that"
            )
    part.replace(path)


def _write(subject: Subject, folder: Path) -> dict[str, Path]:
    """The files of a network, by who made them."""
    shown = subject.images("noise")
    plain = folder / "fp32.onnx"
    onnx.save(subject.model, plain)
    files = {"fp32": plain}
    for vnni in (True, False):
        name = "edgekd, x86-vnni" if vnni else "edgekd, x86"
        files[name] = folder / f"edgekd-{vnni}.onnx"
        made = quantisation.for_cpu(
            shown, arm=False, vnni=vnni, keeping=quantisation.AUTO, tuning=None
        )
        onnx.save(made.model, files[name])
    files["edgekd, as for TensorRT"] = folder / "tensorrt.onnx"
    ranges = qdq.observe(subject.model, qdq.activations(subject.model), shown.calibration)
    pairs = qdq.with_pairs(subject.model, qdq.limits_of(subject.model, ranges, "max"))
    onnx.save(pairs, files["edgekd, as for TensorRT"])
    for name, per_channel in (("per channel", True), ("per tensor", False)):
        files[f"onnxruntime, U8S8, {name}"] = folder / f"onnxruntime-{per_channel}.onnx"
        _onnxruntime(
            plain,
            files[f"onnxruntime, U8S8, {name}"],
            shown.calibration,
            per_channel=per_channel,
        )
    return files


def _onnxruntime(before: Path, out: Path, images: Array, *, per_channel: bool) -> None:
    """As its documents advise for x86 with VNNI: prepared, 8-bit weights, Q/DQ."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_suffix(".prepared")
    quant_pre_process(before, prepared)
    name = onnx.load(before).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = (images[place : place + 1] for place in range(len(images)))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {name: part}

    quantize_static(
        prepared,
        out,
        Reader(),
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
