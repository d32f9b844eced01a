from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.bench.analysis import aggregate, latency_warnings
from edgekd.bench.protocol.responses import LatencyResponse, StatesResponse
from edgekd.records import Conditions, Range

QUIET = Conditions(
    machine="board",
    os="Linux",
    runtime="onnxruntime 1.31.1",
    provider="CPUExecutionProvider",
    threads=1,
    batch=1,
    warmup_s=0.5,
    warmup_runs=50,
    processes=1,
    governor="performance",
    cpu_mhz=1500.0,
    load_before=0.0,
    temperature_c=40.0,
    emulated=False,
    command=(),
)
STEADY_NS = tuple(
    1_000_000 + int(wobble) for wobble in np.random.default_rng(0).normal(0, 5000, 500)
)


def states(**changes) -> StatesResponse:
    given = {
        "event": "state",
        "at_ns": (0, 10, 20, 30),
        "temperatures_c": {"cpu": (41.0, 41.0, 42.0, 42.0)},
        "clocks_mhz": {},
        "counts": {"core throttled for heat": 0},
        "alarms": (),
    }
    return StatesResponse(**{**given, **changes})


def run(
    values_ns=STEADY_NS, *, first_ns=1_200_000, stationary=True, clock_step_ns=40
) -> LatencyResponse:
    return LatencyResponse(
        event="latency",
        begin_ns=0,
        end_ns=sum(values_ns),
        fps=None,
        late=None,
        warmup_s=0.5,
        warmup_runs=50,
        stationary=stationary,
        first_ns=first_ns,
        clock_step_ns=clock_step_ns,
        values_ns=tuple(values_ns),
    )


def conditions(**changes) -> Conditions:
    return Conditions(**{**vars(QUIET), **changes})


def codes(*runs, on=QUIET) -> set[str]:
    return {warning.code for warning in latency_warnings.warnings_of(runs, on)}


def scaled(factor) -> tuple[int, ...]:
    return tuple(round(value * factor) for value in STEADY_NS)


CASES = {
    "cold-start": ([run(first_ns=20_000_000)], QUIET),
    "not-stationary": ([run(stationary=False)], QUIET),
    "outliers": ([run([*STEADY_NS[:-8], *[1_500_000] * 8])], QUIET),
    "spread": ([run([*STEADY_NS[::2], *scaled(1.2)[::2]] * 2)], QUIET),
    "tail": ([run([*STEADY_NS[:-8], *[9_000_000] * 8])], QUIET),
    "few-samples": ([run(STEADY_NS[:20])], QUIET),
    "processes-disagree": ([run(), run(scaled(1.07))], QUIET),
    "clock": ([run(clock_step_ns=20_000)], QUIET),
    "governor": ([run()], conditions(governor="schedutil")),
    "governor-unknown": ([run()], conditions(governor=None)),
    "load": ([run()], conditions(load_before=1.4)),
    "emulated": ([run()], conditions(emulated=True)),
    "clocks-changed": (
        [run()],
        conditions(clocks_mhz={"CPU": Range(lowest=1200.0, highest=1500.0)}),
    ),
    "agent-load": ([run()], conditions(agent_load=0.2)),
}


def test_a_steady_run_on_a_quiet_machine_is_not_doubted():
    assert codes(run(), run()) == set()


@pytest.mark.parametrize("code", CASES)
def test_each_reason_raises_its_doubt(code):
    runs, on = CASES[code]
    assert code in codes(*runs, on=on)


def test_calls_that_start_late_at_a_fixed_rate_are_a_doubt():
    on_time = LatencyResponse(**{**vars(run()), "fps": 30.0, "late": 5})
    late = LatencyResponse(**{**vars(run()), "fps": 30.0, "late": 6})
    assert latency_warnings.warnings_of([run()], QUIET, [on_time]) == ()
    assert [warning.code for warning in latency_warnings.warnings_of([run()], QUIET, [late])] == [
        "late"
    ]


def test_what_the_runtime_says_is_kept_once():
    said = [replace(run(), said=("a", "b")), replace(run(), said=("a",))]
    found = latency_warnings.warnings_of(said, QUIET, [replace(run(), said=("c", "a"))])
    kept = [each.message for each in found if each.code == "runtime-warned"]
    assert kept == [f"the runtime says: {line}" for line in "abc"]


def test_throttling_and_heat_while_it_ran_are_warnings_of_a_latency_too():
    calm = states()
    assert latency_warnings.warnings_of([run()], QUIET, states=[calm, calm]) == ()
    hot = states(
        temperatures_c={"cpu": (40.0, 41.0, 44.0, 52.0)},
        counts={"core throttled for heat": 3, "oc3 instantaneous over-current": 2},
    )
    found = {
        warning.code: warning
        for warning in latency_warnings.warnings_of([run()], QUIET, states=[calm, hot])
    }
    assert set(found) == {"temperature-drift", "throttled", "over-current"}
    assert "from 41 C to 52 C" in found["temperature-drift"].message


def test_a_level_that_moves_while_timed_is_not_stationary():
    assert "not-stationary" in codes(run([*STEADY_NS, *scaled(1.1)]))


def test_what_could_not_be_read_is_not_held_against_a_run():
    assert codes(run(), on=conditions(load_before=None, cpu_mhz=None, temperature_c=None)) == set()


def test_calls_too_fast_for_the_clock_do_not_break_the_statistics():
    assert "clock" in codes(run([0] * 200, first_ns=0))


def test_every_doubt_has_advice_and_stands_in_the_documents():
    text = (Path(__file__).parents[3] / "docs" / "measuring.md").read_text()
    for runs, on in CASES.values():
        for warning in latency_warnings.warnings_of(runs, on):
            assert warning.message
            assert warning.advice
            assert f"`{warning.code}`" in text


def test_pooled_times_are_seconds_in_the_order_taken():
    samples = aggregate.pool_samples([run([3, 1]), run([2])])
    assert samples.values == pytest.approx((3e-9, 1e-9, 2e-9))
    assert samples.unit == "s"
