"""Write the reference of the Python API into its page: `python -m edgekd.cli.generate.api docs/api.md`.

What stands between the markers is made from signatures and docstrings, the rest of the page is written by hand:

    <!-- reference of the API -->
    <!-- end of reference -->
"""

import ast
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import edgekd
from edgekd.api.homes import HOMES

_BLOCK: Final = re.compile(
    r"(<!-- reference of the API -->\n).*?(<!-- end of reference -->)", re.DOTALL
)
_SECTIONS: Final = ("Args", "Attributes", "Returns", "Raises")


@dataclasses.dataclass(frozen=True)
class Docstring:
    """A docstring in the style of Google, taken apart."""

    # Summary and description
    text: str
    # Or attributes
    args: dict[str, str]
    returns: str
    raises: dict[str, str]


def read_docstring(found: object) -> Docstring:
    """The docstring of a function or class."""
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in inspect.cleandoc(getattr(found, "__doc__", None) or "").splitlines():
        if line.rstrip(":") in _SECTIONS and line.endswith(":"):
            current = line.rstrip(":")
            sections[current] = []
        else:
            sections[current].append(line)
    return Docstring(
        text="\n".join(sections[""]).strip(),
        args=_entries(sections.get("Args", sections.get("Attributes", []))),
        returns=" ".join(line.strip() for line in sections.get("Returns", [])).strip(),
        raises=_entries(sections.get("Raises", [])),
    )


def _entries(lines: list[str]) -> dict[str, str]:
    """`name: text` of each entry; what is indented further goes on with it."""
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        start = re.match(r"    (\w+): (.*)", line)
        if start is not None:
            name = start[1]
            found[name] = start[2]
        elif line.strip():
            found[name] += f" {line.strip()}"
    return found


def functions() -> list[str]:
    """Names of the public functions."""
    return [name for name in edgekd.__all__ if name[0].islower() and name != "errors"]


def classes() -> list[str]:
    """Names of the public records: what is passed in, and what comes out."""
    return [name for name in edgekd.__all__ if name[0].isupper()]


def home_of(name: str) -> ModuleType:
    """The module that defines a public name."""
    return importlib.import_module(HOMES[name])


def definition(name: str) -> object:
    """What a public name stands for; of a package with a function's name the function."""
    found: object = getattr(home_of(name), name)
    return found


def update_page(text: str) -> str:
    """The page with the reference as it is now."""
    reference = "\n".join([*_function_lines(), *_class_lines()])
    return _BLOCK.sub(lambda match: f"{match[1]}\n{reference}\n{match[2]}", text)


def _function_lines() -> Iterator[str]:
    yield from ("## Functions", "")
    for name in functions():
        docstring = read_docstring(definition(name))
        yield from (f"### edgekd.{name}", "", "```python", *_signature(name), "```", "")
        yield from (docstring.text, "")
        if docstring.args:
            yield from (f"- `{arg}`: {text}" for arg, text in docstring.args.items())
            yield ""
        yield from (f"**Returns** {docstring.returns}", "")
        if docstring.raises:
            yield from ("**Raises**", "")
            yield from (f"- `{error}`: {text}" for error, text in docstring.raises.items())
            yield ""


def _signature(name: str) -> Iterator[str]:
    """The function's head as it is written, a parameter a line."""
    node = _node(name)
    assert isinstance(node, ast.FunctionDef)
    yield f"edgekd.{name}("
    positional = node.args.args
    for each in positional:
        yield f"    {each.arg}: {_annotation(each.annotation)},"
    if node.args.kwonlyargs:
        yield "    *,"
    for each, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        value = "" if default is None else f" = {ast.unparse(default)}"
        yield f"    {each.arg}: {_annotation(each.annotation)}{value},"
    yield f") -> {_annotation(node.returns)}"


def _class_lines() -> Iterator[str]:
    yield from ("## Records", "", "All are frozen dataclasses with keyword-only fields.", "")
    for name in classes():
        found = definition(name)
        assert isinstance(found, type)
        docstring = read_docstring(found)
        yield from (f"### edgekd.{name}", "", docstring.text, "")
        node = _node(name)
        assert isinstance(node, ast.ClassDef)
        yield from ("| field | type | default |" + (" meaning |" if docstring.args else ""),)
        yield "| --- | --- | --- |" + (" --- |" if docstring.args else "")
        defaults = _defaults(found)
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                cells = [
                    f"`{field.target.id}`",
                    f"`{_annotation(field.annotation)}`".replace("|", "\\|"),
                    f"`{shown}`" if (shown := defaults[field.target.id]) else "",
                    *([docstring.args.get(field.target.id, "")] if docstring.args else []),
                ]
                yield f"| {' | '.join(cells)} |"
        yield ""


def _defaults(found: type) -> dict[str, str]:
    """The default of each field as code; nothing where it is required."""
    shown = {}
    for field in dataclasses.fields(found):
        if field.default is not dataclasses.MISSING:
            shown[field.name] = repr(field.default) if _is_plain(field.default) else "..."
        elif field.default_factory is not dataclasses.MISSING:
            made = getattr(field.default_factory, "__name__", "...")
            shown[field.name] = f"{made}()"
        else:
            shown[field.name] = ""
    return shown


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float, tuple, type(None)))


def _annotation(node: ast.expr | None) -> str:
    """A type as it reads: without quotes, and without the limits of a validated field."""
    if node is None:
        return ""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp):
        return f"{_annotation(node.left)} | {_annotation(node.right)}"
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated":
        assert isinstance(node.slice, ast.Tuple)
        return _annotation(node.slice.elts[0])
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if ast.unparse(node.value) == "Literal":
            return ast.unparse(node)
        return f"{ast.unparse(node.value)}[{', '.join(_annotation(part) for part in parts)}]"
    return ast.unparse(node)


def _node(name: str) -> ast.stmt:
    """The definition of a public name in the source of its module."""
    found = definition(name)
    # A record may be handed on by a package
    module = inspect.getmodule(found) or home_of(name)
    tree = ast.parse(inspect.getsource(module))
    return next(
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name
    )


def main() -> None:
    """Bring the page up to date."""
    path = Path(sys.argv[1])
    path.write_text(update_page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
