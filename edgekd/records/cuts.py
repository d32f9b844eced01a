"""What of a teacher's network is left in a student that was cut out of it."""

from typing import Annotated, Literal

from pydantic import Field

from edgekd.records._record import Count, Digest, record
from edgekd.records.models import Architecture

Positions = tuple[Count, ...]


@record
class CutRequest:
    """How much of a teacher is to be left, as it was asked for: `cut:macs=0.25`."""

    # Of the channels of each layer; of multiply-accumulates; of parameters
    measure: Literal["width", "macs", "params"]
    share: Annotated[float, Field(gt=0.0, lt=1.0)]
    # Of the residual blocks that can be left out
    depth: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0

    def __str__(self) -> str:
        what = f"{self.share:g}" if self.measure == "width" else f"{self.measure}={self.share:g}"
        return f"cut:{what}" + ("" if self.depth == 1.0 else f",depth={self.depth:g}")


@record
class LayerCut:
    """What is left of one layer: positions in the teacher's, in order; None: all."""

    outputs: Positions | None = None
    inputs: Positions | None = None
    # Attention heads
    heads: Positions | None = None


@record
class Cut:
    """Which parts of a teacher's network a student is: enough to build it without the teacher's file."""

    # Of its weights: `TeacherInfo.state_digest`
    teacher_digest: Digest
    # The teacher's
    architecture: Architecture
    asked: CutRequest
    importance: Literal["magnitude"]
    # By the name of the layer in the teacher
    layers: dict[str, LayerCut]
    # Residual blocks, of which the shortcut alone is left
    removed: tuple[str, ...] = ()
