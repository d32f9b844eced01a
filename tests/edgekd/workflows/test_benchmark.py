"""`edgekd bench` and what belongs to it, as a user types it."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.records import (
    Energy,
    Measured,
    Measurements,
    Samples,
    from_json,
    to_json,
)
from edgekd.workflows.measure import benchmark_output
from tests.bench import sshd
from tests.bench.conftest import save_convolution
from tests.edgekd.conftest import edgekd_process

SHORT = (
    *("--processes", "2", "--seconds", "0.05", "--max-runs", "50", "--warmup-seconds", "0.01"),
    *("--energy-seconds", "0.05", "--energy-windows", "1", "--energy-idle-seconds", "0.05"),
)
LATENCIES = (0.010, 0.011, 0.012, 0.0115)


@pytest.fixture
def model(tmp_path) -> Path:
    return save_convolution(tmp_path / "tiny.onnx", ["N", 3, 16, 16])


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """A folder in which one model was measured with every kind of output, and what was printed."""
    folder = tmp_path_factory.mktemp("taken")
    save_convolution(folder / "tiny.onnx", ["N", 3, 16, 16])
    outputs = ("--out", "bench.json", "--csv", "bench.csv", "--html", "bench.html")
    process = edgekd_process("bench", "tiny.onnx", *SHORT, *outputs, cwd=folder)
    out, err = process.communicate(timeout=560)
    assert process.returncode == 0, err
    return folder, out, err


def read(path: Path) -> Measured:
    return from_json(Measured, path.read_text(), origin=str(path), schema="measurements")


def write(path: Path, *measurements: Measurements) -> Path:
    path.write_text(to_json(Measured(measurements=measurements), schema="measurements"))
    return path


# --- a file ---------------------------------------------------------------------------------------


def test_a_file_is_measured_and_told(taken):
    _, out, err = taken
    assert out.startswith("Measured on ")
    assert "This is not the target" in out.splitlines()[0]
    for said in (
        "tiny.onnx (fp32), onnxruntime",
        "latency    median",
        "+ model loaded",
        "energy",
        "warnings",
    ):
        assert said in out, said
    assert "tiny.onnx: latency" in err
    assert "tiny.onnx: memory" in err


def test_every_output_holds_the_same(taken):
    folder, out, _ = taken
    (found,) = read(folder / "bench.json").measurements
    assert isinstance(found.latency, Samples)
    assert len(found.latency.groups) == found.conditions.processes == 2
    with (folder / "bench.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert set(row) == set(benchmark_output.COLUMNS)
    assert int(row["calls"]) == len(found.latency.values)
    assert row["subject"] == "tiny.onnx"
    assert row["is_target"] == "False"
    assert row["energy_gross_j"] == ""  # nothing is 0 that was not measured
    page = (folder / "bench.html").read_text()
    assert "tiny.onnx (FP32)" in page
    assert page.count("<svg") == 2
    assert f"{len(found.latency.values)} calls in 2 processes" in out


def test_json_is_the_record_and_nothing_else(model, edgekd):
    code, out, _ = edgekd("bench", model, *SHORT, "--json")
    assert code == 0
    found = from_json(Measured, out, origin="stdout", schema="measurements")
    assert found.measurements[0].subject == "tiny.onnx"
    assert found.failed == {}


@pytest.mark.parametrize("option", ["--out", "--csv", "--html"])
def test_an_output_that_exists_is_kept_unless_forced(model, edgekd, tmp_path, option):
    file = tmp_path / "there"
    file.write_text("mine")
    code, _, err = edgekd("bench", model, *SHORT, option, file)
    assert code == 2
    assert "--force" in err
    assert "latency" not in err  # nothing was measured for it
    assert file.read_text() == "mine"


def test_a_forced_output_is_replaced(model, edgekd, tmp_path):
    file = tmp_path / "there.json"
    file.write_text("mine")
    code, _, err = edgekd("bench", model, *SHORT, "--out", file, "--force")
    assert code == 0, err
    assert read(file).measurements


def test_a_bundle_is_measured_model_by_model(made, edgekd):
    code, out, err = edgekd("bench", made[0], *SHORT)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["device", "model", "median"]
    assert [line.split()[1] for line in lines[1:3]] == ["model-fp32.onnx", "model-int8.onnx"]
    assert "model-int8.onnx over model-fp32.onnx" in lines


# --- options that make no sense -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runtime", "openvino"], "--runtime: Input should be 'auto', 'onnxruntime', 'tensorrt' or 'trtexec'"),
        (["--engine-precision", "int8"], "--engine-precision: Input should be"),
        (["--energy-sensor", "voltmeter"], "no sensor 'voltmeter', choose from auto, none, INA3221"),
        (["--processes", "0"], "Invalid value for '--processes'"),
        (["--fps", "0"], "Invalid value for '--fps'"),
        (["--warmup-seconds", "nan"], "--warmup-seconds"),
        (["--note", "x" * 201], "--note: String should have at most 200 characters"),
        (["--target", "toaster"], "toaster"),
        (["--inputs", "none.npy"], "none.npy: no such file"),
        (["--fleet", "none.toml"], "none.toml"),
        (["--device", "ftp://board"], "no address of a board"),
        (["--device", "ssh://board", "--device", "ssh://board"], "ssh://board is given twice"),
        (["--device", "board", "--device", "ssh://board"], "ssh://board is given twice"),
        (["--ssh-config", "none"], "none: no such file"),
        (["--device-python", "python3"], "--device-python is of boards, and none was named"),
        (["--out", "a.json", "--html", "a.json"], "Two outputs are the same file"),
        (["--offline-kit", "kit", "--device", "ssh://board"], "--device means nothing with --offline-kit"),
        (["--offline-kit", "kit", "--out", "a.json"], "--out means nothing with --offline-kit"),
        (["--offline-kit", "kit", "--json"], "--json means nothing with --offline-kit"),
        (["--offline-kit", "kit", "--runtime", "tensorrt"], "does not fit a kit of ONNX files"),
        (["tiny.onnx"], "tiny.onnx is given twice"),
        (["none.onnx"], "none.onnx"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_bad_use_and_measures_nothing(
    model, edgekd, monkeypatch, words, said
):
    monkeypatch.chdir(model.parent)
    code, out, err = edgekd("bench", "tiny.onnx", *words)
    assert code == 2, err
    assert said in " ".join(err.split())
    assert out == ""
    assert "bench    this machine" not in err
    assert not Path("kit").exists()


# --- fleets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[boards", "not TOML"),
        ("", "boards: Field required"),
        ("[boards]", "boards: Dictionary should have at least 1 item"),
        ("[boards.a]", "boards.a.url: Field required"),
        ("[boards.a]\nurl = 3", "boards.a.url: Input should be a valid string"),
        ('[boards.a]\nurl = "ssh://a"\nuser = "x"', "boards.a.user: "),
        ('[boards.a]\nurl = "ftp://a"', "no address of a board"),
        ('[boards.a]\nurl = "ssh://a"\n[boards.b]\nurl = "ssh://a"', "ssh://a is given twice"),
        ('[boards.a]\nurl = "ssh://a"\ntarget = "toaster"', "toaster"),
    ],
)
def test_a_fleet_file_that_is_none_is_told(model, edgekd, tmp_path, text, said):
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(text)
    code, _, err = edgekd("bench", model, "--fleet", fleet)
    assert code == 2, err
    assert said in " ".join(err.split())


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    started = sshd.start(folder)
    yield started
    sshd.stop(started)


@pytest.fixture
def fleet(server, tmp_path):
    """One board that answers, and one where nobody listens."""
    path = tmp_path / "fleet.toml"
    path.write_text(
        f'[boards.good]\nurl = "ssh://board"\npython = "{sys.executable}"\n'
        f'[boards.dead]\nurl = "ssh://127.0.0.1:{sshd.free_port()}"\n'
    )
    return ("--fleet", path, "--ssh-config", server.config)


@pytest.mark.slow
def test_a_dead_board_does_not_take_the_others_results(model, edgekd, fleet, tmp_path):
    outputs = ("--out", tmp_path / "bench.json", "--html", tmp_path / "bench.html")
    code, out, err = edgekd("bench", model, *fleet, *SHORT, *outputs)
    assert code == 6, err
    assert "1 boards gave nothing: dead" in err
    assert "latency    median" in out
    assert "dead: not measured: ssh://127.0.0.1:" in out
    found = read(tmp_path / "bench.json")
    assert [each.device for each in found.measurements] == ["ssh://board"]
    assert "Does sshd run on that port" in found.failed["dead"]
    assert "Boards that gave nothing" in (tmp_path / "bench.html").read_text()


@pytest.mark.slow
def test_boards_of_a_fleet_are_taken_by_name(model, edgekd, fleet):
    code, out, err = edgekd("bench", model, *fleet, *SHORT, "--device", "good", "--json")
    assert code == 0, err
    found = from_json(Measured, out, origin="stdout", schema="measurements")
    assert [each.device for each in found.measurements] == ["ssh://board"]
    code, _, err = edgekd("bench", model, *fleet, *SHORT, "--device", "dead")
    assert code == 6
    assert "Does sshd run on that port" in err


# --- an offline kit -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """A kit that was made, and run as its README says."""
    folder = tmp_path_factory.mktemp("carried")
    for name in ("first.onnx", "second.onnx"):
        save_convolution(folder / name, ["N", 3, 16, 16])
    made = edgekd_process(
        "bench",
        "first.onnx",
        "second.onnx",
        *SHORT,
        "--note",
        "on a desk",
        "--offline-kit",
        "kit",
        cwd=folder,
    )
    out, err = made.communicate(timeout=300)
    assert made.returncode == 0, err
    assert "sh run.sh" in out
    assert "edgekd bench import kit/result.json" in out
    done = subprocess.run(
        ["sh", "kit/run.sh"],
        cwd=folder,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    return folder / "kit"


@pytest.fixture
def brought(kit, tmp_path):
    """A copy of that kit, to be spoilt."""
    copy = tmp_path / "kit"
    copy.mkdir()
    for path in kit.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_a_kit_says_what_to_do(kit):
    assert sorted(path.name for path in kit.iterdir()) == [
        "README", "agent.pyz", "kit.json", "model-0.onnx", "model-1.onnx", "plan.json", "result.json", "run.sh"
    ]  # fmt: skip
    assert "sh run.sh" in (kit / "README").read_text()
    assert not any(str(kit.parent) in path.read_text() for path in kit.glob("*.json"))


def test_what_a_kit_brought_back_is_taken_in(kit, edgekd, tmp_path):
    code, out, err = edgekd(
        "bench", "import", kit / "result.json", "--out", tmp_path / "bench.json"
    )
    assert code == 0, err
    assert "second.onnx over first.onnx" in out
    found = read(tmp_path / "bench.json").measurements
    assert [each.subject for each in found] == ["first.onnx", "second.onnx"]
    assert found[0].device == "kit result.json"
    assert found[0].conditions.note == "on a desk"
    assert isinstance(found[0].latency, Samples)
    assert len(found[0].latency.groups) == 2


def test_a_result_may_lie_elsewhere_than_its_kit(brought, edgekd, tmp_path):
    (brought / "result.json").rename(tmp_path / "mine.json")
    code, _, err = edgekd("bench", "import", tmp_path / "mine.json", "--kit", brought)
    assert code == 0, err
    code, _, err = edgekd("bench", "import", tmp_path / "mine.json")
    assert code == 2
    assert "no offline kit" in err


def spoilt(change):
    def spoil(kit: Path) -> None:
        result = json.loads((kit / "result.json").read_text())
        change(result)
        (kit / "result.json").write_text(json.dumps(result))

    return spoil


def cut(kit: Path) -> None:
    data = (kit / "result.json").read_bytes()
    (kit / "result.json").write_bytes(data[: len(data) // 2])


def other_model(kit: Path) -> None:
    (kit / "model-1.onnx").write_bytes((kit / "model-1.onnx").read_bytes() + b"!")


def other_plan(kit: Path) -> None:
    described = json.loads((kit / "kit.json").read_text())
    described["plan_sha256"] = "0" * 64
    (kit / "kit.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (other_model, 7, "model-1.onnx is another file than the kit was made with"),
        (other_plan, 7, "answers another plan than the kit"),
        (spoilt(lambda result: result.update(plan_sha256="1" * 64)), 7, "answers another plan"),
        (cut, 2, "not JSON .* Was it cut short"),
        (lambda kit: (kit / "result.json").unlink(), 2, "no such file"),
        (lambda kit: (kit / "model-0.onnx").unlink(), 2, "its model 'model-0.onnx' is not there"),
        (spoilt(lambda result: result.update(schema="other")), 2, "not an edgekd kit-result file"),
        (spoilt(lambda result: result.update(schema_version=9)), 2, "format 9; this edgekd reads 1 to 2"),
        (spoilt(lambda result: result.update(answers=3)), 2, "answers: Input should be"),
        (spoilt(lambda result: result["answers"][1].update(stdout="Hello\\nyou\\n")), 6, "nonsense in line 1"),
        (spoilt(lambda result: result["answers"][1].update(code=99)), 6, "failed with code 99"),
        (spoilt(lambda result: result["answers"][1].update(code=-9)), 6, "was killed by SIGKILL"),
        (spoilt(lambda result: result["answers"].pop()), 6, "has no answer to: energy"),
        (spoilt(lambda result: result["answers"][1].update(
            stdout=result["answers"][1]["stdout"].rpartition('{"event": "end"}')[0])), 6, "cut short"),
    ],
)  # fmt: skip
def test_what_came_back_spoilt_has_its_code(brought, edgekd, spoil, code, said):
    spoil(brought)
    found, out, err = edgekd("bench", "import", brought / "result.json")
    assert found == code, err
    assert re.search(said, " ".join(err.split())), err
    assert out == ""


def test_a_kit_that_was_changed_on_the_board_is_not_run_for_another(brought, edgekd):
    """The plan that was run is the one that the result names, and that is not the one that was made."""
    plan = json.loads((brought / "plan.json").read_text())
    plan["questions"] = plan["questions"][:2]
    (brought / "plan.json").write_text(json.dumps(plan))
    (brought / "result.json").unlink()
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(
        ["sh", "run.sh"], cwd=brought, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0
    code, _, err = edgekd("bench", "import", brought / "result.json")
    assert code == 7
    assert "answers another plan" in err


def test_a_kit_that_is_there_is_kept_unless_forced(brought, model, edgekd):
    code, _, err = edgekd("bench", model, "--offline-kit", brought)
    assert code == 2
    assert (brought / "result.json").exists()
    code, _, err = edgekd("bench", model, *SHORT, "--offline-kit", brought, "--force")
    assert code == 0, err
    assert not (brought / "result.json").exists()


# --- an external meter ----------------------------------------------------------------------------

IDLE_W, LOAD_W = 3.0, 8.0


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """A file that waits for a meter's log, and that log: of a clock that is 4.2 s off."""
    folder = tmp_path_factory.mktemp("metered")
    save_convolution(folder / "tiny.onnx", ["N", 3, 16, 16])
    process = edgekd_process(
        "bench", "tiny.onnx", *SHORT[:8], "--energy-sensor", "none", "--energy-seconds", "0.5", "--energy-windows", "3",
        "--energy-idle-seconds", "1", "--out", "waiting.json", cwd=folder,
    )  # fmt: skip
    out, err = process.communicate(timeout=560)
    assert process.returncode == 0, err
    assert "an external meter was to be read, and its readings are not here" in out
    trace = energy_of(folder / "waiting.json").trace
    assert trace is not None
    assert trace.busy is not None
    rows = ["time (s),power (W)"]
    random = np.random.default_rng(0)
    for number in range(int(1000 * (trace.idle[1].end_s + 10))):
        at = number / 1000 - 4.2
        watts = LOAD_W if trace.busy.begin_s <= at < trace.busy.end_s else IDLE_W
        rows.append(f"{number / 1000},{watts + random.normal(0, 0.1):.4f}")
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    return folder


def energy_of(file: Path) -> Energy:
    (found,) = read(file).measurements
    assert isinstance(found.energy, Energy)
    return found.energy


def test_a_meters_log_becomes_the_energy_of_its_run(waiting, edgekd, tmp_path):
    outputs = ("--out", tmp_path / "bench.json", "--html", tmp_path / "bench.html")
    bounds = ("--offset-watts", "0.005", "--gain", "0.001", "--gain", "0.002")
    code, out, err = edgekd(
        "bench", "meter", waiting / "waiting.json", waiting / "log.csv", "--scope", "5 V input", "--name", "supply",
        *bounds, *outputs,
    )  # fmt: skip
    assert code == 0, err
    found = energy_of(tmp_path / "bench.json")
    assert isinstance(found.gross, Samples)
    assert isinstance(found.net, Samples)
    assert found.trace is not None
    for joules, net, window in zip(
        found.gross.values, found.net.values, found.trace.windows, strict=True
    ):
        call_s = (window.end_s - window.begin_s) / window.runs
        assert joules == pytest.approx(LOAD_W * call_s, rel=0.02)
        assert net == pytest.approx((LOAD_W - IDLE_W) * call_s, rel=0.03)
    assert (found.scope, found.sensor) == ("5 V input", "supply")
    assert found.uncertainty is not None
    assert "Found the run 4.2" in err
    assert "scope: 5 V input; sensor: supply" in out
    page = (tmp_path / "bench.html").read_text()
    assert "Power by supply" in page
    before = read(waiting / "waiting.json").measurements[0]
    after = read(tmp_path / "bench.json").measurements[0]
    assert (after.latency, after.memory, after.subject_digest) == (
        before.latency,
        before.memory,
        before.subject_digest,
    )


def test_a_meter_of_unknown_bounds_has_no_interval_and_says_so(waiting, edgekd):
    given = (waiting / "waiting.json", waiting / "log.csv", "--scope", "wall", "--json")
    code, out, err = edgekd("bench", "meter", *given)
    assert code == 0, err
    (one,) = json.loads(out)["measurements"]
    assert one["energy"]["uncertainty"] is None
    assert "meter-bounds" in [warning["code"] for warning in one["warnings"]]


def test_a_log_without_a_header_is_taken_with_names_for_its_columns(waiting, edgekd, tmp_path):
    log = tmp_path / "printed.csv"
    log.write_text((waiting / "log.csv").read_text().partition("\n")[2])
    given = (waiting / "waiting.json", log, "--scope", "wall", "--json")
    code, _, err = edgekd("bench", "meter", *given)
    assert (code, "--columns time_s,voltage_v,current_a" in err) == (2, True)
    code, out, err = edgekd("bench", "meter", *given, "--columns", "time_s, power_w")
    assert code == 0, err
    headed = edgekd(
        "bench", "meter", waiting / "waiting.json", waiting / "log.csv", "--scope", "wall", "--json"
    )[1]
    assert json.loads(out) == json.loads(headed)
    code, _, err = edgekd(
        "bench", "meter", *given, "--columns", "time_s,power_w", "--power-column", "x"
    )
    assert (code, "leave out --power-column" in err) == (2, True)


def test_columns_that_the_header_does_not_say_are_given(waiting, edgekd, tmp_path):
    lines = (waiting / "log.csv").read_text().splitlines()[1:]
    rows = [
        (float(at) * 1000, float(watts) / 5 * 1000)
        for at, watts in (line.split(",") for line in lines)
    ]
    log = tmp_path / "amperes.csv"
    log.write_text("a;b\n" + "\n".join(f"{at:.3f};{milliamps:.3f}" for at, milliamps in rows))
    given = (waiting / "waiting.json", log, "--scope", "wall", "--json")
    code, _, err = edgekd("bench", "meter", *given)
    assert code == 2
    assert "no column of times among a, b" in err
    columns = (
        "--time-column",
        "a",
        "--time-unit",
        "ms",
        "--current-column",
        "b",
        "--current-unit",
        "mA",
    )
    code, out, err = edgekd("bench", "meter", *given, *columns, "--supply-volts", "5")
    assert code == 0, err
    (one,) = json.loads(out)["measurements"]
    trace, gross = one["energy"]["trace"], one["energy"]["gross"]["values"]
    window = trace["windows"][0]
    assert gross[0] == pytest.approx(
        LOAD_W * (window["end_s"] - window["begin_s"]) / window["runs"], rel=0.02
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing option '--scope'"),
        (["--scope", ""], "--scope: String should have at least 1 character"),
        (["--scope", "wall", "--gain", "2"], "Invalid value for '--gain'"),
        (["--scope", "wall", "--offset-watts", "-1"], "Invalid value for '--offset-watts'"),
        (["--scope", "wall", "--offset-watts", "nan"], "--offset-watts"),
        (
            ["--scope", "wall", "--subject", "other.onnx"],
            "--subject other.onnx: there is tiny.onnx",
        ),
        (["--scope", "wall", "--power-column", "P"], "no column 'P'"),
        (["--scope", "wall", "--power-unit", "hp"], "the unit of 'power (W)' is not known (hp)"),
    ],
)
def test_a_meter_that_makes_no_sense_is_bad_use(waiting, edgekd, words, said):
    code, out, err = edgekd("bench", "meter", waiting / "waiting.json", waiting / "log.csv", *words)
    assert code == 2, err
    assert said in " ".join(err.split())
    assert out == ""


def test_a_log_of_something_else_or_a_file_that_waits_for_none_is_refused(
    waiting, taken, edgekd, tmp_path
):
    log = waiting / "log.csv"
    flat = tmp_path / "flat.csv"
    flat.write_text(
        "time (s),power (W)\n" + "\n".join(f"{number / 100},3.0" for number in range(3000))
    )
    code, _, err = edgekd("bench", "meter", waiting / "waiting.json", flat, "--scope", "wall")
    assert code == 2
    assert "Nothing in the log looks like the run" in err
    code, _, err = edgekd("bench", "meter", taken[0] / "bench.json", log, "--scope", "wall")
    assert code == 2
    assert "--energy-sensor none" in err
    (one,) = read(waiting / "waiting.json").measurements
    both = write(tmp_path / "both.json", one, replace(one, subject="other.onnx"))
    code, _, err = edgekd("bench", "meter", both, log, "--scope", "wall")
    assert code == 2
    assert "Name one: --subject NAME" in err
    code, _, err = edgekd(
        "bench", "meter", both, log, "--scope", "wall", "--subject", "other.onnx", "--json"
    )
    assert code == 0, err


# --- comparing ------------------------------------------------------------------------------------


@pytest.fixture
def one(taken) -> Measurements:
    """A measurement whose processes differ by little."""
    (found,) = read(taken[0] / "bench.json").measurements
    values = tuple(level + 1e-5 * number for level in LATENCIES for number in range(20))
    return replace(found, latency=Samples(values=values, unit="s", groups=(20,) * len(LATENCIES)))


def times(found: Measurements, factor: float) -> Measurements:
    assert isinstance(found.latency, Samples)
    values = tuple(factor * value for value in found.latency.values)
    return replace(found, latency=replace(found.latency, values=values))


def compared(edgekd, tmp_path, *files):
    """Ratios by figure, and the text."""
    paths = [write(tmp_path / f"{number}.json", each) for number, each in enumerate(files)]
    code, out, err = edgekd("bench", "compare", *paths, "--json")
    assert code == 0, err
    (pair,) = json.loads(out)["comparisons"]
    _, text, _ = edgekd("bench", "compare", *paths)
    return {ratio["figure"]: ratio for ratio in pair["ratios"]}, text


def test_half_of_the_time_is_less(one, edgekd, tmp_path):
    ratios, text = compared(edgekd, tmp_path, one, times(one, 0.5))
    assert ratios["latency"]["value"] == pytest.approx(0.5)
    assert ratios["latency"]["low"] < 0.5 < ratios["latency"]["high"] < 1
    assert ratios["latency"]["verdict"] == "less"
    assert "latency  0.500 (95 % interval 0." in text
    assert "energy   no ratio: old was not measured" in text


def test_what_differs_by_less_than_its_spread_has_no_verdict(one, edgekd, tmp_path):
    ratios, text = compared(edgekd, tmp_path, one, times(one, 1.02))
    assert ratios["latency"]["verdict"] == "none"
    assert "no verdict; the interval holds 1" in text


def test_one_process_has_a_ratio_and_no_verdict(one, edgekd, tmp_path):
    alone = replace(one, latency=Samples(values=(0.01, 0.011), unit="s", groups=(2,)))
    ratios, text = compared(edgekd, tmp_path, one, alone)
    assert ratios["latency"]["value"] < 1
    assert ratios["latency"]["low"] is None
    assert "one process or window alone says nothing of its spread" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: replace(found, taken_on="another machine"), "of different machines"),
        (lambda found: replace(found, conditions=replace(found.conditions, threads=4)), "of different numbers of threads: 1; 4"),
        (lambda found: replace(found, conditions=replace(found.conditions, batch=8)), "of different batches: 1; 8"),
        (lambda found: replace(found, conditions=replace(found.conditions, emulated=True)), "the processor was emulated"),
        (lambda found: replace(found, conditions=replace(found.conditions, provider="SM 8.7")), "of different providers"),
    ],
)  # fmt: skip
def test_what_was_measured_otherwise_has_no_ratio(one, edgekd, tmp_path, change, said):
    ratios, text = compared(edgekd, tmp_path, one, change(times(one, 0.5)))
    for ratio in ratios.values():
        assert (ratio["value"], ratio["verdict"]) == (None, "none")
        assert said in ratio["reason"]
    assert said in text


def test_joules_of_another_scope_have_no_ratio_and_times_do(one, edgekd, tmp_path):
    joules = Samples(values=(0.10, 0.11, 0.105), unit="J")
    module = replace(one, energy=Energy(gross=joules, scope="module", sensor="INA3221"))
    wall = replace(one, energy=Energy(gross=joules, scope="wall", sensor="meter"))
    ratios, _ = compared(edgekd, tmp_path, module, wall)
    assert "of different scopes: module, INA3221; wall, meter" in ratios["energy"]["reason"]
    assert ratios["latency"]["value"] == pytest.approx(1)
    ratios, _ = compared(edgekd, tmp_path, module, module)
    assert ratios["energy"]["value"] == pytest.approx(1)


def test_models_of_one_file_are_compared_by_pairs_and_of_two_by_name(one, edgekd, tmp_path):
    other = replace(times(one, 0.5), subject="other.onnx")
    both = write(tmp_path / "both.json", one, other)
    code, out, _ = edgekd("bench", "compare", both)
    assert code == 0
    assert out.startswith("other.onnx over tiny.onnx")
    swapped = write(tmp_path / "swapped.json", other, one)
    code, out, _ = edgekd("bench", "compare", both, swapped, "--json")
    pairs = [(pair["old"], pair["new"]) for pair in json.loads(out)["comparisons"]]
    assert pairs == [("tiny.onnx", "tiny.onnx"), ("other.onnx", "other.onnx")]


def test_what_cannot_be_paired_is_told(one, edgekd, tmp_path):
    alone = write(tmp_path / "alone.json", one)
    code, _, err = edgekd("bench", "compare", alone)
    assert code == 2
    assert "holds one model; name a second file" in err
    strangers = [replace(one, subject=name) for name in ("a", "b")]
    code, _, err = edgekd("bench", "compare", alone, write(tmp_path / "others.json", *strangers))
    assert code == 2
    assert "no model of the same name" in err
    code, _, err = edgekd("bench", "compare", tmp_path / "none.json")
    assert code == 2
    (tmp_path / "no.json").write_text("{}")
    code, _, err = edgekd("bench", "compare", tmp_path / "no.json", alone)
    assert code == 2
    empty = write(tmp_path / "empty.json")
    code, _, err = edgekd("bench", "compare", empty, alone)
    assert code == 2


# --- probing and cleaning -------------------------------------------------------------------------


def test_this_machine_is_probed(edgekd):
    code, out, _ = edgekd("bench", "probe", "--target", "jetson")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert out.startswith("this machine\n")
    # Where the extra is installed it is found, and never taken for TensorRT.
    assert re.search(r"No module named 'tensorrt'$|rtx-1\.[\d.]+$", lines["tensorrt"])
    assert lines["target"] == "target     no: another board"
    code, out, _ = edgekd("bench", "probe", "--json")
    (probe,) = json.loads(out)["probes"]
    assert (probe["device"], probe["is_target"]) == ("this machine", None)
    assert probe["setup"]["onnxruntime"]
    assert probe["setup"]["processors"] >= 1


def test_a_board_is_probed_and_cleaned(edgekd, server):
    there = (
        "--device",
        server.url,
        "--ssh-config",
        server.config,
        "--device-python",
        sys.executable,
    )
    code, out, err = edgekd("bench", "probe", *there)
    assert code == 0, err
    assert out.startswith("ssh://board\n")
    assert server.home.exists()
    code, out, err = edgekd("bench", "clean", *there)
    assert code == 0, err
    assert out == "ssh://board: nothing of edgekd is left\n"
    assert not server.home.exists()
    code, _, err = edgekd("bench", "clean")
    assert code == 2
    assert "Which board?" in err


# --- estimating -----------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A network of convolutions of 3 x 3 in the size of those that were published."""
    return save_convolution(tmp_path / "net.onnx", [1, 3, 224, 224])


def test_an_estimate_is_marked_and_has_an_interval(photographs, edgekd):
    code, out, err = edgekd(
        "bench", "estimate", photographs, "--target", "jetson-agx-xavier", "--precision", "fp16"
    )
    assert code == 0, err
    assert out.startswith("Estimated for jetson-agx-xavier")
    assert "not measured" in out.splitlines()[0]
    assert "90% interval" in out
    code, out, _ = edgekd(
        "bench",
        "estimate",
        photographs,
        "--target",
        "jetson-agx-xavier",
        "--precision",
        "fp16",
        "--json",
    )
    found = json.loads(out)
    low, high = found["latency"]["interval"]
    assert low < found["latency"]["value"] < high
    assert found["latency"]["unit"] == "s"
    assert "no energy is estimated" in found["energy"]["reason"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--target", "x86"], 8, "no published measurements with onnxruntime"),
        (["--target", "jetson", "--precision", "int8"], 8, "no estimate for"),
        (["--precision", "int4"], 2, "--precision int4: there is fp16, fp32, int8"),
        (["--target", "toaster"], 2, "toaster"),
    ],
)
def test_an_estimate_without_support_is_refused(photographs, edgekd, words, code, said):
    found, out, err = edgekd("bench", "estimate", photographs, *words)
    assert found == code, err
    assert said in " ".join(err.split())
    assert out == ""


def test_an_estimate_of_no_model_is_refused(edgekd, tmp_path):
    (tmp_path / "no.onnx").write_text("no model")
    assert edgekd("bench", "estimate", tmp_path / "no.onnx")[0] == 2
    assert edgekd("bench", "estimate", tmp_path / "none.onnx")[0] == 2
