"""How long, how often and with what a model is measured."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgekd.records import record

Seconds = Annotated[float, Field(ge=0, le=3600)]


@record
class BenchConfig:
    """Defaults give a first answer within half a minute; for a figure to publish see docs/measuring.md."""

    processes: Annotated[int, Field(ge=1, le=100)] = 3
    seconds: Seconds = 2.0  # of timed calls, for each process
    max_runs: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000  # for each process
    warmup_min_s: Seconds = 0.5
    warmup_max_s: Seconds = 5.0
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    batch: Annotated[int, Field(ge=1, le=65536)] = 1  # where the model leaves it open
    fps: Annotated[float, Field(gt=0, le=10_000)] | None = None  # None: no paced calls
    runtime: Literal["auto", "onnxruntime", "tensorrt", "trtexec"] = "auto"
    engine_precision: Literal["fp32", "fp16"] = "fp16"  # of an engine of a file in FP32
    allow_emulated: bool = False
    note: Annotated[str, Field(max_length=200)] | None = None  # of the surroundings
    inputs: Path | None = None  # .npy or .npz; None: random values from the seed
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    memory_processes: Annotated[int, Field(ge=1, le=100)] = 3  # for each stage
    energy_windows: Annotated[int, Field(ge=1, le=100)] = 3
    energy_window_s: Seconds = 2.0
    energy_idle_s: Seconds = 2.0  # before the windows, and after
    # A sensor by name; auto: the first that answers; none: windows for an external meter.
    energy_sensor: Literal[
        "auto", "none", "INA3221", "NVML", "RAPL", "PMIC", "tegrastats", "INA226"
    ] = "auto"
    timeout_s: Seconds = 120.0  # for each process, beyond the time it was asked to run
    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    root: Path = Path("/")
