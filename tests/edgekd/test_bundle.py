"""A bundle that somebody touched is found out."""

import json
import shutil

import pytest

from edgekd import bundle
from edgekd.errors import InputFileError, IntegrityError


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "b")


def test_what_was_made_verifies(copy, edgekd):
    code, out, _ = edgekd("bundle", "verify", copy)
    assert code == 0
    assert "whole" in out


@pytest.mark.parametrize(
    "name",
    ["model-int8.onnx", "manifest.json", "report.json", "student.safetensors", "golden-fp32.bin"],
)
def test_one_changed_byte_is_found(copy, edgekd, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    code, out, err = edgekd("bundle", "verify", copy)
    assert code in {2, 7}  # a manifest can be damaged until it is none
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
        bundle.verify(copy)


def test_a_manifest_whose_digest_does_not_hold_is_found(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["quality"] = "failed" if manifest["quality"] == "passed" else "passed"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="content digest"):
        bundle.verify(copy)


def test_missing_added_and_linked_files_are_found(copy):
    (copy / "golden-inputs.bin").unlink()
    (copy / "extra").write_text("")
    (copy / "link").symlink_to("/etc/hostname")
    with pytest.raises(IntegrityError) as caught:
        bundle.verify(copy)
    assert all(name in str(caught.value) for name in ("golden-inputs.bin", "extra", "link"))


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", ".hidden"])
def test_paths_that_lead_out_are_refused(copy, path):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][0]["path"] = path
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputFileError, match="path"):
        bundle.verify(copy)


def test_a_folder_that_is_no_bundle_is_named(tmp_path, edgekd):
    code, _, err = edgekd("bundle", "verify", tmp_path)
    assert code == 2
    assert "not a bundle" in err


def test_inspect_says_what_it_is(copy, edgekd):
    code, out, _ = edgekd("bundle", "inspect", copy)
    assert code == 0
    assert "jetson-orin-nano-8gb@jp6.2" in out
    assert "none: the images were inverted" in out
