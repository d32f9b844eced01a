"""Groups of commands that take a default verb: `edgekd export STUDENT` beside `edgekd export check MODEL`."""

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from edgekd.cli.framework.completion import DEFAULT_VERB
from edgekd.errors import UsageError

# What the library raises for arguments that do not fit, which it does not export by name.
_ParseError: type[Exception] = typer.BadParameter.__bases__[0]


class VerbGroup(TyperGroup):
    """Takes its first word for a verb if it is one, and otherwise runs the command named `DEFAULT_VERB`.

    A word may be both a verb and an existing path. The rest of the line then decides; where it fits both, the user is asked
    to write which of them is meant.
    """

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: Any = None,  # noqa: ANN401  # the library's context, which it does not export
        **extra: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Parse as a group after a verb, and as the default command otherwise."""
        trial = not extra.get("resilient_parsing")
        if self._starts_with_verb(info_name or "", args, parent, trial=trial):
            return super().make_context(info_name, args, parent, **extra)
        return self.commands[DEFAULT_VERB].make_context(info_name, args, parent, **extra)

    def _starts_with_verb(
        self,
        name: str,
        args: list[str],
        parent: Any,  # noqa: ANN401
        *,
        trial: bool,
    ) -> bool:
        word = args[0] if args else DEFAULT_VERB
        if word == DEFAULT_VERB or word not in self.commands:
            return False
        if not trial or "--help" in args or not Path(word).exists():
            return True
        as_path = _fits(self.commands[DEFAULT_VERB], name, args, parent)
        if as_path and _fits(self.commands[word], name, args[1:], parent):
            raise UsageError(
                f"`{word}` is a verb of `edgekd {name}`, and also a path here. For the path, write: edgekd {name} ./{word}. "
                f"For the verb, rename the path, or run `edgekd {name} {word}` in another folder."
            )
        return not as_path


def _fits(
    command: Any,  # noqa: ANN401
    name: str,
    args: list[str],
    parent: Any,  # noqa: ANN401
) -> bool:
    """Whether a command takes these arguments."""
    try:
        command.make_context(name, list(args), parent)
    except _ParseError:
        return False
    return True
