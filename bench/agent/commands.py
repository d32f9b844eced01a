"""What the agent can be asked: each writes its events through `emit`."""

from typing import Any, Callable, Dict, Optional

from edgekd.bench.agent import conditions, energy, latency, memory, runtime, sampler
from edgekd.bench.agent.failures import RefusedError

VERSION = "0.1.0"  # of edgekd, which cannot be imported here
# Goes up when an older host would misread an answer. 2: `hello` comes first; `build`.
PROTOCOL = 2
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


def run(options: Any, emit: Emit) -> None:
    """Conditions, then the warm-up, then every call's time."""
    emit("conditions", **conditions.conditions_of(options.proc, options.sysfs))
    call = _open(options, emit)
    now = latency.clock()
    start_ns = now()
    runtime.try_once(call)
    first_ns = now() - start_ns
    warmup = latency.warm_up(call, options.warmup_min_s, options.warmup_max_s, now)
    values_ns = latency.time_calls(call, options.seconds, options.max_runs, now)
    emit(
        "latency",
        warmup_s=warmup.seconds,
        warmup_runs=warmup.runs,
        stationary=warmup.stationary,
        first_ns=first_ns,
        clock_step_ns=latency.clock_step_ns(now),
        values_ns=values_ns,
    )


def measure_memory(options: Any, emit: Emit) -> None:
    """Bytes of this process at one stage; a fresh process for each keeps the stages apart."""
    kept = [runtime.import_runtime()]
    if options.stage != "runtime":
        session = runtime.open_session(kept[0], options.model, options.threads)
        kept.append(session)
    if options.stage == "runs":
        call = _call(kept[1], options)
        runtime.try_once(call)
        for _ in range(RUNS_BEFORE_MEMORY):
            call()
        kept.append(call)
    emit("memory", stage=options.stage, **memory.memory_of(options.proc))


def measure_energy(options: Any, emit: Emit) -> None:
    """Readings of power and windows of calls; or why there are none, before anything is run."""
    energy.measure(options, emit, lambda: _open(options, emit))


def build(options: Any, emit: Emit) -> None:
    """An engine; imported here, for what is imported is part of what the others measure."""
    from edgekd.bench.agent import building

    building.build(options, emit)


COMMANDS: Dict[str, Callable[[Any, Emit], None]] = {
    "run": run,
    "memory": measure_memory,
    "energy": measure_energy,
    "sample": sampler.sample,
    "build": build,
}


def _open(options: Any, emit: Emit) -> Callable[[], None]:
    module = runtime.import_runtime()
    session = runtime.open_session(module, options.model, options.threads)
    feed = runtime.make_inputs(session, options.inputs, options.seed, options.batch)
    emit(
        "session",
        runtime="onnxruntime " + module.__version__,
        provider=session.get_providers()[0],
        inputs=[
            {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)}
            for name, array in feed.items()
        ],
    )
    return runtime.call_of(session, feed)


def _call(session: Any, options: Any) -> Callable[[], None]:
    feed = runtime.make_inputs(session, options.inputs, options.seed, options.batch)
    return runtime.call_of(session, feed)
