"""Answers of an agent as figures: differences are taken process by process, in the order measured."""

from collections.abc import Callable, Mapping, Sequence

from edgekd.bench.analysis import energy, energy_warnings
from edgekd.bench.protocol.requests import STAGES, Stage
from edgekd.bench.protocol.responses import (
    EnergyResponse,
    LatencyResponse,
    MemoryResponse,
    NoEnergyResponse,
    PowerResponse,
    Response,
    SensorResponse,
    StatesResponse,
)
from edgekd.bench.transport import agent_process
from edgekd.records import (
    Energy,
    Figure,
    MeasurementWarning,
    Memory,
    Samples,
    Unmeasured,
)

_NO_STAGES = Unmeasured(
    reason="trtexec loads a model by itself, with all of its own: use TensorRT's Python module"
)


def pool_samples(runs: Sequence[LatencyResponse]) -> Samples:
    """The times of all processes in the order taken, in seconds."""
    return Samples(
        values=tuple(value / 1e9 for run in runs for value in run.values_ns),
        unit="s",
        groups=tuple(len(run.values_ns) for run in runs),
    )


def memory_of(stages: Mapping[tuple[Stage, bool], Sequence[MemoryResponse]]) -> Memory:
    """Bytes by stage; no stages: Unmeasured."""
    if not stages:
        names = ("runtime_pss", "runtime_uss", "session_pss", "session_uss", "model_pss")
        return Memory(**dict.fromkeys(names, _NO_STAGES), model_uss=_NO_STAGES, peak_rss=_NO_STAGES)
    runtime, session, runs = (stages[stage, True] for stage in STAGES)
    plain = stages.get(("runs", False))

    def above(
        loaded: Sequence[MemoryResponse], value: Callable[[MemoryResponse], int | None]
    ) -> Figure:
        differences = [
            _minus(value(one), value(base)) for one, base in zip(loaded, runtime, strict=True)
        ]
        return _bytes(loaded, differences)

    return Memory(
        runtime_pss=_bytes(runtime, [answer.pss for answer in runtime]),
        runtime_uss=_bytes(runtime, [answer.uss for answer in runtime]),
        session_pss=above(session, lambda answer: answer.pss),
        session_uss=above(session, lambda answer: answer.uss),
        model_pss=above(runs, lambda answer: answer.pss),
        model_uss=above(runs, lambda answer: answer.uss),
        peak_rss=_bytes(runs, [answer.peak_rss for answer in runs]),
        no_arena_pss=Unmeasured(reason="only ONNX Runtime has an arena")
        if plain is None
        else above(plain, lambda answer: answer.pss),
        declared=_bytes(
            runs,
            [_total_declared(answer) for answer in runs],
            "only an engine declares what it needs"
            if any(answer.declared is None for answer in runs)
            else "this TensorRT does not say how large an engine's weights are (10.16 does)",
        ),
        board=_bytes(
            runs, [answer.board for answer in runs], "the board does not say MemAvailable"
        ),
        gpu=_bytes(
            runs, [answer.gpu for answer in runs], "no NvMapMemUsed: no GPU that shares memory"
        ),
    )


def _total_declared(answer: MemoryResponse) -> int | None:
    declared = answer.declared
    if declared is None or declared.weights is None or declared.scratch is None:
        return None
    return declared.weights + declared.scratch


def _minus(loaded: int | None, base: int | None) -> int | None:
    return None if loaded is None or base is None else loaded - base


def _bytes(
    answers: Sequence[MemoryResponse],
    values: Sequence[int | None],
    otherwise: str = "the process could not read it",
) -> Figure:
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        return Samples(values=tuple(float(value) for value in known), unit="B")
    reasons = [answer.reason for answer in answers if answer.reason]
    return Unmeasured(reason=reasons[0] if reasons else otherwise)


def energy_of(
    answers: Sequence[Response],
) -> tuple[Energy | Unmeasured, tuple[MeasurementWarning, ...]]:
    """The energy that the agent's answers hold, and the warnings about it.

    Raises:
        DeviceError: the answers do not fit together.
    """
    if any(isinstance(answer, NoEnergyResponse) for answer in answers):
        return Unmeasured(reason=agent_process.one(NoEnergyResponse, answers).reason), ()
    run, states = (
        agent_process.one(EnergyResponse, answers),
        agent_process.one(StatesResponse, answers),
    )
    if not any(isinstance(answer, SensorResponse) for answer in answers):
        return energy.without_sensor(run), tuple(energy_warnings.about_state(run, states))
    sensor, power = (
        agent_process.one(SensorResponse, answers),
        agent_process.one(PowerResponse, answers),
    )
    found = energy.analyse(sensor, power, run)
    return found.energy, energy_warnings.warnings_of_energy(found, sensor, power, run, states)
