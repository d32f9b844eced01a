"""A bundle that somebody touched is found out."""

import json
import shutil
from dataclasses import replace

import pytest

from edgekd.bundle import verification
from edgekd.errors import InputFileError, IntegrityError
from tests.edgekd.bundles import bill_faults, renamed_student, reseal, sha, write_bundle
from tests.edgekd.conftest import TEACHER, edgekd_process


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "b")


def test_what_was_made_verifies(copy, edgekd):
    code, out, _ = edgekd("bundle", "verify", copy)
    assert code == 0
    assert " OK: " in out


@pytest.mark.parametrize(
    "name",
    ["model-int8.onnx", "manifest.json", "report.json", "student.safetensors", "golden-fp32.bin"],
)
def test_one_changed_byte_is_found(copy, edgekd, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    code, out, err = edgekd("bundle", "verify", copy)
    assert code == 7
    assert out == ""
    assert name in err


def test_a_changed_file_with_its_sum_changed_too_is_found(copy):
    import hashlib

    (copy / "model-fp32.onnx").write_bytes(b"another model")
    lines = (copy / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256(b"another model").hexdigest()
    lines = [
        f"{digest}  model-fp32.onnx" if line.endswith("model-fp32.onnx") else line for line in lines
    ]
    (copy / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    with pytest.raises(IntegrityError, match="not the file that the manifest names"):
        verification.verify_bundle(copy)


def test_a_manifest_whose_digest_does_not_hold_is_found(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["quality"] = "failed" if manifest["quality"] == "passed" else "passed"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    reseal(copy)
    with pytest.raises(IntegrityError, match="content digest"):
        verification.verify_bundle(copy)


def test_missing_added_and_linked_files_are_found(copy):
    (copy / "golden-inputs.bin").unlink()
    (copy / "extra").write_text("")
    (copy / "link").symlink_to("manifest.json")
    with pytest.raises(IntegrityError) as caught:
        verification.verify_bundle(copy)
    assert all(name in str(caught.value) for name in ("golden-inputs.bin", "extra", "link"))


@pytest.mark.parametrize(
    ("there", "said"),
    [(b"another engine", "not the engine that report.json names"), (None, "not in the bundle")],
)
def test_an_engine_that_the_report_names_is_held_to_it(tmp_path, there, said):
    folder = write_bundle(tmp_path / "b")
    name = "model-int8-rtx.engine"
    (folder / name).write_bytes(b"the engine")
    report = json.loads((folder / "report.json").read_text())
    report["engine"] = {
        "path": name,
        "digest": sha("the engine"),
        "made_from": sha("model"),
        "precision": "int8",
        "tensorrt": "rtx-1.7.1.116",
        "compute_capabilities": ["8.6"],
        "size_bytes": 10,
        "build_s": 0.5,
    }
    (folder / "report.json").write_text(json.dumps(report))
    reseal(folder)
    # It is no content: the manifest does not know of it.
    verification.verify_bundle(folder)
    if there is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(there)
    reseal(folder)
    with pytest.raises(IntegrityError, match=said):
        verification.verify_bundle(folder)


@pytest.mark.parametrize("path", ["../outside", "/outside", "a/../../b", ".hidden"])
def test_paths_that_lead_out_are_refused(copy, path):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][0]["path"] = path
    (copy / "manifest.json").write_text(json.dumps(manifest))
    reseal(copy)
    with pytest.raises(InputFileError, match="path"):
        verification.verify_bundle(copy)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"schema_version": 2', '"schema_version": 3', "format 3; this edgekd reads 1 to 2"),
        (
            '"schema_version": 2',
            '"schema_version": 2, "colour": 3',
            "colour: a key that this edgekd",
        ),
        (
            '"schema_version": 2',
            '"schema_version": 2, "schema_version": 2',
            "twice: 'schema_version'",
        ),
        ('"agreement": 0.875', '"agreement": NaN', "NaN is no number"),
        ('"classes": 10', '"classes": "ten"', "classes"),
        ('"schema": "manifest"', '"schema": "report"', "not an edgekd manifest"),
    ],
)
def test_a_manifest_that_is_not_understood_is_said_to_be(tmp_path, edgekd, old, new, said):
    folder = write_bundle(tmp_path / "b")
    text = (folder / "manifest.json").read_text()
    assert old in text
    (folder / "manifest.json").write_text(text.replace(old, new, 1))
    reseal(folder)
    code, out, err = edgekd("bundle", "verify", folder)
    assert code == 2
    assert out == ""
    assert said in err


def test_a_chain_of_digests_that_is_broken_is_found(tmp_path):
    def other_origin(manifest):
        return replace(manifest, models=(replace(manifest.models[0], made_from=sha("x")),))

    def other_digest(manifest):
        return replace(manifest, student=replace(manifest.student, digest=sha("x")))

    for change, said in (
        (renamed_student, "student.safetensors was made from"),
        (other_origin, "model-fp32.onnx was made from"),
        (other_digest, "student.safetensors has another digest"),
    ):
        folder = write_bundle(tmp_path / said, change=change)
        with pytest.raises(IntegrityError, match=said):
            verification.verify_bundle(folder)


def test_sums_in_another_form_are_found(tmp_path):
    folder = write_bundle(tmp_path / "b")
    text = (folder / "SHA256SUMS").read_text()
    lines = text.splitlines(keepends=True)
    for spoilt in (
        text.replace("  ", " *"),
        "".join(reversed(lines)),
        text + lines[0],
        text.rstrip("\n"),
        text + "\n",
    ):
        (folder / "SHA256SUMS").write_text(spoilt)
        with pytest.raises(IntegrityError, match="SHA256SUMS"):
            verification.verify_bundle(folder)


def test_what_compress_made_holds_a_card_a_bill_and_notes_on_licences(made):
    folder = made[0]
    manifest = verification.verify_bundle(folder).manifest
    card = (folder / "MODEL_CARD.md").read_text()
    for model in manifest.models:
        assert model.digest in card
    assert manifest.teacher.file_digest in card
    assert manifest.content_digest in (folder / "LICENSES.md").read_text()
    assert bill_faults((folder / "bom.cdx.json").read_text()) is None


@pytest.mark.slow
def test_a_bundle_of_all_precisions_with_embedded_parts_and_tuning_holds(tmp_path):
    """Every way in which one model is made from another leaves a chain that is whole."""
    wanted = ("--embed", "preprocessing", "--embed", "softmax", "--tune", "4")
    asked = ("--target", "jetson-thor-t5000", "--min-agreement", "0")
    budget = ("--steps", "20", "--batch", "64")
    process = edgekd_process(
        "compress", TEACHER, *asked, *budget, *wanted, "--out", "b", cwd=tmp_path
    )
    _, err = process.communicate(timeout=560)
    assert process.returncode in {0, 4}, err  # so few steps may miss a gate
    manifest = verification.verify_bundle(tmp_path / "b").manifest
    assert [model.precision for model in manifest.models] == ["fp32", "fp16", "int8"]
    assert bill_faults((tmp_path / "b" / "bom.cdx.json").read_text()) is None


def test_a_folder_that_is_no_bundle_is_named(tmp_path, edgekd):
    code, _, err = edgekd("bundle", "verify", tmp_path)
    assert code == 2
    assert "not a bundle" in err


def test_inspect_says_what_it_is(copy, edgekd):
    code, out, _ = edgekd("bundle", "inspect", copy)
    assert code == 0
    assert "jetson-orin-nano-8gb@jp6.2" in out
    assert "none: the images were inverted" in out
