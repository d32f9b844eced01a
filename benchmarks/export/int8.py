"""INT8 against FP32 on the same real test images: ranges of every kind, and tuning on synthetic images."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import torch

from benchmarks.distill.pairs import PAIRS, Pair
from benchmarks.distill.running import commit
from benchmarks.export.equalisation import correct_bias, equalise
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.distill.compute.device import Compute
from edgekd.distill.data import synthetic_set
from edgekd.distill.models import architectures
from edgekd.distill.teachers.loader import Teacher, load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.teachers.state_dict import read_weights
from edgekd.distill.training.int8_finetuning import FinetuneConfig, ParameterGroups, tune
from edgekd.export import qdq
from edgekd.export.calibration import METHODS
from edgekd.export.fake_quant import FakeQuantised, with_constants
from edgekd.export.parity import Array, logits_of
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.records import Student, from_json
from edgekd.targets.catalogue import load_target

CALIBRATION: Final = 512
EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "mnist"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network that is quantised, and all images that this may be done with."""

    name: str
    module: torch.nn.Module
    teacher: Teacher
    pair: Pair
    images: synthetic_set.ImageSet  # synthetic
    real: npt.NDArray[np.uint8]  # of training, (N, H, W, C)
    test: Array  # normalised (N, C, H, W)
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Result:
    method: str
    images: str
    weight_bits: int
    right: npt.NDArray[np.bool_]  # of each test image


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """A row for every way and subject."""
    path = options.results / "export-int8.csv"
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    for subject in subjects(options.shared, options.cache, say):
        exact = None
        for found in results(subject, options.place, say):
            exact = found if exact is None else exact
            row = _row(subject, found, exact)
            append_row(part, row)
            say(f"  {row['accuracy']}, loss {row['loss_points']} ± {row['loss_sd_points']} points")
    part.replace(path)


def _row(subject: Subject, found: Result, exact: Result) -> dict[str, object]:
    lost = exact.right.astype(int) - found.right.astype(int)
    return {
        "subject": subject.name,
        "method": found.method,
        "images": found.images,
        "weight_bits": found.weight_bits,
        "accuracy": f"{found.right.mean():.4f}",
        "loss_points": f"{100 * lost.mean():.2f}",
        # Paired: only images that one of the two gets right count.
        "loss_sd_points": f"{100 * np.sqrt(np.abs(lost).sum()) / len(lost):.2f}",
        "test_images": len(lost),
        "device": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def subjects(shared: Path, cache: Path, say: Callable[[str], None]) -> Iterator[Subject]:
    """The demo's student and the CIFAR-10 teacher itself, with images of their teachers."""
    for name, pair, flags in (
        ("mnist demo student", PAIRS["mnist-demo"], []),
        (
            "cifar10 resnet20",
            PAIRS["cifar10"],
            ["--arch", "resnet20a", "--input", "3x32x32", "--classes", "10"],
        ),
    ):
        data = pair.data
        where, _, file = (pair.file or "").partition(":")
        path = (EXAMPLES if where == "examples" else shared / "teachers") / file
        if flags:
            flags += [
                "--mean",
                ",".join(map(str, data.mean)),
                "--std",
                ",".join(map(str, data.std)),
            ]
        images = cache / f"{data.name}-images"
        if not images.exists():
            say(f"{name}: images")
            _edgekd("synthesize", path, *flags, "--count", 2048, "--out", images)
        teacher_options = TeacherOptions(
            arch=pair.arch,
            input=(data.channels, data.side, data.side),
            mean=data.mean,
            std=data.std,
            classes=10,
            flip=data.flip,
        )
        teacher = load_teacher(
            path, teacher_options, generator=torch.Generator().manual_seed(0), say=say
        )
        module = teacher.module
        if name.endswith("student"):
            folder = cache / "mnist-demo-student"
            if not folder.exists():
                say(f"{name}: distil")
                _edgekd("distill", path, "--steps", 2600, "--out", folder)
            record = folder / "student.json"
            student = from_json(Student, record.read_text(), origin=str(record), schema="student")
            module = architectures.build(student.architecture)
            module.load_state_dict(read_weights(folder / student.checkpoint).state)
        test, labels = pair.data.tensors(shared, "test")
        real, _ = pair.data.load(shared, "train")
        yield Subject(
            name=name,
            module=module.eval().requires_grad_(False),
            teacher=teacher,
            pair=pair,
            images=synthetic_set.read_set(
                images,
                teacher_digest=teacher.info.state_digest,
                spec=teacher.info.input,
                classes=10,
            ),
            real=real,
            test=test.numpy(),
            labels=labels.numpy(),
        )


def _edgekd(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "edgekd", *map(str, arguments)], check=True)


def results(subject: Subject, place: Compute, say: Callable[[str], None]) -> Iterator[Result]:
    """Every way, one after the other; the first is FP32."""
    spec = subject.teacher.info.input
    ahead = synthetic_set.split_held_out(subject.images, origin="the set")
    synthetic = _floats(subject, ahead.images[:CALIBRATION])
    held_out = _floats(subject, ahead.held_out)
    draw = np.random.default_rng(0)
    noise = draw.standard_normal((CALIBRATION, *spec.shape)).astype(np.float32)
    taken = draw.choice(len(subject.real), CALIBRATION, replace=False)
    real = _floats(
        subject,
        torch.from_numpy(np.ascontiguousarray(subject.real[np.sort(taken)])).permute(0, 3, 1, 2),
    )
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "fp32.onnx"
        write_fp32(
            subject.module,
            spec=spec,
            software=load_target("jetson").software,
            out=fp32,
            dynamic_batch=True,
        )
        model = onnx.load(fp32)

        def add_result(method: str, images: str, graph: onnx.ModelProto, bits: int = 8) -> Result:
            say(f"{subject.name}: {method}, {images}, {bits} bits")
            return _judge(subject, method, images, graph, bits)

        yield add_result("float", "none", model, 32)
        kinds = {"synthetic": synthetic, "noise": noise, "real": real}
        for images, calibration in kinds.items():
            limits = {each: _limits(model, calibration, each) for each in METHODS}
            for each in METHODS if images != "noise" else ("max",):
                yield add_result(each, images, qdq.with_pairs(model, limits[each]))
            if images == "synthetic":
                found = qdq.choose(model, calibration=calibration, held_out=held_out)
                yield add_result(
                    f"chosen: {found.method}", images, qdq.with_pairs(model, found.limits)
                )
            even = correct_bias(equalise(model), calibration)
            yield add_result(
                "equalisation, bias correction",
                images,
                qdq.with_pairs(even, _limits(even, calibration, "max")),
            )
        limits = found.limits
        for bits in (8, 6, 4):
            wrapped = FakeQuantised(
                subject.module, model, limits, shape=spec.shape, weight_levels=2 ** (bits - 1) - 1
            )
            yield add_result("static", "synthetic", _write_tuned(model, wrapped), bits)
            _finetune(subject, wrapped, ahead.images, place)
            yield add_result("tuned", "synthetic", _write_tuned(model, wrapped), bits)


def _floats(subject: Subject, images: torch.Tensor) -> Array:  # uint8 (N, C, H, W)
    return np.ascontiguousarray(subject.pair.data.normalise(images).numpy())


def _limits(model: onnx.ModelProto, images: Array, method: str) -> dict[str, float]:
    ranges = qdq.observe(model, qdq.activations(model), images)
    return qdq.limits_of(model, ranges, method)


def _write_tuned(model: onnx.ModelProto, wrapped: FakeQuantised) -> onnx.ModelProto:
    found = wrapped.collect_tuned()
    return qdq.with_pairs(
        with_constants(model, found.constants), found.limits, weight_scales=found.weight_scales
    )


def _finetune(
    subject: Subject, wrapped: FakeQuantised, images: torch.Tensor, place: Compute
) -> None:
    weights, scales = wrapped.learnable_parameters()
    tune(
        wrapped,
        subject.teacher.module,
        images,
        FinetuneConfig(),
        learned=ParameterGroups(weights=weights, scales=scales),
        normalised=lambda shown: subject.pair.data.normalise(shown * 255),
        flip=subject.pair.data.flip,
        place=place,
        generator=torch.Generator().manual_seed(0),
        told=lambda *_: None,
    )


def _judge(subject: Subject, method: str, images: str, graph: onnx.ModelProto, bits: int) -> Result:
    answers = logits_of(graph.SerializeToString(), subject.test)
    return Result(
        method=method,
        images=images,
        weight_bits=bits,
        right=answers.argmax(1) == subject.labels,
    )
