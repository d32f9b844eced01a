"""How long, how often and with what a model is measured."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from edgekd.bench.sensor_names import AUTO, NONE, SENSORS
from edgekd.options import BenchOptions
from edgekd.records import record

# Times the least warm-up
WARMUP_LIMIT: Final = 10.0
Seconds = Annotated[float, Field(ge=0, le=3600)]


def _check_sensor(name: str) -> str:
    known = (AUTO, NONE, *SENSORS)
    if name not in known:
        raise ValueError(f"no sensor {name!r}, choose from {', '.join(known)}")
    return name


@record
class BenchConfig:
    """Defaults give a first answer within half a minute; for a figure to publish see docs/measuring.md."""

    processes: Annotated[int, Field(ge=1, le=100)] = BenchOptions.processes
    # Of timed calls, for each process
    seconds: Seconds = BenchOptions.seconds
    # For each process
    max_runs: Annotated[int, Field(ge=1, le=1_000_000)] = BenchOptions.max_runs
    warmup_min_s: Seconds = BenchOptions.warmup_seconds
    warmup_max_s: Seconds = WARMUP_LIMIT * BenchOptions.warmup_seconds
    threads: Annotated[int, Field(ge=1, le=1024)] = BenchOptions.threads
    batch: Annotated[int, Field(ge=1, le=65536)] = (
        BenchOptions.batch
    )  # where the model leaves it open
    # None: no paced calls
    fps: Annotated[float, Field(gt=0, le=10_000)] | None = None
    runtime: Literal["auto", "onnxruntime", "tensorrt", "trtexec"] = "auto"
    # Of an engine of a file in FP32
    engine_precision: Literal["fp32", "fp16"] = "fp16"
    allow_emulated: bool = BenchOptions.allow_emulated
    # Of the surroundings
    note: Annotated[str, Field(max_length=200)] | None = None
    # .npy or .npz; None: random values from the seed
    inputs: Path | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    # For each stage
    memory_processes: Annotated[int, Field(ge=1, le=100)] = 3
    energy_windows: Annotated[int, Field(ge=1, le=100)] = BenchOptions.energy_windows
    energy_window_s: Seconds = BenchOptions.energy_seconds
    # Before the windows, and after
    energy_idle_s: Seconds = BenchOptions.energy_idle_seconds
    # A sensor by name; auto: the first that answers; none: windows for an external meter.
    energy_sensor: Annotated[str, AfterValidator(_check_sensor)] = BenchOptions.energy_sensor
    # For each process, beyond the time it was asked to run
    timeout_s: Seconds = 120.0
    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    root: Path = Path("/")
