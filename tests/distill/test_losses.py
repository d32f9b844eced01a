"""Objectives against closed forms, and their gradients against finite differences."""

import math

import pytest
import torch
from torch.nn import functional

from edgekd.distill import losses


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def logits(classes=5, seed=0):
    student, teacher = torch.randn(2, 8, classes, generator=drawn(seed)).unbind(0)
    return student, 2 * teacher


# --- gradients ----------------------------------------------------------------------------------

STUDENT, TEACHER = logits()
FEATURES = torch.randn(6, 4, generator=drawn(1))
LOSSES = {
    "activation": (losses.activation, FEATURES + FEATURES.sign()),
    "jensen_shannon": (lambda x: losses.jensen_shannon(x, TEACHER), STUDENT),
    "kl_disagreement": (lambda x: losses.kl_disagreement(x, TEACHER), STUDENT),
    "kl_disagreement teacher": (lambda x: losses.kl_disagreement(STUDENT, x), TEACHER),
    "l2": (losses.l2, torch.randn(2, 3, 4, 4, generator=drawn())),
    "patch_similarity_entropy": (
        losses.patch_similarity_entropy,
        torch.randn(2, 9, 6, generator=drawn()),
    ),
    "contrastive anchors": (
        lambda x: losses.contrastive(x, FEATURES.flip(1), FEATURES[:3] - 1, temperature=0.3),
        FEATURES,
    ),
    "contrastive positives": (
        lambda x: losses.contrastive(FEATURES, x, None, temperature=0.3),
        FEATURES.flip(1),
    ),
    "standardized_soft_targets": (
        lambda x: losses.soft_targets_standardized(x, TEACHER, temperature=2.0),
        STUDENT,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    loss, at = LOSSES[name]
    x = at.double().requires_grad_()
    (grad,) = torch.autograd.grad(loss(x), x)
    # Along the gradient the slope is its norm, and float32 leaves three digits of the difference.
    along = grad / grad.norm()
    step = 0.02
    slope = (loss(at + step * along) - loss(at - step * along)) / (2 * step)
    assert float(slope) == pytest.approx(float(grad.norm()), rel=0.02)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_scalars_in_float32_inside_an_autocast(name):
    loss, at = LOSSES[name]
    alone = loss(at)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(at)
    assert found.shape == ()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, alone)


# --- of the teacher alone -----------------------------------------------------------------------


def test_activation_is_the_mean_size_of_features():
    features = torch.tensor([[1.0, -3.0], [0.0, 4.0]])
    assert losses.activation(features).item() == -2


def test_l2_is_the_mean_square_of_pixels():
    assert losses.l2(torch.full((2, 3, 4, 4), -3.0)).item() == 9


# --- disagreement -------------------------------------------------------------------------------


def test_kl_disagreement_counts_images_on_which_they_differ_already():
    student, teacher = logits()
    p, q = teacher.softmax(1), student.softmax(1)
    by_hand = -(p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(losses.kl_disagreement(student, teacher), by_hand)
    assert (student.argmax(1) != teacher.argmax(1)).any()


def test_jensen_shannon_is_one_where_they_agree_and_entropy_of_the_middle_minus_mean_entropy():
    student, teacher = logits()
    assert losses.jensen_shannon(teacher, teacher).item() == pytest.approx(1)

    def entropy(p):
        return torch.special.entr(p).sum(1)

    p, q = (student / 3).softmax(1), (teacher / 3).softmax(1)
    assert min(p.min(), q.min()) > 0.01
    by_hand = 1 - (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).mean()
    torch.testing.assert_close(losses.jensen_shannon(student, teacher), by_hand)
    backwards = losses.jensen_shannon(teacher, student)
    torch.testing.assert_close(losses.jensen_shannon(student, teacher), backwards)


def test_jensen_shannon_of_opposite_answers_is_one_minus_ln_2_but_for_the_floor():
    ours, theirs = torch.eye(2) * 100, torch.eye(2).flip(1) * 100
    assert losses.jensen_shannon(ours, theirs, floor=1e-6).item() == pytest.approx(
        1 - math.log(2), abs=1e-4
    )
    floored = losses.jensen_shannon(ours, theirs, floor=0.1).item()
    by_hand = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert floored == pytest.approx(1 - by_hand, abs=1e-6)


def test_jensen_shannon_moves_images_through_the_student_alone():
    student, teacher = (each.requires_grad_() for each in logits())
    losses.jensen_shannon(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_jensen_shannon_counts_beside_the_one_hot_term_at_100_classes():
    """The authors' release divides it by the number of classes, which leaves it inert."""
    student, teacher = torch.randn(2, 128, 100, generator=drawn()).unbind(0)
    classes = teacher.argmax(1)
    teacher = teacher + 7 * functional.one_hot(classes, 100)  # 99 % sure, as on inverted images

    def size(loss, at):
        x = at.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(x), x)
        return float(grad.norm())

    one_hot = size(lambda x: losses.one_hot(x, classes), teacher)
    ours = size(lambda x: losses.jensen_shannon(x, teacher), student)
    assert ours / 100 < 0.01 * one_hot
    assert 0.1 * one_hot < ours < 10 * one_hot


# --- diversity ----------------------------------------------------------------------------------


def test_contrastive_is_the_cross_entropy_of_finding_the_positive():
    anchors, positives = torch.randn(2, 5, 7, generator=drawn()).unbind(0)
    others = torch.randn(3, 7, generator=drawn(1))
    for bank in (None, others):
        against = positives if bank is None else torch.cat([positives, bank])
        expected = 0.0
        for number, anchor in enumerate(anchors):
            near = functional.cosine_similarity(anchor[None], against) / 0.2
            expected -= float(near[number] - near.logsumexp(0)) / len(anchors)
        found = losses.contrastive(anchors, positives, bank, temperature=0.2)
        assert found.item() == pytest.approx(expected, rel=1e-5)


def test_contrastive_is_ln_n_for_images_that_are_all_alike_and_sizes_do_not_matter():
    one = torch.ones(6, 4)
    assert losses.contrastive(one, one, None, temperature=0.1).item() == pytest.approx(math.log(6))
    assert losses.contrastive(one, one, one, temperature=0.1).item() == pytest.approx(math.log(12))
    a, b = torch.randn(2, 6, 4, generator=drawn()).unbind(0)
    torch.testing.assert_close(
        losses.contrastive(a, b, None, temperature=0.1),
        losses.contrastive(3 * a, 0.5 * b, None, temperature=0.1),
    )


def test_patches_that_are_all_alike_have_the_entropy_of_the_kernel():
    tokens = torch.ones(3, 10, 4)
    of_kernel = math.log(losses.BANDWIDTH * math.sqrt(2 * math.pi * math.e))
    assert losses.patch_similarity_entropy(tokens).item() == pytest.approx(of_kernel, abs=0.01)


def test_patch_entropy_is_that_of_a_kernel_density_estimate():
    tokens = torch.randn(2, 12, 3, generator=drawn())
    grid = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    found = []
    for image in functional.normalize(tokens.double(), dim=2):
        pairs = [float(a @ b) for i, a in enumerate(image) for b in image[:i]]
        kernels = torch.distributions.Normal(
            torch.tensor(pairs)[:, None], torch.tensor(losses.BANDWIDTH, dtype=torch.float64)
        )
        density = kernels.log_prob(grid).exp().mean(0)
        found.append(float(torch.special.entr(density).sum() * 0.001))
    assert losses.patch_similarity_entropy(tokens).item() == pytest.approx(
        sum(found) / 2, abs=0.005
    )


def test_patches_become_diverse_along_the_gradient():
    tokens = (1 + 0.1 * torch.randn(2, 16, 8, generator=drawn())).requires_grad_()
    before = losses.patch_similarity_entropy(tokens)
    (grad,) = torch.autograd.grad(before, tokens)
    after = losses.patch_similarity_entropy(tokens + 0.05 * grad / grad.norm())
    assert after > before


# --- distillation -------------------------------------------------------------------------------


def test_standardized_targets_are_blind_to_scale_and_shift_of_each_image():
    student, teacher = logits()
    scale = torch.rand(8, 1, generator=drawn()) + 0.5
    found = losses.soft_targets_standardized(student, teacher, temperature=2.0)
    moved = losses.soft_targets_standardized(student * scale + 3, teacher, temperature=2.0)
    torch.testing.assert_close(found, moved)
    same = losses.soft_targets_standardized(5 * teacher - 1, teacher, temperature=2.0)
    assert same.item() == pytest.approx(0, abs=1e-5)


def test_standardized_targets_are_soft_targets_of_z_scores():
    def z_scores(x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)

    student, teacher = logits()
    torch.testing.assert_close(
        losses.soft_targets_standardized(student, teacher, temperature=3.0),
        losses.soft_targets(z_scores(student), z_scores(teacher), temperature=3.0),
    )


def test_standardized_targets_teach_a_student_that_answers_evenly():
    student = torch.zeros(8, 5, requires_grad=True)
    losses.soft_targets_standardized(student, logits()[1], temperature=2.0).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0
