"""A student that begins with weights of its teacher, before its first step."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekd.distill.models.batch_norm import reestimate
from edgekd.distill.pruning.reconstruction import reconstruct
from edgekd.distill.training.student_batches import StudentBatches
from edgekd.records import Cut


@torch.no_grad()
def repair_student(
    student: nn.Module,
    teacher: nn.Module,
    cut: Cut | None,
    batches: Sequence[Tensor],
    shown: StudentBatches,
    *,
    fits: bool,
    macs: int,
) -> None:
    """Repair in place what needs no gradient; what is left of a network sees other sums than the whole one did.

    Args:
        student: on the device.
        teacher: on the device.
        cut: of the one out of the other; None: whole layers are the same.
        batches: (N, C, H, W) uint8, of the pool.
        shown: augments them.
        fits: fit its layers to the teacher's, whose statistics it keeps; or else estimate them anew.
        macs: of a pass of the teacher.
    """
    if fits:
        images = torch.cat([shown.augment(each) for each in batches])
        reconstruct(student.eval(), teacher, cut, images, macs=macs)
    else:
        with shown.compute.autocast():
            reestimate(student, map(shown.as_learned, batches))
    # Each rank fitted what its own images say
    state = student.state_dict().values()
    shown.compute.group.average([each for each in state if each.is_floating_point()])
