"""TOML of five kinds of files, with what no such file holds: an error of ours each time."""

import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.bench.transport import fleet
from edgekd.distill.recipes.recipe_file import read_recipe
from edgekd.distill.teachers.metadata import TeacherOptions, merge_metadata
from edgekd.errors import InputFileError
from edgekd.gate.budget_file import read_project
from edgekd.targets.board_schema import read_board, read_software
from edgekd.toml_text import MOST_PARTS, parse_toml

READERS = {
    "a budget": read_project,
    "a recipe": read_recipe,
    "a teacher": lambda path: merge_metadata(path.with_suffix(".pt"), {}, TeacherOptions()),
    "a fleet": lambda path: fleet.devices((), fleet=path, ssh_config=None, python=None),
    "a board": read_board,
    "software": read_software,
}
HOSTILE = {
    "lists": "a = " + "[" * 10_000,
    "tables": "a = " + "{a = " * 5_000,
    "a long key": ".".join(["a"] * 50_000) + " = 1",
    "a long table": "[" + " . ".join(['"a"'] * 50_000) + "]",
    "a long key within": "a = {" + ".".join(["a"] * 50_000) + " = 1}",
    "digits": "mean = [" + "9" * 10_000 + "]",
    "no float": "mean = [" + "9" * 4_000 + "]",
    "hexadecimal digits": "mean = [0x" + "f" * 10_000 + "]\nschema_version = 0x" + "f" * 10_000,
    "binary digits": "schema_version = 0b" + "1" * 20_000,
    "beyond 64 bits": "schema_version = 9223372036854775808",
    "no TOML": "mean = [",
    "a date": "mean = [2026-11-30]",
    "infinite": "mean = [inf]\nstd = [nan]\nbudget = inf",
    "of another type": "schema_version = {a = 1}\nboards = 3\nbudget = [1]",
}


# Means that are not finite are refused where they are used
CASES = [(r, t) for r in READERS for t in HOSTILE if (r, t) != ("a teacher", "infinite")]


@pytest.mark.parametrize(("reader", "text"), CASES)
def test_it_is_an_input_error(tmp_path, reader, text):
    path = tmp_path / "file.toml"
    path.write_text(HOSTILE[text])
    with pytest.raises(InputFileError, match=r"file\.toml"):
        READERS[reader](path)


def test_what_files_hold_is_read():
    for text in (
        "class_names = [" + ", ".join(f'"n{number}.a b"' for number in range(10_000)) + "]",
        "mean = [" + ", ".join(["0.1"] * 5_000) + "]",
        "note = '''" + "No. Yes. Why. Because it is so. " * 50 + "'''",
        ".".join(["a"] * (MOST_PARTS // 2)) + " = 1",
        "a" * (1 << 20) + " = 1",
    ):
        assert parse_toml(text) == tomllib.loads(text)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="a.='\" \t\n[]{}1_-#", max_size=300))
def test_it_is_as_tomllib_reads_it_or_a_value_error(text):
    try:
        expected = tomllib.loads(text)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            parse_toml(text)
    else:
        assert parse_toml(text) == expected
