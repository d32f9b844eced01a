"""A whole bench on an aarch64 userland over ssh: `make device-test`."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgekd.bench.transport.agent_zipapp import agent_archive, agent_digest
from edgekd.files import digest_of
from tests.bench import sshd
from tests.bench.booting import current_is_whole, digest, save_bundle
from tests.bench.conftest import save_convolution
from tests.device import root as device
from tests.edgekd.conftest import REPOSITORY

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def root():
    try:
        return device.built()
    except device.MissingError as error:
        pytest.skip(f"no device here: {error}")


@pytest.fixture(scope="module")
def server(root, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(device.serving(root, tmp_path_factory.mktemp("sshd")))
        except device.MissingError as error:
            pytest.skip(f"no device here: {error}")
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_convolution(tmp_path_factory.mktemp("model") / "tiny.onnx", [1, 3, 16, 16])


def command(server, *words):
    given = ["--device", server.url, "--ssh-config", str(server.config)]
    return [sys.executable, "-m", "edgekd", "bench", *map(str, words), *given]


def edgekd(server, *words):
    done = subprocess.run(
        command(server, *words), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


QUICK = ("--processes", "1", "--seconds", "0.1", "--warmup-seconds", "0", "--energy-seconds", "0.1")


def test_the_board_says_what_it_is(server):
    code, out, err = edgekd(server, "probe", "--json")
    assert code == 0, err
    (found,) = json.loads(out)["probes"]
    assert found["setup"]["architecture"] == "aarch64"
    assert found["setup"]["onnxruntime"] is not None
    assert found["setup"]["sensor"] is None


def test_a_model_is_run_and_nothing_is_left(server, root, model):
    code, out, err = edgekd(server, model, *QUICK, "--json")
    assert code == 0, err
    assert "tiny.onnx (" in err
    (found,) = json.loads(out)["measurements"]
    assert found["device"] == server.url
    assert found["conditions"]["emulated"]
    for figure in (found["latency"], found["memory"]["model_pss"]):
        assert figure["kind"] == "unmeasured"
        assert "emulated" in figure["reason"]
    assert found["energy"]["kind"] == "unmeasured"
    assert found["energy"]["reason"]
    home = device.agent_home(root)
    assert sshd.settled(lambda: sshd.listing(home / "runs") == [])
    assert sshd.listing(home / "store") == sorted([agent_digest(), digest_of(model)])


def test_a_second_run_sends_nothing_and_emulated_times_are_taken_when_asked_for(server, model):
    code, out, err = edgekd(server, model, *QUICK, "--allow-emulated", "--json")
    assert code == 0, err
    assert "all files were there" in err
    (found,) = json.loads(out)["measurements"]
    assert found["latency"]["kind"] == "samples"
    assert np.min(found["latency"]["values"]) > 0
    assert "emulated" in [warning["code"] for warning in found["warnings"]]


def test_a_cut_link_ends_with_code_6_and_the_next_contact_leaves_a_clean_board(server, root, model):
    home = device.agent_home(root)
    long = ("--processes", "1", "--seconds", "120", "--max-runs", "1000000")
    process = subprocess.Popen(
        command(server, model, *long), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    assert sshd.settled(lambda: sshd.listing(home / "runs"), 60)
    assert sshd.settled(lambda: len(_pids(home)) > 0, 60)
    time.sleep(1)
    for number in device.processes(root):
        if number != server.process.pid and _name(number) == "sshd":
            os.kill(number, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 6, err
    assert "link was lost" in " ".join(err.split())
    code, _, err = edgekd(server, "probe")
    assert code == 0, err
    assert sshd.settled(lambda: sshd.listing(home / "runs") == [], 60)
    assert sshd.settled(lambda: [_name(each) for each in device.processes(root)] == ["sshd"], 60)


def test_a_bundle_is_made_ready_on_the_first_boot(server, root):
    """By the board's own Python and ONNX Runtime, whose graphs are made for its processor; `server` has mounted it."""
    assert server.process.poll() is None
    place = root / "tmp" / "firstboot"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        save_bundle(place / "bundle", seed=0)
        (place / "agent.pyz").write_bytes(agent_archive())
        words = ["chroot", str(root), "python3", "/tmp/firstboot/agent.pyz", "firstboot"]
        words += ["--bundle", "/tmp/firstboot/bundle", "--state", "/tmp/firstboot/state"]
        for reused in (False, True):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            said = [json.loads(line) for line in done.stdout.splitlines()]
            (found,) = (each for each in said if each["event"] == "firstboot")
            assert (found["machine"], found["reused"]) == ("aarch64", reused)
        assert current_is_whole(place / "state") == digest(place / "bundle")
    finally:
        shutil.rmtree(place)


def test_all_can_be_cleared(server, root):
    code, out, err = edgekd(server, "clean")
    assert code == 0, err
    assert "nothing of edgekd is left" in out
    assert not device.agent_home(root).exists()


def _pids(home: Path) -> list[str]:
    return [name for run in (home / "runs").glob("*") for name in sshd.listing(run / "pids")]


def _name(number: int) -> str:
    """Of a process; under qemu the first argument says it."""
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return "sshd" if any("sshd" in word for word in words[:3]) else " ".join(words[:4])
