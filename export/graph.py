"""FP32 ONNX from a torch module: one file, the opset that was asked for, the same bytes each time.

N images, C channels, H x W pixels, K classes. The graph takes normalised float32 (N, C, H, W) as
`images` and gives `logits` (N, K); N is 1 unless the batch is dynamic.
"""

import contextlib
import inspect
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
import onnx_ir
import torch
from onnx_ir.passes import common as passes
from torch import nn

from edgekd.errors import IncompatibleError, MissingToolError
from edgekd.export.rules import opset_of
from edgekd.files import write_atomically
from edgekd.records import InputSpec, Software

INPUT: Final = "images"
OUTPUT: Final = "logits"
BATCH: Final = "batch"
PRODUCER: Final = "edgekd"
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")  # the exporter colours its messages

# Said at every call of the exporter that TensorRT 8 needs; torch >= 2.9, until it is gone.
_EXPECTED_WARNINGS: Final = (
    "You are using the legacy TorchScript-based ONNX export",
    "The feature will be removed. Please remove usage of this function",
    "Constant folding - Only steps=1 can be constant folded",
    ".*isinstance.*LeafSpec",
)


def write_fp32(
    module: nn.Module,
    *,
    spec: InputSpec,
    software: Software,
    out: Path,
    dynamic_batch: bool = False,
) -> None:
    """Export a module (evaluation mode, on the CPU) the way the board's software reads it.

    TensorRT 8 gets the TorchScript exporter: the other one writes opset 18 where it cannot go
    lower, and TensorRT 8 then reads reductions wrongly without a word.

    Raises:
        IncompatibleError: the exporter cannot write this module, or wrote another opset than the
            software takes.
        MissingToolError: this torch no longer has the exporter that the software needs.
    """
    model = _exported(module, spec=spec, software=software, dynamic_batch=dynamic_batch)
    data = tidied(model).SerializeToString(deterministic=True)
    write_atomically(out, data)


def _exported(
    module: nn.Module, *, spec: InputSpec, software: Software, dynamic_batch: bool
) -> onnx.ModelProto:
    # Of an open batch, torch.export takes 0 and 1 for constants; 2 is the first that stays open.
    sample = torch.zeros(2 if dynamic_batch else 1, *spec.shape)
    write = _by_torchscript if software.exporter == "torchscript" else _by_dynamo
    try:
        with _quietly():
            model = write(module, sample, software, dynamic_batch=dynamic_batch)
    except torch.onnx.OnnxExporterError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise IncompatibleError(
            f"torch's {software.exporter} exporter cannot write this network at opset {software.opset}, "
            f"which {software.name} needs: {_ESCAPES.sub('', reason)} "
            "Choose another student, or a target with newer software."
        ) from error
    written = opset_of(model)
    if written != software.opset:
        raise IncompatibleError(
            f"the exporter wrote opset {written}, not {software.opset}, which {software.name} needs. "
            "A file of another opset can be misread without an error, so it is refused."
        )
    return model


def _by_torchscript(
    module: nn.Module, sample: torch.Tensor, software: Software, *, dynamic_batch: bool
) -> onnx.ModelProto:
    if "dynamo" not in inspect.signature(torch.onnx.export).parameters:
        raise MissingToolError(
            f"torch {torch.__version__} has no TorchScript exporter, which {software.name} needs "
            "(opset 17 and below). Install an older torch: pip install 'torch<2.16'."
        )
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        written_to = Path(folder) / "exported.onnx"
        torch.onnx.export(
            module,
            (sample,),
            written_to,
            dynamo=False,
            opset_version=software.opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}} if dynamic_batch else None,
        )
        return onnx.load(written_to)


def _by_dynamo(
    module: nn.Module, sample: torch.Tensor, software: Software, *, dynamic_batch: bool
) -> onnx.ModelProto:
    program = torch.onnx.export(
        module,
        (sample,),
        dynamo=True,
        opset_version=software.opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim(BATCH)},) if dynamic_batch else None,
        external_data=False,
        verbose=False,
    )
    assert program is not None  # with dynamo=True
    return program.model_proto


def tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, identities and leftovers gone, names plain, nothing of this machine inside."""
    from onnxscript import optimizer

    with _quietly():
        graph = onnx_ir.serde.deserialize_model(model)
        # Padding exports as a computation on shapes, which no board needs to do.
        optimizer.optimize_ir(
            graph, should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None
        )
        onnx_ir.passes.Sequential(
            passes.IdentityEliminationPass(),
            passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            passes.DeduplicateInitializersPass(),
            passes.RemoveUnusedNodesPass(),
            passes.RemoveUnusedOpsetsPass(),
            passes.ClearMetadataAndDocStringPass(),
            passes.TopologicalSortPass(),
        )(graph)
    for number, node in enumerate(graph.graph):
        node.name = f"{node.op_type}_{number}"
    graph.producer_name, graph.producer_version = PRODUCER, ""
    graph.metadata_props.clear()
    graph.graph.name = PRODUCER
    tidy = onnx_ir.serde.serialize_model(graph)
    del tidy.graph.value_info[:]  # inferred again by whoever wants them
    return tidy


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep exporters off stdout, which carries results, and their known warnings off stderr."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
