"""Every recipe learns: a short run of each reaches what recorded runs did, less three deviations."""

import pytest

from benchmarks.floors import CHANCE, floors, read_recorded, short_run
from edgekd.distill.recipes.catalogue import RECIPES

FLOORS = floors()
# A batch of noise tells little about a teacher that does not normalise by it, as this one does not; the
# generator of DAFL collapses in one of five runs of this length.
WITHOUT = {"noise", "dafl"}


# One with a generator and a pool, one that flows into a bank; the others take minutes together.
QUICK = {"condensed-replay", "memory-bank"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(set(RECIPES) - WITHOUT)
    ],
)
def test_a_short_run_reaches_its_floor(name, compute):
    assert short_run(name, 0, compute=compute) >= FLOORS[name]


def test_floors_come_from_five_runs_and_lie_above_chance():
    assert set(FLOORS) == set(RECIPES)
    assert all(len(values) >= 5 for values in read_recorded().values())
    assert {name for name, lowest in FLOORS.items() if lowest <= CHANCE} <= WITHOUT
