"""The losses that a student learns by, each a record of its own settings.

To add one: a record with a `kind`, its settings and the formula, and its line in `LOSSES`. A recipe
names it as `learning.loss`. The formulas on tensors stand in `losses`; no framework is loaded here, so that
recipes can be listed without one.
"""

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol, TypeAlias, Union

from pydantic import Field

from edgekd.records import record

if TYPE_CHECKING:
    from torch import Tensor

Temperature = Annotated[float, Field(gt=0)]


class Loss(Protocol):
    """How far a student is from its teacher."""

    @property
    def kind(self) -> str: ...

    def __call__(self, student: "Tensor", teacher: "Tensor") -> "Tensor":
        """The loss of logits, both (N, K)."""


@record
class SoftTargets:
    """KL of softened predictions (Hinton et al. 2015)."""

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: Temperature = 20.0

    def __call__(self, student: "Tensor", teacher: "Tensor") -> "Tensor":
        from edgekd.distill import losses

        return losses.soft_targets(student, teacher, temperature=self.temperature)


@record
class StandardizedSoftTargets:
    """The same of z-scored logits (Sun et al., CVPR 2024)."""

    kind: Literal["standardized"] = "standardized"
    temperature: Temperature = 20.0

    def __call__(self, student: "Tensor", teacher: "Tensor") -> "Tensor":
        from edgekd.distill import losses

        return losses.soft_targets_standardized(student, teacher, temperature=self.temperature)


@record
class LogitDistance:
    """L1 of raw logits (DFAD, Fang et al. 2019)."""

    kind: Literal["logit_distance"] = "logit_distance"

    def __call__(self, student: "Tensor", teacher: "Tensor") -> "Tensor":
        from edgekd.distill import losses

        return losses.logit_distance(student, teacher)


LOSSES: Final[dict[str, type[Any]]] = {
    "soft_targets": SoftTargets,
    "standardized": StandardizedSoftTargets,
    "logit_distance": LogitDistance,
}

# What a recipe's file may hold is what the dict has: a loss that was added there needs no second list.
if TYPE_CHECKING:
    AnyLoss: TypeAlias = Loss
else:
    AnyLoss = Annotated[Union[tuple(LOSSES.values())], Field(discriminator="kind")]  # noqa: UP007
