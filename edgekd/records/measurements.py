"""Figures with how they were taken: samples, or the reason why there are none."""

from dataclasses import field
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from edgekd.records._record import (
    Count,
    Digest,
    Precision,
    Share,
    record,
)
from edgekd.records.models import Engine


@record
class Samples:
    """Values in the order taken; statistics are functions of them, never stored instead."""

    kind: Literal["samples"] = "samples"
    values: tuple[float, ...]
    unit: Literal["s", "B", "J", "W"]
    # How many of them each process took, in order; none: one did.
    groups: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        if self.groups and sum(self.groups) != len(self.values):
            raise ValueError(
                f"{len(self.values)} values, of which the groups hold {sum(self.groups)}"
            )


@record
class Unmeasured:
    """Not a number: why there is none."""

    kind: Literal["unmeasured"] = "unmeasured"
    reason: str


Figure: TypeAlias = Annotated[Samples | Unmeasured, Field(discriminator="kind")]


@record
class Estimate:
    """A figure that nobody measured: what a fitted model says, with the interval that its errors make."""

    kind: Literal["estimate"] = "estimate"
    value: float
    # Low, high.
    interval: tuple[float, float]
    unit: Literal["s", "J"]
    # The share of truths that such intervals should hold.
    confidence: Share
    # What it was fitted on, and how far it was from what it had not seen.
    basis: str
    # Version of the fitted constants.
    model: str

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= self.value <= high:
            raise ValueError(f"{self.value} does not lie in its interval, {low} to {high}")


@record
class ModelEstimate:
    """What is estimated of one ONNX file on a board that is not here. Nothing in it was measured."""

    subject: str
    subject_digest: Digest
    target: str
    precision: Precision
    latency: Estimate
    energy: Annotated[Estimate | Unmeasured, Field(discriminator="kind")]
    # Launches.
    kernels: Count
    macs: Count
    # Of activations and weights, each read or written once a kernel.
    moved_bytes: Count
    notes: tuple[str, ...] = ()


@record
class MeasurementWarning:
    """A reason to trust a figure less, with what to do about it."""

    code: str
    message: str
    advice: str


@record
class MachineState:
    """What a machine is and has, as its agent found it. None: could not be read."""

    # Of its device tree.
    board: str | None
    # Compatible names of its device tree: "nvidia,p3767-0003"
    parts: tuple[str, ...]
    architecture: str
    kernel: str
    python: str
    processors: Count
    memory_bytes: Count | None
    swap_bytes: Count | None
    l4t: str | None
    jetpack: str | None
    cuda: str | None
    # By name.
    power_mode: str | None
    cpu_max_mhz: float | None
    gpu_mhz: float | None
    # Share of full speed.
    fan: float | None
    onnxruntime: str | None
    tensorrt: str | None
    trtexec: str | None
    # Of power.
    sensor: str | None
    scope: str | None
    # Runtimes that are not there, and why.
    missing: dict[str, str]


@record
class Range:
    lowest: float
    highest: float


@record
class Conditions:
    """What a figure was taken under. None: could not be read."""

    # Board model, or processor.
    machine: str
    os: str
    # "onnxruntime 1.31.1"
    runtime: str
    provider: str
    threads: Count
    batch: Count
    warmup_s: float
    warmup_runs: Count
    processes: Count
    governor: str | None
    # Before the first run, as the temperature is.
    cpu_mhz: float | None
    # Busy processors just before the first run.
    load_before: float | None
    temperature_c: float | None
    emulated: bool
    command: tuple[str, ...]
    # While calls were timed.
    clocks_mhz: dict[str, Range] = field(default_factory=dict)
    # By zone, through the runs.
    temperatures_c: dict[str, Range] = field(default_factory=dict)
    # "images float32 1x3x32x32"
    inputs: tuple[str, ...] = ()
    # Of the monotonic clock.
    clock_step_ns: Count | None = None
    # Processors that the agent took beside the model.
    agent_load: float | None = None
    setup: MachineState | None = None
    edgekd: str | None = None
    # What the user says of the surroundings.
    note: str | None = None


@record
class Paced:
    """Calls that are due at a fixed rate, as a camera's frames are."""

    fps: float
    latency: Figure
    # Calls that started more than a tenth of their period after they were due.
    late: Count


_NOT_ASKED: Final = Unmeasured(reason="not asked for")


@record
class Memory:
    """Bytes, by stages of fresh processes: runtime loaded, model loaded, after the runs.

    PSS shares shared pages out, USS counts only private ones. `session_*` (model loaded) and
    `model_*` (after the runs) are differences to the runtime stage; `peak_rss` is of the last.
    """

    runtime_pss: Figure
    runtime_uss: Figure
    session_pss: Figure
    session_uss: Figure
    model_pss: Figure
    model_uss: Figure
    peak_rss: Figure
    # As model_pss, with ONNX Runtime's arena off.
    no_arena_pss: Figure = _NOT_ASKED
    # Of an engine: its weights and the scratch of one context.
    declared: Figure = _NOT_ASKED
    # How far MemAvailable of the whole board fell.
    board: Figure = _NOT_ASKED
    # How far NvMapMemUsed rose.
    gpu: Figure = _NOT_ASKED


@record
class EnergyUncertainty:
    """Half the width of an interval, in joules, that holds the truth in at least 95 % of runs.

    Of the mean over the windows. Offset, gain and steps of the sensor by its datasheet, its noise,
    the edges of the windows, and what the windows differ by beyond that.
    """

    gross_j: Annotated[float, Field(ge=0.0)]
    # None: idle power was not measured.
    idle_j: Annotated[float, Field(ge=0.0)] | None
    net_j: Annotated[float, Field(ge=0.0)] | None


@record
class TraceSpan:
    """Seconds since the first reading of a trace, and how many inferences were run."""

    begin_s: float
    end_s: float
    runs: Count


@record
class PowerTrace:
    """What a power sensor said, and when the model ran. A counter: mean power since the reading before."""

    seconds: Annotated[tuple[float, ...], Field(max_length=20_000)]
    watts: Annotated[tuple[float, ...], Field(max_length=20_000)]
    windows: Annotated[tuple[TraceSpan, ...], Field(max_length=100)]
    # Before, after.
    idle: Annotated[tuple[TraceSpan, ...], Field(max_length=2)]
    # All calls between the idle ones, those of no window too.
    busy: TraceSpan | None = None

    def __post_init__(self) -> None:
        if len(self.seconds) != len(self.watts):
            raise ValueError(f"{len(self.seconds)} times and {len(self.watts)} powers")


_NO_IDLE: Final = Unmeasured(reason="idle power was not measured")


@record
class Energy:
    """Joules for each inference over windows of calls, with what the sensor sees.

    Gross is what the sensor saw; idle, what it would have seen in that time without the model; net,
    the difference. One value a window.
    """

    gross: Figure
    idle: Figure = _NO_IDLE
    net: Figure = _NO_IDLE
    # None: not known, as that of an estimate.
    uncertainty: EnergyUncertainty | None = None
    kind: Literal["measured", "estimate"] = "measured"
    scope: str
    sensor: str
    # Of fresh readings.
    rate_hz: float | None = None
    # The shortest.
    window_s: float | None = None
    idle_before_w: float | None = None
    idle_after_w: float | None = None
    trace: PowerTrace | None = None


@record
class Measurements:
    subject: str
    subject_digest: Digest
    precision: Precision
    # The machine, always; never the target unless it is the target.
    taken_on: str
    is_target: bool
    conditions: Conditions
    warnings: tuple[MeasurementWarning, ...]
    # Back to back.
    latency: Figure
    memory: Memory
    energy: Energy | Unmeasured
    # None: not asked for.
    paced: Paced | None = None
    # How it was reached; None: this machine.
    device: str | None = None
    # That was run; None: the file itself.
    engine: Engine | None = None


@record
class Measured:
    """What `edgekd bench --json` prints."""

    measurements: tuple[Measurements, ...]
    # Boards that gave nothing, and why.
    failed: dict[str, str] = Field(default_factory=dict)
