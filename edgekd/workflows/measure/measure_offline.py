"""A kit that measures where no network reaches, and what it brings back: `edgekd bench --offline-kit`, `bench import`."""

from collections.abc import Sequence
from pathlib import Path

from edgekd.bench import offline_kit, runner
from edgekd.bench.config import BenchConfig
from edgekd.bench.protocol.requests import Runtime
from edgekd.bench.runner import Subject
from edgekd.errors import UsageError
from edgekd.files import new_folder
from edgekd.records import Measured, Target
from edgekd.targets.catalogue import load_target
from edgekd.workflows.measure.benchmark import ENGINE, collect_models, is_board


def write_offline_kit(
    paths: Sequence[Path],
    folder: Path,
    *,
    config: BenchConfig,
    target: Target | None,
    force: bool,
) -> None:
    """A folder to carry to a board by hand.

    Raises:
        InputFileError: a model is not usable.
        UsageError: a board that builds engines was asked for: it cannot be asked from here what it builds.
        OutputError: the folder exists, or cannot be written.
    """
    models = collect_models(paths)
    runner.check_models([model.file for model in models], config)
    engines = {model.file.suffix == ENGINE for model in models}
    if len(engines) > 1:
        raise UsageError(
            "A kit measures ONNX files by ONNX Runtime or engines by TensorRT, not both. Write two."
        )
    runtime: Runtime = "tensorrt" if engines == {True} else "onnxruntime"
    if config.runtime not in {"auto", runtime, *(["trtexec"] if engines == {True} else [])}:
        raise UsageError(
            f"--runtime {config.runtime} does not fit a kit of {'engines' if engines == {True} else 'ONNX files'}. "
            "Build an engine on the board, and name it here."
        )
    if config.runtime == "trtexec":
        runtime = "trtexec"
    runner.check_asked(runtime, config)
    subjects = [Subject(model.file, model.precision, model.file.name) for model in models]
    with new_folder(folder, force=force) as fresh:
        offline_kit.write_kit(
            fresh,
            subjects,
            config,
            runtime=runtime,
            target=None if target is None else target.asked,
        )


def take_in(result: Path, folder: Path) -> Measured:
    """What an offline kit measured.

    Raises:
        InputFileError: no result, or no kit.
        IntegrityError: the result is of another kit, or the kit was changed.
        DeviceError: an answer is missing, or is nonsense.
    """
    asked = offline_kit.read_kit(folder)
    access = offline_kit.KitAccess(folder, asked, result)
    target = None if asked.target is None else load_target(asked.target)
    subjects = [Subject(folder / model.file, model.precision, model.name) for model in asked.models]
    inputs = None if asked.config.inputs is None else folder / asked.config.inputs
    config = BenchConfig(**{**vars(asked.config), "inputs": inputs, "runtime": asked.runtime})
    return Measured(
        measurements=runner.measure(
            subjects,
            is_target=lambda found: target is not None and is_board(found, target),
            access=access,
            config=config,
        )
    )
