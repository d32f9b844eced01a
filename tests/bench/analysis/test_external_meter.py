import numpy as np
import pytest

from edgekd.bench.analysis import energy
from edgekd.bench.analysis.external_meter import Meter, align, energy_from_log
from edgekd.bench.analysis.meter_log import MeterLog
from edgekd.errors import InputFileError
from edgekd.records import PowerTrace, Samples
from tests.bench.analysis.test_energy import IDLE_W, LOAD_W, RUN

METER = Meter(name="bench supply", scope="5 V input", offset_w=0.005, gains=(0.001,))


@pytest.fixture
def trace() -> PowerTrace:
    waiting = energy.without_sensor(RUN).trace
    assert waiting is not None
    return waiting


def log_of(trace, *, offset_s=7.3, rate_hz=1000.0, tail_s=5.0, again=False) -> MeterLog:
    """What a meter whose clock is that far off would have seen of the run, warm-up included."""
    random = np.random.default_rng(0)
    seconds = np.arange(0, offset_s + trace.idle[1].end_s + tail_s, 1 / rate_hz)
    board_s = seconds - offset_s
    busy = (board_s >= trace.busy.begin_s) & (board_s < trace.busy.end_s)
    warming = (board_s >= -4) & (board_s < -1.5)
    watts = np.where(busy | warming, LOAD_W, IDLE_W) + random.normal(0, 0.2, len(seconds))
    if again:
        seconds = np.concatenate([seconds, seconds + seconds[-1] + 1 / rate_hz])
        watts = np.concatenate([watts, watts])
    return MeterLog(seconds=seconds, watts=watts)


@pytest.mark.parametrize("rate_hz", [50.0, 1000.0, 5000.0])
@pytest.mark.parametrize("offset_s", [7.3, 61.7])
def test_the_clock_of_a_meter_is_found_to_a_reading(trace, offset_s, rate_hz):
    found = align(log_of(trace, offset_s=offset_s, rate_hz=rate_hz), trace)
    assert found.offset_s == pytest.approx(offset_s, abs=2 / min(rate_hz, 1000))
    assert found.correlation > 0.99
    assert found.rival < 0.7


def test_the_energy_is_that_of_the_power_that_was_logged(trace):
    found, placed = energy_from_log(trace, log_of(trace), METER)
    assert isinstance(found.energy.gross, Samples)
    assert isinstance(found.energy.net, Samples)
    assert np.mean(found.energy.gross.values) == pytest.approx(LOAD_W / 100, rel=1e-3)
    assert np.mean(found.energy.net.values) == pytest.approx((LOAD_W - IDLE_W) / 100, rel=2e-3)
    assert found.energy.scope == "5 V input"
    assert found.energy.uncertainty is not None
    # The meter's offset is 0.06 % of the power, its gain 0.1 %.
    assert 0 < found.energy.uncertainty.gross_j < 0.003 * LOAD_W / 100
    assert placed.step_s == pytest.approx(0.001)


def test_a_log_that_starts_after_the_first_idle_time_is_refused(trace):
    whole = log_of(trace)
    late = whole.seconds > 12.0
    with pytest.raises(InputFileError, match=r"Log all of it|Nothing in the log"):
        align(MeterLog(seconds=whole.seconds[late] - 12.0, watts=whole.watts[late]), trace)


def test_a_log_of_two_runs_is_ambiguous(trace):
    with pytest.raises(InputFileError, match="Two places in the log"):
        align(log_of(trace, again=True), trace)


@pytest.mark.parametrize(
    "watts", [np.full(80_000, 3.0), np.random.default_rng(0).normal(3, 1, 80_000)]
)
def test_a_log_in_which_nothing_runs_is_refused(trace, watts):
    with pytest.raises(InputFileError, match="Nothing in the log"):
        align(MeterLog(seconds=np.arange(80_000) / 1e3, watts=watts), trace)


def test_a_log_that_is_too_short_is_refused(trace):
    with pytest.raises(InputFileError, match="Log all of it"):
        align(MeterLog(seconds=np.arange(100) / 1e3, watts=np.ones(100)), trace)


def test_a_run_without_idle_times_cannot_be_found(trace):
    bare = PowerTrace(seconds=(), watts=(), windows=trace.windows, idle=(), busy=trace.busy)
    with pytest.raises(InputFileError, match="no idle times"):
        align(log_of(trace), bare)
