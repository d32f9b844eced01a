"""Images: what a model takes, and the sets that are made or brought."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from edgekd.records._record import (
    Count,
    Digest,
    RelativePath,
    Share,
    record,
)


@record
class InputSpec:
    """What a model takes: (channels, height, width), values in 0..1, then `(x - mean) / std`."""

    channels: Annotated[int, Field(ge=1, le=16)]
    height: Annotated[int, Field(ge=8, le=4096)]
    width: Annotated[int, Field(ge=8, le=4096)]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    value_range: tuple[float, float] = (0.0, 1.0)
    colour_order: Literal["gray", "rgb", "bgr", "other"] = "rgb"
    resize: Literal["none"] = "none"

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"mean and std need one value for each of {self.channels} channels, "
                f"not {len(self.mean)} and {len(self.std)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.height, self.width)


@record
class Coverage:
    """How a set of synthetic images lies in the teacher's view."""

    class_histogram: tuple[int, ...]
    mean_confidence: Share
    # Mean over layers; None for a teacher without batch-norm.
    batch_norm_distance: float | None
    # Of each of its batch-norms, the share of training's values that lie beyond what the images cause there.
    outside: dict[str, Share] = Field(default_factory=dict)


@record
class SyntheticSet:
    """Images inverted out of a teacher: uint8, (N, H, W, C), in a `.npy`."""

    file: RelativePath
    digest: Digest
    count: Count
    input: InputSpec
    teacher_digest: Digest
    seed: int
    coverage: Coverage
    # Int64, (N,): what the teacher decides of each.
    classes_file: RelativePath | None = None
    classes_digest: Digest | None = None
    recipe: str | None = None
    # Images after each time that some were added.
    grown: tuple[Count, ...] = ()
    # By class: fewer than its share.
    lacking: dict[int, Count] = field(default_factory=dict)


@record
class CondensedSet:
    """A few images a class that stand for a data set, in a `.npz`; this is its `about`."""

    file: str
    # Of images and labels, as arrays.
    digest: Digest
    count: Count
    classes: Count
    class_names: tuple[str, ...] | None
    per_class: Count
    # Mean and std are those of the data.
    input: InputSpec
    method: Literal["dm", "dsa", "herding", "random"]
    steps: Count
    seed: int
    # Whether mirrored images counted as the same.
    flip: bool
    # Name of the file or folder.
    source: str
    # Of its images and labels, as arrays.
    source_digest: Digest
    source_images: Count
    # Files that could not be read.
    source_skipped: Count
    made_with: str


@record
class DataUsed:
    """What a student learned from, besides the teacher."""

    kind: Literal["none", "condensed", "few real"]
    statement: str
    # Of what was brought, by name.
    digests: dict[str, Digest] = field(default_factory=dict)
