import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.bench.analysis import statistics
from edgekd.records import Samples

times = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=60)


def samples(values) -> Samples:
    return Samples(values=tuple(values), unit="s")


@settings(deadline=None)
@given(times, st.floats(0, 100))
def test_percentile_interpolates_between_ranks(values, percent):
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    expected = ordered[below] + (ordered[above] - ordered[below]) * (rank - below)
    assert statistics.percentile(samples(values), percent) == pytest.approx(expected)


@settings(deadline=None)
@given(times)
def test_the_median_is_the_50th_percentile_whatever_the_order(values):
    reversed_samples = samples(values[::-1])
    assert statistics.median(samples(values)) == pytest.approx(
        statistics.percentile(reversed_samples, 50)
    )


@settings(deadline=None)
@given(times, st.floats(0.001, 1000))
def test_the_spread_does_not_depend_on_the_unit(values, factor):
    scaled = samples([value * factor for value in values])
    assert statistics.relative_spread(scaled) == pytest.approx(
        statistics.relative_spread(samples(values)), rel=1e-9, abs=1e-9
    )


def test_one_far_call_among_many_is_an_outlier_and_the_rest_are_not():
    values = [1.0 + 0.001 * (index % 7) for index in range(100)]
    assert statistics.outlier_count(samples(values)) == 0
    assert statistics.outlier_count(samples([*values, 10.0])) == 1


def test_outliers_are_seen_even_if_a_coarse_clock_makes_most_calls_equal():
    assert statistics.outlier_count(samples([1.0] * 1000)) == 0
    assert statistics.outlier_count(samples([1.0] * 1000 + [5.0])) == 1


def test_normal_noise_has_no_outliers():
    values = np.random.default_rng(0).normal(10, 1, size=10_000)
    assert statistics.outlier_count(samples(values)) == 0


def test_drift_is_the_change_of_level():
    assert statistics.drift(samples([2.0] * 50 + [1.0] * 50)) == pytest.approx(-0.5)
    assert statistics.drift(samples([1.0])) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 10, 25, 26])
def test_the_interval_agrees_with_a_bootstrap_that_draws_every_resample(count):
    values = np.random.default_rng(1).lognormal(size=count)
    drawn = np.random.default_rng(2).choice(values, size=(40_000, count))
    expected = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    found = statistics.median_interval(
        samples(values), generator=np.random.default_rng(3), resamples=40_000
    )
    # Both are made of order statistics: near a step of the distribution a rank may differ.
    steps = np.sort(values)
    tolerance = np.diff(steps, append=steps[-1]).max() / 2 + 1e-9
    assert found == pytest.approx(tuple(expected), abs=tolerance)


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        low, high = statistics.median_interval(
            samples(generator.exponential(size=101)), generator=generator, resamples=500
        )
        covered += low <= np.log(2) <= high
    assert 0.91 < covered / 400 < 0.99


def test_no_median_is_said_to_lie_below_the_fastest_call():
    found = Samples(values=(1.0,) * 50 + (3.0,) * 50, unit="s", groups=(50, 50))
    low, high = statistics.level_interval(found)
    assert low == 1.0
    assert high > 3
