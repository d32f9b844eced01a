import numpy as np
import pytest

from edgekd.export.calibration import (
    BINS,
    LEVELS,
    METHODS,
    Range,
)


def seen(values):
    found = Range()
    found.see(values)
    return found


def square_error(values, limit):
    scale = limit / LEVELS
    rounded = np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale
    return float(np.square(values - rounded).mean())


@pytest.fixture(scope="module")
def with_outliers():
    draw = np.random.default_rng(0)
    values = draw.standard_normal(100_000).astype(np.float32)
    values[:3] = 60.0
    return values


def test_max_keeps_everything(with_outliers):
    found = seen(with_outliers)
    assert found.limit("max") == pytest.approx(60.0)
    assert found.clipped_share(found.limit("max")) == 0.0


@pytest.mark.parametrize(
    ("method", "share"), [("percentile-99.99", 1e-4), ("percentile-99.9", 1e-3)]
)
def test_a_percentile_cuts_its_share_off(with_outliers, method, share):
    found = seen(with_outliers)
    beyond = float((np.abs(with_outliers) > found.limit(method)).mean())
    assert beyond <= share
    assert beyond == pytest.approx(found.clipped_share(found.limit(method)), abs=1e-5)


def test_entropy_gives_outliers_up_for_the_rest(with_outliers):
    assert 2.0 < seen(with_outliers).limit("entropy") < 30.0


def test_mse_is_the_least_of_all_limits(with_outliers):
    found = seen(with_outliers)
    best = square_error(with_outliers, found.limit("mse"))
    for bins in range(128, BINS + 1, 128):
        assert best <= 1.05 * square_error(with_outliers, found.largest * bins / BINS)


def test_entropy_does_not_give_everything_up_for_a_background_of_one_value():
    draw = np.random.default_rng(0)
    values = np.full(100_000, 0.4242, np.float32)
    values[:20_000] = draw.uniform(0, 2.8, 20_000)
    found = seen(values)
    assert found.clipped_share(found.limit("entropy")) <= 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_gets_a_scale_all_the_same(method):
    assert seen(np.zeros(10, np.float32)).limit(method) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_values_that_lie_evenly_lose_little(method):
    values = np.linspace(-1, 1, 100_001, dtype=np.float32)
    assert seen(values).limit(method) > 0.95


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=["rising", "falling", "mixed"]
)
def test_in_whatever_order_parts_come_the_histogram_is_the_same(order):
    draw = np.random.default_rng(0)
    parts = [(draw.standard_normal(1000) * 10.0**power).astype(np.float32) for power in (-3, 0, 4)]
    found = Range()
    for place in order:
        found.see(parts[place])
    whole = seen(np.concatenate(parts))
    assert found.largest == whole.largest
    # Two thousand small values are in the first bins, whichever came first
    assert found.counts.sum() == whole.counts.sum() == 3000
    np.testing.assert_array_equal(found.counts[8:], whole.counts[8:])


def test_a_histogram_is_numpys_but_for_a_quarter_of_a_bin(with_outliers):
    values = np.abs(with_outliers[3:])
    found = seen(values)
    exact = np.histogram(values, bins=BINS, range=(0.0, found.largest))[0]
    width = found.largest / BINS
    below, exactly = np.cumsum(found.counts), np.cumsum(exact)
    ends = np.arange(1, BINS + 1) * width
    least, most = (np.searchsorted(np.sort(values), ends + s * width) for s in (-0.26, 0.26))
    assert (below[:-1] >= least[:-1]).all()
    assert (below[:-1] <= most[:-1]).all()
    assert below[-1] == exactly[-1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus inf"])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        seen(np.array([0.0, bad, 1.0], np.float32))


@pytest.mark.parametrize(
    "value", [0.0, 1e-42, 1e-9, 3e38], ids=["zero", "subnormal", "below a range", "largest"]
)
def test_ends_of_the_numbers_are_counted(value):
    found = seen(np.full(7, value, np.float32))
    assert found.counts.sum() == 7
    assert found.clipped_share(found.limit("max")) == 0.0
