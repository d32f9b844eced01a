"""What is written to disk or crosses a process: frozen records, unknown keys refused.

Units stand in the names, SI inside. A record carries the digests of what it was made from,
so that a bundle proves its own history. `sha256:<hex>` is written as plain lower-case hex.

History of the formats, one number for all of them (`SCHEMA_VERSION`):
  1  2026-11  first.
"""

import json
import re
from dataclasses import field
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from edgekd.errors import InputFileError

SCHEMA_VERSION: Final = 1
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")

T = TypeVar("T")

Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A path inside a bundle or student folder: relative, no hidden names, no way out of it.
RelativePath: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")
]
Share: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
Exporter: TypeAlias = Literal["torchscript", "dynamo"]
Runtime: TypeAlias = Literal["tensorrt", "onnxruntime"]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """A frozen, keyword-only pydantic dataclass that refuses unknown keys and non-finite lies."""
    config = ConfigDict(extra="forbid", strict=False, ser_json_inf_nan="strings")
    made: Any = pydantic_dataclass(frozen=True, kw_only=True, config=config)(cls)
    return made  # type: ignore[no-any-return]


# --- images and models ------------------------------------------------------------------------


@record
class InputSpec:
    """What a model takes: (channels, height, width), values in 0..1, then `(x - mean) / std`."""

    channels: Annotated[int, Field(ge=1, le=16)]
    height: Annotated[int, Field(ge=8, le=4096)]
    width: Annotated[int, Field(ge=8, le=4096)]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    value_range: tuple[float, float] = (0.0, 1.0)
    colour_order: Literal["gray", "rgb", "bgr", "other"] = "rgb"
    resize: Literal["none"] = "none"

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"mean and std need one value for each of {self.channels} channels, "
                f"not {len(self.mean)} and {len(self.std)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.height, self.width)


@record
class Architecture:
    """A network by `source:name`, with its channels, classes and input size.

    Those of `edgekd`, `timm` and `torchvision` can be built again from this alone; the others are a
    factory in a file of the user (`file`) or the code in the teacher's own file.
    """

    source: Literal["edgekd", "timm", "torchvision", "file", "pickle", "torchscript", "pt2", "onnx"]
    name: str
    channels: int
    classes: int
    height: int
    width: int

    def __str__(self) -> str:
        return self.name if self.source == "edgekd" else f"{self.source}:{self.name}"


@record
class NoiseResponse:
    """What a teacher says to standard normal noise; a teacher that says one class is hard to invert."""

    images: Count
    distinct_classes: Count
    mean_confidence: Share
    logit_std: float


@record
class TeacherInfo:
    """What was understood of a teacher file."""

    file: str
    file_digest: Digest
    state_digest: Digest
    architecture: Architecture
    input: InputSpec
    classes: Count
    class_names: tuple[str, ...] | None
    format: str  # "a file of torch.save"
    weights_key: str  # which entry of the file was taken; "" when the file is the state dict
    metadata_from: str  # where input, mean and std came from
    architecture_from: str  # how the network was found out
    parameters: Count
    macs: Count
    batch_norm_layers: Count
    batch_norm_trained: bool
    noise: NoiseResponse
    notes: tuple[str, ...] = ()  # what a reader should know of how it was loaded


@record
class Coverage:
    """How a set of synthetic images lies in the teacher's view."""

    class_histogram: tuple[int, ...]
    mean_confidence: Share
    batch_norm_distance: float | None  # mean over layers; None for a teacher without batch-norm
    # Of each of its batch-norms, the share of training's values that lie beyond what the images cause there.
    outside: dict[str, Share] = Field(default_factory=dict)


@record
class SyntheticSet:
    """Images inverted out of a teacher: uint8, (N, H, W, C), in a `.npy`."""

    file: RelativePath
    digest: Digest
    count: Count
    input: InputSpec
    teacher_digest: Digest
    seed: int
    coverage: Coverage
    classes_file: RelativePath | None = None  # int64, (N,): what the teacher decides of each
    classes_digest: Digest | None = None
    recipe: str | None = None
    grown: tuple[Count, ...] = ()  # images after each time that some were added
    lacking: dict[int, Count] = field(default_factory=dict)  # by class: fewer than its share


@record
class CondensedSet:
    """A few images a class that stand for a data set, in a `.npz`; this is its `about`."""

    file: str
    digest: Digest  # of images and labels, as arrays
    count: Count
    classes: Count
    class_names: tuple[str, ...] | None
    per_class: Count
    input: InputSpec  # mean and std are those of the data
    method: Literal["dm", "dsa", "herding", "random"]
    steps: Count
    seed: int
    flip: bool  # whether mirrored images counted as the same
    source: str  # name of the file or folder
    source_digest: Digest  # of its images and labels, as arrays
    source_images: Count
    source_skipped: Count  # files that could not be read
    made_with: str


@record
class DataUsed:
    """What a student learned from, besides the teacher."""

    kind: Literal["none", "condensed", "few real"]
    statement: str
    digests: dict[str, Digest] = field(default_factory=dict)  # of what was brought, by name


@record
class HistoryPoint:
    """One line of a run's log. Losses have no unit."""

    step: Count
    images: Count
    elapsed_s: float
    losses: dict[str, float]
    agreement: (
        Share | None
    )  # of the averaged student with the teacher, on held-out synthetic images
    raw_agreement: Share | None = None  # of the student without the average
    accuracy: Share | None = (
        None  # of the averaged student, on labelled images that were given to look at
    )
    raw_accuracy: Share | None = None


@record
class Plan:
    """What a run would do and cost, from a few timed steps: for planning, not for comparing."""

    recipe: str
    because: str
    faithful: bool  # in the paper's settings
    student: Architecture
    steps: Count  # of the student
    images: Count
    image_batch_s: float  # 0 where none are made
    student_step_s: float
    duration_s: float
    memory_bytes: Count
    device: str
    precision: Literal["fp32", "bf16"]


@record
class Student:
    """A distilled network: weights as safetensors, and how they came to be."""

    checkpoint: RelativePath
    digest: Digest
    architecture: Architecture
    input: InputSpec
    parameters: Count
    macs: Count
    chosen_because: str
    teacher_digest: Digest
    recipe: str
    seed: int
    steps: Count
    precision: Literal["fp32", "bf16"]
    agreement: Share  # with the teacher, on held-out synthetic images
    agreement_images: Count
    warnings: tuple[str, ...] = ()
    history: tuple[HistoryPoint, ...] = ()


@record
class TensorSpec:
    name: str
    dtype: str
    shape: tuple[int | str, ...]


@record
class Parity:
    """One model against what it was made from, on the same inputs."""

    against: str
    images: Count
    max_abs_error: float  # of logits; no unit
    max_abs_tolerance: float | None  # None where only decisions are compared
    top1_agreement: Share
    top1_tolerance: Share
    passed: bool


@record
class LayerSensitivity:
    """What INT8 in one layer alone does to the answers."""

    layer: str
    divergence: float  # mean KL(float || INT8) of the softmax outputs, in nats
    macs_share: Share  # of the network's multiply-accumulates
    size_share: Share  # of the weights of its layers


@record
class Calibration:
    """How the ranges of an INT8 graph were chosen."""

    method: str
    images: Count
    held_out_images: Count
    agreement: dict[str, Share]  # of each method that was tried, on held-out images
    compared_with: str = "fp32"  # what agreement is with: "fp32" or "teacher"
    saturated: dict[str, Share] = Field(
        default_factory=dict
    )  # of each tensor, what its range cuts off
    # Of each of the teacher's batch-norms, the share of training's values that lie beyond what the images cause there.
    outside: dict[str, Share] = Field(default_factory=dict)
    sensitivity: tuple[LayerSensitivity, ...] = ()
    kept: tuple[str, ...] = ()  # layers that stay in floating point
    tuned_steps: int = 0


@record
class OnnxModel:
    path: RelativePath
    digest: Digest
    opset: Count
    ir_version: Count
    precision: Precision
    exporter: Exporter
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size_bytes: Count
    made_from: Digest
    parity: Parity
    legal_for: tuple[str, ...]  # targets whose legality checks it passed
    calibration: Calibration | None = None  # of INT8
    # Nodes that FP16 could not hold: kept in FP32 where types are in the graph, and for the builder to keep where
    # they are its choice.
    fp32_nodes: tuple[str, ...] = ()
    embedded: tuple[str, ...] = ()  # "preprocessing", "softmax": what else is in the graph


@record
class Engine:
    """A TensorRT engine. It is only for boards with the same TensorRT, SM and L4T."""

    path: RelativePath
    digest: Digest
    made_from: Digest  # the ONNX file
    precision: Precision
    tensorrt: str
    sm: str  # compute capability, "8.7"
    l4t: str | None  # None where it is no Jetson
    signature: Digest  # of all that was asked of the builder
    tool: Literal["python", "trtexec"]
    parity: Parity  # with the golden vectors
    size_bytes: Count
    build_s: float
    reused: bool  # it was there, and all that it hangs on was the same
    timing_cache_digest: Digest | None
    tactics_replayed: bool  # nothing was measured anew
    unpinned: tuple[
        str, ...
    ] = ()  # layers that should have stayed in FP32, and could not be told to


@record
class LayerPrecision:
    """How much of one tensor of an INT8 graph is what FP32 has there: signal over noise."""

    tensor: str
    made_by: str  # "Relu /layer1/relu", or what the graph takes
    sqnr_db: float  # 10 log10(signal power / power of the difference); 6 dB are one bit


# --- targets ----------------------------------------------------------------------------------


@record
class Fact:
    """A hardware fact with where it was read; `unverified` until somebody looked it up."""

    value: str | int | float | bool | tuple[str | int | float, ...]
    source: str

    @property
    def verified(self) -> bool:
        return self.source != "unverified"


@record
class Software:
    """What a board runs, and what a model must look like for it."""

    name: str  # "jp6.2"
    runtime: Runtime
    opset: Annotated[int, Field(ge=9, le=25)]
    exporter: Exporter
    typing: Literal["weak", "strong", "none"]
    int8: bool
    source: str
    jetpack: str | None = None
    l4t: str | None = None
    tensorrt: str | None = None
    cuda: str | None = None
    python: str | None = None


@record
class Board:
    name: str
    title: str
    family: Literal["jetson", "raspberry-pi", "x86", "other"]
    facts: dict[str, Fact]
    software: dict[str, Software]
    default_software: str
    notes: tuple[str, ...] = ()
    budget: dict[str, Any] = field(default_factory=dict)  # its file's table, as it stands


@record
class Target:
    """One board with one set of software: `jetson-orin-nano-8gb@jp6.2`."""

    board: Board
    software: Software
    asked: str  # what the user typed

    @property
    def id(self) -> str:
        return f"{self.board.name}@{self.software.name}"


# --- measurements -----------------------------------------------------------------------------


@record
class Samples:
    """Values in the order taken; statistics are functions of them, never stored instead."""

    kind: Literal["samples"] = "samples"
    values: tuple[float, ...]
    unit: Literal["s", "B", "J", "W"]
    groups: tuple[Count, ...] = ()  # how many of them each process took, in order; none: one did

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
    interval: tuple[float, float]  # low, high
    unit: Literal["s", "J"]
    confidence: Share  # the share of truths that such intervals should hold
    basis: str  # what it was fitted on, and how far it was from what it had not seen
    model: str  # version of the fitted constants

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
    kernels: Count  # launches
    macs: Count
    moved_bytes: Count  # of activations and weights, each read or written once a kernel
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

    board: str | None  # of its device tree
    parts: tuple[str, ...]  # compatible names of its device tree: "nvidia,p3767-0003"
    architecture: str
    kernel: str
    python: str
    processors: Count
    memory_bytes: Count | None
    swap_bytes: Count | None
    l4t: str | None
    jetpack: str | None
    cuda: str | None
    power_mode: str | None  # by name
    cpu_max_mhz: float | None
    gpu_mhz: float | None
    fan: float | None  # share of full speed
    onnxruntime: str | None
    tensorrt: str | None
    trtexec: str | None
    sensor: str | None  # of power
    scope: str | None
    missing: dict[str, str]  # runtimes that are not there, and why


@record
class Range:
    lowest: float
    highest: float


@record
class Conditions:
    """What a figure was taken under. None: could not be read."""

    machine: str  # board model, or processor
    os: str
    runtime: str  # "onnxruntime 1.31.1"
    provider: str
    threads: Count
    batch: Count
    warmup_s: float
    warmup_runs: Count
    processes: Count
    governor: str | None
    cpu_mhz: float | None  # before the first run, as the temperature is
    load_before: float | None  # busy processors just before the first run
    temperature_c: float | None
    emulated: bool
    command: tuple[str, ...]
    clocks_mhz: dict[str, Range] = field(default_factory=dict)  # while calls were timed
    temperatures_c: dict[str, Range] = field(default_factory=dict)  # by zone, through the runs
    inputs: tuple[str, ...] = ()  # "images float32 1x3x32x32"
    clock_step_ns: Count | None = None  # of the monotonic clock
    agent_load: float | None = None  # processors that the agent took beside the model
    setup: MachineState | None = None
    edgekd: str | None = None
    note: str | None = None  # what the user says of the surroundings


@record
class Paced:
    """Calls that are due at a fixed rate, as a camera's frames are."""

    fps: float
    latency: Figure
    late: Count  # calls that started more than a tenth of their period after they were due


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
    no_arena_pss: Figure = _NOT_ASKED  # as model_pss, with ONNX Runtime's arena off
    declared: Figure = _NOT_ASKED  # of an engine: its weights and the scratch of one context
    board: Figure = _NOT_ASKED  # how far MemAvailable of the whole board fell
    gpu: Figure = _NOT_ASKED  # how far NvMapMemUsed rose


@record
class EnergyUncertainty:
    """Half the width of an interval, in joules, that holds the truth in at least 95 % of runs.

    Of the mean over the windows. Offset, gain and steps of the sensor by its datasheet, its noise,
    the edges of the windows, and what the windows differ by beyond that.
    """

    gross_j: Annotated[float, Field(ge=0.0)]
    idle_j: Annotated[float, Field(ge=0.0)] | None  # None: idle power was not measured
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
    idle: Annotated[tuple[TraceSpan, ...], Field(max_length=2)]  # before, after
    busy: TraceSpan | None = None  # all calls between the idle ones, those of no window too

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
    uncertainty: EnergyUncertainty | None = None  # None: not known, as that of an estimate
    kind: Literal["measured", "estimate"] = "measured"
    scope: str
    sensor: str
    rate_hz: float | None = None  # of fresh readings
    window_s: float | None = None  # the shortest
    idle_before_w: float | None = None
    idle_after_w: float | None = None
    trace: PowerTrace | None = None


@record
class Measurements:
    subject: str
    subject_digest: Digest
    precision: Precision
    taken_on: str  # the machine, always; never the target unless it is the target
    is_target: bool
    conditions: Conditions
    doubts: tuple[MeasurementWarning, ...]
    latency: Figure  # back to back
    memory: Memory
    energy: Energy | Unmeasured
    paced: Paced | None = None  # None: not asked for
    device: str | None = None  # how it was reached; None: this machine
    engine: Engine | None = None  # that was run; None: the file itself


@record
class Measured:
    """What `edgekd bench --json` prints."""

    measurements: tuple[Measurements, ...]
    failed: dict[str, str] = Field(default_factory=dict)  # boards that gave nothing, and why


Metric: TypeAlias = Literal[
    "latency-p50", "latency-p99", "size", "peak-memory", "energy", "agreement", "accuracy"
]


@record
class Limit:
    """What one figure must keep to: seconds, bytes, joules, or a share of images; the tighter of both, where both are given.

    `degradation` is a share of the reference's figure that may be added to a cost, and what agreement and accuracy may
    be below the reference's, as a share of images.
    """

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    degradation: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    of: Literal["teacher", "baseline"] | None
    origin: str  # where it was said


@record
class Budget:
    """What a board may spend, and what the student must be worth."""

    limits: dict[Metric, Limit]
    target: str | None = None  # whose figures count
    precision: Precision | None = None  # of the model that is deployed; None: the bundle's last
    baseline: str | None = None  # the file or bundle that `of = "baseline"` means
    origins: dict[str, str] = field(default_factory=dict)  # of the three above


@record
class GateResult:
    """A verdict. `passed` without a figure of the board is allowed by the user, and marked."""

    name: str
    passed: bool
    value: float | None
    limit: float | None  # None: what it is relative to is not known
    unit: str
    reason: str
    bound: Literal["at least", "at most"] = "at least"
    mark: Literal["measured", "estimate", "not checked"] = "measured"


# --- writing and reading ----------------------------------------------------------------------


def printable(text: str) -> str:
    """Text of others without what could steer a terminal, end a line, or has no form in XML."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def to_json(value: object, *, schema: str | None = None) -> str:
    """A record as JSON text with sorted keys: the same record is the same bytes.

    Args:
        value: any record.
        schema: its name; written with `schema_version` into a record that stands alone in a file.
    """
    plain = TypeAdapter(type(value)).dump_python(value, mode="json")
    if schema is not None:
        plain = {"schema": schema, "schema_version": SCHEMA_VERSION, **plain}
    return json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(kind: type[T], text: str | bytes, *, origin: str, schema: str | None = None) -> T:
    """Read a record from text that is not trusted.

    Raises:
        InputFileError: not JSON, another schema, a newer version, or fields that do not fit.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        plain: Any = json.loads(decoded, object_pairs_hook=_once_each, parse_constant=_no_number)
        if _SURROGATE.search(decoded):
            # Half a character: JSON can say it, no file can hold it. Whole pairs pass.
            json.dumps(plain, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{origin}: not JSON ({error}). Was it cut short?") from error
    if schema is not None:
        plain = _unwrap(plain, origin=origin, schema=schema)
    try:
        return TypeAdapter(kind).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        if first["type"] == "unexpected_keyword_argument":
            raise InputFileError(
                f"{origin}: {where}: a key that this edgekd does not know. Read it with the edgekd that wrote it."
            ) from error
        raise InputFileError(f"{origin}: {where}: {first['msg']}.") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of two values for one key, readers would take different ones."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"twice: {next(name for name in names if names.count(name) > 1)!r}")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _unwrap(plain: Any, *, origin: str, schema: str) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(plain, dict) or plain.get("schema") != schema:
        raise InputFileError(f"{origin}: not an edgekd {schema} file.")
    version = plain.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputFileError(
            f"{origin}: {schema} format {version!r}; this edgekd reads {SCHEMA_VERSION}. "
            "Read it with the edgekd that wrote it."
        )
    return {key: item for key, item in plain.items() if key not in {"schema", "schema_version"}}


def json_schema(kind: type[object], *, schema: str) -> dict[str, Any]:
    """The JSON schema of a record that stands alone in a file."""
    body = TypeAdapter(kind).json_schema(mode="serialization")
    head = {"schema": {"const": schema}, "schema_version": {"const": SCHEMA_VERSION}}
    body["properties"] = head | body["properties"]
    body["required"] = sorted({*body.get("required", []), *head})
    body["$schema"] = pydantic.json_schema.GenerateJsonSchema.schema_dialect
    body["$id"] = f"edgekd-{schema}-{SCHEMA_VERSION}"
    return body
