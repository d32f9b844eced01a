"""Images whose pixels are fitted for a few steps, from structured noise: tried for calibration, and not better than it.

As DeepInversion has it (Yin et al., CVPR 2020). What came of it is in docs/log.md.

N images, C channels, H x W pixels.
"""

import copy
from typing import Final

import torch
from torch import Tensor, nn

from edgekd.distill.compute.device import Compute
from edgekd.distill.models.student_choice import map_bytes
from edgekd.distill.recipes.adaptation import BATCH_BYTES, KEPT_MAPS
from edgekd.distill.recipes.config import LossWeights
from edgekd.distill.synthesis.image_pool import to_uint8
from edgekd.distill.synthesis.inversion import BETAS
from edgekd.distill.synthesis.structured_noise import shapes
from edgekd.distill.synthesis.synthesis_loss import SynthesisLoss
from edgekd.distill.synthesis.synthetic_batch import channel_statistics, draw_balanced_classes
from edgekd.distill.teachers.loader import Teacher

# Of the pixels' fit
STEPS: Final = 40
RATE: Final = 0.05
# Images at once: statistics of fewer are no statistics
BATCH: Final = 64
LEAST_BATCH: Final = 8
# Those of the recipe deep-inversion, without what asks the student
WEIGHTS: Final = LossWeights(
    one_hot=1.0, batch_norm=10.0, first_bn_multiplier=10.0, total_variation=1e-2, l2=1e-3
)


class QuickInversion:
    """Fits the pixels of a few images to a teacher, one batch after the other."""

    def __init__(
        self,
        teacher: Teacher,
        *,
        count: int,
        seed: int,
        compute: Compute,
        steps: int = STEPS,
    ) -> None:
        """Set up; nothing is computed yet.

        Args:
            teacher: loaded; it is copied to the device and never changed.
            count: images in all, at least 1.
            seed: of every draw.
            compute: where to compute.
            steps: of each image.
        """
        self.teacher = teacher
        self.count = count
        self.seed = seed
        self.compute = compute
        self.steps = steps
        spec = teacher.info.input
        image_bytes = max(1, KEPT_MAPS * map_bytes(teacher.module, shape=spec.shape))
        self.batch = min(count, BATCH, max(LEAST_BATCH, BATCH_BYTES // image_bytes))
        module = copy.deepcopy(teacher.module).to(compute.device)
        self.criterion = SynthesisLoss(
            teacher=module,
            student=nn.Identity(),  # nothing asks the student
            spec=spec,
            classes=teacher.info.classes,
            autocast=compute.autocast,
            device=compute.device,
        )

    def images(self) -> Tensor:  # -> (N, C, H, W) uint8, CPU
        """All of them; the same seed gives the same images."""
        generator = torch.Generator(self.compute.device).manual_seed(self.seed)
        found: list[Tensor] = []
        for start in range(0, self.count, self.batch):
            size = min(self.batch, self.count - start)
            found.append(self._fit(size, self.steps, generator=generator).cpu())
        return torch.cat(found)

    def _fit(self, count: int, steps: int, *, generator: torch.Generator) -> Tensor:
        info, device = self.teacher.info, self.compute.device
        mean, std = channel_statistics(info.input, device=device)
        first = shapes(count, info.input, generator=generator)
        classes = draw_balanced_classes(count, info.classes, generator=generator)
        pixels = ((first - mean) / std).contiguous().requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=RATE, betas=BETAS)
        for _ in range(steps):
            judged = self.criterion.criterion(
                pixels * std + mean, classes, WEIGHTS, generator=generator
            )
            optimizer.zero_grad()
            judged.loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                pixels.clamp_(-mean / std, (1 - mean) / std)
        return to_uint8((pixels * std + mean).detach())
