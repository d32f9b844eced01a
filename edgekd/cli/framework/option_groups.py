"""Groups of options that commands share; each becomes a record for the API. Defaults come from `edgekd.options`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd import options as defaults
from edgekd.cli.framework import completion
from edgekd.cli.framework.options import (
    BUDGET,
    DATA,
    OUTPUT,
    RUN,
    TEACHER,
    BudgetFile,
    ComputeDevice,
    Flip,
    Force,
    ImageSet,
    Json,
    Limits,
    Out,
    RecipeName,
    Seed,
    Strict,
    Threads,
    parse_numbers,
    parse_shape,
    record_of,
)
from edgekd.options import DISTILL_MINUTES

if TYPE_CHECKING:
    from edgekd.api.teachers import TeacherFile
    from edgekd.distill.teachers.metadata import TeacherOptions


@dataclass(frozen=True, kw_only=True)
class OutputGroup:
    """Where the result goes."""

    out: Out = None
    force: Force = False
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """How and where a run computes, and whether it continues."""

    seed: Seed = defaults.RunOptions.seed
    device: ComputeDevice = defaults.RunOptions.device
    threads: Threads = defaults.RunOptions.threads
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Discard an unfinished run instead of continuing it.",
            rich_help_panel=RUN,
        ),
    ] = defaults.RunOptions.restart

    def options(self, *, force: bool) -> defaults.RunOptions:
        """The record for the API."""
        return record_of(defaults.RunOptions, self, force=force)


@dataclass(frozen=True, kw_only=True)
class TeacherGroup:
    """What a teacher's file does not state of it."""

    arch: Annotated[
        str | None,
        typer.Option(
            help="Architecture: a built-in name, timm:NAME, torchvision:NAME or FILE.py:FACTORY (runs your code).",
            rich_help_panel=TEACHER,
        ),
    ] = None
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="CxHxW",
            help="Input shape: channels x height x width, for example 3x32x32.",
            rich_help_panel=TEACHER,
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M,...",
            help="Mean per channel that the teacher's input is normalised with, of 0..1 pixels.",
            rich_help_panel=TEACHER,
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            metavar="S,...",
            help="Standard deviation per channel that the input is normalised with, of 0..1 pixels.",
            rich_help_panel=TEACHER,
        ),
    ] = None
    classes: Annotated[
        int | None, typer.Option(help="Number of classes.", rich_help_panel=TEACHER)
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            help="Set of weights to take where the file holds several, for example ema.",
            rich_help_panel=TEACHER,
        ),
    ] = None
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle",
            help="Run code from the file, as pickled modules and TorchScript need.",
            rich_help_panel=TEACHER,
        ),
    ] = False

    def options(self, *, flip: bool | None = None) -> "TeacherOptions":
        """The record for the API.

        Raises:
            UsageError: a shape or a list of numbers is not one.
        """
        from edgekd.distill.teachers.metadata import TeacherOptions

        return TeacherOptions(
            arch=self.arch,
            input=parse_shape(self.input_shape),
            mean=parse_numbers("--mean", self.mean),
            std=parse_numbers("--std", self.std),
            classes=self.classes,
            flip=flip,
            weights=self.weights,
            trust_pickle=self.trust_pickle or None,
        )

    def teacher_file(self, path: Path, *, flip: bool | None = None) -> "TeacherFile":
        """A teacher for the API."""
        from edgekd.api.teachers import TeacherFile

        return TeacherFile(path=path, options=self.options(flip=flip))

    def first_given(self) -> str | None:
        """The first option that was given, as it is typed; None where none was."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name):
                return f"--{field.name.removesuffix('_shape').replace('_', '-')}"
        return None


@dataclass(frozen=True, kw_only=True)
class TrainingGroup:
    """Which student is trained, how, and for how long."""

    student: Annotated[
        str,
        typer.Option(
            help="Student architecture, cut:SHARE, cut:macs=SHARE, cut:params=SHARE or cut:latency=2ms for a part of the teacher, or auto "
            "to choose one.",
            autocompletion=completion.students,
            rich_help_panel=RUN,
        ),
    ] = defaults.TrainingOptions.student
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            help="Take no weight from the teacher, for example where its licence forbids it.",
            rich_help_panel=RUN,
        ),
    ] = defaults.TrainingOptions.from_scratch
    recipe: RecipeName = defaults.TrainingOptions.recipe
    minutes: Annotated[
        float | None,
        typer.Option(
            help=f"Time budget in minutes (default: {DISTILL_MINUTES:g}, unless --steps is given).",
            rich_help_panel=RUN,
        ),
    ] = defaults.TrainingOptions.minutes
    steps: Annotated[
        int | None,
        typer.Option(
            help="Budget in training steps of the student; makes runs reproducible.",
            rich_help_panel=RUN,
        ),
    ] = defaults.TrainingOptions.steps
    faithful: Annotated[
        bool,
        typer.Option(
            "--faithful",
            help="Use the paper's own sizes and training length; takes days on a CPU.",
            rich_help_panel=RUN,
        ),
    ] = defaults.TrainingOptions.faithful
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            min=defaults.RANGES["TrainingOptions.batch"][0],
            help="Images per batch (default: the recipe's).",
            rich_help_panel=RUN,
        ),
    ] = defaults.TrainingOptions.batch
    compiles: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the student's training step; pays off after a minute or two.",
            rich_help_panel=RUN,
        ),
    ] = defaults.TrainingOptions.compile

    def options(self) -> defaults.TrainingOptions:
        """The record for the API."""
        return record_of(defaults.TrainingOptions, self, compile=self.compiles)


@dataclass(frozen=True, kw_only=True)
class DataGroup:
    """Images that a run is given."""

    flip: Flip = None
    images: ImageSet = defaults.DataOptions.images
    condensed: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Condensed set to expand: a file of `condense`, or a .pt of DC, DSA, DM or MTT.",
            rich_help_panel=DATA,
        ),
    ] = defaults.DataOptions.condensed
    condensed_number: Annotated[
        int,
        typer.Option(
            min=defaults.RANGES["DataOptions.condensed_number"][0],
            help="Index of the set to take where the --condensed file holds several.",
            rich_help_panel=DATA,
        ),
    ] = defaults.DataOptions.condensed_number
    condensed_mean: Annotated[
        str | None,
        typer.Option(
            metavar="M,...",
            help="Mean the condensed images were normalised with.",
            rich_help_panel=DATA,
        ),
    ] = None
    condensed_std: Annotated[
        str | None,
        typer.Option(
            metavar="S,...",
            help="Standard deviation the condensed images were normalised with.",
            rich_help_panel=DATA,
        ),
    ] = None
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A few real images: a folder, with or without a folder per class, .npz or idx.",
            rich_help_panel=DATA,
        ),
    ] = defaults.DataOptions.samples
    strict: Strict = defaults.DataOptions.strict
    embeddings: Annotated[
        Path | None,
        typer.Option(
            "--embeddings",
            metavar="FILE",
            help="One vector per class (.npy), for recipe nayer.",
            rich_help_panel=DATA,
        ),
    ] = defaults.DataOptions.embeddings
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            help="Labelled images to report accuracy on (.npz, idx or folder); they never influence the run.",
            rich_help_panel=DATA,
        ),
    ] = defaults.DataOptions.evaluation

    def options(self) -> defaults.DataOptions:
        """The record for the API.

        Raises:
            UsageError: a list of numbers is not one.
        """
        return record_of(
            defaults.DataOptions,
            self,
            condensed_mean=parse_numbers("--condensed-mean", self.condensed_mean),
            condensed_std=parse_numbers("--condensed-std", self.condensed_std),
        )


@dataclass(frozen=True, kw_only=True)
class BudgetGroup:
    """What a model may cost."""

    budget: BudgetFile = defaults.BudgetOptions.file
    limit: Limits = None
    allow_estimates: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-estimates",
            metavar="KEYS",
            help="Limits that may pass on an estimate, for example latency-p50-ms,energy-mj.",
            rich_help_panel=BUDGET,
        ),
    ] = None

    def options(self) -> defaults.BudgetOptions:
        """The record for the API."""
        return defaults.BudgetOptions(
            file=self.budget,
            limits=tuple(self.limit or ()),
            allow_estimates=tuple(self.allow_estimates or ()),
        )


@dataclass(frozen=True, kw_only=True)
class ExportGroup:
    """What is asked of model files."""

    embed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Part to put into the graph: preprocessing (uint8 NHWC input), bgr, softmax or top1; repeatable.",
            autocompletion=completion.embeddable,
            rich_help_panel=OUTPUT,
        ),
    ] = None
    keep_fp16: Annotated[
        float | None,
        typer.Option(
            metavar="FRACTION",
            help="Fraction (0..1) of the INT8 model that may stay in floating point (default: layers that lose much and "
            "cost little, up to 0.05).",
            rich_help_panel=OUTPUT,
        ),
    ] = defaults.ExportOptions.keep_fp16
    keep_by: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="What --keep-fp16 is a fraction of: macs or size.",
            autocompletion=completion.complete_keep_by,
            rich_help_panel=OUTPUT,
        ),
    ] = defaults.ExportOptions.keep_by
    tune: Annotated[
        int,
        typer.Option(
            min=defaults.RANGES["ExportOptions.tune"][0],
            metavar="STEPS",
            help="Steps of fine-tuning the INT8 model on the synthetic images; 0 only calibrates it.",
            rich_help_panel=OUTPUT,
        ),
    ] = defaults.ExportOptions.tune

    def options(
        self,
        *,
        dynamic_batch: bool = defaults.ExportOptions.dynamic_batch,
        int8: bool = defaults.ExportOptions.int8,
    ) -> defaults.ExportOptions:
        """The record for the API."""
        return record_of(
            defaults.ExportOptions,
            self,
            embed=tuple(self.embed or ()),
            dynamic_batch=dynamic_batch,
            int8=int8,
        )
