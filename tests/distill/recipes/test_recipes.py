"""The book of recipes: every one runs and resumes, has its published numbers, and is chosen for a reason."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from edgekd.distill.compute.device import Compute
from edgekd.distill.data.given_data import GivenData
from edgekd.distill.data.real_images import RealImages
from edgekd.distill.kd_losses import LogitDistance
from edgekd.distill.models.architectures import build
from edgekd.distill.models.student_choice import map_bytes
from edgekd.distill.recipes.adaptation import (
    POOL_BYTES,
    for_batch,
    for_images,
    for_inherited,
    for_memory,
    for_teacher,
    list_changes,
)
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import (
    BankMemory,
    ReplayMemory,
    UnconditionalSource,
    adjust,
)
from edgekd.distill.recipes.faithful import FAITHFUL
from edgekd.distill.recipes.schedule import RunBudget
from edgekd.distill.recipes.selection import REAL_SHARE, select_recipe
from edgekd.distill.synthesis import generative_replay
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.teachers.state_dict import state_digest
from edgekd.distill.training.checkpoint import RunFolder
from edgekd.distill.training.distiller import Distillation
from edgekd.errors import CollapseError, UsageError
from edgekd.records import Architecture

CLASSES, SIDE = 4, 28
CPU = torch.device("cpu")


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(recipe, *, learning=None, **changed):
    """A recipe with everything small; its shares stay."""
    steps = min(recipe.inner_steps, 2)
    source = adjust(recipe.source, batch=8, steps=steps, latents=8, width=4)
    steps = int(isinstance(recipe.memory, ReplayMemory) and recipe.memory.steps > 0)
    memory = adjust(recipe.memory, batches=3, entry=8, latents=4, width=4, steps=steps)
    learnt = replace(recipe.learning, **{"batch": 8, "steps": 2} | (learning or {}))
    small = replace(recipe, source=source, memory=memory, learning=learnt)
    return replace(small, **{"first_batches": 2, "held_out_every": 2} | changed)


def architecture(name):
    return Architecture(
        source="edgekd", name=name, channels=1, classes=CLASSES, height=SIDE, width=SIDE
    )


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """One with trained batch-norm, and one without any."""
    folder = tmp_path_factory.mktemp("teachers")
    found = {}
    for name in ("resnet8-w4", "lenet5"):
        module = build(architecture(name)).train()
        draw = drawn(1)
        for parameter in module.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=draw)
        for _ in range(3):
            module(torch.randn(32, 1, SIDE, SIDE, generator=draw))
        torch.save(module.state_dict(), folder / f"{name}.pt")
        told = TeacherOptions(input=(1, SIDE, SIDE), mean=(0.5,), std=(0.25,))
        found[name] = load_teacher(folder / f"{name}.pt", told, generator=drawn())
    return found


def real_images(kind="condensed", count=8, labels=True):
    return RealImages(
        images=torch.randn(count, 1, SIDE, SIDE, generator=drawn(3)),
        labels=torch.arange(count) % CLASSES if labels else None,
        kind=kind, name="set", digest="0" * 64, notes=("read",),
    )  # fmt: skip


@pytest.fixture
def make(teachers, compute):
    def maker(recipe, *, teacher="resnet8-w4", steps=8, seed=0, real=None):
        loaded = teachers[teacher]
        settled = for_teacher(recipe, batch_norm=loaded.info.batch_norm_trained)
        if real is None and recipe.losses.alignment:
            real = real_images()
        return Distillation(
            loaded, architecture("lenet5-half"), settled, budget=RunBudget(steps=steps),
            seed=seed, compute=compute, given=GivenData(real=real),
        )  # fmt: skip

    return maker


def expansion_of(recipe):
    return 0.0 if recipe.inverted is None else recipe.inverted.expansion


def finished(run):
    events = list(run.events())
    return events, state_digest(run.deliver().state_dict())


# --- every recipe ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_leaves_the_teacher_and_resumes_bit_for_bit(name, make, tmp_path):
    whole = make(tiny(RECIPES[name]))
    events, expected = finished(whole)
    assert whole.step == 8
    assert all(bool(torch.isfinite(part).all()) for part in whole.student.parameters())
    assert all(torch.isfinite(torch.tensor(list(e.point.losses.values()))).all() for e in events)
    whole.teacher.verify_unchanged()
    assert state_digest(whole.teacher_module.state_dict()) == whole.teacher.info.state_digest
    broken, second = make(tiny(RECIPES[name])), make(tiny(RECIPES[name]))
    with RunFolder.open(tmp_path / "run", {}, restart=False) as folder:
        for _ in zip(range(2), broken.events(), strict=False):
            folder.save(broken)
        assert folder.load(second)
    assert second.step == broken.step < 8
    assert finished(second)[1] == expected


@pytest.mark.parametrize(
    "name", ["pool", "memory-bank", "pseudo-replay", "condensed-expansion", "dfad", "cmi", "nayer"]
)
def test_a_recipe_runs_on_a_teacher_without_batch_norm(name, make):
    run = make(tiny(RECIPES[name]), teacher="lenet5")
    events, _ = finished(run)
    assert all(bool(torch.isfinite(part).all()) for part in run.student.parameters())
    assert not any("bn" in event.point.losses for event in events)
    run.teacher.verify_unchanged()


@pytest.mark.parametrize("eviction", ["reservoir", "balanced"])
def test_pools_that_give_up_single_images_resume_bit_for_bit(eviction, make, tmp_path):
    recipe = tiny(RECIPES["pool"])
    recipe = replace(recipe, memory=replace(recipe.memory, eviction=eviction))
    expected = finished(make(recipe, steps=16))[1]
    first, second = make(recipe, steps=16), make(recipe, steps=16)
    with RunFolder.open(tmp_path / "run", {}, restart=False) as folder:
        for _ in zip(range(5), first.events(), strict=False):
            folder.save(first)
        assert folder.load(second)
    assert finished(second)[1] == expected


@pytest.mark.parametrize("name", ["pool", "memory-bank", "dfad", "pseudo-replay"])
def test_images_that_are_never_finite_end_in_a_collapse(name, make):
    recipe = tiny(RECIPES[name])
    losses = replace(recipe.losses, total_variation=float("inf"))
    with pytest.raises(CollapseError, match="started afresh"):
        finished(make(replace(recipe, losses=losses)))


def test_the_discriminator_that_recipes_with_real_images_have_is_theirs_alone(make):
    assert make(tiny(RECIPES["condensed-replay"])).synthesizer.alignment is not None
    assert make(tiny(RECIPES["pseudo-replay"]), real=real_images()).synthesizer.alignment is None


def test_batches_begin_as_real_images_in_the_share_that_the_recipe_says(make):
    """An expansion has no weights to learn, so the generator is as it was; what is held out is the generator's."""
    for share, same in ((1.0, True), (0.0, False)):
        recipe = tiny(RECIPES["condensed-expansion"])
        run = make(replace(recipe, source=adjust(recipe.source, expansion=share)))
        before = state_digest(run.synthesizer.source.network.state_dict())
        finished(run)
        after = state_digest(run.synthesizer.source.network.state_dict())
        assert (after == before) is same
        assert run.held_out.made


def test_images_without_labels_are_labelled_by_the_teacher(make):
    real = real_images(kind="samples", labels=False)
    run = make(tiny(RECIPES["condensed-expansion"]), real=real)
    assert run.student_batches.real is not None
    assert torch.equal(run.student_batches.real.labels, run.teacher_module(real.images).argmax(1))


def test_statistics_of_delivery_see_the_real_images_too(make):
    recipe = tiny(RECIPES["condensed-expansion"])
    run = make(recipe, real=real_images())
    list(run.events())
    images = run.pool.best_batches(1)[0]
    real = round(len(images) * recipe.learning.real / (1 - recipe.learning.real))
    assert real > 0
    assert len(run.student_batches.as_learned(images)) == len(images) + real


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 2), (0.5, 4), (0.01, 1)])
def test_as_many_of_a_batch_are_real_as_the_recipe_says(make, share, expected):
    recipe = tiny(RECIPES["memory-bank"], learning={"real": share})
    run = make(recipe, real=real_images())
    next(run.events())
    # Far from anything that is made, so that they show through what they are laid over.
    real = run.student_batches.real
    run.student_batches.real = replace(real, images=torch.full_like(real.images, 1e6))
    _, new, remembered = run.student_batches.batch(0.5)
    means = new.flatten(1).mean(1)
    assert int((means > 100).sum()) == expected
    assert float(means.max()) < 1e6  # and none is shown as it is
    assert len(new) + len(remembered) == 8


# --- shares of the budget --------------------------------------------------------------------------


@pytest.mark.parametrize("period", [0.1, 0.3, 0.25, 0.04])
def test_a_bank_takes_as_many_batches_in_a_long_run_as_in_a_short_one(make, period):
    """At 40 steps, at 80, and at 120: as many as there are periods, and none is lost to rounding."""
    pushed = []
    for steps in (40, 80, 120):
        recipe = tiny(RECIPES["noise"], held_out_every=1000)  # it costs nothing to make
        memory = BankMemory(batches=3, entry=8, period=period)
        run = make(replace(recipe, memory=memory), steps=steps)
        synthesizer = run.synthesizer
        for step in range(steps):
            synthesizer.round(step / steps, generator=run.generator)
        pushed.append(synthesizer.pool.made)
    expected = len({int(step / 1200 / period + 1e-9) for step in range(1200)})
    assert pushed == [expected] * 3


def test_warm_up_and_restart_are_shares_too(make):
    recipe = tiny(RECIPES["pool"])
    for steps in (20, 40):
        run = make(recipe, steps=steps)
        run.synthesizer.progress = 0.09
        assert not run.synthesizer._weights().asks_student
        run.synthesizer.progress = 0.11
        assert run.synthesizer._weights().asks_student
    source = make(tiny(RECIPES["nayer"])).synthesizer.source
    assert source.source.restart_every == pytest.approx(10 / 300)


def test_what_is_made_against_the_student_fades_over_the_run(make):
    recipe = tiny(RECIPES["pool"])
    run = make(replace(recipe, adversary=replace(recipe.adversary, fading=0.8)))
    whole = recipe.losses
    for progress, factor in ((0.05, 0.0), (0.5, 0.6), (1.0, 0.2)):
        run.synthesizer.progress = progress
        found = run.synthesizer._weights()
        assert found.adversarial == pytest.approx(factor * whole.adversarial)
        assert found.one_hot == whole.one_hot


def test_for_teacher_takes_away_what_needs_statistics_and_nothing_else():
    for name, recipe in RECIPES.items():
        assert for_teacher(recipe, batch_norm=True) == recipe
        found = for_teacher(recipe, batch_norm=False)
        assert found.losses.batch_norm == 0
        if not recipe.losses.batch_norm:
            assert found == recipe, name
            continue
        weights = found.losses
        assert min(weights.disagreement, weights.balance, weights.total_variation) > 0
        assert weights.patches == 0
        assert for_teacher(recipe, batch_norm=False, attention=True).losses.patches > 0
        assert found.learning.loss == LogitDistance()
        assert found.learning.optimizer == "adam"
        assert found.learning.rate <= 2e-3
        assert not recipe.flows or found.learning.structured == 0.8


def test_batches_are_as_large_as_the_maps_of_the_teacher_allow():
    recipe = RECIPES["pool"]
    assert for_memory(recipe, 2 << 20) == recipe
    # 4 GiB, of which an image takes 6 times 21 MiB
    smaller = for_memory(recipe, 21 << 20)
    assert (smaller.source.batch, smaller.learning.batch, smaller.memory.entry) == (32, 32, 32)
    # As many images
    assert smaller.first_batches == 4 * recipe.first_batches
    assert smaller.memory.batches == 4 * recipe.memory.batches
    flowing = for_memory(RECIPES["memory-bank"], 21 << 20)
    assert (flowing.source.batch, flowing.first_batches) == (32, 1)
    assert for_memory(recipe, 1 << 40).source.batch == 8


@pytest.mark.parametrize(
    "seen", [lambda network: network, torch.jit.script], ids=["module", "script"]
)
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_the_bytes_of_maps_are_those_of_all_that_is_made(seen):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(256, 5)
    ).eval()  # fmt: skip
    # 4 x 8 x 8 of a convolution and of what is not in place, and 5
    assert map_bytes(seen(network), shape=(3, 8, 8)) == 4 * (2 * 256 + 5)


def test_few_steps_wait_for_few_images():
    usual = for_inherited(RECIPES["pool"], statistics=True)
    assert (usual.warm_up_batches, usual.first_batches, usual.held_out_steps) == (4, 4, 4)
    assert for_inherited(RECIPES["pool"], statistics=True, steps=240) == usual
    short = for_inherited(RECIPES["pool"], statistics=True, steps=120)
    assert (short.warm_up_batches, short.first_batches, short.held_out_steps) == (2, 2, 2)


def test_for_batch_sets_source_student_and_memory():
    found = for_batch(RECIPES["memory-bank"], 32)
    assert (found.source.batch, found.learning.batch, found.memory.entry) == (32, 32, 32)
    assert for_batch(RECIPES["memory-bank"], 512).memory.entry == 128  # a bank need not grow


def test_batches_of_a_source_that_fits_are_those_of_the_memory():
    """They are kept whole: also where more images at once are asked for than the recipe has."""
    for recipe in (*RECIPES.values(), *(each.recipe for each in FAITHFUL.values())):
        for used in (recipe, for_batch(recipe, 16), for_batch(recipe, 1000)):
            assert used.flows or used.memory.entry == used.source.batch, recipe.name


def test_for_images_bounds_what_the_pool_takes():
    for recipe in RECIPES.values():
        assert for_images(recipe, (3, 32, 32)) == recipe
        large = for_images(recipe, (3, 224, 224)).memory
        held = large.batches * large.entry * 3 * 224 * 224
        assert large.batches == recipe.memory.batches or held <= POOL_BYTES
        assert large.batches >= 4


# --- the papers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAITHFUL)
def test_a_papers_settings_are_built_for_a_teacher_of_its_size(name, teachers):
    """A run of it is set up, at its own sizes, and nothing is computed."""
    found = FAITHFUL[name]
    assert found.recipe.name == name
    teacher = teachers["resnet8-w4"]
    compute = Compute(device=CPU, precision="fp32", autocast=nullcontext, backward=lambda _: None)
    held = replace(found.recipe, memory=replace(found.recipe.memory, batches=1))
    real = real_images() if held.losses.alignment else None
    run = Distillation(
        teacher, architecture("lenet5-half"), held, budget=RunBudget(steps=found.steps), seed=0,
        compute=compute, given=GivenData(real=real),
    )  # fmt: skip
    assert run.step == 0
    assert run.progress == 0


def test_pseudo_replay_has_the_numbers_of_its_release():
    found = FAITHFUL["pseudo-replay"]
    source, memory, learning = found.recipe.source, found.recipe.memory, found.recipe.learning
    assert isinstance(source, UnconditionalSource)
    assert isinstance(memory, ReplayMemory)
    assert found.steps == 400 * 36 * 10
    assert (source.batch, source.latents, source.rate) == (1024, 1000, 0.02)
    weights = found.recipe.losses
    assert (weights.one_hot, weights.balance, weights.activation) == (1, 5, 0.1)
    assert (weights.jensen_shannon, weights.batch_norm) == (1, 0)
    assert (source.head, found.recipe.adversary.student_in_train_mode) == ("batch_norm", True)
    assert (learning.steps, learning.rate, learning.weight_decay) == (10, 0.1, 5e-4)
    assert (learning.optimizer, learning.loss.kind) == ("sgd", "logit_distance")
    assert round(memory.share * learning.batch) == 128
    assert learning.batch - 128 == 1024
    assert (memory.steps, memory.latents, generative_replay.LATENT_RATE) == (4, 1000, 0.02)
    assert pytest.approx(0.02 / 40) == generative_replay.RATE


def test_the_replay_is_taught_half_of_what_is_new_and_a_quarter_of_its_own(make):
    """Of 1,024 new images 512, and 128 of its own after the first step; here of 32 new ones."""
    recipe = tiny(RECIPES["pseudo-replay"], learning={"batch": 36})
    run = make(recipe, teacher="lenet5")
    assert run.synthesizer.replay is not None
    seen: list[int] = []
    run.synthesizer.replay.encoder.register_forward_hook(
        lambda _, inputs, __: seen.append(len(inputs[0]))
    )
    for _ in run.events():
        pass
    assert seen == [16, 20, 20, 20]


def test_the_memory_bank_has_the_numbers_of_its_reimplementation():
    found = FAITHFUL["memory-bank"]
    memory = found.recipe.memory
    assert isinstance(memory, BankMemory)
    assert (memory.kind, memory.batches, memory.entry) == ("bank", 10, 128)
    assert memory.period == pytest.approx(5 / 400)
    assert found.steps == 400 * 36 * 10
    assert found.recipe.losses.batch_norm == 0  # nobody confirmed it


@pytest.mark.parametrize(
    ("name", "steps", "source", "learning"),
    [
        ("dafl", 2000 * 120, {"batch": 1024, "rate": 0.02, "latents": 1000}, {"rate": 0.1}),
        ("dfad", 500 * 50 * 5, {"batch": 256, "rate": 1e-3, "latents": 256},
         {"rate": 0.1, "weight_decay": 5e-4, "steps": 5, "loss": LogitDistance()}),
        ("zskt", 200 * 400 * 5, {"rate": 1e-3}, {"rate": 0.1, "temperature": 20, "steps": 5}),
        ("deep-inversion", 200 * 400, {"batch": 256, "steps": 2000, "jitter": 2}, {}),
        ("cmi", 200 * 400, {"rate": 1e-3, "steps": 500}, {"rate": 0.1, "temperature": 20}),
        ("fast", 220 * 400, {"latents": 256, "width": 64, "steps": 5, "rate": 3e-3},
         {"batch": 256, "rate": 0.2, "weight_decay": 1e-4, "temperature": 20}),
        ("nayer", 320 * 400, {"batch": 400, "steps": 30, "rate": 4e-3, "restart_every": 1 / 30},
         {"batch": 512, "rate": 0.2, "temperature": 20}),
        ("noise", 200 * 196, {}, {"rate": 1e-3, "optimizer": "adam", "batch": 256}),
    ],
)  # fmt: skip
def test_published_numbers(name, steps, source, learning):
    found = FAITHFUL[name]
    assert found.steps == steps
    flat = vars(found.recipe.learning) | vars(found.recipe.learning.loss)
    flat |= {"loss": found.recipe.learning.loss}
    for settings, expected in ((vars(found.recipe.source), source), (flat, learning)):
        for key, value in expected.items():
            wanted = value if key in {"loss", "optimizer"} else pytest.approx(value)
            assert settings[key] == wanted, key


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("dafl", {"one_hot": 0.05, "balance": 5, "activation": 0.01}),
        ("dfad", {"disagreement": 1}),
        ("zskt", {"divergence": 1}),
        ("cmi", {"batch_norm": 1, "one_hot": 1, "adversarial": 0.5, "contrastive": 0.8}),
        ("fast", {"batch_norm": 10, "one_hot": 0.4, "adversarial": 1.33}),
        ("nayer", {"batch_norm": 10, "one_hot": 0.5, "adversarial": 1.33}),
        ("noise", {}),
    ],
)
def test_published_losses_and_no_others(name, weights):
    found = vars(FAITHFUL[name].recipe.losses)
    numbers = {key: value for key, value in found.items() if value}
    assert numbers == pytest.approx(weights)


def test_what_leans_on_real_images_aligns_with_them():
    for recipe in (*RECIPES.values(), *(each.recipe for each in FAITHFUL.values())):
        asks = recipe.name.startswith("condensed")
        assert bool(recipe.losses.alignment) == bool(recipe.learning.real) == asks


# --- the choice ------------------------------------------------------------------------------------


def test_auto_takes_the_pool_for_statistics_and_says_so(teachers):
    found = select_recipe("auto", teachers["resnet8-w4"], real=None)
    assert found.recipe.name == "pool"
    assert "batch-norm layers to match" in found.reason
    assert found.notes == ()
    assert found.steps is None


def test_auto_takes_what_needs_no_statistics_where_there_are_none(teachers):
    found = select_recipe("auto", teachers["lenet5"], real=None)
    assert found.recipe == RECIPES["plain"]
    assert "no trained batch-norm" in found.reason
    assert found.recipe.losses.batch_norm == 0


@pytest.mark.parametrize(
    ("budget", "short"),
    [
        (RunBudget(minutes=2), True),
        (RunBudget(minutes=2.1), False),
        (RunBudget(steps=2000), True),
        (RunBudget(steps=2001), False),
        (None, False),
    ],
)
def test_auto_learns_from_structured_noise_where_the_budget_is_short(teachers, budget, short):
    found = select_recipe("auto", teachers["lenet5"], real=None, budget=budget)
    assert ("so short a run" in found.reason) == short
    assert (found.recipe.learning.structured > RECIPES["plain"].learning.structured) == short
    # What was asked for by name stays as it is, and so does what has statistics to match.
    assert (
        select_recipe("plain", teachers["lenet5"], real=None, budget=budget).recipe
        == RECIPES["plain"]
    )
    other = select_recipe("auto", teachers["resnet8-w4"], real=None, budget=budget)
    assert other.recipe == select_recipe("pool", teachers["resnet8-w4"], real=None).recipe


def test_structured_noise_may_be_for_grey_images_alone():
    plain = replace(RECIPES["plain"].learning, structured=0.3, structured_colour=0.1)
    recipe = replace(RECIPES["plain"], learning=plain)
    assert for_images(recipe, (1, 28, 28)).learning.structured == 0.3
    assert for_images(recipe, (3, 32, 32)).learning.structured == 0.1
    assert for_images(RECIPES["plain"], (3, 32, 32)).learning.structured == 0.8


def test_the_pool_without_statistics_says_that_it_is_weaker(teachers):
    found = select_recipe("pool", teachers["lenet5"], real=None)
    assert found.recipe.losses.batch_norm == 0
    assert any(note.startswith("weaker") for note in found.notes)


def test_every_setting_that_a_teacher_without_statistics_changes_is_in_a_note(teachers):
    found = select_recipe("pool", teachers["lenet5"], real=None)
    (changed,) = (note for note in found.notes if note.startswith("changed for this teacher: "))
    said = changed.partition(": ")[2].split(", ")
    assert set(said) == {
        "source.head sigmoid -> batch_norm",
        "losses.one_hot 2 -> 0.5",
        "losses.batch_norm 1 -> 0",
        "losses.disagreement 0 -> 0.1",
        "losses.balance 0 -> 1",
        "losses.total_variation 0 -> 0.1",
        "learning.loss.kind soft_targets -> logit_distance",
        "learning.loss.temperature 20 -> none",
        "learning.optimizer sgd -> adam",
        "learning.rate 0.2 -> 0.002",
        "learning.weight_decay 0.0005 -> 0",
    }
    assert not select_recipe("pool", teachers["resnet8-w4"], real=None).notes
    assert list_changes(RECIPES["pool"], RECIPES["pool"]) == ()


@pytest.mark.parametrize("kind", ["condensed", "samples"])
@pytest.mark.parametrize("name", ["resnet8-w4", "lenet5"])
def test_auto_comes_close_to_real_images_where_there_are_some(teachers, name, kind):
    found = select_recipe("auto", teachers[name], real=real_images(kind))
    assert found.recipe.name == "condensed-expansion"
    assert kind in found.reason
    assert "read" in found.notes


def headless(teacher):
    """A teacher whose features cannot be read: no layer of it makes the logits."""

    class Sealed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(CLASSES, SIDE * SIDE, generator=drawn()))

        def forward(self, x):
            return x.flatten(1) @ self.weight.mT

    return replace(teacher, module=Sealed().eval())


@pytest.mark.parametrize("name", ["cmi", "dafl", "memory-bank", "condensed-expansion"])
def test_a_recipe_of_features_is_refused_where_there_are_none(teachers, name):
    with pytest.raises(UsageError, match="penultimate features"):
        select_recipe(name, headless(teachers["lenet5"]), real=real_images())


def test_auto_does_without_features_where_there_are_none(teachers):
    found = select_recipe("auto", headless(teachers["lenet5"]), real=real_images(count=1000))
    assert found.recipe.name == "plain"
    assert found.recipe.learning.real == REAL_SHARE


def test_few_images_are_a_small_share_of_what_is_seen_and_begun_with(teachers):
    few = select_recipe("auto", teachers["resnet8-w4"], real=real_images(count=10))
    assert few.recipe.learning.real == pytest.approx(0.025)
    assert expansion_of(few.recipe) == pytest.approx(0.075)
    assert any("10 images are few: 2.5% of what" in note for note in few.notes)
    enough = select_recipe("auto", teachers["resnet8-w4"], real=real_images(count=100))
    whole = RECIPES["condensed-expansion"]
    assert enough.recipe.learning.real == whole.learning.real
    assert expansion_of(enough.recipe) == expansion_of(whole)
    assert not any("few" in note for note in enough.notes)


def test_samples_are_a_tenth_of_what_condensed_images_are(teachers):
    """A real image that is seen as often as a condensed one is learned by heart (docs/log.md)."""
    found = select_recipe(
        "auto", teachers["resnet8-w4"], real=real_images(kind="samples", count=100)
    )
    assert found.recipe.learning.real == pytest.approx(0.025)
    assert expansion_of(found.recipe) == expansion_of(RECIPES["condensed-expansion"])


def test_the_papers_settings_are_kept_however_few_there_are(teachers):
    found = select_recipe(
        "condensed-expansion", teachers["resnet8-w4"], real=real_images(count=10), faithful=True
    )
    assert found.recipe.learning.real == 0.5
    assert expansion_of(found.recipe) == 0


def test_a_recipe_that_knows_no_real_images_learns_from_some_and_says_so(teachers):
    found = select_recipe("fast", teachers["resnet8-w4"], real=real_images(count=1000))
    assert found.recipe.learning.real == REAL_SHARE
    assert any("25%" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("poll", {}, "recipes list"),
        ("condensed-cmi", {}, "--condensed FILE"),
        ("pool", {"faithful": True}, "--faithful takes"),
        ("noise", {"real": real_images()}, "nothing but noise"),
    ],
)
def test_what_cannot_be_chosen_is_explained(teachers, name, settings, word):
    with pytest.raises(UsageError, match=word):
        select_recipe(name, teachers["resnet8-w4"], **{"real": None} | settings)


def test_a_papers_settings_are_kept_where_they_are_asked_for(teachers):
    found = select_recipe("nayer", teachers["lenet5"], real=None, faithful=True)
    assert found.steps == FAITHFUL["nayer"].steps
    assert found.recipe.losses == FAITHFUL["nayer"].recipe.losses
    assert any("runs without them" in note for note in found.notes)
    smaller = select_recipe("nayer", teachers["lenet5"], real=None, faithful=True, batch=16)
    assert smaller.recipe.source.batch == smaller.recipe.learning.batch == 16


# --- parts of the student's side -------------------------------------------------------------------


def test_retaining_has_the_gradient_of_the_second_order(make):
    """A linear student with the L1 distance far from its kinks: gradients are known by hand.

    With f = L(new) and g = L(old), the gradient of f(w) + g(w - r f'(w)) is f' + (1 - r f'') g'(w').
    The square of the answers gives the curvature that L1 of a line has not.
    """
    recipe = tiny(RECIPES["memory-bank"], learning={"inner_rate": 0.5})
    run = make(recipe)
    rate = 0.5 * 0.1

    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[1.5, 0.5]]))

        def forward(self, x):
            return (x @ self.weight.mT) ** 2

    class Zero(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 1)

    run.student = run.answers = Squared()
    run.optimizer = torch.optim.SGD(run.student.parameters(), lr=0.1)
    new, old = torch.tensor([[1.0, 0.0], [0.5, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    loss = run._retaining(Zero(), new, old)
    loss.backward()
    w = torch.tensor([1.5, 0.5])
    # L(x; w) = mean over x of (x w)^2: gradient 2 A w, Hessian 2 A with A the mean of x x^T.
    a, b = (x.T @ x / len(x) for x in (new, old))
    moved = w - rate * 2 * a @ w
    by_hand = 2 * a @ w + (torch.eye(2) - rate * 2 * a) @ (2 * b @ moved)
    torch.testing.assert_close(run.student.weight.grad[0], by_hand)
    first_order = 2 * a @ w + 2 * b @ moved
    assert not torch.allclose(by_hand, first_order, rtol=1e-2)
    torch.testing.assert_close(loss.detach(), w @ a @ w + moved @ b @ moved)


def test_retaining_runs_with_batch_norm_and_resumes(make, tmp_path):
    recipe = tiny(RECIPES["memory-bank"], learning={"inner_rate": 0.9})
    expected = finished(make(recipe))[1]
    assert expected != finished(make(tiny(RECIPES["memory-bank"])))[1]
    first, second = make(recipe), make(recipe)
    with RunFolder.open(tmp_path / "run", {}, restart=False) as folder:
        next(first.events())
        folder.save(first)
        assert folder.load(second)
    assert finished(second)[1] == expected


def test_noise_comes_first_and_images_after_it(make):
    run = make(tiny(RECIPES["pool"], learning={"noise_start": 0.25, "mix": 0.0}))
    next(run.events())
    teacher, images, remembered = run.student_batches.batch(0.1)
    assert teacher is run.student_batches.noise_teacher
    assert len(images) == 8
    assert len(remembered) == 0
    assert images.max() > 3  # outside of what 0..1 can be: 2 deviations from the mean
    teacher, images, _ = run.student_batches.batch(0.3)
    assert teacher is run.teacher_module
    assert images.abs().max() <= 2 + 1e-5


def test_noise_has_a_teacher_of_its_own_only_where_it_is_used(make):
    assert make(tiny(RECIPES["pool"])).student_batches.noise_teacher is None
    run = make(tiny(RECIPES["noise"]))
    events, _ = finished(run)
    assert run.student_batches.batch(1.0)[0] is run.student_batches.noise_teacher
    assert 0 <= events[-1].point.agreement <= 1


def test_a_source_that_flows_has_no_batches_to_warm_up_with():
    with pytest.raises(ValueError, match="warm_up_batches"):
        replace(RECIPES["memory-bank"], warm_up_batches=1)
