"""Defaults: each is stated once, in `edgekd.options`, and found wherever it is read."""

import ast
import math
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from edgekd import options
from edgekd.cli.framework.option_groups import RunGroup
from edgekd.cli.framework.options import record_of
from edgekd.errors import UsageError
from tests.edgekd.conftest import REPOSITORY

# The module with another default, in the place of the real one.
SCRIPT = """
import os, sys, types
os.environ |= {{"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}}
source = open({path!r}).read()
assert source.count({old!r}) == 1
module = types.ModuleType("edgekd.options")
sys.modules["edgekd.options"] = module
exec(compile(source.replace({old!r}, {new!r}), "options.py", "exec"), vars(module))
"""


def run_changed(old, new, code, *arguments):
    head = SCRIPT.format(path=str(REPOSITORY / "edgekd" / "options.py"), old=old, new=new)
    found = subprocess.run(
        [sys.executable, "-c", head + code, *arguments], capture_output=True, text=True, check=True
    )
    return " ".join(found.stdout.replace("│", " ").split())


@pytest.mark.parametrize(
    ("old", "new", "command", "shown"),
    [
        (
            "DISTILL_MINUTES: Final = 15.0",
            "DISTILL_MINUTES: Final = 17.0",
            "distill",
            "default: 17,",
        ),
        ("SEARCH_MINUTES: Final = 20.0", "SEARCH_MINUTES: Final = 21.0", "search", "default: 21,"),
        ('"dm": 1000', '"dm": 1001', "condense", "default: 1001 dm,"),
        ("min_agreement: float = 0.90", "min_agreement: float = 0.77", "compress", "default: 0.77"),
        ("count: int = 2560", "count: int = 2561", "search", "default: 2561"),
        ("processes: int = 3", "processes: int = 4", "bench", "default: 4"),
        ('target: str = "jetson"', 'target: str = "x86"', "bench estimate", "default: x86"),
        ('method: str = "dm"', 'method: str = "dsa"', "condense", "default: dsa"),
        ("seed: int = 0", "seed: int = 5", "synthesize", "default: 5"),
    ],
)
def test_a_default_that_changes_is_shown_by_the_help(old, new, command, shown):
    code = (
        "from edgekd.cli.app import app\n"
        "app([*sys.argv[1:], '--help'], prog_name='edgekd', standalone_mode=False)"
    )
    out = run_changed(old, new, code, *command.split())
    assert shown in out
    assert shown not in run_changed("SEARCH_SUFFIX", "SEARCH_SUFFIX", code, *command.split())


@pytest.mark.parametrize(
    ("old", "new", "expression", "value"),
    [
        (
            "DISTILL_MINUTES: Final = 15.0", "DISTILL_MINUTES: Final = 17.0",
            "from edgekd.distill.recipes.schedule import run_budget; print(run_budget(None, None).minutes)", "17.0",
        ),
        (
            "processes: int = 3", "processes: int = 4",
            "from edgekd.bench.config import BenchConfig; print(BenchConfig().processes)", "4",
        ),
        (
            "energy_windows: int = 3", "energy_windows: int = 9",
            "from edgekd.bench.runner import DEFAULT; print(DEFAULT.energy_windows)", "9",
        ),
    ],
)  # fmt: skip
def test_a_default_that_changes_is_that_of_the_library(old, new, expression, value):
    assert run_changed(old, new, expression) == value


def test_the_measurement_as_configured_by_default_is_that_of_the_options():
    from edgekd.bench.config import BenchConfig
    from edgekd.workflows.measure.benchmark import bench_config

    assert bench_config(options.BenchOptions()) == BenchConfig()


def defaults_of(tree):
    """Of parameters and of fields: each default that a module states, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            given = [*node.args.defaults, *(each for each in node.args.kw_defaults if each)]
            yield from given
        elif isinstance(node, ast.ClassDef):
            yield from (
                each.value for each in node.body if isinstance(each, ast.AnnAssign) and each.value
            )


def test_the_command_line_states_no_default_of_its_own():
    for path in (REPOSITORY / "edgekd" / "cli").glob("*.py"):
        for found in defaults_of(ast.parse(path.read_text())):
            if isinstance(found, ast.Constant) and not isinstance(found.value, bool | None):
                # What `add_examples` is called with on its way down is no option.
                assert (path.name, found.value) == ("completion.py", ""), ast.unparse(found)


# --- documents ------------------------------------------------------------------------------------

MINUTES = options.DISTILL_MINUTES
AGREEMENT = options.BundleOptions.min_agreement
# Prose that repeats a default, and what it has to say.
PROSE = {
    "distillation.md": [
        (r"`--minutes M` \(default ([\d.]+)\)", MINUTES),
        (r"`--min-agreement` \(default ([\d.]+)\)", AGREEMENT),
    ],
    "choosing.md": [(r"`--min-agreement` \(([\d.]+)\)", AGREEMENT)],
    "commands/compress.md": [(r"Without a budget the run takes ([\d.]+) minutes", MINUTES)],
}
# How prose states a default: a number after the word, or in brackets after an option.
STATED = re.compile(
    r"\(default:? [\d.]+|`--[a-z-]+(?: [A-Z]+)?` \([\d.]+\)|[Ww]ithout a budget .* \d+"
)


@pytest.mark.parametrize("page", PROSE)
def test_a_default_in_prose_is_that_of_the_options(page):
    text = (REPOSITORY / "docs" / page).read_text()
    for pattern, value in PROSE[page]:
        assert [float(found) for found in re.findall(pattern, text)] == [value], pattern


def test_no_other_page_repeats_a_default():
    for path in [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]:
        page = path.relative_to(REPOSITORY / "docs").as_posix() if "docs" in path.parts else ""
        if page in {"log.md", "api.md"}:
            continue  # a history, and generated
        written = re.sub(
            r"<!-- options of .*?<!-- end of options -->", "", path.read_text(), flags=re.DOTALL
        )
        known = sum(len(re.findall(pattern, written)) for pattern, _ in PROSE.get(page, ()))
        stated = STATED.findall(written)
        assert len(stated) == known, f"{path.name}: {stated}. Add it to PROSE"


RECORDS: list[Any] = [value for value in vars(options).values() if is_dataclass(value)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda value: value.__name__)
def test_a_path_may_be_text_and_another_type_is_refused_where_it_is_given(record):
    hints = get_type_hints(record)
    for each in fields(record):
        if "Path" in str(hints[each.name]):
            assert getattr(record(**{each.name: "a/b"}), each.name) == Path("a/b")
        with pytest.raises(UsageError, match=rf"{record.__name__}\.{each.name}: .*is not of type"):
            record(**{each.name: object()})


@pytest.mark.parametrize(
    ("record", "name", "value", "words"),
    [
        (options.TrainingOptions, "batch", 1, "at least 4"),
        (options.TrainingOptions, "steps", "10", "is not of type int"),
        (options.TrainingOptions, "steps", True, "is not of type int"),
        (options.SearchOptions, "count", 0, "at least 1"),
        (options.CondenseOptions, "input", (28, 28), "is not of type"),
        (options.BundleOptions, "min_agreement", 1.5, "at most 1"),
        (options.BenchOptions, "seconds", math.nan, "at least 0"),
    ],
)
def test_values_out_of_range_are_refused_as_the_command_line_does(record, name, value, words):
    with pytest.raises(UsageError, match=words):
        record(**{name: value})


def test_lists_are_taken_for_tuples():
    given: dict[str, Any] = {"embed": ["softmax"]}
    assert options.ExportOptions(**given).embed == ("softmax",)


def test_every_range_is_of_a_field_that_there_is():
    known = {f"{record.__name__}.{each.name}" for record in RECORDS for each in fields(record)}
    assert set(options.RANGES) <= known


def test_a_group_of_options_that_lacks_one_of_its_record_is_a_fault():
    with pytest.raises(TypeError, match="RunOptions: no option for force"):
        record_of(options.RunOptions, RunGroup())
