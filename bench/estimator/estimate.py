"""Latency of an ONNX file on a board that is not here: an estimate, never a measurement.

What is shipped (`estimator.json`) are constants of the law in `latency`, fitted on published rows, and
for each row what the law said of it when every network of its family was left out of the fit. The
interval is made of those errors: the smallest share of the value that held at least nine tenths of
the truths (split conformal, Vovk 2005: rank ceil(0.9 (n + 1)) of n). Below nine rows no rank promises
nine tenths; it is then the largest error, and a note says so.
"""

import functools
import math
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from edgekd.bench.estimator import latency_model
from edgekd.bench.estimator.graph_cost import Network, read_network
from edgekd.bench.estimator.latency_model import Computing, Constants, Machine
from edgekd.errors import IncompatibleError
from edgekd.files import digest_of, read_text
from edgekd.records import (
    Digest,
    Estimate,
    ModelEstimate,
    Precision,
    Target,
    Unmeasured,
    from_json,
    record,
)

FILE: Final = Path(__file__).parent / "fits.json"
CONFIDENCE: Final = 0.9
# A wider interval is no estimate, and is refused
WIDEST: Final = 0.5
# Of the device's time: above it, an estimate hangs on that kind of kernel
RELIES: Final = 0.05
# Of an estimate: above it, a reader should know
CALL: Final = 0.2
NO_ENERGY: Final = (
    "no energy is estimated: the rows with a measured energy on TensorRT are of two networks (ResNet-50 "
    "and RetinaNet, INT8, at the wall), too few to leave one out, and those of other runtimes do "
    "not speak for it"
)


@record
class FittedRow:
    """A published measurement, and what the law says of it."""

    model: str
    family: str
    measured_s: Annotated[float, Field(gt=0)]
    fitted_s: Annotated[float, Field(gt=0)]
    # Fitted without its family
    left_out_s: Annotated[float, Field(gt=0)]
    # Whether another family of this board has each kind of kernel that it hangs on. If not, nobody
    # would have estimated it without its family.
    supported: bool
    macs: int
    # Pixels of the input
    side: int
    # That it hangs on
    kinds: tuple[Computing, ...]


@record
class BoardFit:
    """One board in one precision."""

    board: str
    precision: Precision
    machine: Machine
    constants: Constants
    software: tuple[str, ...]
    power_mode: tuple[str, ...]
    sources: tuple[str, ...]
    rows: Annotated[tuple[FittedRow, ...], Field(min_length=1)]

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(sorted({row.family for row in self.rows}))

    def families_with(self, kind: Computing) -> set[str]:
        return {row.family for row in self.rows if kind in row.kinds}

    def rows_for(self, *, supported: bool) -> tuple[FittedRow, ...]:
        """Those whose errors speak: all, or for what more than one family covers the supported ones."""
        chosen = tuple(row for row in self.rows if row.supported or not supported)
        return chosen or self.rows


@record
class Estimator:
    """What is shipped."""

    version: str
    command: str
    # Of the file of rows
    rows_digest: Digest
    fits: tuple[BoardFit, ...]


@functools.cache
def estimator() -> Estimator:
    """The constants that come with edgekd."""
    return from_json(Estimator, read_text(FILE), origin=FILE.name, schema="estimator")


def errors(rows: tuple[FittedRow, ...]) -> list[float]:
    """Of the left-out estimates, |estimate / truth - 1|, in the order of the rows."""
    return [abs(row.left_out_s / row.measured_s - 1) for row in rows]


def half_width(rows: tuple[FittedRow, ...]) -> float:
    """The share of an estimate, up and down, that holds nine tenths of the truths."""
    distances = sorted(abs(row.measured_s / row.left_out_s - 1) for row in rows)
    rank = math.ceil(CONFIDENCE * (len(distances) + 1))
    return distances[min(rank, len(distances)) - 1]


def fit_for(target: Target, precision: Precision) -> BoardFit:
    """The constants for a board.

    Raises:
        IncompatibleError: no row supports it; the message says what is supported.
    """
    supported = ", ".join(
        f"{fit.board} {fit.precision}"
        for fit in estimator().fits
        if half_width(fit.rows_for(supported=True)) <= WIDEST
    )
    there = f"Estimates are possible for {supported}. Or measure on the board: edgekd bench."
    if target.software.runtime != "tensorrt":
        raise IncompatibleError(
            f"no estimate for {target.id}: there are no published measurements with "
            f"{target.software.runtime} on it. {there}"
        )
    for fit in estimator().fits:
        if (fit.board, fit.precision) == (target.board.name, precision):
            width = half_width(fit.rows_for(supported=True))
            if width > WIDEST:
                raise IncompatibleError(
                    f"no estimate for {target.board.name} in {precision}: of its {len(fit.rows)} published "
                    f"measurements ({', '.join(fit.families)}), left out of the fit, some are missed by "
                    f"{width:.0%} of the estimate. {there}"
                )
            return fit
    raise IncompatibleError(
        f"no estimate for {target.board.name} in {precision}: there is no published measurement of a "
        f"known network with TensorRT. {there}"
    )


def estimate_latency(network: Network, target: Target, precision: Precision) -> Estimate:
    """Seconds of one inference, batch as in the network.

    Raises:
        IncompatibleError: no row supports this board, runtime and precision, or a kind of kernel that
            the network hangs on.
    """
    fit = fit_for(target, precision)
    work = latency_model.work_of(network.kernels, fit.machine, precision)
    value = latency_model.latency_s(work, fit.constants)
    covered = {kind: fit.families_with(kind) for kind in hangs_on(work, fit.constants)}
    for kind, families in covered.items():
        if not families:
            raise IncompatibleError(
                f"no estimate for this network on {target.board.name} in {precision}: much of its time "
                f"would go into {_KINDS[kind]}, and no measured network there has them. Measure on the board."
            )
    rows = fit.rows_for(supported=all(len(families) > 1 for families in covered.values()))
    width = half_width(rows)
    return Estimate(
        value=value,
        # A time cannot be negative, however far the errors reach.
        interval=(value * max(0.0, 1 - width), value * (1 + width)),
        unit="s",
        confidence=CONFIDENCE,
        basis=(
            f"{len(fit.rows)} published measurements on {fit.board} in {fit.precision} "
            f"({', '.join(fit.families)}); the {len(rows)} that speak for this network are missed by "
            f"{np.median(errors(rows)):.0%} (median) by a fit without their family"
        ),
        model=estimator().version,
    )


def estimate_model(path: Path, target: Target, precision: Precision) -> ModelEstimate:
    """What is estimated of an ONNX file.

    Raises:
        InputFileError: as `read_network`.
        IncompatibleError: as `estimate_latency`.
    """
    network = read_network(path)
    found = estimate_latency(network, target, precision)
    width = latency_model.WIDTH_BYTES[precision]
    return ModelEstimate(
        subject=path.name,
        subject_digest=digest_of(path),
        target=target.id,
        precision=precision,
        latency=found,
        energy=Unmeasured(reason=NO_ENERGY),
        kernels=len(network.kernels),
        macs=network.macs,
        moved_bytes=sum(kernel.bytes_moved(width) for kernel in network.kernels),
        notes=notes(network, fit_for(target, precision)),
    )


def notes(network: Network, fit: BoardFit) -> tuple[str, ...]:
    """What a reader should be warned of."""
    found = [
        f"measured with: {'; '.join(fit.software)}",
        f"power mode, as published: {'; '.join(fit.power_mode)}",
    ]
    macs = [row.macs for row in fit.rows]
    if not min(macs) <= network.macs <= max(macs):
        found.append(
            f"{_millions(network.macs)} million MACs, outside of what was measured "
            f"({_millions(min(macs))} to {_millions(max(macs))} million)"
        )
    sides = [row.side for row in fit.rows]
    side = network.input_shape[-1] if len(network.input_shape) == 4 else 0
    if side and not min(sides) <= side <= max(sides):
        found.append(f"{side} pixels, outside of what was measured ({min(sides)} to {max(sides)})")
    if network.input_shape[0] != 1:
        found.append(f"batch {network.input_shape[0]}; every measurement is of batch 1")
    work = latency_model.work_of(network.kernels, fit.machine, fit.precision)
    share = fit.constants.call_s / latency_model.latency_s(work, fit.constants)
    if share > CALL:
        found.append(
            f"{share:.0%} of it is what the measurement loop costs per call ({fit.constants.call_s * 1e3:.1f} ms); "
            "one without Python costs less"
        )
    for kind in hangs_on(work, fit.constants):
        families = sorted(fit.families_with(kind))
        if len(families) == 1 and len(fit.families) > 1:
            found.append(
                f"{_KINDS[kind]}: measured in one family only ({families[0]}), so the interval is wider"
            )
    if len(fit.families) == 1:
        found.append(f"all measurements are of one family ({fit.families[0]})")
    if len(fit.rows) < 9:
        found.append(
            f"{len(fit.rows)} measurements are too few for an interval of {CONFIDENCE:.0%}; it is the largest error"
        )
    if network.quantised != (fit.precision == "int8"):
        found.append(
            f"the file is{'' if network.quantised else ' not'} quantised; the estimate is of {fit.precision}"
        )
    return (*found, *network.notes)


def hangs_on(work: latency_model.Work, constants: Constants) -> tuple[Computing, ...]:
    """Kinds of kernels that take more than a little of the time."""
    return tuple(
        kind
        for kind, share in latency_model.shares_of_kinds(work, constants).items()
        if share > RELIES
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.2g}"


_KINDS: Final[dict[Computing, str]] = {
    "dense3x3": "convolutions of 3 x 3",
    "dense": "other convolutions",
    "grouped": "grouped convolutions",
    "product": "matrix products",
}
