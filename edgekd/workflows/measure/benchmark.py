"""Measure models on this machine or on boards: `edgekd bench`."""

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from edgekd.bench import runner
from edgekd.bench.config import WARMUP_LIMIT, BenchConfig
from edgekd.bench.engine_builder import EngineOptions, build_on
from edgekd.bench.format import slower_int8
from edgekd.bench.protocol.responses import ProbeResponse
from edgekd.bench.runner import Subject
from edgekd.bench.transport.agent_access import Access, LocalAccess
from edgekd.bench.transport.fleet import Device
from edgekd.bench.transport.ssh import SshAccess
from edgekd.bench.transport.ssh_address import read_address
from edgekd.bundle import golden_vectors, layout
from edgekd.errors import EdgekdError, InputFileError, UsageError
from edgekd.export.model_metadata import inputs_of, precision_of
from edgekd.options import BenchOptions
from edgekd.progress import Display
from edgekd.records import (
    MachineState,
    Measured,
    Measurements,
    OnnxModel,
    Precision,
    Target,
    is_rtx,
    record,
)
from edgekd.targets import board_detection
from edgekd.workflows.calibration_data import existing

ENGINE: Final = ".engine"
# Options whose names state their unit differently from the fields of `BenchConfig`.
_FIELDS: Final = {
    "warmup_seconds": "warmup_min_s",
    "energy_seconds": "energy_window_s",
    "energy_idle_seconds": "energy_idle_s",
}
_OPTIONS: Final = {field: option for option, field in _FIELDS.items()}
STRONG_SINCE: Final = (10, 12)  # of TensorRT


@record
class Probed:
    """A machine."""

    device: str
    setup: MachineState
    # None: no target was named
    is_target: bool | None


@record
class Probes:
    """What `edgekd bench probe --json` prints."""

    probes: tuple[Probed, ...]


@dataclass(frozen=True)
class RequestedModel:
    """One model to measure, with what else is known of it."""

    file: Path
    precision: Precision
    # From a bundle
    described: OnnxModel | None = None
    vectors: Mapping[Precision, Path] = field(default_factory=dict)


def collect_models(paths: Sequence[Path]) -> tuple[RequestedModel, ...]:
    """ONNX files, engines, and every model of a bundle.

    Raises:
        InputFileError: one is none of these, or is named twice.
        IntegrityError: a file of a bundle is another one than was sealed.
    """
    found = [each for path in paths for each in _of(path)]
    names = [each.file.name for each in found]
    twice = {name for name in names if names.count(name) > 1}
    if len({each.file.resolve() for each in found}) < len(found):
        raise InputFileError(f"{min(twice)} is given twice. Name each model once.")
    return tuple(found)


def _of(path: Path) -> Iterator[RequestedModel]:
    if path.is_dir():
        manifest = layout.read_manifest(path)
        vectors = {name: path / file for name, file in manifest.golden.vectors.items()}
        for model in manifest.models:
            yield RequestedModel(path / model.path, model.precision, model, vectors)
    elif path.suffix == ENGINE:
        yield RequestedModel(existing(path), "fp16")
    else:
        yield RequestedModel(existing(path), precision_of(path))


def bench(
    paths: Sequence[Path],
    *,
    display: Display,
    config: BenchConfig = runner.DEFAULT,
    target: Target | None = None,
    devices: Sequence[Device] = (),
) -> Measured:
    """Measure models here, or on boards; several boards at once.

    Args:
        paths: ONNX files, engines, bundles.
        display: what happens is said there.
        config: how long and how often.
        target: the board that the models are for; figures taken elsewhere are marked.
        devices: boards; none: this machine.

    Raises:
        EdgekdError: of the only device. Of several, the failed ones are in the result.
    """
    found = bench_models(
        collect_models(paths), display=display, config=config, target=target, devices=devices
    )
    for path in paths:
        if path.is_dir():
            sealed = {model.digest for model in layout.read_manifest(path).models}
            of_bundle = [each for each in found.measurements if each.subject_digest in sealed]
            for line in slower_int8(of_bundle):
                display.warn(line)
    return found


def bench_models(
    models: Sequence[RequestedModel],
    *,
    display: Display,
    config: BenchConfig = runner.DEFAULT,
    target: Target | None = None,
    devices: Sequence[Device] = (),
) -> Measured:
    """As `bench`, of models that are known already."""
    runner.check_models([model.file for model in models], config)
    if not devices:
        return Measured(measurements=_here(models, display, config, target))
    if len(devices) == 1:
        return Measured(measurements=_there(devices[0], models, display, config, target))
    return _everywhere(devices, models, display, config, target)


def _everywhere(
    devices: Sequence[Device],
    models: Sequence[RequestedModel],
    display: Display,
    config: BenchConfig,
    target: Target | None,
) -> Measured:
    """All boards at once.

    In threads that do not keep the program alive: when it is interrupted, pipes close, and the boards clean up.
    """
    taken: list[tuple[Measurements, ...] | BaseException | None] = [None] * len(devices)

    def bench_one(number: int) -> None:
        try:
            taken[number] = _there(devices[number], models, display, config, target)
        except BaseException as error:
            taken[number] = error

    threads = [
        threading.Thread(target=bench_one, args=(number,), daemon=True)
        for number in range(len(devices))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed: dict[str, str] = {}
    found: list[Measurements] = []
    for device, each in zip(devices, taken, strict=True):
        if isinstance(each, EdgekdError):
            failed[device.name] = str(each)
        elif isinstance(each, BaseException):
            raise each
        else:
            found.extend(each or ())
    return Measured(measurements=tuple(found), failed=failed)


def _here(
    models: Sequence[RequestedModel], display: Display, config: BenchConfig, target: Target | None
) -> tuple[Measurements, ...]:
    return _measure(LocalAccess(), models, display, config, target, name="this machine")


def _there(
    device: Device,
    models: Sequence[RequestedModel],
    display: Display,
    config: BenchConfig,
    target: Target | None,
) -> tuple[Measurements, ...]:
    with _contact(device) as access:
        taken = _measure(access, models, display, config, device.target or target, name=device.name)
        sent = ", ".join(f"{name} ({size:,} bytes)" for name, size in access.sent)
        display.say(
            f"{device.name}: sent {sent}" if sent else f"{device.name}: all files were there"
        )
    return taken


def _measure(
    access: Access,
    models: Sequence[RequestedModel],
    display: Display,
    config: BenchConfig,
    target: Target | None,
    *,
    name: str,
) -> tuple[Measurements, ...]:
    def progress(text: str) -> None:
        display.say(f"bench    {name}: {text}")

    probe = runner.probe_machine(access, config)
    if _builds(config, probe) and any(model.file.suffix != ENGINE for model in models):
        # Before minutes are spent on a build.
        runner.runtime_for(probe, config, engines=True)
    with ExitStack() as stack:
        subjects = [
            _subject(access, model, probe, config, display, stack, name) for model in models
        ]
        return runner.measure(
            subjects,
            is_target=lambda found: target is not None and is_board(found, target),
            access=access,
            config=config,
            probe=probe,
            progress=progress,
        )


def _subject(
    access: Access,
    model: RequestedModel,
    probe: ProbeResponse,
    config: BenchConfig,
    display: Display,
    stack: ExitStack,
    name: str,
) -> Subject:
    """A model as it is run there: on a board with TensorRT, as an engine."""
    if model.file.suffix == ENGINE:
        path = access.place(model.file)
        return Subject(model.file, model.precision, model.file.name, engine_path=path)
    if not _builds(config, probe):
        return Subject(model.file, model.precision, model.file.name)
    inputs = inputs_of(model.file)
    if config.batch != 1 and any(isinstance(size, str) for each in inputs for size in each.shape):
        raise UsageError(
            f"--batch {config.batch}: the engine of {model.file.name} is built for one image per call. Export the model "
            "with that batch, or give --runtime onnxruntime."
        )
    precision, typing = _engine_of(model.precision, probe, config)
    vectors = model.vectors.get(precision)
    if vectors is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        vectors = golden_vectors.write_of_noise(folder, model.file, precision)
    display.say(f"engine   {name}: {precision.upper()} of {model.file.name}")
    engine, path = build_on(
        access,
        model.file,
        inputs,
        vectors,
        precision=precision,
        typing=typing,
        fp32_nodes=() if model.described is None else model.described.fp32_nodes,
        options=EngineOptions(
            tool="trtexec" if config.runtime == "trtexec" else "auto",
            root=config.root,
            proc=config.proc,
        ),
        progress=lambda told: display.say(
            f"         {name}: {told.phase}: {told.step} of {told.of}"
        ),
    )
    for warning in engine.warnings:
        display.warn(f"{name}: {model.file.name}: {warning}")
    return Subject(model.file, precision, f"{model.file.name} as {precision.upper()}", engine, path)


def _builds(config: BenchConfig, probe: ProbeResponse) -> bool:
    """Whether ONNX files become engines there: when that is asked for, and on a Jetson that has TensorRT."""
    jetson = probe.l4t is not None and (probe.tensorrt or probe.trtexec) is not None
    return config.runtime in {"tensorrt", "trtexec"} or (config.runtime == "auto" and jetson)


def _engine_of(
    held: Precision, probe: ProbeResponse, config: BenchConfig
) -> tuple[Precision, Literal["weak", "strong"]]:
    """Of what precision an engine is, and whether types are in the graph: since TensorRT 10.12 they are, and in TensorRT-RTX."""
    version_text = probe.tensorrt or probe.trtexec or ""
    if is_rtx(version_text):
        return held, "strong"
    version = tuple(int(part) for part in version_text.split(".")[:2] if part.isdigit())
    if version >= STRONG_SINCE:
        return held, "strong"
    if held == "fp32":
        return config.engine_precision, "weak"
    return held, "weak"


def probes(devices: Sequence[Device], *, target: Target | None) -> Probes:
    """What machines are and have; without boards, this one.

    Raises:
        DeviceError: one cannot be reached.
    """
    found: list[tuple[str, ProbeResponse]] = []
    if not devices:
        found.append(("this machine", runner.probe_machine(LocalAccess())))
    for device in devices:
        with _contact(device) as access:
            found.append((device.name, runner.probe_machine(access)))
    return Probes(
        probes=tuple(
            Probed(
                device=name,
                setup=runner.setup_of(each),
                is_target=None if target is None else is_board(each, target),
            )
            for name, each in found
        )
    )


def bench_config(options: BenchOptions) -> BenchConfig:
    """The configuration of a measurement.

    Raises:
        UsageError: an option makes no sense.
    """
    given = {_FIELDS.get(name, name): value for name, value in vars(options).items()}
    # Until timings stabilise, and no longer than this.
    given["warmup_max_s"] = max(1.0, WARMUP_LIMIT * options.warmup_seconds)
    try:
        return BenchConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        name = _OPTIONS.get(field, field).replace("_", "-")
        raise UsageError(f"--{name}: {first['msg']}.") from error


def _contact(device: Device) -> SshAccess:
    return SshAccess(read_address(device.url), python=device.python, options=device.ssh_options)


def clean(device: Device) -> None:
    """Remove all that edgekd keeps on a board."""
    with _contact(device) as access:
        access.clear()


def is_board(found: ProbeResponse, target: Target) -> bool:
    """Whether a machine is a target's board; one that is made up is none."""
    return not found.emulated and board_detection.is_board(
        target.board, parts=found.compatible, model=found.board, architecture=found.architecture
    )
