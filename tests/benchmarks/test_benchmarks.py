"""What the benchmarks committed, and the arithmetic that they do."""

import math
import re
from dataclasses import replace
from itertools import product
from statistics import median

import pytest

from benchmarks.distill.page import PAGE, PUBLISHED, page
from benchmarks.distill.pairs import PAIRS, rank_correlation
from benchmarks.distill.running import change_recipe, stability
from benchmarks.distill.tables import TABLES
from benchmarks.export.graphs import NETWORKS
from benchmarks.rows import append_row, read_rows
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.records import HistoryPoint, runtime_text
from edgekd.targets.catalogue import boards
from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"
COMMITTED = sorted(RESULTS.glob("distill-*.csv"))


def test_the_page_of_results_is_what_the_csvs_say():
    assert PAGE.read_text(encoding="utf-8") == page(RESULTS)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_rows_that_were_run_belong_to_a_table_and_stand_once(path):
    table = TABLES[path.stem.removeprefix("distill-")]
    rows = [(row["name"], row["seed"]) for row in read_rows(path)]
    assert len(set(rows)) == len(rows)
    assert {name for name, _ in rows} <= {row.name for row in table.rows}


def test_every_architecture_has_a_verdict_for_every_software_and_a_refusal_says_why():
    rows = read_rows(RESULTS / "export-graphs.csv")
    known = {name: each for board in boards() for name, each in board.software.items()}
    names = {network.name for network in NETWORKS}
    assert len(names) >= 20
    assert sorted((row["architecture"], row["software"]) for row in rows) == sorted(
        product(names, known)
    )
    for row in rows:
        if row["verdict"] == "exported":
            assert float(row["relative_error"]) <= 1e-4
            continue
        assert row["verdict"] == "refused"
        assert re.search(r"operator \w+|^\w[\w ]+ \(\w+\): \w+", row["reason"])
        assert runtime_text(known[row["software"]].tensorrt) in row["reason"]


def test_the_time_of_an_export_was_taken_in_turn():
    rows = read_rows(RESULTS / "export-time.csv")
    for software in ("jp5.1", "jp6.2"):
        taken = [row for row in rows if row["software"] == software]
        assert [row["who"] for row in taken] == ["torch", "edgekd"] * 5
        assert [row["repeat"] for row in taken] == [str(1 + compute // 2) for compute in range(10)]
    ratio = {
        software: median_of(rows, software, "edgekd") / median_of(rows, software, "torch")
        for software in ("jp5.1", "jp6.2")
    }
    log = (REPOSITORY / "docs" / "log.md").read_text(encoding="utf-8")
    assert f"| {ratio['jp6.2']:.2f} | 1.51 |" in log
    assert f"| {ratio['jp5.1']:.2f} | 5.84 |" in log


def test_files_of_int8_are_a_quarter_where_weights_may_be_integers():
    rows = read_rows(RESULTS / "export-sizes.csv")
    assert len({row["architecture"] for row in rows}) >= 4
    for row in rows:
        low, high = {"fp32": (1.0, 1.0), "fp16": (0.5, 0.51), "int8": (0.25, 0.30)}[
            row["precision"]
        ]
        if row["precision"] == "int8" and row["tensorrt"].startswith("8."):
            low, high = 1.0, 1.03
        assert low <= float(row["of_fp32"]) <= high, row


def median_of(rows, software, who):
    return median(
        float(row["cpu_s"]) for row in rows if (row["software"], row["who"]) == (software, who)
    )


def test_rows_are_read_as_they_were_appended(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    assert read_rows(path) == []
    for number in range(2):
        append_row(path, {"name": "a, b", "seed": number})
    assert read_rows(path) == [{"name": "a, b", "seed": "0"}, {"name": "a, b", "seed": "1"}]


def test_every_row_names_a_pair_and_a_recipe_that_there_are():
    for table in TABLES.values():
        for row in table.rows:
            assert row.pair in PAIRS
            assert row.recipe in {"auto", *RECIPES}
            change_recipe(RECIPES["pool" if row.recipe == "auto" else row.recipe], row.changes)
            assert (row.minutes is None) != (row.steps is None)
        assert len({row.name for row in table.rows}) == len(table.rows)
    assert set(PUBLISHED) <= set(TABLES)


def test_the_first_seed_of_all_rows_comes_before_the_second_of_any():
    seeds = [row.seed for row in TABLES["mnist"].in_order(None, toy=False)]
    assert seeds == sorted(seeds)
    assert len(seeds) == TABLES["mnist"].seeds * len(TABLES["mnist"].rows)


def test_a_change_is_made_where_its_path_says_and_nowhere_else():
    recipe = RECIPES["pool"]
    found = change_recipe(recipe, {"losses.one_hot": 7.0})
    weights = replace(recipe.losses, one_hot=7.0)
    assert found == replace(recipe, losses=weights)
    with pytest.raises(AssertionError, match="no nothing"):
        change_recipe(recipe, {"source.nothing": 1})


def test_rank_correlation_asks_for_order_alone():
    assert rank_correlation([1.0, 2.0, 3.0, 9.0], [0.1, 0.2, 0.3, 0.31]) == pytest.approx(1)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert rank_correlation([1.0, 1.0, 2.0, 3.0], [1.0, 1.0, 2.0, 3.0]) == pytest.approx(1)
    assert math.isnan(rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))


def test_steadiness_is_of_the_last_fifth():
    values = [0.1, 0.5, 0.8, 0.8, 0.9, 0.8, 0.7, 0.8, 0.9, 0.7]
    points = [
        HistoryPoint(
            step=number, images=0, elapsed_s=0.0, losses={}, agreement=value, accuracy=value,
            raw_accuracy=value / 2,
        )
        for number, value in enumerate(values)
    ]  # fmt: skip
    found = stability(points)
    assert found["delivered_final"] == "0.7000"
    assert found["delivered_best"] == "0.9000"
    assert found["delivered_last_fifth_sd"] == "0.1000"
    assert found["raw_last_fifth_sd"] == "0.0500"
    assert found["agreement_tracks"] == "1.000"


def test_agent_and_c_program_ran_in_pairs_and_the_log_says_what_came_of_it():
    rows = read_rows(RESULTS / "bench-against-c.csv")
    log = (REPOSITORY / "docs" / "log.md").read_text(encoding="utf-8")
    found: dict[str, list[float]] = {}
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(
            float(row["ours_p50_us"]) / float(row["c_p50_us"]), abs=1e-4
        )
        if not row["note"]:
            found.setdefault(row["model"], []).append(float(row["ratio"]))
    assert len(found) == 6
    for ratios in found.values():
        assert len(ratios) == 8
        assert f"| {median(ratios):.3f}" in log


def test_repeats_of_both_ways_were_taken_in_turn():
    rows = read_rows(RESULTS / "bench-spread.csv")
    turns = [{row["way"] for row in rows[at : at + 2]} for at in range(0, len(rows), 2)]
    assert turns == [{"bench", "plain"}] * 30


def test_every_board_was_contacted_empty_and_then_known():
    rows = read_rows(RESULTS / "bench-contact.csv")
    assert [row["board"] for row in rows] == ["empty", "known"] * (len(rows) // 2)
    assert all((row["sent_bytes"] == "0") == (row["board"] == "known") for row in rows)


def test_packing_and_verifying_keep_to_tar_and_sha256sum_and_the_page_says_so():
    rows = read_rows(RESULTS / "bundle.csv")
    seconds: dict[str, list[float]] = {}
    for row in rows:
        seconds.setdefault(row["way"], []).append(float(row["seconds"]))
        assert not row["peak_bytes"] or int(row["peak_bytes"]) < 100e6
    assert {len(taken) for taken in seconds.values()} == {9}
    yardstick = median(seconds["tar and sha256sum"])
    assert median(seconds["pack"]) + median(seconds["verify"]) <= 2.5 * yardstick
    page_text = (REPOSITORY / "docs" / "bundle.md").read_text(encoding="utf-8")
    for way, taken in seconds.items():
        assert f"| {way} | {median(taken):.2f} | {median(taken) / yardstick:.2f} |" in page_text
