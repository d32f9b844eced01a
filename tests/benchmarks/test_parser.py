"""Verdicts of edgekd and NVIDIA side by side: when they are the same, and why they are not."""

import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest

from benchmarks.export.parser import SETS, ask, changes, find_parser, summary
from benchmarks.export.parser_files import newest
from benchmarks.export.parser_forms import forms
from benchmarks.export.parser_graphs import operators_of, threads
from benchmarks.export.parser_reasons import (
    LONGEST,
    UNEXPLAINED,
    agree,
    ours_text,
    refusing,
    theirs,
    why_not,
)
from benchmarks.rows import read_rows
from edgekd.export.compatibility import check_model
from edgekd.export.nvidia_parser import ParserAnswer, ParserReason, ParserRequest, find_module
from edgekd.export.tensorrt_rules import GPU_RULE, Violation
from tests.conftest import REPOSITORY

NO_PLUGIN = "Assertion failed: plugin != nullptr: ROIAlign plugin was not found in the registry!"
NO_KERNEL = "IBuilder::buildSerializedNetwork: Error Code 1: Myelin (no kernel)"
NO_NETWORK = "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (wrong type)"


def answer(*, read=True, built=None, message=None, operator=None):
    reasons: tuple[ParserReason, ...] = ()
    if message is not None:
        reasons = (ParserReason(node="n", operator=operator, message=message),)
    return ParserAnswer(read=read, parse_s=0.1, reasons=reasons, built=built)


@pytest.mark.parametrize(
    ("said", "text", "taken", "built"),
    [
        (answer(built=True), "built", True, True),
        # An input holds sizes: nothing was built, and nothing is wrong with it.
        (answer(), "read", True, True),
        (answer(built=False, message=NO_KERNEL), "read, not compiled: Error Code 1", True, False),
        (answer(built=False, message=NO_NETWORK), "read, refused: Error Code 4", False, False),
        (
            answer(read=False, message=NO_PLUGIN, operator="RoiAlign"),
            "refused: RoiAlign: Assertion failed",
            False,
            False,
        ),
        ("its process ended by SIGSEGV before it answered", "died: its process", None, False),
        ("no answer within 30 s; it was ended", "late: no answer", None, False),
    ],
)
def test_a_file_is_taken_when_it_is_read_and_the_builder_does_not_refuse_the_network(
    said, text, taken, built
):
    found = theirs(said)
    assert found.text.startswith(text)
    assert (found.taken, found.built) == (taken, built)


def test_a_message_is_one_line_without_nvidias_own_places():
    long = "reshape [2,1]\n of volume. In operator() at /_src/a/b.cpp:46 (more) " + "x" * 400
    found = theirs(answer(read=False, message=long, operator="MatMul")).text
    assert found.startswith("refused: MatMul: reshape [2,1] of volume. in operator() (more) xx")
    assert len(theirs(answer(read=False, message="y" * 400)).text) == LONGEST


def violation(rule, message, **extra):
    return Violation(rule=rule, where="n", message=message, advice="", **extra)


def test_a_rule_of_a_gpu_refuses_below_it_and_then_building_counts():
    found = [violation(GPU_RULE, "FP8 needs 8.9", refuses=False, needs_gpu="8.9")]
    assert refusing(found, "8.9") == refusing(found, "12.0") == {}
    rules = refusing(found, "8.6")
    assert rules == {GPU_RULE: "FP8 needs 8.9"}
    assert agree(rules, theirs(answer(built=False, message=NO_KERNEL)))
    assert not agree(rules, theirs(answer(built=True)))


def test_what_harms_and_does_not_refuse_is_legal():
    found = [violation("weights per tensor", "one scale", refuses=False)]
    assert refusing(found, "8.6") == {}
    assert ours_text({}) == "legal"


def test_they_agree_when_both_take_or_both_refuse():
    refused = theirs(answer(read=False, message=NO_PLUGIN, operator="RoiAlign"))
    taken, died = theirs(answer(built=True)), theirs("its process ended by SIGSEGV")
    rules = {"operator": "If holds a graph of its own"}
    assert agree({}, taken)
    assert agree(rules, refused)
    assert not agree({}, refused)
    assert not agree(rules, taken)
    # Who did not answer agrees with nobody.
    assert not agree({}, died)
    assert not agree(rules, died)


def test_every_rule_that_refuses_alone_needs_a_reason_of_its_own():
    taken = theirs(answer(built=True))
    known = {"operator": "If holds a graph of its own, which", "opset": "opset 1; TensorRT reads"}
    why = why_not(known, taken)
    assert "graphs within a node" in why
    assert "opsets" in why
    assert UNEXPLAINED in why_not({**known, "moon": "is full"}, taken)
    refused = theirs(answer(read=False, message=NO_PLUGIN, operator="RoiAlign"))
    assert why_not({}, refused).startswith("RTX brings no plugin")
    unknown = theirs(answer(built=False, message=NO_NETWORK))
    assert why_not({}, unknown) == UNEXPLAINED


def row(**changed):
    base = {
        "set": "nodes", "name": "a", "variant": "", "sm": "8.9", "edgekd": "legal",
        "nvidia": "built", "agree": "yes", "why": "", "version": "1",
    }  # fmt: skip
    return base | changed


def test_the_summary_counts_what_is_in_scope():
    rows = [
        row(),
        row(agree="no", nvidia="refused: x", why="because"),
        row(agree="out of scope", nvidia="refused: y"),
    ]
    assert list(summary(rows)) == [
        "nodes: 3 files, 2 in scope, 1 agree (50.0%)",
        "     1  NVIDIA alone refuses: because",
    ]


def test_versions_are_compared_by_the_kind_of_their_verdict():
    rows = [
        row(nvidia="refused: old words"),
        row(version="2"),
        row(name="b", nvidia="refused: some words"),
        row(name="b", nvidia="refused: other words", version="2"),
    ]
    assert list(changes(rows, ["1", "2"])) == [
        "2 files, 1 2",
        "     1  refused > built: nodes a (refused: old words)",
    ]


@pytest.mark.parametrize("make", [threads, forms])
def test_graphs_have_names_of_their_own_and_are_made(tmp_path, make):
    (group,) = make()
    assert len(set(group.keys)) == len(group.keys) > 20
    files = list(group.make(tmp_path))
    assert [(file.name, file.variant) for file in files] == list(group.keys)
    for file in files:
        assert operators_of(onnx.load(file.path))
        assert isinstance(check_model(file.path, newest()), tuple)


def test_rows_stand_once_and_disagreements_say_why():
    rows = read_rows(REPOSITORY / "benchmarks" / "results" / "export-parser.csv")
    keys = Counter(tuple(row[e] for e in ("set", "name", "variant", "sm")) for row in rows)
    assert {name for name, *_ in keys} <= set(SETS)
    assert all(count == 1 for count in keys.values())
    for each in rows:
        assert (each["agree"] == "no") == bool(each["why"])
        assert each["agree"] != "no" or each["edgekd"] != "legal" or each["nvidia"] != "built"


@pytest.mark.skipif(find_module() is None, reason="TensorRT-RTX is not installed")
def test_a_parser_is_found_and_answers_for_every_file(tmp_path):
    parser = find_parser(Path(sys.executable))
    assert {"Conv", "QuantizeLinear"} <= parser.operators
    assert "StringSplit" not in parser.operators
    (group,) = threads()
    paths = [file.path for file in list(group.make(tmp_path))[:2]]
    requests = [ParserRequest(model=path, sms=()) for path in paths if path]
    assert [isinstance(each, ParserAnswer) for each in ask(requests, parser, 60)] == [True] * 2
