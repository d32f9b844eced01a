"""Files of format 1, written by the edgekd that had it: they are read as format 2."""

import json
import shutil
from pathlib import Path

import pytest

from edgekd.bundle import verification
from edgekd.errors import InputFileError, IntegrityError
from edgekd.files import digest_of
from edgekd.gate import gates
from edgekd.gate.gates import Judgement
from edgekd.records import Measured, from_json, to_json
from edgekd.records.manifest import Manifest, Report
from edgekd.schemas import SCHEMAS
from edgekd.workflows.measure import benchmark_output

OLD = Path(__file__).parent / "schema-1"
FILES = {
    "judgement": OLD / "judgement.json",
    "manifest": OLD / "bundle" / "manifest.json",
    "measurements": OLD / "measurements.json",
    "report": OLD / "bundle" / "report.json",
}


def read(name, text=None):
    content = FILES[name].read_text() if text is None else text
    return from_json(SCHEMAS[name], content, origin=name, schema=name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_format_1_is_read_and_written_as_format_2(name):
    assert json.loads(FILES[name].read_text())["schema_version"] == 1
    found = read(name)
    again = to_json(found, schema=name)
    assert json.loads(again)["schema_version"] == 2
    assert read(name, again) == found


def test_figures_of_format_1_keep_their_warnings_and_their_engine():
    found = read("measurements")
    assert isinstance(found, Measured)
    first, second = found.measurements
    assert "load" in [warning.code for warning in first.warnings]
    assert second.engine is not None
    assert (second.engine.build_key, second.engine.not_kept_in_fp32) == ("2" * 64, ("gone",))
    assert second.engine.warnings == ()  # not kept then
    assert benchmark_output.read_measured(OLD / "measurements.json") == found


def test_verdicts_of_format_1_get_their_kind_and_metric_from_their_names():
    found = read("judgement")
    assert isinstance(found, Judgement)
    assert [(each.name, each.kind, each.metric) for each in found.results] == [
        ("agreement", "quality", None),
        ("budget size", "budget", "size"),
        ("budget agreement", "quality", "agreement"),
    ]
    assert gates.select_budget(found.results) == found.results[1:]


def test_a_bundle_of_format_1_still_verifies(tmp_path):
    manifest, report = read("manifest"), read("report")
    assert isinstance(manifest, Manifest)
    assert isinstance(report, Report)
    assert report.evaluation is not None
    assert report.evaluation.int8_top1_agreement == 1.0
    assert {gate.kind for gate in (*manifest.quality_gates, *report.gates)} == {"quality"}
    assert verification.verify_bundle(OLD / "bundle").manifest == manifest
    # Its content digest is that of its own text: one that was changed and listed again is found.
    copy = tmp_path / "copy"
    shutil.copytree(OLD / "bundle", copy)
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace("95 % the same", "99 % the same"))
    sums = (copy / "SHA256SUMS").read_text()
    old, new = (digest_of(path / "manifest.json") for path in (OLD / "bundle", copy))
    (copy / "SHA256SUMS").write_text(sums.replace(old, new))
    with pytest.raises(IntegrityError, match="content digest"):
        verification.verify_bundle(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 3},
        {"schema_version": True},
        {"schema_version": "1"},
        {"schema_version": 1.0},
        {"results": {"name": "agreement"}},
        {"results": [["agreement"], 3]},
        {"results": [{"name": ["budget size"]}]},
    ],
)
def test_what_is_neither_format_is_refused(change):
    plain = json.loads(FILES["judgement"].read_text())
    with pytest.raises(InputFileError, match="judgement"):
        read("judgement", json.dumps(plain | change))


def test_a_file_with_the_old_and_the_new_name_is_refused():
    plain = json.loads(FILES["measurements"].read_text())
    plain["measurements"][0]["warnings"] = []
    with pytest.raises(InputFileError, match=r"doubts: a key that this edgekd does not know"):
        read("measurements", json.dumps(plain))
