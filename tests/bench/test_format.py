import numpy as np
import pytest

from edgekd.bench.format import (
    brief,
    format_bytes,
    format_quantity,
    report,
    slower_int8,
)
from edgekd.records import (
    Conditions,
    Energy,
    EnergyUncertainty,
    Measurements,
    MeasurementWarning,
    Memory,
    Samples,
    Unmeasured,
)


def size(*values) -> Samples:
    return Samples(values=values, unit="B")


MEMORY = Memory(
    runtime_pss=size(40 * 2**20),
    runtime_uss=size(30 * 2**20),
    session_pss=size(2 * 2**20),
    session_uss=size(1.5 * 2**20),
    model_pss=size(4 * 2**20),
    model_uss=size(3 * 2**20),
    peak_rss=size(64 * 2**20),
)
CONDITIONS = Conditions(
    machine="Board X",
    os="Linux",
    runtime="onnxruntime 1.31.1",
    provider="CPUExecutionProvider",
    threads=1,
    batch=1,
    warmup_s=0.5,
    warmup_runs=50,
    processes=3,
    governor=None,
    cpu_mhz=1500.0,
    load_before=0.0,
    temperature_c=None,
    emulated=False,
    command=(),
)
LATENCY_S = tuple(np.linspace(0.001, 0.003, 201).tolist())
MEASURED = Measurements(
    subject="student",
    subject_digest="0" * 64,
    precision="int8",
    taken_on="Board X",
    is_target=True,
    conditions=CONDITIONS,
    warnings=(MeasurementWarning(code="load", message="busy", advice="end it"),),
    latency=Samples(values=LATENCY_S, unit="s"),
    memory=MEMORY,
    energy=Energy(
        gross=Samples(values=(0.0102, 0.0100, 0.0101), unit="J"),
        scope="module input",
        sensor="INA3221 VDD_IN",
    ),
)


def changed(**changes) -> Measurements:
    return Measurements(**{**vars(MEASURED), **changes})


def test_the_first_line_says_where_it_was_measured():
    assert report(MEASURED).splitlines()[0] == "Measured on the target: Board X"


def test_the_first_line_says_that_another_machine_is_not_the_target():
    first = report(changed(is_target=False)).splitlines()[0]
    assert "Board X" in first
    assert "none of these figures is the target's" in first


def test_figures_are_those_of_the_samples():
    text = report(MEASURED)
    for figure in ("median 2.00 ms", "p90 2.80 ms", "min 1.00 ms", "max 3.00 ms", "201 calls"):
        assert figure in text
    assert "40.0 MiB PSS, 30.0 MiB USS" in text
    assert "gross 10.1 mJ per call, idle included" in text
    assert "scope: module input" in text
    assert "load: busy; end it" in text


ENERGY = Energy(
    gross=Samples(values=(0.0102, 0.0100, 0.0101), unit="J"),
    idle=Samples(values=(0.004, 0.004, 0.004), unit="J"),
    net=Samples(values=(0.0062, 0.0060, 0.0061), unit="J"),
    uncertainty=EnergyUncertainty(gross_j=0.0002, idle_j=0.0001, net_j=0.00008),
    scope="module input",
    sensor="INA3221 VDD_IN",
    rate_hz=39.6,
    window_s=10.0,
    idle_before_w=3.01,
    idle_after_w=3.04,
)


def test_energy_is_told_with_its_interval_rate_and_idle_power():
    text = report(changed(energy=ENERGY))
    assert "gross 10.1 mJ ± 200 uJ per call, idle included" in text
    assert "idle  4.00 mJ ± 100 uJ per call" in text
    assert "net   6.10 mJ ± 80.0 uJ per call" in text
    assert "3 windows of 10.0 s, 39.6 fresh readings per second" in text
    assert "idle 3.01 W before, 3.04 W after" in text
    assert "at least 95 % of runs" in text


def test_an_estimate_is_called_one_wherever_it_stands():
    estimate = changed(energy=Energy(**{**vars(ENERGY), "kind": "estimate", "uncertainty": None}))
    text = report(estimate)
    assert text.count("estimate, not measured: ") == 3
    assert "±" not in text
    assert "estimate, not measured: 10.1 mJ" in brief(estimate)
    assert "estimate" not in report(changed(energy=ENERGY))


def test_the_same_measurements_are_the_same_report():
    assert report(MEASURED) == report(MEASURED)


@pytest.mark.parametrize(
    "measurements",
    [
        changed(latency=Unmeasured(reason="because")),
        changed(energy=Unmeasured(reason="because")),
        changed(energy=Energy(gross=Unmeasured(reason="because"), scope="s", sensor="s")),
        changed(memory=Memory(**{**vars(MEMORY), "runtime_pss": Unmeasured(reason="because")})),
        changed(memory=Memory(**{**vars(MEMORY), "model_uss": Unmeasured(reason="because")})),
        changed(memory=Memory(**{**vars(MEMORY), "peak_rss": Unmeasured(reason="because")})),
    ],
)
def test_what_was_not_measured_says_why_and_is_no_zero(measurements):
    assert report(measurements).count("not measured: because") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00 s"),
        (1.5, "1.50 s"),
        (0.0123, "12.3 ms"),
        (0.00045, "450 us"),
        (3.2e-8, "32.0 ns"),
        (1e-12, "0.00 ns"),
        (-0.002, "-2.00 ms"),
        (61.0, "61.0 s"),
    ],
)
def test_units_are_chosen_by_size(value, text):
    assert format_quantity(value, "s") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1536, "1.50 KiB"), (-(2**20), "-1.00 MiB"), (3 * 2**30, "3.00 GiB")],
)
def test_bytes_are_binary(value, text):
    assert format_bytes(value) == text


def timed(precision, *seconds, **changes):
    return changed(
        subject=f"model-{precision}.onnx",
        precision=precision,
        latency=Samples(values=seconds * 40, unit="s"),
        **changes,
    )


def test_int8_that_is_slower_is_said_with_what_to_ship():
    taken = (timed("fp32", 0.0011, 0.0012), timed("fp16", 0.0009), timed("int8", 0.0014, 0.0015))
    (line,) = slower_int8(taken)
    assert "slower than FP16 on the target" in line
    assert "model-int8.onnx takes 1.45 ms" in line
    assert "model-fp16.onnx 900 us" in line
    assert "--no-int8" in line


def test_of_another_machine_than_the_target_nothing_is_advised():
    taken = (timed("fp32", 0.001, is_target=False), timed("int8", 0.002, is_target=False))
    (line,) = slower_int8(taken)
    assert "on Board X" in line
    assert "--no-int8" not in line


@pytest.mark.parametrize(
    "taken",
    [
        pytest.param([timed("fp32", 0.002), timed("int8", 0.001)], id="faster"),
        pytest.param(
            [timed("fp32", 0.0010, 0.0012), timed("int8", 0.0010, 0.00121)], id="within doubt"
        ),
        pytest.param([timed("fp32", 0.001)], id="no INT8"),
        pytest.param([timed("int8", 0.001)], id="INT8 alone"),
        pytest.param(
            [timed("fp32", 0.001, device="ssh://a"), timed("int8", 0.002, device="ssh://b")],
            id="two boards",
        ),
        pytest.param(
            [timed("fp32", 0.001), changed(latency=Unmeasured(reason="no clock"))],
            id="not measured",
        ),
    ],
)
def test_nothing_is_said_of_int8_that_is_no_slower_beyond_doubt(taken):
    assert list(slower_int8(taken)) == []
