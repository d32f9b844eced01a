"""What the agent may say. It runs elsewhere and is not trusted: every line is checked."""

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

from edgekd.errors import DeviceError
from edgekd.records import record

PROTOCOL: Final = 1


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
Whole: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]


@record
class ConditionsAnswer:
    event: Literal["conditions"]
    protocol: int
    machine: Text
    os: Text
    python: Text
    load_before: Positive | None
    governor: Text | None
    cpu_mhz: Positive | None
    temperature_c: Finite | None
    emulated: bool


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
    inputs: Annotated[tuple[InputAnswer, ...], Field(min_length=1, max_length=64)]


@record
class LatencyAnswer:
    event: Literal["latency"]
    warmup_s: Positive
    warmup_runs: Whole
    stationary: bool
    first_ns: Nanoseconds
    clock_step_ns: Annotated[int, Field(ge=1, le=10**9)]
    values_ns: Annotated[tuple[Nanoseconds, ...], Field(min_length=1, max_length=1_000_000)]


@record
class MemoryAnswer:
    event: Literal["memory"]
    stage: Literal["runtime", "session", "runs"]
    pss: Bytes | None
    uss: Bytes | None
    peak_rss: Bytes | None
    reason: Text | None


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
class RefusedAnswer:
    event: Literal["refused"]
    kind: Literal["missing-runtime", "not-a-model", "not-runnable", "inputs"]
    message: Text


@record
class EndAnswer:
    event: Literal["end"]


Answer: TypeAlias = Annotated[
    ConditionsAnswer
    | SessionAnswer
    | LatencyAnswer
    | MemoryAnswer
    | EnergyAnswer
    | NoEnergyAnswer
    | RefusedAnswer
    | EndAnswer,
    Field(discriminator="event"),
]
_ANSWER: Final[TypeAdapter[Answer]] = TypeAdapter(Answer)


def read_answers(output: bytes) -> list[Answer]:
    """The agent's lines as records.

    Raises:
        DeviceError: a line is not one of the answers, or the protocol is another.
    """
    answers: list[Answer] = []
    for number, line in enumerate(output.splitlines(), start=1):
        try:
            answer = _ANSWER.validate_json(line, strict=True)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(printable(str(part)) for part in first["loc"])
            raise DeviceError(
                f"The agent answered nonsense in line {number}: {where}: {first['msg'][:200]}. "
                "Is something else printing to its stdout?"
            ) from error
        if isinstance(answer, ConditionsAnswer) and answer.protocol != PROTOCOL:
            raise DeviceError(
                f"The agent speaks protocol {answer.protocol}, this edgekd {PROTOCOL}. "
                "Use the agent that came with this edgekd."
            )
        answers.append(answer)
    return answers
