"""What the agent may say. It runs elsewhere and is not trusted: every line is checked."""

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

from edgekd.errors import DeviceError
from edgekd.records import record

PROTOCOL: Final = 3  # of bench/agent/commands.py


def printable(text: str) -> str:
    """Text without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


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


@record
class HelloAnswer:
    """The first line, whatever is asked."""

    event: Literal["hello"]
    protocol: int
    agent: Text
    python: Text


@record
class ConditionsAnswer:
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
class ProbeAnswer(ConditionsAnswer):
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
class AfterAnswer:
    """What may have changed while a model ran."""

    event: Literal["after"]
    cpu_mhz: Positive | None
    temperature_c: Finite | None


@record
class LoadAnswer:
    """What the agent itself took, beside the process that it measures."""

    event: Literal["load"]
    agent_cpu_s: Positive
    wall_s: Positive


@record
class HeldAnswer:
    """The board is this host's."""

    event: Literal["held"]
    folder: Text
    cleaned: Whole
    free_bytes: Bytes


@record
class InputAnswer:
    name: Text
    dtype: Text
    shape: Annotated[tuple[Whole, ...], Field(max_length=16)]


@record
class SessionAnswer:
    event: Literal["session"]
    runtime: Text
    provider: Text
    inputs: Annotated[tuple[InputAnswer, ...], Field(max_length=64)]  # none: trtexec made them up


@record
class LatencyAnswer:
    event: Literal["latency"]
    fps: Positive | None  # None: back to back
    late: Whole | None  # of paced calls
    warmup_s: Positive
    warmup_runs: Whole
    stationary: bool | None  # None: trtexec does not say
    first_ns: Nanoseconds | None
    clock_step_ns: Annotated[int, Field(ge=1, le=10**9)]
    values_ns: Annotated[tuple[Nanoseconds, ...], Field(min_length=1, max_length=1_000_000)]


@record
class DeclaredAnswer:
    weights: Bytes | None
    scratch: Bytes | None


@record
class MemoryAnswer:
    event: Literal["memory"]
    stage: Literal["runtime", "session", "runs"]
    pss: Bytes | None
    uss: Bytes | None
    peak_rss: Bytes | None
    reason: Text | None
    arena: bool
    declared: DeclaredAnswer | None  # by an engine
    board: SignedBytes | None  # how far MemAvailable fell
    gpu: SignedBytes | None  # how far NvMapMemUsed rose


@record
class WindowAnswer:
    joules: Finite  # may be negative: the offset of a sensor at idle
    runs: Annotated[int, Field(ge=1, le=2**53)]
    seconds: Positive


@record
class EnergyAnswer:
    event: Literal["energy"]
    sensor: Text
    scope: Text
    windows: Annotated[tuple[WindowAnswer, ...], Field(min_length=1, max_length=100)]


@record
class NoEnergyAnswer:
    event: Literal["no-energy"]
    reason: Annotated[Text, StringConstraints(min_length=1)]


@record
class KeyAnswer:
    """What an engine hangs on."""

    tensorrt: Text
    sm: Text
    l4t: Text | None
    signature: Sha256 | None


@record
class BoardAnswer(KeyAnswer):
    event: Literal["board"]
    tool: Literal["python", "trtexec"]


@record
class ProgressAnswer:
    event: Literal["progress"]
    phase: Text
    step: Whole
    of: Whole


@record
class ParityAnswer:
    vectors: Annotated[int, Field(ge=1, le=2**31)]
    max_abs_error: Positive
    max_abs_tolerance: Positive | None
    top1_agreement: Share
    top1_tolerance: Share
    passed: Literal[True]


@record
class EngineAnswer:
    event: Literal["engine"]
    reused: bool
    key: KeyAnswer
    digest: Sha256
    made_from: Sha256
    precision: Literal["fp32", "fp16", "int8"]
    size_bytes: Annotated[int, Field(ge=1, le=2**53)]
    build_s: Positive
    unpinned: Annotated[tuple[Text, ...], Field(max_length=100_000)]
    timing_cache_digest: Sha256 | None
    tactics_replayed: bool
    parity: ParityAnswer


@record
class RefusedAnswer:
    event: Literal["refused"]
    kind: Literal[
        "missing-runtime",
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
class EndAnswer:
    event: Literal["end"]


Answer: TypeAlias = Annotated[
    HelloAnswer
    | ConditionsAnswer
    | ProbeAnswer
    | AfterAnswer
    | LoadAnswer
    | HeldAnswer
    | SessionAnswer
    | LatencyAnswer
    | MemoryAnswer
    | EnergyAnswer
    | NoEnergyAnswer
    | BoardAnswer
    | ProgressAnswer
    | EngineAnswer
    | RefusedAnswer
    | EndAnswer,
    Field(discriminator="event"),
]
_ANSWER: Final[TypeAdapter[Answer]] = TypeAdapter(Answer)


def read_answers(output: bytes) -> list[Answer]:
    """The agent's lines as records, without its greeting.

    Raises:
        DeviceError: a line is not one of the answers, or the agent speaks another protocol.
    """
    lines = output.splitlines()
    answers = [read_answer(line, number) for number, line in enumerate(lines, start=1)]
    if not answers:
        return []
    hello = answers[0]
    if not isinstance(hello, HelloAnswer):
        raise DeviceError(
            "The agent did not greet, as it does since protocol 2. Use the agent that came with this edgekd."
        )
    if hello.protocol != PROTOCOL:
        raise DeviceError(
            f"The agent speaks protocol {hello.protocol}, this edgekd {PROTOCOL}. "
            "Use the agent that came with this edgekd."
        )
    return answers[1:]


def read_answer(line: bytes, number: int) -> Answer:
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
