"""Searches over few candidates of few steps, on real digits in the place of inverted ones: they teach faster."""

import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from edgekd.distill.models import architectures, networks
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import DeviceError, UsageError
from edgekd.files import digest_of
from edgekd.options import DataOptions, RunOptions, TrainingOptions
from edgekd.records import (
    Architecture,
    Budget,
    Limit,
    Metric,
    Precision,
    Student,
    SyntheticSet,
    from_json,
    to_json,
)
from edgekd.search import search as searching
from edgekd.search.candidates import Candidate, Cost, _choose_precision
from edgekd.search.successive_halving import (
    LocalExecutor,
    Run,
    Rung,
    rungs,
)
from edgekd.search.summary import choose, front_text, nearest
from edgekd.workflows.distill import coverage_of
from tests.edgekd.conftest import IMAGES, REPOSITORY, TEACHER

NAMES = ("resnet8-w4", "resnet8-w8@20", "lenet5-half", "resnet14-w8")
WORDS = [word for name in NAMES for word in ("--candidate", name)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Real digits as a set of the teacher's."""
    folder = tmp_path_factory.mktemp("digits") / "set"
    folder.mkdir()
    found = np.load(IMAGES)
    images, classes = found["images"][:600], found["labels"][:600].astype(np.int64)
    np.save(folder / "images.npy", images)
    np.save(folder / "classes.npy", classes)
    teacher = load_teacher(TEACHER, TeacherOptions(), generator=torch.Generator().manual_seed(0))
    record = SyntheticSet(
        file="images.npy",
        digest=digest_of(folder / "images.npy"),
        count=len(images),
        input=teacher.info.input,
        teacher_digest=teacher.info.state_digest,
        seed=0,
        coverage=coverage_of(teacher, images, classes),
        classes_file="classes.npy",
        classes_digest=digest_of(folder / "classes.npy"),
        recipe="pool",
    )
    (folder / "set.json").write_text(to_json(record, schema="synthetic-set"))
    return folder


@pytest.fixture
def search(edgekd, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words, target="jetson", steps=9):
        given = ("-t", target, "--images", digits, "--steps", steps, "--threads", 1, "--out", "s")
        return edgekd("search", TEACHER, *given, *words)

    return call


def test_a_third_is_left_of_each_rung_and_learns_three_times_as_long():
    assert rungs(12, 900) == (Rung(12, 100), Rung(4, 300), Rung(2, 900))
    assert rungs(2, 900) == (Rung(2, 900),)
    assert rungs(1, 900) == (Rung(1, 900),)
    assert rungs(4, 9) == (Rung(4, 3), Rung(2, 9))
    for count in range(1, 60):
        counts = [rung.candidates for rung in rungs(count, 10_000)]
        assert counts[0] == count
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] <= 2


def test_the_best_within_the_budget_is_written_with_all_that_was_tried(search, tmp_path):
    code, out, err = search(*WORDS, "--limit", "size-kib=40", "--json")
    assert code == 0, err
    found = json.loads(out)
    published = REPOSITORY / "docs" / "schema" / "search-2.schema.json"
    jsonschema.validate(found, json.loads(published.read_text()))
    over = {each["name"] for each in found["candidates"] if each["over"]}
    assert over == {"resnet14-w8"}
    assert {run["name"] for run in found["runs"]} == {*NAMES} - over
    assert [run["steps"] for run in found["runs"]] == [3, 3, 3, 9, 9]
    last = {run["name"]: run["agreement"] for run in found["runs"] if run["steps"] == 9}
    assert max(last.values()) - last[found["chosen"]] <= 1 / found["runs"][-1]["images"] + 1e-9
    student = tmp_path / "s" / "student"
    record = from_json(
        Student, (student / "student.json").read_text(), origin="s", schema="student"
    )
    assert str(record.architecture) == found["chosen"]
    assert (tmp_path / "s" / "search.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "s.search").exists()
    assert "3 for 3 steps, then 2 for 9 steps" in err


def test_parts_of_the_teacher_are_candidates(search, tmp_path):
    parts = ("cut:macs=0.25", "cut:macs=0.9")
    words = [word for name in ("resnet8-w4", *parts) for word in ("--candidate", name)]
    code, out, err = search(*words, "--limit", "size-kib=70", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {each["name"] for each in found["candidates"] if each["over"]} == {"cut:macs=0.9"}
    # It begins with what the teacher knows
    assert found["chosen"] == "cut:macs=0.25"
    assert (tmp_path / "s" / "student" / "student.cut.json").is_file()


def test_the_front_is_printed_with_the_choice_marked():
    runs = [run("slow", 0.5), replace(run("fast", 0.94), steps=27)]
    candidates = [candidate("slow"), candidate("fast")]
    lines = front_text(("slow", "fast"), runs, candidates, "fast").splitlines()
    assert lines[1].startswith("* fast   94.0% after 27 steps, latency-p50 1.00 ms")
    assert lines[2].startswith("  slow   50.0% after 9 steps")


class Cut:
    """One after the other, until the power goes."""

    def __init__(self, after):
        self.left = after

    def map(self, function, options):
        for number in LocalExecutor().map(function, options):
            yield number
            self.left -= 1
            if not self.left:
                raise DeviceError("the power went")


class Counted(LocalExecutor):
    made = 0

    def map(self, function, options):
        self.made += len(options)
        return super().map(function, options)


def options_of(digits, out, pool):
    from edgekd.targets.catalogue import load_target
    from edgekd.workflows.gate import read_budget
    from edgekd.workflows.run_setup import DistillJob

    return searching.SearchJob(
        distil=DistillJob(
            teacher=TEACHER,
            training=TrainingOptions(recipe="pool"),
            data=DataOptions(images=digits),
            run=RunOptions(device="cpu", threads=1),
            out=out,
        ),
        target=load_target("jetson"),
        budget=read_budget(file=None, limits=("size-kib=40",), target=None),
        names=NAMES,
        minutes=None,
        steps=9,
        pool=pool,
    )


@pytest.mark.slow
def test_a_search_that_was_cut_goes_on_and_finds_the_same(digits, tmp_path):
    from edgekd.progress import SilentDisplay

    whole = searching.search(
        options_of(digits, tmp_path / "whole", LocalExecutor()), SilentDisplay()
    )
    for after in (2, 2):  # in the first rung, then in the second
        with pytest.raises(DeviceError):
            searching.search(options_of(digits, tmp_path / "cut", Cut(after)), SilentDisplay())
    counted = Counted()
    found = searching.search(options_of(digits, tmp_path / "cut", counted), SilentDisplay())
    assert counted.made == 1
    assert found == whole


def test_an_unfinished_search_goes_on_as_the_same_one_only(digits, tmp_path):
    from edgekd.progress import SilentDisplay

    options = options_of(digits, tmp_path / "s", Cut(1))
    with pytest.raises(DeviceError):
        searching.search(options, SilentDisplay())
    for changes in ({"steps": 8}, {"allowed": frozenset({"latency-p50"})}, {"names": NAMES[:2]}):
        with pytest.raises(UsageError, match="unfinished run of another command"):
            searching.search(replace(options, **changes), SilentDisplay())


def test_a_budget_that_nothing_keeps_names_the_nearest(search):
    code, _, err = search(*WORDS, "--limit", "size-kib=10")
    assert code == 5
    assert "The nearest is resnet8-w4" in err
    assert "Relax size-kib by" in err


@pytest.mark.slow
def test_a_latency_wants_a_board_or_a_word(search):
    limits = ("--limit", "latency-p50-ms=5", "--limit", "size-kib=30")
    code, _, err = search(*WORDS, *limits)
    assert code == 2
    assert "--bench-device" in err
    code, out, err = search(*WORDS, *limits, "--allow-estimates", "latency-p50-ms", steps=1)
    assert code == 0, err
    assert "Not checked" in out


def test_an_estimate_prunes_where_it_is_allowed_and_is_marked(search):
    limits = ("--limit", "latency-p50-ms=0.0001", "--allow-estimates", "latency-p50-ms")
    code, _, err = search("--candidate", "resnet8-w4", *limits, target="jetson-agx-xavier")
    assert code == 5
    assert "FP32, latency-p50 about" in err  # no published row supports INT8 there
    assert "(estimate)" in err


def test_a_student_at_fewer_pixels_can_be_exported(search, edgekd):
    assert search("--candidate", "resnet8-w4@20", steps=1)[0] == 0
    code, _, err = edgekd("export", "s/student", "-t", "jetson", "--out", "m")
    assert "max logit difference from PyTorch" in err, err
    assert code in {0, 4}  # of one step INT8 may decide otherwise


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--candidate", "resnet9"), "unknown architecture"),
        (("--candidate", "timm:resnet_none"), "timm has no model"),
        (("--candidate", "resnet8-w4@8"), "@SIDE should be"),
        (("--candidate", "resnet8-w4", "--candidate", "resnet8-w4"), "given twice"),
        (("--minutes", "3"), "either --minutes or --steps"),
        (
            ("--candidate", "timm:vit_tiny_patch16_224"),
            "takes no images of 1x28x28 (its patches of 16 x 16 pixels",
        ),
        (("--limit", "accuracy=0.9"), "no labelled images"),
        (("--limit", "precision=fp16"), "there are files in fp32, int8"),
    ],
)
def test_bad_words_are_code_2(search, words, said):
    code, _, err = search(*words)
    assert code == 2
    assert said in err


def test_an_agreement_that_the_best_does_not_reach_is_code_4(search, tmp_path):
    code, _, err = search("--candidate", "resnet8-w4", "--limit", "agreement=0.999", steps=2)
    assert code == 4
    assert (tmp_path / "s" / "search.json").is_file()
    assert "agreement asks for 99.90%" in err


@pytest.mark.slow
def test_workers_of_a_cluster_find_what_one_machine_finds(digits, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install edgekd[ray]")
    from edgekd.progress import SilentDisplay
    from edgekd.search.ray_backend import Ray

    here = searching.search(options_of(digits, tmp_path / "here", LocalExecutor()), SilentDisplay())
    with Ray("local", threads=1) as cluster:
        there = searching.search(options_of(digits, tmp_path / "there", cluster), SilentDisplay())
    assert there == here


# --- parts ------------------------------------------------------------------------------------------


def candidate(name, **over):
    shape: dict[str, Any] = {"channels": 1, "classes": 10, "height": 28, "width": 28}
    return Candidate(
        name=name,
        architecture=Architecture(source="edgekd", name="lenet5", **shape),
        parameters=1,
        macs=1,
        precision="fp32",
        costs={"latency-p50": Cost(value=0.001 if name == "fast" else 0.002, estimated=False)},
        over=over,
    )


def run(name, agreement, images=100):
    return Run(name=name, rung=0, steps=9, agreement=agreement, images=images, folder="f")


def test_without_a_time_of_each_the_one_with_fewer_macs_is_chosen():
    by_name = {name: candidate(name) for name in ("fast", "slow")}
    unknown = replace(by_name["slow"], costs={}, macs=9)
    chosen = choose([run("slow", 0.95), run("fast", 0.95)], by_name | {"slow": unknown})
    assert chosen.run.name == "fast"


def test_of_candidates_one_image_apart_the_faster_is_chosen():
    by_name = {name: candidate(name) for name in ("fast", "slow")}
    close = [run("slow", 0.95), run("fast", 0.94)]
    assert choose(close, by_name).run.name == "fast"
    apart = [run("slow", 0.95), run("fast", 0.93)]
    assert choose(apart, by_name).run.name == "slow"


TIMES = [
    ({"fp32": 2.0, "int8": 1.0}, set(), "int8"),  # where it wins
    ({"fp32": 1.0, "int8": 2.0}, set(), "fp32"),
    ({"fp32": 1.0, "int8": 2.0}, {"fp32"}, "int8"),  # of those that keep the limits
    ({"fp32": 1.0, "int8": None}, set(), "fp32"),  # what is known, before what is not
    ({"fp32": 1.0, "int8": None}, {"fp32"}, "int8"),
    ({"fp32": None, "int8": None}, set(), "int8"),  # the target's own preference
]


@pytest.mark.parametrize(("times", "over", "expected"), TIMES)
def test_the_fastest_file_that_keeps_the_limits_is_deployed(times, over, expected):
    costs: dict[Precision, dict[Metric, Cost]] = {
        name: {} if value is None else {"latency-p50": Cost(value=value, estimated=False)}
        for name, value in times.items()
    }
    passed: dict[Precision, dict[str, float]] = {
        name: {"size-kib": 2.0} if name in over else {} for name in times
    }
    assert _choose_precision(costs, passed, Budget(limits={})) == expected


def test_a_limited_time_that_is_known_comes_before_one_that_is_not():
    limit = Limit(value=0.5, degradation=None, of=None, origin="a test")
    costs: dict[Precision, dict[Metric, Cost]] = {
        "fp32": {"latency-p50": Cost(value=1.0, estimated=True)},
        "int8": {},
    }
    over: dict[Precision, dict[str, float]] = {"fp32": {"latency-p50-ms": 2.0}, "int8": {}}
    assert _choose_precision(costs, over, Budget(limits={"latency-p50": limit})) == "fp32"


def test_the_nearest_is_the_one_whose_worst_limit_is_least_over():
    said = nearest([candidate("a", **{"size-kib": 3.0}), candidate("b", **{"energy-mj": 1.2, "size-kib": 1.5})], option="--candidate")  # fmt: skip
    assert "The nearest is b" in said
    assert "energy-mj by 20.0%, size-kib by 50.0%" in said


def test_a_network_at_fewer_pixels_is_the_network_on_scaled_images():
    shape = {"channels": 1, "classes": 10, "height": 28, "width": 28}
    module = architectures.build(architectures.find_architecture("resnet8-w4@20", **shape)).eval()
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    scaled = torch.nn.functional.interpolate(images, (20, 20), mode="bilinear")
    assert isinstance(module, networks.ResizedInput)
    torch.testing.assert_close(module(images), module.inner(scaled))


def test_a_relative_limit_of_a_cost_is_refused_before_anything_is_made(digits, tmp_path):
    from edgekd.gate import budget_file
    from edgekd.progress import SilentDisplay

    text = {"size": {"max-degradation": 5, "of": "baseline"}, "baseline": "x"}
    options = options_of(digits, tmp_path / "s", LocalExecutor())
    with pytest.raises(UsageError, match="absolute limits"):
        searching.search(
            replace(options, budget=budget_file._budget(text, "a test")), SilentDisplay()
        )
    assert not (tmp_path / "s.search").exists()
