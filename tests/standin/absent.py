"""Modules that a Python does not have, though the one that runs the tests may."""

from pathlib import Path


def hide(folder: Path, *names: str) -> str:
    """A folder for PYTHONPATH in which modules of these names cannot be imported."""
    for name in names:
        said = f"No module named {name!r}"
        text = f"raise ModuleNotFoundError({said!r}, name={name!r})\n"
        (folder / f"{name}.py").write_text(text)
    return str(folder)
