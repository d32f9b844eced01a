"""`edgekd targets ...`."""

from typing import Annotated, Final

import typer

from edgekd.cli.framework import completion
from edgekd.cli.framework.options import Json

app = typer.Typer(help="List the boards that edgekd knows.", no_args_is_help=True)

# Of the software, as it is shown.
_SOFTWARE: Final = (
    "jetpack", "l4t", "tensorrt", "cuda", "python", "runtime", "opset", "exporter", "typing", "int8",
)  # fmt: skip


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """List boards, their default software, and aliases."""
    import edgekd
    from edgekd.cli.framework.output import print_json
    from edgekd.targets import catalogue

    boards = edgekd.list_targets()
    if as_json:
        print_json(
            [
                {"name": board.name, "title": board.title, "software": sorted(board.software)}
                for board in boards
            ]
        )
        return
    for board in boards:
        others = ", ".join(name for name in board.software if name != board.default_software)
        more = f" (or {others})" if others else ""
        print(f"{board.name:22} {board.title:36} {board.default_software}{more}")
    for alias, name in catalogue.aliases().items():
        print(f"{alias:22} is {name}")


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="BOARD, BOARD@SOFTWARE or a board file.", autocompletion=completion.targets
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show what edgekd knows of a board, with the source of each fact."""
    from edgekd.cli.framework.output import print_record
    from edgekd.targets import catalogue

    target = catalogue.load_target(name)
    if as_json:
        print_record(target, "target")
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
    for key in _SOFTWARE:
        value = getattr(software, key)
        if value is not None:
            print(f"  {key:28} {value}")
    for note in target.board.notes:
        print(f"  note: {note}")
