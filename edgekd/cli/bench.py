"""`edgekd bench` and its verbs, but for `meter`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from edgekd import options as defaults
from edgekd.bench.sensor_names import SENSORS
from edgekd.cli import boards, meter
from edgekd.cli.boards import BoardGroup
from edgekd.cli.framework import completion
from edgekd.cli.framework.options import (
    DEVICE,
    OUTPUT,
    Force,
    Json,
    option_groups,
    record_of,
)
from edgekd.cli.framework.verbs import VerbGroup
from edgekd.errors import UsageError

_MEASUREMENT: Final = "Measurement"

app = typer.Typer(
    cls=VerbGroup, help="Measure latency, memory and energy, here or on boards over ssh."
)
app.command("meter")(meter.attach)
app.command("probe")(boards.probe)
app.command("clean")(boards.clean)

Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL", help="ONNX files, engines or bundles; several models take turns."
    ),
]
BenchTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="Board that the models are for; results of another machine are marked.",
        autocompletion=completion.targets,
        rich_help_panel=DEVICE,
    ),
]
OfflineKit = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder to write for carrying to a board by hand; nothing is measured now.",
        rich_help_panel=OUTPUT,
    ),
]
MeasurementsFile = Annotated[
    Path | None,
    typer.Option("--out", help="JSON file to write the measurements to.", rich_help_panel=OUTPUT),
]
HtmlPage = Annotated[
    Path | None,
    typer.Option("--html", help="HTML page with charts to write.", rich_help_panel=OUTPUT),
]


@dataclass(frozen=True, kw_only=True)
class BenchGroup:
    """How long, how often and with what a model is measured."""

    runtime: Annotated[
        str,
        typer.Option(
            help="Runtime: auto, onnxruntime, tensorrt or trtexec.", rich_help_panel=DEVICE
        ),
    ] = defaults.BenchOptions.runtime
    engine_precision: Annotated[
        str,
        typer.Option(
            help="Precision of an engine built from an FP32 file, where TensorRT chooses types: fp16 or fp32.",
            rich_help_panel=DEVICE,
        ),
    ] = defaults.BenchOptions.engine_precision
    allow_emulated: Annotated[
        bool,
        typer.Option(
            "--allow-emulated",
            help="Accept results of an emulated processor.",
            rich_help_panel=DEVICE,
        ),
    ] = defaults.BenchOptions.allow_emulated
    processes: Annotated[
        int,
        typer.Option(
            min=defaults.RANGES["BenchOptions.processes"][0],
            max=defaults.RANGES["BenchOptions.processes"][1],
            help="Measuring processes per model.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.processes
    seconds: Annotated[
        float,
        typer.Option(
            min=defaults.RANGES["BenchOptions.seconds"][0],
            max=defaults.RANGES["BenchOptions.seconds"][1],
            help="Seconds of timed calls per process.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.seconds
    max_runs: Annotated[
        int,
        typer.Option(
            min=defaults.RANGES["BenchOptions.max_runs"][0],
            max=defaults.RANGES["BenchOptions.max_runs"][1],
            help="Maximum number of timed calls per process.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.max_runs
    warmup_seconds: Annotated[
        float,
        typer.Option(
            min=defaults.RANGES["BenchOptions.warmup_seconds"][0],
            max=defaults.RANGES["BenchOptions.warmup_seconds"][1],
            help="Minimum warm-up in seconds; continues until timings stabilise, at most ten times as long.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.warmup_seconds
    fps: Annotated[
        float | None,
        typer.Option(
            min=defaults.RANGES["BenchOptions.fps"][0],
            max=defaults.RANGES["BenchOptions.fps"][1],
            help="Also measure latency at this fixed rate.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.fps
    threads: Annotated[
        int,
        typer.Option(
            min=defaults.RANGES["BenchOptions.threads"][0],
            max=defaults.RANGES["BenchOptions.threads"][1],
            help="CPU threads per process.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.threads
    batch: Annotated[
        int,
        typer.Option(
            min=defaults.RANGES["BenchOptions.batch"][0],
            max=defaults.RANGES["BenchOptions.batch"][1],
            help="Batch size, for models that leave it open.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.batch
    inputs: Annotated[
        Path | None,
        typer.Option(
            help="File with inputs, .npy or .npz (default: random values).",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.inputs
    energy_seconds: Annotated[
        float,
        typer.Option(
            min=defaults.RANGES["BenchOptions.energy_seconds"][0],
            max=defaults.RANGES["BenchOptions.energy_seconds"][1],
            help="Length of an energy window in seconds.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.energy_seconds
    energy_windows: Annotated[
        int,
        typer.Option(
            min=defaults.RANGES["BenchOptions.energy_windows"][0],
            max=defaults.RANGES["BenchOptions.energy_windows"][1],
            help="Number of energy windows.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.energy_windows
    energy_idle_seconds: Annotated[
        float,
        typer.Option(
            min=defaults.RANGES["BenchOptions.energy_idle_seconds"][0],
            max=defaults.RANGES["BenchOptions.energy_idle_seconds"][1],
            help="Seconds of idle before and after the energy windows.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.energy_idle_seconds
    energy_sensor: Annotated[
        str,
        typer.Option(
            help=f"Power sensor: auto, {', '.join(SENSORS)}, or none for an external meter.",
            autocompletion=completion.sensors,
            rich_help_panel=_MEASUREMENT,
        ),
    ] = defaults.BenchOptions.energy_sensor
    note: Annotated[
        str | None,
        typer.Option(help="Free-text note stored with the results.", rich_help_panel=_MEASUREMENT),
    ] = defaults.BenchOptions.note

    def options(self) -> defaults.BenchOptions:
        """The record for the API."""
        return record_of(defaults.BenchOptions, self)


@dataclass(frozen=True, kw_only=True)
class FilesGroup:
    """Where measurements go."""

    out: MeasurementsFile = None
    csv: Annotated[
        Path | None,
        typer.Option(help="CSV file to write a table to.", rich_help_panel=OUTPUT),
    ] = None
    html: HtmlPage = None
    force: Force = False
    as_json: Json = False


@app.command(completion.DEFAULT_VERB)
@option_groups
def bench(
    models: Models,
    hosts: BoardGroup,
    how: BenchGroup,
    files: FilesGroup,
    target: BenchTarget = None,
    offline_kit: OfflineKit = None,
) -> None:
    """Measure latency, memory and energy, here or on boards over ssh."""
    import edgekd
    from edgekd.cli.framework.output import print_events
    from edgekd.workflows.measure import benchmark_output

    if offline_kit is not None:
        _write_kit(models, offline_kit, hosts, how, files, target)
        return
    benchmark_output.check_outputs(files.out, files.csv, files.html, force=files.force)
    found = edgekd.benchmark(
        models,
        devices=hosts.device or (),
        connection=hosts.connection(),
        target=target,
        options=how.options(),
        on_event=print_events(),
    )
    meter.print_measured(
        found, out=files.out, table=files.csv, page=files.html, as_json=files.as_json
    )


def _write_kit(
    models: list[Path],
    folder: Path,
    hosts: BoardGroup,
    how: BenchGroup,
    files: FilesGroup,
    target: str | None,
) -> None:
    from edgekd.api.targets import find_target
    from edgekd.workflows.measure import benchmark, measure_offline

    given = {
        "--device": hosts.device,
        "--fleet": hosts.fleet,
        "--ssh-config": hosts.ssh_config,
        "--device-python": hosts.device_python,
        "--out": files.out,
        "--csv": files.csv,
        "--html": files.html,
        "--json": files.as_json or None,
    }
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} means nothing with --offline-kit, which measures nothing.")
    measure_offline.write_offline_kit(
        models,
        folder,
        config=benchmark.bench_config(how.options()),
        target=None if target is None else find_target(target),
        force=files.force,
    )
    print(f"Carry {folder} to the board and run there: sh run.sh")
    print(f"Then here: edgekd bench import {folder}/result.json")


@app.command("import")
def import_kit(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="Result file that the kit wrote.")
    ],
    kit: Annotated[
        Path | None, typer.Option(help="Folder of the kit (default: the result's folder).")
    ] = None,
    out: MeasurementsFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Import what an offline kit measured on its board."""
    from edgekd.workflows.measure import benchmark_output, measure_offline

    benchmark_output.check_outputs(out, force=force)
    found = measure_offline.take_in(result, kit or result.parent)
    meter.print_measured(found, out=out, as_json=as_json)


@app.command("compare")
def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="JSON file of `edgekd bench --out`.")],
    new: Annotated[
        Path | None,
        typer.Argument(
            metavar="[NEW]",
            help="JSON file to compare with (default: the models in OLD with one another).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare measurements: ratios with intervals, and a verdict only where the interval allows one."""
    from edgekd.bench.analysis import compare as comparison
    from edgekd.cli.framework.output import print_record
    from edgekd.workflows.measure import benchmark_output

    found = benchmark_output.compare_files(old, new)
    if as_json:
        print_record(found, "comparisons")
        return
    print("\n\n".join(comparison.format_comparison(each) for each in found.comparisons))


@app.command("estimate")
def estimate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file.")],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            help="Board to estimate for.",
            autocompletion=completion.targets,
        ),
    ] = defaults.EstimateOptions.target,
    precision: Annotated[
        str, typer.Option(help="Precision of the engine: fp16, fp32 or int8.")
    ] = defaults.EstimateOptions.precision,
    as_json: Json = False,
) -> None:
    """Estimate latency on a board that is not here, from published measurements."""
    import edgekd
    from edgekd.cli.framework.output import print_record
    from edgekd.workflows.measure import estimate_latency as workflow

    found = edgekd.estimate_latency(model, target=target, precision=precision)
    if as_json:
        print_record(found, "model-estimate")
        return
    print(workflow.format_estimate(found), end="")
