"""Ranges of activations: what was seen of a tensor, and where to cut it.

Absolute values only, because what is made of them is symmetric.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from edgekd.export.parity import Array

Counts: TypeAlias = npt.NDArray[np.float64]

# On either side of 0
LEVELS: Final = 127
BINS: Final = 4096
# Of the histogram while its range still grows: a power of two, at least 4 for each of BINS
_FINE_BITS: Final = 15
_FINE: Final = 1 << _FINE_BITS
# Values at a time, which stay in the cache
_CHUNK: Final = 1 << 17
# Far from where a scale dies (rules.SMALLEST_SCALE)
SMALLEST_RANGE: Final = 1e-6
# Bins between two limits that are tried
_STEP: Final = 32
# Bins: with fewer than levels there is nothing to lose
_FEWEST: Final = 128
_LITTLE: Final = 1e-3  # counts
# Of what was seen, by entropy
_MOST_KEPT: Final = 0.999


class Range:
    """Absolute values of one tensor: the largest, and a histogram whose range grows with it.

    The range is a power of two and doubles, two bins becoming one, so that one pass over the images is
    enough and nothing is rounded. What is read are BINS from 0 to the largest value; a value within a
    quarter of a bin of the next one may be counted there.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        # The end of the histogram; with the smallest nothing is lost, as no limit is sought below it
        self._end = float(2.0 ** np.floor(np.log2(SMALLEST_RANGE)))
        self._fine: npt.NDArray[np.int64] = np.zeros(_FINE, np.int64)

    def see(self, values: Array) -> None:
        """Count the values of a part of the images.

        Args:
            values: float32 of any shape.

        Raises:
            ValueError: one of them is not finite.
        """
        # Two passes without a copy: a NaN is the largest and the smallest
        largest = max(float(values.max()), -float(values.min())) if values.size else 0.0
        if not np.isfinite(largest):
            raise ValueError("not finite")
        self.largest = max(self.largest, largest)
        if self._end <= largest:
            self._grow(largest)
        flat, scale = values.reshape(-1), np.float32(_FINE / self._end)
        for start in range(0, flat.size, _CHUNK):
            places = flat[start : start + _CHUNK] * scale
            np.abs(places, out=places)
            counted = np.bincount(places.astype(np.int32))
            self._fine[: len(counted)] += counted

    def _grow(self, largest: float) -> None:
        """Double the range until a value lies in it."""
        doublings = int(np.frexp(largest)[1] - np.frexp(self._end)[1]) + 1
        self._end *= 2.0**doublings
        # What was counted shares the first bins
        merged = self._fine.reshape(-1, 2 ** min(doublings, _FINE_BITS)).sum(1)
        self._fine[:] = 0
        self._fine[: len(merged)] = merged

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many values fell into each of BINS from 0 to the largest, (BINS,)."""
        if self.largest == 0:
            return np.concatenate([self._fine.sum(keepdims=True), np.zeros(BINS - 1, np.int64)])
        # Where a bin's end lies inside a finer one, that is shared out: to give it to one side would
        # leave ripples that look like the data's.
        ends = np.arange(1, BINS + 1) * (_FINE / BINS * (self.largest / self._end))
        below = np.interp(ends, np.arange(_FINE + 1), np.concatenate([[0], np.cumsum(self._fine)]))
        below[-1] = self._fine.sum()
        return np.asarray(np.diff(np.rint(below).astype(np.int64), prepend=0))

    def limit(self, method: str) -> float:
        """The value that becomes the largest level; never 0.

        Args:
            method: one of METHODS.
        """
        if self.largest < SMALLEST_RANGE:
            # Always zero, or as good as: any scale represents it
            return 1.0
        return self.largest * METHODS[method](self.counts.astype(np.float64)) / BINS

    def clipped_share(self, limit: float) -> float:
        """Share of what was seen that lies beyond a limit."""
        counts = self.counts
        seen = int(counts.sum())
        kept = int(np.ceil(limit / self.largest * BINS)) if self.largest > 0 else BINS
        return float(counts[kept:].sum() / seen) if seen else 0.0


# --- methods: a histogram to the number of bins that are kept ---------------------------------------


def _all(_: Counts) -> int:
    return BINS


def _percentile(share: float) -> Callable[[Counts], int]:
    """Synthetic images have outliers: the value that a share of all lies below."""

    def bins(counts: Counts) -> int:
        return min(BINS, int(np.searchsorted(np.cumsum(counts), share * counts.sum())) + 1)

    return bins


def _entropy(counts: Counts) -> int:
    """Least divergence of what is kept from what it becomes at 128 levels (Migacz, GTC 2017).

    The first bin, where a ReLU leaves its zeros, is left out: every limit represents it. A thousandth is cut
    off at most: a background of one value, which a level shares with nothing, looks worth any cut otherwise.
    """
    known = counts.copy()
    known[0] = 0
    least = _percentile(_MOST_KEPT)(counts)
    tried = [kept for kept in _candidate_bins() if kept >= least]
    return min(tried or [BINS], key=lambda kept: _divergence(known, kept))


def _divergence(counts: Counts, kept: int) -> float:
    """KL(P || Q) in nats: P clipped to `kept` bins, Q the same at 128 levels, spread over P's bins."""
    clipped = counts[:kept].copy()
    levels = np.arange(kept) * _FEWEST // kept
    filled = clipped > 0
    # Q is made of what lies inside; what was cut off is in P alone, which is how cutting costs.
    totals = np.bincount(levels, clipped, _FEWEST)
    shares = np.bincount(levels, filled, _FEWEST)
    spread = np.where(filled, (totals / np.maximum(shares, 1))[levels], 0.0)
    clipped[-1] += counts[kept:].sum()
    first, second = (_smooth(each) for each in (clipped, spread))
    return float((first * np.log(first / second)).sum())


def _smooth(counts: Counts) -> Counts:
    """Shares, none of them 0: a bin that Q leaves empty would make every divergence infinite."""
    return np.asarray((counts + _LITTLE) / (counts.sum() + _LITTLE * len(counts)))


def _squares(counts: Counts) -> int:
    """Least mean square of what rounding and cutting change."""
    centres = np.arange(BINS) + 0.5

    def error(kept: int) -> float:
        scale = kept / LEVELS
        rounded = np.minimum(np.rint(centres / scale), LEVELS) * scale
        return float((counts * np.square(centres - rounded)).sum())

    return min(_candidate_bins(), key=error)


def _candidate_bins() -> range:
    # Of equals the widest
    return range(BINS, _FEWEST - 1, -_STEP)


METHODS: Final[dict[str, Callable[[Counts], int]]] = {
    "max": _all,
    "percentile-99.99": _percentile(0.9999),
    "percentile-99.9": _percentile(0.999),
    "mse": _squares,
    "entropy": _entropy,
}
