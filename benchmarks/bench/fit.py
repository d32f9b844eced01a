"""The constants of the law, by the largest posterior: rows pull, priors hold what no row speaks of.

Every constant is `shared value x deviation of the board`, both log-normal. So a kind of kernel that a
board's rows do not have takes its share of peak from other boards. Priors are round figures of what
such devices do, set before the fit; a row weighs as an error of 10 %.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench.references import Row
from edgekd.bench.estimator.latency_model import Constants, Work, latency_s
from edgekd.records import Precision

Vector: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Prior:
    middle: float
    shared: float  # standard deviation of the logarithm
    board: float


PRIORS: Final[Mapping[str, Prior]] = {
    # One factor for all that a board computes; its middle is not free, or the kinds would not be.
    "efficiency": Prior(middle=1.0, shared=0.01, board=0.5),
    # Winograd computes 3 x 3 with 2.25 times fewer multiplications.
    "dense3x3": Prior(middle=0.8, shared=0.5, board=0.15),
    "dense": Prior(middle=0.5, shared=0.5, board=0.15),
    # A load for each MAC, and an eighth as many load units as FP16 lanes; a fourth of that.
    "grouped": Prior(middle=0.03, shared=1.0, board=0.15),
    "product": Prior(middle=0.5, shared=0.5, board=0.15),
    "bandwidth": Prior(middle=0.7, shared=0.2, board=0.1),
    "depth_s": Prior(middle=5e-9, shared=0.7, board=0.3),  # a few clocks a step
    "floor_s": Prior(middle=2e-6, shared=0.5, board=0.3),
    # Loops and software differ more than devices do.
    "enqueue_s": Prior(middle=1e-5, shared=0.5, board=0.5),
    "call_s": Prior(middle=5e-4, shared=0.7, board=0.7),
    # What INT8 and FP32 reach of the rate that they promise beside FP16.
    "int8": Prior(middle=0.8, shared=0.3, board=0.05),
    "fp32": Prior(middle=1.0, shared=0.3, board=0.05),
}
NAMES: Final = tuple(PRIORS)
ROW: Final = 0.1  # standard deviation of the logarithm of a row
_STEP: Final = 1e-4  # of the numeric derivative


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Logarithms: the shared values first, then the deviations of each board."""

    boards: tuple[str, ...]
    values: Vector  # ((1 + boards) * names,)

    def constants(self, board: str, precision: Precision) -> Constants:
        start = len(NAMES) * (1 + self.boards.index(board))
        logs = self.values[: len(NAMES)] + self.values[start : start + len(NAMES)]
        found = dict(zip(NAMES, np.exp(logs).tolist(), strict=True))
        by_precision = {"fp16": 1.0, "int8": found.pop("int8"), "fp32": found.pop("fp32")}
        return Constants(precision=by_precision[precision], **found)


def fit(rows: Sequence[Row], works: Mapping[Row, Work], boards: tuple[str, ...]) -> Fitted:
    """Levenberg-Marquardt on the logarithms, from the priors; the same rows give the same constants."""
    middle = np.zeros((1 + len(boards)) * len(NAMES))
    middle[: len(NAMES)] = [np.log(prior.middle) for prior in PRIORS.values()]
    width = np.array(
        [prior.shared for prior in PRIORS.values()]
        + [prior.board for prior in PRIORS.values()] * len(boards)
    )

    def misses(values: Vector) -> Vector:
        fitted = Fitted(boards=boards, values=values)
        return np.array(
            [
                np.log(latency_s(works[row], fitted.constants(*row.where)) / row.measured_s) / ROW
                for row in rows
            ]
        )

    values, damping = middle.copy(), 1.0
    missed = misses(values)
    cost = float(missed @ missed)
    for _ in range(60):
        slope = _slope(misses, values, missed, rows, boards)
        pull = (values - middle) / width
        gradient = slope.T @ missed + pull / width
        curvature = slope.T @ slope + np.diag(1 / width**2)
        while True:
            damped = curvature + damping * np.diag(np.diag(curvature))
            tried = values - np.linalg.solve(damped, gradient)
            then = misses(tried)
            left = (tried - middle) / width
            new_cost = float(then @ then + left @ left)
            if new_cost < cost or damping > 1e8:
                break
            damping *= 4
        if new_cost >= cost:
            break
        settled = cost - new_cost < 1e-7 * cost
        values, missed, cost, damping = tried, then, new_cost, max(damping / 4, 1e-6)
        if settled:
            break
    return Fitted(boards=boards, values=values)


def _slope(
    misses: Callable[[Vector], Vector],
    values: Vector,
    missed: Vector,
    rows: Sequence[Row],
    boards: tuple[str, ...],
) -> Vector:
    """Derivatives (rows, values); a board's deviation acts on its rows as the shared value does."""
    slope = np.zeros((len(rows), len(values)))
    for place in range(len(NAMES)):
        moved = values.copy()
        moved[place] += _STEP
        slope[:, place] = (misses(moved) - missed) / _STEP
    for number, board in enumerate(boards, 1):
        mine = np.array([row.board == board for row in rows])
        start = number * len(NAMES)
        slope[mine, start : start + len(NAMES)] = slope[mine, : len(NAMES)]
    return slope
