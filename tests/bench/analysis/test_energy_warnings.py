from pathlib import Path

import pytest

from edgekd.bench.analysis.energy import Analysis, analyse
from edgekd.bench.analysis.energy_warnings import warnings_of_energy
from edgekd.bench.analysis.energy_windows import Quality
from edgekd.bench.protocol.responses import StatesResponse
from tests.bench.analysis.test_energy import RUN, STATE, power, sensor

GOOD = analyse(sensor(), power(), RUN)


def changed(record, **changes):
    return type(record)(**{**vars(record), **changes})


def quality(**changes) -> Analysis:
    assert isinstance(GOOD.quality, Quality)
    return Analysis(energy=GOOD.energy, quality=changed(GOOD.quality, **changes))


def state(**changes):
    return changed(STATE, **changes)


def run(before=STATE, after=STATE, **changes):
    return changed(RUN, before=before, after=after, **changes)


def warnings(found=GOOD, told=None, ran=RUN, by=None, clocks=None):
    begin_ns, end_ns = ran.windows[0].begin_ns, ran.windows[-1].end_ns
    states = StatesResponse(
        event="state",
        at_ns=(begin_ns - 1, (begin_ns + end_ns) // 2, end_ns + 1),
        temperatures_c={},
        clocks_mhz=clocks or {},
        counts={},
        alarms=(),
    )
    return warnings_of_energy(found, by or sensor(), told or power(), ran, states)


ESTIMATE = sensor(kind="estimate")
CASES = {
    "over-current": warnings(
        ran=run(
            state(counts={"oc3 instantaneous over-current": 5}),
            state(counts={"oc3 instantaneous over-current": 65}),
        )
    ),
    "throttled": warnings(ran=run(after=state(alarms=("under-voltage",)))),
    "temperature-drift": warnings(
        ran=run(state(temperatures_c={"cpu": 50.0}), state(temperatures_c={"cpu": 56.0}))
    ),
    "clocks-changed": warnings(
        ran=run(state(clocks_mhz={"gpu": 1300.0}), state(clocks_mhz={"gpu": 918.0}))
    ),
    "estimate": warnings(analyse(ESTIMATE, power(), RUN), by=ESTIMATE),
    "sampler-load": warnings(told=power(load=0.3)),
    "energy-rate": warnings(quality(rate_hz=12.0)),
    "energy-gap": warnings(quality(longest_gap_s=0.7)),
    "energy-repeats": warnings(quality(repeats=0.8)),
    "energy-steps": warnings(quality(undithered=True, step_share=0.02)),
    "energy-window": warnings(quality(shortest_s=1.0, needed_s=2.05)),
    "energy-spread": warnings(quality(windows_j=(0.08, 0.09, 0.08))),
    "idle-drift": warnings(quality(idle_drift=0.05)),
}


def test_a_good_run_is_not_doubted():
    random_free = quality(repeats=0.0)
    assert warnings(random_free) == ()


@pytest.mark.parametrize("code", CASES)
def test_each_reason_raises_its_doubt_and_no_other(code):
    assert {warning.code for warning in CASES[code]} - {"energy-repeats"} == {code} - {
        "energy-repeats"
    }
    assert code in {warning.code for warning in CASES[code]}


def test_every_doubt_has_advice_and_stands_in_the_documents():
    text = (Path(__file__).parents[3] / "docs" / "measuring.md").read_text()
    for found in CASES.values():
        for warning in found:
            assert warning.message
            assert warning.advice
            assert f"`{warning.code}`" in text


def test_over_current_is_told_as_a_rate_and_its_worse_kinds_as_such():
    (mild,) = CASES["over-current"][:1]
    assert "60 times (2.0 per second)" in mild.message
    assert "protected itself" not in mild.message
    (worse, *_) = warnings(
        ran=run(state(counts={"oc1 under-voltage": 0}), state(counts={"oc1 under-voltage": 1}))
    )
    assert "protected itself" in worse.message


def test_what_happened_before_the_run_is_not_held_against_it():
    old = state(counts={"oc2 average over-current": 7, "core throttled for heat": 3})
    assert {warning.code for warning in warnings(ran=run(old, old))} <= {"energy-repeats"}


def test_a_count_that_is_new_is_not_taken_for_events():
    after = state(counts={"core throttled for heat": 3})
    assert {warning.code for warning in warnings(ran=run(after=after))} <= {"energy-repeats"}


def test_steps_that_are_small_are_not_worth_a_doubt():
    assert warnings(quality(repeats=0.0, undithered=True, step_share=0.001)) == ()


def test_an_energy_without_readings_is_still_of_a_board_in_some_state():
    missing = Analysis(energy=GOOD.energy, quality=None)
    assert warnings(missing) == ()
    heated = run(state(temperatures_c={"cpu": 50.0}), state(temperatures_c={"cpu": 60.0}))
    assert [warning.code for warning in warnings(missing, ran=heated)] == ["temperature-drift"]


def test_a_clock_that_fell_within_the_windows_alone_is_seen():
    same = run(state(clocks_mhz={"gpu": 1300.0}), state(clocks_mhz={"gpu": 1300.0}))
    plain = warnings(ran=same, clocks={"gpu": (306.0, 1300.0, 306.0)})
    assert "clocks-changed" not in {warning.code for warning in plain}
    (warning,) = set(warnings(ran=same, clocks={"gpu": (1300.0, 918.0, 1300.0)})) - set(plain)
    assert warning.code == "clocks-changed"
    assert "gpu between 918 and 1300 MHz" in warning.message
