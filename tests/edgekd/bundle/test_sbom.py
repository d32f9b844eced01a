"""What a bundle says of its parts: the bill by CycloneDX's schema, the card and the licences as Markdown."""

import json
import re
from dataclasses import replace

import pytest

from edgekd.bundle import layout, model_card, sbom
from edgekd.records import DataUsed
from edgekd.templating import render
from tests.edgekd.bundles import bill_faults, manifest_of, report_of, sha, write_bundle

HOSTILE = "a|b\n# <script>alert(1)</script> [x](http://example.invalid) `c` *d* _e_ \\"


@pytest.fixture
def records(tmp_path):
    folder = write_bundle(tmp_path / "b")
    return layout.read_manifest(folder), layout.read_report(folder)


def test_the_bill_is_valid_and_would_be_refused_if_it_were_not(records):
    manifest, report = records
    text = sbom.bill(manifest, report, {"torch": "2.0"})
    assert bill_faults(text) is None
    for spoilt in (
        text.replace("machine-learning-model", "machine-learned-model"),
        text.replace('"SHA-256"', '"SHA-255"'),
        text.replace('"bomFormat"', '"bomformat"'),
    ):
        assert bill_faults(spoilt) is not None


def test_the_bill_of_everything_that_can_be_in_it_is_valid(records):
    manifest, report = records
    full = replace(
        manifest,
        data_used=DataUsed(kind="few real", statement=HOSTILE, digests={HOSTILE: sha("x")}),
        teacher=replace(manifest.teacher, file=HOSTILE),
        warnings=(HOSTILE,),
        class_names=tuple("abcdefghij"),
    )
    assert bill_faults(sbom.bill(full, report, sbom.versions())) is None
    bare = replace(full, warnings=(), models=())
    assert (
        bill_faults(sbom.bill(bare, replace(report, evaluation=None, measurements=()), {})) is None
    )


def test_the_bill_names_every_file_with_its_digest_and_what_it_was_made_from(records):
    manifest, report = records
    found = json.loads(sbom.bill(manifest, report, sbom.versions()))
    parts = {part["bom-ref"]: part for part in found["components"]}
    for model in manifest.models:
        assert parts[model.path]["hashes"] == [{"alg": "SHA-256", "content": model.digest}]
    depends = {each["ref"]: each["dependsOn"] for each in found["dependencies"]}
    assert depends["bundle"] == ["model-fp32.onnx", "model-int8.onnx"]
    assert depends["model-int8.onnx"] == ["model-fp32.onnx"]
    assert depends["model-fp32.onnx"] == ["student"]
    assert depends["student"] == ["teacher"]
    metrics = parts["model-fp32.onnx"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "accuracy on test.npz", "value": "0.9"} in metrics
    assert {"type": "median latency on a test machine, seconds", "value": "0.0002"} in metrics


def test_the_same_bundle_has_the_same_bill(records):
    manifest, report = records
    one, two = (sbom.bill(manifest, report, {"torch": "2.0"}) for _ in range(2))
    assert one == two
    other = replace(manifest, content_digest=sha("another"))
    assert (
        json.loads(sbom.bill(other, report, {}))["serialNumber"] != json.loads(one)["serialNumber"]
    )


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"metadata": 3}', b"[" * 100_000])
def test_versions_of_a_bill_that_is_none_of_ours_are_none(text):
    assert sbom.tools_in(text) == {}


def test_names_cannot_write_markdown_or_html_into_the_card(tmp_path):
    folder = write_bundle(tmp_path / "b")
    manifest = replace(layout.read_manifest(folder), warnings=(HOSTILE,))
    manifest = replace(manifest, teacher=replace(manifest.teacher, file=HOSTILE))
    for text in (
        model_card.model_card(manifest, report_of(manifest, 0.5)),
        model_card.licences(manifest),
    ):
        lines = [line for line in text.splitlines() if "script" in line]
        assert lines
        assert not any(line.startswith("# <") for line in text.splitlines())
        for line in lines:
            # Every mark that means something stands behind a backslash.
            assert not re.search(r"(?<!\\)(?:\\\\)*[<>`*\[\]]", line.replace("- ", "", 1)), line
            assert not re.search(r"http:\/\/", line)


def test_the_card_tells_the_whole_chain(tmp_path):
    folder = write_bundle(tmp_path / "b")
    manifest, report = manifest_of(folder), layout.read_report(folder)
    links = model_card.chain(manifest, report)
    assert [link.what for link in links] == [
        "teacher, file",
        "teacher, weights",
        "student",
        "ONNX, fp32",
        "ONNX, int8",
    ]
    known = {link.digest for link in links}
    assert all(link.made_from in known for link in links if link.made_from)
    card = (folder / layout.CARD).read_text()
    assert all(link.digest in card for link in links)
    assert "90.00%" in card


def test_pages_in_html_are_escaped_as_html_still():
    with pytest.raises(Exception, match="manifest"):
        render("report.html")
