"""The whole way, and what a user finds at its end."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import jsonschema
import numpy as np
import onnx
import pytest

from edgekd.files import digest_of
from edgekd.gate import gates as verdicts
from edgekd.records import OnnxModel, from_json
from edgekd.schemas import SCHEMAS, schema_text
from tests.edgekd.conftest import IMAGES, REPOSITORY, TEACHER, edgekd_process

LOOK = """
import json, pathlib, sys
import numpy, onnx, onnxruntime
assert "edgekd" not in sys.modules
folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
def tensor(said, count):
    return numpy.fromfile(folder / said["file"], said["dtype"]).reshape(count, *said["shape"])
for model in manifest["models"]:
    vectors = json.loads((folder / manifest["golden"]["vectors"][model["precision"]]).read_text())
    inputs = tensor(vectors["inputs"][0], vectors["count"])
    onnx.checker.check_model(folder / model["path"], full_check=True)
    session = onnxruntime.InferenceSession(folder / model["path"], providers=["CPUExecutionProvider"])
    got = numpy.concatenate([session.run(None, {"images": one})[0] for one in inputs])
    golden = tensor(vectors["outputs"][0], vectors["count"])[:, 0]
    assert (got.argmax(1) == golden.argmax(1)).all()
    if model["precision"] == "fp32":
        assert abs(got - golden).max() <= manifest["golden"]["tolerance"]
print("accepted", len(manifest["models"]))
"""


def test_stdout_holds_the_record_and_nothing_else(made):
    _, out, _ = made
    record = json.loads(out)
    assert record["schema"] == "outcome"
    assert record["manifest"]["target"]["id"] == "jetson-orin-nano-8gb@jp6.2"


def test_what_an_alias_resolved_to_is_said(made):
    assert "jetson is jetson-orin-nano-8gb@jp6.2" in made[2]


def test_it_warns_that_images_can_reveal_training_data(made):
    assert "can reveal" in made[2]


def test_sha256sum_accepts_the_bundle(made):
    result = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=made[0], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(": OK") == sum(
        path.is_file() and path.name != "SHA256SUMS" for path in made[0].rglob("*")
    )


def test_the_models_are_accepted_without_edgekd(made):
    result = subprocess.run(
        [sys.executable, "-c", LOOK, str(made[0])], capture_output=True, text=True, cwd="/"
    )
    assert result.stdout == "accepted 2\n", result.stderr


@pytest.mark.parametrize("name", ["manifest", "report", "student"])
def test_what_is_written_follows_the_published_schema(made, name):
    published = json.loads((REPOSITORY / "docs" / "schema" / f"{name}-2.schema.json").read_text())
    jsonschema.validate(json.loads((made[0] / f"{name}.json").read_text()), published)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_published_schemas_are_those_of_the_records(name):
    published = REPOSITORY / "docs" / "schema" / f"{name}-2.schema.json"
    assert published.read_text() == schema_text(name), "run: make schemas"


def test_no_file_names_this_machine(made):
    for path in (each for each in made[0].rglob("*") if each.is_file()):
        content = path.read_bytes()
        assert str(REPOSITORY).encode() not in content, path.name
        assert str(made[0].parent).encode() not in content, path.name


def test_the_manifest_tells_where_the_student_came_from(made):
    manifest = json.loads((made[0] / "manifest.json").read_text())
    assert manifest["teacher"]["file_digest"] == hashlib.sha256(TEACHER.read_bytes()).hexdigest()
    assert manifest["student"]["teacher_digest"] == manifest["teacher"]["state_digest"]
    by_precision = {model["precision"]: model for model in manifest["models"]}
    assert by_precision["int8"]["made_from"] == by_precision["fp32"]["digest"]
    assert by_precision["fp32"]["made_from"] == manifest["student"]["digest"]
    assert manifest["data_used"]["kind"] == "none"


def test_the_student_is_about_a_quarter_of_the_teacher(made):
    manifest = json.loads((made[0] / "manifest.json").read_text())
    student, teacher = manifest["student"], manifest["teacher"]
    assert student["initial_weights"] == "cut"
    assert {entry["path"] for entry in manifest["files"]} > {student["cut"]}
    # Channels come in steps: what is asked for is met within 5 %
    assert 0.2 < student["macs"] / teacher["macs"] <= 0.25 * 1.05


def test_evaluation_is_what_a_plain_session_finds(made):
    import onnxruntime

    report = json.loads((made[0] / "report.json").read_text())
    (said,) = [r["accuracy"] for r in report["evaluation"]["results"] if r["model"] == "fp32"]
    data = np.load(IMAGES)
    inputs = ((data["images"].astype("f") / 255 - 0.1307) / 0.3081).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(
        made[0] / "model-fp32.onnx", providers=["CPUExecutionProvider"]
    )
    right = [
        session.run(None, {"images": one[None].astype("f")})[0].argmax() == label
        for one, label in zip(inputs, data["labels"], strict=True)
    ]
    assert said == pytest.approx(np.mean(right), abs=0.002)


def test_the_teacher_of_the_demo_is_right_on_99_percent(made):
    report = json.loads((made[0] / "report.json").read_text())
    assert report["evaluation"]["results"][0]["model"] == "teacher"
    assert report["evaluation"]["results"][0]["accuracy"] >= 0.99


def test_figures_are_never_shown_as_the_targets(made):
    report = json.loads((made[0] / "report.json").read_text())
    assert report["measurements"]
    for measured in report["measurements"]:
        assert measured["is_target"] is False
        assert "jetson" not in measured["taken_on"].lower()
        assert measured["latency"]["values"]
    assert "none of these figures is the target's" in made[2]


def test_the_unfinished_run_is_gone(made):
    assert {path.name for path in made[0].parent.iterdir()} == {"b"}


@pytest.mark.slow
def test_no_images_leaves_nothing_that_shows_them(tmp_path, edgekd):
    code, _, err = edgekd(
        "compress", TEACHER, "-t", "jetson-nano", "--steps", "5", "--batch", "64", "--min-agreement", "0",
        "--no-images", "--no-bench", "--out", tmp_path / "b",
    )  # fmt: skip
    assert code == 0, err
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert names.isdisjoint({"calibration.npy", "held-out.npy", "held-out-teacher.npy"})
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["golden"]["made_of"] == "noise"
    assert manifest["calibration"] is None
    # The first Jetson has no INT8: nothing is quantised for it, and that is said.
    assert "int8" in manifest["without"]
    assert "model-int8.onnx" not in names
    assert onnx.load(tmp_path / "b" / "model-fp32.onnx").opset_import[0].version == 13


@pytest.mark.slow
def test_a_student_that_learned_nothing_exits_4_with_a_bundle_marked_failed(tmp_path):
    process = edgekd_process(
        "compress",
        TEACHER,
        "-t",
        "x86",
        "--steps",
        "3",
        "--batch",
        "64",
        "--no-bench",
        "--from-scratch",
        "--out",
        "b",
        cwd=tmp_path,
    )
    _, err = process.communicate(timeout=560)
    assert process.returncode == 4, err
    assert "quality gate failed" in err
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["quality"] == "failed"


@pytest.mark.slow
def test_distill_then_export_gives_the_same_models_as_compress(tmp_path, edgekd, made):
    code, _, err = edgekd(
        "distill", TEACHER, "--steps", "40", "--batch", "64", "--out", tmp_path / "student"
    )
    assert code == 0, err
    code, out, err = edgekd(
        "export", tmp_path / "student", "-t", "jetson", "--out", tmp_path / "models", "--json"
    )
    assert code == 0, err
    assert len(json.loads(out)["models"]) == 2
    for name in ("model-fp32.onnx", "model-int8.onnx"):
        assert (tmp_path / "models" / name).read_bytes() == (made[0] / name).read_bytes()


def test_bench_measures_a_file(made, edgekd):
    code, out, err = edgekd("bench", made[0] / "model-int8.onnx", "--json")
    assert code == 0, err
    (measured,) = json.loads(out)["measurements"]
    assert measured["precision"] == "int8"
    assert measured["energy"]["kind"] == "unmeasured" or measured["energy"]["gross"]


# --- export's options -------------------------------------------------------------------------------


def exported(edgekd, made, tmp_path, *options):
    """Models and their records, of the short run's bundle."""
    out = tmp_path / "o"
    code, _, err = edgekd("export", made[0], *options, "--out", out)
    assert code in {0, 4}, err  # so few steps: INT8 may not decide as FP32
    return out, json.loads((out / "models.json").read_text())["models"], err


def test_thor_gets_fp16_with_types_in_the_graph(edgekd, made, tmp_path):
    out, models, _ = exported(edgekd, made, tmp_path, "--target", "jetson-thor-t5000")
    assert [model["precision"] for model in models] == ["fp32", "fp16", "int8"]
    assert models[1]["parity"]["passed"]
    assert models[1]["size_bytes"] < 0.7 * models[0]["size_bytes"]
    for name in ("model-fp16.onnx", "model-int8.onnx"):
        graph = onnx.load(out / name).graph
        scales = {node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
        kinds = {e.data_type for e in graph.initializer if not scales or e.name in scales}
        assert onnx.TensorProto.FLOAT16 in kinds


def test_a_camera_can_be_connected_and_a_class_read(edgekd, made, tmp_path):
    out, models, _ = exported(
        *(edgekd, made, tmp_path, "--target", "jetson", "--embed", "preprocessing"),
        *("--embed", "top1"),
    )
    for model in models:
        assert model["embedded"] == ["preprocessing", "top1"]
        assert [(e["name"], e["dtype"]) for e in model["inputs"]] == [("pixels", "uint8")]
        assert [(e["name"], e["dtype"]) for e in model["outputs"]] == [("top1", "int32")]
        assert model["digest"] == digest_of(out / model["path"])


def test_layers_are_kept_within_their_share(edgekd, made, tmp_path):
    _, models, err = exported(edgekd, made, tmp_path, "--target", "jetson", "--keep-fp16", "0.2")
    found = models[-1]["calibration"]
    assert found["kept"]
    shares = {each["layer"]: each["macs_share"] for each in found["sensitivity"]}
    assert sum(shares[layer] for layer in found["kept"]) <= 0.2 + 1e-9
    words = " ".join(err.split())
    assert (
        f"kept in floating point (nats that each alone loses in INT8): {found['kept'][0]} ("
        in words
    )


def test_the_record_says_how_well_the_images_reach(made):
    manifest = json.loads((made[0] / "manifest.json").read_text())
    found = manifest["models"][-1]["calibration"]
    assert found["compared_with"] == "teacher"
    assert len(found["outside"]) == manifest["teacher"]["batch_norm_layers"]
    assert found["outside"] == manifest["calibration"]["coverage"]["outside"]
    gates = {verdict["name"]: verdict for verdict in manifest["quality_gates"]}
    assert gates["calibration int8"]["value"] == pytest.approx(1 - max(found["outside"].values()))


def test_images_that_do_not_reach_fail_the_gate(made):
    (int8,) = (
        from_json(OnnxModel, json.dumps(model), origin="manifest")
        for model in json.loads((made[0] / "manifest.json").read_text())["models"]
        if model["precision"] == "int8"
    )
    assert int8.calibration is not None
    for share, passed in ((0.07, True), (0.09, False)):
        found = replace(int8.calibration, outside={"bn1": 0.01, "bn2": share})
        (verdict,) = verdicts.coverage(replace(int8, calibration=found))
        assert verdict.passed == passed
        assert "bn2" in verdict.reason
    assert verdicts.coverage(replace(int8, calibration=replace(int8.calibration, outside={}))) == ()


def test_other_calibration_images_than_the_recorded_are_refused(edgekd, made, tmp_path):
    bundle = tmp_path / "b"
    shutil.copytree(made[0], bundle)
    np.save(bundle / "calibration.npy", np.load(bundle / "calibration.npy") // 16)
    code, _, err = edgekd("export", bundle, "-t", "jetson", "--out", tmp_path / "o")
    assert code == 7
    assert "not the images that were recorded" in err


@pytest.mark.slow
def test_compress_for_thor_has_every_precision_and_its_figures(edgekd, tmp_path):
    bundle = tmp_path / "b"
    code, out, err = edgekd(
        *("compress", TEACHER, "--target", "jetson-thor-t5000", "--steps", "20", "--batch", "64"),
        *("--min-agreement", "0", "--no-bench", "--eval", IMAGES, "--embed", "preprocessing"),
        *("--out", bundle, "--json"),
    )
    assert code in {0, 4}, err
    outcome = json.loads(out)
    results = {each["model"] for each in outcome["report"]["evaluation"]["results"]}
    assert {"fp32", "fp16", "int8"} < results
    layers = [each["tensor"] for each in outcome["report"]["layer_precision"]]
    assert layers[0] == "images"
    assert len(layers) > 10
    fp32, *others = outcome["manifest"]["models"]
    assert {model["made_from"] for model in others} == {fp32["digest"]}
    for precision in ("fp32", "fp16", "int8"):
        vectors = json.loads((bundle / f"golden-{precision}.json").read_text())
        (given,) = vectors["inputs"]
        assert (given["dtype"], given["shape"]) == ("uint8", [1, 28, 28, 1])
        assert (bundle / given["file"]).stat().st_size == 16 * 28 * 28


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--embed", "resize"), "choose from preprocessing"),
        (("--embed", "bgr"), "add --embed preprocessing"),
        (("--keep-fp16", "2"), "between 0 and 1"),
        (("--keep-by", "time"), "choose from macs, size"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(edgekd, made, tmp_path, options, said):
    code, _, err = edgekd("export", made[0], "-t", "jetson", "--out", tmp_path / "o", *options)
    assert code == 2
    assert said in " ".join(err.split())


def test_bytes_are_refused_for_jetpack_4(edgekd, made, tmp_path):
    code, _, err = edgekd(
        *("export", made[0], "-t", "jetson-nano", "--embed", "preprocessing"),
        *("--out", tmp_path / "o"),
    )
    assert code == 8
    assert "UINT8: needs TensorRT 8.5; leave preprocessing out of the graph" in err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_int8_is_tuned_on_the_images_of_the_run(edgekd, tmp_path):
    bundle = tmp_path / "b"
    code, out, err = edgekd(
        *("compress", TEACHER, "--target", "jetson", "--steps", "20", "--batch", "64"),
        *("--min-agreement", "0", "--no-bench", "--tune", "5", "--keep-fp16", "0.1"),
        *("--out", bundle, "--json"),
    )
    assert code in {0, 4}, err
    assert "tune     INT8 against the teacher: 5 steps" in err
    found = json.loads(out)["manifest"]["models"][-1]["calibration"]
    # Against what would be taken without: corrected where that is nearer to FP32, or as it was
    lost = {name: value for name, value in found["divergence"].items() if name != "tuned"}
    before = found["agreement"][min(lost, key=lost.__getitem__)]
    assert (found["method"] == "tuned") == (found["agreement"]["tuned"] >= before)
    assert found["tuned_steps"] == (5 if found["method"] == "tuned" else 0)
    # Layers that are kept are kept in the tuned file, too
    assert found["kept"]
    shares = {each["layer"]: each["macs_share"] for each in found["sensitivity"]}
    assert sum(shares[layer] for layer in found["kept"]) <= 0.1 + 1e-9
