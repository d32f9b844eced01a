"""What a user can ask for, with every default.

The command line, the Python API and the workflows all take these records, so a default is stated here and nowhere else.
Nothing heavy is imported: `edgekd --help` reads this module.
"""

import os
import types
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from edgekd.errors import UsageError

# Budgets that apply where neither minutes nor steps are given. They cannot be defaults of a field: a default there could
# not be told from minutes that were asked for, and those must not be combined with steps.
# A student or recipe that edgekd is to choose
AUTO: Final = "auto"
DISTILL_MINUTES: Final = 15.0
SEARCH_MINUTES: Final = 20.0
# Training steps of each method of `condense`, where none are given. The papers take 20,000 (dm) and 10,000 (dsa, ten images
# per class); these are what a CPU does in minutes.
CONDENSE_STEPS: Final = {"dm": 1000, "dsa": 100, "herding": 200, "random": 0}
# What is written where no output is named; suffixes follow the teacher's name.
CONDENSED_FILE: Final = "condensed.npz"
STUDENT_SUFFIX: Final = "-student"
IMAGES_SUFFIX: Final = "-images"
SEARCH_SUFFIX: Final = "-search"


T = TypeVar("T")

# The smallest and the largest value of a field, where it has such; the command line takes them from here.
RANGES: Final[dict[str, tuple[float | None, float | None]]] = {
    "RunOptions.seed": (0, None),
    # Fewer images have no statistics.
    "TrainingOptions.batch": (4, None),
    "DataOptions.condensed_number": (0, None),
    "CondenseOptions.steps": (0, None),
    "SearchOptions.minutes": (0.0, None),
    "SearchOptions.steps": (1, None),
    "SearchOptions.count": (1, None),
    "ExportOptions.tune": (0, None),
    "BuildOptions.workspace_mb": (1, None),
    "BundleOptions.min_agreement": (0.0, 1.0),
    "BenchOptions.processes": (1, 100),
    "BenchOptions.seconds": (0, 3600),
    "BenchOptions.max_runs": (1, 1_000_000),
    "BenchOptions.warmup_seconds": (0, 3600),
    "BenchOptions.fps": (0.001, 10_000),
    "BenchOptions.threads": (1, 1024),
    "BenchOptions.batch": (1, 65536),
    "BenchOptions.energy_seconds": (0, 3600),
    "BenchOptions.energy_windows": (1, 100),
    "BenchOptions.energy_idle_seconds": (0, 3600),
    "MeterOptions.offset_watts": (0, None),
    "MeterOptions.step_watts": (0, None),
}


def _checked(cls: type[T]) -> type[T]:
    """Let a record refuse values of another type where it is made, and take a path as text too.

    Without it a wrong type is found where the value is first used, hours into a run perhaps.
    """

    def __post_init__(self: Any) -> None:  # noqa: ANN401, N807  # of any of these records; as dataclasses name it
        hints = get_type_hints(cls)
        for each in fields(self):
            name = f"{cls.__name__}.{each.name}"
            value = _fit(name, getattr(self, each.name), hints[each.name])
            if value is not None and name in RANGES:
                _require_in_range(name, value)
            object.__setattr__(self, each.name, value)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return cls


def _require_in_range(name: str, value: float) -> None:
    least, most = RANGES[name]
    # Turned round, so that NaN is refused as well.
    if (least is not None and not value >= least) or (most is not None and not value <= most):
        words = [f"at least {least}"] if least is not None else []
        words += [f"at most {most}"] if most is not None else []
        raise UsageError(f"{name}: {value!r}: {', '.join(words)}.")


def _fit(name: str, value: Any, hint: Any) -> Any:  # noqa: ANN401  # values of any type are what is checked
    """The value as its hint has it: a path of text, a tuple of a list.

    Raises:
        UsageError: it is of another type.
    """
    if get_origin(hint) in {Union, types.UnionType}:
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if value is None and len(kinds) < len(get_args(hint)):
            return None
        return _fit(name, value, kinds[0])
    if hint is Path and isinstance(value, (str, os.PathLike)):
        return Path(value)
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        kinds = list(get_args(hint))
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(kinds) == len(value):
            return tuple(_fit(name, each, kind) for each, kind in zip(value, kinds, strict=True))
    # True is an int to isinstance, and no number of steps.
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and numeric:
        return value
    if hint in {int, bool, str} and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
    raise UsageError(f"{name}: {value!r} is not of type {expected}.")


def require_record(value: Any, kind: type[T]) -> T:  # noqa: ANN401  # whatever a caller passed
    """An options record, or the defaults where there is none.

    Raises:
        UsageError: it is something else.
    """
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise UsageError(f"{value!r} is no {kind.__name__}: write edgekd.{kind.__name__}(...).")
    return value


@dataclass(frozen=True, kw_only=True)
@_checked
class RunOptions:
    """How and where a run computes.

    Attributes:
        seed: Random seed, 0 or more.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads; None takes OMP_NUM_THREADS, or all cores.
        force: Whether an existing output is replaced.
        restart: Whether an unfinished run is discarded instead of continued.
    """

    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    force: bool = False
    restart: bool = False


@dataclass(frozen=True, kw_only=True)
@_checked
class TrainingOptions:
    """Which student is trained, how, and for how long.

    Attributes:
        student: Architecture of the student, or `cut:SHARE`, `cut:macs=SHARE` for a part of the teacher; `auto` chooses.
        from_scratch: Whether the student takes no weight from the teacher.
        recipe: Name of a recipe, or path of a TOML file with one; `auto` chooses one.
        minutes: Time budget in minutes. With neither minutes nor steps, `DISTILL_MINUTES` applies.
        steps: Budget in training steps of the student; reproducible.
        faithful: Whether the paper's own settings and length are used.
        batch: Images per batch; None takes the recipe's.
        compile: Whether the student's training step is compiled.
    """

    student: str = "auto"
    from_scratch: bool = False
    recipe: str = "auto"
    minutes: float | None = None
    steps: int | None = None
    faithful: bool = False
    batch: int | None = None
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
@_checked
class DataOptions:
    """Images that a run is given, beside those that it synthesizes.

    Attributes:
        images: Image set of `synthesize` to learn from; no further images are made then.
        condensed: Condensed set: a file of `condense`, or a .pt of DC, DSA, DM or MTT.
        condensed_number: Index of the set in a file that holds several.
        condensed_mean: Mean per channel that the condensed images were normalised with, of 0..1 pixels.
        condensed_std: Standard deviation per channel that they were normalised with, of 0..1 pixels.
        samples: Folder, .npz or idx file with a few real images.
        strict: Whether unreadable files raise an error instead of being skipped.
        embeddings: .npy file with one vector per class, for recipe `nayer`.
        evaluation: Labelled images that are reported on and never influence the run.
    """

    images: Path | None = None
    condensed: Path | None = None
    condensed_number: int = 0
    condensed_mean: tuple[float, ...] | None = None
    condensed_std: tuple[float, ...] | None = None
    samples: Path | None = None
    strict: bool = False
    embeddings: Path | None = None
    evaluation: Path | None = None


@dataclass(frozen=True, kw_only=True)
@_checked
class SynthesisOptions:
    """How an image set is made.

    Attributes:
        recipe: Name of the recipe, or path of a TOML file with it, that the images are made with.
        extend: Whether images are added to a set that exists.
    """

    recipe: str = "pool"
    extend: bool = False


@dataclass(frozen=True, kw_only=True)
@_checked
class CondenseOptions:
    """How labelled images are condensed.

    Attributes:
        method: `dm`, `dsa`, `herding` or `random`.
        steps: Training steps; None takes the method's own number.
        input: Channels, height and width; None takes those of the first image.
        flip: Whether a mirrored image keeps its class; None means yes for colour images.
        strict: Whether unreadable files raise an error instead of being skipped.
    """

    method: str = "dm"
    steps: int | None = None
    input: tuple[int, int, int] | None = None
    flip: bool | None = None
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
@_checked
class BudgetOptions:
    """What a model may cost on its board.

    Attributes:
        file: Project file with a `[budget]` table; None takes `edgekd.toml` of the working folder, where there is one.
        limits: Limits as they are written on the command line: `latency-p50-ms=5`. They override the file.
        allow_estimates: Limits that pass on an estimate, by the same names.
    """

    file: Path | None = None
    limits: tuple[str, ...] = ()
    allow_estimates: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
@_checked
class SearchOptions:
    """How a search goes about it.

    Attributes:
        candidates: Architectures and parts of the teacher (`cut:macs=0.25`) to try; none tries a selection of the built-in ones.
        minutes: Time budget of the whole search. With neither minutes nor steps, `SEARCH_MINUTES` applies.
        steps: Training steps of each run in the last rung.
        count: Images in the set that all candidates share.
        recipe: Name of the recipe, or path of a TOML file with it, that the images are made with and learned from.
        images: Image set of `synthesize` to share instead.
        ray: Address of a Ray cluster; `local` starts one on this machine.
    """

    candidates: tuple[str, ...] = ()
    minutes: float | None = None
    steps: int | None = None
    count: int = 2560
    recipe: str = "pool"
    images: Path | None = None
    ray: str | None = None


@dataclass(frozen=True, kw_only=True)
@_checked
class ExportOptions:
    """What is asked of exported files beyond what the target decides.

    Attributes:
        embed: Parts to put into the graph: `preprocessing`, `bgr`, `softmax`, `top1`.
        keep_fp16: Fraction (0..1) of the INT8 model that may stay in floating point; None: layers that lose much and
            cost little, up to 0.05.
        keep_by: What `keep_fp16` is a fraction of: `macs` or `size`.
        tune: Fine-tuning steps of the INT8 model; 0 only calibrates.
        dynamic_batch: Whether the batch dimension stays open.
        int8: Whether an INT8 file is made, where the target runs it.
    """

    embed: tuple[str, ...] = ()
    keep_fp16: float | None = None
    keep_by: str = "macs"
    tune: int = 0
    dynamic_batch: bool = False
    int8: bool = True


@dataclass(frozen=True, kw_only=True)
@_checked
class BuildOptions:
    """How TensorRT engines are built on this machine.

    Attributes:
        dla: DLA core to build for, in FP16; None builds for the GPU.
        workspace_mb: Builder workspace in MiB; None takes a sixteenth of the memory.
        timing_cache: Timing cache to start from; None takes that of the last build.
    """

    dla: int | None = None
    workspace_mb: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True, kw_only=True)
@_checked
class BundleOptions:
    """What a bundle contains and must reach.

    Attributes:
        min_agreement: Minimum agreement with the teacher (0..1): on the images of `--eval` where they are given, else on held-out synthetic ones.
        keep_images: Whether the synthesized images are kept in the bundle.
        bench: Whether the models are measured at the end.
        bench_device: Board to measure on, `ssh://USER@HOST`; None measures on this machine.
        junit: JUnit XML file to write, one test case per gate.
    """

    min_agreement: float = 0.90
    keep_images: bool = True
    bench: bool = True
    bench_device: str | None = None
    junit: Path | None = None


@dataclass(frozen=True, kw_only=True)
@_checked
class BenchOptions:
    """How long, how often and with what a model is measured.

    Attributes:
        runtime: `auto`, `onnxruntime`, `tensorrt` or `trtexec`.
        engine_precision: Precision of an engine that is built from an FP32 file: `fp16` or `fp32`.
        allow_emulated: Whether results of an emulated processor are accepted.
        processes: Measuring processes per model.
        seconds: Timed seconds per process.
        max_runs: Maximum number of timed calls per process.
        warmup_seconds: Minimum warm-up; it continues until timings stabilise, at most ten times as long.
        fps: Fixed rate at which latency is measured as well; None measures back to back only.
        threads: CPU threads per process.
        batch: Batch size, where the model leaves it open.
        inputs: .npy or .npz file with inputs; None takes random values.
        energy_seconds: Length of an energy window in seconds.
        energy_windows: Number of energy windows.
        energy_idle_seconds: Idle seconds before and after the energy windows.
        energy_sensor: Power sensor by name; `auto` takes the first that works, `none` leaves it to an external meter.
        note: Free text that is stored with the results.
    """

    runtime: str = "auto"
    engine_precision: str = "fp16"
    allow_emulated: bool = False
    processes: int = 3
    seconds: float = 2.0
    max_runs: int = 2_000
    warmup_seconds: float = 0.5
    fps: float | None = None
    threads: int = 1
    batch: int = 1
    inputs: Path | None = None
    energy_seconds: float = 2.0
    energy_windows: int = 3
    energy_idle_seconds: float = 2.0
    energy_sensor: str = "auto"
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
@_checked
class ConnectionOptions:
    """How boards are reached.

    Attributes:
        fleet: TOML file with boards by name.
        ssh_config: OpenSSH configuration file to use instead of the user's.
        python: Python on the board that has the runtime; None takes `python3`.
    """

    fleet: Path | None = None
    ssh_config: Path | None = None
    python: str | None = None


@dataclass(frozen=True, kw_only=True)
@_checked
class EstimateOptions:
    """What a latency is estimated for.

    Attributes:
        target: The board.
        precision: Precision that the engine would run in: `fp16`, `fp32` or `int8`.
    """

    target: str = "jetson"
    precision: str = "fp16"


@dataclass(frozen=True, kw_only=True)
@_checked
class MeterOptions:
    """What is known of an external power meter.

    Attributes:
        name: Name of the meter.
        offset_watts: Maximum zero offset in watts, from its datasheet.
        gains: Maximum relative gain errors (0.001 is 0.1 %), one per independent factor.
        step_watts: Resolution of its converter in watts.
    """

    name: str = "external meter"
    offset_watts: float | None = None
    gains: tuple[float, ...] = ()
    step_watts: float = 0.0
