"""Losses as plain functions.

N images, C channels, H x W pixels, K classes, F features, P patches, D sizes of a token. Student
first, teacher second. Everything is computed in float32, whatever the autocast of the networks was.
"""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.distill.compute.distributed import SINGLE_PROCESS, ProcessGroup

# Of the kernel that similarities are smoothed by; they lie in -1..1.
BANDWIDTH: Final = 0.05


def one_hot(logits: Tensor, classes: Tensor) -> Tensor:  # (N, K), (N,) -> ()
    """Cross-entropy of the teacher with the class that was asked of each image (DAFL, Chen et al. 2019)."""
    return functional.cross_entropy(logits.float(), classes)


def class_balance(
    logits: Tensor, *, group: ProcessGroup = SINGLE_PROCESS
) -> Tensor:  # (N, K) -> ()
    """1 minus the entropy of the mean prediction over ln K: 0 when all classes come equally often.

    DAFL's information entropy (Chen et al. 2019, eq. 5), in natural log and scaled to 0..1.

    Args:
        logits: of the teacher.
        group: whose batches, of one size, are one batch.
    """
    mean = group.all_reduce_mean(logits.float().softmax(1).mean(0), alike=True)
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum()
    return 1.0 - entropy / math.log(logits.shape[1])


def activation(features: Tensor) -> Tensor:  # (N, F) -> ()
    """-mean |f| of the teacher's penultimate features: images that mean something excite it.

    DAFL (Chen et al. 2019, eq. 4), the mean over features in place of their sum.
    """
    return -features.float().abs().mean()


def decision_adversarial(student: Tensor, teacher: Tensor) -> Tensor:  # (N, K), (N, K) -> ()
    """-KL(teacher || student), only where both decide the same (CMI, Fang et al. 2021, eq. 8).

    Where they already differ, an image needs no further push; unmasked, it is driven to garbage.
    """
    agree = (student.argmax(1) == teacher.argmax(1)).float()
    kl = functional.kl_div(
        student.float().log_softmax(1),
        teacher.float().log_softmax(1),
        reduction="none",
        log_target=True,
    ).sum(1)
    return -(kl * agree).mean()


def kl_disagreement(student: Tensor, teacher: Tensor) -> Tensor:  # (N, K), (N, K) -> ()
    """-KL(teacher || student) of all images (ZSKT, Micaelli and Storkey 2019)."""
    return -soft_targets(student, teacher, temperature=1.0)


def jensen_shannon(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 3.0,
    floor: float = 0.01,
) -> Tensor:  # (N, K), (N, K) -> 0..1
    """1 - JS(student, teacher): 0 at most where they differ (PRE-DFKD, Binici et al. 2022).

    Gradients reach the images through the student alone. With K above 1 / floor most probabilities
    are at the floor, and little is left of them.

    Args:
        student: logits (N, K).
        teacher: logits (N, K).
        temperature: that softens both.
        floor: probabilities are clamped to floor..1 - floor.
    """
    ours, theirs = (
        (logits.float() / temperature).softmax(1).clamp(floor, 1 - floor)
        for logits in (student, teacher.detach())
    )
    # The middle of clamped probabilities, which keeps every entry of the sum above 0.
    middle = ((ours + theirs) / 2).log()
    entries = (ours * (ours.log() - middle) + theirs * (theirs.log() - middle)) / 2  # (N, K)
    # Averaged over images as in the paper; the authors' release averages over classes too, and is inert at K = 100.
    return 1.0 - entries.sum(1).mean().clamp(0, 1)


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:  # (N, K), (N, K) -> ()
    """-L1 of raw logits (DFAD, Fang et al. 2019): pushes where KL has saturated."""
    return -functional.l1_loss(student.float(), teacher.float())


def total_variation(images: Tensor) -> Tensor:  # (N, C, H, W) -> ()
    """Mean absolute difference of neighbours: an image prior where batch-norm gives none."""
    rows = images[..., 1:, :] - images[..., :-1, :]  # (N, C, H-1, W)
    columns = images[..., :, 1:] - images[..., :, :-1]  # (N, C, H, W-1)
    return rows.abs().mean() + columns.abs().mean()


def l2(images: Tensor) -> Tensor:  # (N, C, H, W) -> ()
    """Mean square of normalised pixels: the plainest image prior (DeepInversion, Yin et al. 2020)."""
    return images.float().square().mean()


def patch_similarity_entropy(tokens: Tensor) -> Tensor:  # (N, P, D) -> ()
    """Differential entropy of the cosine similarities of an image's patches, in nats; mean over images.

    PSAQ-ViT (Li et al. 2022): attention tells the objects of an image from its ground, and
    finds all patches of noise alike. Higher is more diverse: a loss takes its negative.
    """
    tokens = functional.normalize(tokens.float(), dim=2)
    ones, others = torch.triu_indices(tokens.shape[1], tokens.shape[1], 1, device=tokens.device)
    similarities = _products(tokens, tokens)[:, ones, others]  # (N, P (P - 1) / 2)
    # Three bandwidths beyond -1..1, so that no density falls off the grid.
    spacing, first = BANDWIDTH / 4, -1 - 3 * BANDWIDTH
    count = round(-2 * first / spacing) + 1
    grid = first + spacing * torch.arange(count, device=tokens.device)
    # Each similarity is shared between its two neighbours on the grid, and the grid is smoothed: a
    # kernel for every pair of patches would take `count` times the memory.
    at = (similarities - first) / spacing
    below = at.detach().floor().long().clamp(0, count - 2)
    above = at - below
    shares = torch.zeros(len(tokens), count, device=tokens.device)
    shares = shares.scatter_add(1, below, 1 - above).scatter_add(1, below + 1, above)
    # A single patch is like no other
    shares = shares / max(at.shape[1], 1)
    kernel = (-((grid[:, None] - grid) ** 2) / (2 * BANDWIDTH**2)).exp()  # (count, count)
    density = _products(shares, kernel / (BANDWIDTH * math.sqrt(2 * math.pi)))  # (N, count)
    return -(density * density.clamp_min(1e-12).log()).sum(1).mean() * spacing


def contrastive(
    anchors: Tensor, positives: Tensor, others: Tensor | None, *, temperature: float
) -> Tensor:
    """InfoNCE of cosine similarities: each anchor (N, F) is to find its own positive (N, F).

    CMI (Fang et al. 2021): features of local views against those of the global views. The
    positives of other images are negatives, and so are `others` (M, F), of images made before.
    """
    against = positives if others is None else torch.cat([positives, others.to(positives)])
    cosines = _products(
        functional.normalize(anchors.float(), dim=1), functional.normalize(against.float(), dim=1)
    )  # (N, N + M)
    own = torch.arange(len(anchors), device=anchors.device)
    return functional.cross_entropy(cosines / temperature, own)


def soft_targets(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of softened predictions, both (N, K), times T^2 (Hinton et al. 2015).

    The factor keeps gradients of the size they have at T = 1.
    """
    return (
        functional.kl_div(
            (student.float() / temperature).log_softmax(1),
            (teacher.float() / temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        * temperature**2
    )


def soft_targets_standardized(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """`soft_targets` of z-scored logits, both (N, K): their scale is the student's own affair.

    Sun et al. 2024 (Logit Standardization in Knowledge Distillation, CVPR), with the deviation of
    all K logits.
    """
    # layer_norm is the z-score; its eps bounds the gradients of a student that answers evenly.
    ours, theirs = (
        functional.layer_norm(logits.float(), logits.shape[1:], eps=1e-6)
        for logits in (student, teacher)
    )
    return soft_targets(ours, theirs, temperature=temperature)


def logit_distance(student: Tensor, teacher: Tensor) -> Tensor:  # (N, K), (N, K) -> ()
    """L1 of raw logits: sensitive to scale, and strong on synthetic images (DFAD)."""
    return functional.l1_loss(student.float(), teacher.float())


def agreement(student: Tensor, teacher: Tensor) -> float:  # (N, K), (N, K) -> 0..1
    """Share of images on which both decide the same. Not a loss."""
    return float((student.argmax(1) == teacher.argmax(1)).float().mean())


def _products(these: Tensor, those: Tensor) -> Tensor:  # (..., N, F), (..., M, F) -> (..., N, M)
    """Inner products in float32: inside an autocast a matmul would be one of half precision."""
    with torch.autocast(these.device.type, enabled=False):
        return these @ those.mT
