import numpy as np
import pytest

from edgekd.bench.analysis.confidence_intervals import effective_count, half_width, student_factor


@pytest.mark.parametrize("coverage", [0.9, 0.97])
def test_of_one_bound_it_is_that_share_of_the_bound(coverage):
    # 2 % of noise is added to make it computable.
    assert half_width(np.array([3.0]), 0.0, coverage) == pytest.approx(3 * coverage, rel=0.01)


def test_of_noise_alone_it_is_the_quantile_of_the_normal_distribution():
    assert half_width(np.array([]), 2.0, 0.9545) == pytest.approx(4.0, rel=0.001)


def test_nothing_is_certain_without_errors():
    assert half_width(np.array([0.0]), 0.0) == 0.0


@pytest.mark.parametrize(
    ("bounds", "sigma"), [([1.0, 1.0], 0.0), ([3.0, 1.0, 0.2], 0.5), ([0.1] * 18, 0.02)]
)
def test_it_covers_what_it_says_of_drawn_errors(bounds, sigma):
    random = np.random.default_rng(0)
    drawn = random.uniform(-1, 1, (200_000, len(bounds))) @ np.array(bounds)
    drawn += random.normal(0, sigma, len(drawn))
    width = half_width(np.array(bounds), sigma, 0.97)
    assert np.mean(np.abs(drawn) <= width) == pytest.approx(0.97, abs=0.002)


@pytest.mark.parametrize(("degrees", "t"), [(1, 12.706), (4, 2.776), (30, 2.042), (1000, 1.962)])
def test_few_windows_widen_an_interval_as_student_says(degrees, t):
    assert student_factor(degrees) * 1.959964 == pytest.approx(t, rel=0.003)


def test_independent_values_count_in_full_and_copies_once():
    values = np.random.default_rng(0).normal(size=400)
    assert effective_count(values) == pytest.approx(400, rel=0.2)
    assert effective_count(np.repeat(values, 10)) == pytest.approx(400, rel=0.25)
    assert effective_count(np.ones(50)) == 50
