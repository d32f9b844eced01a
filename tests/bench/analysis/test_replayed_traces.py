"""Energies of replayed traces against a truth that is known, on models of the sensors."""

import numpy as np
import pytest

from benchmarks.bench import traces
from benchmarks.bench.cases import cases as cases_of
from benchmarks.bench.sensing import STEP_S, truth_of
from benchmarks.rows import read_rows
from edgekd.bench.analysis import energy
from edgekd.records import Samples
from tests.conftest import REPOSITORY

COMMITTED = REPOSITORY / "benchmarks" / "results" / "bench-traces.csv"
TRACES = 40


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return cases_of(tmp_path_factory.mktemp("boards"))


@pytest.mark.parametrize(
    "name", ["INA3221 Orin Nano", "INA3221 AGX Orin", "INA226 meter", "RAPL", "NVML counter"]
)
def test_intervals_hold_the_truth_and_the_edges_beat_the_baselines(cases, name):
    found = traces.outcomes_of(cases[name], TRACES, seed=1)
    ratios = np.array([[each.ratios[part] for part in ("gross", "idle", "net")] for each in found])
    # Of 40 traces at 95 %, 34 or more are held in 99 of 100 cases; it is seeded.
    assert ((ratios <= 1).sum(axis=0) >= 34).all()
    assert ratios.max() > 0.7  # not by being wide

    def typical(pick):
        return np.percentile(np.concatenate([pick(each) for each in found]), 90)

    assert typical(lambda each: each.method) < typical(lambda each: each.rectangle)
    within = [each.error <= each.floor + 0.005 for each in found]
    assert np.mean(within) >= 0.95


def test_the_same_seed_is_the_same_trace(cases):
    one, other = (traces.outcomes_of(cases["RAPL"], 2, seed=3) for _ in range(2))
    assert [each.error for each in one] == [each.error for each in other]


@pytest.mark.parametrize("name", ["INA3221 Orin Nano", "NVML counter"])
def test_a_truth_without_ripple_is_integrated_to_its_floor(cases, name):
    """A constant power through a sensor without offset and gain: what is left is steps and edges."""
    case = cases[name]
    random = np.random.default_rng(5)
    run = traces.run_of(case, random)
    seconds = (np.arange(len(run.truth.watts)) + 0.5) * STEP_S
    begin, end = run.windows[0][0] - 0.3, run.windows[-1][1] + 0.3
    steady = truth_of(np.where((seconds > begin) & (seconds < end), 12.0, 4.0))
    plain = traces.Run(truth=steady, windows=run.windows, idle=run.idle)
    readings = traces.readings_of(case, plain, random, exact=True)
    found = energy.analyse(case.sensor, *traces.answers_of(plain, readings)).energy
    assert isinstance(found.gross, Samples)
    step = 0.5 * 40e-6 / 0.005 * 5.0 / 12.0 + 0.0008 if case.rails else 0.0
    assert np.mean(found.gross.values) == pytest.approx(plain.gross_j(), rel=step + 0.002)


def test_the_committed_table_is_of_every_sensor_and_says_what_was_promised(cases):
    rows = read_rows(COMMITTED)
    assert [row["sensor"] for row in rows] == list(cases)
    for row in rows:
        assert int(row["traces"]) >= 1000
        for part in ("gross", "idle", "net"):
            assert float(row[f"{part}_covered_percent"]) >= 95, row["sensor"]
            # An interval that is just right for 99 % would need a factor of 1.
            assert float(row[f"{part}_needed_for_99"]) >= 1, row["sensor"]
