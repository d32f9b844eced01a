import pytest

from edgekd.bench.analysis.meter_log import LogColumns, read_log
from edgekd.errors import InputFileError


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
