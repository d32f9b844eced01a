"""`edgekd export --engine`, with stand-ins of TensorRT and of CUDA's runtime (a C library of a few lines)."""

import json
import os
import subprocess
import sys

import pytest

from tests.edgekd.conftest import REPOSITORY
from tests.standin.cudart import build_cudart

STANDIN = REPOSITORY / "tests" / "standin"


@pytest.fixture
def libraries(tmp_path):
    """A folder with a stand-in of libcudart.so."""
    return build_cudart(tmp_path / "lib").parent


def export(folder, *arguments, python_path=(), library_path=(), **variables):
    """The command, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, python_path)),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, library_path)),
    }
    command = [sys.executable, "-m", "edgekd", "export", *map(str, arguments), "--json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment | {name: str(value) for name, value in variables.items()},
    )
    return done.returncode, done.stdout, done.stderr


def test_engines_are_built_kept_and_found_again(made, libraries, tmp_path):
    here = {"python_path": [STANDIN], "library_path": [libraries]}
    given = (made[0], "--target", "jetson", "--engine", "--out", "o")
    code, out, err = export(tmp_path, *given, **here)
    assert code in {0, 4}, err
    if code:  # so few steps: INT8 may not decide as FP32, and nothing is built of what failed
        assert "parity int8" in err
        pytest.skip("the short run's INT8 did not pass its gate")
    fp16, int8 = json.loads(out)["engines"]
    assert [fp16["precision"], int8["precision"]] == ["fp16", "int8"]
    assert (fp16["tensorrt"], fp16["sm"], fp16["tool"]) == ("10.3.0", "8.7", "python")
    assert int8["parity"]["passed"]
    assert not int8["reused"]
    written = json.loads((tmp_path / "o" / "models.json").read_text())
    assert [each["digest"] for each in written["engines"]] == [fp16["digest"], int8["digest"]]
    assert "Building engine: 3 of 3" in err
    code, out, err = export(tmp_path, *given, "--force", **here)
    assert code == 0, err
    assert all(each["reused"] for each in json.loads(out)["engines"])
    code, _, err = export(tmp_path, *given, "--force", STANDIN_TENSORRT="10.13.3", **here)
    assert code == 8
    assert "target has TensorRT 10.3 and this machine TensorRT 10.13" in " ".join(err.split())


def test_what_is_missing_is_named_and_the_files_stay(made, tmp_path):
    code, _, err = export(tmp_path, made[0], "--target", "jetson", "--engine", "--out", "o")
    if "does not load" not in err:
        assert code == 4, err  # a gate of the short run; engines come after it
        pytest.skip("the short run's INT8 did not pass its gate")
    assert code == 3
    assert "libcudart" in err or "CUDA" in err
    assert (tmp_path / "o" / "model-fp32.onnx").exists()
    assert (tmp_path / "o" / "models.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "x86", "--engine"], "runs ONNX Runtime"),
        (["--target", "jetson", "--engine", "--dla", "0"], "has 0 DLA cores"),
        (["--target", "jetson", "--workspace-mb", "64"], "add --engine"),
    ],
)
def test_what_makes_no_sense_is_bad_use(made, tmp_path, arguments, words):
    code, _, err = export(tmp_path, made[0], *arguments, "--out", "o")
    assert code == 2
    assert words in " ".join(err.split())


@pytest.mark.parametrize(
    "target",
    [
        "jetson",
        "raspberry-pi-5",
        # The same two exporters at other opsets.
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("jetson@jp5.1", "jetson-thor-t5000", "jetson-nano")
        ),
    ],
)
def test_the_batch_is_left_open_when_it_is_asked_for(made, tmp_path, target):
    given = (made[0], "--target", target, "--dynamic-batch", "--embed", "softmax", "--out", "o")
    code, _, err = export(tmp_path, *given)
    assert code in {0, 4}, err  # so few steps: INT8 may not decide as FP32
    models = json.loads((tmp_path / "o" / "models.json").read_text())["models"]
    assert models
    for model in models:
        for tensor in (*model["inputs"], *model["outputs"]):
            assert tensor["shape"][0] == "batch", model["path"]


def test_an_engine_of_an_open_batch_is_for_one_image(made, libraries, tmp_path):
    code, out, err = export(
        tmp_path, made[0], "--target", "jetson", "--engine", "--dynamic-batch", "--out", "o",
        python_path=[STANDIN], library_path=[libraries],
    )  # fmt: skip
    if code == 4 and "parity int8" in err:
        pytest.skip("the short run's INT8 did not pass its gate")
    assert code == 0, err
    plan = (tmp_path / "o" / "model-fp16.engine").read_bytes().split(b"\n")[1]
    assert json.loads(plan)["shapes"] == {"images": [1, 1, 28, 28]}
    assert len(json.loads(out)["engines"]) == 2
