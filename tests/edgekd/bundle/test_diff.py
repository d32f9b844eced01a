"""What changed from one bundle to another."""

import json

from edgekd.bundle import (
    archive,
    diff,
    packing,
    verification,
)
from tests.edgekd.bundles import write_bundle


def changes_of(before, after):
    found = diff.difference(verification.verify_bundle(before), verification.verify_bundle(after))
    return {
        (change.section, change.what): (change.before, change.after) for change in found.changes
    }


def test_a_bundle_differs_in_nothing_from_its_archive(tmp_path, edgekd):
    folder = write_bundle(tmp_path / "b")
    packing.pack(folder, tmp_path / "b.tar", date=archive.DEFAULT_DATE, force=False)
    assert changes_of(folder, tmp_path / "b.tar") == {}
    code, out, _ = edgekd("bundle", "diff", folder, tmp_path / "b.tar")
    assert code == 0
    assert "the same in both" in out


def test_what_changed_in_a_release_is_said(tmp_path, edgekd):
    before = write_bundle(tmp_path / "1.0")
    after = write_bundle(
        tmp_path / "1.1",
        model=b"another model" * 9000,
        teacher="teacher-2.pt",
        accuracy=0.95,
        tools={"torch": "2.1", "onnx": "1.19"},
    )
    found = changes_of(before, after)
    assert found["teacher", "file"] == ("teacher.pt", "teacher-2.pt")
    assert found["accuracy", "int8"] == ("90.00%", "95.00%")
    assert found["software", "torch"] == ("2.0", "2.1")
    assert found["software", "onnx"] == (None, "1.19")
    assert found["software", "edgekd"] == ("0.1.0", None)
    assert ("models", "model-fp32.onnx, size") in found
    assert ("models", "model-fp32.onnx, sha256") in found
    assert ("student", "weights, sha256") not in found
    code, out, _ = edgekd("bundle", "diff", before, after)
    assert code == 0
    assert "torch: 2.0 -> 2.1" in out
    assert "onnx: new: 1.19" in out
    assert "edgekd: gone, was 0.1.0" in out
    code, out, _ = edgekd("bundle", "diff", before, after, "--json")
    record = json.loads(out)
    assert record["schema"] == "bundle-diff"
    assert record["before"] != record["after"]
    assert len(record["changes"]) == len(found)


def test_a_bundle_that_does_not_hold_is_not_compared(tmp_path, edgekd):
    folder = write_bundle(tmp_path / "b")
    other = write_bundle(tmp_path / "o")
    (other / "report.json").write_text("{}")
    code, out, err = edgekd("bundle", "diff", folder, other)
    assert code == 7
    assert out == ""
    assert "report.json" in err
