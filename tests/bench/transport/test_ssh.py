"""Boards over ssh, with a real OpenSSH server on loopback."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgekd.bench import runner
from edgekd.bench.config import BenchConfig
from edgekd.bench.protocol.responses import LatencyResponse, ProbeResponse
from edgekd.bench.transport.agent_zipapp import agent_archive, agent_digest
from edgekd.bench.transport.ssh import SshAccess
from edgekd.bench.transport.ssh_address import read_address
from edgekd.errors import (
    DeviceError,
    IntegrityError,
    MissingToolError,
    UsageError,
)
from edgekd.records import Samples
from tests.bench import sshd
from tests.bench.agent.test_engine_build import old_python
from tests.edgekd.conftest import REPOSITORY

QUICK = BenchConfig(
    processes=2,
    seconds=0.05,
    warmup_min_s=0.01,
    warmup_max_s=0.2,
    memory_processes=1,
    energy_windows=1,
    energy_window_s=0.05,
)


@pytest.fixture
def start(tmp_path):
    """Start servers that end with the test."""
    servers: list[sshd.Server] = []

    def starting(*settings, **options):
        folder = tmp_path / f"server-{len(servers)}"
        folder.mkdir()
        servers.append(sshd.start(folder, *settings, **options))
        return servers[-1]

    yield starting
    for server in servers:
        sshd.stop(server)


@pytest.fixture
def server(start):
    return start()


def contact(server, url="ssh://board") -> SshAccess:
    return SshAccess(read_address(url), python=sys.executable, options=server.options)


def measured(server, model):
    with contact(server) as board:
        subjects = [runner.Subject(model, "fp32", "tiny")]
        found = runner.measure(subjects, is_target=lambda _: False, access=board, config=QUICK)
    return found[0], board.sent


CONFIGS = {
    "RemoteCommand": ("RemoteCommand tmux new -A -s main", "RequestTTY yes"),
    "RequestTTY": ("RequestTTY force",),
    "SessionType none": ("SessionType none",),
    "SessionType subsystem": ("SessionType subsystem",),
    "ForkAfterAuthentication": ("ForkAfterAuthentication yes",),
    "StdinNull": ("StdinNull yes",),
    "LocalCommand": ("PermitLocalCommand yes", "LocalCommand echo local command ran"),
    "ControlMaster": ("ControlMaster auto", "ControlPath {folder}/cm-%C", "ControlPersist 60"),
    "forwards": ("LocalForward 127.0.0.1:1 127.0.0.1:1", "RemoteForward 1 127.0.0.1:1", "ExitOnForwardFailure yes"),
    "DynamicForward": ("DynamicForward 127.0.0.1:1", "ExitOnForwardFailure yes"),
    "GatewayPorts and agent": ("GatewayPorts yes", "ForwardAgent yes", "ForwardX11 yes"),
    "Tunnel": ("Tunnel yes", "TunnelDevice any:any"),
    "quiet": ("LogLevel QUIET",),
    "loud": ("LogLevel DEBUG3",),
    "EscapeChar": ("EscapeChar ~", "EnableEscapeCommandline yes"),
    "environment": ("SendEnv LANG LC_* PYTHON*", "SetEnv FOO=bar"),
    "VisualHostKey": ("VisualHostKey yes",),
    "UpdateHostKeys": ("UpdateHostKeys ask", "CheckHostIP yes"),
    "Compression": ("Compression yes", "IPQoS throughput", "ServerAliveInterval 0"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGS)
def test_what_a_config_says_for_people_does_not_reach_the_agent(server, tmp_path, capfd, what):
    lines = [line.format(folder=tmp_path) for line in CONFIGS[what]]
    sshd.write_config(server.folder, server.port, *lines)
    before = processes_of(server)
    with contact(server) as board:
        sent = board.place(write(tmp_path / "file", b"bytes\n~.\0" * 1000))
        answers = board.ask(["probe"], timeout_s=60)
        assert Path(sent).read_bytes() == (tmp_path / "file").read_bytes()
        assert any(isinstance(answer, ProbeResponse) for answer in answers)
    assert sshd.settled(lambda: processes_of(server) == before)
    assert not list(tmp_path.glob("cm-*"))
    assert "local command ran" not in "".join(capfd.readouterr())


def write(path, content):
    path.write_bytes(content)
    return path


def processes_of(server):
    """Of ssh, with the config of this server."""
    done = subprocess.run(
        ["pgrep", "-f", str(server.config)], capture_output=True, text=True, check=False
    )
    return done.stdout.split()


def test_a_board_is_measured_and_a_second_run_sends_nothing(server, model):
    found, sent = measured(server, model)
    assert isinstance(found.latency, Samples)
    assert (
        found.latency.groups == (len(found.latency.values) // 2,) * 2
        or len(found.latency.groups) == 2
    )
    assert found.device == "ssh://board"
    assert [name for name, _ in sent] == ["agent.pyz", "tiny.onnx"]
    assert sshd.listing(server.home / "runs") == []
    _, sent = measured(server, model)
    assert sent == []
    assert sshd.settled(lambda: sshd.listing(server.home / "runs") == [])


def test_all_that_is_left_can_be_cleared(server, model):
    measured(server, model)
    assert agent_digest() in sshd.listing(server.home / "store")
    with contact(server) as board:
        board.clear()
    assert not server.home.exists()


def test_one_host_at_a_time(server):
    with contact(server), pytest.raises(DeviceError, match=r"@.* is measuring on this board"):
        contact(server).__enter__()
    with contact(server) as board:
        assert board.ask(["probe"], timeout_s=60)


def test_a_file_that_is_another_one_there_is_an_integrity_error(server, model):
    measured(server, model)
    with contact(server) as board:
        path = Path(board.place(model))
        path.chmod(0o600)
        path.write_bytes(path.read_bytes() + b"!")
        with pytest.raises(IntegrityError, match="has the SHA-256"):
            runner.measure(
                [runner.Subject(model, "fp32", "tiny")],
                is_target=lambda _: False,
                access=board,
                config=QUICK,
            )


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.13"])
def test_the_python_of_a_board_may_be_old_or_new(server, version):
    board = SshAccess(read_address(server.url), python=old_python(version), options=server.options)
    with board:
        (found,) = [a for a in board.ask(["probe"], timeout_s=60) if isinstance(a, ProbeResponse)]
    assert found.python.startswith(f"{version}.")
    assert sshd.settled(lambda: sshd.listing(server.home / "runs") == [])


# --- the link -------------------------------------------------------------------------------------


def running(access, seconds="20"):
    """Ask for a long run in a thread; the errors that it ends with."""
    errors: list[BaseException] = []

    def ask(path):
        words = ["run", "--model", path, "--seconds", seconds, "--max-runs", "1000000000"]
        try:
            access.ask(words, timeout_s=60)
        except BaseException as error:
            errors.append(error)

    return errors, ask


def agents(server) -> list[str]:
    done = subprocess.run(
        ["pgrep", "-f", str(server.home / "store")], capture_output=True, text=True, check=False
    )
    return done.stdout.split()


def test_a_link_that_is_cut_ends_with_an_error_and_the_next_contact_finds_a_clean_board(
    server, model
):
    board = contact(server)
    with board:
        errors, ask = running(board)
        thread = threading.Thread(target=ask, args=(board.place(model),))
        thread.start()
        assert sshd.settled(lambda: len(agents(server)) >= 3)
        server.cut()
        thread.join(30)
        assert not thread.is_alive()
        assert isinstance(errors[0], DeviceError)
        assert "link was lost" in str(errors[0])
    with contact(server) as again:
        assert again.ask(["probe"], timeout_s=60)
        assert len(sshd.listing(server.home / "runs")) == 1  # its own
    assert sshd.settled(lambda: sshd.listing(server.home / "runs") == [])
    assert sshd.settled(lambda: agents(server) == [])


def test_a_process_that_is_killed_there_is_told(server, model):
    with contact(server) as board:
        errors, ask = running(board)
        thread = threading.Thread(target=ask, args=(board.place(model),))
        thread.start()
        inner = ["pgrep", "-f", f"{server.home / 'store'}.*--inner"]
        found = lambda: subprocess.run(inner, capture_output=True, text=True, check=False).stdout  # noqa: E731
        assert sshd.settled(found)
        for number in found().split():
            os.kill(int(number), signal.SIGKILL)
        thread.join(30)
        assert "was killed by SIGKILL" in str(errors[0])


def test_an_interrupted_bench_leaves_a_clean_board(server, model):
    command = [sys.executable, "-m", "edgekd", "bench", str(model), "--device", server.url]
    command += [
        "--ssh-config",
        str(server.config),
        "--device-python",
        sys.executable,
        "--seconds",
        "30",
        "--max-runs",
        "1000000",
    ]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    assert sshd.settled(lambda: len(agents(server)) >= 3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert sshd.settled(lambda: agents(server) == [])
    assert sshd.settled(lambda: sshd.listing(server.home / "runs") == [])


@pytest.mark.slow
def test_an_interrupted_bench_of_several_boards_does_not_wait_for_them(start, model, tmp_path):
    servers = [start(), start()]
    fleet = tmp_path / "fleet.toml"
    config = tmp_path / "ssh_config"
    text = ""
    for number, server in enumerate(servers):
        text += server.config.read_text().replace("Host board", f"Host board{number}")
    config.write_text(text)
    fleet.write_text('[boards.a]\nurl = "ssh://board0"\n[boards.b]\nurl = "ssh://board1"\n')
    command = [sys.executable, "-m", "edgekd", "bench", str(model), "--fleet", str(fleet)]
    command += ["--ssh-config", str(config), "--device-python", sys.executable]
    command += ["--seconds", "120", "--max-runs", "1000000"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    assert all(sshd.settled(lambda each=each: len(agents(each)) >= 3) for each in servers)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    for server in servers:
        assert sshd.settled(lambda each=server: agents(each) == [])
        assert sshd.settled(lambda each=server: sshd.listing(each.home / "runs") == [])


def test_a_bench_that_is_killed_leaves_nothing_on_either_side(server, model):
    command = [sys.executable, "-m", "edgekd", "bench", str(model), "--device", server.url]
    command += ["--ssh-config", str(server.config), "--device-python", sys.executable]
    command += ["--seconds", "30", "--max-runs", "1000000"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    assert sshd.settled(lambda: len(agents(server)) >= 3)
    process.kill()
    process.wait()
    assert sshd.settled(lambda: agents(server) == [])
    assert sshd.settled(lambda: sshd.listing(server.home / "runs") == [])
    ours = ["pgrep", "-f", f"ssh .*{server.config}"]
    assert sshd.settled(
        lambda: subprocess.run(ours, stdout=subprocess.DEVNULL, check=False).returncode
    )


def test_a_runtime_that_crashes_takes_its_process_and_not_the_bench(start, model, tmp_path):
    broken = tmp_path / "broken" / "onnxruntime"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "import os, signal\n__version__ = '1'\nif os.environ.get('OMP_NUM_THREADS'): os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    folder = tmp_path / "server-0"
    server = start(f"SetEnv XDG_CACHE_HOME={folder / 'cache'} PYTHONPATH={broken.parent}")
    with pytest.raises(DeviceError, match="died: it was killed by SIGSEGV"):
        measured(server, model)


# --- what does not let itself be reached ----------------------------------------------------------


def test_a_host_that_is_not_known_is_refused(start):
    server = start(key_known=False)
    with pytest.raises(DeviceError, match="host key is not known here"):
        contact(server).__enter__()


def test_a_host_with_another_key_is_refused(server):
    other = server.folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    key = " ".join(other.with_suffix(".pub").read_text().split()[:2])
    (server.folder / "known").write_text(f"[127.0.0.1]:{server.port} {key}\n")
    with pytest.raises(DeviceError, match="host key is another one than before"):
        contact(server).__enter__()


def test_a_wrong_user_is_told(server):
    sshd.write_config(server.folder, server.port, user="nobody-there")
    with pytest.raises(DeviceError, match="the user or the key is wrong"):
        contact(server).__enter__()


def test_a_port_where_nobody_listens_is_told(server):
    sshd.write_config(server.folder, sshd.free_port())
    with pytest.raises(DeviceError, match="Does sshd run on that port"):
        contact(server).__enter__()


def test_a_name_that_is_none_is_told(server):
    with pytest.raises(DeviceError, match="no such name"):
        contact(server, "ssh://nowhere.invalid").__enter__()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("exit 127", "has no Python 3"),
        (
            """echo '{"home": "/x", "python": [3, 5, 2], "missing": [], "store": [], "executable": "python3"}'""",
            "has Python 3.5.2",
        ),
        (
            """echo '{"home": "/x", "python": [3, 9, 2], "missing": ["ctypes"], "store": [], "executable": "p"}'""",
            "lacks ctypes",
        ),
    ],
)
def test_a_board_without_a_usable_python_is_told(start, said, words):
    server = start(f"ForceCommand {said}")
    with pytest.raises(MissingToolError, match=words):
        contact(server).__enter__()


@pytest.mark.parametrize(
    "said", ["echo Welcome", "head -c 100 /dev/urandom", """echo '{"home": 3}'"""]
)
def test_a_board_that_answers_nonsense_is_told(start, said):
    server = start(f"ForceCommand {said}")
    with pytest.raises(DeviceError, match="answered nonsense"):
        contact(server).__enter__()


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="root mounts a small disk"
)
def test_a_full_disk_is_told_and_nothing_stays(start, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=17m", "none", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        server = start(f"SetEnv XDG_CACHE_HOME={small}")
        big = tmp_path / "big.onnx"
        big.write_bytes(b"0" * (4 * 2**20))
        full = pytest.raises(DeviceError, match=r"has no room for big\.onnx .*bench clean")
        with contact(server) as board, full:
            board.place(big)
        assert sshd.listing(small / "edgekd" / "store") == [agent_digest()]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://-oProxyCommand=x",
        "ftp://a",
        "ssh://a:b@c",
        "ssh://host/path",
        "ssh://a:99999",
        "",
        "ssh://a b",
    ],
)
def test_what_is_no_address_is_bad_use(text):
    with pytest.raises(UsageError, match="--device"):
        read_address(text)


def test_addresses_are_those_of_ssh():
    assert read_address("ssh://me@10.0.0.2:2222").words == ["-p", "2222", "me@10.0.0.2"]
    assert read_address("jetson").words == ["jetson"]
    assert read_address("ssh://me@[fe80::1]").words == ["me@fe80::1"]


# --- the archive ----------------------------------------------------------------------------------


def test_the_archive_is_the_same_bytes_each_time_and_runs(tmp_path):
    agent_archive.cache_clear()
    first = agent_archive()
    agent_archive.cache_clear()
    assert agent_archive() == first
    path = tmp_path / "agent.pyz"
    path.write_bytes(first)
    done = subprocess.run(
        [sys.executable, "-S", str(path), "probe"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert '"event": "probe"' in done.stdout


def test_what_a_board_answers_is_checked(server):
    with contact(server) as board:
        answers = board.ask(["probe"], timeout_s=60)
    assert isinstance(answers[0], ProbeResponse)
    assert not any(isinstance(answer, LatencyResponse) for answer in answers)
