"""FP32 ONNX from a torch module: one file, the opset that was asked for, the same bytes each time.

N images, C channels, H x W pixels, K classes. The graph takes normalised float32 (N, C, H, W) as
`images` and gives `logits` (N, K); N is 1.
"""

import contextlib
import io
import logging
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
from edgekd.files import write_atomically
from edgekd.records import InputSpec, Software

INPUT: Final = "images"
OUTPUT: Final = "logits"
PRODUCER: Final = "edgekd"

# Said at every call of the exporter that TensorRT 8 needs; torch >= 2.9, until it is gone.
_EXPECTED_WARNINGS: Final = (
    "You are using the legacy TorchScript-based ONNX export",
    "The feature will be removed. Please remove usage of this function",
    "Constant folding - Only steps=1 can be constant folded",
    ".*isinstance.*LeafSpec",
)


def write_fp32(module: nn.Module, *, spec: InputSpec, software: Software, out: Path) -> None:
    """Export a module (evaluation mode, on the CPU) the way the board's software reads it.

    TensorRT 8 gets the TorchScript exporter: the other one writes opset 18 whatever it is asked,
    and TensorRT 8 then reads reductions wrongly without a word.

    Raises:
        IncompatibleError: the exporter wrote another opset than the software takes.
        MissingToolError: this torch no longer has the exporter that the software needs.
    """
    model = _exported(module, spec=spec, software=software)
    data = tidied(model).SerializeToString(deterministic=True)
    write_atomically(out, data)


def _exported(module: nn.Module, *, spec: InputSpec, software: Software) -> onnx.ModelProto:
    sample = torch.zeros(1, *spec.shape)
    with _quietly(), tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        written_to = Path(folder) / "exported.onnx"
        try:
            if software.exporter == "torchscript":
                torch.onnx.export(
                    module,
                    (sample,),
                    written_to,
                    dynamo=False,
                    opset_version=software.opset,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                )
                model = onnx.load(written_to)
            else:
                program = torch.onnx.export(
                    module,
                    (sample,),
                    dynamo=True,
                    opset_version=software.opset,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    external_data=False,
                    verbose=False,
                )
                assert program is not None  # with dynamo=True
                model = program.model_proto
        except (TypeError, AttributeError) as error:
            if software.exporter != "torchscript":
                raise
            raise MissingToolError(
                f"torch {torch.__version__} has no TorchScript exporter, which TensorRT {software.tensorrt} "
                "needs (opset 17 and below). Install an older torch: pip install 'torch<2.16'."
            ) from error
    written = opset_of(model)
    if written != software.opset:
        raise IncompatibleError(
            f"the exporter wrote opset {written}, not {software.opset}, which {software.name} needs. "
            "A file of another opset can be misread without an error, so it is refused."
        )
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operator set, 0 if the file names none."""
    return next(
        (int(entry.version) for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0
    )


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
