import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import EdgekdError, InputFileError, UsageError
from edgekd.gate import budget_file
from edgekd.gate.budget_file import budget_of, read_project
from edgekd.targets.catalogue import load_target

BOARD = """
name = "my-board"
title = "My board"
family = "other"
default_software = "mine"
[software.mine]
runtime = "onnxruntime"
exporter = "dynamo"
opset = 18
typing = "none"
int8 = true
source = "a test"
[budget]
latency-p50-ms = 7
size-kib = 300
"""


def project(tmp_path, text, name="edgekd.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_options_win_over_the_targets_file_and_that_over_the_project(tmp_path):
    text = "[budget]\nlatency-p50-ms = 5\nsize-kib = 200\nenergy-mj = 3\n"
    target = load_target(str(project(tmp_path, BOARD, "my-board.toml")))
    found = budget_of(
        file=project(tmp_path, text), target=target, limits=("size-kib=100", "agreement=0.9")
    )
    said = {
        name: (round(limit.value or 0, 9), limit.origin) for name, limit in found.limits.items()
    }
    assert said["latency-p50"] == (0.007, "my-board's file")
    assert said["size"] == (100 * 1024, "--limit")
    assert said["energy"] == (0.003, str(tmp_path / "edgekd.toml"))
    assert said["agreement"] == (0.9, "--limit")


def test_the_project_of_this_folder_is_taken_unless_another_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert budget_of().limits == {}
    project(tmp_path, "[budget]\nsize-kib = 200\n")
    assert set(budget_of().limits) == {"size"}
    other = project(tmp_path, "[budget]\nenergy-mj = 3\n", "other.toml")
    assert set(budget_of(file=other).limits) == {"energy"}


def test_a_relative_limit_is_a_share_and_its_baseline_lies_beside_the_file(tmp_path):
    text = (
        '[budget]\nbaseline = "old/report.json"\n'
        '[budget.latency-p50]\nmax-degradation = 5\nof = "baseline"\n'
        '[budget.accuracy]\nlimit = 0.9\nmax-degradation = 0.5\nof = "teacher"\n'
    )
    found = read_project(project(tmp_path, text))
    assert found.baseline == str(tmp_path / "old" / "report.json")
    assert found.limits["latency-p50"].degradation == pytest.approx(0.05)
    accuracy = found.limits["accuracy"]
    assert (accuracy.value, accuracy.degradation, accuracy.of) == (0.9, 0.005, "teacher")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[budget", "not TOML"),
        ("budget = 3", "should be a table"),
        ("[budgets]\nsize-kib = 3", "unknown key. Did you mean 'budget'"),
        ("[budget]\nsize-kb = 3", "budget.size-kb: unknown key. Did you mean 'size-kib'"),
        ("[budget]\nsize = 3", "has its unit in its name: size-kib"),
        ("[budget]\nsize-kib = 0", "above 0"),
        ("[budget]\nsize-kib = -3", "above 0"),
        ("[budget]\nsize-kib = nan", "should be a number"),
        ("[budget]\nsize-kib = inf", "should be a number"),
        ("[budget]\nsize-kib = true", "should be a number"),
        (f"[budget]\nsize-kib = 1{'0' * 400}", "beyond 64 bits"),
        (f"[budget]\nsize-kib = 1{'0' * 5000}", "not TOML"),
        ("[budget]\nsize-kib = 1e306", "no more than a board can have"),
        ("[budget]\nlatency-p50-ms = 1e-323", "above 0"),
        ("[budget.agreement]\nmax-degradation = 150\nof = 'teacher'", "allow anything"),
        ('[budget]\nsize-kib = "3"', "should be a number"),
        ("[budget]\nsize-kib = 2026-11-26", "should be a number"),
        ("[budget]\nagreement = 95", "share of images"),
        ("[budget]\nprecision = 'int4'", "'int4' is none"),
        ("[budget]\ntarget = 3", "should be a text"),
        ("[budget]\nsize-kib = {}", "neither limit nor max-degradation"),
        ("[budget.size-kib]\nlimt = 3", "limt: unknown key. Did you mean 'limit'"),
        ("[budget.accuracy]\nmax-degradation = 1", "of: should be one of"),
        ("[budget.accuracy]\nmax-degradation = -1\nof = 'teacher'", "not be negative"),
        ("[budget.accuracy]\nlimit = 0.9\nof = 'teacher'", "only max-degradation has it"),
        ("[budget.size]\nmax-degradation = 1\nof = 'teacher'", "what the teacher costs"),
        ("[budget]\nsize-kib = 3\n[budget.size]\nmax-degradation = 1\nof = 'baseline'", "twice"),
    ],
)
def test_what_no_budget_has_is_refused_by_name(tmp_path, text, said):
    path = project(tmp_path, text)
    with pytest.raises(InputFileError, match=str(path)) as caught:
        read_project(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (("size-kib",), "KEY=VALUE"),
        (("size-kib=",), "KEY=VALUE"),
        (("size-kib=3", "size-kib=4"), "given twice"),
        (("size-kib=three",), "is no number"),
        (("size=3",), "size-kib"),
        (("latency-p50-ms=5", "latency-p99-ms=3"), "contradicts itself"),
    ],
)
def test_options_that_make_no_budget_are_bad_use(limits, said):
    with pytest.raises(UsageError, match=r"--limit|contradicts") as caught:
        budget_of(limits=limits)
    assert said in str(caught.value)
    assert "budget.size" not in str(caught.value)


def test_a_limit_relative_to_a_baseline_that_nobody_names_contradicts_itself(tmp_path):
    text = "[budget.size]\nmax-degradation = 5\nof = 'baseline'\n"
    with pytest.raises(UsageError, match="there is none"):
        budget_of(file=project(tmp_path, text))


def test_what_is_written_and_what_is_meant_are_the_same():
    for key, kind in budget_file.KEYS.items():
        value = budget_of(limits=(f"{key}=0.5",)).limits[kind.metric].value
        assert value is not None
        assert math.isclose(budget_file.to_budget_unit(kind.metric, value), 0.5)
        assert budget_file.NAMES[kind.metric] == key


KEY = st.sampled_from(
    [*budget_file.KEYS, "accuracy", "latency-p50", "target", "baseline", "x", "of"]
)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["limit", "max-degradation", "of", "y"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(table=st.dictionaries(KEY, VALUE, max_size=4))
def test_no_table_ends_in_anything_but_our_errors(table):
    try:
        found = budget_file._budget(table, "a test")
    except EdgekdError:
        return
    assert all(limit.value is None or limit.value > 0 for limit in found.limits.values())


@given(text=st.text(max_size=40))
def test_no_project_file_ends_in_anything_but_our_errors(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("project") / "edgekd.toml"
    path.write_text(text, encoding="utf-8")
    try:
        read_project(path)
    except EdgekdError:
        return
