"""Thousands of small runs, here and over ssh: nothing that they took is left when they end.

EDGEKD_SOAK_RUNS says how many; `make soak` makes 2,000.
"""

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgekd.bench.config import BenchConfig
from edgekd.bench.protocol import requests
from edgekd.bench.protocol.responses import LatencyResponse
from edgekd.bench.transport import agent_access, agent_process
from edgekd.bench.transport.ssh import SshAccess
from edgekd.bench.transport.ssh_address import read_address
from tests.bench import sshd

RUNS = int(os.environ.get("EDGEKD_SOAK_RUNS", "2000"))
OVER_SSH = max(4, RUNS // 10)
A_CONTACT = 10  # runs
SMALL = BenchConfig(processes=1, seconds=0.0, max_runs=2, warmup_min_s=0.0, warmup_max_s=0.0)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]


def children() -> set[str]:
    """Of this process, but the one that looks."""
    command = ["ps", "--no-headers", "-o", "pid=,args=", "--ppid", str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {line.split()[0] for line in done.stdout.splitlines() if "ps --no-headers" not in line}


def held() -> dict[str, object]:
    """What a process can leave behind."""
    fds = Path("/proc/self/fd")
    return {
        "descriptors": len(list(fds.iterdir())),
        "children": children(),
        "threads": {thread.name for thread in threading.enumerate()},
        "temporary": sshd.listing(Path(tempfile.gettempdir())),
    }


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """A temporary folder of its own, for this process and all that it starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


def run(reached: agent_access.Access, model: str) -> None:
    first = next(
        requests.questions([requests.UploadedModel(model, None, None)], SMALL, "onnxruntime")
    )
    answers = reached.ask(first.arguments, timeout_s=60)
    assert (
        len(agent_process.one(LatencyResponse, answers).values_ns) == 1
    )  # the time is up after the first


@pytest.mark.usefixtures("clean")
def test_runs_here_leave_nothing(model):
    here = agent_access.LocalAccess()
    run(here, str(model))
    before = held()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda _: run(here, str(model)), range(RUNS - OVER_SSH)):
            pass
    assert held() == before


@pytest.mark.usefixtures("clean")
def test_runs_over_ssh_leave_nothing_here_and_what_is_kept_there(model, tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    server = sshd.start(folder)
    try:
        contact(server, model, 1)
        before, there = held(), on_the_board(server)
        for _ in range(-(-OVER_SSH // A_CONTACT)):
            assert contact(server, model, A_CONTACT) == []  # nothing is sent again
        assert held() == before
        assert sshd.settled(lambda: on_the_board(server) == there)
        assert sshd.settled(lambda: server.sessions() == [])
    finally:
        sshd.stop(server)


def contact(server: sshd.Server, model: Path, runs: int) -> list[tuple[str, int]]:
    """Several runs over one connection; what was sent for them."""
    address = read_address(server.url)
    with SshAccess(address, python=sys.executable, options=server.options) as board:
        sockets = Path(board._folder)  # others on this machine have folders of that kind too
        assert sockets.is_dir()
        for _ in range(runs):
            run(board, board.place(model))
        sent = list(board.sent)
    assert not sockets.exists()
    return sent


def on_the_board(server: sshd.Server) -> list[str]:
    """Every file of the agent's folder, and every process of an agent."""
    files = sorted(str(path.relative_to(server.home)) for path in server.home.rglob("*"))
    command = ["pgrep", "-f", str(server.home / "store")]
    running = subprocess.run(command, capture_output=True, text=True, check=False)
    return [*files, *running.stdout.split()]
