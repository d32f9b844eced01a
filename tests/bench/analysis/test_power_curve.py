import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.bench.analysis.power_curve import curve_of_counter, curve_of_power, unwrap_counter

POWER_W = 7.5
RANGE_UJ = 2_000_000.0


@settings(deadline=None)
@given(
    st.lists(st.integers(1, int(RANGE_UJ) - 1), min_size=1, max_size=50),
    st.integers(0, int(RANGE_UJ) - 1),
)
def test_a_counter_that_wraps_gives_the_sum_of_its_steps(steps_uj, start_uj):
    counts = np.cumsum([start_uj, *steps_uj]) % RANGE_UJ
    assert unwrap_counter(counts, RANGE_UJ)[-1] == pytest.approx(sum(steps_uj))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 10_000), min_size=2, max_size=50, unique=True),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_energy_of_constant_power_is_power_times_time(times_ms, one, other):
    seconds = np.sort(np.array(times_ms)) / 1e3
    begin_s, end_s = sorted(
        seconds[0] + share * (seconds[-1] - seconds[0]) for share in (one, other)
    )
    curve = curve_of_power(seconds, np.full(len(seconds), POWER_W))
    assert curve.energy_j(begin_s, end_s) == pytest.approx(POWER_W * (end_s - begin_s), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 50), min_size=4, max_size=40), st.floats(0.1, 0.9))
def test_two_halves_of_a_window_are_the_whole(watts, share):
    curve = curve_of_power(np.arange(len(watts), dtype=float), np.array(watts))
    end_s = len(watts) - 1.5
    middle_s = 0.5 + share * (end_s - 0.5)
    halves = curve.energy_j(0.5, middle_s) + curve.energy_j(middle_s, end_s)
    assert halves == pytest.approx(curve.energy_j(0.5, end_s), abs=1e-9)


def test_energy_of_rising_power_is_exact_at_edges_between_readings():
    seconds = np.arange(11.0)
    curve = curve_of_power(seconds, 2 * seconds)  # P = 2t, so E = t^2
    assert curve.energy_j(0.25, 9.75) == pytest.approx(9.75**2 - 0.25**2)
    assert curve.power_w(2.0, 4.0) == pytest.approx(6.0)


def test_power_below_zero_is_not_clipped():
    curve = curve_of_power(np.array([0.0, 1.0]), np.array([-0.4, -0.4]))
    assert curve.energy_j(0.0, 1.0) == pytest.approx(-0.4)


def test_readings_that_do_not_reach_an_edge_do_not_cover_it():
    curve = curve_of_power(np.array([1.0, 2.0]), np.array([1.0, 1.0]))
    assert curve.covers(1.0, 2.0)
    assert not curve.covers(0.9, 2.0)
    assert not curve.covers(1.0, 2.1)


@pytest.mark.parametrize("update_s", [0.001, 0.1])
def test_a_counter_is_read_between_its_updates(update_s):
    reads_s = np.arange(0.0, 20.0, 0.02) + 0.003
    shown_j = 100.0 * np.floor(reads_s / update_s) * update_s  # 100 W
    curve = curve_of_counter(reads_s, reads_s, shown_j - shown_j[0], update_s)
    # Edges are known to half of the smaller of the two intervals.
    tolerance_j = 100.0 * min(update_s, 0.02)
    assert curve.energy_j(2.05, 12.05) == pytest.approx(1000.0, abs=tolerance_j)


def test_a_counter_that_stands_still_has_no_second_point():
    reads_s = np.arange(10.0)
    assert not curve_of_counter(reads_s, reads_s, np.zeros(10), 0.001).covers(1.0, 2.0)
