"""Recipes on the command line: the book, a dry run, and data that is brought along."""

import json
from dataclasses import replace

import numpy as np
import pytest
from jsonschema import validate

from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.faithful import FAITHFUL
from edgekd.distill.recipes.recipe_file import format_toml, read_recipe
from edgekd.schemas import schema_text
from tests.edgekd.conftest import IMAGES, TEACHER

SMALL = ("--device", "cpu", "--threads", 1, "--batch", 8)
SHORT = (*SMALL, "--steps", 4, "--student", "lenet5-half")


@pytest.fixture
def condensed(tmp_path):
    """A set of three images a class, as `condense` writes it."""
    from edgekd.cli.app import app, run

    path = tmp_path / "condensed.npz"
    words = ["condense", IMAGES, "--per-class", 3, "--method", "random", "--out", path]
    code = run(lambda: app([*map(str, words), "--device", "cpu"], standalone_mode=False))
    assert code == 0
    return path


@pytest.fixture
def samples(tmp_path):
    """Two images of each class, labelled."""
    data = np.load(IMAGES)
    chosen = np.concatenate([np.flatnonzero(data["labels"] == each)[:2] for each in range(10)])
    path = tmp_path / "samples.npz"
    np.savez(path, images=data["images"][chosen], labels=data["labels"][chosen])
    return path


# --- the book ----------------------------------------------------------------------------------


def test_the_list_names_every_recipe_in_80_columns(edgekd):
    code, out, err = edgekd("recipes", "list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1 : 2 + len(RECIPES)]] == ["auto", *RECIPES]


def test_the_list_is_json_for_scripts(edgekd):
    _, out, _ = edgekd("recipes", "list", "--json")
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert list(found) == list(RECIPES)
    assert {name for name, entry in found.items() if entry["faithful"]} == set(FAITHFUL)
    assert "condensed or real images" in found["condensed-expansion"]["needs"]
    assert found["dfad"]["needs"] == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_shown_in_80_columns(edgekd, name):
    code, out, _ = edgekd("recipes", "show", name)
    assert code == 0
    assert out.startswith(f"{name}, budgeted")
    assert max(map(len, out.splitlines())) <= 80
    found = " ".join(out.split())
    for part in ("paper", "confirmed", "reconstructed", "ours", "source", "learning"):
        assert f"\n{part:20} " in f"\n{out}"
    # A part of which nothing is used is not shown.
    assert (f"\n{'losses':20} " in out) is RECIPES[name].losses.asks_anything
    # Every loss that has a weight.
    for loss, weight in vars(RECIPES[name].losses).items():
        if isinstance(weight, float) and weight:
            assert f"{loss} {weight:.4g}" in found


@pytest.mark.parametrize("name", FAITHFUL)
def test_the_papers_settings_are_shown(edgekd, name):
    code, out, _ = edgekd("recipes", "show", name, "--faithful", "--json")
    assert code == 0
    found = json.loads(out)
    validate(found, json.loads(schema_text("recipe")))
    assert found["steps"] == FAITHFUL[name].steps
    assert found["recipe"]["source"]["batch"] == FAITHFUL[name].recipe.source.batch
    _, text, _ = edgekd("recipes", "show", name, "--faithful")
    assert max(map(len, text.splitlines())) <= 80
    assert f"{FAITHFUL[name].steps:,} of the student" in text


def test_a_budgeted_recipe_fits_its_schema_and_has_no_length_of_its_own(edgekd):
    _, out, _ = edgekd("recipes", "show", "pool", "--json")
    found = json.loads(out)
    validate(found, json.loads(schema_text("recipe")))
    assert found["steps"] is None
    assert not found["faithful"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("poll",), "unknown recipe 'poll'"),
        (("auto",), "else plain"),
        (("pool", "--faithful"), "--faithful takes: memory-bank"),
    ],
)
def test_what_cannot_be_shown_is_explained(edgekd, words, said):
    code, out, err = edgekd("recipes", "show", *words)
    assert (code, out) == (2, "")
    assert said in err


# --- a dry run -----------------------------------------------------------------------------------


def dry(edgekd, tmp_path, *more):
    """What a dry run says; it leaves nothing behind."""
    before = sorted(path.name for path in tmp_path.iterdir())
    found = edgekd("distill", TEACHER, "--dry-run", "--out", tmp_path / "o", *SMALL, *more)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return found


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(edgekd, tmp_path):
    code, out, err = dry(edgekd, tmp_path, "--steps", 600, "--json")
    assert code == 0
    found = json.loads(out)
    validate(found, json.loads(schema_text("plan")))
    assert (found["recipe"], found["steps"], found["faithful"]) == ("pool", 600, False)
    assert "batch-norm layers to match" in found["because"]
    # Inherited: half of the recipe's first batches
    first = RECIPES["pool"].first_batches // 2
    assert found["images"] == 8 * (first - 1 + 600 // RECIPES["pool"].learning.steps)
    assert found["duration_s"] > 0
    assert found["memory_bytes"] > 2**20
    assert "recipe pool" in err
    assert "600 student steps" in err
    assert "MiB of memory" in err


def test_minutes_that_are_too_few_are_said_with_those_that_are_enough(edgekd, tmp_path):
    code, out, err = dry(edgekd, tmp_path, "--minutes", 0.01, "--json")
    assert code == 0
    assert json.loads(out)["steps"] < 120
    assert "fewer than 120 are hardly worth a run: give --minutes 1" in err


@pytest.mark.parametrize("name", ["dfad", "fast"])
def test_a_dry_run_of_the_papers_settings_has_their_length(edgekd, tmp_path, name):
    code, out, _ = dry(edgekd, tmp_path, "--recipe", name, "--faithful", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["recipe"], found["steps"]) == (name, FAITHFUL[name].steps)
    assert found["faithful"]


def test_a_dry_run_looks_at_all_that_a_run_is_given(edgekd, tmp_path):
    (tmp_path / "labelled.npz").write_bytes(b"PK\x03\x04nothing")
    code, _, err = dry(edgekd, tmp_path, "--steps", 4, "--eval", tmp_path / "labelled.npz")
    assert code == 2
    assert "labelled.npz" in err


# --- data that is brought along ------------------------------------------------------------------


def test_a_student_learns_from_what_was_brought(edgekd, tmp_path, condensed, capfd):
    capfd.readouterr()
    code, out, err = edgekd(
        *("distill", TEACHER, "--condensed", condensed, "--out", tmp_path / "o", "--json"), *SHORT
    )
    assert code == 0, err
    found = json.loads(out)
    validate(found, json.loads(schema_text("student")))
    assert (found["recipe"], found["steps"]) == ("condensed-expansion", 4)
    assert "there are condensed images to come close to" in err
    assert (tmp_path / "o" / "student.safetensors").exists()


def test_a_bundle_says_which_real_images_were_used(edgekd, tmp_path, samples):
    code, out, err = edgekd(
        *("compress", TEACHER, "--target", "jetson", "--samples", samples, "--no-bench"),
        *("--min-agreement", 0, "--out", tmp_path / "b", "--json", *SHORT),
    )
    assert code in {0, 4}, err  # so few steps: INT8 may not decide as FP32
    used = json.loads(out)["manifest"]["data_used"]
    assert used["kind"] == "few real"
    assert "20 real images (samples.npz)" in used["statement"]
    assert "views of them" in used["statement"]
    assert "Views of the images that were given may be among them" in err
    assert list(used["digests"]) == ["samples.npz"]


def refused(edgekd, tmp_path, *more):
    """Of a run that must not start: what it says."""
    code, out, err = edgekd("distill", TEACHER, "--out", tmp_path / "o", *SHORT, *more)
    assert (code, out) == (2, "")
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "o.run").exists()
    return err


def test_two_kinds_of_one_thing_are_refused(edgekd, tmp_path, samples):
    err = refused(edgekd, tmp_path, "--condensed", samples, "--samples", samples)
    assert "give one of them" in err


def test_half_of_the_statistics_are_refused(edgekd, tmp_path, samples):
    err = refused(edgekd, tmp_path, "--condensed", samples, "--condensed-mean", "0.5")
    assert "belong together" in err


def test_noise_alone_takes_no_set_of_images(edgekd, tmp_path):
    err = refused(edgekd, tmp_path, "--recipe", "noise", "--images", tmp_path / "set")
    assert "leave out --images" in err


def test_a_recipe_that_comes_close_to_images_asks_for_some(edgekd, tmp_path):
    err = refused(edgekd, tmp_path, "--recipe", "condensed-expansion")
    assert "--condensed FILE" in err
    assert "--samples DIR" in err


@pytest.mark.parametrize(
    "table",
    [
        np.zeros((9, 4), np.float32),
        np.zeros(10, np.float32),
        np.zeros((10, 4), np.int64),
        np.full((10, 4), np.nan, np.float32),
        np.zeros((10, 0), np.float32),
        {"a": np.zeros((10, 4), np.float32)},
        b"nothing",
    ],
    ids=["rows", "vector", "whole numbers", "NaN", "empty", "archive", "garbage"],
)
def test_embeddings_that_do_not_fit_are_refused(edgekd, tmp_path, table):
    path = tmp_path / "e.npy"
    if isinstance(table, bytes):
        path.write_bytes(table)
    elif isinstance(table, dict):
        with path.open("wb") as stream:
            np.savez(stream, **table)
    else:
        np.save(path, table)
    err = refused(edgekd, tmp_path, "--recipe", "nayer", "--embeddings", path)
    assert "e.npy" in err
    assert "fault of edgekd" not in err


def test_embeddings_are_for_a_noisy_layer_alone(edgekd, tmp_path):
    np.save(tmp_path / "e.npy", np.eye(10, dtype=np.float32))
    err = refused(edgekd, tmp_path, "--recipe", "pool", "--embeddings", tmp_path / "e.npy")
    assert "for recipe nayer" in err


def test_embeddings_are_learned_behind(edgekd, tmp_path):
    table = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    np.save(tmp_path / "e.npy", table)
    code, _, err = edgekd(
        *("distill", TEACHER, "--recipe", "nayer", "--embeddings", tmp_path / "e.npy"),
        *("--out", tmp_path / "o", *SHORT),
    )
    assert code == 0, err
    assert json.loads((tmp_path / "o" / "student.json").read_text())["recipe"] == "nayer"


def test_files_that_cannot_be_read_are_left_out_or_with_strict_refused(edgekd, tmp_path):
    from PIL import Image

    data = np.load(IMAGES)
    for place, image in enumerate(data["images"][:6]):
        (tmp_path / "some").mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / "some" / f"{place}.png")
    (tmp_path / "some" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    err = refused(edgekd, tmp_path, "--samples", tmp_path / "some", "--strict")
    assert "broken.png" in err
    code, _, err = dry(edgekd, tmp_path, "--steps", 4, "--samples", tmp_path / "some")
    assert code == 0
    assert "broken.png" in err
    assert "6 images without labels" in err


def test_synthesize_names_the_recipes_that_it_takes(edgekd, tmp_path):
    """Every one that is named can be asked for: none flows, and none asks for real images."""
    code, _, err = edgekd(
        *("synthesize", TEACHER, "--count", 10, "--recipe", "dfad", "--out", tmp_path / "s"),
        *("--device", "cpu", "--threads", 1),
    )
    assert code == 2
    named = err.partition("takes: ")[2].strip().rstrip(".").split(", ")
    assert "pool" in named
    for name in named:
        assert not RECIPES[name].flows
        assert not RECIPES[name].losses.alignment


# --- a recipe that a user wrote ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pool", "pseudo-replay"])
def test_a_recipe_is_printed_as_a_file_that_is_taken_for_it(edgekd, tmp_path, name):
    code, text, _ = edgekd("recipes", "show", name, "--toml")
    assert code == 0
    path = tmp_path / "my.toml"
    path.write_text(text)
    assert read_recipe(path) == RECIPES[name]
    code, shown, _ = edgekd("recipes", "show", path)
    assert code == 0
    assert shown == edgekd("recipes", "show", name)[1]


def test_a_plan_is_of_the_recipe_in_the_file(edgekd, tmp_path):
    path = tmp_path / "my.toml"
    written = replace(RECIPES["noise"], name="mine")
    path.write_text(format_toml(written))
    code, out, err = edgekd(
        *("distill", TEACHER, "--recipe", path, "--steps", 8, "--student", "lenet5-half"),
        *("--dry-run", "--json", "--device", "cpu", "--threads", 1, "--out", tmp_path / "s"),
    )
    assert code == 0, err
    assert json.loads(out)["recipe"] == "mine"


@pytest.mark.parametrize("command", ["distill", "compress", "synthesize", "search"])
def test_a_wrong_file_is_code_2_and_says_where(edgekd, tmp_path, command):
    path = tmp_path / "my.toml"
    path.write_text(format_toml(RECIPES["pool"]).replace("one_hot", "one_hott"))
    more = {
        "synthesize": ("--count", 10),
        "compress": ("--target", "jetson"),
        "search": ("--target", "jetson"),
    }
    code, _, err = edgekd(
        *(command, TEACHER, "--recipe", path, "--out", tmp_path / "s", *more.get(command, ())),
        *("--device", "cpu", "--threads", 1) if command in {"distill", "synthesize"} else (),
    )
    assert code == 2
    assert "Did you mean 'one_hot'" in err
    assert "Traceback" not in err


def test_the_paper_of_a_file_is_refused(edgekd, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(format_toml(RECIPES["pool"]))
    code, _, err = edgekd("recipes", "show", path, "--faithful")
    assert (code, "has no paper's settings" in err) == (2, True)
    code, _, err = edgekd("recipes", "show", "pool", "--json", "--toml")
    assert (code, "give one of them" in err) == (2, True)
