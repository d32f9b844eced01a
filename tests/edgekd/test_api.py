"""What `import edgekd` offers: complete, documented, quick, and callable whatever was imported before."""

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import edgekd
from edgekd import errors
from edgekd.api.events import Event, EventDisplay, EventPrinter
from edgekd.api.homes import HOMES
from edgekd.cli.generate import api as api_reference
from edgekd.records import HistoryPoint
from tests.edgekd.conftest import REPOSITORY, TEACHER

PAGE = REPOSITORY / "docs" / "api.md"
HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "pydantic", "typer"}


def run_python(script, cwd=None):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=cwd
    ).stdout.strip()


def imported_for_type_checkers():
    (block,) = [
        node
        for node in ast.parse((REPOSITORY / "edgekd" / "__init__.py").read_text()).body
        if isinstance(node, ast.If)
    ]
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_what_is_exported_is_what_type_checkers_see_and_what_is_found():
    assert imported_for_type_checkers() == HOMES
    assert sorted(edgekd.__all__) == sorted([*HOMES, "errors", "__version__"])
    for name in edgekd.__all__:
        assert getattr(edgekd, name) is not None
    assert set(edgekd.__all__) <= set(dir(edgekd))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        edgekd.nothing  # noqa: B018  # type: ignore[attr-defined]


def test_every_record_of_options_is_exported():
    from edgekd import options

    defined = {name for name, value in vars(options).items() if is_dataclass(value)}
    # Of `bench meter` alone, which is no function of the API.
    assert defined - {"MeterOptions"} == {
        n for n, home in HOMES.items() if home == "edgekd.options"
    }


def test_every_public_function_of_the_api_is_exported():
    for path in (REPOSITORY / "edgekd" / "api").glob("*.py"):
        home = f"edgekd.api.{path.stem}"
        with_sections = {
            node.name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef) and "Returns:" in (ast.get_docstring(node) or "")
        }
        functions = {n for n, where in HOMES.items() if where == home and n[0].islower()}
        assert with_sections == functions, home


def test_importing_brings_no_library():
    found = run_python(
        "import sys, edgekd; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    assert HEAVY.isdisjoint(found.split())


@pytest.mark.parametrize("name", ["distill", "export", "gate", "search"])
def test_a_package_with_a_functions_name_is_called_before_and_after_its_modules_come(name):
    module = {
        "distill": "losses", "export": "qdq", "gate": "gates", "search": "search",
    }[name]  # fmt: skip
    call = f"edgekd.{name}(nonsense=1)"
    script = f"""
import edgekd
def refused():
    try:
        {call}
    except TypeError as error:
        return str(error)
before = refused()
import edgekd.{name}.{module}
assert edgekd.{name}.{module}.__name__ == "edgekd.{name}.{module}"
after = refused()
from edgekd import {name}
assert {name} is edgekd.{name}
print(before == after, before)
"""
    assert run_python(script).startswith(f"True {name}() ")
    first = f"import edgekd.{name}.{module}, edgekd; print(callable(edgekd.{name}))"
    assert run_python(first) == "True"


def test_type_checkers_know_what_the_functions_return(tmp_path):
    (tmp_path / "use.py").write_text(
        "import edgekd\n"
        "import edgekd.distill.losses as losses\n"
        "reveal_type(edgekd.distill('t.pt', steps=1))\n"
        "reveal_type(edgekd.export('s', target='x86'))\n"
        "reveal_type(losses)\n"
        "edgekd.distill('t.pt', stepps=1)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", REPOSITORY / "pyproject.toml",
         "--cache-dir", REPOSITORY / ".mypy_cache", tmp_path / "use.py"],
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    revealed = re.findall(r'Revealed type is "([^"]+)"', ran.stdout)
    assert revealed[0].endswith("Student | None"), ran.stdout
    assert revealed[1].endswith(".Exported")
    assert revealed[2].endswith("ModuleType")
    assert 'Unexpected keyword argument "stepps"' in ran.stdout


def test_the_page_is_up_to_date():
    text = PAGE.read_text()
    assert api_reference.update_page(text) == text, "docs/api.md is out of date: make options"


def test_every_public_name_has_its_place_on_the_page_and_no_other():
    headings = re.findall(r"^### edgekd\.(\w+)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(set(edgekd.__all__) - {"errors", "__version__"})


@pytest.mark.parametrize("name", api_reference.functions())
def test_a_function_takes_ten_arguments_and_documents_each(name):
    function = api_reference.definition(name)
    parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    docstring = api_reference.read_docstring(function)
    assert len(parameters) <= 10
    assert list(docstring.args) == list(parameters)
    assert all(text.endswith(".") for text in docstring.args.values())
    assert docstring.returns
    for error in docstring.raises:
        assert issubclass(getattr(errors, error), errors.EdgekdError)
    subject = [each for each in parameters.values() if each.kind is not each.KEYWORD_ONLY]
    assert 1 <= len(subject) <= 2
    for each in parameters.values():
        assert each.default in {each.empty, None, (), False, "*"}, "defaults stand in the records"


@pytest.mark.parametrize("name", api_reference.classes())
def test_a_record_is_frozen_and_documents_its_fields(name):
    found = api_reference.definition(name)
    assert isinstance(found, type)
    assert is_dataclass(found)
    assert found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    documented = api_reference.read_docstring(found).args
    if HOMES[name].startswith(("edgekd.options", "edgekd.api")):
        assert list(documented) == [field.name for field in fields(found)]


# --- events ---------------------------------------------------------------------------------------


POINT = HistoryPoint(step=3, images=30, elapsed_s=1.0, losses={"kd": 0.5}, agreement=None)


class Shown:
    """A display that remembers."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.lines.append(f"warning: {text}")

    def running(self):
        shown = self

        class Loop:
            def __enter__(self):
                shown.lines.append("begin")
                return lambda point, progress, left: shown.lines.append((point, progress, left))

            def __exit__(self, *_):
                shown.lines.append("end")

        return Loop()


def test_events_are_shown_as_they_were_reported_and_a_loop_ends_also_by_an_error():
    shown, events = Shown(), list[Event]()
    printer = EventPrinter(shown)

    def on_event(event):
        events.append(event)
        printer(event)

    display = EventDisplay(on_event)
    display.say("first")

    def fail_after_one_round():
        with display.running() as show:
            show(POINT, 0.25, 9.0)
            display.warn("inside")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_one_round()
    display.say("last")
    assert shown.lines == ["first", "begin", (POINT, 0.25, 9.0), "warning: inside", "end", "last"]
    assert [each.kind for each in events] == [
        "message", "begin", "progress", "warning", "end", "message",
    ]  # fmt: skip
    assert str(events[2]) == "step 3  images 30  kd 0.5"
    with pytest.raises(FrozenInstanceError):
        events[0].text = "other"  # type: ignore[misc]


# --- calls ----------------------------------------------------------------------------------------


def test_a_loaded_teacher_knows_what_it_was_told(tmp_path):
    copy = tmp_path / "alone.pt"
    copy.write_bytes(TEACHER.read_bytes())
    teacher = edgekd.load_teacher(
        str(copy), arch="resnet14-w12", input=(1, 28, 28), mean=0.1307, std=[0.3081]
    )
    assert (teacher.info.input.mean, teacher.info.input.std) == ((0.1307,), (0.3081,))
    assert teacher.source.path == copy
    assert teacher.module.training is False
    with pytest.raises(FrozenInstanceError):
        teacher.source = None  # type: ignore[misc,assignment]


def test_two_budgets_are_refused_and_one_by_name_replaces_that_of_the_settings(tmp_path):
    with pytest.raises(errors.UsageError, match="--steps and --minutes"):
        edgekd.distill(TEACHER, out=tmp_path / "s", steps=1, minutes=1.0)
    from edgekd.api.training import training_options

    settings = edgekd.TrainingOptions(minutes=5.0, recipe="pool")
    found = training_options(settings, student=None, recipe=None, steps=7, minutes=None)
    assert (found.steps, found.minutes, found.recipe) == (7, None, "pool")


def test_what_there_is_to_choose_from_is_listed_by_pattern():
    assert set(edgekd.list_students("lenet5*")) == {"lenet5", "lenet5-half"}
    assert {each.name for each in edgekd.list_recipes()} >= {"pool", "plain"}
    (board,) = edgekd.list_targets("jetson-orin-nano-8gb")
    assert board.default_software in board.software


def test_the_example_of_the_page_runs(tmp_path):
    (code,) = re.findall(r"```python\n(import edgekd\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    assert f"```python\n{code}```" in (REPOSITORY / "README.md").read_text()
    for written, tiny in (
        ("steps=2600", 'steps=4, training=edgekd.TrainingOptions(recipe="noise", batch=64)'),
        ("edgekd.BenchOptions(processes=3)", "edgekd.BenchOptions(processes=1, max_runs=5)"),
        # A student of four steps would not pass the gates of INT8, which this board does not run.
        ("raspberry-pi-5", "jetson-nano"),
        ("model-int8", "model-fp32"),
        ('"examples/', f'"{REPOSITORY.as_posix()}/examples/'),
    ):
        assert written in code
        code = code.replace(written, tiny)
    script = f"import os; os.environ['OMP_NUM_THREADS'] = '1'\n{code}"
    out = run_python(script, cwd=tmp_path)
    assert "teacher  teacher.pt: resnet14-w12" in out  # on_event=print
    assert "model-fp32.onnx fp32 " in out
    assert "Samples(" in out
    student = Path(tmp_path / "student" / "student.json").read_text()
    assert '"lenet5"' in student


# As a caller without a type checker has it.
UNTYPED: Any = edgekd


@pytest.mark.parametrize(
    "call",
    [
        lambda: UNTYPED.load_teacher(TEACHER, input="1x28x28"),
        lambda: UNTYPED.load_teacher(TEACHER, input=(28, 28)),
        lambda: UNTYPED.load_teacher(TEACHER, mean="0.1"),
        lambda: UNTYPED.load_teacher(None),
        lambda: UNTYPED.distill(7),
        lambda: UNTYPED.distill(TEACHER, steps="10"),
        lambda: UNTYPED.distill(TEACHER, training="x"),
        lambda: UNTYPED.distill(TEACHER, data="x"),
        lambda: UNTYPED.synthesize(TEACHER, count=0),
        lambda: UNTYPED.benchmark([]),
        lambda: UNTYPED.evaluate([], "test.npz"),
        lambda: UNTYPED.evaluate([3], "test.npz"),
    ],
    ids=[str(number) for number in range(12)],
)
def test_wrong_arguments_are_usage_errors(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UsageError):
        call()
    assert list(tmp_path.iterdir()) == []
