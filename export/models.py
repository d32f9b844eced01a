"""Making a model: exported or quantised, legal for its target, and equal to what it was made from."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from edgekd.errors import IncompatibleError
from edgekd.export import graph, legality, parity, quantize, rules
from edgekd.export.parity import Array
from edgekd.files import digest_of, write_atomically
from edgekd.records import Calibration, InputSpec, OnnxModel, Parity, Precision, Target, TensorSpec


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
    with _draft_of(out) as draft:
        graph.write_fp32(
            module, spec=spec, software=target.software, out=draft, dynamic_batch=dynamic_batch
        )
        legality.require_legal(draft, target.software)
        logits = parity.logits_of(draft, images)
        found = parity.compare(logits, reference, against="PyTorch", precision="fp32")
        parity.require(found, what=out.name)
    return describe(out, "fp32", target=target, made_from=made_from, found=found)


def export_int8(
    fp32: Path, *, target: Target, out: Path, calibration: Array, held_out: Array
) -> OnnxModel:
    """Quantise an FP32 file for a target.

    Args:
        fp32: what `export_fp32` wrote.
        target: must run INT8.
        out: the file to write; it appears only when it is legal.
        calibration: normalised images (N, C, H, W) that ranges are taken from.
        held_out: others, for choosing the range method and for parity.

    A parity that fails is in the record, not raised: the run that made the student may have taken
    hours, and its FP32 model stands. Whoever ships it must look (`gate.parity`).

    Raises:
        IncompatibleError: the graph is not legal for the target.
    """
    if not target.software.int8:
        raise IncompatibleError(
            f"{target.id} runs no INT8. Ship {fp32.name}, or choose another target."
        )
    with _draft_of(out) as draft:
        chosen = quantize.write_int8(fp32, out=draft, calibration=calibration, held_out=held_out)
        legality.require_legal(draft, target.software)
    found = parity.compare(
        parity.logits_of(out, held_out),
        parity.logits_of(fp32, held_out),
        against=fp32.name,
        precision="int8",
    )
    return describe(
        out, "int8", target=target, made_from=digest_of(fp32), found=found, calibration=chosen
    )


@contextlib.contextmanager
def _draft_of(out: Path) -> Iterator[Path]:
    """Where to write a file of that name, which replaces `out` when the block ends without error."""
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        draft = Path(folder) / out.name
        yield draft
        write_atomically(out, draft.read_bytes())


def describe(
    path: Path,
    precision: Precision,
    *,
    target: Target,
    made_from: str,
    found: Parity,
    calibration: Calibration | None = None,
) -> OnnxModel:
    """The record of a file that passed its checks."""
    model = onnx.load(path)
    return OnnxModel(
        path=path.name,
        digest=digest_of(path),
        opset=rules.opset_of(model),
        ir_version=model.ir_version,
        precision=precision,
        exporter=target.software.exporter,
        inputs=tuple(_tensor(entry) for entry in model.graph.input),
        outputs=tuple(_tensor(entry) for entry in model.graph.output),
        size_bytes=path.stat().st_size,
        made_from=made_from,
        parity=found,
        legal_for=(target.id,),
        calibration=calibration,
    )


def _tensor(entry: onnx.ValueInfoProto) -> TensorSpec:
    kind = entry.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim)
    return TensorSpec(name=entry.name, dtype=dtype, shape=shape)


def precision_of(path: Path) -> Precision:
    """INT8 when there are Q/DQ pairs, FP16 when the weights are, FP32 otherwise.

    Raises:
        InputFileError: not an ONNX model.
    """
    model = legality.read(path)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    half = onnx.TensorProto.FLOAT16
    return "fp16" if any(entry.data_type == half for entry in model.graph.initializer) else "fp32"
