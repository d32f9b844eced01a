"""Texts for people from the templates: everything is escaped, and a name that is missing is an error."""

import re
from typing import Any, Final

# What Markdown takes for more than itself inside a line. Values stand outside of code spans, where it is not escaped.
_MARKS: Final = re.compile(r"([\\`*_\[\]<>|&#~]|:(?=//))")


def render(template: str, **values: Any) -> str:  # noqa: ANN401
    """A template of `edgekd/templates` with its values: HTML, or Markdown where its name ends so."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    markdown = template.endswith(".md")
    environment = Environment(
        loader=PackageLoader("edgekd"),
        # Markdown is escaped by `finalize`: what HTML needs would be read as it stands.
        autoescape=not markdown,
        finalize=_markdown if markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=markdown,
    )
    return environment.get_template(template).render(**values)


def _markdown(value: Any) -> str:  # noqa: ANN401
    return _MARKS.sub(r"\\\1", " ".join(str(value).split()))
