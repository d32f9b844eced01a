"""Siamese augmentation and condensed sets, each against a law."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edgekd.distill.data import condensation, condensation_losses, siamese_augmentation
from edgekd.distill.data.condensation import (
    METHODS,
    Plan,
    condense_images,
    input_of,
    select_by_herding,
)
from edgekd.distill.data.condensation_losses import convnet
from edgekd.errors import InputFileError, UsageError
from edgekd.records import HistoryPoint

CPU = torch.device("cpu")
NAMES = [name for name in siamese_augmentation.TRANSFORMS if name != "flip"]


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def some_images(count=6, side=12):
    return torch.randn(count, 3, side, side, generator=drawn(5))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- siamese augmentation -------------------------------------------------------------------------


@pytest.mark.parametrize("name", siamese_augmentation.TRANSFORMS)
@pytest.mark.parametrize("same", [True, False])
def test_gradients_reach_the_images_through_every_transform(name, same):
    images = some_images().requires_grad_()
    moved = siamese_augmentation.siamese(images, strategy=name, generator=drawn(1), same=same)
    assert moved.shape == images.shape
    moved.square().sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", siamese_augmentation.TRANSFORMS)
def test_the_same_seed_is_the_same_transform(name):
    one, again, other = (
        siamese_augmentation.siamese(some_images(), strategy=name, generator=drawn(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", siamese_augmentation.TRANSFORMS)
def test_same_moves_all_images_alike_however_many_there_are(name):
    images = some_images(1).expand(4, -1, -1, -1)
    moved = siamese_augmentation.siamese(images, strategy=name, generator=drawn(2), same=True)
    torch.testing.assert_close(moved, moved[:1].expand_as(moved))
    alone = siamese_augmentation.siamese(images[:1], strategy=name, generator=drawn(2), same=True)
    torch.testing.assert_close(moved[:1], alone)


@pytest.mark.parametrize("name", NAMES)
def test_images_move_each_by_itself_unless_told(name):
    images = some_images(1).expand(8, -1, -1, -1)
    moved = siamese_augmentation.siamese(images, strategy=name, generator=drawn(2))
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 1


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_mirrored_only_when_asked(flip):
    ramp = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)

    def mirrored(seed):
        moved = siamese_augmentation.siamese(ramp, generator=drawn(seed), flip=flip)
        return torch.equal(moved, ramp.flip(3))

    assert any(mirrored(seed) for seed in range(60)) == flip


@given(side=st.integers(8, 20), seed=st.integers(0, 10_000))
@hypothesis_settings(max_examples=30, deadline=None)
def test_a_crop_is_a_shift_that_brings_zeros(side, seed):
    images = torch.rand(1, 1, side, side, generator=drawn(seed)) + 1
    moved = siamese_augmentation.siamese(images, strategy="crop", generator=drawn(seed))
    kept = moved[moved > 0]
    reach = round(side * siamese_augmentation.CROP)
    assert len(kept) >= (side - reach) ** 2
    assert set(kept.tolist()) <= set(images.flatten().tolist())


def test_cutout_leaves_three_quarters_at_least():
    moved = siamese_augmentation.siamese(
        torch.ones(64, 1, 16, 16), strategy="cutout", generator=drawn()
    )
    shares = moved.mean((1, 2, 3))
    assert shares.min() == 0.75
    assert shares.max() < 1


def test_unknown_transforms_are_named():
    with pytest.raises(UsageError, match="swirl"):
        siamese_augmentation.siamese(some_images(), strategy="color_swirl", generator=drawn())


# --- condensed sets -------------------------------------------------------------------------------


SIDE = 16


def data(per_class=40, classes=3):
    """Classes that are told by the columns where they are bright: uint8 (N, H, W, 1) and (N,)."""
    random = np.random.default_rng(0)
    labels = np.arange(classes).repeat(per_class).astype(np.int64)
    rows = random.integers(0, 120, (len(labels), 4, 4, 1))
    images = rows.repeat(4, 1).repeat(4, 2)  # blotches, as natural images have
    for number in range(classes):
        images[labels == number, :, columns_of(number)] += 130
    return images.astype(np.uint8), labels


def columns_of(number):
    return slice(number * 5, number * 5 + 5)


def made(method, *, seed=0, steps=6, per_class=2, points=None):
    images, labels = data()
    plan = Plan(method=method, classes=3, per_class=per_class, steps=steps, seed=seed)
    show = (lambda point, _: points.append(point)) if points is not None else lambda *_: None
    return condense_images(images, labels, plan, spec=input_of(images), device=CPU, show=show)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """A smaller network, fewer images."""
    monkeypatch.setitem(condensation._SIZES, "cpu", (8, 24))
    monkeypatch.setitem(condensation._EPOCHS, "cpu", 50)


@pytest.mark.parametrize("method", METHODS)
def test_a_set_has_its_share_of_every_class_in_pixels(method):
    found = made(method)
    assert found.images.shape == (6, SIDE, SIDE, 1)
    assert found.images.dtype == np.float32
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.isfinite(found.images).all()
    assert -1 < found.images.mean() < 1
    # Every image is still of its class: brightest where the class is.
    for image, number in zip(found.images[..., 0], found.labels, strict=True):
        assert image[:, columns_of(number)].mean() > image.mean()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_is_the_same_set(method):
    one, again, other = made(method), made(method), made(method, seed=1)
    np.testing.assert_array_equal(one.images, again.images)
    if method != "herding":  # which chooses, and may choose alike
        assert not np.array_equal(one.images, other.images)


@pytest.mark.parametrize("method", ["random", "herding"])
def test_what_is_chosen_is_of_the_data_and_of_its_class(method):
    images, labels = data()
    found = made(method, per_class=5)
    for image, number in zip(found.images, found.labels, strict=True):
        apart = np.abs(images[labels == number] / 255 - image).max((1, 2, 3))
        assert apart.min() < 1e-6
    assert len(np.unique(found.images.reshape(15, -1).round(4), axis=0)) == 15


@given(count=st.integers(1, 8), seed=st.integers(0, 10_000))
@hypothesis_settings(max_examples=30, deadline=None)
def test_herding_comes_nearer_to_the_mean_than_chance(count, seed):
    features = torch.randn(100, 6, generator=drawn(seed))

    def far(rows):
        return float((features[rows].mean(0) - features.mean(0)).square().sum())

    chosen = select_by_herding(features, count)
    assert len(set(chosen)) == count
    random = np.random.default_rng(seed)
    by_chance = [far(random.choice(100, count, replace=False)) for _ in range(20)]
    assert far(chosen) < np.mean(by_chance)


def test_herding_takes_all_where_all_are_asked_for():
    assert sorted(select_by_herding(torch.randn(7, 3, generator=drawn()), 7)) == list(range(7))


def distance_to_the_data(found, measure):
    """By `measure` on networks that the run has not seen, on average."""
    images, labels = data()
    spec = input_of(images)
    values = []
    for seed in range(100, 106):
        weights = convnet(spec.shape, classes=3, width=8, generator=drawn(seed), device=CPU)
        for number in range(3):
            real, ours = (
                torch.from_numpy((pixels - spec.mean[0]) / spec.std[0]).float().permute(0, 3, 1, 2)
                for pixels in (images[labels == number] / 255, found.images[found.labels == number])
            )
            values.append(float(measure(weights, real, ours, number).detach()))
    return np.mean(values)


@pytest.mark.parametrize(
    ("method", "measure", "steps"),
    [
        ("dm", condensation_losses.distribution_distance, 60),
        ("dsa", condensation_losses.gradient_distance, 80),
    ],
)
def test_learning_comes_nearer_by_its_own_measure_than_its_start(method, measure, steps):
    points: list[HistoryPoint] = []
    start, end = made(method, steps=0), made(method, steps=steps, points=points)
    assert distance_to_the_data(end, measure) < 0.95 * distance_to_the_data(start, measure)
    assert [point.step for point in points] == list(range(1, steps + 1))
    assert all(np.isfinite(point.losses["loss"]) for point in points)


def test_matching_a_batch_with_itself_costs_nothing():
    images = torch.randn(4, 1, 8, 8, generator=drawn())
    weights = convnet((1, 8, 8), classes=3, width=4, generator=drawn(), device=CPU)
    for measure in (
        condensation_losses.distribution_distance,
        condensation_losses.gradient_distance,
    ):
        assert float(measure(weights, images, images, 1).detach()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("side", [8, 28, 32, 64, 96])
def test_the_network_fits_images_of_any_size(side):
    weights = convnet((3, side, side), classes=5, width=4, generator=drawn(), device=CPU)
    assert condensation_losses.logits_of(weights, some_images(2, side)).shape == (2, 5)


def test_the_input_is_that_of_the_data():
    images, _ = data()
    spec = input_of(images)
    assert spec.mean[0] == pytest.approx((images / 255).mean())
    assert spec.std[0] == pytest.approx((images / 255).std())


def test_images_without_contrast_are_refused():
    with pytest.raises(InputFileError, match="same value everywhere"):
        input_of(np.full((4, 8, 8, 1), 7, np.uint8))


def test_classes_with_too_few_images_are_named():
    with pytest.raises(UsageError, match=r"fewer images.*0 \(40\)"):
        made("random", per_class=41)
