"""Sources of images: each makes what was asked, learns when told, and goes on from where it was saved."""

import copy
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from edgekd.distill.data.real_images import RealImages
from edgekd.distill.models.student_choice import size_of
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import MetaSource, UnconditionalSource, adjust
from edgekd.distill.synthesis.adversarial import (
    Noise,
    UnconditionalGenerator,
    batch_statistics_teacher,
)
from edgekd.distill.synthesis.discriminator import Alignment
from edgekd.distill.synthesis.generators import (
    Embeddings,
    Generator,
    NoisyLayers,
    affordable_width,
    macs_of,
    occurrence,
)
from edgekd.distill.synthesis.inversion import SourceContext
from edgekd.distill.synthesis.pixel_sources import ViewExpansion
from edgekd.distill.synthesis.sources import FITTED as KINDS
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss
from edgekd.distill.synthesis.synthetic_batch import draw_balanced_classes
from edgekd.distill.teachers.state_dict import state_digest
from edgekd.records import InputSpec

CLASSES = 4
SPEC = InputSpec(channels=1, height=16, width=16, mean=(0.4,), std=(0.25,))
WHERE: dict[str, Any] = {"device": torch.device("cpu"), "layout": torch.contiguous_format}
BY_KIND = {
    "meta": "pool", "restarted": "cmi", "noisy_layer": "nayer", "pixels": "deep-inversion",
}  # fmt: skip
FITTED = sorted(KINDS)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def teacher_of(seed=0):
    """Two batch-norm layers whose statistics are of smooth images, and a head."""
    draw = drawn(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES),
    )  # fmt: skip
    for name, part in network.named_parameters():
        if part.ndim > 1:
            nn.init.normal_(part, std=part[0].numel() ** -0.5, generator=draw)
        elif name.endswith("bias"):
            nn.init.zeros_(part)
    for _ in range(20):
        rough = torch.randn(32, 1, 4, 4, generator=draw)
        network(nn.functional.interpolate(rough, size=16, mode="bilinear"))
    return network.eval().requires_grad_(False)


def judge_of(seed=0):
    return SynthesisLoss(
        teacher=teacher_of(seed), student=teacher_of(seed + 1), spec=SPEC, classes=CLASSES,
        autocast=nullcontext, device=torch.device("cpu"),
    )  # fmt: skip


def fitted(kind, *, seed=0, **settings):
    source = adjust(RECIPES[BY_KIND[kind]].source, batch=8, width=4, latents=8, **settings)
    return KINDS[kind](source, context(seed))


def context(seed=0, **more):
    return SourceContext(spec=SPEC, classes=CLASSES, generator=drawn(seed), **WHERE, **more)


def losses_of(source):
    """Of the recipe whose source it is; views stand for the pixels of any."""
    kinds = {type(fitted(kind)): RECIPES[name].losses for kind, name in BY_KIND.items()}
    return kinds.get(type(source), RECIPES["pool"].losses)


def inverted(source, criterion, *, steps=2, learn=True, seed=1, count=8, losses=None):
    generator = drawn(seed)
    classes = draw_balanced_classes(count, CLASSES, generator=generator)
    weights = (losses or losses_of(source)).against_student(0.0)
    return source.invert(
        criterion, classes, weights=weights, steps=steps, learn=learn, generator=generator
    )


def same(one, other):
    """Whether two nested states are equal, tensor by tensor."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(part, other[key]) for key, part in one.items()
        )
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# --- sources that fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FITTED)
def test_images_have_the_shape_asked_and_lie_in_zero_to_one(kind):
    found = inverted(fitted(kind), judge_of())
    assert found.images.shape == (8, 1, 16, 16)
    assert found.logits.shape == (8, CLASSES)
    assert found.classes is not None
    assert torch.bincount(found.classes).tolist() == [2, 2, 2, 2]
    assert -1e-6 <= found.images.min() < found.images.max() <= 1 + 1e-6
    assert not found.images.requires_grad


@pytest.mark.parametrize("kind", FITTED)
def test_more_steps_find_better_images(kind):
    few, many = (inverted(fitted(kind), judge_of(), steps=steps) for steps in (1, 25))
    assert many.score < few.score


@pytest.mark.parametrize("kind", FITTED)
def test_the_score_is_that_of_the_images_that_are_kept(kind):
    """The best of all steps, not the last: judged again they score the same."""
    criterion = judge_of()
    source = fitted(kind, jitter=0)
    found = inverted(source, criterion, steps=6)
    again = criterion.criterion(
        found.images, found.classes, losses_of(source).against_student(0.0), generator=drawn()
    )
    assert float(again.score()) == pytest.approx(found.score, rel=1e-4)


@pytest.mark.parametrize("kind", FITTED)
def test_what_is_held_out_teaches_the_source_nothing(kind):
    criterion = judge_of()
    source = fitted(kind)
    inverted(source, criterion)
    source.advance(1.0)  # a restart is due, where there are any
    before, bank = copy.deepcopy(source.state_dict()), len(criterion.bank)
    found = inverted(source, criterion, learn=False, seed=5)
    assert same(source.state_dict(), before)
    assert len(criterion.bank) == bank
    assert not torch.equal(found.images, inverted(source, criterion, learn=False, seed=6).images)


def test_what_is_held_out_teaches_the_discriminator_nothing():
    criterion = judge_of()
    criterion.alignment = Alignment(
        criterion.teacher, torch.randn(8, 1, 16, 16, generator=drawn()), torch.arange(8) % CLASSES,
        classes=CLASSES, augment=lambda images: images, generator=drawn(),
    )  # fmt: skip
    source = fitted("meta")
    losses = replace(RECIPES["pool"].losses, alignment=1.0)
    before = state_digest(criterion.alignment.discriminator.state_dict())
    inverted(source, criterion, learn=False, losses=losses)
    assert state_digest(criterion.alignment.discriminator.state_dict()) == before
    inverted(source, criterion, learn=True, losses=losses)
    assert state_digest(criterion.alignment.discriminator.state_dict()) != before


@pytest.mark.parametrize("kind", ["meta", "noisy_layer"])
def test_a_generator_that_lasts_learns_from_a_batch(kind):
    source = fitted(kind)
    before = state_digest(source.network.state_dict())
    inverted(source, judge_of())
    assert state_digest(source.network.state_dict()) != before


@pytest.mark.parametrize("kind", FITTED)
def test_a_source_that_was_saved_makes_the_same_next_batch(kind):
    first = fitted(kind)
    for seed in (1, 2):
        inverted(first, judge_of(), seed=seed)
        first.advance(0.01)
    second = fitted(kind, seed=9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    one, other = (inverted(source, judge_of(), seed=3) for source in (first, second))
    assert torch.equal(one.images, other.images)
    assert same(first.state_dict(), second.state_dict())


@pytest.mark.parametrize("kind", FITTED)
def test_teacher_and_student_are_left_as_they_were(kind):
    criterion = judge_of()
    criterion.student.train().requires_grad_(True)
    before = [state_digest(part.state_dict()) for part in (criterion.teacher, criterion.student)]
    inverted(fitted(kind), criterion)
    assert [
        state_digest(part.state_dict()) for part in (criterion.teacher, criterion.student)
    ] == before
    assert criterion.student.training
    assert all(part.requires_grad for part in criterion.student.parameters())
    assert all(part.grad is None for part in criterion.student.parameters())


def test_a_generator_for_each_batch_starts_anew():
    """The same latents give other images: nothing is left of the batch before."""
    source = fitted("restarted")
    assert not torch.equal(
        inverted(source, judge_of(), seed=1).images, inverted(source, judge_of(), seed=1).images
    )


@pytest.mark.parametrize("kind", ["meta", "noisy_layer"])
def test_a_generator_starts_afresh_after_its_share_of_the_budget(kind):
    source = fitted(kind, restart_every=0.1)
    inverted(source, judge_of())
    old = source.network
    source.advance(0.09)
    inverted(source, judge_of())
    assert source.network is old
    source.advance(0.02)
    inverted(source, judge_of())
    assert source.network is not old
    assert source.age == 0


# --- the noisy layer -----------------------------------------------------------------------------


@given(classes=st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_occurrence_counts_those_of_the_same_class_before(classes):
    by_hand = [classes[:compute].count(each) for compute, each in enumerate(classes)]
    assert occurrence(torch.tensor(classes)).tolist() == by_hand


def test_the_same_occurrence_of_each_class_shares_a_layer():
    classes = torch.tensor([0, 1, 0, 2, 1, 0])
    layers = occurrence(classes)
    noisy = NoisyLayers(3, 5, int(layers.max()) + 1)
    noisy.draw(generator=drawn())
    latents = noisy(Embeddings(3, None)(classes), layers)
    with torch.no_grad():
        noisy.weight[1].add_(1.0)
    moved = (noisy(Embeddings(3, None)(classes), layers) != latents).any(1)
    # The second of class 0 and the second of class 1, and no others.
    assert moved.tolist() == [False, False, True, False, True, False]
    weight, bias = noisy.weight[0], noisy.bias[0]
    embedded = noisy.normal(Embeddings(3, None)(classes))
    torch.testing.assert_close(latents[0], weight @ embedded[0] + bias)


def test_embeddings_that_are_given_take_the_place_of_one_hot():
    table = torch.randn(CLASSES, 7, generator=drawn())
    classes = torch.tensor([3, 0, 3])
    assert torch.equal(Embeddings(CLASSES, table)(classes), table[classes])
    assert torch.equal(Embeddings(CLASSES, None)(classes), torch.eye(CLASSES)[classes])
    source = adjust(RECIPES["nayer"].source, batch=8, width=4, latents=8)
    made = KINDS["noisy_layer"](source, context(embeddings=table))
    other = KINDS["noisy_layer"](source, context())
    assert not torch.equal(inverted(made, judge_of()).images, inverted(other, judge_of()).images)


# --- pixels --------------------------------------------------------------------------------------


def test_pixels_stay_within_what_zero_to_one_can_be():
    """At a rate that would leave it in one step, and with half of the noise outside of it at first."""
    source = fitted("pixels", rate=5.0)
    found = inverted(source, judge_of(), steps=4)
    assert found.images.min() >= -1e-6
    assert found.images.max() <= 1 + 1e-6
    assert (found.images < 1e-6).any()  # some were held at the edge


def expansion(images, labels, *, flip=False, seed=0, **settings):
    real = RealImages(
        images=images, labels=labels, kind="samples", name="few", digest="0" * 64, notes=(),
    )  # fmt: skip
    source = MetaSource(batch=8, steps=10, **settings)
    return ViewExpansion(source, context(seed), real=real, flip=flip)


def test_an_expansion_begins_at_images_of_the_class_that_is_asked_for():
    levels = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 16, 16)
    source = expansion(levels, torch.arange(3))
    source.views = []  # as they are: each class is one grey
    classes = torch.arange(CLASSES).repeat(16)
    found = source.begin(classes, learn=True, generator=drawn()).images()
    means = ((found - 0.4) / 0.25).mean((1, 2, 3))
    # Half of each at least is of its class; the other end of the greys is 2 away.
    assert (means[classes == 0] <= 1e-5).all()
    assert (means[classes == 2] >= -1e-5).all()
    assert means[classes == 1].abs().max() <= 0.5 + 1e-5
    nobodys = means[classes == 3]  # of a class that nobody brought
    assert nobodys.min() < -0.4
    assert nobodys.max() > 0.4


def test_views_of_one_image_are_never_twice_the_same():
    image = torch.randn(1, 1, 16, 16, generator=drawn())
    source = expansion(image.expand(2, -1, -1, -1), torch.tensor([0, 1]))
    draw = drawn(1)
    classes = torch.tensor([0, 1] * 4)
    found = torch.cat(
        [source.begin(classes, learn=True, generator=draw).images().flatten(1) for _ in range(2)]
    )
    apart = torch.cdist(found, found) + torch.eye(16)
    assert apart.min() > 0.05


def test_an_expansion_is_fitted_to_the_teacher():
    real = torch.randn(8, 1, 16, 16, generator=drawn(7)), torch.arange(8) % CLASSES
    few, many = (inverted(expansion(*real), judge_of(), steps=steps) for steps in (1, 25))
    assert many.score < few.score
    assert -1e-6 <= many.images.min() < many.images.max() <= 1 + 1e-6


def test_jitter_moves_what_is_judged_and_not_what_is_kept():
    source = fitted("pixels", jitter=3)
    images = torch.rand(2, 1, 16, 16, generator=drawn())
    seen = [source._jitter(images, generator=drawn(seed)) for seed in range(40)]
    assert all(kept is images for _, kept in seen)
    shifts = set()
    for moved, _ in seen:
        found = [
            (rows, columns)
            for rows in range(-3, 4)
            for columns in range(-3, 4)
            if torch.equal(images.roll((rows, columns), dims=(2, 3)), moved)
        ]
        assert len(found) == 1
        shifts.update(found)
    assert len(shifts) > 20
    assert all(
        part is images for part in fitted("pixels", jitter=0)._jitter(images, generator=drawn())
    )


# --- sources that flow ---------------------------------------------------------------------------


def flowing(*, seed=0, **settings):
    source = UnconditionalSource(batch=8, width=4, latents=8, **settings)
    return UnconditionalGenerator(source, context(seed))


def learned(source, criterion, *, seed, steps=1, losses=RECIPES["memory-bank"].losses):
    generator = drawn(seed)
    scores = []
    for _ in range(steps):
        found = source.learn(criterion, weights=losses, generator=generator)
        scores.append(found.score)
    return scores


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_fresh_images_have_the_shape_asked_and_no_gradient(momentum):
    source = flowing(momentum=momentum)
    learned(source, judge_of(), seed=1)
    images = source.fresh(6, generator=drawn(2))
    assert images.shape == (6, 1, 16, 16)
    assert 0 <= images.min() < images.max() <= 1
    assert not images.requires_grad


def test_a_generator_that_flows_comes_closer_to_the_teacher():
    source = flowing()
    losses = replace(RECIPES["memory-bank"].losses, jensen_shannon=0.0)
    scores = learned(source, judge_of(), seed=1, steps=60, losses=losses)
    assert sum(scores[-10:]) < 0.8 * sum(scores[:10])


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_a_flow_that_was_saved_goes_on_as_it_would_have(momentum):
    first = flowing(momentum=momentum)
    learned(first, judge_of(), seed=1, steps=3)
    first.fresh(4, generator=drawn(7))
    second = flowing(momentum=momentum, seed=9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for source in (first, second):
        learned(source, judge_of(), seed=2)
    assert same(first.state_dict(), second.state_dict())
    assert torch.equal(first.fresh(5, generator=drawn(3)), second.fresh(5, generator=drawn(3)))


def test_momentum_averages_weights_over_their_past():
    source = flowing(momentum=0.75)
    name = next(name for name, _ in source.network.named_parameters())
    expected = source.network.state_dict()[name].clone()
    for seed in range(4):
        learned(source, judge_of(), seed=seed)
        expected = 0.75 * expected + 0.25 * source.network.state_dict()[name]
    torch.testing.assert_close(source.average.state_dict()[name], expected)
    assert flowing().average is None


def test_half_of_the_images_come_from_the_average():
    source = flowing(momentum=0.9)
    learned(source, judge_of(), seed=1)
    latents = torch.randn(7, 8, generator=drawn(2))
    with torch.no_grad():
        old = source.average(latents[:3])
    images = source.fresh(7, generator=drawn(2))
    torch.testing.assert_close(images[:3], old)
    assert not torch.allclose(images[3:6], old)


def test_without_a_loss_nothing_learns():
    source = flowing()
    before = {name: part.clone() for name, part in source.network.named_parameters()}
    found = source.learn(judge_of(), weights=RECIPES["noise"].losses, generator=drawn(1))
    assert found.losses == {}
    assert all(torch.equal(part, before[name]) for name, part in source.network.named_parameters())


def test_noise_is_standard_normal_in_the_teachers_space():
    source = Noise(SPEC, device=torch.device("cpu"))
    images = source.fresh(400, generator=drawn())
    normalised = judge_of().normalise(images)
    assert images.shape == (400, 1, 16, 16)
    assert float(normalised.mean()) == pytest.approx(0, abs=0.02)
    assert float(normalised.std()) == pytest.approx(1, abs=0.02)
    assert source.learn(judge_of(), weights=RECIPES["noise"].losses, generator=drawn()) is None
    assert source.state_dict() == {}


def test_a_teacher_of_batch_statistics_normalises_by_the_batch_and_keeps_its_own():
    teacher = teacher_of()
    found = batch_statistics_teacher(teacher)
    before = state_digest({k: v for k, v in found.state_dict().items() if "num_batches" not in k})
    images = 5 * torch.randn(32, 1, 16, 16, generator=drawn()) + 3
    answers = found(images)
    # Batch-norm after a linear layer forgets the scale and the offset of what comes in.
    torch.testing.assert_close(found(2 * images - 1), answers, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(teacher(2 * images - 1), teacher(images), rtol=1e-2, atol=1e-2)
    after = state_digest({k: v for k, v in found.state_dict().items() if "num_batches" not in k})
    assert after == before
    assert not any(part.training for part in teacher.modules())


# --- generators ----------------------------------------------------------------------------------


def test_the_batch_norm_head_has_mean_0_and_deviation_1_in_the_teachers_space():
    spec = InputSpec(channels=3, height=16, width=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    network = Generator(spec, latents=8, width=4, head="batch_norm")
    images = network(torch.randn(32, 8, generator=drawn()))
    normalised = (images - torch.tensor(spec.mean).view(-1, 1, 1)) / torch.tensor(spec.std).view(
        -1, 1, 1
    )
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        normalised.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize(("side", "start"), [(16, 4), (28, 7), (32, 8), (64, 8), (224, 7)])
def test_generators_begin_small_and_end_at_the_size_asked(side, start):
    spec = InputSpec(channels=3, height=side, width=side, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = Generator(spec, latents=4, width=2, head="sigmoid")
    assert network.start == (start, start)
    assert network(torch.randn(2, 4, generator=drawn())).shape == (2, 3, side, side)


def test_a_generator_costs_no_more_than_three_passes_of_the_teacher_where_its_width_is_free():
    spec = InputSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = Generator(spec, latents=4, width=16, head="sigmoid")
    counted = size_of(network.body, shape=(32, *network.start))
    assert macs_of(spec, width=16) == counted.macs
    wide = macs_of(spec, width=32)
    assert [affordable_width(spec, macs=macs) for macs in (wide, wide // 3 - 1, 1)] == [32, 16, 8]


@hypothesis_settings(max_examples=15, deadline=None)
@given(height=st.integers(8, 70), width=st.integers(8, 70))
def test_images_that_are_not_square_come_out_whole(height, width):
    spec = InputSpec(channels=1, height=height, width=width, mean=(0.5,), std=(0.25,))
    network = Generator(spec, latents=4, width=2, head="sigmoid")
    assert network(torch.randn(2, 4, generator=drawn())).shape == (2, 1, height, width)
    assert max(network.start) <= 16
