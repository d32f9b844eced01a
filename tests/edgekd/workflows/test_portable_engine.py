"""`--target x86-rtx`: one engine for several kinds of GPU, by NVIDIA's own builder, where there is no GPU."""

import hashlib
import json

import pytest

from edgekd.export import nvidia_parser
from edgekd.export.nvidia_parser import INSTALL, find_module
from tests.edgekd.making import models_of, write_student


@pytest.fixture
def exported(edgekd, tmp_path):
    def run(*words):
        student = tmp_path / "s"
        if not student.exists():
            write_student(student)
        return edgekd("export", student, "-t", "x86-rtx", "--out", tmp_path / "o", *words)

    return run


def test_an_engine_of_the_smallest_precision_is_built_for_all_cards(exported, tmp_path):
    if find_module() is None:
        pytest.skip(f"TensorRT-RTX is not installed: {INSTALL}")
    code, out, err = exported("--json")
    # Random images say nothing of INT8.
    assert code in {0, 4}, err
    engine = json.loads((tmp_path / "o" / "models.json").read_text())["portable"]
    data = (tmp_path / "o" / engine["path"]).read_bytes()
    assert engine["digest"] == hashlib.sha256(data).hexdigest()
    assert engine["size_bytes"] == len(data)
    assert engine["compute_capabilities"] == ["7.5", "8.6", "8.9", "12.0"]
    assert engine["tensorrt"].startswith("rtx-1.")
    models = models_of(tmp_path / "o")
    assert engine["precision"] == "int8"
    assert engine["made_from"] == models["int8"]["digest"]
    assert "for SM 7.5, 8.6, 8.9, 12.0" in err
    assert "no GPU has run it here" in err
    if code == 0:
        assert json.loads(out)["portable"] == engine


def test_without_the_builder_the_files_stand_and_the_engine_is_missed(
    exported, tmp_path, monkeypatch
):
    monkeypatch.setattr(nvidia_parser, "MODULES", ("a_module_that_is_not_there",))
    code, _, err = exported()
    assert code in {0, 4}, err
    assert "warning: no engine was built: TensorRT-RTX is not installed here" in err
    assert INSTALL in err
    assert json.loads((tmp_path / "o" / "models.json").read_text())["portable"] is None
    assert not list((tmp_path / "o").glob("*.engine"))


def test_other_targets_get_none(edgekd, tmp_path):
    write_student(tmp_path / "s")
    edgekd("export", tmp_path / "s", "-t", "jetson", "--out", tmp_path / "o")
    assert json.loads((tmp_path / "o" / "models.json").read_text())["portable"] is None


def test_what_the_builder_refuses_costs_the_engine_and_not_the_files(
    exported, tmp_path, monkeypatch
):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{nvidia_parser.MODULES[0]}.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)
    code, _, err = exported()
    assert code in {0, 4}, err
    assert "warning: no engine was built of model-int8.onnx: its process ended by SIGABRT" in err
    assert json.loads((tmp_path / "o" / "models.json").read_text())["portable"] is None
