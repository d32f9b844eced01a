"""The ONNX files of one network for a target, in every precision that it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import nn

from edgekd.distill.data.labelled import normalise
from edgekd.export import convert
from edgekd.export.fake_quant import FakeQuantised
from edgekd.export.quantisation import CORRECTED, EQUALISED, KEPT, TUNED, FinetuneSource
from edgekd.gate import gates as verdicts
from edgekd.progress import Display
from edgekd.records import (
    Calibration,
    Engine,
    GateResult,
    ImageKind,
    InputSpec,
    OnnxModel,
    PortableEngine,
    Target,
    record,
    runtime_text,
)
from edgekd.records.manifest import GoldenVectors
from edgekd.workflows.distill import Pixels
from edgekd.workflows.export_options import (
    FP16_FILE,
    FP32_FILE,
    INT8_FILE,
    PLAIN,
    ExportPlan,
    fp16_of,
    without_int8,
)

# Images, of a file with everything inside and the plain one
COMPARED: Final = 32


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is exported. Not a record."""

    # In evaluation mode, on the CPU
    module: nn.Module
    spec: InputSpec
    # Of its weights
    digest: str


@dataclass(frozen=True, kw_only=True)
class ExportImages:
    """Normalised images that files are calibrated and judged on. Not a record."""

    calibration: npt.NDArray[np.float32]  # (N, C, H, W)
    held_out: npt.NDArray[np.float32]  # others (M, C, H, W)
    # The teacher's logits (M, K) on `held_out`, where it is at hand
    teacher: npt.NDArray[np.float32] | None = None
    # Of its batch-norms, what `calibration` does not reach
    outside: Mapping[str, float] = field(default_factory=dict)
    made_of: ImageKind = "synthetic images"


@record
class Exported:
    """What `edgekd export --json` prints, and `models.json`."""

    models: tuple[OnnxModel, ...]
    without: dict[str, str]
    golden: GoldenVectors | None = None
    engines: tuple[Engine, ...] = ()
    # For TensorRT-RTX; None: the target runs none, or it was not built
    portable: PortableEngine | None = None


def gates(exported: Exported) -> tuple[GateResult, ...]:
    """Verdicts on the files."""
    return tuple(
        verdict
        for model in exported.models
        for verdict in (verdicts.parity(model), *verdicts.coverage(model))
    )


def export_network(
    network: Network,
    images: ExportImages,
    *,
    target: Target,
    folder: Path,
    display: Display,
    options: ExportPlan = PLAIN,
    tune: Callable[[FakeQuantised], None] | None = None,
) -> Exported:
    """Every precision that the target runs.

    Args:
        network: a student, or a teacher.
        images: that are calibrated and judged on.
        target: what the files must be legal for.
        folder: to write into.
        display: what happens is said there.
        options: what else is asked of the files.
        tune: learns what an INT8 file is made of, in `options.tune` steps.
    """
    fp32 = convert.export_fp32(
        network.module,
        spec=network.spec,
        target=target,
        out=folder / FP32_FILE,
        images=images.held_out,
        made_from=network.digest,
        dynamic_batch=options.dynamic_batch,
    )
    display.say(
        f"         {fp32.path}: opset {fp32.opset}, {fp32.size_bytes / 1024:,.0f} KiB, max logit difference from "
        f"PyTorch {fp32.parity.max_abs_error:.1e}"
    )
    models = [fp32]
    if target.software.typing == "strong":
        fp16 = convert.export_fp16(
            folder / FP32_FILE,
            target=target,
            out=folder / FP16_FILE,
            images=images.held_out,
        )
        display.say(
            f"         {fp16.path}: {fp16.size_bytes / 1024:,.0f} KiB, equal to FP32 within "
            f"{fp16.parity.max_abs_error:.1e} of a logit"
        )
        models.append(fp16)
    left = models[-1].fp32_nodes
    if left:
        display.warn(f"FP16 cannot hold {len(left)} nodes, which stay FP32: {', '.join(left[:4])}")
    if not options.int8:
        return Exported(models=tuple(models), without={"int8": "--no-int8 leaves it out"})
    if not target.software.int8:
        reason = without_int8(target)
        display.warn(f"no INT8 model: {reason}. {fp16_of(target)}")
        return Exported(models=tuple(models), without={"int8": reason})
    int8 = convert.export_int8(
        folder / FP32_FILE,
        target=target,
        out=folder / INT8_FILE,
        calibration=images.calibration,
        held_out=images.held_out,
        teacher=images.teacher,
        outside=images.outside,
        keeping=options.keeping,
        tuning=FinetuneSource(module=network.module, tune=tune, steps=options.tune)
        if tune
        else None,
    )
    assert int8.calibration is not None
    int8 = replace(int8, calibration=replace(int8.calibration, made_of=images.made_of))
    found = int8.calibration
    assert found is not None
    display.say(
        f"         {int8.path}: {int8.size_bytes / 1024:,.0f} KiB, ranges by {found.method} over {found.images} images ({images.made_of}), "
        f"top-1 matches FP32 on {int8.parity.top1_agreement:.1%} of {int8.parity.images} held-out images"
    )
    if tune and found.method != TUNED:
        display.warn("the fine-tuned weights agree less with the teacher; they were dropped")
    for line in quantisation_lines(found):
        display.say(f"         {line}")
    return Exported(models=(*models, int8), without={})


def quantisation_lines(calibration: Calibration) -> list[str]:
    """What was done about what INT8 loses, and what it was worth."""
    costs = {layer.layer: layer for layer in calibration.sensitivity}
    lost = calibration.divergence
    steps = [(calibration.method, f"by {calibration.method}")]
    if calibration.equalised:
        steps.append((EQUALISED, "with channels of like ranges"))
    if calibration.kept:
        share = sum(costs[name].macs_share for name in calibration.kept)
        steps.append((KEPT, f"with {share:.1%} of the MACs in floating point"))
    if calibration.corrected:
        steps.append((CORRECTED, "with weights and biases corrected layer by layer"))
    lines = []
    if len(steps) > 1 and all(name in lost for name, _ in steps):
        told = ", ".join(f"{lost[name]:.4f} {words}" for name, words in steps)
        lines.append(f"nats from FP32: {told}")
    if calibration.kept:
        named = ", ".join(f"{name} ({costs[name].divergence:.3f})" for name in calibration.kept)
        lines.append(f"kept in floating point (nats that each alone loses in INT8): {named}")
    return lines


def embed_parts(
    exported: Exported,
    folder: Path,
    *,
    spec: InputSpec,
    target: Target,
    options: ExportPlan,
    held_out: Pixels,
) -> Exported:
    """The same files with preprocessing and head inside, where that was asked; compared on some images."""
    if not options.embed:
        return exported
    pixels = held_out[:COMPARED]
    models = [
        convert.embed(
            folder / model.path,
            model,
            parts=options.embed,
            spec=spec,
            target=target,
            pixels=pixels,
            images=normalise(pixels, spec),
        )
        for model in exported.models
    ]
    # The plain FP32 file that the others were made from is no more.
    fp32 = models[0]
    others = [replace(model, made_from=fp32.digest) for model in models[1:]]
    return replace(exported, models=(fp32, *others))


def software_text(target: Target) -> str:
    parts = [target.software.name]
    if target.software.tensorrt:
        parts.append(runtime_text(target.software.tensorrt))
    return f"{', '.join(parts)}, opset {target.software.opset}"
