import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgekd.bench.analysis import energy
from edgekd.bench.analysis.energy import analyse
from edgekd.bench.analysis.energy_windows import minimum_window_s
from edgekd.bench.protocol.responses import (
    ChannelResponse,
    EnergyResponse,
    PowerResponse,
    SensorResponse,
    SpanResponse,
    StateResponse,
    read_answer,
)
from edgekd.errors import DeviceError
from edgekd.records import (
    Energy,
    EnergyUncertainty,
    PowerTrace,
    Samples,
    Unmeasured,
    from_json,
    to_json,
)

IDLE_W, LOAD_W = 3.0, 8.0
STATE = StateResponse(counts={}, alarms=(), temperatures_c={}, clocks_mhz={})
RUN = EnergyResponse(
    event="energy",
    windows=tuple(
        SpanResponse(begin_ns=int(begin * 1e9), end_ns=int((begin + 10) * 1e9), runs=1000)
        for begin in (14, 24, 34)
    ),
    idle=(
        SpanResponse(begin_ns=2 * 10**9, end_ns=12 * 10**9, runs=0),
        SpanResponse(begin_ns=46 * 10**9, end_ns=56 * 10**9, runs=0),
    ),
    busy=SpanResponse(begin_ns=13 * 10**9, end_ns=45 * 10**9, runs=0),
    before=STATE,
    after=STATE,
    pinned=True,
)


def channel(**changes) -> ChannelResponse:
    usual: dict[str, Any] = {
        "label": "VDD_IN", "unit": "mW", "offset_w": 0.08, "gains": (0.01,), "quantum": 0.0, "range": None,
    }  # fmt: skip
    return ChannelResponse(**(usual | changes))


def sensor(*channels, **changes) -> SensorResponse:
    usual: dict[str, Any] = {
        "event": "sensor", "name": "meter", "scope": "module", "kind": "power",
        "channels": channels or (channel(),), "interval_s": 0.01, "period_s": 0.025,
        "settle_s": 0.0, "scale": 1.0, "constant_w": 0.0,
    }  # fmt: skip
    return SensorResponse(**(usual | changes))


def power(*columns, times=None, **changes) -> PowerResponse:
    moments = np.arange(0, 58, 0.025) if times is None else times
    stamps = tuple(int(each) for each in moments * 1e9)
    usual: dict[str, Any] = {
        "event": "power", "begin_ns": stamps, "end_ns": stamps,
        "values": columns or (tuple(shape(moments).tolist()),), "millivolts": (None,) * max(len(columns), 1),
        "dropped": 0, "missed": 0, "problems": (), "load": 0.01,
    }  # fmt: skip
    return PowerResponse(**(usual | changes))


def shape(moments, idle_w=IDLE_W, load_w=LOAD_W):
    """Milliwatts."""
    return np.where((moments >= 13) & (moments < 45), load_w, idle_w) * 1e3


def joules(figure) -> float:
    assert isinstance(figure, Samples)
    return float(np.mean(figure.values))


def test_gross_idle_and_net_of_a_known_power():
    found = analyse(sensor(), power(), RUN).energy
    assert joules(found.gross) == pytest.approx(LOAD_W * 10 / 1000)
    assert joules(found.idle) == pytest.approx(IDLE_W * 10 / 1000)
    assert joules(found.net) == pytest.approx((LOAD_W - IDLE_W) * 10 / 1000)
    assert found.idle_before_w == pytest.approx(IDLE_W)
    assert found.idle_after_w == pytest.approx(IDLE_W)
    assert found.window_s == pytest.approx(10.0)
    assert found.kind == "measured"


def test_an_offset_cancels_in_the_net_energy_and_a_gain_does_not():
    told = analyse(sensor(), power(), RUN).energy.uncertainty
    assert told is not None
    call_s = 0.01
    assert told.net_j == pytest.approx(0.97 * 0.01 * (LOAD_W - IDLE_W) * call_s, rel=0.02)
    assert told.gross_j > 0.97 * 0.08 * call_s
    only_offset = analyse(sensor(channel(gains=())), power(), RUN).energy.uncertainty
    assert only_offset is not None
    assert only_offset.net_j == pytest.approx(0.0, abs=1e-6)
    assert only_offset.gross_j == pytest.approx(0.97 * 0.08 * call_s, rel=0.02)


def test_a_rail_has_its_own_bounds():
    moments = np.arange(0, 58, 0.025)
    columns = [tuple((shape(moments) * share).tolist()) for share in (0.5, 0.5)]
    two = sensor(channel(offset_w=0.0), channel(offset_w=0.0))
    one = analyse(sensor(channel(offset_w=0.0)), power(), RUN).energy
    both = analyse(two, power(*columns), RUN).energy
    assert joules(both.gross) == pytest.approx(joules(one.gross))
    assert one.uncertainty is not None
    assert both.uncertainty is not None
    # Two independent halves: a triangle instead of a rectangle, so narrower, but not by a half.
    ratio = both.uncertainty.gross_j / one.uncertainty.gross_j
    assert 0.8 < ratio < 0.9


def test_currents_are_multiplied_with_their_voltages():
    moments = np.arange(0, 58, 0.025)
    milliamperes = tuple((shape(moments) / 5.0).tolist())
    volts = (5000.0,) * len(moments)
    found = analyse(
        sensor(channel(unit="mA")), power(milliamperes, millivolts=(volts,)), RUN
    ).energy
    assert joules(found.gross) == pytest.approx(LOAD_W * 10 / 1000)


def test_a_quiet_load_on_one_step_is_off_by_up_to_half_of_it():
    step = channel(offset_w=0.0, gains=(), quantum=0.4)
    quiet = analyse(sensor(step), power(), RUN)
    assert quiet.energy.uncertainty is not None
    assert quiet.energy.uncertainty.gross_j == pytest.approx(0.97 * 0.2 * 0.01, rel=0.02)
    assert quiet.quality is not None
    assert quiet.quality.undithered
    random = np.random.default_rng(0)
    moments = np.arange(0, 58, 0.025)
    noisy = shape(moments) + random.normal(0, 600, len(moments))
    noisy = tuple((np.round(noisy / 400) * 400).tolist())
    dithered = analyse(sensor(step), power(noisy), RUN)
    assert dithered.quality is not None
    assert not dithered.quality.undithered
    assert dithered.energy.uncertainty is not None
    assert dithered.energy.uncertainty.gross_j < quiet.energy.uncertainty.gross_j / 3
    assert joules(dithered.energy.gross) == pytest.approx(LOAD_W / 100, abs=2 * 0.0003)


def test_idle_power_that_drifts_widens_the_net_interval():
    moments = np.arange(0, 58, 0.025)
    drifting = shape(moments) + np.where(moments > 45, 500, 0)
    plain = sensor(channel(offset_w=0.0, gains=()))
    found = analyse(plain, power(tuple(drifting.tolist())), RUN)
    assert found.energy.uncertainty is not None
    assert found.energy.uncertainty.net_j == pytest.approx(0.97 * 0.25 * 0.01, rel=0.02)
    assert found.quality is not None
    assert found.quality.idle_drift == pytest.approx(0.5 / 4.75, rel=0.01)


def test_windows_that_differ_by_more_than_noise_widen_the_interval():
    moments = np.arange(0, 58, 0.025)
    differing = shape(moments) + np.where((moments >= 24) & (moments < 34), 1000, 0)
    plain = sensor(channel(offset_w=0.0, gains=()))
    found = analyse(plain, power(tuple(differing.tolist())), RUN).energy
    assert found.uncertainty is not None
    spread_j = float(np.std([0.08, 0.09, 0.08], ddof=1)) / 3**0.5
    assert found.uncertainty.gross_j == pytest.approx(4.303 * spread_j * 2.17 / 1.96, rel=0.03)


def test_repeated_readings_count_for_the_rate_and_not_for_the_energy():
    moments = np.arange(0, 58, 0.025)
    random = np.random.default_rng(0)
    fresh = np.repeat(random.normal(0, 100, len(moments) // 4 + 1), 4)[: len(moments)]
    found = analyse(sensor(), power(tuple((shape(moments) + fresh).tolist())), RUN)
    assert found.energy.rate_hz == pytest.approx(10, rel=0.05)
    assert found.quality is not None
    assert found.quality.rate_hz == pytest.approx(40, rel=0.01)
    assert found.quality.repeats == pytest.approx(0.75, abs=0.01)


def test_lost_readings_are_bridged_and_told():
    moments = np.arange(0, 58, 0.025)
    kept = (moments < 20) | (moments > 21.5)
    found = analyse(sensor(), power(times=moments[kept]), RUN)
    assert joules(found.energy.gross) == pytest.approx(LOAD_W / 100)
    assert found.quality is not None
    assert found.quality.longest_gap_s == pytest.approx(1.55, abs=0.03)


def test_a_counter_over_its_wrap():
    moments = np.arange(0, 58, 0.1)
    total_uj = np.cumsum(np.append(0, np.diff(moments) * shape(moments)[:-1] * 1e3))
    counts = tuple(np.round((total_uj + 1.9e8) % 2e8).tolist())
    counter = sensor(
        channel(unit="uJ", offset_w=0.0, gains=(0.05,), range=200_000_000),
        kind="counter", interval_s=0.001, period_s=0.1,
    )  # fmt: skip
    found = analyse(counter, power(counts, times=moments), RUN).energy
    assert joules(found.gross) == pytest.approx(LOAD_W / 100, rel=1e-3)
    assert joules(found.net) == pytest.approx((LOAD_W - IDLE_W) / 100, rel=1e-3)


def test_a_counter_that_stands_still_is_not_zero_energy():
    moments = np.arange(0, 58, 0.1)
    counter = sensor(channel(unit="uJ", range=10**9), kind="counter", period_s=0.1)
    found = analyse(counter, power((5.0,) * len(moments), times=moments), RUN).energy
    assert isinstance(found.gross, Unmeasured)
    assert "did not move" in found.gross.reason


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (np.array([]), "read 0 times: gone"),
        (np.arange(0, 40, 0.025), "stopped before the windows ended: gone"),
    ],
)
def test_a_sensor_that_stopped_says_why_and_is_no_zero(times, reason):
    found = analyse(sensor(), power(times=times, problems=("gone",)), RUN)
    assert found.quality is None
    assert isinstance(found.energy.gross, Unmeasured)
    assert reason in found.energy.gross.reason


def test_an_estimate_is_marked_and_its_interval_is_not_known():
    estimate = sensor(channel(offset_w=0.0), kind="estimate", scale=1.1451, constant_w=0.5879)
    found = analyse(estimate, power(), RUN).energy
    assert found.kind == "estimate"
    assert found.uncertainty is None
    assert joules(found.gross) == pytest.approx((1.1451 * LOAD_W + 0.5879) / 100)
    assert joules(found.net) == pytest.approx(1.1451 * (LOAD_W - IDLE_W) / 100)


def test_the_trace_holds_every_reading_and_when_the_model_ran():
    trace = analyse(sensor(), power(), RUN).energy.trace
    assert trace is not None
    assert len(trace.seconds) == 2320
    assert trace.watts[0] == IDLE_W
    assert [(window.begin_s, window.runs) for window in trace.windows] == [
        (14.0, 1000), (24.0, 1000), (34.0, 1000),
    ]  # fmt: skip
    assert trace.busy is not None


def test_a_trace_that_is_too_long_is_thinned_to_means():
    moments = np.arange(0, 58, 0.001)
    trace = analyse(sensor(period_s=0.001), power(times=moments), RUN).energy.trace
    assert trace is not None
    assert 18_000 < len(trace.seconds) <= energy.MOST_POINTS
    assert max(trace.watts) == pytest.approx(LOAD_W)


def test_an_energy_survives_being_written():
    found = analyse(sensor(), power(), RUN).energy
    assert from_json(Energy, to_json(found), origin="energy.json") == found


def test_an_energy_of_before_is_still_read():
    old = {
        "gross": {"kind": "samples", "values": [0.01], "unit": "J"},
        "scope": "module", "sensor": "INA3221 VDD_IN",
    }  # fmt: skip
    found = from_json(Energy, json.dumps(old), origin="old.json")
    assert isinstance(found.net, Unmeasured)
    assert found.uncertainty is None


def test_a_trace_of_different_lengths_is_no_trace():
    with pytest.raises(ValueError, match="1 times and 0 powers"):
        PowerTrace(seconds=(1.0,), watts=(), windows=(), idle=())
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        EnergyUncertainty(gross_j=-1.0, idle_j=None, net_j=None)


def test_the_window_rule():
    assert minimum_window_s(0.1, counter=False) == pytest.approx(8.2)
    assert minimum_window_s(0.02, counter=False) == pytest.approx(1.64)
    assert minimum_window_s(0.1, counter=True) == 10.0


# --- hostile answers ------------------------------------------------------------------------------


def test_a_clock_that_steps_back_is_a_device_error():
    moments = np.arange(0, 58, 0.025)
    moments[1000:] -= 3.0
    with pytest.raises(DeviceError, match="steps back"):
        analyse(sensor(), power(times=moments), RUN)


def test_readings_of_another_sensor_are_a_device_error():
    moments = np.arange(0, 58, 0.025)
    column = tuple(shape(moments).tolist())
    with pytest.raises(DeviceError, match="1 channels, its readings 2"):
        analyse(sensor(), power(column, column), RUN)
    with pytest.raises(DeviceError, match="gives uJ"):
        analyse(sensor(channel(unit="uJ")), power(), RUN)
    with pytest.raises(DeviceError, match="counts mW"):
        analyse(sensor(kind="counter"), power(), RUN)
    with pytest.raises(DeviceError, match="wrong voltages"):
        analyse(sensor(channel(unit="mA")), power(), RUN)


def line(answer, **changes) -> bytes:
    return to_json(replace(answer, **changes)).replace("\n", "").encode()


def test_answers_survive_their_own_line():
    for answer in (RUN, power(), sensor()):
        assert read_answer(line(answer), 1) == answer


@pytest.mark.parametrize(
    ("answer", "was", "becomes"),
    [
        (RUN, '"runs": 1000', '"runs": 0'),
        (RUN, '"begin_ns": 14000000000', '"begin_ns": 60000000000'),
        (RUN, '"begin_ns": 13000000000', '"begin_ns": 15000000000'),
        (RUN, '"pinned": true', '"pinned": 1'),
        (power(), '"begin_ns": [ 0,', '"begin_ns": ['),
        (power(), '"begin_ns": [ 0,', '"begin_ns": [ -1,'),
        (power(), '"load": 0.01', '"load": -1'),
        (power(), '"millivolts": [ null ]', '"millivolts": [ null, null ]'),
        (sensor(), '"scale": 1.0', '"scale": 0'),
        (sensor(), '"interval_s": 0.01', '"interval_s": NaN'),
        (sensor(), '"gains": [ 0.01 ]', '"gains": [ 2 ]'),
        (sensor(), '"kind": "power"', '"kind": "guess"'),
    ],
)
def test_answers_that_cannot_be_are_refused(answer, was, becomes):
    told = " ".join(to_json(answer).split())
    assert told.count(was) >= 1
    with pytest.raises(DeviceError, match="nonsense"):
        read_answer(told.replace(was, becomes).encode(), 1)
