import json
import re

import pytest

from edgekd import errors
from edgekd.cli.app import run
from tests.edgekd.conftest import REPOSITORY


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ],
)
def test_every_error_exits_with_its_code_and_its_message(kind, capsys):
    def command():
        raise kind("what happened and what to do")

    assert run(command) == kind.exit_code
    assert "what happened and what to do" in capsys.readouterr().err


def test_a_fault_of_ours_is_logged_and_its_file_said(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def command():
        raise ZeroDivisionError("deep inside")

    assert run(command) == 1
    (log,) = tmp_path.iterdir()
    assert str(log) in capsys.readouterr().err
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(("name", "code"), [("torch.nn", 3), ("edgekd.nothing", 1), (None, 1)])
def test_a_library_that_is_not_there_is_3_and_a_module_of_ours_a_fault(
    name, code, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def command():
        raise ModuleNotFoundError("no module", name=name)

    assert run(command) == code
    assert ("edgekd doctor" in capsys.readouterr().err) == (code == 3)


def test_an_interrupt_outside_a_run_is_130():
    def command():
        raise KeyboardInterrupt

    assert run(command) == 130


def test_targets_are_listed_and_shown(edgekd):
    code, out, _ = edgekd("targets", "list")
    assert code == 0
    assert "jetson-orin-nano-8gb" in out
    code, out, _ = edgekd("targets", "show", "jetson", "--json")
    assert json.loads(out)["software"]["tensorrt"].startswith("10.3")
    code, out, _ = edgekd("targets", "show", "jetson-thor-t5000")
    assert "unverified" in out
    code, out, _ = edgekd("targets", "show", "jetsn")
    assert (code, out) == (2, "")


def test_the_version_is_printed(edgekd):
    from edgekd import __version__

    assert edgekd("--version") == (0, f"edgekd {__version__}\n", "")


def test_commands_and_options_in_the_readme_exist(edgekd):
    text = (REPOSITORY / "README.md").read_text()
    # As it is typed: at the start of a line or of a code span, or with its folder. Prose may say what "edgekd asks".
    typed = r"(?:^ *|`|bin/)edgekd ((?:bundle |targets |teacher |recipes )?[a-z]+)"
    named = set(re.findall(typed, text, re.MULTILINE)) - {"bundle", "recipes", "targets", "teacher"}
    assert {"compress", "bench"} <= named
    options = set(re.findall(r"--[a-z][a-z-]+", text))
    known: set[str] = set()
    for command in ["", *sorted(named)]:
        code, out, err = edgekd(*command.split(), "--help")
        assert code == 0, err
        known |= set(re.findall(r"--[a-z][a-z-]+", out))
    agent, torchrun = {"--bundle", "--state"}, {"--nproc-per-node"}
    assert {option for option in options if option not in known} <= agent | torchrun
