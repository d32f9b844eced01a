"""One process that measures one thing: started, watched, its answers checked."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Final, NoReturn, TypeVar

from edgekd.bench.protocol.responses import (
    PROTOCOL,
    EndResponse,
    RefusedResponse,
    Response,
    read_answer,
    read_answers,
)
from edgekd.errors import (
    DeviceError,
    IncompatibleError,
    InputFileError,
    IntegrityError,
    MissingToolError,
    QualityError,
)
from edgekd.records import printable

T = TypeVar("T")

MAX_OUTPUT_BYTES: Final = 64 * 2**20
POLL_S: Final = 0.25
# For an agent that is asked to end
END_S: Final = 2.0
TAIL_LINES: Final = 5
# Of the agent; bench/agent/errors.py
CODES: Final = frozenset({0, 2, 3, 4, 6, 8})


def ask(
    command: Sequence[str],
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    heard: Callable[[Response], None] | None = None,
    explain: Callable[[int, str], None] | None = None,
    hold_stdin: bool = False,
) -> list[Response]:
    """Run an agent and return what it said, without the greeting and the closing `end`.

    Args:
        command: the program with its arguments.
        timeout_s: after which it is killed, with all it started.
        environment: variables to set on top of this process's own.
        heard: is given each answer as it comes.
        explain: is given a code that is none of the agent's and the last words, and raises if it knows better: ssh
            has codes of its own.
        hold_stdin: whether to keep a pipe to its stdin open, which an agent elsewhere watches.

    Raises:
        DeviceError: it could not be started, died, ran too long, or answered nonsense; somebody else has the board.
        IntegrityError: a file there is not the one that is meant.
        MissingToolError: its runtime is not installed.
        InputFileError: the model or the inputs are not usable.
        IncompatibleError: its runtime cannot run the model, or build an engine of it.
        QualityError: an engine answers otherwise than its golden vectors.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [*command, "--protocol", str(PROTOCOL)],
                bufsize=0,
                stdin=subprocess.PIPE if hold_stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=os.environ | dict(environment or {}),
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"{command[0]} could not be started: {error.strerror}.") from error
        try:
            problem = _watch(process, output, timeout_s, _Listener(output, heard))
        finally:
            # Also when this process is being interrupted.
            _end(process)
        if problem:
            raise DeviceError(f"{problem} It was ended.{_tail(errors)}")
        output.seek(0)
        last_words = _tail(errors)
        if explain is not None and process.returncode not in CODES:
            explain(process.returncode, last_words)
        return parse_answers(output.read(), process.returncode, last_words)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all it started; the agent ends its own child when it is asked to.

    Not by its group once it has ended: its number may be another's by then.
    """
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            return
    process.wait()


def one(kind: type[T], answers: Sequence[Response]) -> T:
    """The only answer of its kind.

    Raises:
        DeviceError: there is none, or more than one.
    """
    found = [answer for answer in answers if isinstance(answer, kind)]
    if len(found) != 1:
        raise DeviceError(
            f"The agent gave {len(found)} answers of the kind {kind.__name__} where one was asked. "
            "Use the agent that came with this edgekd."
        )
    return found[0]


def nonsense(what: str) -> DeviceError:
    """An error about an agent that answered something else."""
    return DeviceError(f"The agent {what}. Use the agent that came with this edgekd.")


class _Listener:
    """Hands on whole lines of a file that another process writes."""

    def __init__(self, output: IO[bytes], heard: Callable[[Response], None] | None) -> None:
        self._output = output
        self._heard = heard
        self._at = 0
        self._lines = 0

    def listen(self) -> None:
        """Hand on what came since the last time.

        Raises:
            DeviceError: a line is no answer.
        """
        if self._heard is None:
            return
        # Not `seek`: the position is the other process's too.
        new = os.pread(self._output.fileno(), MAX_OUTPUT_BYTES, self._at)
        whole, _, _ = new.rpartition(b"\n")
        if whole:
            self._at += len(whole) + 1
            for line in whole.split(b"\n"):
                self._lines += 1
                self._heard(read_answer(line, self._lines))


def _watch(
    process: subprocess.Popen[bytes], output: IO[bytes], timeout_s: float, listener: _Listener
) -> str:
    """Wait for the end; what is wrong when it must not be waited for any longer, else empty."""
    deadline = time.monotonic() + timeout_s
    while True:
        listener.listen()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
            # To what it said last
            listener.listen()
            break
        if time.monotonic() > deadline:
            return f"The agent did not end within {timeout_s:g} s."
        if os.fstat(output.fileno()).st_size > MAX_OUTPUT_BYTES:
            break
    too_much = os.fstat(output.fileno()).st_size > MAX_OUTPUT_BYTES
    return f"The agent wrote more than {MAX_OUTPUT_BYTES >> 20} MiB." if too_much else ""


def parse_answers(output: bytes, code: int, last_words: str) -> list[Response]:
    """The answers of an agent that has ended, without the closing `end`.

    Args:
        output: all it said.
        code: that it ended with.
        last_words: to append to a message.

    Raises:
        As `ask`.
    """
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        likely = " Most likely the memory ran out." if -code == signal.SIGKILL else ""
        raise DeviceError(f"The agent was killed by {name}.{likely}{last_words}")
    if code not in CODES:
        raise DeviceError(f"The agent failed with code {code}.{last_words}")
    answers = read_answers(output)
    last = answers[-1] if answers else None
    if isinstance(last, RefusedResponse) and code:
        _raise_refusal(last, last_words)
    if code or not isinstance(last, EndResponse):
        raise DeviceError(f"The agent's answer is cut short (code {code}).{last_words}")
    return answers[:-1]


def _raise_refusal(refusal: RefusedResponse, last_words: str) -> NoReturn:
    match refusal.kind:
        case "missing-runtime":
            comes = (
                "ONNX Runtime comes with: pip install onnxruntime."
                if "onnxruntime" in refusal.message
                else "On a Jetson TensorRT and CUDA's runtime come with JetPack; on a PC they need NVIDIA's card and driver."
            )
            raise MissingToolError(
                f"What runs the model is missing or does not load ({refusal.message}). {comes}"
            )
        case "not-a-model":
            raise InputFileError(f"Not an ONNX model: {refusal.message}")
        case "inputs":
            raise InputFileError(f"The inputs do not fit the model: {refusal.message}.")
        case "not-runnable":
            raise IncompatibleError(
                f"ONNX Runtime cannot run this model: {refusal.message} "
                "Export it again for this machine's runtime."
            )
        case "no-sampler":
            raise DeviceError(f"{refusal.message}. Measure again, or without energy.")
        case "protocol":
            raise DeviceError(f"{refusal.message}. Use the agent that came with this edgekd.")
        case "digest":
            raise IntegrityError(f"{refusal.message}. Was it changed meanwhile?")
        case "died":
            raise DeviceError(f"{refusal.message}.{last_words}")
        case "busy":
            raise DeviceError(f"{refusal.message}. Wait, or ask them.")
        case "deviates":
            raise QualityError(f"{refusal.message}.")
        case "not-buildable" | "other-version" | "out-of-memory":
            raise IncompatibleError(f"{refusal.message}.")


def _tail(errors: IO[bytes]) -> str:
    """The last lines of stderr, to append to a message."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4096))
    text = errors.read().decode(errors="replace")
    lines = [printable(line) for line in text.splitlines() if line.strip()][-TAIL_LINES:]
    return "".join(["\nIts last words:", *(f"\n  {line}" for line in lines)]) if lines else ""
