"""Write the options of every command into its page: `python -m edgekd.cli.generate.commands docs/commands`.

What stands between a pair of markers is replaced, the rest of a page is written by hand:

    <!-- options of compress -->
    <!-- end of options -->
"""

import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import typer

from edgekd.cli.app import app
from edgekd.cli.framework import completion

_BLOCK: Final = re.compile(
    r"(<!-- options of (?P<name>[a-z ]+) -->\n).*?(<!-- end of options -->)", re.DOTALL
)
_PLAIN: Final = "Options"


def commands() -> dict[str, Any]:
    """Every command that can be typed, by its words: "compress", "bundle verify"."""
    return dict(_leaves(typer.main.get_command(app), ""))


def _leaves(command: Any, words: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    inner: Mapping[str, Any] = getattr(command, "commands", {})
    if not inner:
        yield words, command
    for name, below in inner.items():
        verb = "" if name == completion.DEFAULT_VERB else name
        yield from _leaves(below, f"{words} {verb}".strip())


def update_page(text: str) -> str:
    """A page with the options of its commands as they are now; unknown commands are left alone."""
    known = commands()

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in known:
            return match[0]
        return f"{match[1]}\n{reference(name, known[name])}\n{match[3]}"

    return _BLOCK.sub(block, text)


def reference(name: str, command: Any) -> str:  # noqa: ANN401
    """How a command is called, its options in tables, and its examples."""
    kinds = _kinds(command)
    arguments = [part for part in command.params if part.param_type_name == "argument"]
    options = [part for part in command.params if part.param_type_name == "option"]
    call = " ".join([f"edgekd {name}", *map(_format_argument, arguments), "[OPTIONS]"])
    lines = ["```text", call, "```", ""]
    for argument in arguments:
        lines += [f"- `{_format_argument(argument)}`: {_text(argument)}"]
    if arguments:
        lines.append("")
    panels: dict[str, list[Any]] = {}
    for option in options:
        if not option.hidden and option.name != "help":
            panels.setdefault(option.rich_help_panel or _PLAIN, []).append(option)
    for panel, members in panels.items():
        lines += [
            f"**{panel}**",
            "",
            "| option | value | default | meaning |",
            "| --- | --- | --- | --- |",
        ]
        lines += [_row(member, kinds.get(member.name, "")) for member in members]
        lines.append("")
    if name in completion.EXAMPLES:
        lines += ["```sh", *completion.EXAMPLES[name], "```", ""]
    return "\n".join(lines)


def _format_argument(argument: Any) -> str:  # noqa: ANN401
    name = (argument.metavar or argument.name).strip("[]").upper().removesuffix("...")
    return f"{name}..." if argument.nargs == -1 else name


def _row(option: Any, kind: str) -> str:  # noqa: ANN401
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else option.metavar or kind
    limits = [
        f"{word} {limit:g}"
        for word, limit in (
            ("from", getattr(option, "min", None)),
            ("to", getattr(option, "max", None)),
        )
        if limit is not None
    ]
    value = " ".join([f"`{value}`" if value else "", *limits]).strip()
    return f"| {names} | {value} | {_default(option)} | {_text(option)} |"


def _default(option: Any) -> str:  # noqa: ANN401
    if option.required:
        return "required"
    if option.is_flag and option.secondary_opts and option.default is not None:
        return f"`{(option.opts if option.default else option.secondary_opts)[0]}`"
    if option.is_flag or option.default is None:
        return ""
    return f"`{option.default}`"


def _text(part: Any) -> str:  # noqa: ANN401
    return (part.help or "").replace("|", "\\|")


def _kinds(command: Any) -> dict[str, str]:  # noqa: ANN401
    """What each parameter takes, from the annotations of the function."""
    function = inspect.unwrap(command.callback)
    found = {}
    for name, annotation in inspect.get_annotations(function).items():
        kind = typing.get_args(annotation)[0] if typing.get_args(annotation) else annotation
        inner = [part for part in typing.get_args(kind) if part is not type(None)] or [kind]
        found[name] = {Path: "PATH", str: "TEXT", int: "NUMBER", float: "NUMBER"}.get(inner[0], "")
    return found


def main() -> None:
    """Bring every page of the folder up to date."""
    for path in sorted(Path(sys.argv[1]).glob("*.md")):
        path.write_text(update_page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
