"""Verdicts: a figure against its limit."""

from typing import Final

from edgekd.errors import QualityError
from edgekd.records import GateResult, OnnxModel

# In the worst layer: 0.5 to 3 % for images that INT8 is well calibrated on, 9 % and more for others (docs/log.md).
MOST_OUTSIDE: Final = 0.08


def agreement(value: float, *, least: float, images: int) -> GateResult:
    """The student's agreement with the teacher on held-out synthetic images."""
    return GateResult(
        name="agreement",
        passed=value >= least,
        value=value,
        limit=least,
        unit="share of images",
        reason=f"student and teacher decide the same on {value:.2%} of {images} held-out synthetic images",
    )


def parity(model: OnnxModel) -> GateResult:
    """A model's decisions against those of what it was made from."""
    found = model.parity
    return GateResult(
        name=f"parity {model.precision}",
        passed=found.passed,
        value=found.top1_agreement,
        limit=found.top1_tolerance,
        unit="share of images",
        reason=f"{model.path} decides as {found.against} on {found.top1_agreement:.2%} of {found.images} images",
    )


def coverage(model: OnnxModel) -> tuple[GateResult, ...]:
    """Whether calibration images reach what the teacher's batch-norms saw in training; none without any."""
    outside = {} if model.calibration is None else model.calibration.outside
    if not outside:
        return ()
    worst = max(outside, key=lambda layer: outside[layer])
    return (
        GateResult(
            name=f"calibration {model.precision}",
            passed=outside[worst] <= MOST_OUTSIDE,
            value=1 - outside[worst],
            limit=1 - MOST_OUTSIDE,
            unit="share of training's values",
            reason=f"the calibration images reach {1 - outside[worst]:.1%} of what the teacher's {worst} saw in "
            "training; INT8 may cut off what real images cause",
        ),
    )


def require(results: tuple[GateResult, ...], *, bundle: str) -> None:
    """Raise when one failed.

    Raises:
        QualityError: with every gate that failed.
    """
    failed = [result for result in results if not result.passed]
    if not failed:
        return
    lines = "\n  ".join(f"{r.name}: {r.reason}, at least {r.limit:.2%} is asked" for r in failed)
    raise QualityError(
        f"quality gate failed:\n  {lines}\n"
        f"{bundle} is kept and marked 'quality: failed'. More --minutes or a larger --student helps; "
        "--min-agreement sets the limit."
    )
