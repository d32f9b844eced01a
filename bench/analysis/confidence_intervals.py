"""How wide an interval has to be when bounds of a datasheet and noise come together.

The usual k = 2 is right for noise. A bound that a datasheet guarantees is not noise: of an error
that is anywhere within +-a, 1.15 a (two standard deviations) is more than all. So the distribution
of the sum is computed, by its characteristic function.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

# What is computed. It is stated as "at least 95 %", since a part of its terms are estimates themselves.
COVERAGE: Final = 0.97
# 97.5 % points of Student's t, by degrees of freedom from 1; beyond, by the first term of its expansion.
_T: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
_Z: Final = 1.959964


def student_factor(degrees: int) -> float:
    """How many times wider than a normal one the 95 % interval of a mean is, its spread being estimated."""
    if degrees <= len(_T):
        return _T[degrees - 1] / _Z
    return 1 + (_Z**2 + 1) / (4 * degrees)


def half_width(bounds: NDArray[np.float64], sigma: float, coverage: float = COVERAGE) -> float:
    """The c for which a sum of independent errors lies within +-c with that probability.

    Args:
        bounds: (n,), of errors that are uniform within +-bound, in any unit.
        sigma: standard deviation of a normal error, in the same unit.
        coverage: the probability.
    """
    bounds = bounds[bounds > 0]
    total = float(np.sqrt(sigma**2 + (bounds**2).sum() / 3))
    if total == 0:
        return 0.0
    # A little noise, which changes the third digit, makes the integral below end soon.
    spread = max(sigma / total, 0.02)
    scaled = bounds / total
    t = np.arange(0.5, 6 / spread / 0.04) * 0.04  # (m,), the middle of steps
    # np.sinc is sin(pi x) / (pi x).
    phi = np.prod(np.sinc(np.outer(t, scaled) / np.pi), axis=1) * np.exp(-0.5 * (t * spread) ** 2)

    def within(c: float) -> float:
        return float((np.sin(c * t) / t * phi).sum() * 0.04 * 2 / np.pi)

    # Standard deviations
    low, high = 0.0, 5.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < coverage else (low, middle)
    return high * total


def effective_count(values: NDArray[np.float64]) -> float:
    """How many independent values say as much about the mean as these, which follow one another.

    n / (1 + 2 sum of the autocorrelations), summed until the first that is not positive.
    """
    count = len(values)
    deviations = values - values.mean()
    power = float((deviations**2).sum())
    if count < 4 or power == 0:
        return float(max(count, 1))
    total = 0.0
    for lag in range(1, count // 2):
        correlation = float((deviations[:-lag] * deviations[lag:]).sum()) / power
        if correlation <= 0:
            break
        total += correlation
    return max(1.0, count / (1 + 2 * total))
