"""Measure models where an agent is: on this machine, on a board, or in what a kit brought back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import edgekd
from edgekd.bench.analysis import latency_warnings
from edgekd.bench.analysis.aggregate import energy_of, memory_of, pool_samples
from edgekd.bench.analysis.device_state import clocks_of, find_timed_spans, temperatures_of
from edgekd.bench.config import BenchConfig
from edgekd.bench.protocol import requests
from edgekd.bench.protocol.requests import Request, Runtime, UploadedModel
from edgekd.bench.protocol.responses import (
    ConditionsResponse,
    LatencyResponse,
    LoadResponse,
    MemoryResponse,
    ProbeResponse,
    Response,
    SessionResponse,
    StatesResponse,
)
from edgekd.bench.transport import agent_process
from edgekd.bench.transport.agent_access import Access, LocalAccess
from edgekd.errors import InputFileError, MissingToolError, UsageError
from edgekd.files import digest_of
from edgekd.records import (
    Conditions,
    Engine,
    Figure,
    MachineState,
    Measurements,
    Memory,
    Paced,
    Precision,
    Unmeasured,
)

DEFAULT: Final = BenchConfig()
EMULATED: Final = Unmeasured(
    reason="emulated: the processor is made up, and its times and bytes say nothing about a board "
    "(--allow-emulated takes them all the same)"
)
PROBE_S: Final = 120.0
# From the release of a Jetson's software to its JetPack (jetson_stats, jetson_variables.py).
_JETPACKS: Final = (("32", "4.6"), ("35", "5.1"), ("36", "6"), ("38", "7.0 or 7.1"), ("39", "7.2"))


@dataclass(frozen=True)
class Subject:
    """A model, and what it is."""

    file: Path
    precision: Precision
    name: str
    # That the board built of it
    engine: Engine | None = None
    # Where the agent is
    engine_path: str | None = None


@dataclass
class _ModelResponses:
    """What came back about one model."""

    runs: list[list[Response]] = field(default_factory=list)
    paced: list[list[Response]] = field(default_factory=list)
    memory: dict[tuple[requests.Stage, bool], list[MemoryResponse]] = field(default_factory=dict)
    energy: list[Response] = field(default_factory=list)


def check_models(models: Sequence[Path], config: BenchConfig) -> None:
    """Raise where a file is not there.

    Raises:
        InputFileError: one is not.
    """
    for model in models:
        if not model.is_file():
            raise InputFileError(
                f"{model}: no such file. Export a model first: edgekd export --help"
            )
    if config.inputs is not None and not config.inputs.is_file():
        raise InputFileError(f"{config.inputs}: no such file.")


def measure(
    subjects: Sequence[Subject],
    *,
    is_target: Callable[[ProbeResponse], bool],
    access: Access | None = None,
    config: BenchConfig = DEFAULT,
    probe: ProbeResponse | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Measurements, ...]:
    """Latency, memory and energy of models, in the order given.

    Args:
        subjects: the models; several take turns.
        is_target: whether a machine is the board that the models are for.
        access: to the agent; None: on this machine.
        config: how long and how often.
        probe: of the machine, where it was probed already.
        progress: called with what happens.

    Raises:
        DeviceError: the board or a measuring process was lost, ran too long, or answered nonsense.
        MissingToolError: no runtime there.
        UsageError: the runtime cannot do what was asked for, or the models need different ones.
        InputFileError: a model or the inputs are not usable.
        IntegrityError: a file there is another one than was brought.
        IncompatibleError: the runtime cannot run a model.
    """
    check_models([subject.file for subject in subjects], config)
    access = access or LocalAccess()
    probe = probe or probe_machine(access, config)
    runtime = runtime_of(subjects, probe, config)
    if _is_hidden(probe, config):
        # It is run all the same, once: that it can be is worth to know.
        config = BenchConfig(**{**vars(config), "processes": 1})
    placed = [_place_subject(subject, access, config) for subject in subjects]
    heard = [_ModelResponses() for _ in subjects]
    described = ""
    for question in requests.questions(placed, config, runtime):
        if question.kind == "memory" and _is_hidden(probe, config):
            continue
        if _describe_request(question, subjects) != described:
            described = _describe_request(question, subjects)
            progress(described)
        _file(question, _ask(question, access, config), heard[question.model])
    return tuple(
        _measurements(
            subject, each, probe=probe, access=access, config=config, is_target=is_target(probe)
        )
        for subject, each in zip(subjects, heard, strict=True)
    )


def probe_machine(access: Access, config: BenchConfig = DEFAULT) -> ProbeResponse:
    """What the machine is and has.

    Raises:
        DeviceError: it was lost, or answered nonsense.
    """
    answers = access.ask(requests.probe(config), timeout_s=PROBE_S)
    return agent_process.one(ProbeResponse, answers)


def runtime_of(subjects: Sequence[Subject], probe: ProbeResponse, config: BenchConfig) -> Runtime:
    """By what the models are run.

    Raises:
        As `runtime_for`; and UsageError where some are engines and some are not.
    """
    engines = {
        subject.engine_path is not None or subject.file.suffix == ".engine" for subject in subjects
    }
    if len(engines) > 1:
        raise UsageError(
            "Engines and ONNX files are run by different runtimes. Measure each kind by itself."
        )
    return runtime_for(probe, config, engines=True in engines)


def runtime_for(probe: ProbeResponse, config: BenchConfig, *, engines: bool) -> Runtime:
    """By what engines, or ONNX files, are run there.

    Raises:
        MissingToolError: what is needed is not there.
        UsageError: it cannot do what was asked for.
    """
    runtime = _find_runtime(probe, config, engines=engines)
    check_asked(runtime, config)
    return runtime


def check_asked(runtime: Runtime, config: BenchConfig) -> None:
    """Raise where a runtime cannot do what was asked for.

    Raises:
        UsageError: it cannot.
    """
    if runtime != "onnxruntime" and config.inputs is not None:
        raise UsageError(
            "--inputs: values can be given to ONNX Runtime alone; an engine gets random ones. Leave it out, or give "
            "--runtime onnxruntime."
        )
    if runtime == "trtexec" and config.energy_sensor != "auto":
        raise UsageError(
            f"--energy-sensor {config.energy_sensor}: trtexec calls a model by itself, and knows no windows. Leave it "
            "out, or give --runtime tensorrt."
        )
    if runtime == "trtexec" and config.fps is not None:
        raise UsageError(
            "--fps: trtexec has no calls at a fixed rate. Leave it out, or give --runtime tensorrt."
        )


def _find_runtime(probe: ProbeResponse, config: BenchConfig, *, engines: bool) -> Runtime:
    versions = {name: getattr(probe, name) for name in ("onnxruntime", "tensorrt", "trtexec")}
    wanted: list[Runtime] = ["tensorrt", "trtexec"] if engines else ["onnxruntime"]
    if config.runtime != "auto":
        wanted = [config.runtime]
    for name in wanted:
        if versions[name] is not None:
            return name
    reasons = "; ".join(f"{name}: {probe.missing.get(name, 'not there')}" for name in wanted)
    raise MissingToolError(
        f"{probe.machine} has nothing that runs {'an engine' if engines else 'an ONNX file'} ({reasons}). "
        "ONNX Runtime comes with: pip install onnxruntime; TensorRT with JetPack."
    )


def _place_subject(subject: Subject, access: Access, config: BenchConfig) -> UploadedModel:
    inputs = None if config.inputs is None else access.place(config.inputs)
    if subject.engine_path is not None:
        digest = subject.engine.digest if subject.engine else None
        return UploadedModel(subject.engine_path, digest, inputs)
    return UploadedModel(access.place(subject.file), digest_of(subject.file), inputs)


def _is_hidden(probe: ProbeResponse, config: BenchConfig) -> bool:
    """Whether figures would be of an emulator."""
    return probe.emulated and not config.allow_emulated


def _describe_request(question: Request, subjects: Sequence[Subject]) -> str:
    words = {"run": "latency", "paced": "latency at a fixed rate"}
    return f"{subjects[question.model].name}: {words.get(question.kind, question.kind)}"


def _ask(question: Request, access: Access, config: BenchConfig) -> list[Response]:
    return access.ask(
        question.arguments,
        timeout_s=config.timeout_s + config.warmup_max_s + question.seconds,
        environment={"OMP_NUM_THREADS": str(config.threads)},
    )


def _file(question: Request, answers: list[Response], heard: _ModelResponses) -> None:
    match question.kind:
        case "run":
            heard.runs.append(answers)
        case "paced":
            heard.paced.append(answers)
        case "energy":
            heard.energy = answers
        case "memory":
            assert question.stage is not None
            answer = agent_process.one(MemoryResponse, answers)
            if (answer.stage, answer.arena) != (question.stage, question.arena):
                raise agent_process.nonsense(
                    f"was asked for stage {question.stage}, and answered {answer.stage}"
                )
            heard.memory.setdefault((question.stage, question.arena), []).append(answer)


def _measurements(
    subject: Subject,
    heard: _ModelResponses,
    *,
    probe: ProbeResponse,
    access: Access,
    config: BenchConfig,
    is_target: bool,
) -> Measurements:
    runs = [agent_process.one(LatencyResponse, answers) for answers in heard.runs]
    states = [agent_process.one(StatesResponse, answers) for answers in heard.runs]
    conditions = _conditions(subject, config, heard, runs, states, probe)
    hidden = _is_hidden(probe, config)
    energy, energy_warned = energy_of(heard.energy)
    paced = [agent_process.one(LatencyResponse, answers) for answers in heard.paced]
    return Measurements(
        subject=subject.name,
        subject_digest=digest_of(subject.file),
        precision=subject.precision,
        taken_on=conditions.machine,
        is_target=is_target,
        conditions=conditions,
        warnings=(*latency_warnings.warnings_of(runs, conditions, paced, states), *energy_warned),
        latency=EMULATED if hidden else pool_samples(runs),
        memory=_hidden_memory() if hidden else memory_of(heard.memory),
        energy=energy,
        paced=_aggregate_paced(paced, config, hidden=hidden),
        device=None if isinstance(access, LocalAccess) else access.name,
        engine=subject.engine,
    )


def _aggregate_paced(
    runs: Sequence[LatencyResponse], config: BenchConfig, *, hidden: bool
) -> Paced | None:
    if config.fps is None:
        return None
    figure: Figure = EMULATED if hidden else pool_samples(runs)
    return Paced(fps=config.fps, latency=figure, late=sum(run.late or 0 for run in runs))


def _hidden_memory() -> Memory:
    names = ("runtime_pss", "runtime_uss", "session_pss", "session_uss", "model_pss", "model_uss")
    return Memory(**dict.fromkeys(names, EMULATED), peak_rss=EMULATED)


def _conditions(
    subject: Subject,
    config: BenchConfig,
    heard: _ModelResponses,
    runs: Sequence[LatencyResponse],
    states: Sequence[StatesResponse],
    probe: ProbeResponse,
) -> Conditions:
    """Those before the first process, for later ones see the machine as it left it; clocks and heat of all."""
    seen = agent_process.one(ConditionsResponse, heard.runs[0])
    session = agent_process.one(SessionResponse, heard.runs[0])
    loads = [agent_process.one(LoadResponse, answers) for answers in heard.runs]
    shapes = [each.shape for each in session.inputs]
    # Names only: the folders of this machine are nobody's business in a bundle.
    inputs = None if config.inputs is None else config.inputs.name
    shown = requests.common(
        "run", UploadedModel(subject.file.name, None, inputs), config, _runtime_name(session)
    )
    return Conditions(
        machine=seen.machine,
        os=seen.os,
        runtime=session.runtime,
        provider=session.provider,
        threads=config.threads,
        batch=shapes[0][0] if shapes and shapes[0] else config.batch,
        warmup_s=sum(run.warmup_s for run in runs) / len(runs),
        warmup_runs=min(run.warmup_runs for run in runs),
        processes=config.processes,
        governor=seen.governor,
        cpu_mhz=seen.cpu_mhz,
        load_before=seen.load_before,
        temperature_c=seen.temperature_c,
        emulated=probe.emulated,
        command=("edgekd-agent", *shown, "--seconds", str(config.seconds)),
        clocks_mhz=clocks_of(states, find_timed_spans(runs)),
        temperatures_c=temperatures_of(states),
        inputs=tuple(
            f"{each.name} {each.dtype} {'x'.join(map(str, each.shape))}" for each in session.inputs
        ),
        clock_step_ns=max(run.clock_step_ns for run in runs),
        agent_load=max(load.agent_cpu_s / load.wall_s if load.wall_s else 0.0 for load in loads),
        setup=setup_of(probe),
        edgekd=edgekd.__version__,
        note=config.note,
    )


def _runtime_name(session: SessionResponse) -> Runtime:
    if "trtexec" in session.runtime:
        return "trtexec"
    return "tensorrt" if session.runtime.startswith("tensorrt") else "onnxruntime"


def setup_of(probe: ProbeResponse) -> MachineState:
    """The probe as a record."""
    jetpack = next(
        (name for l4t, name in _JETPACKS if (probe.l4t or "").split(".")[0] == l4t), None
    )
    return MachineState(
        board=probe.board,
        parts=probe.compatible,
        architecture=probe.architecture,
        kernel=probe.kernel,
        python=probe.python,
        processors=probe.processors,
        memory_bytes=probe.memory_bytes,
        swap_bytes=probe.swap_bytes,
        l4t=probe.l4t,
        jetpack=jetpack,
        cuda=probe.cuda,
        power_mode=probe.power_mode,
        cpu_max_mhz=probe.cpu_max_mhz,
        gpu_mhz=probe.gpu_mhz,
        fan=probe.fan,
        onnxruntime=probe.onnxruntime,
        tensorrt=probe.tensorrt,
        trtexec=probe.trtexec,
        sensor=probe.sensor,
        scope=probe.scope,
        missing=dict(probe.missing),
    )
