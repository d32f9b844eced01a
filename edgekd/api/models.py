"""Model files: exported, checked, measured, estimated, evaluated."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.api.events import OnEvent, display_to
from edgekd.api.paths import paths_of
from edgekd.api.targets import TargetLike, find_target
from edgekd.api.teachers import LoadedTeacher, TeacherFile
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.options import (
    BenchOptions,
    BuildOptions,
    ConnectionOptions,
    EstimateOptions,
    ExportOptions,
    require_record,
)

if TYPE_CHECKING:
    from edgekd.records import Measured, ModelEstimate
    from edgekd.workflows.check_model import GraphCheck
    from edgekd.workflows.evaluate import Comparison
    from edgekd.workflows.model_files import Exported


def export(
    source: str | Path | LoadedTeacher | TeacherFile,
    *,
    target: TargetLike,
    out: str | Path | None = None,
    images: str | Path | None = None,
    calibration: str | Path | None = None,
    options: ExportOptions | None = None,
    engine: BuildOptions | None = None,
    force: bool = False,
    on_event: OnEvent | None = None,
) -> "Exported":
    """Export a student, or a teacher itself, to ONNX files for a target.

    Args:
        source: Folder of `distill`, a bundle with images, or a teacher of `load_teacher`.
        target: Board, `BOARD@SOFTWARE`, or the path of a board file.
        out: Folder to write; None takes the names of source and board.
        images: Image set of `synthesize` to calibrate INT8 on; without one a teacher is calibrated on structured noise.
        calibration: Your own images instead: a folder of pictures, with or without folders by class, or a `.npy` of uint8
            (N, H, W, C) or (N, H, W). They are read and not kept.
        options: What is asked of the files beyond what the target decides.
        engine: How TensorRT engines are built on this machine; None builds none.
        force: Whether an existing folder is replaced.
        on_event: Called with every `Event`.

    Returns:
        The files with their parity, calibration and golden vectors.

    Raises:
        UsageError: Too few images, or the options cannot be combined.
        InputFileError: The folder, the teacher or the images cannot be used.
        OutputError: `out` exists, or it cannot be written.
        IncompatibleError: The target cannot take the network, or what is asked of it.
        QualityError: A file answers differently from the network; the folder is kept.
        MissingToolError: Engines are asked for, and TensorRT or a GPU is missing.
    """
    from edgekd.pipeline import default_out
    from edgekd.workflows import export as workflow
    from edgekd.workflows.export_options import plan_export
    from edgekd.workflows.measure.build_engines import engine_options

    board = find_target(target)
    built = None
    if engine is not None:
        built = engine_options(
            board,
            dla=engine.dla,
            workspace_mb=engine.workspace_mb,
            timing_cache=engine.timing_cache,
        )
    asked = plan_export(require_record(options, ExportOptions), engine=built)
    display = display_to(on_event)
    image_set = None if images is None else Path(images)
    own_images = None if calibration is None else Path(calibration)
    if isinstance(source, LoadedTeacher):
        source = source.source
    if isinstance(source, TeacherFile):
        return workflow.export_teacher(
            source.path,
            source.options,
            target=board,
            out=Path(out) if out is not None else default_out(source.path, board),
            force=force,
            display=display,
            images=image_set,
            own_images=own_images,
            options=asked,
        )
    folder = Path(source)
    return workflow.export(
        folder,
        target=board,
        out=Path(out) if out is not None else Path(f"{folder.resolve().name}-{board.board.name}"),
        force=force,
        display=display,
        images=image_set,
        own_images=own_images,
        options=asked,
    )


def check_model(
    model: str | Path, *, target: TargetLike | None = None, parser: bool | None = None
) -> "GraphCheck":
    """Check for which versions of TensorRT an ONNX file is legal.

    Args:
        model: ONNX file.
        target: Board whose software is checked first; None checks every TensorRT only.
        parser: Whether NVIDIA's own parser and builder (TensorRT-RTX) are asked too; None asks
            them where they are installed.

    Returns:
        A verdict per software, with the reasons. An illegal graph does not raise.

    Raises:
        InputFileError: The file is not an ONNX model.
        MissingToolError: NVIDIA's parser is asked for and is not installed, or does not load.
        UsageError: There is no such target.
    """
    from edgekd.workflows import check_model as workflow

    board = None if target is None else find_target(target)
    return workflow.check_model(Path(model), target=board, parser=parser)


def benchmark(
    models: str | Path | Sequence[str | Path],
    *,
    devices: Sequence[str] = (),
    connection: ConnectionOptions | None = None,
    target: TargetLike | None = None,
    options: BenchOptions | None = None,
    on_event: OnEvent | None = None,
) -> "Measured":
    """Measure latency, memory and energy of models, on this machine or on boards.

    Args:
        models: ONNX files, TensorRT engines or bundles; several take turns.
        devices: Boards, `ssh://USER@HOST` or names in the fleet file; none measures on this machine.
        connection: How the boards are reached.
        target: Board that the models are for; results of another machine are marked.
        options: How long, how often and with what.
        on_event: Called with every `Event`.

    Returns:
        All measurements in SI units, with their warnings. Of several boards, those that failed are in `failed`.

    Raises:
        UsageError: An option makes no sense, or a board is named twice.
        InputFileError: A model cannot be used.
        MissingToolError: The runtime is not installed.
        DeviceError: The only board could not be reached, or a measuring process failed.
        IncompatibleError: The runtime cannot run the model.
    """
    from edgekd.bench.transport import fleet
    from edgekd.workflows.measure import benchmark as workflow

    hosts = require_record(connection, ConnectionOptions)
    paths = paths_of(models)
    config = workflow.bench_config(require_record(options, BenchOptions))
    board = None if target is None else find_target(target)
    return workflow.bench(
        paths,
        display=display_to(on_event),
        config=config,
        target=board,
        devices=fleet.devices(
            devices, hosts.fleet, ssh_config=hosts.ssh_config, python=hosts.python
        ),
    )


def estimate_latency(
    model: str | Path, *, target: TargetLike | None = None, precision: str | None = None
) -> "ModelEstimate":
    """Estimate the latency of a model on a board that is not here, from published measurements.

    Args:
        model: ONNX file; an open batch counts as 1.
        target: The board; None takes that of `EstimateOptions`.
        precision: Precision that the engine would run in: `fp16`, `fp32` or `int8`; None takes that of `EstimateOptions`.

    Returns:
        The estimate in seconds with its interval, and what it is based on.

    Raises:
        UsageError: There is no such precision or target.
        InputFileError: The file cannot be read, or has open sizes beyond the batch.
        IncompatibleError: No published measurement supports this board and precision.
    """
    from edgekd.workflows.measure import estimate_latency as workflow

    return workflow.estimate(
        Path(model),
        target=find_target(target if target is not None else EstimateOptions.target),
        precision=workflow.precision_named(precision or EstimateOptions.precision),
    )


def evaluate(
    models: str | Path | LoadedTeacher | Sequence[str | Path],
    data: str | Path,
    *,
    teacher: TeacherOptions | None = None,
) -> "Comparison":
    """Evaluate models on the same labelled images: accuracy, agreement, calibration error.

    Args:
        models: Teacher files, student folders, bundles or ONNX files; agreement is with the first.
        data: Labelled images: .npz, idx or folder.
        teacher: What teacher files do not state themselves; for ONNX files alone, mean and std.

    Returns:
        A result per model.

    Raises:
        InputFileError: A model or the images cannot be used, or two models take different inputs or classes.
        UsageError: All models are ONNX files, which do not state how images are normalised, and `teacher` does not either.
    """
    from edgekd.workflows.evaluate import compare

    if isinstance(models, LoadedTeacher):
        return compare([models.source.path], Path(data), models.source.options)
    paths = paths_of(models)
    return compare(paths, Path(data), require_record(teacher, TeacherOptions))
