"""Laws of ratios and of the levels that they are made of; draws are seeded."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.bench.analysis import compare, statistics
from edgekd.records import Samples, Unmeasured

CALLS = 30
BETWEEN = 0.03  # between processes, standard deviation of the logarithm
WITHIN = 0.01
groups = st.lists(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8), min_size=2, max_size=6)


def pooled(parts) -> Samples:
    values = tuple(float(value) for part in parts for value in part)
    return Samples(values=values, unit="s", groups=tuple(len(part) for part in parts))


def drawn(generator, level, processes, *, between=BETWEEN) -> Samples:
    """Calls of processes that each meet the machine in another state."""
    states = generator.normal(math.log(level), between, processes)
    return pooled([np.exp(generator.normal(state, WITHIN, CALLS)) for state in states])


# --- levels ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(groups)
def test_levels_are_the_medians_of_the_processes_in_order(parts):
    assert statistics.levels(pooled(parts)) == pytest.approx([float(np.median(p)) for p in parts])


def test_without_processes_each_value_is_a_level():
    assert statistics.levels(Samples(values=(3.0, 1.0, 2.0), unit="B")) == [3.0, 1.0, 2.0]


@settings(deadline=None, max_examples=30)
@given(groups)
def test_the_interval_holds_the_median_and_is_no_narrower_than_that_over_calls(parts):
    samples = pooled(parts)
    low, high = statistics.level_interval(samples)
    inner = statistics.median_interval(samples, generator=np.random.default_rng(0))
    middle = statistics.median(samples)
    assert low <= middle * (1 + 1e-12)
    assert high >= middle * (1 - 1e-12)
    assert low <= inner[0]
    assert high >= inner[1]


def test_processes_that_agree_have_a_narrow_interval_and_others_a_wide_one():
    generator = np.random.default_rng(0)
    agreeing = statistics.level_interval(drawn(generator, 1.0, 5, between=0.0))
    apart = statistics.level_interval(drawn(generator, 1.0, 5, between=0.2))
    assert agreeing[1] / agreeing[0] < 1.03
    assert apart[1] / apart[0] > 1.2


@pytest.mark.parametrize("processes", [3, 5, 10])
def test_the_interval_holds_the_true_level_as_often_as_it_says(processes):
    generator = np.random.default_rng(processes)
    held = 0
    for _ in range(300):
        low, high = statistics.level_interval(drawn(generator, 2.0, processes))
        held += low <= 2.0 <= high
    assert held / 300 >= 0.92


# --- ratios ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(groups)
def test_what_is_equal_has_a_ratio_of_one_and_no_verdict(parts):
    samples = pooled(parts)
    found = compare.ratio("latency", samples, samples)
    assert found.value == pytest.approx(1)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 1 + 1e-12
    assert found.high >= 1 - 1e-12
    assert found.verdict == "none"


@settings(deadline=None)
@given(groups, groups, st.floats(0.01, 100))
def test_a_ratio_does_not_depend_on_the_unit_and_turns_over_with_its_sides(old, new, factor):
    one, other = pooled(old), pooled(new)
    found = compare.ratio("latency", one, other)
    scaled = [
        pooled([[factor * value for value in part] for part in parts]) for parts in (old, new)
    ]
    assert compare.ratio("latency", scaled[0], scaled[1]).value == pytest.approx(
        found.value, rel=1e-9
    )
    turned = compare.ratio("latency", other, one)
    assert found.value is not None
    assert turned.value == pytest.approx(1 / found.value, rel=1e-9)
    assert found.low is not None
    assert turned.high == pytest.approx(1 / found.low, rel=1e-9)
    assert {found.verdict, turned.verdict} in ({"none"}, {"less", "more"})


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, "less"), (1.25, "more")])
def test_a_shift_beyond_the_spread_is_seen(factor, verdict):
    generator = np.random.default_rng(1)
    found = [
        compare.ratio("latency", drawn(generator, 1.0, 5), drawn(generator, factor, 5))
        for _ in range(100)
    ]
    assert sum(each.verdict == verdict for each in found) >= 99


@pytest.mark.parametrize("processes", [(3, 3), (5, 5), (3, 10)])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says_and_few_verdicts_are_wrong(
    processes,
):
    generator = np.random.default_rng(sum(processes))
    held = wrong = 0
    for _ in range(500):
        old, new = (drawn(generator, 1.0, count) for count in processes)
        found = compare.ratio("latency", old, new)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1 <= found.high
        wrong += found.verdict != "none"
    assert held / 500 >= 0.93
    assert wrong == 500 - held


def test_processes_of_unlike_spread_are_held_too():
    generator = np.random.default_rng(9)
    held = 0
    for _ in range(500):
        old = drawn(generator, 1.0, 3, between=0.1)
        new = drawn(generator, 1.0, 10, between=0.005)
        found = compare.ratio("latency", old, new)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1 <= found.high
    assert held / 500 >= 0.93


def test_many_calls_of_one_process_do_not_stand_in_for_processes():
    generator = np.random.default_rng(2)
    one = Samples(values=tuple(generator.normal(1, 0.01, 1000)), unit="s", groups=(1000,))
    found = compare.ratio("latency", one, drawn(generator, 0.5, 5))
    assert found.value == pytest.approx(0.5, rel=0.1)
    assert (found.low, found.high, found.verdict) == (None, None, "none")


def test_what_was_not_measured_or_is_not_above_zero_has_no_ratio():
    known = pooled([[1.0], [1.1]])
    missing = Unmeasured(reason="no sensor")
    assert "old was not measured: no sensor" in compare.ratio("energy", missing, known).reason
    assert "new was not measured: no sensor" in compare.ratio("energy", known, missing).reason
    below = Samples(values=(-0.1, 0.2), unit="J")
    assert "not above zero" in compare.ratio("energy", known, below).reason
    assert compare.ratio("energy", known, known, "apart").reason == "apart"
