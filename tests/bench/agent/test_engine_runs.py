"""Runs of engines, by TensorRT's Python module and by trtexec, with the stand-ins of each version that boards bring."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.bench import agent
from edgekd.bench.agent import trtexec, trtexec_timing
from edgekd.bench.agent.errors import RefusedError
from tests.bench.agent.test_engine_build import (
    STANDIN,
    flag_table,
    old_python,
    save_network,
    save_vectors,
)
from tests.standin.cudart import build_cudart

AGENT = Path(agent.__file__).parent / "__main__.py"
MODULES = ("8.6.1", "10.3.0", "10.13.3", "11.4.0")
H2D_AND_D2H_NS = 375_000  # of the stand-in


class Board:
    """Where TensorRT is the stand-in of some version."""

    def __init__(self, folder):
        self.folder = folder
        self.library = build_cudart(folder / "lib")

    def ask(self, command, *words, version="10.3.0", fails="", python=sys.executable):
        """The agent's exit code, and its answers by their event."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        search = [str(Path(sys.executable).parent), str(STANDIN), environment["PATH"]]
        environment |= {
            "PYTHONPATH": str(STANDIN),
            "LD_LIBRARY_PATH": str(self.library.parent),
            # The stand-in of trtexec is a script that needs this Python's libraries.
            "PATH": os.pathsep.join(search),
            "STANDIN_TENSORRT": version,
            "STANDIN_FAILS": fails,
        }
        done = subprocess.run(
            [python, str(AGENT), command, *map(str, words)],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=environment,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, {line["event"]: line for line in lines}

    def build(self, version, *, tool="auto", batch: int | str = 1):
        save_network(self.folder / "model.onnx", batch=batch)
        save_vectors(self.folder / "vectors.json", self.folder / "model.onnx")
        words = ["--model", "model.onnx", "--engine", "model.engine", "--vectors", "vectors.json"]
        words += ["--open-input", "images:1x4"] if isinstance(batch, str) else []
        code, said = self.ask("build", *words, "--tool", tool, version=version)
        assert code == 0, said

    def run(self, *words, runtime="tensorrt", **where):
        given = ["--model", "model.engine", "--runtime", runtime, "--warmup-min-s", "0.05"]
        given += ["--warmup-max-s", "0.1", "--seconds", "0.1", "--max-runs", "50"]
        return self.ask("run", *given, *words, **where)

    def memory(self, stage, **where):
        given = ("--model", "model.engine", "--runtime", "tensorrt", "--stage", stage)
        return self.ask("memory", *given, **where)


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


# --- the Python module ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", MODULES)
def test_an_engine_is_run_and_every_call_timed(board, version):
    board.build(version)
    code, said = board.run(version=version)
    assert code == 0, said
    assert said["session"]["runtime"] == f"tensorrt {version} (python)"
    assert said["session"]["provider"] == "SM 8.7"
    assert said["session"]["inputs"] == [{"name": "images", "dtype": "float32", "shape": [1, 4]}]
    assert len(said["latency"]["values_ns"]) > 1
    assert said["latency"]["first_ns"] > 0
    assert len(said["state"]["at_ns"]) >= 2
    assert said["latency"]["begin_ns"] < said["latency"]["end_ns"]


def test_what_tensorrt_warns_of_when_it_loads_is_told_once(board, monkeypatch):
    board.build("10.3.0")
    code, said = board.run(version="10.3.0")
    assert (code, said["latency"]["said"]) == (0, [])
    other = "Using an engine plan file across different models of devices is not recommended"
    monkeypatch.setenv("STANDIN_SAYS", f"{other}|{other} |short of memory")
    code, said = board.run(version="10.3.0")
    assert (code, said["latency"]["said"]) == (0, [other, "short of memory"])


def test_of_trtexec_the_words_of_tensorrt_are_kept():
    lines = [
        "[11/30/2026-10:00:00] [W] [TRT] Using an engine plan file",
        "[11/30/2026-10:00:01] [W] [TRT] Using an engine plan file",
        "[11/30/2026-10:00:01] [W] * GPU compute time is unstable",
        "[11/30/2026-10:00:01] [I] [TRT] Loaded engine size: 4 MiB",
    ]
    assert trtexec.warnings(lines) == ["Using an engine plan file"]


@pytest.mark.parametrize(
    ("version", "weights"), [("8.6.1", None), ("10.3.0", None), ("10.16.1", 48), ("11.4.0", 48)]
)
def test_an_engine_declares_what_its_version_knows(board, version, weights):
    board.build(version)
    for stage in ("runtime", "session", "runs"):
        code, said = board.memory(stage, version=version)
        assert code == 0, said
        declared = None if stage == "runtime" else {"weights": weights, "scratch": 4096}
        assert said["memory"]["declared"] == declared
        assert said["memory"]["pss"] > 0


def test_calls_are_paced_too(board):
    board.build("10.3.0")
    code, said = board.run("--fps", "100", "--seconds", "0.2")
    assert code == 0, said
    assert 15 <= len(said["latency"]["values_ns"]) <= 22


def test_an_open_batch_is_run_as_it_was_built_and_no_other(board):
    board.build("10.3.0", batch="N")
    code, said = board.run()
    assert code == 0, said
    assert said["session"]["inputs"][0]["shape"] == [1, 4]
    code, said = board.run("--batch", "2")
    assert code == 2
    assert said["refused"]["kind"] == "inputs"
    assert "images 2x4" in said["refused"]["message"]
    assert "Expected dimensions are [1, 4]" in said["refused"]["message"]


@pytest.mark.parametrize("runtime", ["tensorrt", "trtexec"])
def test_an_engine_of_another_version_is_told_in_tensorrts_words(board, runtime):
    board.build("10.3.0")
    code, said = board.run(version="10.13.3", runtime=runtime)
    assert code == 8
    assert said["refused"]["kind"] == "other-version"
    assert "Version tag does not match" in said["refused"]["message"]


@pytest.mark.parametrize("runtime", ["tensorrt", "trtexec"])
def test_an_engine_that_fails_while_it_runs_is_told_in_tensorrts_words(board, runtime):
    board.build("10.3.0")
    code, said = board.run(fails="run", runtime=runtime)
    assert code == 8
    assert "unspecified launch failure" in said["refused"]["message"]


def test_values_cannot_be_given_to_an_engine(board):
    board.build("10.3.0")
    for runtime in ("tensorrt", "trtexec"):
        code, said = board.run("--inputs", "images.npy", runtime=runtime)
        assert code == 2
        assert said["refused"]["kind"] == "inputs"


def test_a_module_that_is_too_old_is_not_offered(board):
    code, said = board.ask("probe", version="8.2.1")
    assert code == 0
    assert said["probe"]["tensorrt"] is None
    assert said["probe"]["missing"]["tensorrt"] == "8.2.1 is older than 8.5"
    assert said["probe"]["trtexec"] == "8.2.1"
    code, said = board.ask("probe", version="10.3.0")
    assert (said["probe"]["tensorrt"], said["probe"]["trtexec"]) == ("10.3.0", "10.3.0")


@pytest.mark.parametrize(("python", "version"), [("3.8", "8.6.1"), ("3.6", "8.6.1")])
def test_the_python_of_a_board_runs_an_engine(board, python, version):
    interpreter = old_python(python)
    board.build(version)
    code, said = board.run(python=interpreter, version=version)
    assert code == 0, said
    assert said["hello"]["python"].startswith(python)
    assert len(said["latency"]["values_ns"]) > 1
    code, said = board.memory("runs", python=interpreter, version=version)
    assert code == 0, said
    assert said["memory"]["declared"] == {"weights": None, "scratch": 4096}


# --- trtexec --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["8.2.1", "8.6.1", "10.3.0", "10.13.3", "11.4.0"])
def test_trtexec_times_copies_and_compute_in_every_version(board, version):
    board.build(version, tool="trtexec")
    code, said = board.run(runtime="trtexec", version=version)
    assert code == 0, said
    values = said["latency"]["values_ns"]
    assert len(values) == 50  # as many as were asked for
    # With both copies, and without the queries of the warm-up, which the stand-in makes a second slower.
    assert all(H2D_AND_D2H_NS <= value < H2D_AND_D2H_NS + 500_000_000 for value in values)
    assert said["session"]["runtime"].startswith(f"tensorrt {version} (trtexec --iterations=10 ")
    assert ("--includeDataTransfers --noSpinWait --noCudaGraph" in said["session"]["runtime"]) == (
        version == "11.4.0"
    )
    assert said["session"]["inputs"] == []


@pytest.mark.parametrize(
    "version", [(8, 2, 1), (8, 5, 2), (8, 6, 2), (10, 3, 0), (10, 16, 2), (11, 4, 1)]
)
def test_every_flag_of_a_run_is_one_that_the_version_has(version):
    class Options:
        warmup_min_s = 0.5
        seconds = 2.5

    table = flag_table()
    flags = trtexec_timing.run_flags(version, "e", "t", Options)
    assert {"--warmUp=500", "--duration=3"} <= set(flags)
    for flag in flags:
        first, gone = table[flag.partition("=")[0]]
        assert version[:2] >= first
        assert gone is None or version[:2] < gone


def test_every_flag_that_is_used_is_in_the_table_of_flags():
    table = flag_table()
    for flag, (since, until) in trtexec.FLAGS.items():
        first, gone = table[flag]
        assert first <= since, flag
        assert gone is None or (until is not None and until <= gone), flag


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_the_python_of_a_board_times_by_trtexec(board, version):
    interpreter = old_python(version)
    board.build("8.2.1", tool="trtexec")
    code, said = board.run(runtime="trtexec", version="8.2.1", python=interpreter)
    assert code == 0, said
    assert said["hello"]["python"].startswith(version)
    assert len(said["latency"]["values_ns"]) == 50


def test_trtexec_has_no_memory_of_a_model_and_no_windows_of_energy(board):
    board.build("10.3.0")
    given = ("--model", "model.engine", "--runtime", "trtexec")
    code, said = board.ask("energy", *given)
    assert code == 0, said
    assert "trtexec calls a model by itself" in said["no-energy"]["reason"]
    code, said = board.ask("memory", *given)
    assert code == 3


def test_trtexec_that_writes_no_times_is_told(board):
    board.build("10.3.0")
    code, said = board.run(runtime="trtexec", fails="times")
    assert code == 8
    assert said["refused"]["message"] == "trtexec wrote no times"


@pytest.mark.parametrize(
    "text",
    ["", "[", "{}", "[1]", '[{"latencyMs": 1}]', '[{"latencyMs": "x", "startComputeMs": 1}]',
     '[{"latencyMs": Infinity, "startComputeMs": 1}]', '[{"latencyMs": NaN, "startComputeMs": 1}]'],
)  # fmt: skip
def test_times_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(RefusedError, match=r"times cannot be read|wrote no times"):
        trtexec_timing.read_times(str(path), 0)


def test_a_missing_trtexec_is_said(tmp_path):
    code = subprocess.run(
        [sys.executable, str(AGENT), "run", "--model", "e", "--runtime", "trtexec"],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
        check=False,
    )
    assert code.returncode == 3
    assert "neither on the search path nor" in code.stdout
