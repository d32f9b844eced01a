"""A signal is no answer of a library."""

import os
import signal
from typing import Any

import pytest

from edgekd.cli.app import run
from edgekd.errors import InterruptedRunError, TerminatedRunError
from edgekd.files import new_folder
from edgekd.interrupts import caught


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, InterruptedRunError), (signal.SIGTERM, TerminatedRunError)],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_inside_of_a_library_is_not_taken_for_its_failure(number, kind):
    def export():
        try:
            os.kill(os.getpid(), number)
        except Exception as error:
            raise ValueError("the exporter cannot write this network") from error

    with pytest.raises(kind, match="the same command continues") as found, caught():
        export()
    assert type(found.value) is kind


@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (signal.SIGINT, InterruptedRunError, "Ctrl-C again stops now"),
        (signal.SIGTERM, TerminatedRunError, "another SIGTERM stops now"),
    ],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_that_has_to_wait_is_answered_at_once(capfd, number, kind, word):
    heard: list[Any] = []

    def work():
        with caught() as interrupts, interrupts.defer():
            os.kill(os.getpid(), number)
            heard.append((capfd.readouterr().err, interrupts.pending))
            os.kill(os.getpid(), number)
            heard.append("after the second")

    with pytest.raises(kind):
        work()
    ((said, pending),) = heard
    assert type(pending) is kind
    assert said.startswith("edgekd: stopping after this round")
    assert word in said
    assert "made again" in said


def test_of_several_processes_one_answers(capfd, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with caught() as interrupts, interrupts.defer():
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_an_answer_that_nobody_can_hear_is_no_failure():
    kept = os.dup(2)
    try:
        with caught() as interrupts, interrupts.defer():
            os.close(2)
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.pending is not None
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_sigterm_leaves_no_temporary_folder(tmp_path):
    """A command that has no handling of its own."""

    def command():
        with new_folder(tmp_path / "out", force=False) as folder:
            (folder / "file").write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(command) == 143
    assert list(tmp_path.iterdir()) == []
