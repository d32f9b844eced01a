"""Options that commands share: groups that a decorator spreads into a command, and single ones.

Defaults come from `edgekd.options`. Nothing heavy is imported here: `--help` reads this module.
"""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from edgekd.cli.framework import completion
from edgekd.errors import UsageError
from edgekd.options import RANGES

T = TypeVar("T")

RUN: Final = "Run"
TEACHER: Final = "Teacher (where its file does not state it)"
DATA: Final = "Data"
BUDGET: Final = "Budget"
OUTPUT: Final = "Output"
DEVICE: Final = "Device"


def option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses of options: each field becomes an option of its own."""
    hints = typing.get_type_hints(command, include_extras=True)
    spread: list[inspect.Parameter] = []
    groups: dict[str, Callable[..., object]] = {}
    members: dict[str, tuple[str, ...]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints[name]
        if not dataclasses.is_dataclass(hint):
            spread.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))
            continue
        fields = typing.get_type_hints(hint, include_extras=True)
        groups[name] = typing.cast("Callable[..., object]", hint)
        members[name] = tuple(field.name for field in dataclasses.fields(hint))
        spread += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=fields[field.name],
            )
            for field in dataclasses.fields(hint)
        ]

    @functools.wraps(command)
    def call(**given: object) -> None:
        for name, group in groups.items():
            given[name] = group(**{member: given.pop(member) for member in members[name]})
        command(**given)

    # The library reads these, and would otherwise look through the wrapper at the groups.
    vars(call)["__signature__"] = inspect.Signature(spread)
    call.__annotations__ = {part.name: part.annotation for part in spread}
    vars(call).pop("__wrapped__")
    return call


def record_of(kind: type[T], group: object, **given: object) -> T:
    """A record of the API from the fields of a group that have its names, and from what is given besides.

    Args:
        kind: a record of `edgekd.options`.
        group: the options as they were typed.
        given: fields that the group has in another form, or not at all.

    Raises:
        UsageError: a value is out of range.
    """
    names = {each.name for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    typed = {name: value for name, value in vars(group).items() if name in names}
    missing = names - {*typed, *given}
    if missing:
        # It would keep its default, whatever is typed.
        raise TypeError(f"{kind.__name__}: no option for {', '.join(sorted(missing))}")
    try:
        return kind(**typed | given)
    except UsageError as error:
        # Whoever types an option knows it by that name.
        field = re.compile(rf"^{kind.__name__}\.(\w+)")
        words = field.sub(lambda found: f"--{found[1].replace('_', '-')}", str(error))
        raise UsageError(words) from error


# --- arguments and single options -----------------------------------------------------------------

TeacherPath = Annotated[
    Path,
    typer.Argument(
        metavar="TEACHER",
        help="Teacher file: weights (.pt, .pth, .ckpt, .safetensors …), .pt2, TorchScript or ONNX.",
    ),
]
TargetName = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        help="Target board: BOARD, BOARD@SOFTWARE or a board file (see `edgekd targets list`).",
        autocompletion=completion.targets,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel=OUTPUT),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace existing output.", rich_help_panel=OUTPUT)
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder to write.", rich_help_panel=OUTPUT)
]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help="State whether a mirrored image keeps its class (default: yes for colour images).",
        rich_help_panel=TEACHER,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Fail on unreadable files instead of skipping them.", rich_help_panel=DATA
    ),
]
ImageSet = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="SET",
        help="Image set of `synthesize` to learn from; no further images are synthesized.",
        rich_help_panel=RUN,
    ),
]
EvaluationImages = Annotated[
    Path, typer.Option("--eval", help="Labelled images to evaluate on: .npz, idx or folder.")
]
BenchDevice = Annotated[
    str | None,
    typer.Option(
        metavar="ssh://USER@HOST",
        help="Board to measure on, instead of this machine.",
        rich_help_panel=BUDGET,
    ),
]
JUnit = Annotated[
    Path | None,
    typer.Option(
        "--junit", help="JUnit XML file to write, one test case per gate.", rich_help_panel=OUTPUT
    ),
]
BudgetFile = Annotated[
    Path | None,
    typer.Option(
        "--budget",
        help="Project file whose `budget` table holds the limits (default: edgekd.toml in this folder, if there is one).",
        rich_help_panel=BUDGET,
    ),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="KEY=VALUE",
        help="Limit that overrides the file, for example latency-p50-ms=5; repeatable.",
        rich_help_panel=BUDGET,
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        help="Recipe by which images are synthesized and learned from: a name (see `edgekd recipes list`) or a TOML file (see `edgekd recipes show --toml`).",
        autocompletion=completion.recipes,
        rich_help_panel=RUN,
    ),
]
Seed = Annotated[
    int, typer.Option(min=RANGES["RunOptions.seed"][0], help="Random seed.", rich_help_panel=RUN)
]
ComputeDevice = Annotated[
    str,
    typer.Option(
        help="Device to compute on: auto, cpu or cuda.",
        autocompletion=completion.devices,
        rich_help_panel=RUN,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Number of CPU threads (default: OMP_NUM_THREADS, or all cores).", rich_help_panel=RUN
    ),
]


# --- values that are typed as text ----------------------------------------------------------------


def parse_shape(text: str | None) -> tuple[int, int, int] | None:
    """Channels, height and width from `3x32x32`.

    Raises:
        UsageError: it is not written so.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--input {text}: write channels x height x width, for example 3x32x32.")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers with commas between them.

    Raises:
        UsageError: one is no number.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} {text}: write numbers with commas between them, one per channel."
        ) from error
