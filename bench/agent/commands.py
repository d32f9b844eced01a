"""What the agent can be asked: each writes its events through `emit`."""

import hashlib
from typing import Any, Callable, Dict, List, Optional

from edgekd.bench.agent import (
    conditions,
    energy,
    latency,
    memory,
    model_runner,
    ort_runtime,
    power_sampler,
    trtexec_timing,
)
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.sensor import monotonic_ns

# Of edgekd, which cannot be imported here
VERSION = "0.1.0"
# Goes up when an older host would misread an answer. 2: `hello` comes first; `build`. 3: what is measured runs in a
# child of the agent; `probe`, `hold`, `kit`; paced calls, runtimes, engines; traces of power. 4: the machine's state through each run.
PROTOCOL = 4
RUNS_BEFORE_MEMORY = 20

Emit = Callable[..., None]


def check_protocol(asked: Optional[int]) -> None:
    """Raise where the host speaks another protocol.

    Raises:
        RefusedError: it does.
    """
    if asked is not None and asked != PROTOCOL:
        raise RefusedError(
            "protocol", "the agent speaks protocol {}, not {}".format(PROTOCOL, asked)
        )


def run_supervised(options: Any, arguments: List[str], lines: Any) -> int:
    """A command in a child process, once its file is known to be the one that is meant.

    Raises:
        RefusedError: the model is another file.
    """
    from edgekd.bench.agent import board_lock, state, supervisor

    if options.run_folder is not None:
        board_lock.enrol(options.run_folder)
    if options.model_digest is not None:
        check_digest(options.model, options.model_digest)
    look = state.looker(power_sampler.place_of(options), options.on_gpu, options.gpu)
    return supervisor.supervise(
        arguments,
        lines,
        look=look,
        deadline_s=options.deadline_s,
        watch_stdin=options.watch_stdin,
    )


def check_digest(path: str, expected: str) -> None:
    """Raise where a file is not the one of that SHA-256.

    Raises:
        RefusedError: it is another one, or cannot be read.
    """
    try:
        found = digest_of_file(path)
    except OSError as error:
        raise RefusedError("digest", "{}: {}".format(path, error.strerror)) from error
    if found != expected:
        raise RefusedError(
            "digest",
            "{} has the SHA-256 {}, not {}".format(path, found[:12], expected[:12]),
        )


def digest_of_file(path: str) -> str:
    """SHA-256 of a file, read in blocks."""
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def hold(options: Any, emit: Emit) -> None:
    """Keep the board; imported here, for trimmed images of Python lack what it needs."""
    from edgekd.bench.agent import board_lock

    board_lock.hold(options.home, options.owner, emit, options.silence_s)


def kit(options: Any, emit: Emit) -> None:
    """All that a plan asks for."""
    from edgekd.bench.agent import offline_kit

    offline_kit.run_kit(options.plan, options.out, emit)


def run(options: Any, emit: Emit) -> None:
    """Conditions, then the warm-up, then every call's time."""
    emit("conditions", **conditions.conditions_of(options.proc, options.sysfs))
    if options.runtime == "trtexec":
        trtexec_timing.run_trtexec(options, emit)
        return
    ready = _ready(options, emit)
    now = latency.clock()
    start_ns = now()
    ort_runtime.try_once(ready.call)
    first_ns = now() - start_ns
    warmup = latency.warm_up(ready.call, options.warmup_min_s, options.warmup_max_s, now)
    late: Optional[int] = None
    begin_ns = monotonic_ns()
    if options.fps is None:
        values_ns = latency.time_calls(ready.call, options.seconds, options.max_runs, now)
    else:
        paced = latency.time_paced(ready.call, options.fps, options.seconds, options.max_runs, now)
        values_ns, late = paced
    end_ns = monotonic_ns()
    emit(
        "latency",
        begin_ns=begin_ns,
        end_ns=end_ns,
        fps=options.fps,
        late=late,
        warmup_s=warmup.seconds,
        warmup_runs=warmup.runs,
        stationary=warmup.stationary,
        first_ns=first_ns,
        clock_step_ns=latency.clock_step_ns(now),
        values_ns=values_ns,
        said=ready.said(),
    )


def measure_memory(options: Any, emit: Emit) -> None:
    """Bytes of this process at one stage; a fresh process for each keeps the stages apart."""
    board_memory = memory.BoardMemory(options.proc)
    kept: Any = model_runner.import_only(options)
    declared = None
    if options.stage != "runtime":
        kept = model_runner.open_model(options)
        declared = kept.declared
    if options.stage == "runs":
        ort_runtime.try_once(kept.call)
        for _ in range(RUNS_BEFORE_MEMORY):
            kept.call()
            board_memory.look()
    board_memory.look()
    emit(
        "memory",
        stage=options.stage,
        arena=not options.no_arena,
        declared=declared,
        **dict(memory.memory_of(options.proc), **board_memory.measure_growth()),
    )
    # Held until here: what is measured is what it holds
    del kept


def measure_energy(options: Any, emit: Emit) -> None:
    """Readings of power and windows of calls; or why there are none, before anything is run."""
    if options.runtime == "trtexec":
        reason = (
            "trtexec calls a model by itself: it knows no windows. Use TensorRT's Python module"
        )
        emit("no-energy", reason=reason)
        return
    energy.measure(options, emit, lambda: _ready(options, emit).call)


def build(options: Any, emit: Emit) -> None:
    """An engine; imported here, for what is imported is part of what the others measure."""
    from edgekd.bench.agent import engine_build

    engine_build.build(options, emit)


def firstboot(options: Any, emit: Emit) -> None:
    """What a bundle's model runs as on this board; imported here, as `build` is."""
    from edgekd.bench.agent import firstboot as board_start

    board_start.firstboot(options, emit)


def probe(options: Any, emit: Emit) -> None:
    """What the board is and has."""
    from edgekd.bench.agent import probe as board_probe

    emit("probe", **board_probe.probe(options.proc, options.sysfs, options.root))


def _ready(options: Any, emit: Emit) -> model_runner.Ready:
    ready = model_runner.open_model(options)
    emit("session", runtime=ready.runtime, provider=ready.provider, inputs=ready.inputs)
    return ready


COMMANDS: Dict[str, Callable[[Any, Emit], None]] = {
    "probe": probe,
    "run": run,
    "memory": measure_memory,
    "energy": measure_energy,
    "sample": power_sampler.sample,
    "build": build,
    "firstboot": firstboot,
    "hold": hold,
    "kit": kit,
}
