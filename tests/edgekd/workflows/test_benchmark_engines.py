"""`edgekd bench` of engines: stand-ins of TensorRT, trtexec and CUDA here, and on a board over ssh."""

import json
import os
import sys

import numpy as np
import pytest

from edgekd.bench.agent.trt_python import MODULES
from tests.bench import sshd
from tests.bench.agent.test_engine_build import save_network
from tests.edgekd.conftest import REPOSITORY
from tests.standin.absent import hide
from tests.standin.cudart import build_cudart

pytestmark = pytest.mark.slow

STANDIN = REPOSITORY / "tests" / "standin"
SHORT = (
    *("--processes", "1", "--seconds", "0.1", "--max-runs", "100", "--warmup-seconds", "0.02"),
    *("--energy-seconds", "0.1", "--energy-windows", "1"),
)


@pytest.fixture
def folder(tmp_path):
    """With a model, and a stand-in of CUDA's runtime."""
    save_network(tmp_path / "model.onnx")
    build_cudart(tmp_path / "lib")
    # The stand-in is a script that needs this Python's libraries, whatever a login puts first on the path.
    program = tmp_path / "bin" / "trtexec"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {STANDIN / "trtexec"} "$@"\n')
    program.chmod(0o755)
    return tmp_path


def variables(folder, version="10.3.0"):
    """Of a machine that has TensorRT."""
    return {
        "PYTHONPATH": str(STANDIN),
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "STANDIN_TENSORRT": version,
    }


@pytest.fixture
def bench(folder, edgekd, monkeypatch):
    """The command with a home of its own: its exit code, its record, and stderr."""
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)

    def run(*words):
        code, out, err = edgekd("bench", *words, *SHORT, "--json")
        return code, json.loads(out) if out else None, " ".join(err.split())

    return run


@pytest.fixture
def bench_here(bench, folder, monkeypatch):
    """The same where this machine has TensorRT."""

    def run(*words, version="10.3.0", fails=""):
        for name, value in (variables(folder, version) | {"STANDIN_FAILS": fails}).items():
            monkeypatch.setenv(name, value)
        return bench(*words)

    return run


@pytest.mark.parametrize(
    ("version", "runtime", "tool", "precision"),
    [
        ("8.2.1", "trtexec", "trtexec", "fp16"),
        ("8.6.1", "tensorrt", "python", "fp16"),
        ("10.3.0", "tensorrt", "python", "fp16"),
        ("10.3.0", "trtexec", "trtexec", "fp16"),
        # Since 10.12 types are the graph's.
        ("10.13.3", "tensorrt", "python", "fp32"),
        ("11.4.0", "tensorrt", "python", "fp32"),
        ("11.4.0", "trtexec", "trtexec", "fp32"),
    ],
)
def test_an_onnx_file_is_measured_as_an_engine(
    folder, bench_here, version, runtime, tool, precision
):
    code, found, err = bench_here("model.onnx", "--runtime", runtime, version=version)
    assert code == 0, err
    (one,) = found["measurements"]
    engine = one["engine"]
    assert (engine["tensorrt"], engine["tool"], engine["precision"]) == (version, tool, precision)
    assert engine["parity"]["passed"]
    assert not engine["reused"]
    assert one["subject"] == f"model.onnx as {precision.upper()}"
    assert one["conditions"]["runtime"].startswith(f"tensorrt {version} ({tool}")
    assert one["latency"]["values"]
    memory = one["memory"]
    if tool == "trtexec":
        assert "trtexec loads a model by itself" in memory["model_pss"]["reason"]
    elif version == "11.4.0":
        assert memory["declared"]["values"] == [48 + 4096] * 3
    else:
        assert "does not say how large an engine's weights are" in memory["declared"]["reason"]
    kept = list((folder / ".cache" / "edgekd" / "engines").glob("*.engine"))
    assert [path.name for path in kept] == [engine["path"]]


@pytest.mark.parametrize("runtime", ["tensorrt", "trtexec"])
def test_what_the_builder_warns_of_reaches_the_user_and_the_record(folder, bench_here, runtime):
    save_network(folder / "model.onnx", zero=np.array(0, np.uint8))
    code, found, err = bench_here("model.onnx", "--runtime", runtime)
    assert code == 0, err
    (warning,) = found["measurements"][0]["engine"]["warnings"]
    assert "Defaulting to INT8 instead" in warning
    assert err.count(f"warning: this machine: model.onnx: {warning}") == 1


def test_a_second_run_finds_the_engine_and_another_version_does_not(bench_here):
    first = bench_here("model.onnx", "--runtime", "tensorrt")[1]["measurements"][0]
    again = bench_here("model.onnx", "--runtime", "tensorrt")[1]["measurements"][0]
    assert again["engine"]["reused"]
    assert again["engine"]["digest"] == first["engine"]["digest"]
    code, found, err = bench_here("model.onnx", "--runtime", "tensorrt", version="10.7.0")
    assert code == 0, err
    assert not found["measurements"][0]["engine"]["reused"]


@pytest.mark.parametrize("runtime", ["auto", "tensorrt", "trtexec"])
def test_an_engine_is_measured_by_itself(folder, bench_here, runtime):
    bench_here("model.onnx", "--runtime", "tensorrt")
    (engine,) = (folder / ".cache" / "edgekd" / "engines").glob("*.engine")
    (folder / "own.engine").write_bytes(engine.read_bytes())
    code, found, err = bench_here("own.engine", "--runtime", runtime)
    assert code == 0, err
    (one,) = found["measurements"]
    assert one["subject"] == "own.engine"
    assert one["engine"] is None
    tool = "trtexec" if runtime == "trtexec" else "python"
    assert one["conditions"]["runtime"].startswith(f"tensorrt 10.3.0 ({tool}")


def test_a_batch_of_the_file_is_kept(folder, bench_here):
    save_network(folder / "model.onnx", batch=4)
    code, found, err = bench_here("model.onnx", "--runtime", "tensorrt")
    assert code == 0, err
    assert found["measurements"][0]["conditions"]["batch"] == 4


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--runtime", "tensorrt", "--inputs", "model.onnx"], 2, "--inputs: values can be given to ONNX Runtime alone"),
        (["--runtime", "trtexec", "--fps", "10"], 2, "--fps: trtexec has no calls at a fixed rate"),
        (["--runtime", "tensorrt", "--batch", "4"], 2, "--batch 4: the engine of model.onnx is built for one image"),
        (["own.engine", "--runtime", "auto"], 2, "Engines and ONNX files are run by different runtimes"),
    ],
)  # fmt: skip
def test_what_an_engine_cannot_have_is_bad_use(folder, bench_here, words, code, said):
    save_network(folder / "model.onnx", batch="N")
    (folder / "own.engine").write_bytes(b"x")
    found, _, err = bench_here("model.onnx", *words)
    assert found == code
    assert said in err
    assert "Building engine" not in err  # said before minutes are spent


@pytest.mark.parametrize("runtime", ["tensorrt", "trtexec"])
def test_without_tensorrt_it_is_said_before_anything_is_built(folder, bench, monkeypatch, runtime):
    monkeypatch.setenv("PYTHONPATH", hide(folder, *MODULES))
    code, _, err = bench("model.onnx", "--runtime", runtime)
    assert code == 3
    assert "has nothing that runs an engine" in err
    assert "engine this machine" not in err


@pytest.mark.parametrize(
    ("fails", "code", "words"),
    [
        ("answers", 4, "top-1 matches the golden vectors on"),
        ("memory", 8, "Requested amount of GPU memory"),
        ("parse", 8, "No importer registered for op: MatMul"),
        ("run", 8, "unspecified launch failure"),
    ],
)
def test_a_failure_has_tensorrts_words_and_its_code(bench_here, fails, code, words):
    found, _, err = bench_here(
        "model.onnx",
        "--runtime",
        "tensorrt",
        "--engine-precision",
        "fp32",
        fails=fails,
    )
    assert found == code, err
    assert words in err


# --- on a board over ssh --------------------------------------------------------------------------


@pytest.fixture
def board(folder):
    """A server whose commands find the stand-ins."""
    servers: list[sshd.Server] = []

    def start(version="10.3.0"):
        home = folder / f"server-{len(servers)}"
        home.mkdir()
        given = variables(folder, version) | {"XDG_CACHE_HOME": str(home / "cache")}
        words = " ".join(f"{name}={value}" for name, value in given.items())
        servers.append(sshd.start(home, f"SetEnv {words}"))
        return servers[-1]

    yield start
    for server in servers:
        sshd.stop(server)


def there(server):
    return (
        "--device",
        server.url,
        "--ssh-config",
        server.config,
        "--device-python",
        sys.executable,
    )


@pytest.mark.parametrize(
    ("version", "runtime", "tool"),
    [
        ("10.3.0", "tensorrt", "python"),
        ("8.2.1", "trtexec", "trtexec"),
        ("11.4.0", "tensorrt", "python"),
    ],
)
def test_a_board_builds_keeps_and_runs_an_engine(bench, board, version, runtime, tool):
    server = board(version)
    code, found, err = bench("model.onnx", "--runtime", runtime, *there(server))
    assert code == 0, err
    (one,) = found["measurements"]
    assert one["device"] == "ssh://board"
    assert (one["engine"]["tensorrt"], one["engine"]["tool"]) == (version, tool)
    assert one["engine"]["parity"]["passed"]
    assert one["conditions"]["setup"][runtime] == version
    assert "model.onnx" in err.partition("sent")[2]
    engines = sshd.listing(server.home / "engines")
    assert one["engine"]["path"] in engines
    code, found, err = bench("model.onnx", "--runtime", runtime, *there(server))
    assert code == 0, err
    assert found["measurements"][0]["engine"]["reused"]
    assert "ssh://board: all files were there" in err
    assert sshd.settled(lambda: sshd.listing(server.home / "runs") == [])
    assert sshd.listing(server.home / "engines") == engines


def test_a_bundle_brings_its_golden_vectors(made, bench, board):
    code, found, err = bench(made[0], "--runtime", "tensorrt", *there(board()))
    assert code in {0, 4}, err
    if code == 4:  # so few steps: the stand-in's INT8 is that of the CPU and may decide otherwise
        pytest.skip("the short run's INT8 does not pass its own golden vectors")
    assert {one["engine"]["parity"]["against"] for one in found["measurements"]} == {
        "golden-fp16.json", "golden-int8.json"
    }  # fmt: skip
