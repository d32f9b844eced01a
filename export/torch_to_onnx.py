"""FP32 ONNX from a torch module: one file, the opset that was asked for, the same bytes each time.

N images, C channels, H x W pixels, K classes. The graph takes normalised float32 (N, C, H, W) as
`images` and gives `logits` (N, K); N is 1 unless the batch is dynamic.
"""

import contextlib
import inspect
import io
import logging
import os
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import onnx
import onnx_ir
import torch
from onnx_ir.passes import common as passes
from torch import nn
from torch.jit._trace import TracerWarning

from edgekd.errors import EdgekdError, IncompatibleError, MissingToolError
from edgekd.export import decompositions, exporter_errors
from edgekd.export.parity import MOST_BYTES
from edgekd.files import write_atomically
from edgekd.records import InputSpec, Software

INPUT: Final = "images"
OUTPUT: Final = "logits"
BATCH: Final = "batch"
PRODUCER: Final = "edgekd"

# Said at every call of the exporter that TensorRT 8 needs; torch >= 2.9, until it is gone.
_EXPECTED_WARNINGS: Final = (
    "You are using the legacy TorchScript-based ONNX export",
    "The feature will be removed. Please remove usage of this function",
    "ONNX export mode is set to TrainingMode.EVAL, but operator 'instance_norm' is set to train=True",  # in every mode
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
    """Export a module to a file; see `fp32_model`."""
    model = fp32_model(module, spec=spec, software=software, dynamic_batch=dynamic_batch)
    write_atomically(out, model.SerializeToString(deterministic=True))


def fp32_model(
    module: nn.Module, *, spec: InputSpec, software: Software, dynamic_batch: bool = False
) -> onnx.ModelProto:
    """Export a module (evaluation mode, on the CPU) the way the board's software reads it.

    TensorRT 8 gets the TorchScript exporter: the other one writes opset 18 where it cannot go
    lower, and TensorRT 8 then reads reductions wrongly without a word.

    Raises:
        IncompatibleError: the exporter cannot write this module, or wrote another opset than the
            software takes; or the weights are more than a file holds.
        MissingToolError: this torch no longer has the exporter that the software needs.
    """
    size = sum(part.nbytes for part in chain(module.parameters(), module.buffers()))
    if size > MOST_BYTES:
        raise IncompatibleError(
            f"{size / 2**30:.1f} GiB of weights, and an ONNX file in one piece holds at most 2 GiB. "
            "Choose a smaller student."
        )
    return _tidy(_run_exporter(module, spec=spec, software=software, dynamic_batch=dynamic_batch))


def _run_exporter(
    module: nn.Module, *, spec: InputSpec, software: Software, dynamic_batch: bool
) -> onnx_ir.Model:
    # Of an open batch, torch.export takes 0 and 1 for constants; 2 is the first that stays open.
    sample = torch.zeros(2 if dynamic_batch else 1, *spec.shape)
    write = _by_torchscript if software.exporter == "torchscript" else _by_dynamo
    try:
        with _quietly() as tracer_warnings:
            model = write(module, sample, software, dynamic_batch=dynamic_batch)
        with _quietly():
            exporter_errors.require_one_path(module, sample, tracer_warnings, software)
    except (EdgekdError, MemoryError):
        raise
    except Exception as error:  # exporters fail in many ways
        with torch.no_grad():
            # A fault of the network's own shows itself here again, as what it is
            module(sample)
        raise exporter_errors.explain_refusal(error, software) from error
    written = model.graph.opset_imports.get("", 0)
    if written != software.opset:
        raise IncompatibleError(
            f"the exporter wrote opset {written}, not {software.opset}, which {software.name} needs. "
            "A file of another opset can be misread without an error, so it is refused."
        )
    return model


def _by_torchscript(
    module: nn.Module, sample: torch.Tensor, software: Software, *, dynamic_batch: bool
) -> onnx_ir.Model:
    if "dynamo" not in inspect.signature(torch.onnx.export).parameters:
        raise MissingToolError(
            f"torch {torch.__version__} has no TorchScript exporter, which {software.name} needs "
            "(opset 17 and below). Install an older torch: pip install 'torch<2.16'."
        )
    written = io.BytesIO()
    with decompositions.DecompositionMode(software.opset):
        torch.onnx.export(
            module,
            (sample,),
            written,  # type: ignore[arg-type]  # which is typed for the other exporter
            dynamo=False,
            opset_version=software.opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}} if dynamic_batch else None,
        )
    return onnx_ir.serde.deserialize_model(onnx.load_from_string(written.getvalue()))


def _by_dynamo(
    module: nn.Module, sample: torch.Tensor, software: Software, *, dynamic_batch: bool
) -> onnx_ir.Model:
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
    # With dynamo=True
    assert program is not None
    return program.model


def _tidy(graph: onnx_ir.Model) -> onnx.ModelProto:
    """Constants folded, identities and leftovers gone, names plain, nothing of this machine inside."""
    from onnxscript import optimizer

    with _quietly():
        # Paddings and weights export as computations on constants, which no board needs to do; by itself the optimiser
        # leaves large ones alone.
        optimizer.optimize_ir(graph, output_size_limit=MOST_BYTES, should_fold=lambda _: True)
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
    # Inferred again by whoever wants them
    del tidy.graph.value_info[:]
    return tidy


@contextlib.contextmanager
def _quietly() -> Iterator[list[str]]:
    """Keep exporters off stdout, which carries results, and what they always say off stderr.

    What the tracer warns of in its own graph is in the list when the block ends.
    """
    tracer_warnings: list[str] = []
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("always", category=TracerWarning)
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            with _without_log_of_torch():
                yield tracer_warnings
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            tracer_warnings += [str(each.message) for each in caught if _is_about_the_graph(each)]
    for each in caught:
        if not _is_about_the_graph(each):
            warnings.showwarning(each.message, each.category, each.filename, each.lineno)


def _is_about_the_graph(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, TracerWarning)


@contextlib.contextmanager
def _without_log_of_torch() -> Iterator[None]:
    """Where tracing fails, torch writes the whole graph to stdout, by C++ and whatever its switch says."""
    # Unbuffered: it writes while we look away
    torch._C._jit_set_onnx_log_output_stream("stderr")
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
