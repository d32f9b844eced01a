import json
import sys

import numpy as np
import pytest

from benchmarks.bench import boards
from edgekd.bench import runner
from edgekd.bench.config import BenchConfig
from edgekd.bench.protocol import requests
from edgekd.bench.protocol.responses import PROTOCOL, Response
from edgekd.bench.transport import agent_access, agent_process
from edgekd.errors import DeviceError, IncompatibleError, InputFileError
from edgekd.files import digest_of
from edgekd.records import (
    Energy,
    Measurements,
    Samples,
    Unmeasured,
    from_json,
    to_json,
)
from tests.bench.conftest import save_convolution

QUICK = BenchConfig(
    processes=2,
    seconds=0.05,
    warmup_min_s=0.01,
    warmup_max_s=0.2,
    memory_processes=1,
    energy_windows=2,
    energy_window_s=0.05,
    energy_idle_s=0.05,
)


def quick(**changes) -> BenchConfig:
    return BenchConfig(**{**vars(QUICK), **changes})


def measured(model, config=QUICK, agent=agent_access.AGENT) -> Measurements:
    (found,) = runner.measure(
        [runner.Subject(model, "fp32", "tiny")],
        is_target=lambda _: False,
        access=agent_access.LocalAccess(agent),
        config=config,
    )
    return found


def ask_latency(model, config) -> list[Response]:
    inputs = None if config.inputs is None else str(config.inputs)
    placed = requests.UploadedModel(str(model), None, inputs)
    first = next(requests.questions([placed], config, "onnxruntime"))
    return agent_process.ask([*agent_access.AGENT, *first.arguments], timeout_s=60)


def test_a_model_is_measured(model, tmp_path):
    found = measured(model, quick(sysfs=tmp_path))
    assert found.subject_digest == digest_of(model)
    assert isinstance(found.latency, Samples)
    assert found.latency.unit == "s"
    assert all(value > 0 for value in found.latency.values)
    assert found.conditions.runtime.startswith("onnxruntime ")
    assert found.conditions.provider == "CPUExecutionProvider"
    assert found.conditions.processes == 2
    assert found.taken_on == found.conditions.machine
    assert not found.is_target
    assert isinstance(found.memory.runtime_uss, Samples)
    assert isinstance(found.memory.model_uss, Samples)
    assert isinstance(found.memory.peak_rss, Samples)
    # A session and its buffers are private memory on top of the runtime's.
    assert found.memory.model_uss.values[0] > 0
    assert found.memory.peak_rss.values[0] > found.memory.runtime_uss.values[0]
    assert isinstance(found.energy, Unmeasured)
    assert str(tmp_path) in found.energy.reason
    assert from_json(Measurements, to_json(found), origin="measurements.json") == found


def test_the_recorded_command_holds_no_folder_of_this_machine(model):
    config = BenchConfig(**{**vars(QUICK), "inputs": model.with_name("inputs.npy"), "processes": 1})
    np.save(model.with_name("inputs.npy"), np.zeros((1, 3, 16, 16), np.float32))
    command = measured(model, config).conditions.command
    assert model.name in command
    assert "inputs.npy" in command
    assert not any(str(model.parent) in word for word in command)


def test_what_proc_does_not_tell_is_unmeasured(model, tmp_path):
    found = measured(model, quick(processes=1, proc=tmp_path)).memory
    assert isinstance(found.runtime_pss, Unmeasured)
    assert isinstance(found.model_uss, Unmeasured)
    assert "smaps_rollup" in found.model_uss.reason


def test_energy_of_a_constant_rail_is_its_power_times_the_time(model, tmp_path):
    boards.jetson(tmp_path / "sys", tmp_path / "proc", boards.JETSONS["orin-nano"], driver="hwmon")
    found = measured(model, quick(processes=1, sysfs=tmp_path / "sys", energy_windows=3))
    energy = found.energy
    assert isinstance(energy, Energy)
    assert isinstance(energy.gross, Samples)
    assert energy.gross.unit == "J"
    assert "carrier board is not included" in energy.scope
    assert energy.sensor == "INA3221 VDD_IN"
    assert energy.trace is not None
    for joules, window in zip(energy.gross.values, energy.trace.windows, strict=True):
        assert joules == pytest.approx(1.0 * (window.end_s - window.begin_s) / window.runs)
    assert isinstance(energy.net, Samples)
    assert max(map(abs, energy.net.values)) < 1e-9
    # Windows of a twentieth of a second are doubted.
    assert "energy-window" in {warning.code for warning in found.warnings}
    assert from_json(Measurements, to_json(found), origin="measurements.json") == found


def test_a_counter_that_stands_still_is_not_zero_energy(model, tmp_path):
    boards.rapl(tmp_path)
    found = measured(model, quick(processes=1, sysfs=tmp_path)).energy
    assert isinstance(found, Energy)
    for figure in (found.gross, found.idle, found.net):
        assert isinstance(figure, Unmeasured)
        assert "did not move" in figure.reason


def test_windows_may_wait_for_an_external_meter(model, tmp_path):
    found = measured(model, quick(processes=1, sysfs=tmp_path, energy_sensor="none")).energy
    assert isinstance(found, Energy)
    assert isinstance(found.gross, Unmeasured)
    assert found.trace is not None
    assert len(found.trace.windows) == 2
    assert found.trace.busy is not None


def test_a_batch_fills_what_the_model_leaves_open(model):
    assert measured(model, quick(processes=1, batch=4)).conditions.batch == 4


def test_inputs_may_be_given_by_name(model):
    np.savez(model.with_name("inputs.npz"), images=np.zeros((5, 3, 16, 16), np.float32))
    ask_latency(model, quick(inputs=model.with_name("inputs.npz"), batch=2))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 3, 16, 17), np.float32),
        ((1, 3, 16, 16), np.float64),
        ((0, 3, 16, 16), np.float32),
        ((4,), np.float32),
        ((), np.float32),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model, shape, dtype):
    np.save(model.with_name("inputs.npy"), np.zeros(shape, dtype))
    with pytest.raises(InputFileError, match="inputs"):
        ask_latency(model, quick(inputs=model.with_name("inputs.npy")))


def test_a_pickle_is_no_input(model):
    np.save(model.with_name("inputs.npy"), np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputFileError, match="inputs"):
        ask_latency(model, quick(inputs=model.with_name("inputs.npy")))


def test_an_open_image_size_asks_for_inputs(tmp_path):
    model = save_convolution(tmp_path / "open.onnx", [1, 3, "H", "W"])
    with pytest.raises(InputFileError, match="open shape"):
        ask_latency(model, QUICK)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputFileError, match="no such file"):
        measured(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InputFileError, match="Not an ONNX model"):
        measured(tmp_path / "text.onnx")


def test_a_model_that_the_runtime_cannot_run_is_incompatible(tmp_path):
    # Three input channels by the weights, five by the input.
    model = save_convolution(tmp_path / "wrong.onnx", [1, 5, 16, 16])
    with pytest.raises(IncompatibleError, match="ONNX Runtime cannot run"):
        measured(model)


def test_a_device_that_answers_another_question_is_refused(model):
    hello = json.dumps({"event": "hello", "protocol": PROTOCOL, "agent": "0", "python": "3"})
    hostile = [sys.executable, "-c", f"""print({hello!r}); print('{{"event": "end"}}')"""]
    with pytest.raises(DeviceError, match="0 answers of the kind"):
        measured(model, agent=hostile)
