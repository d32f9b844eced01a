"""How Sphinx builds these pages: `make docs`. Nothing is fetched; a warning is an error."""

import re
from pathlib import Path

_PACKAGE = Path(__file__).parents[1] / "edgekd" / "__init__.py"
_FOUND = re.search(r'__version__ = "([^"]+)"', _PACKAGE.read_text(encoding="utf-8"))

project = "edgekd"
release = _FOUND[1] if _FOUND else ""
html_title = f"edgekd {release}"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
# Links such as exit-codes.md#exit-codes, as GitHub makes them.
myst_heading_anchors = 3
html_theme = "furo"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
nitpicky = True
