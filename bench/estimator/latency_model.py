"""How long a graphics processor takes for a list of kernels: a law with few constants.

One kernel computes and moves bytes at once; the two add up as a Euclidean norm between "the longer
one" and "both in turn". It never takes less than a floor. The host enqueues kernels while the device
runs earlier ones, so a network takes the longer of the two, and a constant for the call itself:

    kernel   c = padded MACs / (peak * efficiency * share of its kind) + depth * depth_s
             b = bytes / (bandwidth * share)
             t = max(sqrt(c^2 + b^2), floor_s)
    network  (sum(t)^4 + (kernels * enqueue_s)^4)^(1/4) + call_s

Convolutions without groups are computed in tiles of output pixels by channels, a whole number of
tiles for each multiprocessor at a time: 128 x 64 on tensor cores (Volta's `h884` kernels), 64 x 32 on
plain ones (Maxwell's smallest; docs/log.md says what other tiles gave); the sum runs over multiples of 8. `depth` is the serial part: the
MACs of one output follow one another whatever the width of the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekd.bench.estimator.kernel_fusion import Kernel
from edgekd.records import Precision, record

Vector: TypeAlias = NDArray[np.float64]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Computing: TypeAlias = Literal["dense3x3", "dense", "grouped", "product"]

COMPUTING: Final[tuple[Computing, ...]] = ("dense3x3", "dense", "grouped", "product")
WIDTH_BYTES: Final[dict[Precision, int]] = {"fp32": 4, "fp16": 2, "int8": 1}
# Multiply-accumulates at once, beside FP16: TF32 on tensor cores and FP32 on plain ones are half.
RATE: Final[dict[Precision, float]] = {"fp32": 0.5, "fp16": 1.0, "int8": 2.0}
# Tensor cores: pixels, channels
TILES: Final = {True: (128, 64), False: (64, 32)}
STEP: Final = 8  # of the sum
# Of the longer of host and device
SHARPNESS: Final = 4


@record
class Machine:
    """What is known of a device before anything is measured; facts of its TOML file."""

    peak_macs_per_s: Positive  # FP16, dense
    bandwidth_bytes_per_s: Positive
    multiprocessors: Annotated[int, Field(ge=1)]
    tensor_cores: bool


@record
class Constants:
    """What is fitted. Shares of peak have no unit; `dense3x3` may pass 1, for Winograd saves MACs."""

    efficiency: Positive
    dense3x3: Positive
    dense: Positive
    grouped: Positive
    product: Positive
    bandwidth: Positive
    # Of what the rate promises; 1 for FP16
    precision: Positive
    depth_s: Positive
    floor_s: Positive
    enqueue_s: Positive
    call_s: Positive


@dataclass(frozen=True, kw_only=True)
class Work:
    """Kernels of one network as vectors (kernels,), for one machine and precision."""

    # Place in COMPUTING; its length for those that only move bytes
    kind: NDArray[np.int64]
    # At peak, padded
    compute_s: Vector
    # At full bandwidth
    move_s: Vector
    depth: Vector
    # How often each is launched
    count: Vector


def work_of(
    kernels: Sequence[Kernel],
    machine: Machine,
    precision: Precision,
    *,
    counts: Sequence[int] | None = None,
    tile: tuple[int, int] | None = None,
) -> Work:
    """Vectors of some kernels.

    Args:
        kernels: at least one.
        machine: that runs them.
        precision: of every one of them.
        counts: how often each is launched; once, unless given.
        tile: pixels and channels, instead of the machine's of `TILES`.
    """
    tile = tile or TILES[machine.tensor_cores]
    rate = machine.peak_macs_per_s * RATE[precision]
    width = WIDTH_BYTES[precision]
    return Work(
        kind=np.array([_place(kernel) for kernel in kernels]),
        compute_s=np.array([_count_padded_macs(k, tile, machine.multiprocessors) for k in kernels])
        / rate,
        move_s=np.array([k.bytes_moved(width) for k in kernels], dtype=np.float64)
        / machine.bandwidth_bytes_per_s,
        depth=np.array([kernel.depth for kernel in kernels], dtype=np.float64),
        count=np.ones(len(kernels)) if counts is None else np.array(counts, dtype=np.float64),
    )


def kernel_times(work: Work, constants: Constants) -> Vector:
    """Seconds of each kernel on the device (kernels,), one launch of it."""
    shares = [constants.dense3x3, constants.dense, constants.grouped, constants.product, 1.0]
    speed = constants.efficiency * constants.precision * np.array(shares)[work.kind]
    compute = work.compute_s / speed + work.depth * constants.depth_s
    return np.maximum(np.hypot(compute, work.move_s / constants.bandwidth), constants.floor_s)


def latency_s(work: Work, constants: Constants) -> float:
    """Seconds of one inference, as the loops of the fitted rows time it."""
    device = float(kernel_times(work, constants) @ work.count)
    host = float(work.count.sum()) * constants.enqueue_s
    return float((device**SHARPNESS + host**SHARPNESS) ** (1 / SHARPNESS)) + constants.call_s


def shares_of_kinds(work: Work, constants: Constants) -> dict[Computing, float]:
    """Of the device's time, what kernels of each kind take."""
    times = kernel_times(work, constants) * work.count
    return {
        kind: float(times[work.kind == place].sum() / times.sum())
        for place, kind in enumerate(COMPUTING)
    }


def _place(kernel: Kernel) -> int:
    return COMPUTING.index(kernel.kind) if kernel.kind in COMPUTING else len(COMPUTING)


def _count_padded_macs(kernel: Kernel, tile: tuple[int, int], multiprocessors: int) -> float:
    """MACs with what tiles compute in vain. Grouped convolutions and products do not use such tiles."""
    if kernel.kind not in ("dense", "dense3x3") or not kernel.macs:
        return float(kernel.macs)
    pixels = kernel.macs // (kernel.depth * kernel.out_channels)
    tiles = -(-pixels // tile[0]) * -(-kernel.out_channels // tile[1])
    tiles = -(-tiles // multiprocessors) * multiprocessors
    return float(tiles * tile[0] * tile[1] * -(-kernel.depth // STEP) * STEP)
