"""INT8 calibrated on images of every price, against FP32 on the same real test images.

Sets of `edgekd synthesize` are read where they lie (`--sets`: NAME-set for each subject), as they take minutes.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import torch

from benchmarks.distill.pairs import CIFAR10, EXAMPLES, MNIST, Data
from benchmarks.distill.running import commit
from benchmarks.distill.unseen import FASHION_64
from benchmarks.export.quick_images import QuickInversion
from benchmarks.machine import processor
from benchmarks.rows import append_row, read_rows
from edgekd.distill.data import synthetic_set
from edgekd.distill.data.labelled import normalise
from edgekd.distill.synthesis.structured_noise import draw_shapes
from edgekd.distill.teachers.loader import Teacher, load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.export import qdq, qdq_cpu
from edgekd.export.parity import Array, agreement, logits_of
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.targets.catalogue import load_target
from edgekd.workflows.distill import Pixels, coverage_of, pixels_of

TEST: Final = 2000
HELD_OUT: Final = 64
MOST: Final = 256


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network with real images of its kind."""

    name: str
    teacher: Teacher
    train: Pixels
    test: Array  # normalised (N, C, H, W)
    labels: npt.NDArray[np.int64]


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """A row for every kind of images, subject and form of INT8."""
    path = options.results / "export-cheap.csv"
    there = {(row["subject"], row["images"], row["count"]) for row in read_rows(path)}
    for subject in subjects(options.shared, options.cache, options.subject, say):
        for row in rows(subject, options, there, say):
            append_row(path, row)
            say(f"  {row}")


def subjects(
    shared: Path, cache: Path, only: str | None, say: Callable[[str], None]
) -> Iterator[Subject]:
    """The demo's teacher, the ResNet-20 of CIFAR-10, and a MobileNetV3 that was trained in two epochs."""
    told: tuple[tuple[str, Path, str, Data], ...] = (
        ("mnist", EXAMPLES / "teacher.pt", "resnet14-w12", MNIST),
        ("cifar", shared / "teachers" / "resnet20-12fca82f.th", "resnet20a", CIFAR10),
        (
            "mnv3",
            cache / "unseen" / "mobilenetv3_small_050.pt",
            "timm:mobilenetv3_small_050",
            FASHION_64,
        ),
    )
    for name, path, arch, data in told:
        if only not in {None, name}:
            continue
        teacher = load_teacher(
            path,
            TeacherOptions(
                arch=arch,
                input=(data.channels, data.side, data.side),
                mean=data.mean,
                std=data.std,
                classes=10,
            ),
            generator=torch.Generator().manual_seed(0),
            say=say,
        )
        if name == "mnv3":
            # As they were made for it
            with np.load(cache / "unseen" / "fashion_mnist-64-test-2000.npz") as found:
                test, labels = found["images"], found["labels"]
            apart = MOST + HELD_OUT
            train, test, labels = test[:apart], test[apart:], labels[apart:]
        else:
            train, _ = data.load(shared, "train")
            test, labels = (each[:TEST] for each in data.load(shared, "test"))
        yield Subject(
            name=name,
            teacher=teacher,
            train=train,
            test=normalise(test, teacher.info.input),
            labels=labels,
        )


def rows(
    subject: Subject,
    options: argparse.Namespace,
    there: Container[tuple[str, str, str]],
    say: Callable[[str], None],
) -> Iterator[dict[str, object]]:
    """Those that are not there."""
    info = subject.teacher.info
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "fp32.onnx"
        software = load_target("jetson").software
        write_fp32(
            subject.teacher.module, spec=info.input, software=software, out=fp32, dynamic_batch=True
        )
        model = onnx.load(fp32)
        exact = logits_of(fp32, subject.test)
        for kind, count, make in images_of(subject, options):
            if (subject.name, kind, str(count)) in there:
                continue
            started = time.perf_counter()
            pixels = make()
            seconds = time.perf_counter() - started
            say(f"{subject.name}: {kind}")
            calibration, held_out = (
                normalise(part, info.input) for part in (pixels[:-HELD_OUT], pixels[-HELD_OUT:])
            )
            outside = coverage_of(subject.teacher, pixels[:-HELD_OUT]).outside
            reference = logits_of(fp32, held_out)
            chosen = qdq.choose(
                model, calibration=calibration, held_out=held_out, reference=reference
            )
            graphs = {
                f"tensorrt, {chosen.method}": qdq.with_pairs(model, chosen.limits),
                "onnxruntime, max": qdq_cpu.with_cpu_pairs(model, calibration, arm=False),
            }
            for form, graph in graphs.items():
                data = graph.SerializeToString()
                answers = logits_of(data, subject.test)
                yield {
                    "subject": subject.name,
                    "images": kind,
                    "count": count,
                    "made_in_s": "" if kind in {"real", "synthesize"} else f"{seconds:.1f}",
                    "form": form,
                    "held_out_agreement": f"{agreement(logits_of(data, held_out), reference):.4f}",
                    "real_agreement": f"{agreement(answers, exact):.4f}",
                    "accuracy": f"{(answers.argmax(1) == subject.labels).mean():.4f}",
                    "accuracy_fp32": f"{(exact.argmax(1) == subject.labels).mean():.4f}",
                    "worst_outside": f"{max(outside.values()):.4f}",
                    "test_images": len(answers),
                    "device": processor(),
                    "torch": torch.__version__,
                    "commit": commit(),
                }


def images_of(
    subject: Subject, options: argparse.Namespace
) -> Iterator[tuple[str, int, Callable[[], Pixels]]]:
    """Kinds of images, how many are calibrated on, and what makes them (N, H, W, C), the last of them to be held out."""
    spec = subject.teacher.info.input
    shape = (MOST + HELD_OUT, spec.height, spec.width, spec.channels)
    yield "real", MOST, lambda: _drawn(subject.train, MOST + HELD_OUT)
    yield "shapes", MOST, lambda: pixels_of(draw_shapes(spec, MOST + HELD_OUT, seed=0))
    yield (
        "uniform noise",
        MOST,
        lambda: np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    )
    place = options.sets / f"{subject.name}-set"
    if place.exists():
        info = subject.teacher.info
        found = synthetic_set.read_set(
            place, teacher_digest=info.state_digest, spec=spec, classes=info.classes
        )
        yield "synthesize", len(found.images) - HELD_OUT, lambda: found.images
    for count, steps in ((64, 20), (64, 100), (MOST, 40)):
        making = QuickInversion(
            subject.teacher, count=count + HELD_OUT, seed=0, compute=options.place, steps=steps
        )
        yield (
            f"inverted, {steps} steps",
            count,
            functools.partial(lambda each: pixels_of(each.images()), making),
        )


def _drawn(pixels: Pixels, count: int) -> Pixels:
    taken = np.random.default_rng(0).choice(len(pixels), min(count, len(pixels)), replace=False)
    return np.ascontiguousarray(pixels[np.sort(taken)])
