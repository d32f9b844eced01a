import pytest
import torch
from torch import nn

from edgekd.distill.synthesis.structured_noise import (
    BYTES,
    LEAST_IMAGES,
    StructuredNoise,
    fields,
    shapes,
)
from edgekd.records import InputSpec


def spec(mean, std, *, channels=1, side=28):
    return InputSpec(
        channels=channels, height=side, width=side, mean=(mean,) * channels, std=(std,) * channels
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_fields_are_shapes_of_ground_and_figure():
    drawn = fields(500, (28, 28), generator=seeded())
    assert drawn.shape == (500, 28, 28)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    # Cut at a level, most pixels lie on one side of it or on the other: not as in noise.
    assert ((drawn < 0.1) | (drawn > 0.9)).float().mean() > 0.7
    # Neighbours are alike: shapes, not noise.
    steps = (drawn[:, 1:] - drawn[:, :-1]).abs().mean()
    assert steps < 0.5 * (drawn[1:] - drawn[:-1]).abs().mean()


@pytest.mark.parametrize(
    ("mean", "std", "ground"), [(0.13, 0.31, 0.0), (0.87, 0.31, 1.0)], ids=["dark", "bright"]
)
def test_the_ground_is_what_the_statistics_say(mean, std, ground):
    drawn = shapes(1000, spec(mean, std), generator=seeded())
    assert drawn.median() == pytest.approx(ground, abs=0.02)
    assert drawn.mean() == pytest.approx(mean, abs=0.06)
    assert drawn.std() == pytest.approx(std, abs=0.08)


def test_both_grounds_where_the_statistics_do_not_say():
    drawn = shapes(1000, spec(0.5, 0.25, channels=3), generator=seeded())
    middle = drawn.flatten(1).median(1).values
    assert 0.3 < (middle < 0.5).float().mean() < 0.7


def test_the_same_seed_draws_the_same_images():
    first, again, other = (shapes(20, spec(0.1, 0.3), generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Areas(nn.Module):
    """Decides by how much of an image is bright: most shapes are of few of the three classes."""

    def forward(self, images):
        area = images.mean((1, 2, 3))
        return torch.stack([0.2 - area, torch.zeros_like(area), area - 0.6], 1)


@pytest.fixture
def gallery():
    return StructuredNoise(
        Areas(),
        spec(0.2, 0.3, side=12),
        3,
        macs=1000,
        normalised=lambda images: images,
        generator=seeded(),
    )


def test_every_class_is_shown_as_often(gallery):
    assert min(gallery.found) < 0.5 * max(gallery.found)
    drawn = gallery.sample(6000, generator=seeded())
    shown = torch.bincount(Areas()(drawn.float() / 255).argmax(1), minlength=3) / 6000
    assert shown.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_class_that_no_shape_shows_is_left_out():
    class One(nn.Module):
        def forward(self, images):
            return torch.eye(3)[0].expand(len(images), 3)

    found = StructuredNoise(
        One(),
        spec(0.2, 0.3, side=12),
        3,
        macs=1000,
        normalised=lambda images: images,
        generator=seeded(),
    )
    assert found.found[1:] == [0, 0]
    assert len(found.sample(10, generator=seeded())) == 10


def test_large_images_are_fewer():
    found = StructuredNoise(
        Areas(),
        spec(0.4, 0.3, channels=3, side=512),
        3,
        macs=1000,
        normalised=lambda images: images,
        generator=seeded(),
    )
    assert len(found.images) == BYTES // (3 * 512 * 512)
    assert found.nbytes <= BYTES


@pytest.mark.parametrize(("macs", "count"), [(10**8, 4000), (10**12, LEAST_IMAGES)])
def test_a_large_teacher_is_asked_about_fewer(macs, count):
    found = StructuredNoise(
        Areas(),
        spec(0.2, 0.3, side=12),
        3,
        macs=macs,
        normalised=lambda images: images,
        generator=seeded(),
    )
    assert len(found.images) == count


def test_no_more_are_drawn_than_a_run_shows():
    found = StructuredNoise(
        Areas(),
        spec(0.2, 0.3, side=12),
        3,
        macs=1000,
        shown=2500,
        normalised=lambda images: images,
        generator=seeded(),
    )
    assert len(found.images) == 2500
