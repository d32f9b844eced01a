import numpy as np
import pytest

from edgekd.bench.analysis import energy
from edgekd.bench.analysis.external_meter import (
    LogColumns,
    Meter,
    MeterLog,
    align,
    energy_from_log,
    read_log,
)
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


# --- logs -----------------------------------------------------------------------------------------


def write(tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "time (s),power (W)\n0,2\n1,4\n2,6\n",
        "Timestamp [ms];Power [mW]\n100;2000\n1100;4000\n2100;6000\n",
        "time_us\tcurrent_mA\tvoltage_V\n0\t400\t5\n1000000\t800\t5\n2000000\t1200\t5\n",
        "# a logger\n\ntime (s),current (A),voltage (V)\n5,0.4,5\n6,0.8,5\n7,1.2,5\n",
        "time (s),current (A),voltage (V),power (W)\n5,9,9,2\n6,9,9,4\n7,9,9,6\n",
        '"Time (s)","Power (W)"\n0,2\n1,4\n2,6\n',
    ],
)
def test_logs_of_many_loggers_are_read_in_seconds_and_watts(tmp_path, text):
    log = read_log(write(tmp_path, text))
    assert log.seconds.tolist() == pytest.approx([0, 1, 2])
    assert log.watts.tolist() == pytest.approx([2, 4, 6])


def test_what_a_header_does_not_say_may_be_given(tmp_path):
    path = write(tmp_path, "a,b,c\n0,400,x1\n1000,800,x2\n")
    with pytest.raises(InputFileError, match="no column of times among a, b, c"):
        read_log(path)
    columns = LogColumns(time="a", time_unit="ms", current="b", current_unit="mA", volts=5.0)
    log = read_log(path, columns)
    assert log.seconds.tolist() == pytest.approx([0, 1])
    assert log.watts.tolist() == pytest.approx([2, 4])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("time (s),power (W)\n0,2\n", "at least two readings"),
        ("time (s),power (hp)\n0,2\n1,2\n", "unit of 'power"),
        ("time,power (W)\n0,2\n1,2\n", "unit of 'time'"),
        ("time (s),current (A)\n0,2\n1,2\n", "neither a power nor a current with a voltage"),
        ("time (s),power 1 (W),power 2 (W)\n0,2,3\n1,2,3\n", "may be power 1"),
        ("time (s),power (W)\n0,2\n0,2\n", "does not rise"),
        ("time (s);power (W)\n0;2,5\n1;2,5\n", "Decimal points"),
        ("time (s),power (W)\n0,2\n1\n", "no numbers"),
        ("time (s),power (W)\n0,2\n1,nan\n", "not finite"),
    ],
)
def test_what_is_no_log_is_refused_with_what_is_wrong(tmp_path, text, reason):
    with pytest.raises(InputFileError, match=reason):
        read_log(write(tmp_path, text))


def test_what_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(InputFileError, match="No such file"):
        read_log(tmp_path / "none.csv")
    (tmp_path / "log.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFileError, match="not a text file"):
        read_log(tmp_path / "log.csv")


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputFileError, match="no column 'P'; there are time"):
        read_log(write(tmp_path, "time (s),power (W)\n0,2\n1,2\n"), LogColumns(power="P"))


# --- logs without a header ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("time_s,power_w", "0,2\n1,4\n2,6\n"),
        ("time_s,voltage_v,current_a", "0.000, 5.000, 0.4\n1,5,0.8\n2,5,1.2\n"),
        ("-,time_ms,-,current_ma,voltage_v", "x;0;on;400;5\nx;1000;on;800;5\nx;2000;;1200;5\n"),
    ],
)
def test_a_log_without_a_header_is_read_by_the_names_that_are_given(tmp_path, names, text):
    log = read_log(write(tmp_path, text), LogColumns(header=tuple(names.split(","))))
    assert log.seconds.tolist() == pytest.approx([0, 1, 2])
    assert log.watts.tolist() == pytest.approx([2, 4, 6])


@pytest.mark.parametrize(
    ("names", "text", "reason"),
    [
        ("time_s", "0,2\n1,4\n", "--columns names 1 columns, and the first line has 2: 0, 2"),
        ("time_s,power_w", "time (s),power (W)\n0,2\n1,4\n", "If it is a header, leave out"),
        ("time_s,colour", "0,2\n1,4\n", "'colour' is no time, power"),
        ("time_s,power", "0,2\n1,4\n", "the unit of 'power' is not known"),
        ("time_s,time_ms", "0,2\n1,4\n", "time may be time_s or time_ms"),
        ("-,power_w", "0,2\n1,4\n", "no column of times"),
        ("time_s,power_w", "0,2\n", "at least two readings are needed"),
    ],
)
def test_names_that_do_not_fit_the_log_are_refused(tmp_path, names, text, reason):
    with pytest.raises(InputFileError, match=reason):
        read_log(write(tmp_path, text), LogColumns(header=tuple(names.split(","))))


def test_a_log_without_a_header_says_how_its_columns_are_named(tmp_path):
    with pytest.raises(InputFileError, match=r"no header, .* --columns time_s,voltage_v,current_a"):
        read_log(write(tmp_path, "0.000,5.020,0.4062\n1,5,0.4\n2,5,0.4\n"))
