"""Read a power sensor on a fixed schedule, in a process of its own.

The process that runs the model must not also read a sensor: its interpreter would do one or the
other, and its joules would hold both.
"""

import json
import os
import select
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional

from edgekd.bench.agent import sensor as sensor_types
from edgekd.bench.agent import sensor_discovery
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.sensor import (
    PASSING,
    Place,
    Reading,
    Sensor,
)

TRIES = 3
BETWEEN_TRIES_S = 0.002
# An hour and a half at 40 Hz; beyond it the readings end, and the host says so.
MOST_READINGS = 200000
MOST_PROBLEMS = 5
# Whose multiples fill 0..1 as evenly as any number's
GOLDEN = 0.6180339887498949
# For the sampler to start, or to hand over what it has
PATIENCE_S = 30.0

Emit = Callable[..., None]


def place_of(options: Any) -> Place:
    return Place(options.sysfs, options.proc, options.root)


def sample(options: Any, emit: Emit) -> None:
    """The command: the sensor, then its readings of `--seconds`, or until stdin is closed."""
    wanted = (place_of(options), options.sensor, options.on_gpu, options.gpu)
    sensor, reason = sensor_discovery.find_sensor(*wanted)
    if sensor is None:
        emit("no-energy", reason=reason)
        return
    if options.core is not None:
        os.sched_setaffinity(0, [options.core])
    emit("sensor", **sensor_types.describe_sensor(sensor))
    try:
        emit("power", **take(sensor, _waiter(options.until_closed), options.seconds))
    finally:
        sensor.close()


def take(
    sensor: Sensor,
    wait: Callable[[float], bool],
    seconds: float,
    now: Callable[[], int] = sensor_types.monotonic_ns,
) -> Dict[str, Any]:
    """Columns of readings, each with the time before and after it.

    Args:
        sensor: is read every `period_s`; slots that a slow read runs over are counted and not caught up with.
        wait: waits that many seconds; True: stop.
        seconds: after which to stop.
        now: nanoseconds of a clock that all processes share.
    """
    begins: List[int] = []
    ends: List[int] = []
    rows: List[Reading] = []
    problems: List[str] = []
    dropped = missed = slot = 0
    own_s = _own_cpu_s()
    start = now()
    while len(rows) < MOST_READINGS:
        begin = now()
        if (begin - start) / 1e9 >= seconds:
            break
        try:
            row = read_patiently(sensor.read)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            dropped += 1
            if str(error) not in problems and len(problems) < MOST_PROBLEMS:
                problems.append(str(error))
        else:
            ends.append(now())
            begins.append(begin)
            rows.append(row)
        delay_s = 0.0
        if sensor.period_s:
            passed_s = (now() - start) / 1e9
            slot += 1
            while due_s(slot, sensor.period_s) < passed_s:
                slot += 1
                missed += 1
            delay_s = due_s(slot, sensor.period_s) - passed_s
        elif not begins or begins[-1] != begin:
            # A stream that fails at once would else be asked without a pause.
            delay_s = sensor.interval_s
        if wait(max(0.0, delay_s)):
            break
    elapsed_s = max((now() - start) / 1e9, 1e-9)
    return {
        "begin_ns": begins,
        "end_ns": ends,
        "values": [[row[index][1] for row in rows] for index in range(len(sensor.channels))],
        "millivolts": [
            [row[index][0] for row in rows] if channel.unit == "mA" else None
            for index, channel in enumerate(sensor.channels)
        ],
        "dropped": dropped,
        "missed": missed,
        "problems": problems,
        "load": max(0.0, _own_cpu_s() - own_s) / elapsed_s,
    }


def due_s(slot: int, period_s: float) -> float:
    """When a slot's reading is due: within the slot, at a place that is spread evenly over the slots.

    At the same place in every slot, readings would stay at one phase of a model whose calls take a
    fraction of the period, and miss its mean by tens of percent.
    """
    return (slot + slot * GOLDEN % 1.0) * period_s


def read_patiently(
    read: Callable[[], Reading], pause: Callable[[float], None] = time.sleep
) -> Reading:
    """A reading, with a little patience for a driver that is busy.

    Raises:
        OSError, ValueError: it was busy `TRIES` times, or something else is wrong.
    """
    for _ in range(TRIES - 1):
        try:
            return read()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            pause(BETWEEN_TRIES_S)
    return read()


def _own_cpu_s() -> float:
    """Processor seconds of this process and of the programs that it started and waited for."""
    used = os.times()
    return used[0] + used[1] + used[2] + used[3]


def _waiter(until_closed: bool) -> Callable[[float], bool]:
    """How to wait: asleep, or looking at stdin, which closes with the process that opened it."""
    if not until_closed:

        def pause(seconds: float) -> bool:
            time.sleep(seconds)
            return False

        return pause

    def watch(seconds: float) -> bool:
        return bool(select.select([0], [], [], seconds)[0]) and not os.read(0, 1)

    return watch


class Sampling:
    """A sampler from before the block to after it, unless `stop` ends it before.

    `sensor` is what it reads; None: `reason` says why there is none, and no process is left.
    """

    def __init__(self, options: Any, core: Optional[int], longest_s: float) -> None:
        self.sensor: Optional[Dict[str, Any]] = None
        self.reason = ""
        self._command = [
            *(sys.executable, os.path.abspath(sys.argv[0]), "sample", "--until-closed"),
            *("--seconds", str(longest_s), "--sensor", options.sensor, "--gpu", str(options.gpu)),
            *("--sysfs", options.sysfs, "--proc", options.proc, "--root", options.root),
            *(("--on-gpu",) if options.on_gpu else ()),
            *(("--core", str(core)) if core is not None else ()),
        ]
        self._process: Any = None

    def __enter__(self) -> "Sampling":
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        # The greeting, then the sensor or why there is none
        for _ in range(2):
            message = self._parse_line(self._process.stdout.readline())
            event = message.pop("event")
            if event == "sensor":
                self.sensor = message
            elif event == "no-energy":
                self.reason = message["reason"]
        return self

    def __exit__(self, *error: Any) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()

    def stop(self) -> Dict[str, Any]:
        """All that was read.

        Raises:
            RefusedError: the sampler died.
        """
        try:
            output, _ = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise RefusedError("no-sampler", "the sampler did not stop") from None
        lines = output.splitlines()
        if self._process.returncode or len(lines) != 2:
            raise RefusedError(
                "no-sampler", "the sampler ended with code {}".format(self._process.returncode)
            )
        message = self._parse_line(lines[0])
        del message["event"]
        return message

    def _parse_line(self, line: bytes) -> Dict[str, Any]:
        if not line:
            code = self._process.wait()
            raise RefusedError("no-sampler", "the sampler ended with code {}".format(code))
        message: Dict[str, Any] = json.loads(line.decode("utf-8"))
        return message
