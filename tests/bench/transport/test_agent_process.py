import json
import sys
import time

import pytest

from edgekd.bench.agent.errors import CODES
from edgekd.bench.protocol.responses import (
    PROTOCOL,
    EndResponse,
    NoEnergyResponse,
    ProgressResponse,
    Response,
)
from edgekd.bench.transport import agent_process
from edgekd.errors import (
    DeviceError,
    IncompatibleError,
    InputFileError,
    MissingToolError,
    QualityError,
)

END = '{"event": "end"}'


def python(code) -> list[str]:
    return [sys.executable, "-c", code]


def hello(protocol=PROTOCOL) -> str:
    return json.dumps({"event": "hello", "protocol": protocol, "agent": "0", "python": "3.6"})


def saying(*lines, code=0) -> list[str]:
    said = chr(10).join([hello(), *lines])
    return python(f"import sys; print({said!r}); sys.exit({code})")


def latency(**changes) -> str:
    fields = {
        "event": "latency",
        "begin_ns": 5,
        "end_ns": 9,
        "fps": None,
        "late": None,
        "warmup_s": 0.1,
        "warmup_runs": 10,
        "stationary": True,
        "first_ns": 10,
        "clock_step_ns": 1,
        "values_ns": [1, 2],
    }
    return json.dumps(fields | changes)


def test_answers_come_back_without_the_end():
    answers = agent_process.ask(
        saying('{"event": "no-energy", "reason": "none"}', END), timeout_s=30
    )
    assert [type(answer) for answer in answers] == [NoEnergyResponse]


@pytest.mark.parametrize(
    "line",
    [
        "Loading the model...",
        "[]",
        "null",
        '{"event": "reward"}',
        '{"event": "end", "extra": 1}',
        '{"event": "no-energy", "reason": ""}',
        "[" * 100_000,
        latency(values_ns=[]),
        latency(values_ns=["1"]),
        latency(values_ns=[-1]),
        latency(values_ns=[1.5]),
        latency(values_ns=[10**30]),
        latency(warmup_s=float("nan")),
        latency(warmup_s=float("inf")),
        latency(stationary="yes"),
        latency(clock_step_ns=0),
        '{"event": "conditions"}',
    ],
)
def test_nonsense_is_a_device_error(line):
    with pytest.raises(DeviceError, match="nonsense in line 2"):
        agent_process.ask(saying(line, END), timeout_s=30)


def test_another_protocol_is_said():
    code = f"print({hello(1)!r}); print({END!r})"
    with pytest.raises(DeviceError, match="protocol 1"):
        agent_process.ask(python(code), timeout_s=30)


def test_an_agent_that_does_not_greet_is_of_another_edgekd():
    with pytest.raises(DeviceError, match="did not greet"):
        agent_process.ask(python(f"print({END!r})"), timeout_s=30)


def test_answers_are_heard_as_they_come():
    said = '{"event": "progress", "phase": "building", "step": 1, "of": 2}'
    code = f"import time; print({hello()!r}); print({said!r}, flush=True); time.sleep(2); print({END!r})"
    heard = []
    started = time.monotonic()
    agent_process.ask(
        python(code), timeout_s=30, heard=lambda answer: heard.append((answer, time.monotonic()))
    )
    (when,) = [at for answer, at in heard if isinstance(answer, ProgressResponse)]
    assert when - started < time.monotonic() - started - 1


def test_what_is_said_last_is_heard_too():
    heard: list[Response] = []
    progress = json.dumps({"event": "progress", "phase": "p", "step": 2, "of": 2})
    agent_process.ask(saying(progress, END), timeout_s=30, heard=heard.append)
    assert [type(answer).__name__ for answer in heard] == [
        "HelloResponse",
        "ProgressResponse",
        "EndResponse",
    ]


@pytest.mark.parametrize("lines", [[], [latency()], [latency(), END, latency()]])
def test_an_answer_without_an_end_is_cut_short(lines):
    command = saying(*lines) if lines else python("")
    with pytest.raises(DeviceError, match="cut short"):
        agent_process.ask(command, timeout_s=30)


def test_bytes_that_are_no_text_are_a_device_error():
    with pytest.raises(DeviceError, match="nonsense"):
        agent_process.ask(python(r"import os; os.write(1, b'\xff\xfe\n')"), timeout_s=30)


def test_a_killed_child_is_a_device_error_that_names_the_signal():
    with pytest.raises(DeviceError, match=r"killed by SIGKILL.*memory"):
        agent_process.ask(python("import os; os.kill(os.getpid(), 9)"), timeout_s=30)


def test_a_failed_child_is_quoted_without_what_could_steer_a_terminal():
    code = r"import sys; sys.stderr.write('first\n\x1b[31mlast\n'); sys.exit(1)"
    with pytest.raises(DeviceError, match="code 1") as caught:
        agent_process.ask(python(code), timeout_s=30)
    assert str(caught.value).endswith("last")
    assert "\x1b" not in str(caught.value)


def test_a_child_that_hangs_is_ended():
    with pytest.raises(DeviceError, match=r"did not end within 0\.2 s"):
        agent_process.ask(python("import time; time.sleep(600)"), timeout_s=0.2)


def test_a_child_that_never_stops_talking_is_ended():
    with pytest.raises(DeviceError, match="more than 64 MiB"):
        agent_process.ask(python("while True: print('x' * 10000)"), timeout_s=60)


def test_a_program_that_is_not_there_is_a_device_error(tmp_path):
    with pytest.raises(DeviceError, match="could not be started"):
        agent_process.ask([str(tmp_path / "python3")], timeout_s=30)


@pytest.mark.parametrize(
    ("kind", "code", "error"),
    [
        ("missing-runtime", 3, MissingToolError),
        ("no-sampler", 6, DeviceError),
        ("not-a-model", 2, InputFileError),
        ("inputs", 2, InputFileError),
        ("not-runnable", 2, IncompatibleError),
        ("protocol", 2, DeviceError),
        ("deviates", 4, QualityError),
        ("not-buildable", 8, IncompatibleError),
        ("other-version", 8, IncompatibleError),
        ("out-of-memory", 8, IncompatibleError),
    ],
)
def test_each_refusal_has_its_error(kind, code, error):
    assert CODES[kind] == code
    line = json.dumps({"event": "refused", "kind": kind, "message": "why"})
    with pytest.raises(error, match="why"):
        agent_process.ask(saying(line, code=code), timeout_s=30)


def test_one_answer_is_asked_for_and_one_is_taken():
    end = EndResponse(event="end")
    assert agent_process.one(EndResponse, [end]) is end
    for answers in ([], [end, end]):
        with pytest.raises(DeviceError, match="EndResponse"):
            agent_process.one(EndResponse, answers)
