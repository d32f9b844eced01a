"""Keeping a board for one host, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.bench import agent
from edgekd.bench.agent import board_lock

AGENT = Path(agent.__file__).parent / "__main__.py"


class Holder:
    """The agent's `hold`, and a pipe to it."""

    def __init__(self, home, silence_s):
        words = ["hold", "--home", str(home), "--owner", "me", "--silence-s", str(silence_s)]
        self.process = subprocess.Popen(
            [sys.executable, str(AGENT), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def said(self):
        """The next answer."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def held(self):
        """The answer that the board is held; how long it takes is the machine's matter."""
        assert self.said()["event"] == "hello"
        found = self.said()
        assert found["event"] == "held", found
        return found

    def ended(self, seconds=20):
        """Its exit code; what it said goes too."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        code = self.process.wait(seconds)
        self.process.stdout.close()
        self.process.stdin.close()
        return code


@pytest.fixture
def hold(tmp_path):
    holders: list[Holder] = []

    def start(silence_s=30.0):
        holders.append(Holder(tmp_path / "home", silence_s))
        return holders[-1]

    yield start
    for each in holders:
        each.process.kill()
        each.ended()


@pytest.fixture
def sleeper():
    """A process that does nothing, in nobody's way."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def started(number):
    return board_lock._start_time(number)


def left_behind(home, number, start):
    """A contact that was cut, with a process of that number and start time."""
    folder = home / "runs" / f"{number}-cut" / board_lock.PIDS
    folder.mkdir(parents=True)
    (folder / str(number)).write_text(start)
    return folder.parent


def runs(home):
    return sorted(path.name for path in (home / "runs").iterdir())


def test_it_ends_and_cleans_up_when_the_pipe_closes(hold, tmp_path):
    holder = hold()
    folder = Path(holder.held()["folder"])
    assert runs(tmp_path / "home") == [folder.name]
    holder.process.stdin.close()
    assert holder.process.wait(20) == 0
    assert runs(tmp_path / "home") == []


def test_silence_ends_it(hold, tmp_path):
    holder = hold(silence_s=0.5)
    holder.held()
    begin = time.monotonic()
    assert holder.ended() == 0
    assert time.monotonic() - begin > 0.4
    assert runs(tmp_path / "home") == []


def test_who_says_something_now_and_then_keeps_it(hold):
    holder = hold(silence_s=1.5)
    holder.held()
    for _ in range(8):
        holder.process.stdin.write("\n")
        holder.process.stdin.flush()
        time.sleep(0.3)
    assert holder.process.poll() is None  # for longer than the silence


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_clean(hold, tmp_path, number):
    holder = hold()
    holder.held()
    holder.process.send_signal(number)
    assert holder.ended() == 128 + signal.SIGTERM
    assert runs(tmp_path / "home") == []


def test_a_second_host_is_told_who_has_the_board(hold, tmp_path):
    hold().held()
    second = hold()
    second.said()
    refused = second.said()
    assert refused["kind"] == "busy"
    assert "me is measuring on this board" in refused["message"]
    assert second.ended() == 6
    assert len(runs(tmp_path / "home")) == 1


def test_a_holder_that_was_killed_leaves_no_lock_and_the_next_cleans_up(hold, tmp_path):
    first = hold()
    first.held()
    first.process.kill()
    first.ended()
    assert len(runs(tmp_path / "home")) == 1
    second = hold()
    found = second.held()
    assert found["cleaned"] == 1
    assert runs(tmp_path / "home") == [Path(found["folder"]).name]


def test_what_a_cut_contact_left_running_is_ended(hold, tmp_path, sleeper):
    left_behind(tmp_path / "home", sleeper.pid, started(sleeper.pid))
    assert hold().held()["cleaned"] == 1
    assert sleeper.wait(20) == -signal.SIGTERM


def test_a_number_that_is_another_process_by_now_is_left_alone(hold, tmp_path, sleeper):
    stale = left_behind(tmp_path / "home", sleeper.pid, str(int(started(sleeper.pid)) - 1))
    assert hold().held()["cleaned"] == 1
    assert not stale.exists()
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.5)


@pytest.mark.parametrize("text", ["", "what", "-1"])
def test_a_record_that_was_not_written_whole_ends_nobody(hold, tmp_path, sleeper, text):
    left_behind(tmp_path / "home", sleeper.pid, text)
    assert hold().held()["cleaned"] == 1
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.5)


def test_a_number_that_nobody_has_is_cleaned_up(hold, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale = left_behind(tmp_path / "home", gone.pid, "123")
    assert hold().held()["cleaned"] == 1
    assert not stale.exists()


def test_a_process_enrols_under_its_own_start_time(tmp_path):
    (tmp_path / board_lock.PIDS).mkdir()
    board_lock.enrol(str(tmp_path))
    assert (tmp_path / board_lock.PIDS / str(os.getpid())).read_text() == started(os.getpid())
    assert board_lock._processes(str(tmp_path)) == [os.getpid()]


def test_what_is_kept_stays_between_contacts(hold, tmp_path):
    holder = hold()
    holder.held()
    kept = tmp_path / "home" / "store" / ("0" * 64)
    kept.write_text("an agent")
    holder.process.stdin.close()
    holder.process.wait(20)
    hold().held()
    assert kept.read_text() == "an agent"
