"""The builder against stand-ins of TensorRT, its command and CUDA: tests/standin says what holds them to the real ones."""

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.bench import agent
from edgekd.bench.agent import engine_build, probe, trt_python, trtexec
from edgekd.bench.agent.build_request import Wish
from edgekd.bench.agent.cuda import Cuda
from edgekd.bench.agent.errors import RefusedError
from tests.standin.absent import hide
from tests.standin.cudart import Cudart, build_cudart

STANDIN = Path(__file__).parents[2] / "standin"
PROGRAM = STANDIN / "trtexec"
AGENT = Path(agent.__file__).parent / "__main__.py"
TOOLS = ("python", "trtexec")


def save_network(path, *, batch: int | str = 1, quantised=False, zero=None):
    """Four pixels to three logits, seeded; through a Q/DQ pair where it is quantised or has a zero point."""
    quantised = quantised or zero is not None
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    scale = numpy_helper.from_array(np.array(0.05, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8) if zero is None else zero, "zero")
    pairs = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="back"),
    ]
    product = helper.make_node(
        "MatMul", ["x" if quantised else "images", "w"], ["logits"], name="product"
    )
    graph = helper.make_graph(
        [*(pairs if quantised else []), product],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weight, "w"), *([scale, zero] if quantised else [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def save_vectors(path, model, *, count=2, relative: float | None = 1e-4, agreement=0.9):
    import onnxruntime

    images = np.random.default_rng(1).standard_normal((count, 1, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = np.stack([session.run(None, {"images": each})[0] for each in images])
    said = {"schema": "vectors", "schema_version": 1, "count": count}
    said |= {"relative": relative, "agreement": agreement, "precision": "fp32"}
    for kind, name, values in (("inputs", "images", images), ("outputs", "logits", logits)):
        file = path.with_name(f"{name}.bin")
        file.write_bytes(values.tobytes())
        digest = hashlib.sha256(values.tobytes()).hexdigest()
        shape = list(values.shape[1:])
        said[kind] = [
            {"name": name, "dtype": "float32", "shape": shape, "file": file.name, "sha256": digest}
        ]
    path.write_text(json.dumps(said))
    return path


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Runs the builder where TensorRT is the stand-in of some version; what it said comes back."""
    save_network(tmp_path / "model.onnx")
    save_vectors(tmp_path / "vectors.json", tmp_path / "model.onnx")
    (tmp_path / "etc").mkdir()
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    (tmp_path / "etc" / "nv_tegra_release").write_text(release)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  4194304 kB\nMemAvailable:  2097152 kB\n")
    monkeypatch.syspath_prepend(STANDIN)
    # The stand-in of trtexec is a script that needs this Python's libraries.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def run(*, version="10.3.0", fails="", cudart=None, **changes):
        monkeypatch.setenv("STANDIN_TENSORRT", version)
        monkeypatch.setenv("STANDIN_FAILS", fails)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
        options: dict[str, object] = {
            "model": str(tmp_path / "model.onnx"),
            "engine": str(tmp_path / "model.engine"),
            "vectors": str(tmp_path / "vectors.json"),
            "precision": "fp32",
            "typing": "weak",
            "tool": "python",
            "trtexec": str(PROGRAM),
            "cudart": None,
            "workspace_mb": None,
            "open_input": [],
            "dla": None,
            "pin": [],
            "timing_cache": None,
            "timing_cache_digest": None,
            "rebuild": False,
            "expect_tensorrt": None,
            "expect_sm": None,
            "root": str(tmp_path),
            "proc": str(tmp_path / "proc"),
        }
        said = []
        library = cudart or Cudart()
        try:
            engine_build.build(
                argparse.Namespace(**(options | changes)),
                lambda event, **fields: said.append({"event": event, **fields}),
                library,
            )
        finally:
            assert not library.held, "memory of the device is left behind"
            assert not library.streams
        return {answer["event"]: answer for answer in said}

    run.folder = tmp_path  # type: ignore[attr-defined]
    return run


def plan_of(folder):
    """What the stand-in was asked for."""
    return json.loads((folder / "model.engine").read_bytes().split(b"\n")[1])


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "10.13.3"])
def test_an_engine_is_built_tried_and_recorded(board, tool, version):
    said = board(version=version, tool=tool, precision="fp16")
    engine, key = said["engine"], said["engine"]["key"]
    assert not engine["reused"]
    assert engine["parity"]["top1_agreement"] == 1.0
    assert (key["tensorrt"], key["sm"], key["l4t"]) == (version, "8.7", "36.4.3")
    assert "FP16" in plan_of(board.folder)["flags"]
    record = json.loads((board.folder / "model.engine.json").read_text())
    data = (board.folder / "model.engine").read_bytes()
    assert record["digest"] == engine["digest"] == hashlib.sha256(data).hexdigest()
    assert (
        record["made_from"]
        == hashlib.sha256((board.folder / "model.onnx").read_bytes()).hexdigest()
    )
    cache = (board.folder / "model.engine.timing").read_bytes()
    assert record["timing_cache_digest"] == hashlib.sha256(cache).hexdigest()
    assert not list(board.folder.glob(".model*")), "a temporary file is left behind"


def test_jetpack_4_builds_by_trtexec_alone(board):
    with pytest.raises(RefusedError, match=r"older than 8\.5: use trtexec"):
        board(version="8.2.1", tool="python")
    said = board(version="8.2.1", tool="auto", precision="fp16")
    assert said["board"]["tool"] == "trtexec"
    assert said["engine"]["key"]["tensorrt"] == "8.2.1"


@pytest.mark.parametrize("tool", TOOLS)
def test_tensorrt_11_takes_types_from_the_graph_alone(board, tool):
    with pytest.raises(RefusedError, match="types from the graph alone") as refused:
        board(version="11.4.0", tool=tool, precision="fp16")
    assert refused.value.kind == "other-version"
    board(version="11.4.0", tool=tool, precision="fp16", typing="strong")
    assert plan_of(board.folder)["flags"] == ["TF32"]


@pytest.mark.parametrize("tool", TOOLS)
def test_tensorrt_8_takes_no_types_from_the_graph(board, tool):
    with pytest.raises(RefusedError, match="no types from the graph"):
        board(version="8.6.1", tool=tool, typing="strong")


@pytest.mark.parametrize("tool", TOOLS)
def test_int8_of_a_graph_with_pairs_has_both_flags(board, tool):
    save_network(board.folder / "model.onnx", quantised=True)
    save_vectors(board.folder / "vectors.json", board.folder / "model.onnx", relative=None)
    board(tool=tool, precision="int8")
    assert {"FP16", "INT8"} <= set(plan_of(board.folder)["flags"])


@pytest.mark.parametrize("tool", TOOLS)
def test_what_the_builder_warns_of_is_kept_once_each(board, tool):
    save_network(board.folder / "model.onnx", zero=np.array(0, np.uint8))
    save_vectors(board.folder / "vectors.json", board.folder / "model.onnx", relative=None)
    said = board(tool=tool, precision="int8")
    (warning,) = said["engine"]["warnings"]  # of two nodes
    assert "Defaulting to INT8 instead" in warning
    record = json.loads((board.folder / "model.engine.json").read_text())
    assert record["warnings"] == [warning]
    again = board(tool=tool, precision="int8")["engine"]
    assert again["reused"]
    assert again["warnings"] == [warning]


def test_an_engine_from_before_warnings_were_kept_is_found_again(board):
    board()
    path = board.folder / "model.engine.json"
    record = json.loads(path.read_text())
    assert record.pop("warnings") == []
    path.write_text(json.dumps(record))
    said = board()["engine"]
    assert said["reused"]
    assert said["warnings"] == []


def test_fp32_leaves_tf32_out(board):
    board(precision="fp32")
    assert plan_of(board.folder)["flags"] == []


@pytest.mark.parametrize("tool", TOOLS)
def test_an_open_batch_gets_one_size(board, tool):
    save_network(board.folder / "model.onnx", batch="batch")
    with pytest.raises(RefusedError, match="no optimization profile"):
        board(tool=tool)
    board(tool=tool, open_input=["images:1x4"])
    assert plan_of(board.folder)["shapes"] == {"images": [1, 4]}


@pytest.mark.parametrize("tool", TOOLS)
def test_layers_are_pinned_to_fp32_where_the_builder_chooses_types(board, tool):
    said = board(
        tool=tool, precision="fp16", pin=["product", "gone"] if tool == "python" else ["product"]
    )
    assert plan_of(board.folder)["pinned"] == ["product"]
    assert said["engine"]["unpinned"] == (["gone"] if tool == "python" else [])


def test_layers_that_an_old_trtexec_cannot_pin_are_named(board):
    said = board(version="8.2.1", tool="trtexec", precision="fp16", pin=["product"])
    assert said["engine"]["unpinned"] == ["product"]


def test_the_workspace_follows_from_the_memory(board):
    board()
    assert plan_of(board.folder)["workspace"] == 256 << 20  # a sixteenth of 4 GiB
    board(workspace_mb=100)
    assert plan_of(board.folder)["workspace"] == 100 << 20


@pytest.mark.parametrize("tool", TOOLS)
def test_the_dla_takes_what_it_is_given(board, tool):
    board(tool=tool, precision="fp16", dla=1)
    assert plan_of(board.folder)["dla"] == 1


def test_a_dla_that_is_not_there_is_refused(board):
    with pytest.raises(RefusedError, match=r"DLA core 0 .* TensorRT 10\.13\.3 sees 0"):
        board(version="10.13.3", precision="fp16", dla=0)


def test_progress_is_told_by_phase(board):
    assert board()["progress"] == {
        "event": "progress",
        "phase": "Building engine",
        "step": 3,
        "of": 3,
    }
    assert "progress" not in board(version="8.6.1")  # has no such thing


# --- what fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    ("fails", "kind", "words"),
    [
        ("parse", "not-buildable", "No importer registered for op: MatMul"),
        ("build", "not-buildable", "Error Code 4"),
        ("memory", "out-of-memory", "Requested amount of GPU memory.*--workspace-mb"),
        ("answers", "deviates", "top-1 matches the golden vectors on"),
    ],
)
def test_a_failure_keeps_the_words_and_the_engine_that_was_there(board, tool, fails, kind, words):
    board(tool=tool)
    before = (board.folder / "model.engine").read_bytes()
    with pytest.raises(RefusedError, match=words) as refused:
        board(tool=tool, fails=fails, rebuild=True)
    assert refused.value.kind == kind
    assert (board.folder / "model.engine").read_bytes() == before
    assert board(tool=tool)["engine"]["reused"]


def test_no_memory_for_the_tensors_is_out_of_memory(board):
    with pytest.raises(RefusedError) as refused:
        board(cudart=Cudart(memory=4))
    assert refused.value.kind == "out-of-memory"


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x08" * 100])
def test_what_is_no_model_is_said_in_tensorrts_words(board, data):
    (board.folder / "model.onnx").write_bytes(data)
    with pytest.raises(RefusedError):
        board()
    assert not (board.folder / "model.engine").exists()


def test_a_machine_of_another_kind_is_refused_before_it_builds(board):
    with pytest.raises(RefusedError, match=r"target has SM 8\.7 and this machine SM 9\.0"):
        board(cudart=Cudart(sm=(9, 0)), expect_sm="8.7")
    with pytest.raises(
        RefusedError, match=r"target has TensorRT 8\.5 and this machine TensorRT 10\.3"
    ):
        board(expect_tensorrt="8.5")
    assert not (board.folder / "model.engine").exists()


def test_golden_vectors_of_other_tensors_are_refused(board):
    vectors = json.loads((board.folder / "vectors.json").read_text())
    vectors["outputs"][0]["name"] = "others"
    (board.folder / "vectors.json").write_text(json.dumps(vectors))
    with pytest.raises(RefusedError, match="the vectors"):
        board()


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"count": 3},
        {"count": 0},
        {
            "outputs": [
                {"name": "logits", "dtype": "float64", "shape": [1, 3], "file": "logits.bin"}
            ]
        },
        {"relative": "much"},
    ],
)
def test_damaged_vectors_are_refused(board, change):
    vectors = json.loads((board.folder / "vectors.json").read_text())
    (board.folder / "vectors.json").write_text(json.dumps(vectors | change))
    with pytest.raises(RefusedError) as refused:
        board()
    assert refused.value.kind == "inputs"


def test_flipped_bytes_of_vectors_are_refused(board):
    data = bytearray((board.folder / "logits.bin").read_bytes())
    data[0] ^= 1
    (board.folder / "logits.bin").write_bytes(data)
    with pytest.raises(RefusedError, match="digest does not hold"):
        board()


def test_answers_that_are_not_finite_deviate(board):
    weight = numpy_helper.from_array(np.full((4, 3), np.inf, np.float32), "w")
    model = onnx.load(board.folder / "model.onnx")
    model.graph.initializer[0].CopyFrom(weight)
    onnx.save(model, board.folder / "model.onnx")
    with pytest.raises(RefusedError) as refused:
        board()
    assert refused.value.kind == "deviates"


# --- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_the_same_wish_on_the_same_board_is_not_built_again(board, tool):
    first = board(tool=tool)["engine"]
    stamp = (board.folder / "model.engine").stat().st_mtime_ns
    again = board(tool=tool)["engine"]
    assert again["reused"]
    assert again["digest"] == first["digest"]
    assert (board.folder / "model.engine").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "change",
    [
        {"version": "10.7.0"},
        {"cudart": Cudart(sm=(7, 2))},
        {"precision": "fp16"},
        {"workspace_mb": 64},
        {"tool": "trtexec"},
        {"rebuild": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_it_is_built_again_when_something_changes_that_it_hangs_on(board, change):
    board()
    assert not board(**change)["engine"]["reused"]


def test_another_model_is_another_engine(board):
    board()
    model = onnx.load(board.folder / "model.onnx")
    model.doc_string = "another"
    onnx.save(model, board.folder / "model.onnx")
    assert not board()["engine"]["reused"]


def test_an_engine_alone_runs_where_it_was_built_and_names_both_versions_elsewhere(board):
    board()
    assert board(model=None)["engine"]["reused"]
    with pytest.raises(RefusedError, match=r"tensorrt 10\.3\.0 here 10\.7\.0") as refused:
        board(version="10.7.0", model=None)
    assert refused.value.kind == "other-version"
    assert refused.value.exit_code == 8


@pytest.mark.parametrize("damage", [b"", b"x" * 100])
def test_a_damaged_engine_is_built_again(board, damage):
    board()
    (board.folder / "model.engine").write_bytes(damage)
    assert not board()["engine"]["reused"]
    (board.folder / "model.engine.json").write_bytes(damage)
    assert not board()["engine"]["reused"]


@pytest.mark.parametrize("name", ["key", "timing_cache_digest", "build_s"])
def test_a_record_that_lacks_something_counts_as_none(board, name):
    board()
    path = board.folder / "model.engine.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in record.items() if key != name}))
    assert not board()["engine"]["reused"]


def test_the_timing_cache_of_the_last_build_is_taken_and_the_tactics_are_the_same(board):
    assert not board()["engine"]["tactics_replayed"]
    assert board(rebuild=True)["engine"]["tactics_replayed"]


def test_a_timing_cache_that_was_changed_is_refused(board):
    board()
    (board.folder / "model.engine.timing").write_bytes(b'["other"]')
    with pytest.raises(RefusedError, match=r"its digest is .* not"):
        board(rebuild=True)


def test_a_timing_cache_is_pinned_by_its_digest(board):
    cache = board.folder / "shipped.timing"
    cache.write_bytes(b'["product"]')
    digest = hashlib.sha256(cache.read_bytes()).hexdigest()
    said = board(timing_cache=str(cache), timing_cache_digest=digest)
    assert said["engine"]["tactics_replayed"]
    with pytest.raises(RefusedError, match="pinned"):
        board(timing_cache=str(cache), timing_cache_digest="0" * 64, rebuild=True)


# --- trtexec -------------------------------------------------------------------------------------


def flag_table():
    with (STANDIN / "trtexec-flags.csv").open(newline="") as stream:
        return {
            row["flag"]: tuple(
                tuple(int(part) for part in row[key].split(".")) if row[key] else None
                for key in ("first", "gone")
            )
            for row in csv.DictReader(stream)
        }


def wish(**changes):
    plain = Wish(
        model="m.onnx",
        precision="fp16",
        typing="weak",
        workspace_bytes=2**28,
        open_inputs=[("images", [1, 3, 32, 32])],
        dla=0,
        pinned=["a", "b"],
        timing_cache=None,
        compute_capabilities=[],
    )
    return plain._replace(**changes)


@pytest.mark.parametrize(
    "version", [(8, 2, 1), (8, 5, 2), (8, 6, 2), (10, 3, 0), (10, 16, 2), (11, 4, 1)]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("typing", ["weak", "strong"])
def test_every_flag_is_one_that_the_version_has(version, precision, typing):
    table = flag_table()
    try:
        flags = trtexec.build_flags(version, wish(precision=precision, typing=typing), "p", "c")
    except RefusedError:
        strong = typing == "strong"
        assert version < (10,) if strong else version >= (11,)
        return
    for flag in flags:
        first, gone = table[flag.partition("=")[0]]
        assert first is not None
        assert version[:2] >= first
        assert gone is None or version[:2] < gone


@pytest.mark.parametrize(
    ("number", "text"), [(8201, "8.2.1"), (8503, "8.5.3"), (100300, "10.3.0"), (101602, "10.16.2")]
)
def test_versions_are_read_from_what_trtexec_prints(number, text):
    assert trtexec.version_of(number) == text


def test_what_lacks_everything_says_all_of_it(board, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedError, match=r"older than 8\.5.*; trtexec: neither") as refused:
        board(version="8.2.1", tool="auto", trtexec=None)
    assert refused.value.exit_code == 3


def test_the_lines_of_a_message_of_trtexec_stay_together():
    lines = [
        "[11/26/2026-10:00:00] [I] [TRT] Parsing",
        "[11/26/2026-10:00:00] [W] [TRT] slow",
        "[11/26/2026-10:00:00] [E] [TRT] ModelImporter.cpp:731: ERROR: In function parseGraph:",
        "[6] Invalid Node - culprit",
        "&&&& FAILED TensorRT.trtexec [TensorRT v100300]",
    ]
    assert trtexec.errors(lines) == [
        "[TRT] ModelImporter.cpp:731: ERROR: In function parseGraph:\n[6] Invalid Node - culprit"
    ]


# --- TensorRT-RTX --------------------------------------------------------------------------------


def module_of(name, version):
    found = types.ModuleType(name)
    found.__version__ = version  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    ("there", "version"),
    [
        ({"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1.116"}, "10.3.0"),
        ({"tensorrt_rtx": "1.7.1.116", "tensorrt_rtx_bindings": "1.4.0.76"}, "rtx-1.7.1.116"),
        ({"tensorrt_rtx_bindings": "1.4.0.76"}, "rtx-1.4.0.76"),
    ],
    ids=["both", "metapackage", "bindings"],
)
def test_tensorrt_goes_before_tensorrt_rtx_and_their_versions_are_told_apart(
    monkeypatch, there, version
):
    for name in trt_python.MODULES:
        found = module_of(name, there[name]) if name in there else None
        monkeypatch.setitem(sys.modules, name, found)
    trt = trt_python.import_tensorrt()
    tool = trt_python.tool_of(trt, Cuda(Cudart()), lambda *_: None)
    assert (tool.name, tool.tensorrt) == ("python", version)


def test_tensorrt_that_is_too_old_is_not_replaced_by_tensorrt_rtx(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", module_of("tensorrt", "8.2.1"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module_of("tensorrt_rtx", "1.7.1.116"))
    with pytest.raises(RefusedError, match=r"8\.2\.1, older than 8\.5"):
        trt_python.import_tensorrt()


@pytest.mark.parametrize("wanted", ["1.7", "10.3"])
def test_tensorrt_rtx_is_no_tensorrt_that_a_target_has(wanted):
    options = argparse.Namespace(expect_sm=None, expect_tensorrt=wanted)
    key: engine_build.Key = {"tensorrt": "rtx-1.7.1.116", "sm": "8.6", "l4t": None}
    with pytest.raises(RefusedError, match=r"this machine TensorRT rtx-1\.7"):
        engine_build._check_expected(options, key)


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1.116"}, {"version": "10.3.0"}),
        ({"tensorrt_rtx_bindings": "1.7.1.116"}, {"version": "rtx-1.7.1.116"}),
        ({"tensorrt": "8.2.1"}, {"reason": "8.2.1 is older than 8.5"}),
        ({}, {"reason": "ModuleNotFoundError: No module named 'tensorrt'"}),
    ],
    ids=["both", "rtx", "old", "neither"],
)
def test_a_probe_names_the_module_that_builds(tmp_path, monkeypatch, there, found):
    monkeypatch.setenv("PYTHONPATH", hide(tmp_path, *trt_python.MODULES))
    for name, version in there.items():
        (tmp_path / f"{name}.py").write_text(f"__version__ = {version!r}\n")
    assert probe._tensorrt() == found


# --- as a program --------------------------------------------------------------------------------


def start(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(AGENT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_the_first_line_greets_and_another_protocol_is_refused(board):
    given = ("build", "--engine", "e", "--vectors", board.folder / "vectors.json", "--protocol")
    lines = [json.loads(line) for line in start(*given, 1).stdout.splitlines()]
    assert lines[0]["event"] == "hello"
    assert lines[1]["kind"] == "protocol"


def test_without_cuda_it_says_what_is_missing(board):
    given = ["build", "--engine", "e", "--vectors", board.folder / "vectors.json"]
    python_path = hide(board.folder, *trt_python.MODULES)
    done = start(*given, "--cudart", "/none.so", PYTHONPATH=python_path)
    assert done.returncode == 3
    refused = json.loads(done.stdout.splitlines()[-1])
    assert refused["kind"] == "missing-runtime"
    assert "/none.so" in refused["message"]
    # Not one thing at a time: TensorRT is not here either.
    assert "No module named 'tensorrt'; trtexec: neither" in refused["message"]


def old_python(version):
    """An interpreter as boards have it: on the search path, or one that pyenv keeps."""
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    found = shutil.which(f"python{version}") if not kept else str(kept[-1])
    if found is None or subprocess.run([found, "-c", ""], check=False).returncode:
        pytest.skip(f"no Python {version} here")
    return found


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_the_python_of_a_board_builds_by_trtexec(board, monkeypatch, version):
    python = old_python(version)
    library = build_cudart(board.folder / "lib")
    monkeypatch.setenv("STANDIN_TENSORRT", "8.2.1")
    given = ["build", "--model", "model.onnx", "--engine", "e", "--vectors", "vectors.json"]
    given += ["--precision", "fp16", "--trtexec", str(PROGRAM), "--cudart", str(library)]
    done = subprocess.run(
        [python, "-I", str(AGENT), *given],
        capture_output=True,
        text=True,
        cwd=board.folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    hello, told, engine, *_, end = map(json.loads, done.stdout.splitlines())
    assert hello["python"].startswith(version)
    assert (told["tool"], told["tensorrt"]) == ("trtexec", "8.2.1")
    assert engine["parity"]["passed"]
    assert end == {"event": "end"}
