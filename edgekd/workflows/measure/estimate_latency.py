"""An ONNX file's latency on a board that is not here, as a record and as text for people."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgekd.bench.estimator.estimate import estimate_model
from edgekd.bench.format import format_bytes, format_quantity
from edgekd.errors import UsageError
from edgekd.records import (
    Estimate,
    ModelEstimate,
    Precision,
    Target,
)

PRECISIONS: Final[tuple[Precision, ...]] = ("fp16", "fp32", "int8")


def estimate(path: Path, *, target: Target, precision: Precision) -> ModelEstimate:
    """Estimate a file for a target.

    Args:
        path: an ONNX file; an open batch counts as 1.
        target: the board; its software must be TensorRT.
        precision: in which the engine would run, whatever the file's own types are.

    Raises:
        InputFileError: it cannot be read, or has sizes that are open beyond the batch.
        IncompatibleError: no published measurement supports this board and precision.
    """
    return estimate_model(path, target, precision)


def precision_run(precision: Precision, target: Target) -> Precision:
    """In what an engine of such a file runs: TensorRT takes a file in FP32 in FP16, unless types are in the graph."""
    weak = target.software.runtime == "tensorrt" and target.software.typing == "weak"
    return "fp16" if precision == "fp32" and weak else precision


def precision_named(name: str) -> Precision:
    """A precision by its name.

    Raises:
        UsageError: there is none of that name.
    """
    for known in PRECISIONS:
        if name == known:
            return known
    raise UsageError(f"--precision {name}: there is {', '.join(PRECISIONS)}.")


def format_estimate(found: ModelEstimate) -> str:
    """Lines for a terminal; the first says that nothing was measured."""
    return "\n".join(
        [
            f"Estimated for {found.target}, not measured.",
            f"{found.subject} ({found.precision}), {found.kernels} kernels, "
            f"{format_count(found.macs)} MACs, {format_bytes(found.moved_bytes)} moved",
            "",
            *_figure("latency", found.latency),
            *(
                _figure("energy", found.energy)
                if isinstance(found.energy, Estimate)
                else [_row("energy", found.energy.reason)]
            ),
            *(_row("" if place else "notes", note) for place, note in enumerate(found.notes)),
            "",
        ]
    )


def format_count(value: int) -> str:
    """`1.82 G`, `3.27 M`, `512`."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return str(value)


def _figure(title: str, found: Estimate) -> Iterator[str]:
    low, high = (format_quantity(each, found.unit) for each in found.interval)
    yield _row(
        title,
        f"about {format_quantity(found.value, found.unit)} ({found.confidence:.0%} interval {low} to {high})",
    )
    yield _row("", f"from {found.basis}")


def _row(title: str, text: str) -> str:
    return f"{title:<11}{text}"
