"""Budgets held against reports that are built here, and against a bundle that was made."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from edgekd.errors import OverBudgetError, QualityError, UsageError
from edgekd.files import digest_of
from edgekd.gate import budget_file, figures, reporters
from edgekd.gate import gates as verdicts
from edgekd.gate.budget_file import budget_of
from edgekd.gate.figures import Reports
from edgekd.records import (
    Budget,
    Energy,
    Estimate,
    GateResult,
    MachineState,
    Measured,
    ModelEstimate,
    Samples,
    Unmeasured,
    to_json,
)
from edgekd.records.manifest import Accuracy, Evaluation
from edgekd.targets.catalogue import load_target
from edgekd.workflows import gate as budgeting
from tests.edgekd.conftest import REPOSITORY, TEACHER, edgekd_process
from tests.edgekd.report.test_bundle_page import ZERO, manifest_of, measured, report_of

ORIN = "jetson-orin-nano-8gb"
FAST = Samples(values=(0.004, 0.005, 0.006), unit="s", groups=(3,))


def setup(*parts, board="NVIDIA Jetson Orin Nano"):
    known: dict[str, Any] = {
        "architecture": "aarch64",
        "kernel": "5",
        "python": "3.10",
        "processors": 6,
        "missing": {},
        "board": board,
        "parts": parts,
    }
    return MachineState(**{**dict.fromkeys(MachineState.__annotations__), **known})


def taken(latency=FAST, *, parts=("nvidia,p3767-0003",), emulated=False, **changes):
    one = measured(latency)
    conditions = replace(
        one.conditions, setup=setup(*parts), emulated=emulated, runtime="tensorrt 10.3.0 (python)"
    )
    return replace(one, conditions=conditions, **changes)


def energy(kind="measured"):
    figure = Samples(values=(0.002, 0.004), unit="J")
    return Energy(gross=figure, kind=kind, scope="module", sensor="PMIC")


def budget(*limits, **changes):
    found = budget_of(limits=limits)
    return Budget(**{**vars(found), "target": ORIN, **changes})


def judged(wanted, *measurements, allowed=(), estimates=(), **more):
    reports = Reports(measurements=measurements, estimates=estimates, **more)
    return verdicts.judge(reports, wanted, allowed=allowed).results


@pytest.mark.parametrize(
    ("limit", "passed"),
    [
        ("latency-p50-ms=5", True),
        ("latency-p50-ms=4.9", False),
        ("latency-p99-ms=5.99", True),
        ("latency-p99-ms=5.9", False),
        ("energy-mj=3", True),
        ("energy-mj=2.9", False),
    ],
)
def test_a_figure_of_the_board_is_held_against_its_limit(limit, passed):
    (result,) = judged(budget(limit), taken(energy=energy()))
    assert result.passed is passed
    assert result.mark == "measured"
    assert ("% over" in verdicts.format_result(result)) is not passed


def test_of_several_figures_that_count_the_worst_does():
    slow = taken(Samples(values=(0.009,), unit="s", groups=(1,)))
    (result,) = judged(budget("latency-p50-ms=5"), taken(), slow)
    assert result.value == 0.009
    assert "worst of 2" in result.reason


ELSEWHERE = {
    "another board": (taken(parts=("nvidia,p3701-0000",)), "which is not jetson-orin-nano-8gb"),
    "no setup": (measured(FAST), "which is not jetson-orin-nano-8gb"),
    "emulated": (taken(emulated=True), "emulated; an estimate does not count"),
    "unmeasured": (taken(Unmeasured(reason="no runtime there")), "Unmeasured (no runtime there)"),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_what_was_not_measured_on_the_board_fails_unless_it_is_allowed(case):
    one, said = ELSEWHERE[case]
    limit = budget("latency-p50-ms=5")
    (result,) = judged(limit, one)
    assert not result.passed
    assert said in result.reason
    (result,) = judged(limit, one, allowed={"latency-p50"})
    assert result.passed
    assert result.mark == ("estimate" if case == "emulated" else "not checked")
    (result,) = judged(limit, one, allowed={"latency-p99"})
    assert not result.passed


def test_an_estimate_over_the_limit_fails_even_where_it_is_allowed():
    found = judged(budget("latency-p50-ms=4"), taken(emulated=True), allowed={"latency-p50"})
    assert not found[0].passed


def test_energy_that_a_sensor_only_estimates_does_not_count():
    one = taken(energy=energy("estimate"))
    limit = budget("energy-mj=9")
    assert not judged(limit, one)[0].passed
    assert judged(limit, one, allowed={"energy"})[0].mark == "estimate"


def test_an_estimate_for_another_board_says_nothing():
    figure = Estimate(value=0.003, interval=(0.002, 0.004), unit="s", confidence=0.9, basis="rows",
                      model="1")  # fmt: skip

    def of(target):
        return ModelEstimate(subject="m", subject_digest=ZERO, target=target, precision="fp32",
                             latency=figure, energy=Unmeasured(reason="no rows"), kernels=3, macs=9,
                             moved_bytes=9)  # fmt: skip

    limit, allowed = budget("latency-p50-ms=5"), {"latency-p50"}
    assert judged(limit, estimates=(of(ORIN),), allowed=allowed)[0].mark == "estimate"
    assert judged(limit, estimates=(of("jetson-nano"),), allowed=allowed)[0].mark == "not checked"
    assert not judged(limit, estimates=(of(ORIN),))[0].passed


def test_a_budget_without_a_board_asks_whose_figures_count():
    with pytest.raises(UsageError, match="whose"):
        judged(budget("latency-p50-ms=5", target=None), taken())


def test_two_models_and_no_word_which_is_refused():
    other = replace(taken(), subject="other.onnx", subject_digest="1" * 64)
    with pytest.raises(UsageError, match=r"model-fp32\.onnx, other\.onnx"):
        judged(budget("latency-p50-ms=5"), taken(), other)


def test_size_agreement_and_accuracy_come_from_the_bundle():
    manifest, report = manifest_of(), report_of()
    found = {
        result.name: result
        for result in judged(
            budget("size-kib=1", "agreement=0.8", "accuracy=0.99"), manifest=manifest, report=report
        )
    }
    assert found["budget size"].value == manifest.models[-1].size_bytes
    assert found["budget agreement"].passed
    assert found["budget accuracy"].value is None
    assert not found["budget accuracy"].passed


def test_accuracy_may_be_relative_to_the_teacher():
    text = {"accuracy": {"max-degradation": 0.5, "of": "teacher"}}
    relative = replace(budget_file._budget(text, "a test"), target=ORIN)
    report = report_of()
    without = replace(report, evaluation=None)
    (_, unknown) = judged(relative, manifest=manifest_of(), report=without)
    assert not unknown.passed
    assert unknown.limit is None
    assert "--eval" in unknown.reason
    results = (
        Accuracy(model="teacher", accuracy=0.99, agreement_with_teacher=1.0),
        Accuracy(model="int8", accuracy=0.986, agreement_with_teacher=0.99),
    )
    evaluated = replace(
        report,
        evaluation=Evaluation(
            data="d", data_digest=ZERO, images=100, results=results, int8_top1_agreement=None
        ),
    )
    (_, known) = judged(relative, manifest=manifest_of(), report=evaluated)
    assert known.passed
    assert known.limit == pytest.approx(0.985)
    (_, missed) = judged(budget("accuracy=0.99"), manifest=manifest_of(), report=evaluated)
    assert not missed.passed
    assert missed.value == 0.986


def test_a_cost_may_be_relative_to_a_baseline_of_the_same_board(tmp_path):
    old = tmp_path / "old.json"
    limits = {"latency-p50": {"max-degradation": 10, "of": "baseline"}, "baseline": str(old)}
    relative = replace(budget_file._budget(limits, "a test"), target=ORIN)
    old.write_text(to_json(Measured(measurements=(taken(),)), schema="measurements"))
    (result,) = judged(relative, taken())
    assert result.passed
    assert result.limit == pytest.approx(0.0055)
    elsewhere = taken(parts=("nvidia,p3701-0000",))
    old.write_text(to_json(Measured(measurements=(elsewhere,)), schema="measurements"))
    (result,) = judged(relative, taken())
    assert not result.passed
    assert "is not jetson-orin-nano-8gb" in result.reason


# --- exit codes and outputs -------------------------------------------------------------------------


def result(name="budget size", *, passed=False, value: float | None = 200.0, **more):
    known = {"kind": "budget", "limit": 100.0, "unit": "B", "reason": "200 B", "bound": "at most"}
    return GateResult(name=name, passed=passed, value=value, **{**known, **more})


def test_quality_wins_over_cost():
    bad = result(
        "a new gate", kind="quality", value=0.5, limit=0.9, unit="share of images", bound="at least"
    )
    verdicts.require_passed([result(passed=True)], bundle="b")
    with pytest.raises(OverBudgetError, match=r"budget size.*2.0 times"):
        verdicts.require_passed([result()], bundle="b")
    with pytest.raises(QualityError, match=r"40\.00 points short"):
        verdicts.require_passed([result(), bad], bundle="b")


HOSTILE = 'a "<b>" & ]]> | \x01\n::error::x %'


def shown(*results):
    passed = all(each.passed for each in results)
    return verdicts.Judgement(subject=HOSTILE, target=None, passed=passed, results=results)


def test_junit_is_xml_whatever_a_report_says_and_names_the_gate():
    root = ET.fromstring(
        reporters.junit(
            shown(
                result(reason=HOSTILE),
                result("budget energy", passed=True, value=None, mark="not checked"),
                result("budget accuracy", passed=True),
            )
        )
    )
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("3", "1", "1")
    cases = {case.get("name"): [part.tag for part in case] for case in root.iter("testcase")}
    assert cases == {
        "budget size": ["failure", "system-out"],
        "budget energy": ["skipped", "system-out"],
        "budget accuracy": ["system-out"],
    }


def test_annotations_and_tables_stay_one_line_a_gate():
    found = shown(result(reason=HOSTILE), result("budget energy", passed=True, mark="estimate"))
    lines = reporters.annotations(found).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]
    assert "%25" in lines[0]
    table = [line for line in reporters.markdown(found).splitlines() if line.startswith("| ")]
    assert len(table) == 4
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in table)


# --- the command ------------------------------------------------------------------------------------


def test_a_bundle_passes_a_budget_that_it_keeps_and_fails_a_tighter_one(edgekd, made, tmp_path):
    junit, summary = tmp_path / "gate.xml", tmp_path / "summary.md"
    wide = ("--limit", "size-kib=500", "--junit", junit, "--summary", summary)
    code, out, err = edgekd("gate", made[0], *wide)
    assert code == 0, err
    assert "budget size" in out
    assert ET.parse(junit).getroot().get("failures") == "0"
    code, _, err = edgekd("gate", made[0], "--limit", "size-kib=5", "--junit", junit)
    assert code == 5
    assert "budget size" in err
    failed = [case.get("name") for case in ET.parse(junit).iter("testcase") if case.find("failure") is not None]  # fmt: skip
    assert failed == ["budget size"]
    assert summary.read_text().startswith("### edgekd gate: passed")


def test_a_latency_that_nobody_measured_fails_and_is_marked_where_it_is_allowed(edgekd, made):
    limit = ("--limit", "latency-p50-ms=5")
    code, out, _ = edgekd("gate", made[0], *limit)
    assert code == 5
    assert "Unmeasured" in out
    code, out, _ = edgekd("gate", made[0], *limit, "--allow-estimates", "latency-p50-ms", "--json")
    assert code == 0
    (latency,) = [each for each in json.loads(out)["results"] if "latency" in each["name"]]
    assert (latency["passed"], latency["mark"], latency["value"]) == (True, "not checked", None)


BAD = {
    "no such file": ("nothing.json",),
    "not JSON": ("not.json",),
    "another schema": ("other.json",),
    "NaN": ("nan.json", "--target", ORIN),
    "another model": ("BUNDLE", "other-model.json"),
    "two bundles": ("BUNDLE", "BUNDLE"),
    "no key": ("BUNDLE", "--allow-estimates", "speed"),
    "never estimated": ("BUNDLE", "--allow-estimates", "size-kib"),
    "no such precision": ("BUNDLE", "--budget", "fp16.toml"),
    "no INT8 there": ("BUNDLE", "--budget", "nano.toml"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_code_2_and_says_what(edgekd, made, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    text = to_json(Measured(measurements=(taken(),)), schema="measurements")
    (tmp_path / "not.json").write_text("{")
    (tmp_path / "other.json").write_text('{"schema": "plan", "schema_version": 1}')
    (tmp_path / "nan.json").write_text(text.replace("0.004", "NaN"))
    (tmp_path / "other-model.json").write_text(text)
    (tmp_path / "fp16.toml").write_text('[budget]\nprecision = "fp16"\nsize-kib = 1\n')
    (tmp_path / "nano.toml").write_text(
        '[budget]\ntarget = "jetson-nano"\nprecision = "int8"\nsize-kib = 1\n'
    )
    words = [made[0] if word == "BUNDLE" else word for word in BAD[case]]
    code, out, err = edgekd("gate", *words, "--limit", "size-kib=500")
    assert (code, out) == (2, ""), err
    assert err.startswith("edgekd: ")
    assert "Traceback" not in err


def test_nothing_to_judge_is_said(edgekd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.json").write_text(to_json(Measured(measurements=()), schema="measurements"))
    code, _, err = edgekd("gate", "b.json")
    assert code == 2
    assert "no limits" in err


def test_a_bundle_that_was_changed_is_not_judged(edgekd, made, tmp_path):
    copy = tmp_path / "b"
    shutil.copytree(made[0], copy)
    report = copy / "report.json"
    report.write_text(report.read_text().replace("0.9", "0.8", 1))
    code, _, _ = edgekd("gate", copy, "--limit", "size-kib=500")
    assert code == 7


def test_an_archive_is_judged_as_its_folder_is_and_a_key_is_asked_for(edgekd, made, tmp_path):
    packed = tmp_path / "b.tar"
    assert edgekd("bundle", "pack", made[0], "--out", packed)[0] == 0
    limit = ("--limit", "size-kib=500", "--json")
    assert edgekd("gate", packed, *limit)[1] == edgekd("gate", made[0], *limit)[1]
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    public = tmp_path / "public.pem"
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    assert edgekd("gate", packed, *limit, "--key", public)[0] == 7
    assert edgekd("bundle", "sign", packed, "--key", key)[0] == 0
    assert edgekd("gate", packed, *limit, "--key", public)[0] == 0


def test_where_each_value_comes_from_is_shown(edgekd, tmp_path):
    file = tmp_path / "edgekd.toml"
    file.write_text('[budget]\ntarget = "jetson-nano"\nsize-kib = 200\n')
    code, out, _ = edgekd(
        "config", "show", "--budget", file, "--limit", "energy-mj=2", "-t", "jetson"
    )
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert rows["target"].endswith("--target")
    assert rows["size-kib"].endswith(str(file))
    assert rows["energy-mj"].endswith("--limit")


ODD: dict[str, tuple[dict[str, Any], Samples, str]] = {
    "a batch": ({"batch": 64}, FAST, "batch of 64"),
    "another runtime": ({"runtime": "onnxruntime 1.31"}, FAST, "runs tensorrt"),
    "another TensorRT": (
        {"runtime": "tensorrt 8.5.2 (trtexec)"},
        FAST,
        "jp6.2 has tensorrt 10.3.0",
    ),
    "an unknown TensorRT": (
        {"runtime": "tensorrt None (trtexec --duration=10.3)"},
        FAST,
        "jp6.2 has tensorrt 10.3.0",
    ),
    "negative": ({}, Samples(values=(-0.004,), unit="s"), "no latency-p50 in s that could be one"),
    "another unit": (
        {},
        Samples(values=(0.004,), unit="J"),
        "no latency-p50 in s that could be one",
    ),
    "nothing": ({}, Samples(values=(), unit="s"), "no latency-p50 in s that could be one"),
}


@pytest.mark.parametrize("case", ODD)
def test_figures_that_say_nothing_of_the_deployment_do_not_count(case):
    changes, figure, said = ODD[case]
    one = taken(figure)
    odd = replace(one, conditions=replace(one.conditions, **changes))
    (result,) = judged(budget("latency-p50-ms=5"), odd)
    assert not result.passed
    assert result.value is None
    assert said in result.reason


def test_a_file_of_the_same_name_is_not_estimated(tmp_path):
    model = figures.Model("model-fp32.onnx", "fp32", digest_of(PROJECT), None)
    (tmp_path / "model-fp32.onnx").write_bytes(b"another")
    found = budgeting.Estimator([tmp_path])("latency-p50", model, load_target("jetson-agx-xavier"))
    assert found is not None
    assert found.kind == "unmeasured"


def test_a_key_without_a_bundle_is_bad_use(edgekd, tmp_path):
    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    bench = tmp_path / "b.json"
    bench.write_text(to_json(Measured(measurements=(taken(),)), schema="measurements"))
    words = ("gate", bench, "-t", ORIN, "--limit", "latency-p50-ms=9")
    assert edgekd(*words)[0] == 0
    code, _, err = edgekd(*words, "--key", public)
    assert code == 2
    assert "no bundle" in err


def test_what_a_report_says_cannot_start_a_line_of_the_terminal():
    found = shown(result(reason=HOSTILE + "\x1b[31m"))
    text = reporters.format_judgement(found)
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line.startswith("::")]


# --- at the end of compress -------------------------------------------------------------------------

SHORT = (
    "--target",
    "jetson-orin-nano-8gb",
    "--steps",
    "40",
    "--batch",
    "64",
    "--min-agreement",
    "0",
)
PROJECT = REPOSITORY / "examples" / "project" / "edgekd.toml"


@pytest.mark.slow
def test_compress_ends_with_its_budget_and_keeps_the_bundle(tmp_path):
    words = ("compress", TEACHER, *SHORT, "--no-bench", "--budget", PROJECT, "--out", "b")
    tight = ("--limit", "agreement=0.01", "--limit", "size-kib=5", "--junit", "out.xml")
    process = edgekd_process(*words, *tight, "--student", "resnet8-w8", cwd=tmp_path)
    _, err = process.communicate(timeout=560)
    assert process.returncode == 5, err
    assert "b is kept" in err
    failed = {
        case.get("name")
        for case in ET.parse(tmp_path / "out.xml").iter("testcase")
        if case.find("failure") is not None
    }
    assert failed == {"budget size"}
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert report["budget"]["limits"]["size"]["origin"] == "--limit"
    assert {gate["name"] for gate in report["gates"]} >= {"budget size", "budget agreement"}


@pytest.mark.slow
def test_a_board_that_is_not_there_costs_the_figures_and_not_the_bundle(tmp_path):
    words = ("compress", TEACHER, *SHORT, "--student", "resnet8-w8", "--out", "b")
    board = ("--bench-device", "ssh://nobody@127.0.0.1:1")
    process = edgekd_process(*words, *board, cwd=tmp_path)
    _, err = process.communicate(timeout=560)
    assert process.returncode == 6, err
    assert "is whole, without figures of the board" in err
    assert json.loads((tmp_path / "b" / "report.json").read_text())["bench_failed"]
    gated = edgekd_process("gate", "b", "--limit", "latency-p50-ms=5", cwd=tmp_path)
    out, _ = gated.communicate(timeout=60)
    assert gated.returncode == 5
    assert "Unmeasured" in out


@pytest.mark.slow
def test_auto_takes_a_student_that_keeps_the_budget(tmp_path):
    words = ("compress", TEACHER, *SHORT, "--no-bench", "--out", "b", "--limit", "size-kib=36")
    process = edgekd_process(*words, "--limit", "agreement=0.01", cwd=tmp_path)
    _, err = process.communicate(timeout=560)
    assert process.returncode == 0, err
    assert "over: size-kib" in err
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    (size,) = [gate for gate in report["gates"] if gate["name"] == "budget size"]
    assert size["value"] <= 36 * 1024


@pytest.mark.parametrize(
    ("runtime", "provider", "mark"),
    [
        ("tensorrt rtx-1.7.1.116 (python)", "SM 8.6", "measured"),
        ("tensorrt 10.16.2 (python)", "SM 8.6", "not checked"),
        ("onnxruntime 1.31.1", "CPUExecutionProvider", "not checked"),
    ],
)
def test_a_pc_with_a_card_is_measured_by_what_runs_on_the_card(runtime, provider, mark):
    pc = replace(setup(board=None), architecture="x86_64")
    one = measured(FAST)
    conditions = replace(one.conditions, setup=pc, runtime=runtime, provider=provider)
    wanted = Budget(**{**vars(budget("latency-p50-ms=1000")), "target": "x86-rtx"})
    found = judged(wanted, replace(one, conditions=conditions))
    assert [result.mark for result in found] == [mark]


def test_agreement_is_judged_on_labelled_images_where_there_are_some():
    evaluation = Evaluation(
        data="t.npz", data_digest="0" * 64, images=1000, int8_top1_agreement=None,
        results=(
            Accuracy(model="teacher", accuracy=0.9, agreement_with_teacher=1.0),
            Accuracy(model="student", accuracy=0.8, agreement_with_teacher=0.85),
        ),
    )  # fmt: skip
    student = replace(manifest_of().student, agreement=0.3, agreement_images=128)
    judged = verdicts.agreement(student, evaluation, least=0.8)
    assert judged.passed
    assert judged.reason == "agreement with teacher 85.00% on 1,000 images of t.npz"
    alone = verdicts.agreement(student, None, least=0.8)
    assert not alone.passed
    assert alone.reason == "agreement with teacher 30.00% on 128 held-out synthetic images"
