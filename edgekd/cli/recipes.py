"""`edgekd recipes ...`."""

from typing import Annotated

import typer

from edgekd.cli.framework import completion
from edgekd.cli.framework.options import Json
from edgekd.errors import UsageError

app = typer.Typer(
    help="List the recipes by which images are synthesized and learned from.",
    no_args_is_help=True,
)


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """List the recipes, one per line."""
    from dataclasses import asdict

    import edgekd
    from edgekd.cli.framework.output import print_json
    from edgekd.workflows import show_recipes

    if as_json:
        print_json([asdict(each) for each in edgekd.list_recipes()])
        return
    print(show_recipes.format_recipe_table())


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", autocompletion=completion.book, help="Name of the recipe."
        ),
    ],
    faithful: Annotated[
        bool, typer.Option("--faithful", help="Show the paper's own settings.")
    ] = False,
    as_json: Json = False,
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print the recipe as a file that --recipe takes.")
    ] = False,
) -> None:
    """Show which paper a recipe follows, how sure that is, and its settings."""
    from edgekd.cli.framework.output import print_record
    from edgekd.distill.recipes.recipe_file import format_toml
    from edgekd.workflows import show_recipes

    if as_json and as_toml:
        raise UsageError("--json and --toml are two forms of the same record: give one of them.")
    found = show_recipes.show_recipe(name, faithful=faithful)
    if as_toml:
        print(format_toml(found.recipe), end="")
        return
    if as_json:
        print_record(found, "recipe")
        return
    print(show_recipes.format_recipe(found))
