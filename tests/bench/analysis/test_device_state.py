import sys

import pytest

from edgekd.bench.agent import state_sampler
from edgekd.bench.analysis.device_state import clocks_of, temperatures_of, warnings_of_clocks
from edgekd.bench.protocol.responses import StatesResponse
from edgekd.records import Range


def states(**changes):
    return StatesResponse(
        **{
            "event": "state",
            "at_ns": (0, 10, 20, 30),
            "temperatures_c": {"cpu": (40.0, None, 44.0, 47.0)},
            "clocks_mhz": {"gpu": (306.0, 1020.0, 1000.0, None)},
            "counts": {},
            "alarms": (),
            **changes,
        }
    )


def test_temperatures_are_of_the_whole_and_clocks_of_the_timed_calls_alone():
    found = [states(), states(temperatures_c={"gpu": (None, 51.0, 52.0, None)})]
    assert temperatures_of(found) == {
        "cpu": Range(lowest=40.0, highest=47.0),
        "gpu": Range(lowest=51.0, highest=52.0),
    }
    assert clocks_of([states()], [(5, 25)]) == {"gpu": Range(lowest=1000.0, highest=1020.0)}
    assert clocks_of([states()], [(22, 28)]) == {}  # no look fell into it


def test_clocks_within_the_tolerance_are_not_doubted():
    clocks = {"gpu": Range(lowest=1000.0, highest=1020.0)}
    assert list(warnings_of_clocks(clocks, 0.05)) == []
    (warning,) = warnings_of_clocks(clocks, 0.01)
    assert "gpu between 1000 and 1020 MHz" in warning.message


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        states(clocks_mhz={"gpu": (306.0,)})


def test_looks_stay_few_and_their_columns_have_gaps_where_nothing_was_read(monkeypatch):
    monkeypatch.setattr(state_sampler, "MOST_LOOKS", 8)
    numbers = iter(range(1000))
    wholes: list[bool] = []

    def look(whole):
        number = next(numbers)
        zones = {} if number == 2 else {"cpu": 40.0 + number}
        events = {"oc1 under-voltage": 7 + number}
        alarms = ["hot"] if number == 5 else []
        wholes.append(whole)
        return {"counts": events, "alarms": alarms, "temperatures_c": zones, "clocks_mhz": {}}

    looks = state_sampler.StateSampler(look)
    for _ in range(4):
        looks.take()
    told = StatesResponse(event="state", **looks.summarize())
    assert told.temperatures_c == {"cpu": (40.0, 41.0, None, 43.0, 44.0)}
    assert told.counts == {"oc1 under-voltage": 4}
    assert told.alarms == ()
    for _ in range(95):
        looks.take()
    told = StatesResponse(event="state", **looks.summarize())
    assert len(told.at_ns) < 8
    assert told.alarms == ("hot",)
    assert told.counts == {"oc1 under-voltage": 99}
    assert wholes == [True] + [False] * 99
    assert looks.wait_s() > 4 * state_sampler.PERIOD_S
    assert sys.maxsize > told.at_ns[-1] > told.at_ns[0]


def test_looks_that_go_backwards_are_refused():
    with pytest.raises(ValueError, match="do not go forward"):
        states(at_ns=(0, 10, 10, 30))
