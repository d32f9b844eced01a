"""Limits that a user sets, and the verdicts on them."""

from dataclasses import field
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from edgekd.records._record import Precision, record

Metric: TypeAlias = Literal[
    "latency-p50", "latency-p99", "size", "peak-memory", "energy", "agreement", "accuracy"
]


@record
class Limit:
    """What one figure must keep to: seconds, bytes, joules, or a share of images; the tighter of both, where both are given.

    `degradation` is a share of the reference's figure that may be added to a cost, and what agreement and accuracy may
    be below the reference's, as a share of images.
    """

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    degradation: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    of: Literal["teacher", "baseline"] | None
    # Where it was said.
    origin: str


@record
class Budget:
    """What a board may spend, and what the student must be worth."""

    limits: dict[Metric, Limit]
    # Whose figures count.
    target: str | None = None
    # Of the model that is deployed; None: the bundle's last.
    precision: Precision | None = None
    # The file or bundle that `of = "baseline"` means.
    baseline: str | None = None
    # Of the three above.
    origins: dict[str, str] = field(default_factory=dict)


@record
class GateResult:
    """A verdict. `passed` without a figure of the board is allowed by the user, and marked."""

    name: str
    # What it is about: "quality" is what a model decides, and "budget" is what it costs.
    kind: Literal["quality", "budget"]
    # The limit of a budget that it is the verdict on; None: a gate of the bundle itself.
    metric: Metric | None = None
    passed: bool
    value: float | None
    # None: what it is relative to is not known.
    limit: float | None
    unit: str
    reason: str
    bound: Literal["at least", "at most"] = "at least"
    mark: Literal["measured", "estimate", "not checked"] = "measured"
