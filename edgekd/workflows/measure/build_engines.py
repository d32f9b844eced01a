"""TensorRT engines of exported files, built on this machine where it is what they are for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekd.bench.engine_builder import EngineOptions, build
from edgekd.bundle import golden_vectors
from edgekd.errors import UsageError
from edgekd.progress import Display
from edgekd.records import (
    Engine,
    OnnxModel,
    Precision,
    Target,
    compute_capabilities,
)


def engine_options(
    target: Target, *, dla: int | None, workspace_mb: int | None, timing_cache: Path | None
) -> EngineOptions:
    """How engines for a target are built on this machine, from what was typed.

    Raises:
        UsageError: the target runs no TensorRT, or has no such DLA core.
    """
    software, facts = target.software, target.board.facts
    if software.tensorrt is None:
        raise UsageError(f"--engine: {target.id} runs ONNX Runtime, which takes the .onnx file.")
    sms = compute_capabilities(facts)
    cores = int(facts["dla_cores"].value) if "dla_cores" in facts else 0  # type: ignore[arg-type]
    if dla is not None and not 0 <= dla < cores:
        raise UsageError(f"--dla {dla}: {target.board.name} has {cores} DLA cores. Leave it out.")
    return EngineOptions(
        dla=dla,
        workspace_mb=workspace_mb,
        timing_cache=timing_cache,
        expect_tensorrt=".".join(software.tensorrt.split(".")[:2]),
        expect_sm=sms[0] if len(sms) == 1 else None,
    )


def build_all(
    models: Sequence[OnnxModel],
    folder: Path,
    *,
    target: Target,
    options: EngineOptions,
    display: Display,
) -> tuple[Engine, ...]:
    """Build an engine of each precision that the target's TensorRT makes of the files.

    Args:
        models: of the files.
        folder: where they lie, with their golden vectors; engines go there too.
        target: whose engines they are.
        options: of the builder.
        display: what happens is said there.

    Raises:
        MissingToolError: TensorRT, CUDA or a GPU is not here; the message says which.
        IncompatibleError: this machine is no such target, or TensorRT does not take the file.
        QualityError: an engine answers otherwise than the golden vectors.
    """
    engines = []
    for precision, model in _engines_of(models, target, dla=options.dla):
        display.say(f"engine   {precision.upper()} of {model.path}")
        built = build(
            folder / model.path,
            model,
            folder / golden_vectors.vectors_file(precision),
            out=folder / f"model-{precision}.engine",
            precision=precision,
            typing="strong" if target.software.typing == "strong" else "weak",
            options=options,
            progress=lambda told: display.say(f"         {told.phase}: {told.step} of {told.of}"),
        )
        display.say(
            f"         {built.path}: {built.size_bytes / 1024:,.0f} KiB, TensorRT {built.tensorrt}, SM {built.sm}, "
            f"{'as it was' if built.reused else f'built in {built.build_s:.1f} s'}; top-1 matches the golden vectors on "
            f"{built.parity.top1_agreement:.1%} of {built.parity.images}"
        )
        if built.not_kept_in_fp32:
            display.warn(f"could not be kept in FP32: {', '.join(built.not_kept_in_fp32)}")
        for warning in built.warnings:
            display.warn(f"{built.path}: {warning}")
        engines.append(built)
    return tuple(engines)


def _engines_of(
    models: Sequence[OnnxModel], target: Target, *, dla: int | None
) -> Iterator[tuple[Precision, OnnxModel]]:
    """The precision of each engine, and the file that it is made of."""
    for model in models:
        if model.precision == "fp32" and target.software.typing == "weak":
            # A flag of the builder
            yield "fp16", model
        elif model.precision == "fp16":
            yield "fp16", model
        elif model.precision == "int8" and dla is None:  # INT8 of Q/DQ is not for the DLA
            yield "int8", model
