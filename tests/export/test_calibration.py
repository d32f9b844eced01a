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
    found.count(values)
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
