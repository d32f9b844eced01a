"""What a distillation is given beside the teacher, where there is any of it."""

from dataclasses import dataclass
from typing import Final

from torch import Tensor

from edgekd.distill.data.real_images import RealImages
from edgekd.distill.data.synthetic_set import SplitSet
from edgekd.distill.models.student_choice import InitialStudent


@dataclass(frozen=True, kw_only=True)
class GivenData:
    """Images, class vectors and first weights that a run does not make itself. Not a record."""

    # Images that were made before; none are made then
    ahead: SplitSet | None = None
    # Condensed or few, to learn from and to come close to
    real: RealImages | None = None
    embeddings: Tensor | None = None  # (K, E) of the classes, for a noisy layer
    # The student with weights of its teacher; None: they are drawn
    initial: InitialStudent | None = None


NOTHING: Final = GivenData()
