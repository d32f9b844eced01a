"""Pages for people from the templates: everything is escaped, and a name that is missing is an error."""

from typing import Any


def rendered(template: str, **values: Any) -> str:  # noqa: ANN401
    """A template of `edgekd/templates` with its values."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("edgekd"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
