"""Times of calls by trtexec: of its exported trace, never of its log."""

import json
import math
import os
import tempfile
from typing import Any, Callable, Dict, List

from edgekd.bench.agent import trtexec
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.trt_messages import refusal

Emit = Callable[..., None]


def run_flags(version: trtexec.Version, engine: str, out: str, options: Any) -> List[str]:
    """Flags of a timed run that mean the same in every version.

    Since TensorRT 11 trtexec leaves copies out, spins and replays a CUDA graph unless told otherwise; before, it
    copied, blocked and launched. Ours is what a program does that has an image and wants a decision.
    """
    flags = ["--loadEngine=" + engine, "--exportTimes=" + out, "--iterations=10"]
    flags += ["--warmUp={}".format(warmup_ms(options))]
    # Whole seconds
    flags += ["--duration={}".format(max(1, math.ceil(options.seconds)))]
    wanted = ("--includeDataTransfers", "--noSpinWait", "--noCudaGraph")
    return flags + [flag for flag in wanted if trtexec.has(flag, version)]


def warmup_ms(options: Any) -> int:
    seconds: float = options.warmup_min_s
    return round(seconds * 1000)


def run_trtexec(options: Any, emit: Emit) -> None:
    """Time an engine by trtexec.

    Raises:
        RefusedError: it is not there, fails, or wrote no times; or paced calls were asked for, which it has not.
    """
    if options.fps is not None or options.inputs is not None:
        raise RefusedError("inputs", "trtexec has no paced calls, and makes up its values")
    program = trtexec.find_trtexec(options.trtexec)
    tool = trtexec.tool_of(program)
    version = tuple(int(part) for part in tool.tensorrt.split("."))
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        out = os.path.join(folder, "times.json")
        flags = run_flags(version, options.model, out, options)
        code, lines = trtexec.run([program, *flags])
        if code:
            raise refusal("trtexec cannot run the engine", trtexec.errors(lines))
        values_ns = read_times(out, warmup_ms(options))
    shown = [flag for flag in flags if not flag.startswith(("--loadEngine", "--exportTimes"))]
    emit(
        "session",
        runtime="tensorrt {} (trtexec {})".format(tool.tensorrt, " ".join(shown)),
        provider="GPU",
        inputs=[],
    )
    emit(
        "latency",
        begin_ns=None,  # of trtexec's own clock
        end_ns=None,
        fps=None,
        late=None,
        warmup_s=options.warmup_min_s,
        warmup_runs=0,  # it does not say
        stationary=None,
        first_ns=None,
        clock_step_ns=500,  # of CUDA's events: half a microsecond
        values_ns=values_ns[: options.max_runs],
        said=trtexec.warnings(lines),
    )


def read_times(path: str, warmup: int) -> List[int]:
    """Nanoseconds of each query after a warm-up of so many milliseconds: copy in, compute, copy out.

    TensorRT 8.2 writes the queries of the warm-up too (`exportJSONTrace` in sampleReporting.cpp of 2021); later ones
    leave out those that began to compute before its end, which is what is done here for all.

    Raises:
        RefusedError: there are none, or they cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            rows: List[Dict[str, Any]] = json.load(stream)
        found = [
            round(float(row["latencyMs"]) * 1e6)
            for row in rows
            if float(row["startComputeMs"]) >= warmup
        ]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise RefusedError(
            "not-buildable", "trtexec's times cannot be read: {}".format(error)
        ) from error
    if not found:
        raise RefusedError("not-buildable", "trtexec wrote no times")
    return found
