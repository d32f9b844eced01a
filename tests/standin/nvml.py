"""Stands in for libnvidia-ml: a shared library that answers as a card, or as a Jetson does."""

import shutil
import subprocess
from pathlib import Path

import pytest


def build_nvml(folder):
    """The folder, to stand in LD_LIBRARY_PATH; NVML_STANDIN says what the library supports."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder.mkdir()
    library = folder / "libnvidia-ml.so.1"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return folder
