"""The command line: parses, calls one function, prints.

stdout carries results, stderr progress. Nothing heavy is imported until a command needs it.
"""

import dataclasses
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgekd import __version__
from edgekd.cli import bundle as bundle_commands
from edgekd.cli import completion as usage
from edgekd.cli import gate as budget_commands
from edgekd.errors import (
    CollapseError,
    EdgekdError,
    InterruptedRunError,
    MissingToolError,
    UsageError,
)


class _Commands(TyperGroup):
    """Takes two words for one command where one has such a name: `export STUDENT`, `export check MODEL`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        both = " ".join(args[:2])
        return super().resolve_command(ctx, [both, *args[2:]] if both in self.commands else args)


app = typer.Typer(
    cls=_Commands,
    help="Compress an image classifier for an edge board, without its training data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
targets_app = typer.Typer(help="The boards that edgekd knows.", no_args_is_help=True)
recipes_app = typer.Typer(
    help="How images are made and learned from, by paper.", no_args_is_help=True
)
teacher_app = typer.Typer(
    help="What a teacher file is, and whether it is fed rightly.", no_args_is_help=True
)
app.add_typer(teacher_app, name="teacher")
app.add_typer(recipes_app, name="recipes")
app.add_typer(targets_app, name="targets")
app.add_typer(bundle_commands.app, name="bundle")
app.add_typer(budget_commands.config_app, name="config")
app.command("gate")(budget_commands.gate)

# Commands that the processes of `torchrun` can share; each would run by itself in every one of them.
_IN_SEVERAL = ("distill", "compress")

_RUN = "The run"
_WHERE = "Where"
_HOW = "How long and with what"
_METER = "The meter"
_COLUMNS = "Columns of the log, where its header does not say them"
_TEACHER = "The teacher, where its file does not say"
_DATA = "Data, where there is some"
_ENGINE = "TensorRT engines"
_OUTPUT = "Output"

TeacherFile = Annotated[
    Path,
    typer.Argument(
        metavar="TEACHER",
        help="Weights (.pt, .pth, .ckpt, .safetensors …), .pt2, TorchScript or ONNX.",
    ),
]
TargetName = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        help="BOARD, BOARD@SOFTWARE or a board file; see `edgekd targets list`.",
        autocompletion=usage.targets,
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder to write.", rich_help_panel=_OUTPUT)
]
BenchDevice = Annotated[
    str | None,
    typer.Option(
        metavar="ssh://USER@HOST",
        help="Measure on this board rather than on this machine.",
        rich_help_panel=budget_commands.BUDGET,
    ),
]
Embed = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PART",
        help="Into the graph: preprocessing (uint8 NHWC in), bgr, softmax or top1. Repeatable.",
        autocompletion=usage.embeddable,
        rich_help_panel=_OUTPUT,
    ),
]
KeepFp16 = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Share (0..1) of the INT8 model that may stay in floating point.",
        rich_help_panel=_OUTPUT,
    ),
]
Tune = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="STEPS",
        help="Learn the INT8 model's weights and scales on the synthetic images; 0: calibrate only.",
        rich_help_panel=_OUTPUT,
    ),
]
KeepBy = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="What that share is of: macs or size.",
        autocompletion=usage.complete_keep_by,
        rich_help_panel=_OUTPUT,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an output that exists.", rich_help_panel=_OUTPUT)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the record on stdout.", rich_help_panel=_OUTPUT)
]
StudentName = Annotated[
    str,
    typer.Option(
        help="Architecture, or auto.", autocompletion=usage.students, rich_help_panel=_RUN
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        help="How images are made and learned from.",
        autocompletion=usage.recipes,
        rich_help_panel=_RUN,
    ),
]
Minutes = Annotated[
    float | None, typer.Option(help="Budget by the clock (default 15).", rich_help_panel=_RUN)
]
Steps = Annotated[
    int | None, typer.Option(help="Budget in student steps; reproducible.", rich_help_panel=_RUN)
]
Seed = Annotated[int, typer.Option(min=0, help="Of every draw.", rich_help_panel=_RUN)]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu or cuda.", autocompletion=usage.devices, rich_help_panel=_RUN),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads (default: OMP_NUM_THREADS, or all cores).", rich_help_panel=_RUN
    ),
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Throw away an unfinished run.", rich_help_panel=_RUN)
]
ImageSet = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="SET",
        help="Learn from images that `synthesize` made; none are made then.",
        rich_help_panel=_RUN,
    ),
]
Condensed = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A condensed set to expand: of `condense`, or a .pt of DC, DSA, DM or MTT.",
        rich_help_panel=_DATA,
    ),
]
CondensedNumber = Annotated[
    int, typer.Option(min=0, help="Which of several sets in it.", rich_help_panel=_DATA)
]
CondensedMean = Annotated[
    str | None,
    typer.Option(
        metavar="M,...", help="That its images were normalised by.", rich_help_panel=_DATA
    ),
]
CondensedStd = Annotated[
    str | None, typer.Option(metavar="S,...", help="Likewise.", rich_help_panel=_DATA)
]
Samples = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A few real images, in folders by class or without labels; .npz, idx.",
        rich_help_panel=_DATA,
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse files that cannot be read.", rich_help_panel=_DATA),
]
ClassEmbeddings = Annotated[
    Path | None,
    typer.Option(
        "--embeddings",
        metavar="FILE",
        help="A vector for each class (.npy), for recipe nayer.",
        rich_help_panel=_DATA,
    ),
]
Faithful = Annotated[
    bool,
    typer.Option(
        "--faithful", help="The paper's sizes and length; days on a CPU.", rich_help_panel=_RUN
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch", min=4, help="Images at once (default: the recipe's).", rich_help_panel=_RUN
    ),
]
Compiles = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the passes of the student's steps; a minute or two before they are faster.",
        rich_help_panel=_RUN,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what it would do and cost; write nothing.", rich_help_panel=_RUN
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="Ours, timm:NAME, torchvision:NAME or FILE.py:FACTORY (runs your code).",
        rich_help_panel=_TEACHER,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Which of several sets of weights in the file: ema.", rich_help_panel=_TEACHER
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Run the code in the file: modules saved whole, TorchScript.",
        rich_help_panel=_TEACHER,
    ),
]
Input = Annotated[
    str | None,
    typer.Option("--input", metavar="CxHxW", help="For example 3x32x32.", rich_help_panel=_TEACHER),
]
Mean = Annotated[
    str | None, typer.Option(metavar="M,...", help="Of 0..1 pixels.", rich_help_panel=_TEACHER)
]
Std = Annotated[
    str | None, typer.Option(metavar="S,...", help="Of 0..1 pixels.", rich_help_panel=_TEACHER)
]
Classes = Annotated[int | None, typer.Option(help="Number of classes.", rich_help_panel=_TEACHER)]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help="Whether a mirrored image keeps its class (default: yes for colour).",
        rich_help_panel=_TEACHER,
    ),
]


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--input {text}: write channels x height x width, for example 3x32x32.")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def _values(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} {text}: write numbers with commas between them, one a channel."
        ) from error


def _require(command: str) -> None:
    """Refuse before hours are spent what would fail at its end for want of a library."""
    from edgekd.doctor import requirements as abilities

    abilities.require_libraries(command)


def _display() -> Any:  # noqa: ANN401
    from edgekd.progress import display_for

    return display_for(sys.stderr.isatty(), leads=_rank() == 0)


def _rank() -> int:
    """Which of the processes that `torchrun` started this is; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def _said(local: dict[str, Any]) -> Any:  # noqa: ANN401
    """What the command line says of the teacher, from the local variables of a command."""
    from edgekd.distill.teachers.metadata import TeacherOptions

    return TeacherOptions(
        arch=local["arch"],
        input=_shape(local["input_shape"]),
        mean=_values("--mean", local["mean"]),
        std=_values("--std", local["std"]),
        classes=local["classes"],
        flip=local.get("flip"),
        weights=local["weights"],
        trust_pickle=local["trust_pickle"] or None,
    )


def _distil_options(local: dict[str, Any], *, out: Path) -> Any:  # noqa: ANN401
    """The options that `distill` and `compress` share, from the local variables of either."""
    from edgekd import pipeline
    from edgekd.distill.recipes.schedule import run_budget
    from edgekd.workflows import run_setup as setting

    return setting.DistilOptions(
        teacher=local["teacher"],
        said=_said(local),
        student=local["student"],
        recipe=local["recipe"],
        budget=run_budget(local["steps"], local["minutes"], default=not local["faithful"]),
        seed=local["seed"],
        device=local["device"],
        threads=local["threads"],
        out=out,
        force=local["force"],
        restart=local["restart"],
        command=pipeline.command_line(),
        images=local["images"],
        condensed=local["condensed"],
        condensed_number=local["condensed_number"],
        condensed_statistics=_statistics(local["condensed_mean"], local["condensed_std"]),
        samples=local["samples"],
        strict=local["strict"],
        embeddings=local["embeddings"],
        faithful=local["faithful"],
        batch=local["batch"],
        compiles=local["compiles"],
    )


def _board(address: str | None) -> Any:  # noqa: ANN401
    """The board of an address; None: none."""
    if address is None:
        return None
    from edgekd.bench.transport.fleet import Device as Board

    return Board(name=address, url=address)


def _statistics(
    mean: str | None, std: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    found = _values("--condensed-mean", mean), _values("--condensed-std", std)
    if found[0] is None and found[1] is None:
        return None
    if found[0] is None or found[1] is None:
        raise UsageError("--condensed-mean and --condensed-std belong together: give both.")
    return found[0], found[1]


@app.command()
def compress(
    teacher: TeacherFile,
    target: TargetName,
    out: Out = None,
    student: StudentName = "auto",
    recipe: RecipeName = "auto",
    minutes: Minutes = None,
    steps: Steps = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            help="Labelled images: .npz, idx or folder. Reported, selects nothing.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="With the teacher, on held-out synthetic images.",
            rich_help_panel=_RUN,
        ),
    ] = 0.90,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    restart: Restart = False,
    arch: Arch = None,
    input_shape: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    flip: Flip = None,
    images: ImageSet = None,
    condensed: Condensed = None,
    condensed_number: CondensedNumber = 0,
    condensed_mean: CondensedMean = None,
    condensed_std: CondensedStd = None,
    samples: Samples = None,
    strict: Strict = False,
    embeddings: ClassEmbeddings = None,
    faithful: Faithful = False,
    batch: BatchSize = None,
    compiles: Compiles = False,
    keep_images: Annotated[
        bool,
        typer.Option(
            "--keep-images/--no-images",
            help="Keep inverted images in the bundle.",
            rich_help_panel=_OUTPUT,
        ),
    ] = True,
    bench_it: Annotated[
        bool,
        typer.Option(
            "--bench/--no-bench", help="Measure at the end.", rich_help_panel=budget_commands.BUDGET
        ),
    ] = True,
    bench_device: BenchDevice = None,
    budget: budget_commands.BudgetFile = None,
    limit: budget_commands.Limits = None,
    allow_estimates: budget_commands.AllowEstimates = None,
    junit: budget_commands.JUnit = None,
    embed: Embed = None,
    keep_fp16: KeepFp16 = 0.0,
    keep_by: KeepBy = "macs",
    tune: Tune = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Teacher to bundle: distil, export, bench, seal."""
    local = dict(locals())
    _require("compress")
    from edgekd import pipeline
    from edgekd.gate.gates import parse_allowed_metrics
    from edgekd.workflows import export_options
    from edgekd.workflows import gate as budgeting

    chosen = pipeline.target_named(target)
    folder = out or pipeline.default_out(teacher, chosen)
    limits = budgeting.read_budget(file=budget, limits=tuple(limit or ()), target=target)
    options = pipeline.CompressOptions(
        distil=_distil_options(local, out=folder),
        target=chosen,
        evaluation=evaluation,
        min_agreement=min_agreement,
        keep_images=keep_images,
        bench=bench_it,
        export=export_options.parse_export_options(
            embed or [], keep=keep_fp16, keep_by=keep_by, tune=tune
        ),
        bench_device=_board(bench_device),
        budget=limits,
        allowed=parse_allowed_metrics(allow_estimates or []),
        junit=junit,
    )
    outcome = pipeline.compress(options, _display())
    if outcome is None:  # another process of `torchrun` has it
        return
    if as_json:
        _print_record(outcome, "outcome")
    budgeting.write_judgement(pipeline.judgement(outcome), junit=junit, summary=None)
    pipeline.require_gates(outcome)


@app.command()
def distill(
    teacher: TeacherFile,
    out: Out = None,
    student: StudentName = "auto",
    recipe: RecipeName = "auto",
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    restart: Restart = False,
    arch: Arch = None,
    input_shape: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    flip: Flip = None,
    images: ImageSet = None,
    condensed: Condensed = None,
    condensed_number: CondensedNumber = 0,
    condensed_mean: CondensedMean = None,
    condensed_std: CondensedStd = None,
    samples: Samples = None,
    strict: Strict = False,
    embeddings: ClassEmbeddings = None,
    faithful: Faithful = False,
    batch: BatchSize = None,
    compiles: Compiles = False,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            help="Labelled images to look at along the way. They select nothing.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    dry_run: DryRun = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Teacher to student folder, for `export`."""
    local = dict(locals())
    _require("distill")
    from edgekd.workflows import distill as distilling

    options = _distil_options(local, out=out or Path(f"{teacher.stem}-student"))
    if dry_run:
        plan = distilling.plan(options, _display(), evaluation=evaluation)
        if as_json:
            _print_record(plan, "plan")
        return
    found = distilling.distil(options, _display(), evaluation=evaluation)
    if as_json and found is not None:
        _print_record(found, "student")


@app.command()
def synthesize(
    teacher: TeacherFile,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="Images in the set.", rich_help_panel=_RUN)
    ],
    out: Out = None,
    extend: Annotated[
        bool,
        typer.Option(
            "--extend", help="Add to the set that is there, up to --count.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    recipe: RecipeName = "pool",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    restart: Restart = False,
    arch: Arch = None,
    input_shape: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Images inverted out of a teacher, as a set that runs share."""
    local = dict(locals())
    _require("synthesize")
    from edgekd.workflows import synthesize as synthesizing

    options = synthesizing.SynthesisOptions(
        teacher=teacher,
        said=_said(local),
        count=count,
        recipe=recipe,
        seed=seed,
        device=device,
        threads=threads,
        out=out or Path(f"{teacher.stem}-images"),
        extend=extend,
        force=force,
        restart=restart,
    )
    found = synthesizing.synthesize(options, _display())
    if as_json:
        _print_record(found, "synthetic-set")


@app.command()
def search(
    teacher: TeacherFile,
    target: TargetName,
    out: Out = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A student to try: ours, timm:NAME, torchvision:NAME, NAME@SIDE. Repeatable (default: some of ours).",
            rich_help_panel=_RUN,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of the whole search (default: 20).", rich_help_panel=_RUN),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Of each run in the last rung, instead.", rich_help_panel=_RUN),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="Images that all candidates share.", rich_help_panel=_RUN)
    ] = 2560,
    images: ImageSet = None,
    budget: budget_commands.BudgetFile = None,
    limit: budget_commands.Limits = None,
    allow_estimates: budget_commands.AllowEstimates = None,
    bench_device: BenchDevice = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Run on a Ray cluster; `local` starts one here. --out must lie where all machines see it.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    recipe: RecipeName = "pool",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    restart: Restart = False,
    arch: Arch = None,
    input_shape: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    flip: Flip = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """The best student that a budget allows."""
    local = dict(locals())
    _require("search")
    from edgekd import pipeline
    from edgekd.gate.gates import parse_allowed_metrics
    from edgekd.search import ray_backend as clusters
    from edgekd.search import search as searching
    from edgekd.search.summary import front_text
    from edgekd.workflows import gate as budgeting
    from edgekd.workflows.run_setup import DistilOptions

    if minutes is not None and steps is not None:
        raise UsageError("give either --minutes or --steps, not both.")
    if minutes is None and steps is None:
        minutes = 20.0
    folder = out or Path(f"{teacher.stem}-search")
    options = searching.SearchOptions(
        distil=DistilOptions(
            teacher=teacher,
            said=_said(local),
            student="auto",
            recipe=recipe,
            budget=None,
            seed=seed,
            device=device,
            threads=threads,
            out=folder,
            force=force,
            restart=restart,
            command=(),
            images=images,
        ),
        target=pipeline.target_named(target),
        budget=budgeting.read_budget(file=budget, limits=tuple(limit or ()), target=target),
        names=tuple(candidate or ()),
        minutes=minutes,
        steps=steps,
        count=count,
        device=_board(bench_device),
        allowed=parse_allowed_metrics(allow_estimates or []),
    )
    if ray is None:
        found = searching.search(options, _display())
    else:
        with clusters.Ray(ray, threads=threads or 1) as cluster:
            found = searching.search(dataclasses.replace(options, pool=cluster), _display())
    if as_json:
        _print_record(found, searching.SCHEMA)
    else:
        print(
            f"{front_text(found.front, found.runs, found.candidates, found.chosen)}\n\n{found.reason}"
        )
    searching.require_agreement(found, folder)


@app.command()
def condense(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Labelled images: a folder of folders by class, .npz or idx."
        ),
    ],
    per_class: Annotated[
        int, typer.Option(min=1, help="Images of each class: 1, 10, 50.", rich_help_panel=_RUN)
    ],
    method: Annotated[
        str,
        typer.Option(
            help="dm, dsa, herding or random.", autocompletion=usage.methods, rich_help_panel=_RUN
        ),
    ] = "dm",
    steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of learning (default: 1000 dm, 100 dsa, 200 herding).",
            rich_help_panel=_RUN,
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="CxHxW",
            help="What the images are (default: as the first).",
            rich_help_panel=_RUN,
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Whether a mirrored image keeps its class (default: yes for colour).",
            rich_help_panel=_RUN,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse files that cannot be read.", rich_help_panel=_RUN),
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write.", rich_help_panel=_OUTPUT)
    ] = Path("condensed.npz"),
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Labelled images to a few a class, for runs elsewhere."""
    _require("condense")
    from edgekd.workflows import condense as condensing

    options = condensing.CondenseOptions(
        data=data,
        per_class=per_class,
        method=method,
        input=_shape(input_shape),
        steps=steps,
        seed=seed,
        flip=flip,
        device=device,
        threads=threads,
        strict=strict,
        out=out,
        force=force,
    )
    found = condensing.condense(options, _display())
    if as_json:
        _print_record(found, condensing.SCHEMA)
    else:
        print(condensing.format_condensed_set(found))


@app.command()
def export(
    target: TargetName,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[STUDENT]", help="What `distill` wrote, or a bundle with images."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="TEACHER",
            help="Export this teacher itself instead of a student; needs --images.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="SET",
            help="Calibrate INT8 on a set of `synthesize` instead of the student's own images.",
        ),
    ] = None,
    arch: Arch = None,
    input_shape: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    embed: Embed = None,
    keep_fp16: KeepFp16 = 0.0,
    keep_by: KeepBy = "macs",
    tune: Tune = 0,
    dynamic_batch: Annotated[
        bool,
        typer.Option(
            "--dynamic-batch", help="Leave the batch open instead of 1.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    engine: Annotated[
        bool,
        typer.Option(
            "--engine", help="Build TensorRT engines too, on this machine.", rich_help_panel=_ENGINE
        ),
    ] = False,
    dla: Annotated[
        int | None,
        typer.Option(
            metavar="CORE", help="Build for this DLA core, in FP16.", rich_help_panel=_ENGINE
        ),
    ] = None,
    workspace_mb: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="MIB",
            help="What the builder may take; a sixteenth of the memory without it.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start from this cache instead of that of the last build.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Student folder, or a teacher, to ONNX for a target: FP32, FP16 where types are in the graph, INT8."""
    local = dict(locals())
    _require("export")
    from edgekd import pipeline
    from edgekd.workflows import build_engines as building
    from edgekd.workflows import export as exporting
    from edgekd.workflows import export_options

    chosen = pipeline.target_named(target)
    if not engine and any(each is not None for each in (dla, workspace_mb, timing_cache)):
        raise UsageError(
            "--dla, --workspace-mb and --timing-cache are about engines: add --engine."
        )
    options = export_options.parse_export_options(
        embed or [], keep=keep_fp16, keep_by=keep_by, tune=tune
    )
    options = dataclasses.replace(options, dynamic_batch=dynamic_batch)
    if engine:
        built = building.engine_options(
            chosen, dla=dla, workspace_mb=workspace_mb, timing_cache=timing_cache
        )
        options = dataclasses.replace(options, engine=built)
    common: dict[str, Any] = {
        "target": chosen,
        "force": force,
        "display": _display(),
        "images": images,
        "options": options,
    }
    if teacher is not None and source is None:
        folder = out or pipeline.default_out(teacher, chosen)
        found = exporting.export_teacher(teacher, _said(local), out=folder, **common)
    elif source is not None and teacher is None:
        _refuse_of_teacher(local)
        folder = out or Path(f"{source.resolve().name}-{chosen.board.name}")
        found = exporting.export(source, out=folder, **common)
    else:
        raise UsageError(
            "name what to export: a student folder, or --teacher TEACHER, and not both."
        )
    if as_json:
        _print_record(found, "models")


def _refuse_of_teacher(local: dict[str, Any]) -> None:
    """Options that describe a teacher, where there is none: a student's record says all of it."""
    names = ("arch", "input_shape", "mean", "std", "classes", "weights", "trust_pickle")
    given = [name for name in names if local[name]]
    if given:
        option = given[0].removesuffix("_shape").replace("_", "-")
        raise UsageError(f"--{option} describes a teacher: it goes with --teacher TEACHER.")


@app.command("export check")
def export_check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Any ONNX file.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="Exit with 8 where this one does not take it.",
            autocompletion=usage.targets,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """For which TensorRT an ONNX file is legal, and why not."""
    from edgekd import pipeline
    from edgekd.workflows import check_model as judging

    chosen = None if target is None else pipeline.target_named(target)
    found = judging.check_model(model, target=chosen)
    if as_json:
        _print_record(found, judging.SCHEMA)
    else:
        print(judging.format_graph_check(found))
    judging.require_compatible(found)


Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="ssh://USER@HOST[:PORT]",
        help="A board, or its name in the fleet file; several at once.",
        rich_help_panel=_WHERE,
    ),
]
Fleet = Annotated[
    Path | None,
    typer.Option(help="TOML with boards by name (docs/remote.md).", rich_help_panel=_WHERE),
]
SshConfig = Annotated[
    Path | None,
    typer.Option(help="For OpenSSH, instead of the user's.", rich_help_panel=_WHERE),
]


DevicePython = Annotated[
    str | None,
    typer.Option(
        metavar="PROGRAM",
        help="The board's Python that has the runtime (default: python3).",
        rich_help_panel=_WHERE,
    ),
]


@app.command()
def bench(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...", help="ONNX files, engines, bundles; several take turns."
        ),
    ],
    device: Devices = None,
    fleet: Fleet = None,
    ssh_config: SshConfig = None,
    device_python: DevicePython = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="The board that the models are for; figures of another are marked.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(help="auto, onnxruntime, tensorrt, trtexec.", rich_help_panel=_WHERE),
    ] = "auto",
    engine_precision: Annotated[
        str,
        typer.Option(
            help="fp16 or fp32: of an engine of a file in FP32, where TensorRT chooses types.",
            rich_help_panel=_WHERE,
        ),
    ] = "fp16",
    allow_emulated: Annotated[
        bool,
        typer.Option(
            "--allow-emulated",
            help="Take times and bytes of an emulated processor.",
            rich_help_panel=_WHERE,
        ),
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, max=100, help="For each model.", rich_help_panel=_HOW)
    ] = 3,
    seconds: Annotated[
        float, typer.Option(min=0, max=3600, help="Of timed calls a process.", rich_help_panel=_HOW)
    ] = 2.0,
    max_runs: Annotated[
        int,
        typer.Option(min=1, max=1_000_000, help="Of timed calls a process.", rich_help_panel=_HOW),
    ] = 2000,
    warmup_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            help="At least; until the times are steady, for ten times as long at most.",
            rich_help_panel=_HOW,
        ),
    ] = 0.5,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=10_000,
            help="Also time calls that are due so often.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, rich_help_panel=_HOW)] = 1,
    batch: Annotated[
        int,
        typer.Option(min=1, max=65536, help="Where a model leaves it open.", rich_help_panel=_HOW),
    ] = 1,
    inputs: Annotated[
        Path | None,
        typer.Option(help=".npy or .npz (default: random values).", rich_help_panel=_HOW),
    ] = None,
    energy_seconds: Annotated[
        float,
        typer.Option(min=0, max=3600, help="Of a window of calls.", rich_help_panel=_HOW),
    ] = 2.0,
    energy_windows: Annotated[int, typer.Option(min=1, max=100, rich_help_panel=_HOW)] = 3,
    energy_idle_seconds: Annotated[
        float,
        typer.Option(
            min=0, max=3600, help="Idle, before the windows and after.", rich_help_panel=_HOW
        ),
    ] = 2.0,
    energy_sensor: Annotated[
        str,
        typer.Option(
            help="auto, INA3221, NVML, RAPL, PMIC, tegrastats, INA226; none: for an external meter.",
            rich_help_panel=_HOW,
        ),
    ] = "auto",
    note: Annotated[
        str | None,
        typer.Option(help="Of the surroundings, for the record.", rich_help_panel=_HOW),
    ] = None,
    offline_kit: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Measure nothing: write a folder to carry to a board.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the measurements as JSON.", rich_help_panel=_OUTPUT),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a table.", rich_help_panel=_OUTPUT)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with charts.", rich_help_panel=_OUTPUT)
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Latency, memory and energy, here or on boards over ssh."""
    from edgekd import pipeline
    from edgekd.bench.transport import fleet as fleets
    from edgekd.workflows import benchmark as benching
    from edgekd.workflows import benchmark_output as bench_output

    config = benching.config_of(
        runtime=runtime,
        engine_precision=engine_precision,
        allow_emulated=allow_emulated,
        processes=processes,
        seconds=seconds,
        max_runs=max_runs,
        warmup_min_s=warmup_seconds,
        warmup_max_s=max(1.0, 10 * warmup_seconds),
        fps=fps,
        threads=threads,
        batch=batch,
        inputs=inputs,
        energy_window_s=energy_seconds,
        energy_windows=energy_windows,
        energy_idle_s=energy_idle_seconds,
        energy_sensor=energy_sensor,
        note=note,
    )
    chosen = None if target is None else pipeline.target_named(target)
    if offline_kit is not None:
        given: dict[str, object] = {
            "--device": device,
            "--fleet": fleet,
            "--ssh-config": ssh_config,
            "--device-python": device_python,
            "--out": out,
            "--csv": csv,
            "--html": html,
            "--json": as_json or None,
        }
        _refuse_with("--offline-kit", given)
        benching.write_offline_kit(models, offline_kit, config=config, target=chosen, force=force)
        print(f"Carry {offline_kit} to the board and run there: sh run.sh")
        print(f"Then here: edgekd bench import {offline_kit}/result.json")
        return
    boards = fleets.devices(device or [], fleet, ssh_config=ssh_config, python=device_python)
    bench_output.check_outputs(out, csv, html, force=force)
    found = benching.bench(models, display=_display(), config=config, target=chosen, devices=boards)
    _print_measured(found, out=out, table=csv, page=html, as_json=as_json)


def _refuse_with(option: str, others: dict[str, object]) -> None:
    """Raise where options were given that mean nothing beside another one."""
    for name, value in others.items():
        if value is not None:
            raise UsageError(f"{name} means nothing with {option}, which measures nothing.")


def _print_measured(
    found: Any,  # noqa: ANN401
    *,
    out: Path | None,
    table: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    from edgekd.workflows import benchmark_output as bench_output

    bench_output.write_outputs(found, out=out, table=table, page=page)
    if as_json:
        _print_record(found, bench_output.SCHEMA)
    else:
        print(bench_output.format_measured(found))
    bench_output.require_measured(found)


@app.command("bench import")
def bench_import(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="What the kit wrote.")],
    kit: Annotated[Path | None, typer.Option(help="Its folder (default: the result's).")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the measurements as JSON.", rich_help_panel=_OUTPUT),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Take in what an offline kit measured on its board."""
    from edgekd.workflows import benchmark as benching
    from edgekd.workflows import benchmark_output as bench_output

    bench_output.check_outputs(out, force=force)
    found = benching.take_in(result, kit or result.parent)
    _print_measured(found, out=out, table=None, page=None, as_json=as_json)


@app.command("bench meter")
def bench_meter(
    result: Annotated[
        Path,
        typer.Argument(metavar="RESULT", help="JSON of `edgekd bench --energy-sensor none --out`."),
    ],
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="CSV that the meter's logger wrote meanwhile.")
    ],
    scope: Annotated[
        str,
        typer.Option(
            help='What flows through the meter: "5 V input, display included".',
            rich_help_panel=_METER,
        ),
    ],
    name: Annotated[
        str, typer.Option(help="Of the meter.", rich_help_panel=_METER)
    ] = "external meter",
    offset_watts: Annotated[
        float | None,
        typer.Option(
            min=0, help="How far off zero it may be, by its datasheet.", rich_help_panel=_METER
        ),
    ] = None,
    gain: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="How far off its scale may be (0.001: 0.1 %); of each independent factor.",
            rich_help_panel=_METER,
        ),
    ] = None,
    step_watts: Annotated[
        float, typer.Option(min=0, help="Of its converter.", rich_help_panel=_METER)
    ] = 0.0,
    subject: Annotated[
        str | None, typer.Option(help="The model, where several were measured.")
    ] = None,
    time_column: Annotated[str | None, typer.Option(rich_help_panel=_COLUMNS)] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="s, ms, us, ns.", rich_help_panel=_COLUMNS)
    ] = None,
    power_column: Annotated[str | None, typer.Option(rich_help_panel=_COLUMNS)] = None,
    power_unit: Annotated[
        str | None, typer.Option(help="W, mW, uW.", rich_help_panel=_COLUMNS)
    ] = None,
    current_column: Annotated[str | None, typer.Option(rich_help_panel=_COLUMNS)] = None,
    current_unit: Annotated[
        str | None, typer.Option(help="A, mA, uA.", rich_help_panel=_COLUMNS)
    ] = None,
    voltage_column: Annotated[str | None, typer.Option(rich_help_panel=_COLUMNS)] = None,
    voltage_unit: Annotated[
        str | None, typer.Option(help="V, mV, uV.", rich_help_panel=_COLUMNS)
    ] = None,
    supply_volts: Annotated[
        float | None,
        typer.Option(min=0, help="Where no voltage was logged.", rich_help_panel=_COLUMNS),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the measurements as JSON.", rich_help_panel=_OUTPUT),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with charts.", rich_help_panel=_OUTPUT)
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Energy of a run from the log of an external meter; the clocks are aligned by the run itself."""
    from edgekd.bench.analysis.external_meter import LogColumns
    from edgekd.workflows import benchmark_output as bench_output
    from edgekd.workflows import import_meter_log as metering

    bench_output.check_outputs(out, html, force=force)
    meter = metering.meter_of(
        name=name,
        scope=scope,
        offset_watts=offset_watts,
        gains=tuple(gain or ()),
        step_watts=step_watts,
    )
    columns = LogColumns(
        time=time_column,
        time_unit=time_unit,
        power=power_column,
        power_unit=power_unit,
        current=current_column,
        current_unit=current_unit,
        voltage=voltage_column,
        voltage_unit=voltage_unit,
        volts=supply_volts,
    )
    found, placed = metering.attach_meter_energy(
        bench_output.read_measured(result),
        log,
        meter=meter,
        bound=offset_watts is not None and bool(gain),
        columns=columns,
        subject=subject,
    )
    sys.stderr.write(f"bench    {metering.format_alignment(placed)}\n")
    _print_measured(found, out=out, table=None, page=html, as_json=as_json)


@app.command("bench compare")
def bench_compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="JSON of `edgekd bench --out`.")],
    new: Annotated[
        Path | None,
        typer.Argument(metavar="[NEW]", help="Another; without it, the models of OLD by pairs."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ratios with intervals, and a verdict only where the interval allows one."""
    from edgekd.bench.analysis import compare as comparing
    from edgekd.workflows import benchmark_output as bench_output

    found = bench_output.compare_files(old, new)
    if as_json:
        _print_record(found, "comparisons")
        return
    print("\n\n".join(comparing.format_comparison(each) for each in found.comparisons))


@app.command("bench estimate")
def bench_estimate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="The board, which is not here.")
    ] = "jetson",
    precision: Annotated[str, typer.Option(help="fp16, fp32 or int8: of the engine.")] = "fp16",
    as_json: Json = False,
) -> None:
    """Latency on a board that is not here, from published measurements; marked as an estimate."""
    from edgekd import pipeline
    from edgekd.workflows import estimate_latency as estimating

    found = estimating.estimate(
        model, target=pipeline.target_named(target), precision=estimating.precision_named(precision)
    )
    if as_json:
        _print_record(found, "model-estimate")
        return
    print(estimating.format_estimate(found), end="")


@app.command("bench probe")
def bench_probe(
    device: Devices = None,
    fleet: Fleet = None,
    ssh_config: SshConfig = None,
    device_python: DevicePython = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="A board that it may be.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What a machine is and has: board, software, runtimes, power sensors."""
    from edgekd import pipeline
    from edgekd.bench.transport import fleet as fleets
    from edgekd.workflows import benchmark as benching
    from edgekd.workflows import benchmark_output as bench_output

    chosen = None if target is None else pipeline.target_named(target)
    boards = fleets.devices(device or [], fleet, ssh_config=ssh_config, python=device_python)
    found = benching.probes(boards, target=chosen)
    if as_json:
        _print_record(found, "probes")
        return
    print("\n\n".join(bench_output.probe_text(each) for each in found.probes))


@app.command("bench clean")
def bench_clean(
    device: Devices = None,
    fleet: Fleet = None,
    ssh_config: SshConfig = None,
    device_python: DevicePython = None,
) -> None:
    """Remove all that edgekd keeps on boards: agents, models, engines."""
    from edgekd.bench.transport import fleet as fleets
    from edgekd.workflows import benchmark as benching

    boards = fleets.devices(device or [], fleet, ssh_config=ssh_config, python=device_python)
    if not boards:
        raise UsageError("Which board? Give --device ssh://user@host, or --fleet FILE.")
    for board in boards:
        benching.clean(board)
        print(f"{board.name}: nothing of edgekd is left")


@app.command("eval")
def evaluate(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Teacher files, student folders, bundles, ONNX."),
    ],
    evaluation: Annotated[
        Path, typer.Option("--eval", help="Labelled images: .npz, idx or folder.")
    ],
    arch: Arch = None,
    input_shape: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Accuracy, agreement and calibration of models on labelled images."""
    local = dict(locals())
    from edgekd.workflows import evaluate as comparing

    found = comparing.compare(models, evaluation, _said(local))
    if as_json:
        _print_record(found, "comparison")
    else:
        print(comparing.format_comparison(found))


@teacher_app.command("describe")
def teacher_describe(
    teacher: TeacherFile,
    arch: Arch = None,
    input_shape: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    write: Annotated[
        bool,
        typer.Option(
            "--write/--no-write",
            help="Write it to a .toml beside the file.",
            rich_help_panel=_OUTPUT,
        ),
    ] = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """What a file holds and what is missing; nothing of it is run."""
    local = dict(locals())
    from edgekd.workflows import describe_teacher as describing

    found, known = describing.describe_teacher(teacher, _said(local))
    if as_json:
        _print_record(found, "teacher-description")
    else:
        print(describing.format_description(found))
    if write:
        sys.stderr.write(f"{describing.write_toml(known, found, force=force)}\n")


@teacher_app.command("check")
def teacher_check(
    teacher: TeacherFile,
    evaluation: Annotated[
        Path, typer.Option("--eval", help="Labelled images: .npz, idx or folder.")
    ],
    arch: Arch = None,
    input_shape: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Whether preprocessing and class order are right, on labelled images."""
    local = dict(locals())
    from edgekd.workflows import check_teacher as checking

    found = checking.check_teacher(teacher, evaluation, _said(local))
    if as_json:
        _print_record(found, "teacher-check")
    else:
        print(checking.format_teacher_check(found))
    checking.require_right(found)


@targets_app.command("list")
def targets_list(as_json: Json = False) -> None:
    """Boards, their default software, and aliases."""
    from edgekd.targets import catalogue

    boards = catalogue.boards()
    if as_json:
        _print_json(
            [
                {"name": board.name, "title": board.title, "software": sorted(board.software)}
                for board in boards
            ]
        )
        return
    for board in boards:
        others = ", ".join(name for name in board.software if name != board.default_software)
        print(
            f"{board.name:22} {board.title:36} {board.default_software}{f' (or {others})' if others else ''}"
        )
    for alias, name in catalogue.aliases().items():
        print(f"{alias:22} is {name}")


@targets_app.command("show")
def targets_show(
    name: Annotated[
        str,
        typer.Argument(help="BOARD, BOARD@SOFTWARE or a board file.", autocompletion=usage.targets),
    ],
    as_json: Json = False,
) -> None:
    """What edgekd knows of a board, and where it is from."""
    from edgekd.targets import catalogue

    target = catalogue.load_target(name)
    if as_json:
        _print_record(target, "target")
        return
    print(f"{target.id}: {target.board.title}")
    for key, fact in target.board.facts.items():
        value = (
            ", ".join(str(item) for item in fact.value)
            if isinstance(fact.value, tuple)
            else fact.value
        )
        print(f"  {key:28} {value!s:20} {fact.source}")
    software = target.software
    print(f"software {software.name} ({software.source})")
    for key in (
        "jetpack",
        "l4t",
        "tensorrt",
        "cuda",
        "python",
        "runtime",
        "opset",
        "exporter",
        "typing",
        "int8",
    ):
        value = getattr(software, key)
        if value is not None:
            print(f"  {key:28} {value}")
    for note in target.board.notes:
        print(f"  note: {note}")


@recipes_app.command("list")
def recipes_list(as_json: Json = False) -> None:
    """One line a recipe."""
    _require("recipes")
    from edgekd.workflows import show_recipes as cookery

    if as_json:
        _print_json(cookery.list_recipes())
        return
    print(cookery.format_recipe_table())


@recipes_app.command("show")
def recipes_show(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", autocompletion=usage.book, help="Its name.")
    ],
    faithful: Annotated[bool, typer.Option("--faithful", help="In the paper's settings.")] = False,
    as_json: Json = False,
) -> None:
    """What a recipe is after, how sure that is, and its settings."""
    _require("recipes")
    from edgekd.workflows import show_recipes as cookery

    found = cookery.show_recipe(name, faithful=faithful)
    if as_json:
        _print_record(found, "recipe")
        return
    print(cookery.format_recipe(found))


@app.command()
def doctor(as_json: Json = False) -> None:
    """What can run on this machine, what cannot, and what to install."""
    from edgekd.doctor import collect as examination
    from edgekd.doctor.report import diagnosis

    sys.stderr.write("doctor   asks the libraries, in processes of their own: some seconds\n")
    found = examination.examine()
    if as_json:
        _print_record(found, "doctor")
    else:
        print(diagnosis(found))
    if not found.works:
        broken = [state.command for state in found.commands if not state.works]
        raise MissingToolError(
            f"these commands cannot run here: {', '.join(broken)}. What to install is said above."
        )


def _version(asked: bool) -> None:
    if asked:
        print(f"edgekd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compress an image classifier for an edge board, without its training data."""
    command = context.invoked_subcommand
    if command not in _IN_SEVERAL and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"`edgekd {command}` runs in one process: start it without torchrun. Several can share "
            f"{' and '.join(f'`{name}`' for name in _IN_SEVERAL)}."
        )


usage.add_examples(app)


# --- printing and leaving ---------------------------------------------------------------------------


def _print_record(value: object, schema: str) -> None:
    from edgekd.records import to_json

    sys.stdout.write(to_json(value, schema=schema))


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=1))


def main() -> None:
    """Run the command line and exit with a documented code (docs/exit-codes.md)."""
    # Before torch comes: where other work has a core, threads of OpenMP that wait by spinning slow
    # each other five to tenfold (docs/log.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(lambda: app(standalone_mode=False, prog_name="edgekd")))


def run(command: Callable[[], object]) -> int:
    """The exit code of a command; its failure is explained on stderr."""
    try:
        returned = command()
        sys.stdout.flush()
    except EdgekdError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("edgekd: interrupted.\n")
        return InterruptedRunError.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough (`edgekd targets list | head -1`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if (error.name or "edgekd").partition(".")[0] == "edgekd":
            return _fault(error)
        sys.stderr.write(
            f"edgekd: {error.name} is not installed. See what to install with: edgekd doctor\n"
        )
        return MissingToolError.exit_code
    except Exception as error:  # the last line of defence: whatever it is, it gets a log and a code
        # What the command-line library raises for bad options knows how to print itself.
        if hasattr(error, "exit_code") and hasattr(error, "show"):
            error.show()
            return int(error.exit_code)
        return _fault(error)
    return returned if isinstance(returned, int) else 0


def _complain(error: EdgekdError) -> None:
    """Say what went wrong. Of several processes one is enough for what all of them meet."""
    rank = _rank()
    local = os.environ.get("LOCAL_RANK", "0")
    everywhere = isinstance(error, (InterruptedRunError, CollapseError))
    on_machine = isinstance(error, UsageError) and local != "0"
    if rank == 0:
        sys.stderr.write(f"edgekd: {error}\n")
    elif not everywhere and not on_machine:
        sys.stderr.write(f"edgekd (rank {rank}): {error}\n")


def _fault(error: Exception) -> int:
    handle, name = tempfile.mkstemp(prefix="edgekd-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(f"edgekd {__version__}, Python {sys.version}\n{' '.join(sys.argv)}\n\n")
        traceback.print_exception(error, file=stream)
    sys.stderr.write(
        f"edgekd: {type(error).__name__}: {error}\n"
        f"This is a fault of edgekd or of a library. The traceback is in {name}; please report it.\n"
    )
    return 1
