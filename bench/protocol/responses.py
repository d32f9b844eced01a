"""What the agent may say. It runs elsewhere and is not trusted: every line is checked."""

from itertools import pairwise
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

from edgekd.errors import DeviceError
from edgekd.records import printable, record

# Of bench/agent/commands.py
PROTOCOL: Final = 4


Text: TypeAlias = Annotated[str, StringConstraints(max_length=2000), AfterValidator(printable)]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Positive: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# A day of nanoseconds: beyond it is nonsense, not a slow model.
Nanoseconds: TypeAlias = Annotated[int, Field(ge=0, le=86_400 * 10**9)]
# 2^53: whole numbers that survive a float, and more memory than there is.
Bytes: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]
SignedBytes: TypeAlias = Annotated[int, Field(ge=-(2**53), le=2**53)]
Sha256: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Whole: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]
Interval: TypeAlias = Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)]
# More than an agent takes at its fastest within the hour that a window may last.
Times: TypeAlias = Annotated[tuple[Whole, ...], Field(max_length=200_000)]
Readings: TypeAlias = Annotated[
    tuple[Annotated[float, Field(ge=-(2**53), le=2**53, allow_inf_nan=False)], ...],
    Field(max_length=200_000),
]
Column: TypeAlias = Annotated[tuple[Finite | None, ...], Field(max_length=2000)]


@record
class HelloResponse:
    """The first line, whatever is asked."""

    event: Literal["hello"]
    protocol: int
    agent: Text
    python: Text


@record
class ConditionsResponse:
    event: Literal["conditions"]
    machine: Text
    os: Text
    python: Text
    load_before: Positive | None
    governor: Text | None
    cpu_mhz: Positive | None
    temperature_c: Finite | None
    emulated: bool


@record
class ProbeResponse(ConditionsResponse):
    event: Literal["probe"]  # type: ignore[assignment]
    board: Text | None
    compatible: Annotated[tuple[Text, ...], Field(max_length=32)]
    kernel: Text
    architecture: Text
    processors: Annotated[int, Field(ge=1, le=65536)]
    memory_bytes: Bytes | None
    available_bytes: Bytes | None
    swap_bytes: Bytes | None
    l4t: Text | None
    cuda: Text | None
    power_mode: Text | None
    cpu_max_mhz: Positive | None
    gpu_mhz: Positive | None
    fan: Positive | None
    zones_c: Annotated[dict[Text, Finite], Field(max_length=128)]
    sensor: Text | None
    scope: Text | None
    no_sensor: Text | None
    onnxruntime: Text | None
    tensorrt: Text | None
    trtexec: Text | None
    missing: Annotated[dict[Text, Text], Field(max_length=16)]


@record
class LoadResponse:
    """What the agent itself took, beside the process that it measures."""

    event: Literal["load"]
    agent_cpu_s: Positive
    wall_s: Positive


@record
class HeldResponse:
    """The board is this host's."""

    event: Literal["held"]
    folder: Text
    cleaned: Whole
    free_bytes: Bytes


@record
class InputResponse:
    name: Text
    dtype: Text
    shape: Annotated[tuple[Whole, ...], Field(max_length=16)]


@record
class SessionResponse:
    event: Literal["session"]
    runtime: Text
    provider: Text
    # None: trtexec made them up
    inputs: Annotated[tuple[InputResponse, ...], Field(max_length=64)]


@record
class LatencyResponse:
    event: Literal["latency"]
    # Of the timed calls, by CLOCK_MONOTONIC; None: trtexec does not say
    begin_ns: Whole | None
    end_ns: Whole | None
    # None: back to back
    fps: Positive | None
    # Of paced calls
    late: Whole | None
    warmup_s: Positive
    warmup_runs: Whole
    # None: trtexec does not say
    stationary: bool | None
    first_ns: Nanoseconds | None
    clock_step_ns: Annotated[int, Field(ge=1, le=10**9)]
    values_ns: Annotated[tuple[Nanoseconds, ...], Field(min_length=1, max_length=1_000_000)]
    # What the runtime warned of while it loaded and ran
    said: Annotated[tuple[Text, ...], Field(max_length=64)] = ()


@record
class DeclaredResponse:
    weights: Bytes | None
    scratch: Bytes | None


@record
class MemoryResponse:
    event: Literal["memory"]
    stage: Literal["runtime", "session", "runs"]
    pss: Bytes | None
    uss: Bytes | None
    peak_rss: Bytes | None
    reason: Text | None
    arena: bool
    # By an engine
    declared: DeclaredResponse | None
    # How far MemAvailable fell
    board: SignedBytes | None
    # How far NvMapMemUsed rose
    gpu: SignedBytes | None


@record
class ChannelResponse:
    """One rail or counter of a sensor, and what it may be wrong by."""

    label: Text
    unit: Literal["mA", "uW", "mW", "uJ", "mJ"]
    offset_w: Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)]
    gains: Annotated[tuple[Share, ...], Field(max_length=16)]
    quantum: Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)]
    range: Annotated[int, Field(ge=1, le=2**53)] | None


@record
class SensorResponse:
    event: Literal["sensor"]
    name: Text
    scope: Text
    kind: Literal["power", "counter", "estimate"]
    channels: Annotated[tuple[ChannelResponse, ...], Field(min_length=1, max_length=32)]
    interval_s: Interval
    period_s: Interval
    settle_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)]
    scale: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    constant_w: Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]


@record
class PowerResponse:
    """Columns of readings: a row is what was read between `begin_ns` and `end_ns` (CLOCK_MONOTONIC)."""

    event: Literal["power"]
    begin_ns: Times
    end_ns: Times
    values: Annotated[tuple[Readings, ...], Field(min_length=1, max_length=32)]
    millivolts: Annotated[tuple[Readings | None, ...], Field(min_length=1, max_length=32)]
    # Readings that failed
    dropped: Whole
    # Slots that a slow reading ran over
    missed: Whole
    problems: Annotated[tuple[Text, ...], Field(max_length=8)]
    # Processors that the sampler kept busy
    load: Positive

    def __post_init__(self) -> None:
        rows = len(self.begin_ns)
        columns = [self.end_ns, *self.values, *(one for one in self.millivolts if one is not None)]
        if any(len(column) != rows for column in columns):
            raise ValueError("the columns of the readings differ in length")
        if len(self.values) != len(self.millivolts):
            raise ValueError("the readings have more voltages than values, or fewer")


@record
class SpanResponse:
    """What was done from one time to another (CLOCK_MONOTONIC); an idle one has no runs."""

    begin_ns: Whole
    end_ns: Whole
    runs: Whole

    def __post_init__(self) -> None:
        if self.end_ns < self.begin_ns:
            raise ValueError("a window ends before it begins")


@record
class StateResponse:
    # Of events, since boot
    counts: Annotated[dict[Text, Whole], Field(max_length=64)]
    alarms: Annotated[tuple[Text, ...], Field(max_length=64)]  # of now
    temperatures_c: Annotated[dict[Text, Finite], Field(max_length=256)]
    clocks_mhz: Annotated[dict[Text, Positive], Field(max_length=256)]


@record
class StatesResponse:
    """A machine while something ran on it: columns, with a row for each look (CLOCK_MONOTONIC)."""

    event: Literal["state"]
    at_ns: Annotated[tuple[Whole, ...], Field(min_length=2, max_length=2000)]
    temperatures_c: Annotated[dict[Text, Column], Field(max_length=256)]
    clocks_mhz: Annotated[dict[Text, Column], Field(max_length=256)]
    # Events, last look less the first
    counts: Annotated[dict[Text, int], Field(max_length=64)]
    alarms: Annotated[tuple[Text, ...], Field(max_length=64)]

    def __post_init__(self) -> None:
        columns = (*self.temperatures_c.values(), *self.clocks_mhz.values())
        if any(len(column) != len(self.at_ns) for column in columns):
            raise ValueError("the columns of the looks differ in length")
        if any(other <= one for one, other in pairwise(self.at_ns)):
            raise ValueError("looks whose times do not go forward")


@record
class EnergyResponse:
    event: Literal["energy"]
    windows: Annotated[tuple[SpanResponse, ...], Field(min_length=1, max_length=100)]
    # Before, after
    idle: tuple[SpanResponse, SpanResponse]
    # From the first call after the one idle window to the last before the other
    busy: SpanResponse
    before: StateResponse
    after: StateResponse
    # The sampler had a core for itself
    pinned: bool

    def __post_init__(self) -> None:
        if any(window.runs == 0 or window.end_ns == window.begin_ns for window in self.windows):
            raise ValueError("a window without runs or without time")
        order = [self.idle[0], *self.windows, self.idle[1]]
        if any(one.end_ns > other.begin_ns for one, other in pairwise(order)):
            raise ValueError("windows that overlap")
        marks = [
            self.idle[0].end_ns,
            self.busy.begin_ns,
            self.windows[0].begin_ns,
            self.windows[-1].end_ns,
            self.busy.end_ns,
            self.idle[1].begin_ns,
        ]
        if marks != sorted(marks):
            raise ValueError("windows outside the time that calls were made in")


@record
class NoEnergyResponse:
    event: Literal["no-energy"]
    reason: Annotated[Text, StringConstraints(min_length=1)]


@record
class KeyResponse:
    """What an engine hangs on."""

    tensorrt: Text
    sm: Text
    l4t: Text | None
    signature: Sha256 | None


@record
class BoardResponse(KeyResponse):
    event: Literal["board"]
    tool: Literal["python", "trtexec"]


@record
class ProgressResponse:
    event: Literal["progress"]
    phase: Text
    step: Whole
    of: Whole


@record
class ParityResponse:
    vectors: Annotated[int, Field(ge=1, le=2**31)]
    max_abs_error: Positive
    max_abs_tolerance: Positive | None
    top1_agreement: Share
    top1_tolerance: Share
    passed: Literal[True]


@record
class EngineResponse:
    event: Literal["engine"]
    reused: bool
    key: KeyResponse
    digest: Sha256
    made_from: Sha256
    precision: Literal["fp32", "fp16", "int8"]
    size_bytes: Annotated[int, Field(ge=1, le=2**53)]
    build_s: Positive
    unpinned: Annotated[tuple[Text, ...], Field(max_length=100_000)]
    # What the builder said of it, each once
    warnings: Annotated[tuple[Text, ...], Field(max_length=64)] = ()
    timing_cache_digest: Sha256 | None
    tactics_replayed: bool
    parity: ParityResponse


@record
class RefusedResponse:
    event: Literal["refused"]
    kind: Literal[
        "missing-runtime",
        "no-sampler",
        "not-a-model",
        "not-runnable",
        "inputs",
        "protocol",
        "deviates",
        "not-buildable",
        "other-version",
        "out-of-memory",
        "digest",
        "busy",
        "died",
    ]
    message: Text


@record
class EndResponse:
    event: Literal["end"]


Response: TypeAlias = Annotated[
    HelloResponse
    | ConditionsResponse
    | ProbeResponse
    | StatesResponse
    | LoadResponse
    | HeldResponse
    | SessionResponse
    | LatencyResponse
    | MemoryResponse
    | SensorResponse
    | PowerResponse
    | EnergyResponse
    | NoEnergyResponse
    | BoardResponse
    | ProgressResponse
    | EngineResponse
    | RefusedResponse
    | EndResponse,
    Field(discriminator="event"),
]
_ANSWER: Final[TypeAdapter[Response]] = TypeAdapter(Response)


def read_answers(output: bytes) -> list[Response]:
    """The agent's lines as records, without its greeting.

    Raises:
        DeviceError: a line is not one of the answers, or the agent speaks another protocol.
    """
    lines = output.splitlines()
    answers = [read_answer(line, number) for number, line in enumerate(lines, start=1)]
    if not answers:
        return []
    hello = answers[0]
    if not isinstance(hello, HelloResponse):
        raise DeviceError(
            "The agent did not greet, as it does since protocol 2. Use the agent that came with this edgekd."
        )
    if hello.protocol != PROTOCOL:
        raise DeviceError(
            f"The agent speaks protocol {hello.protocol}, this edgekd {PROTOCOL}. "
            "Use the agent that came with this edgekd."
        )
    return answers[1:]


def read_answer(line: bytes, number: int) -> Response:
    """One line as a record.

    Raises:
        DeviceError: it is none.
    """
    try:
        return _ANSWER.validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(printable(str(part)) for part in first["loc"])
        raise DeviceError(
            f"The agent answered nonsense in line {number}: {where}: {first['msg'][:200]}. "
            "Is something else printing to its stdout?"
        ) from error
