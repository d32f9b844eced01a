import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd
from edgekd.bench import agent
from edgekd.bench.agent import commands
from edgekd.bench.protocol import responses

FOLDER = Path(agent.__file__).parent
SOURCES = sorted(FOLDER.glob("*.py"))
# What the agent measures, imported inside functions.
RUNTIMES = {"onnxruntime", "numpy", "tensorrt"}
# The standard library of Python 3.6 and of today.
STANDARD = sys.stdlib_module_names
# Modules that trimmed images of Python lack; only to be imported where their absence is handled.
OPTIONAL = {"resource"}
# Newer than Python 3.6.
NEWER_MODULES = {"dataclasses", "contextvars", "zoneinfo", "tomllib", "graphlib"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_is_python_3_6(source):
    tree = ast.parse(source.read_text(), feature_version=(3, 6))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.NamedExpr)
        if isinstance(node, ast.ImportFrom):
            assert node.module != "__future__"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_imports_the_standard_library_itself_and_a_runtime_inside_functions(source):
    tree = ast.parse(source.read_text())
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            root = name.split(".")[0]
            assert root not in NEWER_MODULES
            if root == "edgekd":
                assert name.startswith("edgekd.bench.agent")
            elif root in RUNTIMES | OPTIONAL:
                assert node not in top
            else:
                assert root in STANDARD


def test_it_runs_from_a_copy_of_its_folder_alone(tmp_path):
    for source in SOURCES:
        (tmp_path / source.name).write_text(source.read_text())
    command = [sys.executable, "-S", str(tmp_path / "__main__.py"), "memory", "--model", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 3
    assert '"missing-runtime"' in done.stdout


def test_it_says_the_version_and_the_protocol_of_its_host():
    assert edgekd.__version__ == commands.VERSION
    assert responses.PROTOCOL == commands.PROTOCOL
