"""Objectives, statistics, augmentation, schedule, monitors and the meta-generator: each against a law."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgekd.distill import losses
from edgekd.distill.data import augment
from edgekd.distill.models.batch_norm import batch_statistics, reestimate, watch_batch_norm
from edgekd.distill.recipes.adaptation import for_teacher
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import MetaSource
from edgekd.distill.recipes.schedule import ema_decay, learning_rate, run_budget
from edgekd.distill.synthesis.collapse_detection import (
    ENTROPY_PATIENCE,
    ROUNDS_TO_SETTLE,
    CollapseMonitor,
    class_entropy,
)
from edgekd.distill.synthesis.generator_sources import MetaGenerator
from edgekd.distill.synthesis.generators import Generator
from edgekd.distill.synthesis.inversion import SourceContext
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss
from edgekd.distill.synthesis.synthetic_batch import draw_balanced_classes
from edgekd.errors import CollapseError, UsageError
from edgekd.records import InputSpec


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


# --- objectives ---------------------------------------------------------------------------------


def test_distillation_losses_are_zero_when_student_equals_teacher():
    logits = torch.randn(8, 5, generator=drawn())
    assert losses.soft_targets(logits, logits, temperature=4.0).item() == pytest.approx(0, abs=1e-6)
    assert losses.logit_distance(logits, logits).item() == 0
    assert losses.agreement(logits, logits) == 1.0


def test_soft_targets_are_kl_times_temperature_squared():
    student, teacher = torch.randn(2, 6, 3, generator=drawn()).unbind(0)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    by_hand = (p * (p / q).log()).sum(1).mean() * 9
    torch.testing.assert_close(losses.soft_targets(student, teacher, temperature=3.0), by_hand)


def test_class_balance_is_zero_when_even_and_one_when_collapsed():
    even = torch.eye(10) * 100
    assert losses.class_balance(even).item() == pytest.approx(0, abs=1e-5)
    assert losses.class_balance(even[:1].repeat(8, 1)).item() == pytest.approx(1, abs=1e-5)


def test_the_adversarial_term_ignores_images_on_which_they_already_differ():
    teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    student = torch.tensor([[1.0, 0.0], [3.0, 0.0]], requires_grad=True)
    losses.decision_adversarial(student, teacher).backward()
    assert student.grad is not None
    assert student.grad[0].abs().sum() > 0
    assert student.grad[1].abs().sum() == 0


def test_total_variation_of_a_ramp_is_its_slope():
    ramp = torch.arange(5.0).view(1, 1, 1, 5).expand(2, 3, 4, 5)
    assert losses.total_variation(ramp).item() == pytest.approx(1.0)


# --- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_statistics_are_those_of_var_mean_with_gradients(layout, dtype):
    base = torch.randn(4, 5, 7, 6, generator=drawn()).to(dtype)
    ours = base.clone(memory_format=layout).requires_grad_()
    oracle = base.clone().requires_grad_()
    mean, variance = batch_statistics(ours)
    variance_o, mean_o = torch.var_mean(oracle.float(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, mean_o)
    torch.testing.assert_close(variance, variance_o)
    a, b = torch.randn(2, 5, generator=drawn(1))
    ((mean * a).sum() + (variance * b).sum()).backward()
    ((mean_o * a).sum() + (variance_o * b).sum()).backward()
    torch.testing.assert_close(
        ours.grad, oracle.grad, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-4
    )


def small_network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
    )


def test_as_many_layers_are_watched_as_there_are_and_none_after_an_error():
    network = small_network().eval()

    def broken():
        with watch_batch_norm(network) as watched:
            network(torch.randn(2, 1, 8, 8))
            assert len(watched.seen) == 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert not any(part._forward_pre_hooks for part in network.modules())


def test_the_distance_is_zero_for_the_batch_that_the_statistics_are_of():
    network = small_network()
    images = torch.randn(16, 1, 8, 8, generator=drawn())
    reestimate(network, [images])
    # reestimate stores the unbiased variance, as training does; the distance compares the biased one.
    with watch_batch_norm(network.eval()) as watched:
        network(images)
    assert float(watched.distance().detach()) < 0.02
    with watch_batch_norm(network) as watched:
        network(images * 5 + 3)
    assert float(watched.distance().detach()) > 1


def test_reestimation_finds_mean_and_variance_and_leaves_mode_and_momentum():
    layer = nn.BatchNorm2d(2, momentum=0.3).eval()
    batches = [torch.randn(64, 2, 8, 8, generator=drawn(seed)) * 2 + 5 for seed in range(4)]
    reestimate(layer, batches)
    torch.testing.assert_close(layer.running_mean, torch.full((2,), 5.0), atol=0.1, rtol=0)
    torch.testing.assert_close(layer.running_var, torch.full((2,), 4.0), atol=0.2, rtol=0)
    assert (layer.momentum, layer.training) == (0.3, False)


# --- augmentation ---------------------------------------------------------------------------------


def test_a_shift_moves_whole_images_and_repeats_the_border():
    images = torch.arange(64.0).view(1, 1, 8, 8).repeat(50, 1, 1, 1)
    moved = augment.shift(images, share=0.25, generator=drawn())
    assert moved.shape == images.shape
    for one in moved:
        rows = one[0, :, 0] // 8
        assert (rows.diff() >= 0).all()
        assert rows.diff().max() <= 1
    assert len({tuple(one.flatten().tolist()) for one in moved}) > 5
    assert torch.equal(augment.shift(images, share=0.0, generator=drawn()), images)


def test_a_flip_mirrors_about_half():
    images = torch.arange(8.0).view(1, 1, 1, 8).repeat(400, 1, 1, 1)
    flipped = augment.flip(images, generator=drawn())[:, 0, 0, 0]
    assert set(flipped.tolist()) == {0.0, 7.0}
    assert 0.4 < (flipped == 7).float().mean() < 0.6


def test_mixtures_stay_between_the_images_they_are_of():
    images = torch.randn(32, 1, 4, 4, generator=drawn())
    mixed = augment.mix(images, generator=drawn())
    assert mixed.max() <= images.max()
    assert mixed.min() >= images.min()
    assert not torch.equal(mixed, images)


def test_a_collage_is_half_of_the_other_image_at_most():
    ones, zeros = torch.ones(400, 2, 12, 10), torch.zeros(400, 2, 12, 10)
    found = augment.collage(ones, zeros, generator=drawn())
    kept = found.mean((1, 2, 3))
    assert 0.5 - 0.1 <= kept.min() <= 0.65  # a rectangle ends on whole pixels
    assert 0.95 <= kept.max() <= 1
    pasted = ((found == 0) | (found == 1)).flatten(1).all(1)
    assert 0.4 < pasted.float().mean() < 0.6
    blended = found[~pasted]
    assert blended.min() >= 0.5
    assert torch.equal(blended, blended[:, :1, :1, :1].expand_as(blended))  # one share an image


# --- schedule and monitors --------------------------------------------------------------------------


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    rates = [learning_rate(0.2, step / 1000) for step in range(1001)]
    assert max(rates) == pytest.approx(0.2, rel=0.01)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates.index(max(rates)) == 20


def test_a_short_run_has_the_long_runs_schedule():
    assert learning_rate(0.1, 50 / 100) == learning_rate(0.1, 5000 / 10000)


def test_the_average_is_younger_at_first():
    assert ema_decay(1e-4, updates=1) < ema_decay(1e-4, updates=100)
    assert ema_decay(1e-4, updates=10**6) == pytest.approx(math.exp(-0.01))


@pytest.mark.parametrize(("steps", "minutes"), [(1, 1.0), (0, None), (None, 0.0), (None, math.inf)])
def test_budgets_that_make_no_sense_are_refused(steps, minutes):
    with pytest.raises(UsageError):
        run_budget(steps, minutes)


def test_low_class_entropy_restarts_the_generator_and_at_last_stops():
    monitors = CollapseMonitor()
    actions: list[str] = []

    def collapsing():
        rounds = range(10 * (ROUNDS_TO_SETTLE + ENTROPY_PATIENCE))
        actions.extend(monitors.images(finite=True, entropy=0.1).action for _ in rounds)

    with pytest.raises(CollapseError):
        collapsing()
    assert actions.count("restart generator") == 3


def test_even_classes_never_warn():
    monitors = CollapseMonitor()
    assert all(monitors.images(finite=True, entropy=0.99).warning is None for _ in range(500))
    assert monitors.pool([100, 90, 110]).warning is None


def test_rare_classes_are_named_once():
    monitors = CollapseMonitor(rounds_since_restart=1000)
    assert "(2)" in (monitors.pool([100, 100, 3]).warning or "")
    assert monitors.pool([100, 100, 3]).warning is None


def test_class_entropy_is_one_when_even_and_zero_for_one_class():
    assert class_entropy([0.25] * 4) == pytest.approx(1)
    assert class_entropy([1.0, 0.0, 0.0]) == 0


# --- sources ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (33, 45)])
def test_generators_make_images_of_the_size_asked_in_zero_to_one(height, width):
    spec = InputSpec(channels=3, height=height, width=width, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = Generator(spec, latents=8, width=4, head="sigmoid")
    images = network(torch.randn(2, 8))
    assert images.shape == (2, 3, height, width)
    assert 0 <= images.min() <= images.max() <= 1


@given(count=st.integers(1, 40), classes=st.integers(2, 12))
def test_classes_asked_for_are_as_even_as_they_can_be(count, classes):
    targets = draw_balanced_classes(count, classes, generator=drawn())
    counts = torch.bincount(targets, minlength=classes)
    assert len(targets) == count
    assert counts.max() - counts.min() <= 1


@pytest.fixture
def inversion():
    torch.set_num_threads(1)
    settings = MetaSource(batch=128, width=8, latents=16, steps=4)
    losses = RECIPES["pool"].losses
    spec = InputSpec(channels=1, height=28, width=28, mean=(0.5,), std=(0.25,))
    device = torch.device("cpu")
    context = SourceContext(
        spec=spec, classes=4, device=device, layout=torch.contiguous_format, generator=drawn()
    )
    source = MetaGenerator(settings, context)
    teacher = nn.Sequential(small_network(), nn.Flatten(), nn.LazyLinear(4))
    teacher.train()(torch.randn(32, 1, 28, 28, generator=drawn()))
    teacher.eval().requires_grad_(False)
    criterion = SynthesisLoss(
        teacher=teacher,
        student=nn.Identity(),
        spec=spec,
        classes=4,
        autocast=nullcontext,
        device=device,
    )

    def invert(*, learn, steps):
        return source, source.invert(
            criterion, draw_balanced_classes(16, 4, generator=drawn()), weights=losses.against_student(0.0),
            steps=steps, learn=learn, generator=drawn(3),
        )  # fmt: skip

    return invert


def test_the_generator_learns_only_when_told(inversion):
    source, _ = inversion(learn=False, steps=2)
    before = [part.clone() for part in source.network.state_dict().values()]
    inversion(learn=False, steps=2)
    assert all(
        torch.equal(a, b) for a, b in zip(before, source.network.state_dict().values(), strict=True)
    )
    inversion(learn=True, steps=2)
    assert not all(
        torch.equal(a, b) for a, b in zip(before, source.network.state_dict().values(), strict=True)
    )


def test_more_inner_steps_find_better_images(inversion):
    _, few = inversion(learn=False, steps=1)
    _, many = inversion(learn=False, steps=30)
    assert many.score < few.score


def test_without_batch_norm_other_terms_carry_the_images():
    found = for_teacher(RECIPES["pool"], batch_norm=False)
    weights = found.losses
    assert weights.batch_norm == 0
    assert min(weights.balance, weights.total_variation, weights.disagreement) > 0
    assert for_teacher(RECIPES["pool"], batch_norm=True) == RECIPES["pool"]


# --- the forecast -----------------------------------------------------------------------------------


def test_lengths_of_time_are_said_in_units_to_plan_with():
    from edgekd.distill.training.cost_forecast import format_duration

    assert [format_duration(each) for each in (40, 400, 5400, 36_000)] == [
        "40 s",
        "7 min",
        "1.5 h",
        "10 h",
    ]


@pytest.mark.parametrize(
    ("minutes", "expected"),
    # Batches of 10 s, 4 not shown and 4 that are: made, kept, and the held-out one in the time of one
    [(10, (8, 4, 4)), (4, (6, 2, 2)), (2, (4, 1, 2)), (0.1, (2, 1, 2))],
)
def test_first_images_are_forecast_to_end_with_a_quarter_of_the_minutes(minutes, expected):
    from edgekd.distill.recipes.catalogue import RECIPES
    from edgekd.distill.training.cost_forecast import _count_first

    recipe = replace(RECIPES["pool"], warm_up_batches=4, first_batches=4)
    assert _count_first(recipe, 60 * minutes, 10.0) == expected


def test_large_images_are_forecast_from_a_part_of_a_batch(compute):
    from edgekd.distill.recipes.adaptation import for_images
    from edgekd.distill.recipes.catalogue import RECIPES
    from edgekd.distill.recipes.schedule import RunBudget
    from edgekd.distill.teachers.loader import load_teacher
    from edgekd.distill.teachers.metadata import TeacherOptions
    from edgekd.distill.training.cost_forecast import forecast
    from edgekd.distill.training.distiller import Distillation
    from edgekd.records import Architecture
    from tests.edgekd.conftest import TEACHER

    said = TeacherOptions(input=(1, 96, 96))
    teacher = load_teacher(TEACHER, said, generator=torch.Generator().manual_seed(0))
    student = Architecture(
        source="edgekd", name="resnet8-w4", channels=1, classes=10, height=96, width=96
    )
    recipe = for_images(RECIPES["pool"], teacher.info.input.shape)
    timed: list[int] = []

    def fresh(used):
        timed.append(used.source.batch)
        return Distillation(
            teacher, student, used, budget=RunBudget(steps=600), seed=0, compute=compute
        )

    found = forecast(fresh, recipe, pixels=96 * 96)
    assert found.scaled
    assert max(timed) < recipe.source.batch
    assert found.steps == 600
    assert found.usual_s > found.duration_s > 10 * found.image_batch_s
    # The pool alone, full.
    assert found.memory_bytes > recipe.memory.batches * recipe.memory.entry * 96 * 96


def test_the_pool_of_large_images_is_smaller():
    from edgekd.distill.recipes.adaptation import POOL_BYTES, for_images
    from edgekd.distill.recipes.catalogue import RECIPES

    recipe = RECIPES["pool"]
    assert for_images(recipe, (3, 32, 32)) == recipe
    large = for_images(recipe, (3, 224, 224))
    assert large.memory.batches * large.memory.entry * 3 * 224 * 224 <= POOL_BYTES
