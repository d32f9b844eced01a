"""Verdicts: a figure against its limit."""

from edgekd.errors import QualityError
from edgekd.records import GateResult, OnnxModel


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
