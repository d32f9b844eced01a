"""Feature alignment: the discriminator is bounded, learns, guides, and resumes."""

import io

import pytest
import torch
from torch import nn

from edgekd.distill.synthesis.discriminator import Alignment, FeatureDiscriminator, SpectralLinear
from edgekd.distill.teachers.feature_hooks import watch_features
from edgekd.errors import UsageError

CLASSES = 3


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def teacher():
    """Four pixels to four features to three logits, all linear."""
    body, head = nn.Linear(4, 4, bias=False), nn.Linear(4, CLASSES)
    nn.init.orthogonal_(body.weight, generator=drawn(1))
    nn.init.normal_(head.weight, generator=drawn(2))
    return nn.Sequential(nn.Flatten(), body, head).eval().requires_grad_(False)


def condensed(each=4):
    """Images about one place for each class, each place far from the others."""
    places = 3 * torch.eye(4)[:CLASSES]  # (K, 4)
    labels = torch.arange(CLASSES).repeat(each)
    pixels = places[labels] + 0.2 * torch.randn(len(labels), 4, generator=drawn(3))
    return pixels.view(-1, 1, 2, 2), labels


def jittered(generator):
    return lambda images: images + 0.1 * torch.randn(images.shape, generator=generator)


def aligned(teacher, *, conditional=True, seed=0, data=None, jitter=None):
    images, labels = condensed() if data is None else data
    return Alignment(
        teacher, images, labels, classes=CLASSES, augment=jittered(jitter or drawn(4)),
        conditional=conditional, generator=drawn(seed),
    )  # fmt: skip


def features_of(teacher, images):
    with watch_features(teacher, classes=CLASSES) as watched:
        teacher(images)
    return watched.features


def means(features, classes):
    return torch.stack([features[classes == number].mean(0) for number in range(CLASSES)])


# --- the discriminator --------------------------------------------------------------------------


def test_spectral_norm_stays_one_while_the_weight_moves():
    weight = SpectralLinear(5, 8, generator=drawn())
    for step in range(30):
        assert float(torch.linalg.matrix_norm(weight().detach(), 2)) == pytest.approx(
            1, abs=0.02
        ), step
        with torch.no_grad():
            weight.weight.add_(torch.randn(5, 8, generator=drawn(step)), alpha=0.02)


@pytest.mark.parametrize(("conditional", "slope"), [(False, 1.0), (True, 2.0)])
def test_scores_move_no_faster_than_features(conditional, slope):
    network = FeatureDiscriminator(
        features=6, classes=CLASSES, conditional=conditional, generator=drawn()
    ).eval()
    here, there = torch.randn(2, 200, 6, generator=drawn(1)).unbind(0)
    classes = torch.randint(CLASSES, (200,), generator=drawn(2))
    moved = (network(here, classes) - network(there, classes)).abs()
    assert (moved <= slope * (here - there).norm(dim=1) + 1e-5).all()
    assert moved.max() > 0


def test_classes_count_only_where_the_discriminator_is_conditional():
    features, zeros = torch.randn(5, 6, generator=drawn()), torch.zeros(5, dtype=torch.long)
    for conditional in (False, True):
        network = FeatureDiscriminator(
            features=6, classes=CLASSES, conditional=conditional, generator=drawn()
        ).eval()
        same = torch.equal(network(features, zeros), network(features, zeros + 1))
        assert same != conditional


def test_weights_come_from_the_generator_alone():
    made = [
        FeatureDiscriminator(features=6, classes=3, conditional=True, generator=drawn(seed))
        for seed in (0, 0, 1)
    ]
    first, again, other = (network.state_dict() for network in made)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["first.weight"], other["first.weight"])


# --- alignment ----------------------------------------------------------------------------------


def toward(teacher, *, conditional, steps=240, rate=0.05):
    """Free pixels moved by the alignment, from places that are those of other classes; their features."""
    alignment = aligned(teacher, conditional=conditional)
    classes = torch.arange(CLASSES).repeat(8)
    images, labels = condensed(each=8)
    # Each class starts about the place of the next one.
    pixels = images[((classes + 1) % CLASSES) + CLASSES * (torch.arange(24) // CLASSES)]
    pixels = (0.7 * pixels).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=rate, betas=(0.5, 0.999))
    augment, draw = jittered(drawn(5)), drawn(6)
    start = features_of(teacher, pixels).detach()
    for step in range(steps):
        # Two that learn against each other circle about the end, in circles that the rate makes small.
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        features = features_of(teacher, augment(pixels))
        alignment.learn(features, classes, generator=draw)
        optimizer.zero_grad()
        alignment.loss(features, classes).backward()
        optimizer.step()
    real = means(features_of(teacher, images), labels)
    before, after = (
        (means(each, classes) - real).norm(dim=1).mean()
        for each in (start, features_of(teacher, pixels).detach())
    )
    return float(before), float(after)


def test_feature_alignment_drives_a_toy_generator_to_the_condensed_features(teacher):
    before, after = toward(teacher, conditional=True)
    assert after < 0.25 * before


def test_without_classes_the_features_of_one_may_become_those_of_another(teacher):
    before, after = toward(teacher, conditional=False)
    assert after > 0.5 * before


def test_resumed_alignment_is_the_one_unbroken(teacher):
    features = torch.randn(6, 12, 4, generator=drawn(7))
    classes = torch.arange(CLASSES).repeat(4)

    def run(alignment, draw, batches):
        return [alignment.learn(batch, classes, generator=draw) for batch in batches]

    # One generator for the choice of images and their augmentation, as a run has it.
    draw = drawn(8)
    unbroken = aligned(teacher, jitter=draw)
    run(unbroken, draw, features[:3])
    unbroken.loss(features[0], classes)
    saved = io.BytesIO()
    torch.save(unbroken.state_dict(), saved)
    position = draw.get_state()
    expected = run(unbroken, draw, features[3:])

    resumed = aligned(teacher, seed=9, jitter=draw)
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved))
    draw.set_state(position)
    assert run(resumed, draw, features[3:]) == expected
    torch.testing.assert_close(
        resumed.discriminator.state_dict(), unbroken.discriminator.state_dict(), rtol=0, atol=0
    )


def test_no_gradient_stays_in_the_discriminator_and_the_teacher_is_not_changed(teacher):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    alignment = aligned(teacher)
    pixels = torch.randn(6, 1, 2, 2, generator=drawn()).requires_grad_()
    classes = torch.arange(CLASSES).repeat(2)
    features = features_of(teacher, pixels)
    alignment.learn(features, classes, generator=drawn())
    assert pixels.grad is None
    alignment.loss(features, classes).backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    parts = [*alignment.discriminator.parameters(), *teacher.parameters()]
    assert all(part.grad is None for part in parts)
    torch.testing.assert_close(dict(teacher.state_dict()), before, rtol=0, atol=0)


def test_the_loss_is_two_for_what_cannot_be_told_apart_and_falls(teacher):
    alignment = aligned(teacher)
    images, labels = condensed()
    features = 3 - features_of(teacher, images)
    draw = drawn()
    losses = [alignment.learn(features, labels, generator=draw) for _ in range(60)]
    assert losses[0] == pytest.approx(2, abs=0.3)
    assert losses[-1] < losses[0] - 0.3


def test_classes_without_real_images_are_left_alone(teacher):
    images, labels = condensed()
    alignment = aligned(teacher, data=(images[labels != 1], labels[labels != 1]))
    features = torch.randn(6, 4, generator=drawn()).requires_grad_()
    alignment.loss(features, torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    assert features.grad is not None
    assert (features.grad.abs().sum(1) > 0).tolist() == [True, False, True] * 2
    ones = torch.ones(6, dtype=torch.long)
    assert float(alignment.loss(features.detach(), ones)) == 0


def test_real_images_are_drawn_from_every_class_equally_whatever_there_are_of_each():
    drawn_, labels = [], torch.tensor([2, 0, 2, 2, 0, 2, 2])
    images = torch.arange(7.0).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).requires_grad_(False)

    def seen(batch):
        drawn_.append(batch[:, 0, 0, 0].long())
        return batch

    alignment = Alignment(network, images, labels, classes=CLASSES, augment=seen, generator=drawn())
    draw = drawn(1)
    for _ in range(40):
        alignment.learn(torch.randn(8, 4), torch.zeros(8, dtype=torch.long), generator=draw)
    counts = torch.stack([torch.bincount(labels[each], minlength=CLASSES) for each in drawn_])
    assert (counts == torch.tensor([4, 0, 4])).all()
    assert set(torch.cat(drawn_).tolist()) == set(range(7))


def test_alignment_without_images_is_refused(teacher):
    nothing = (torch.empty(0, 1, 2, 2), torch.empty(0, dtype=torch.long))
    with pytest.raises(UsageError, match="one of each class"):
        aligned(teacher, data=nothing)
