"""What an agent is asked about models: a list made beforehand, so that it can also be carried to a board."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from edgekd.bench.config import BenchConfig

Kind: TypeAlias = Literal["run", "paced", "memory", "energy"]
Runtime: TypeAlias = Literal["onnxruntime", "tensorrt", "trtexec"]
Stage: TypeAlias = Literal["runtime", "session", "runs"]
STAGES: Final[tuple[Stage, ...]] = ("runtime", "session", "runs")


@dataclass(frozen=True)
class UploadedModel:
    """A model where the agent is."""

    path: str
    # None: not known here, as of an engine that the board built
    digest: str | None
    # Path of a file with values
    inputs: str | None


@dataclass(frozen=True)
class Request:
    """One call of the agent, for one model."""

    # Its place among those that are measured
    model: int
    kind: Kind
    stage: Stage | None
    arena: bool
    arguments: tuple[str, ...]
    # That it measures for, about
    seconds: float


def probe(config: BenchConfig) -> list[str]:
    """What is asked first: what the machine is and has."""
    return ["probe", *_trees(config)]


def questions(
    models: Sequence[UploadedModel], config: BenchConfig, runtime: Runtime
) -> Iterator[Request]:
    """All there is to ask, in order.

    Processes of several models take turns, so that what the machine does meanwhile happens to all of them; which one
    is first is drawn, with the seed of the configuration.
    """
    draw = random.Random(config.seed)
    order = list(range(len(models)))
    for _ in range(config.processes):
        draw.shuffle(order)
        for number in order:
            yield _run(number, models[number], config, runtime, fps=None)
            if config.fps is not None:
                yield _run(number, models[number], config, runtime, fps=config.fps)
    for number, model in enumerate(models):
        yield from _memory(number, model, config, runtime)
    for number, model in enumerate(models):
        yield _energy(number, model, config, runtime)


def _run(
    number: int, model: UploadedModel, config: BenchConfig, runtime: Runtime, *, fps: float | None
) -> Request:
    words = [*common("run", model, config, runtime), "--seconds", str(config.seconds)]
    words += ["--max-runs", str(config.max_runs), *(["--fps", str(fps)] if fps is not None else [])]
    kind: Kind = "run" if fps is None else "paced"
    return Request(number, kind, None, True, tuple(words), config.seconds)


def _memory(
    number: int, model: UploadedModel, config: BenchConfig, runtime: Runtime
) -> Iterator[Request]:
    if runtime == "trtexec":
        return
    for stage in STAGES:
        words = (*common("memory", model, config, runtime), "--stage", stage)
        for _ in range(config.memory_processes):
            yield Request(number, "memory", stage, True, words, 0.0)
    if runtime == "onnxruntime":
        words = (*common("memory", model, config, runtime), "--stage", "runs", "--no-arena")
        for _ in range(config.memory_processes):
            yield Request(number, "memory", "runs", False, words, 0.0)


def _energy(number: int, model: UploadedModel, config: BenchConfig, runtime: Runtime) -> Request:
    words = [
        *common("energy", model, config, runtime),
        *("--seconds", str(config.energy_window_s)),
        *("--windows", str(config.energy_windows)),
        *("--idle-seconds", str(config.energy_idle_s)),
        *("--sensor", config.energy_sensor),
        *(["--on-gpu"] if runtime != "onnxruntime" else []),
    ]
    seconds = config.energy_windows * config.energy_window_s + 2 * config.energy_idle_s
    return Request(number, "energy", None, True, tuple(words), seconds)


def common(command: str, model: UploadedModel, config: BenchConfig, runtime: Runtime) -> list[str]:
    """Arguments that all commands about a model share."""
    digest = ["--model-digest", model.digest] if model.digest is not None else []
    inputs = ["--inputs", model.inputs] if model.inputs is not None else []
    return [
        command,
        *("--model", model.path, *digest, *inputs),
        *("--runtime", runtime),
        *("--seed", str(config.seed)),
        *("--batch", str(config.batch)),
        *("--threads", str(config.threads)),
        *("--warmup-min-s", str(config.warmup_min_s)),
        *("--warmup-max-s", str(config.warmup_max_s)),
        *_trees(config),
    ]


def _trees(config: BenchConfig) -> list[str]:
    """Where the machine's own files are."""
    return [
        *("--sysfs", str(config.sysfs)),
        *("--proc", str(config.proc)),
        *("--root", str(config.root)),
    ]
