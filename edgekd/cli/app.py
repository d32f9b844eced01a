"""The command line: the commands, and how the process ends.

A command parses, calls one function, and prints. stdout carries results, stderr progress. Nothing heavy is imported until a
command needs it.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Annotated, Final

import typer

from edgekd import __version__
from edgekd.cli import bench as bench_commands
from edgekd.cli import bundle as bundle_commands
from edgekd.cli import export as export_commands
from edgekd.cli import recipes, targets, teacher
from edgekd.cli.compress import compress
from edgekd.cli.condense import condense
from edgekd.cli.distill import distill
from edgekd.cli.doctor import doctor
from edgekd.cli.evaluate import evaluate
from edgekd.cli.framework.completion import add_examples
from edgekd.cli.gate import config_app, gate
from edgekd.cli.search import search
from edgekd.cli.synthesize import synthesize
from edgekd.errors import (
    CollapseError,
    EdgekdError,
    InterruptedRunError,
    MissingToolError,
    UsageError,
)
from edgekd.interrupts import caught
from edgekd.sole_writer import until_the_end

# Commands that the processes of `torchrun` can share; each would run by itself in every one of them.
_IN_SEVERAL: Final = ("distill", "compress")

app = typer.Typer(
    help="Compress an image classifier for an edge board, without its training data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(compress)
app.command()(distill)
app.command()(synthesize)
app.command()(search)
app.command()(condense)
app.command("eval")(evaluate)
app.command()(gate)
app.command()(doctor)
app.add_typer(export_commands.app, name="export")
app.add_typer(bench_commands.app, name="bench")
app.add_typer(teacher.app, name="teacher")
app.add_typer(recipes.app, name="recipes")
app.add_typer(targets.app, name="targets")
app.add_typer(bundle_commands.app, name="bundle")
app.add_typer(config_app, name="config")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"edgekd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Compress an image classifier for an edge board, without its training data."""
    command = context.invoked_subcommand
    if command not in _IN_SEVERAL and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"`edgekd {command}` runs in one process: start it without torchrun. Several can share "
            f"{' and '.join(f'`{name}`' for name in _IN_SEVERAL)}."
        )


add_examples(app)


# --- leaving ----------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line and exit with a documented code (docs/exit-codes.md)."""
    # Before torch comes: where other work has a core, threads of OpenMP that wait by spinning slow
    # each other five to tenfold (docs/log.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(lambda: app(standalone_mode=False, prog_name="edgekd")))


def run(command: Callable[[], object]) -> int:
    """The exit code of a command; its failure is explained on stderr."""
    try:
        # SIGTERM would end it where it is, with temporary folders left behind
        with caught("Nothing is half written."), until_the_end():
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
    rank = int(os.environ.get("RANK", "0"))
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
