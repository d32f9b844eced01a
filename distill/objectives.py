"""Losses as plain functions.

N images, C channels, H x W pixels, K classes. Student first, teacher second. Everything is
computed in float32, whatever the autocast of the networks was.
"""

import math

from torch import Tensor
from torch.nn import functional


def one_hot(logits: Tensor, classes: Tensor) -> Tensor:  # (N, K), (N,) -> ()
    """Cross-entropy of the teacher with the class that was asked of each image (DAFL, Chen et al. 2019)."""
    return functional.cross_entropy(logits.float(), classes)


def class_balance(logits: Tensor) -> Tensor:  # (N, K) -> ()
    """1 minus the entropy of the mean prediction over ln K: 0 when all classes come equally often.

    DAFL's information entropy (Chen et al. 2019, eq. 5), in natural log and scaled to 0..1.
    """
    mean = logits.float().softmax(1).mean(0)
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum()
    return 1.0 - entropy / math.log(logits.shape[1])


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


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:  # (N, K), (N, K) -> ()
    """-L1 of raw logits (DFAD, Fang et al. 2019): pushes where KL has saturated."""
    return -functional.l1_loss(student.float(), teacher.float())


def total_variation(images: Tensor) -> Tensor:  # (N, C, H, W) -> ()
    """Mean absolute difference of neighbours: an image prior where batch-norm gives none."""
    rows = images[..., 1:, :] - images[..., :-1, :]  # (N, C, H-1, W)
    columns = images[..., :, 1:] - images[..., :, :-1]  # (N, C, H, W-1)
    return rows.abs().mean() + columns.abs().mean()


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


def logit_distance(student: Tensor, teacher: Tensor) -> Tensor:  # (N, K), (N, K) -> ()
    """L1 of raw logits: sensitive to scale, and strong on synthetic images (DFAD)."""
    return functional.l1_loss(student.float(), teacher.float())


def agreement(student: Tensor, teacher: Tensor) -> float:  # (N, K), (N, K) -> 0..1
    """Share of images on which both decide the same. Not a loss."""
    return float((student.argmax(1) == teacher.argmax(1)).float().mean())
