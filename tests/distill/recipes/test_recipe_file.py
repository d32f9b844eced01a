"""Recipes that users write: the form reads back, and what is wrong is said with its place."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.distill import losses
from edgekd.distill.kd_losses import LOSSES, StandardizedSoftTargets
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import BankMemory, PoolMemory, UnconditionalSource
from edgekd.distill.recipes.faithful import FAITHFUL
from edgekd.distill.recipes.recipe_file import (
    format_toml,
    identify_recipe,
    is_recipe_file,
    parse_recipe,
    read_recipe,
)
from edgekd.errors import InputFileError

POOL = format_toml(RECIPES["pool"])
ADDED = """
from pathlib import Path
from typing import Literal
import edgekd.distill as package
source = (Path(package.__file__).parent / "kd_losses.py").read_text()
added = '''
@record
class Squared:
    kind: Literal["squared"] = "squared"
    weight: Temperature = 1.0

    def __call__(self, student, teacher):
        return self.weight * (student - teacher).square().mean()

'''
source = source.replace("LOSSES: Final", added + "LOSSES: Final")
source = source.replace('"logit_distance": LogitDistance,', '"logit_distance": LogitDistance, "squared": Squared,')
import sys, types
made = types.ModuleType("edgekd.distill.kd_losses")
sys.modules[made.__name__] = made
exec(compile(source, "kd_losses.py", "exec"), made.__dict__)
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.recipe_file import format_toml, parse_recipe
text = format_toml(RECIPES["dfad"]).replace('"logit_distance"', '"squared"') + "weight = 2.5\\n"
found = parse_recipe(text.encode(), origin="x")
assert found.learning.loss == made.Squared(weight=2.5), found
"""


def parse(text):
    return parse_recipe(text.encode(), origin="my.toml")


def refusal(text):
    with pytest.raises(InputFileError) as refused:
        parse_recipe(text if isinstance(text, bytes) else text.encode(), origin="my.toml")
    message = str(refused.value)
    assert message.startswith("my.toml: ")
    assert len(message) < 3000
    return message


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_shown_reads_back_as_itself(name):
    assert parse(format_toml(RECIPES[name])) == RECIPES[name]


@pytest.mark.parametrize("name", FAITHFUL)
def test_a_papers_settings_read_back_as_themselves(name):
    assert parse(format_toml(FAITHFUL[name].recipe)) == FAITHFUL[name].recipe


def test_what_no_shipped_recipe_varies_can_be_written():
    bank = RECIPES["memory-bank"]
    assert isinstance(bank.source, UnconditionalSource)
    assert isinstance(bank.memory, BankMemory)
    varied = replace(
        bank,
        source=replace(bank.source, momentum=0.95),
        losses=replace(bank.losses, alignment=1.0, unconditional_alignment=True),
        memory=replace(bank.memory, eviction="balanced"),
        learning=replace(
            bank.learning,
            loss=StandardizedSoftTargets(temperature=4.0),
            inner_rate=0.5,
            noise_start=0.1,
            structured=0.3,
            structured_colour=0.1,
        ),
    )
    assert parse(format_toml(varied)) == varied
    reservoir = parse(POOL.replace('"oldest"', '"reservoir"'))
    assert reservoir.memory == PoolMemory(batches=400, entry=128, eviction="reservoir")


def test_only_what_is_used_is_shown():
    text = format_toml(RECIPES["deep-inversion"])
    assert "latents" not in text
    assert "width" not in text
    assert "temperature = 20.0" in text
    assert "temperature" not in format_toml(RECIPES["dfad"])
    assert "first_bn_multiplier = 10.0" in text
    assert "first_bn_multiplier" not in POOL


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_any_text_in_a_provenance_reads_back(text):
    about = replace(RECIPES["pool"].about, ours=text)
    recipe = replace(RECIPES["pool"], about=about)
    try:
        encoded = format_toml(recipe).encode()
    except UnicodeEncodeError:
        return  # half a character has no form in a file
    assert parse_recipe(encoded, origin="my.toml") == recipe


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("one_hot = 2.0", "one_hott = 2.0", "losses.one_hott: unknown key. Did you mean 'one_hot'?"),
        ("steps = 10", "stepz = 10", "source.stepz: unknown key. Did you mean 'steps'?"),
        ("[adversary]", "[adversry]", "adversry: unknown key. Did you mean 'adversary'?"),
        ("temperature = 20.0", "temprature = 20.0", "learning.loss.temprature: unknown key. Did you mean 'temperature'?"),
        ("latents = 128", "momentum = 0.5", "source.momentum: unknown key."),
        ('kind = "meta"', 'kind = "mata"', "'meta', 'restarted', 'noisy_layer', 'pixels'"),
        ('kind = "soft_targets"', 'kind = "dkd"', "learning.loss: .*'soft_targets', 'standardized', 'logit_distance'"),
        ('optimizer = "sgd"', 'optimizer = "lion"', "learning.optimizer: .*'sgd' or 'adam'"),
        ("mix = 0.5", "mix = 1.5", "learning.mix: .*less than or equal to 1"),
        ("rate = 0.2", "rate = -1.0", "learning.rate: .*greater than 0"),
        ("steps = 60", "steps = 0", "learning.steps: .*greater than or equal to 1"),
        ("steps = 60", "steps = 60.5", "learning.steps: "),
        ("steps = 60", "steps = true", "learning.steps: "),
        ("steps = 60", 'steps = "60"', "learning.steps: "),
        ("steps = 60", "steps = 9007199254740993", "learning.steps: a number of more than 53 bits"),
        ("batches = 400", "batches = 4000000000", "memory.batches: .*less than or equal to 1000000"),
        ("rate = 0.2", "rate = inf", "learning.rate: inf is no number"),
        ("rate = 0.2", "rate = nan", "learning.rate: nan is no number"),
        ("rate = 0.2", "rate = 1979-05-27", "learning.rate: a date"),
        ("rate = 0.2", "rate = [0.2]", "learning.rate: a list"),
        ("rate = 0.2\n", "", "learning.rate: "),
        ('name = "pool"', 'name = "../../etc"', "name: "),
        ('name = "pool"', 'name = "a\\u001b[2J"', "name: "),
        ("schema_version = 1", "schema_version = 2", "schema_version 2; this edgekd reads 1"),
        ("schema_version = 1", "schema_version = true", "schema_version True"),
        ('kind = "pool"', 'kind = "bank"', 'source.kind "meta" takes memory.kind pool, not "bank"'),
        ("one_hot = 2.0\nbatch_norm = 1.0\nadversarial = 1.0", "first_bn_multiplier = 2.0", "give one of them a weight above 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(old, new, said):
    assert old in POOL
    text = POOL.replace(old, new, 1)
    with pytest.raises(InputFileError, match=said):
        parse(text)
    refusal(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"name = ",
        b"name = 'a'\nname = 'b'",
        b"a = " + b"[" * 100_000,
        b"a = " + b"{a = " * 5_000,
        b".".join([b"a"] * 50_000) + b" = 1",
        b".".join([b"a"] * 400) + b" = 1",
        b"a = " + b"9" * 10_000,
        b"a = 1e999",
        b"source = 3\nname = 'a'\nmemory = 'b'\nlearning = true",
        b"[source]\nkind = 3",
        b"[source]\nkind = {}",
        b"[source.kind]\nkind = 'meta'",
        b"[learning]\nloss = 'soft_targets'",
        b"'\\u0000' = 1",
    ],
    ids=range(16),
)
def test_hostile_files_are_refused_and_not_a_traceback(data):
    refusal(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_a_traceback(data):
    with pytest.raises(InputFileError):
        parse_recipe(data, origin="my.toml")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "large.toml").write_bytes(b"#" * (2 << 20))
    for path in (tmp_path, tmp_path / "none.toml", tmp_path / "large.toml", tmp_path / "a\0.toml"):
        with pytest.raises(InputFileError):
            read_recipe(path)


@pytest.mark.parametrize(
    ("name", "is_file"),
    [("my.toml", True), ("./my", True), ("/a/b", True), ("pool", False), ("auto", False), ("toml", False)],
)  # fmt: skip
def test_a_file_is_told_from_a_name(name, is_file):
    assert is_recipe_file(name) is is_file


def test_a_changed_file_is_another_run(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(POOL)
    before = identify_recipe(str(path))
    assert before == identify_recipe(str(path))
    assert json.loads(json.dumps(before)) == before
    path.write_text(POOL.replace("mix = 0.5", "mix = 0.25"))
    assert identify_recipe(str(path)) != before
    assert identify_recipe("pool") == "pool"


def test_the_losses_are_named_by_their_kind_and_are_the_formulas():
    assert {kind: made().kind for kind, made in LOSSES.items()} == {kind: kind for kind in LOSSES}
    student, teacher = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    by_hand = {
        "soft_targets": losses.soft_targets(student, teacher, temperature=20.0),
        "standardized": losses.soft_targets_standardized(student, teacher, temperature=20.0),
        "logit_distance": losses.logit_distance(student, teacher),
    }
    for kind, expected in by_hand.items():
        torch.testing.assert_close(LOSSES[kind]()(student, teacher), expected)


def test_a_loss_that_is_added_to_the_dict_can_be_written_in_a_file():
    """As a change of the package would: in a process of its own, before recipes are read."""
    subprocess.run([sys.executable, "-c", ADDED], check=True, timeout=300)
