"""Making a model: exported or quantised, legal for its target, and equal to what it was made from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from edgekd.errors import IncompatibleError, QualityError
from edgekd.export import (
    compatibility,
    fp16,
    parity,
    pre_post_processing,
    quantisation,
    stored_weights,
    torch_to_onnx,
)
from edgekd.export.model_metadata import describe_model, tensors_of
from edgekd.export.parity import Array
from edgekd.export.pre_post_processing import Part
from edgekd.export.quantisation import AUTO, CalibrationImages, FinetuneSource, FloatShare
from edgekd.files import digest_of, write_atomically
from edgekd.records import (
    Calibration,
    InputSpec,
    OnnxModel,
    Software,
    Target,
)


def export_fp32(
    module: nn.Module,
    *,
    spec: InputSpec,
    target: Target,
    out: Path,
    images: Array,
    made_from: str,
    dynamic_batch: bool = False,
) -> OnnxModel:
    """Write a module as FP32 ONNX for a target.

    Args:
        module: evaluation mode, on the CPU.
        spec: of its input.
        target: decides exporter and opset.
        out: the file to write; it appears only when it passed.
        images: normalised (N, C, H, W), on which it must answer as the module does.
        made_from: digest of the module's weights.
        dynamic_batch: leave N open instead of 1.

    Raises:
        IncompatibleError: the graph is not legal for the target.
        QualityError: it answers otherwise than the module.
    """
    with torch.no_grad():
        parts = parity.batches(images, None, name="the module")
        reference = np.concatenate([module(torch.from_numpy(part)).numpy() for part in parts])
    software = target.software
    model = torch_to_onnx.fp32_model(
        module, spec=spec, software=software, dynamic_batch=dynamic_batch
    )
    left, logits, data = _run_graph(model, images, software=software, name=out.name)
    found = parity.compare(logits, reference, against="PyTorch", precision="fp32")
    parity.require_parity(found, what=out.name)
    write_atomically(out, data)
    return describe_model(
        out,
        "fp32",
        model=model,
        data=data,
        target=target,
        made_from=made_from,
        found=found,
        fp32_nodes=left,
    )


def _run_graph(
    model: onnx.ModelProto, images: Array, *, software: Software, name: str
) -> tuple[tuple[str, ...], Array, bytes | memoryview]:
    """The nodes that FP16 cannot hold where the builder is to be told of them, what a graph answers, and its bytes.

    Then one pass does for both: to start a session costs more than to run it. The bytes are the front of
    what is run, so that the weights are there once.

    Raises:
        IncompatibleError: the graph is not legal for the software.
    """
    data = model.SerializeToString(deterministic=True)
    compatibility.require_legal_model(model, software, data=data, name=name)
    if software.typing != "weak":
        return (), parity.logits_of(data, images), data
    exposed, size = fp16.expose_floats(model, data), len(data)
    del data
    left, answers = fp16.run_and_find_overflow(model, images, exposed=exposed)
    return left, parity.one_answer(answers, name="the model"), memoryview(exposed)[:size]


def export_fp16(fp32: Path, *, target: Target, out: Path, images: Array) -> OnnxModel:
    """The FP32 file with its types halved, for a TensorRT that takes them from the graph.

    Args:
        fp32: what `export_fp32` wrote.
        target: of strong typing.
        out: the file to write.
        images: normalised (N, C, H, W): what they overflow stays in FP32, and they are compared on.

    Returns:
        The record, whose parity says whether it answers as FP32: a gate's to judge, as with INT8.

    Raises:
        IncompatibleError: the graph is not legal for the target.
        QualityError: FP32 is not finite itself.
    """
    model = compatibility.read_graph(fp32)
    kept = fp16.overflowing(model, images)
    found = _require_legal(fp16.to_half(model, keep=kept), target=target, out=out)
    parted = parity.compare(
        parity.logits_of(found, images),
        parity.logits_of(fp32, images),
        against=fp32.name,
        precision="fp16",
    )
    write_atomically(out, found)
    return describe_model(
        out, "fp16", target=target, made_from=digest_of(fp32), found=parted, fp32_nodes=kept
    )


def export_int8(
    fp32: Path,
    *,
    target: Target,
    out: Path,
    calibration: Array,
    held_out: Array,
    teacher: Array | None = None,
    outside: Mapping[str, float] | None = None,
    keeping: FloatShare | None = AUTO,
    tuning: FinetuneSource | None = None,
) -> OnnxModel:
    """Quantise an FP32 file for a target.

    Where the board's TensorRT takes types from the graph, what stays in floating point is FP16.

    Args:
        fp32: what `export_fp32` wrote.
        target: must run INT8.
        out: the file to write; it appears only when it is legal.
        calibration: normalised images (N, C, H, W) that ranges are taken from.
        held_out: others (M, C, H, W): every second for choosing the method, the rest for parity.
        teacher: its logits (M, K) on them, which the methods are compared by; None: those of the FP32 file.
        outside: of the teacher's batch-norms, what the calibration images do not reach; for the record.
        keeping: layers may stay in floating point; None: none does. AUTO: those that lose much and cost little.
        tuning: weights and scales are learned, and taken where they decide more like the reference, or alike and are no
            further from FP32.

    A parity that fails is in the record, not raised: the run that made the student may have taken
    hours, and its FP32 model stands. Whoever ships it must look (`gate.parity`).

    Raises:
        IncompatibleError: the graph is not legal for the target.
    """
    if not target.software.int8:
        raise IncompatibleError(
            f"{target.board.title} runs no INT8 under {target.software.name}. Ship {fp32.name}, which "
            "its builder makes FP16 of (trtexec --fp16), or choose another target."
        )
    seen, judged = held_out[::2], held_out[1::2] if len(held_out) > 1 else held_out
    shown = CalibrationImages(
        model=compatibility.read_graph(fp32),
        calibration=calibration,
        seen=seen,
        teacher=None if teacher is None else teacher[::2],
    )
    if target.software.runtime == "onnxruntime":
        dots = target.board.facts.get("dot_product")
        quantised = quantisation.for_cpu(
            shown,
            arm=target.board.family == "raspberry-pi",
            vnni=dots is not None and dots.value == "vnni",
            keeping=keeping,
            tuning=tuning,
        )
    else:
        quantised = quantisation.for_tensorrt(shown, keeping=keeping, tuning=tuning)
    return _finish(
        quantised.model,
        fp32=fp32,
        target=target,
        out=out,
        held_out=judged,
        calibration=replace(
            quantised.record,
            compared_with="fp32" if teacher is None else "teacher",
            outside=dict(outside or {}),
        ),
    )


def _finish(
    quantised: onnx.ModelProto,
    *,
    fp32: Path,
    target: Target,
    out: Path,
    held_out: Array,
    calibration: Calibration,
) -> OnnxModel:
    """Write a graph with Q/DQ pairs, typed as the target wants it, once it is legal.

    Raises:
        IncompatibleError: it is not.
    """
    kept: tuple[str, ...] = ()
    if target.software.int8_weights:
        stored_weights.store_int8(quantised)
    if target.software.typing == "strong":
        kept = fp16.overflowing(quantised, held_out)
        quantised = fp16.to_half(quantised, keep=kept)
    data = _require_legal(quantised, target=target, out=out)
    write_atomically(out, data)
    found = parity.compare(
        parity.logits_of(out, held_out),
        parity.logits_of(fp32, held_out),
        against=fp32.name,
        precision="int8",
    )
    return describe_model(
        out,
        "int8",
        model=quantised,
        data=data,
        target=target,
        made_from=digest_of(fp32),
        found=found,
        calibration=calibration,
        fp32_nodes=kept,
    )


def embed(
    path: Path,
    model: OnnxModel,
    *,
    parts: tuple[Part, ...],
    spec: InputSpec,
    target: Target,
    pixels: npt.NDArray[np.uint8],
    images: Array,
) -> OnnxModel:
    """Put preprocessing and a head into a file that passed its checks, and check it again.

    Args:
        path: of the file, which is replaced.
        model: its record.
        parts: that were `embedding.checked`.
        spec: of the network's input.
        target: what it must be legal for.
        pixels: RGB bytes (N, H, W, C), on which the files are compared.
        images: the same, normalised (N, C, H, W).

    Raises:
        IncompatibleError: the target's software does not take what is added.
        QualityError: it answers otherwise than the plain file with the same work done outside.
    """
    plain = compatibility.read_graph(path)
    expected = pre_post_processing.answers_for(parts, parity.logits_of(path, images))
    written = _require_legal(
        pre_post_processing.add_parts(plain, parts, spec), target=target, out=path
    )
    given = pre_post_processing.inputs_for(parts, pixels, images)
    answers = np.concatenate([found[0] for _, found in parity.outputs_of(written, given)])
    # The same arithmetic with the constants multiplied out: float32 rounds otherwise, and INT8 may then round
    # to the next level.
    limit = parity.TOLERANCES["fp16"].relative
    assert limit is not None
    worst = float(np.abs(answers.astype(np.float64) - expected).max())
    off = float((answers != expected).mean()) if "top1" in parts else worst
    allowed = 1 / len(images) if "top1" in parts else limit * float(np.abs(expected).max())
    if not off <= allowed:
        raise QualityError(
            f"{path.name} with {', '.join(parts)} inside answers otherwise: {off:.3g}, at most {allowed:.3g}."
        )
    write_atomically(path, written)
    found = onnx.load_from_string(written)
    return replace(
        model,
        digest=digest_of(path),
        size_bytes=path.stat().st_size,
        inputs=tensors_of(found.graph.input),
        outputs=tensors_of(found.graph.output),
        embedded=parts,
    )


def _require_legal(model: onnx.ModelProto, *, target: Target, out: Path) -> bytes:
    """A graph as bytes, legal for its target.

    Raises:
        IncompatibleError: it is not.
    """
    data = model.SerializeToString(deterministic=True)
    compatibility.require_legal_model(model, target.software, data=data, name=out.name)
    return bytes(data)
