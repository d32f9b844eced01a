"""Statistics of samples: pure functions, nothing stored, nothing thrown away."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgekd.bench.analysis.confidence_intervals import student_factor
from edgekd.records import Samples

# 97.5 % point of the normal distribution
Z: Final = 1.959964
# hyperfine's rule: further from the median than 10 sigma, where 1.4826 MAD is one.
OUTLIER_MADS: Final = 14.826
# Of a normal distribution, in case the MAD is 0: sigma = 1.2533 mean absolute deviations.
MEAN_DEVIATION_TO_MAD: Final = 1.2533 / 1.4826


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share of `count` draws; unlike the simple one it holds near 1."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + (z / (2 * count)) ** 2) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def median(samples: Samples) -> float:
    return float(np.median(samples.values))


def percentile(samples: Samples, percent: float) -> float:
    """Linear interpolation between the two nearest ranks, numpy's default (R type 7).

    Not what trtexec does, which takes the higher rank.
    """
    return float(np.percentile(samples.values, percent))


def relative_spread(samples: Samples) -> float:
    """Interquartile range over the median; no unit."""
    middle = median(samples)
    spread = percentile(samples, 75) - percentile(samples, 25)
    return spread / middle if middle else 0.0


def outlier_count(samples: Samples) -> int:
    """How many samples lie more than `OUTLIER_MADS` median absolute deviations from the median.

    A coarse clock can make the MAD 0; the mean absolute deviation then stands in for it.
    """
    values = np.asarray(samples.values)
    distances = np.abs(values - np.median(values))
    deviation = float(np.median(distances)) or float(distances.mean()) * MEAN_DEVIATION_TO_MAD
    return int((distances > OUTLIER_MADS * deviation).sum())


def drift(samples: Samples) -> float:
    """Change of the level from the first half to the second, as a share of the first; no unit."""
    values = np.asarray(samples.values)
    half = len(values) // 2
    if half == 0:
        return 0.0
    before, after = float(np.median(values[:half])), float(np.median(values[half:]))
    return (after - before) / before if before else 0.0


def median_interval(
    samples: Samples,
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the median.

    A resample is not drawn in full: the middle order statistics of n uniform draws are Beta
    distributed, so the ranks that a resample's median falls on are drawn directly. The result has
    the same distribution, in O(resamples) whatever n. Samples are taken as independent; slow
    changes of the machine are not in the interval.
    """
    ordered = np.sort(np.asarray(samples.values))  # (n,)
    count = len(ordered)
    # Draws up to and with the (lower) middle one
    below = (count + 1) // 2
    lower = generator.beta(below, count + 1 - below, size=resamples)  # (resamples,)
    upper = lower
    if count % 2 == 0:
        # Of the draws above the lower middle one, the smallest.
        rest = generator.uniform(size=resamples) ** (1 / (count - below))
        upper = 1 - (1 - lower) * rest
    medians = (_at(ordered, lower) + _at(ordered, upper)) / 2
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(medians, [tail, 100 - tail])
    return float(low), float(high)


def levels(samples: Samples) -> list[float]:
    """The median of each process that took samples, in order; of samples without processes, each value."""
    if not samples.groups:
        return list(samples.values)
    parts = np.split(np.asarray(samples.values), np.cumsum(samples.groups)[:-1])
    return [float(np.median(part)) for part in parts if len(part)]


def level_interval(samples: Samples) -> tuple[float, float]:
    """95 % interval of the median: by the spread between processes where there are several, else between calls.

    Calls of one process share what it met, so that thousands of them say little more than one about how the next
    process will fare: Student's t of the logarithms of the processes' medians. It is never narrower than the bootstrap
    over calls.
    """
    low, high = median_interval(samples, generator=np.random.default_rng(0))
    parts = levels(samples) if samples.groups else []
    if len(parts) < 2 or min(parts) <= 0:
        return low, high
    logs = np.log(parts)
    half = student_factor(len(logs) - 1) * Z * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    middle = median(samples)
    fastest = float(min(samples.values))
    return max(fastest, min(low, middle * math.exp(-half))), max(high, middle * math.exp(half))


def _at(ordered: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sample that each uniform draw picks."""
    index = np.minimum((uniform * len(ordered)).astype(np.int64), len(ordered) - 1)
    return ordered[index]
