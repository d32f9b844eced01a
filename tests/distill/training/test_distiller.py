from dataclasses import replace

import pytest
import torch

from edgekd.distill.compute.device import choose_compute
from edgekd.distill.data.given_data import GivenData
from edgekd.distill.models.architectures import build
from edgekd.distill.models.student_choice import InitialStudent
from edgekd.distill.pruning.plan_cut import CutPlanner
from edgekd.distill.recipes.adaptation import for_inherited, for_teacher
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import adjust
from edgekd.distill.recipes.schedule import RunBudget
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.teachers.state_dict import state_digest
from edgekd.distill.training.checkpoint import RunFolder
from edgekd.distill.training.cost_forecast import forecast
from edgekd.distill.training.distiller import Distillation
from edgekd.errors import CollapseError, UsageError
from edgekd.records import Architecture, CutRequest
from tests.edgekd.conftest import TEACHER


def tiny(name="pool", **learning):
    """A recipe of the book with everything small."""
    recipe = RECIPES[name]
    steps = min(recipe.inner_steps, 2)
    return replace(
        recipe,
        source=adjust(recipe.source, batch=16, steps=steps, latents=16, width=8),
        memory=adjust(recipe.memory, batches=6, entry=16, latents=16, width=8),
        learning=replace(recipe.learning, batch=16, steps=3, **learning),
        first_batches=2,
        held_out_every=2,
    )


TINY = tiny()


def architecture(name):
    return Architecture(source="edgekd", name=name, channels=1, classes=4, height=28, width=28)


@pytest.fixture
def make(tmp_path, compute):
    def maker(name="resnet8-w4", *, seed=0, budget=None, recipe=TINY, where=None, clock=None):
        path = tmp_path / f"{name}.pt"
        if not path.exists():
            module = build(architecture(name)).train()
            for _ in range(3):
                module(torch.randn(32, 1, 28, 28))
            torch.save(module.state_dict(), path)
        told = TeacherOptions(input=(1, 28, 28), mean=(0.5,), std=(0.25,))
        teacher = load_teacher(path, told, generator=torch.Generator().manual_seed(0))
        settled = for_teacher(recipe, batch_norm=teacher.info.batch_norm_trained)
        more = {} if clock is None else {"clock": clock}
        return Distillation(
            teacher, architecture("lenet5-half"), settled, budget=budget or RunBudget(steps=14),
            seed=seed, compute=where or compute, **more,
        )  # fmt: skip

    return maker


def finished(run):
    events = list(run.events())
    return events, state_digest(run.deliver().state_dict())


def test_a_budget_of_steps_is_kept_to_the_step(make):
    run = make()
    events, _ = finished(run)
    assert run.step == 14
    assert [event.point.step for event in events] == [3, 6, 9, 12, 14]
    assert events[-1].progress == 1.0


def test_the_same_seed_gives_the_same_student_and_another_does_not(make):
    assert finished(make())[1] == finished(make())[1]
    assert finished(make())[1] != finished(make(seed=1))[1]


def test_the_teacher_is_unchanged(make):
    run = make()
    finished(run)
    run.teacher.verify_unchanged()
    assert state_digest(run.teacher_module.state_dict()) == run.teacher.info.state_digest


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_a_run_that_was_saved_goes_on_to_the_same_student(make, tmp_path, rounds):
    whole = finished(make())[1]
    first = make()
    with RunFolder.open(tmp_path / "run", {"a": 1}, restart=False) as folder:
        for number, _ in enumerate(first.events(), start=1):
            folder.save(first)
            if number == rounds:
                break
    second = make()
    with RunFolder.open(tmp_path / "run", {"a": 1}, restart=False) as folder:
        assert folder.load(second)
        assert second.step == first.step
        assert finished(second)[1] == whole


def test_snapshots_survive_a_checkpoint_and_an_old_one_without_them_is_continued(make, tmp_path):
    whole = make()
    _, expected = finished(whole)
    first = make()
    next(first.events())
    with RunFolder.open(tmp_path / "run", {}, restart=False) as folder:
        folder.save(first)
    second, old = make(), make()
    with RunFolder.open(tmp_path / "run", {}, restart=False) as folder:
        assert folder.load(second)
        finished(second)
        assert folder.load(old)
    assert len(whole.snapshots.taken) == len(second.snapshots.taken) == 4
    for one, other in zip(whole.snapshots.taken, second.snapshots.taken, strict=True):
        assert (one.progress, one.step, one.classes) == (other.progress, other.step, other.classes)
        assert torch.equal(one.images, other.images)
    state = first.state_dict()
    del state["snapshots"]
    old = make()
    next(old.events())
    old.load_state_dict(state)
    assert finished(old)[1] == expected
    assert 0 < len(old.snapshots.taken) <= 4


def test_saving_twice_writes_only_what_is_new_and_keeps_only_the_pool(make, tmp_path):
    run = make(budget=RunBudget(steps=60))
    with RunFolder.open(tmp_path / "run", {}, restart=False) as folder:
        for _ in run.events():
            folder.save(run)
        shards = sorted(path.name for path in (tmp_path / "run").glob("pool-*"))
    assert len(shards) == 6  # of the 21 batches that were made, the capacity
    assert shards[-1] == "pool-00000020-00000021.safetensors"


def test_another_commands_run_is_refused_and_restart_throws_it_away(tmp_path):
    with RunFolder.open(tmp_path / "run", {"seed": 1}, restart=False):
        pass
    with (
        pytest.raises(UsageError, match="seed"),
        RunFolder.open(tmp_path / "run", {"seed": 2}, restart=False),
    ):
        pass
    with RunFolder.open(tmp_path / "run", {"seed": 2}, restart=True):
        pass


def test_minutes_are_counted_on_the_clock_that_was_given(make):
    ticks = iter(range(10_000))
    run = make(budget=RunBudget(minutes=1.0), clock=lambda: float(next(ticks)))
    events, _ = finished(run)
    assert run.elapsed_s >= 60
    assert events[-2].point.elapsed_s < 60


def test_a_loss_that_is_not_finite_restores_the_student_and_halves_its_rate(make):
    run = make(budget=RunBudget(steps=30))
    events = run.events()
    next(events)
    average = state_digest(run.average.state_dict())
    with torch.no_grad():
        next(run.student.parameters()).fill_(float("nan"))
    event = next(events)
    assert state_digest(run.student.state_dict()) == average
    assert "not finite" in event.warnings[0]
    assert run.rate_factor == 0.5
    assert all(bool(torch.isfinite(part).all()) for part in run.student.parameters())


def test_images_that_stay_broken_end_in_a_collapse(make):
    weights = replace(TINY.losses, one_hot=float("inf"))
    broken = replace(TINY, losses=weights)
    with pytest.raises(CollapseError, match="started afresh"):
        finished(make(recipe=broken))


def test_a_teacher_without_batch_norm_runs_with_its_own_terms(make):
    run = make("lenet5")
    events, _ = finished(run)
    assert "bn" not in events[-1].point.losses
    assert {"one_hot", "balance", "tv", "adversarial"} <= set(events[-1].point.losses)


def test_distillation_raises_agreement(make):
    run = make(
        budget=RunBudget(steps=150),
        recipe=replace(TINY, learning=replace(TINY.learning, batch=32, steps=5)),
    )
    before = None
    for event in run.events():
        before = event.point.agreement if before is None else before
    assert before is not None
    assert run.agreement(run.deliver()) > 0.3


@pytest.mark.gpu
def test_it_runs_on_cuda_in_bf16(make):
    run = make(where=choose_compute("cuda", threads=None))
    events, _ = finished(run)
    assert run.compute.precision == "bf16"
    assert len(events) == 5


def test_statistics_of_delivery_are_of_what_was_learned_from(make):
    run = make(recipe=tiny(structured=0.75))
    _, digest = finished(run)
    images = run.pool.best_batches(1)[0]
    shown = run.student_batches.as_learned(images)
    assert shown.shape == (4 * len(images), *images.shape[1:])  # three quarters are structured
    # A run that is taken up when it is done delivers the same student.
    again = make(recipe=tiny(structured=0.75))
    again.load_state_dict(run.state_dict())
    for number in range(run.pool.made):
        again.pool.add(run.pool.entry(number))
    assert again.student_batches.gallery is None
    assert set(again.deliver().state_dict()) == set(run.deliver().state_dict())
    assert again.student_batches.gallery is not None
    assert torch.equal(again.student_batches.gallery.images, run.student_batches.gallery.images)
    assert digest == finished(make(recipe=tiny(structured=0.75)))[1]


def test_what_a_generator_learns_to_start_with_is_not_kept(make):
    plain, warmed = make(), make(recipe=replace(TINY, warm_up_batches=3))
    for run in (plain, warmed):
        next(run.events())
    assert plain.pool.made == warmed.pool.made == TINY.first_batches
    # The same classes and latents, of a generator that has learned
    assert not torch.equal(plain.pool.images[:2], warmed.pool.images[:2])
    assert warmed.pool.scores[0] < plain.pool.scores[0]


def test_the_first_images_leave_the_student_most_of_the_minutes(make):
    ticks = iter(range(10_000))
    recipe = replace(TINY, first_batches=500)
    run = make(recipe=recipe, budget=RunBudget(minutes=1.0), clock=lambda: float(next(ticks)))
    first = next(run.events())
    # A tick a batch, a quarter of sixty ticks
    assert 10 * 16 < first.point.images < 20 * 16
    assert first.point.step == 3


def test_batches_of_the_warm_up_end_with_one_that_is_kept(make):
    ticks = iter(range(10_000))
    recipe = replace(TINY, warm_up_batches=500)
    run = make(recipe=recipe, budget=RunBudget(minutes=1.0), clock=lambda: float(next(ticks)))
    first = next(run.events())
    assert first.point.images == 16
    assert first.point.step == 3


@pytest.mark.parametrize("name", ["memory-bank", "pseudo-replay", "pool"])
def test_a_part_of_the_teacher_is_repaired_before_its_first_step(compute, name):
    teacher = load_teacher(TEACHER, TeacherOptions(), generator=torch.Generator().manual_seed(0))
    planner = CutPlanner(
        teacher.module, architecture=teacher.info.architecture, teacher_digest="0" * 64
    )
    cut = planner.plan(CutRequest(measure="macs", share=0.5))
    part = planner.apply(cut).eval()
    recipe = for_inherited(tiny(name), statistics=True)
    recipe = replace(
        recipe,
        source=adjust(recipe.source, batch=64, steps=10),
        learning=replace(recipe.learning, rate=1e-9),
        memory=adjust(recipe.memory, entry=64),
        first_batches=min(recipe.first_batches, 40),
    )
    run = Distillation(
        teacher, replace(teacher.info.architecture, cut=str(cut.asked)), recipe,
        budget=RunBudget(steps=1), seed=0, compute=compute,
        given=GivenData(initial=InitialStudent(module=part, cut=cut)),
    )  # fmt: skip
    assert len(list(run.events())) == 1
    images = run.student_batches.normalise(run.held_out.images[0].float() / 255)

    def apart(student):
        with torch.no_grad():
            wanted = teacher.module(images)
            return float((student(images) - wanted).norm() / wanted.norm())

    assert apart(run.deliver()) < 0.6 * apart(part)


def test_a_forecast_does_not_wait_for_all_that_a_generator_learns_first(make):
    recipe = replace(tiny("memory-bank"), first_batches=10_000)
    found = forecast(lambda timed: make(recipe=timed), recipe, pixels=28 * 28)
    assert found.duration_s > 10_000 * found.image_batch_s


def test_a_generator_that_flows_learns_first_for_a_quarter_of_the_minutes(make):
    ticks = iter(range(10_000))
    recipe = replace(tiny("memory-bank"), first_batches=10_000)
    run = make(recipe=recipe, budget=RunBudget(minutes=1.0), clock=lambda: float(next(ticks)))
    learned = []
    run.synthesizer.networks()[0].register_forward_hook(lambda *_: learned.append(1))
    assert next(run.events()).point.step == 3
    assert 10 < len(learned) < 30


def test_a_run_of_hardly_any_steps_says_so(make):
    ticks = iter(range(0, 100_000, 40))
    run = make(budget=RunBudget(minutes=1.0), clock=lambda: float(next(ticks)))
    events, _ = finished(run)
    assert run.step == 1
    assert "the minutes ended after 1 of" in events[-1].warnings[-1]
