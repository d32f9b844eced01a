"""Measure a model with ONNX Runtime on this machine, in processes of its own."""

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from edgekd.bench import child, doubts, energy, energy_doubts
from edgekd.bench.answers import (
    Answer,
    ConditionsAnswer,
    EnergyAnswer,
    LatencyAnswer,
    MemoryAnswer,
    NoEnergyAnswer,
    PowerAnswer,
    SensorAnswer,
    SessionAnswer,
)
from edgekd.bench.config import BenchConfig
from edgekd.errors import DeviceError, InputFileError
from edgekd.files import digest_of
from edgekd.records import (
    Conditions,
    Doubt,
    Energy,
    Figure,
    Measurements,
    Memory,
    Precision,
    Samples,
    Unmeasured,
)

logger = logging.getLogger(__name__)

Stage: TypeAlias = Literal["runtime", "session", "runs"]
# By path and not by name: the agent must not bring edgekd into the process it measures.
AGENT: Final = (sys.executable, str(Path(__file__).parent / "agent" / "__main__.py"))
STAGES: Final[tuple[Stage, ...]] = ("runtime", "session", "runs")
DEFAULT: Final = BenchConfig()


def measure(
    model: Path,
    *,
    precision: Precision,
    subject: str,
    is_target: bool,
    config: BenchConfig = DEFAULT,
    agent: Sequence[str] = AGENT,
) -> Measurements:
    """Latency, memory and energy of an ONNX file on this machine.

    Args:
        model: the ONNX file.
        precision: of the model; recorded, not checked.
        subject: what the file is, for the report.
        is_target: whether this machine is the board that the model is for.
        config: how long and how often.
        agent: the command of the measuring program.

    Raises:
        DeviceError: a measuring process died, ran too long, or answered nonsense.
        MissingToolError: ONNX Runtime is not installed.
        InputFileError: the model or the inputs are not usable.
        IncompatibleError: ONNX Runtime cannot run the model.
    """
    if not model.is_file():
        raise InputFileError(f"{model}: no such file. Export a model first: edgekd export --help")
    if config.inputs is not None and not config.inputs.is_file():
        raise InputFileError(f"{config.inputs}: no such file.")
    asker = _Asker(model, config, agent)
    answers = list(asker.latency())
    runs = [child.one(LatencyAnswer, answer) for answer in answers]
    conditions = _conditions(model, config, answers, runs)
    joules, energy_doubted = energy_of(asker.energy())
    return Measurements(
        subject=subject,
        subject_digest=digest_of(model),
        precision=precision,
        taken_on=conditions.machine,
        is_target=is_target,
        conditions=conditions,
        doubts=(*doubts.doubts_of(runs, conditions), *energy_doubted),
        latency=doubts.pooled(runs),
        memory=_memory({stage: asker.memory(stage) for stage in STAGES}),
        energy=joules,
    )


class _Asker:
    """The questions to the agent about one model."""

    def __init__(self, model: Path, config: BenchConfig, agent: Sequence[str]) -> None:
        self._model = model
        self._config = config
        self._agent = agent

    def latency(self) -> Iterator[list[Answer]]:
        for number in range(self._config.processes):
            logger.info("latency, process %d of %d", number + 1, self._config.processes)
            yield self._ask(*run_arguments(self._model, self._config))

    def memory(self, stage: Stage) -> list[MemoryAnswer]:
        logger.info("memory, %s", stage)
        found = []
        for _ in range(self._config.memory_processes):
            answer = child.one(
                MemoryAnswer,
                self._ask(*_common("memory", self._model, self._config), "--stage", stage),
            )
            if answer.stage != stage:
                raise DeviceError(
                    f"The agent was asked for stage {stage}, and answered {answer.stage}."
                )
            found.append(answer)
        return found

    def energy(self) -> list[Answer]:
        logger.info("energy")
        return self._ask(*energy_arguments(self._model, self._config))

    def _ask(self, *arguments: str) -> list[Answer]:
        config = self._config
        longest_s = max(config.seconds, energy_s(config))
        return child.ask(
            [*self._agent, *arguments],
            timeout_s=config.timeout_s + config.warmup_max_s + longest_s,
            environment={"OMP_NUM_THREADS": str(config.threads)},
        )


def run_arguments(model: Path, config: BenchConfig) -> list[str]:
    """What the agent is called with to time a model."""
    return [
        *_common("run", model, config),
        *("--seconds", str(config.seconds)),
        *("--max-runs", str(config.max_runs)),
    ]


def energy_arguments(model: Path, config: BenchConfig) -> list[str]:
    """What the agent is called with to run windows of a model while power is read."""
    return [
        *_common("energy", model, config),
        *("--seconds", str(config.energy_window_s)),
        *("--windows", str(config.energy_windows)),
        *("--idle-seconds", str(config.energy_idle_s)),
        *("--sensor", config.energy_sensor),
    ]


def energy_s(config: BenchConfig) -> float:
    """Seconds of all windows, idle ones included."""
    return config.energy_windows * config.energy_window_s + 2 * config.energy_idle_s


def _common(command: str, model: Path, config: BenchConfig) -> list[str]:
    inputs = ["--inputs", str(config.inputs)] if config.inputs is not None else []
    return [
        command,
        *("--model", str(model)),
        *inputs,
        *("--seed", str(config.seed)),
        *("--batch", str(config.batch)),
        *("--threads", str(config.threads)),
        *("--warmup-min-s", str(config.warmup_min_s)),
        *("--warmup-max-s", str(config.warmup_max_s)),
        *("--sysfs", str(config.sysfs)),
        *("--proc", str(config.proc)),
    ]


def _conditions(
    model: Path,
    config: BenchConfig,
    answers: Sequence[list[Answer]],
    runs: Sequence[LatencyAnswer],
) -> Conditions:
    """Those of the first process; later ones see the machine as the first left it."""
    seen = child.one(ConditionsAnswer, answers[0])
    session = child.one(SessionAnswer, answers[0])
    shape = session.inputs[0].shape
    # Names only: the folders of this machine are nobody's business in a bundle.
    named = config.inputs and Path(config.inputs.name)
    shown = BenchConfig(**{**vars(config), "inputs": named})
    return Conditions(
        machine=seen.machine,
        os=seen.os,
        runtime=session.runtime,
        provider=session.provider,
        threads=config.threads,
        batch=shape[0] if shape else 1,
        warmup_s=sum(run.warmup_s for run in runs) / len(runs),
        warmup_runs=min(run.warmup_runs for run in runs),
        processes=config.processes,
        governor=seen.governor,
        cpu_mhz=seen.cpu_mhz,
        load_before=seen.load_before,
        temperature_c=seen.temperature_c,
        emulated=seen.emulated,
        command=("edgekd-agent", *run_arguments(Path(model.name), shown)),
    )


def _memory(stages: dict[Stage, list[MemoryAnswer]]) -> Memory:
    """Differences are taken process by process, in the order measured."""
    runtime, session, runs = (stages[stage] for stage in STAGES)

    def difference(loaded: list[MemoryAnswer], name: Literal["pss", "uss"]) -> Figure:
        return _bytes(
            loaded,
            [
                _minus(getattr(one, name), getattr(base, name))
                for one, base in zip(loaded, runtime, strict=True)
            ],
        )

    return Memory(
        runtime_pss=_bytes(runtime, [answer.pss for answer in runtime]),
        runtime_uss=_bytes(runtime, [answer.uss for answer in runtime]),
        session_pss=difference(session, "pss"),
        session_uss=difference(session, "uss"),
        model_pss=difference(runs, "pss"),
        model_uss=difference(runs, "uss"),
        peak_rss=_bytes(runs, [answer.peak_rss for answer in runs]),
    )


def _minus(loaded: int | None, base: int | None) -> int | None:
    return None if loaded is None or base is None else loaded - base


def _bytes(answers: Sequence[MemoryAnswer], values: Sequence[int | None]) -> Figure:
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        return Samples(values=tuple(float(value) for value in known), unit="B")
    reasons = [answer.reason for answer in answers if answer.reason]
    return Unmeasured(reason=reasons[0] if reasons else "the process could not read it")


def energy_of(answers: Sequence[Answer]) -> tuple[Energy | Unmeasured, tuple[Doubt, ...]]:
    """The energy that the agent's answers hold, and the doubts about it.

    Raises:
        DeviceError: the answers do not fit together.
    """
    if any(isinstance(answer, NoEnergyAnswer) for answer in answers):
        return Unmeasured(reason=child.one(NoEnergyAnswer, answers).reason), ()
    run = child.one(EnergyAnswer, answers)
    if not any(isinstance(answer, SensorAnswer) for answer in answers):
        return energy.without_sensor(run), tuple(energy_doubts.about_state(run))
    sensor, power = child.one(SensorAnswer, answers), child.one(PowerAnswer, answers)
    found = energy.analyse(sensor, power, run)
    return found.energy, energy_doubts.doubts_of_energy(found, sensor, power, run)
