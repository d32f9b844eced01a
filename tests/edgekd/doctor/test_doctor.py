"""The doctor, in processes of its own where libraries are taken away from it."""

import ast
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from edgekd.api.homes import HOMES
from edgekd.bench.agent import sensor_discovery
from edgekd.cli.generate import commands as reference
from edgekd.doctor import collect, host, requirements
from edgekd.doctor.findings import Library
from edgekd.doctor.report import diagnosis
from edgekd.records import to_json
from edgekd.schemas import schema_text
from tests.edgekd.conftest import REPOSITORY

# A module whose import fails as that of a broken library does.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
"""


def run_doctor(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command with `folder` before everything else that Python imports from."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"}
    return subprocess.run(
        [sys.executable, "-m", "edgekd", "doctor", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def blocked(folder: Path, *names: str) -> Path:
    (folder / "sitecustomize.py").write_text(BLOCKER.format(names=set(names)))
    return folder


def library(found, name):
    return next(entry for entry in found["libraries"] if entry["name"] == name)


def state(found, command):
    return next(entry for entry in found["commands"] if entry["command"] == command)


def test_the_record_fits_its_published_schema_and_every_command_can_run(tmp_path):
    ran = run_doctor(tmp_path, "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    jsonschema.validate(found, json.loads(schema_text("doctor")))
    assert all(entry["works"] for entry in found["commands"])
    assert library(found, "torch")["version"]
    assert "CPUExecutionProvider" in found["onnxruntime_providers"]
    assert {sensor["name"] for sensor in found["energy"]} == set(sensor_discovery.FINDERS)
    assert all(bool(sensor["scope"]) != bool(sensor["reason"]) for sensor in found["energy"])


def test_missing_frameworks_are_findings_and_code_3(tmp_path):
    blocked(tmp_path, "torch", "torchvision", "onnxruntime", "timm", "numpy")
    ran = run_doctor(tmp_path, "--json")
    assert ran.returncode == 3
    assert "cannot run here: compress" in ran.stderr
    found = json.loads(ran.stdout)
    assert "blocked: torch" in library(found, "torch")["problem"]
    assert found["cuda"]["gpus"] == []
    compress = state(found, "compress")
    assert not compress["works"]
    assert {"torch", "onnxruntime", "numpy"} <= set(compress["missing"])
    # The environment still has the metadata of a torch that does not import.
    (line,) = (line for line in compress["todo"] if "torchvision" in line)
    assert line.startswith("pip install --force-reinstall torch torchvision --index-url")
    assert any("timm" in limit for limit in compress["limits"])
    assert not any("CUDA" in limit for limit in compress["limits"])  # nobody could ask
    assert state(found, "targets")["works"]
    assert "Traceback" not in ran.stderr


def test_the_text_names_what_to_install_in_one_line(tmp_path):
    blocked(tmp_path, "onnxruntime")
    ran = run_doctor(tmp_path)
    assert ran.returncode == 3
    assert re.search(r"^to install +pip install .*'onnxruntime>=", ran.stdout, re.MULTILINE)
    said = " ".join(ran.stdout.split())  # folded to 80 columns
    assert "compress, search, export, bench, eval: CANNOT RUN without onnxruntime" in said
    folded = [line for line in ran.stdout.splitlines() if "pip install" not in line]
    assert max(map(len, folded)) <= 80


def test_a_library_that_crashes_takes_only_its_own_process(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "import os, signal\nprint('noise')\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    (tmp_path / "onnxruntime.py").write_text("import sys\nprint('noise')\nsys.exit(5)\n")
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open')\n")
    ran = run_doctor(tmp_path, "--json")
    assert ran.returncode == 3
    found = json.loads(ran.stdout)
    assert "SIGSEGV" in library(found, "torch")["problem"]
    assert "SystemExit" in library(found, "onnxruntime")["problem"]
    assert "libnvinfer" in found["tensorrt"]["reason"]
    assert library(found, "numpy")["problem"] is None


# What edgekd asks of torch about devices, as its documentation has it.
TORCH_WITH_A_GPU = """
import types
__version__ = "2.11.0+cu130"
version = types.SimpleNamespace(cuda="13.0")
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    is_bf16_supported = staticmethod(lambda including_emulation: not including_emulation)
    class device:
        def __init__(self, index): pass
        def __enter__(self): pass
        def __exit__(self, *error): pass
    @staticmethod
    def get_device_properties(index):
        {properties}
onnx = types.SimpleNamespace(export=lambda model, args, *, dynamo: None)
"""


def test_a_gpu_is_described_and_nothing_said_of_slowness(tmp_path):
    said = "return types.SimpleNamespace(name='Orin', major=8, minor=7, total_memory=8 * 2**30)"
    (tmp_path / "torch.py").write_text(TORCH_WITH_A_GPU.format(properties=said))
    found = json.loads(run_doctor(tmp_path, "--json").stdout)
    assert found["cuda"]["gpus"] == [
        {"name": "Orin", "compute_capability": "8.7", "memory_bytes": 8 * 2**30, "bf16": True}
    ]
    assert not any("no CUDA" in limit for limit in state(found, "distill")["limits"])
    assert "CUDA         Orin, compute capability 8.7, 8.0 GiB" in run_doctor(tmp_path).stdout


def test_a_driver_that_does_not_fit_is_the_reason(tmp_path):
    said = "raise RuntimeError('CUDA driver version is insufficient')"
    (tmp_path / "torch.py").write_text(TORCH_WITH_A_GPU.format(properties=said))
    found = json.loads(run_doctor(tmp_path, "--json").stdout)
    assert found["cuda"]["reason"] == "RuntimeError: CUDA driver version is insufficient"


def test_a_library_that_hangs_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (answer,) = collect.ask(["onnxruntime"], timeout_s=0.5).values()
    assert answer["problem"] == "did not answer within 0.5 s"


def test_a_command_without_its_library_exits_3_and_names_the_doctor(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    ran = subprocess.run(
        [sys.executable, "-m", "edgekd", "distill", "teacher.pt"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 3
    assert "torch is not installed. See what to install with: edgekd doctor" in ran.stderr


def test_timm_is_never_imported():
    assert "timm" not in collect.PROBES.read_text()


# --- the machine ----------------------------------------------------------------------------------


def written(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n"


def test_without_control_groups_the_kernel_is_believed(tmp_path):
    proc = written(tmp_path / "proc", meminfo=MEMINFO, cpuinfo="model name : Board\nflags : bf16\n")
    found = host.examine(proc=proc, sysfs=tmp_path / "sys")
    assert (found.memory_bytes, found.available_bytes) == (8 * 2**30, 4 * 2**30)
    assert not found.memory_is_limited
    assert found.processor == "Board"
    assert found.bf16_instructions == ("bf16",)


def test_a_limit_of_cgroup_2_above_the_own_group_counts(tmp_path):
    proc = written(tmp_path / "proc", meminfo=MEMINFO, self__cgroup="0::/outer/inner\n")
    sysfs = tmp_path / "sys"
    written(sysfs / "fs/cgroup/outer/inner", **{"memory.max": "max", "cpu.max": "max 100000"})
    limits = {"memory.max": str(2**30), "memory.current": str(2**29), "cpu.max": "50000 100000"}
    stat = {"memory.stat": f"anon 5\ninactive_file {2**28}\n"}
    written(sysfs / "fs/cgroup/outer", **limits, **stat)
    found = host.examine(proc=proc, sysfs=sysfs)
    assert found.memory_is_limited
    assert found.memory_bytes == 2**30
    assert found.available_bytes == 2**29 + 2**28
    assert found.usable_processors == 0.5


def test_cgroup_1_without_a_limit_is_no_limit(tmp_path):
    proc = written(
        tmp_path / "proc", meminfo=MEMINFO, self__cgroup="4:memory:/gone\n1:cpu,cpuacct:/\n"
    )
    sysfs = tmp_path / "sys"
    written(sysfs / "fs/cgroup/memory", **{"memory.limit_in_bytes": "9223372036854771712"})
    written(sysfs / "fs/cgroup/cpu", **{"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    found = host.examine(proc=proc, sysfs=sysfs)
    assert not found.memory_is_limited
    written(sysfs / "fs/cgroup/memory", **{"memory.limit_in_bytes": str(2**30)})
    assert host.examine(proc=proc, sysfs=sysfs).memory_bytes == 2**30


def test_a_machine_that_says_nothing_is_unknown_and_not_zero(tmp_path):
    found = host.examine(proc=tmp_path, sysfs=tmp_path)
    assert found.memory_bytes is None
    assert found.available_bytes is None
    assert found.usable_processors >= 1


# --- what the doctor claims -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def examined():
    return collect.examine()


def test_energy_is_read_where_the_agent_reads_it(tmp_path):
    rail = tmp_path / "class/hwmon/hwmon3"
    written(rail, name="ina3221", in1_label="VDD_IN", in1_input="5000", curr1_input="1000")
    found = collect.examine(sysfs=tmp_path)
    assert "module input" in str(found.energy[0].scope)
    assert "module input" in diagnosis(found)
    bench = next(entry for entry in found.commands if entry.command == "bench")
    assert not any("energy" in limit for limit in bench.limits)


def test_the_record_survives_being_written(examined):
    assert json.loads(to_json(examined, schema="doctor"))["schema"] == "doctor"


def test_torch_and_torchvision_are_installed_together():
    lines = requirements.install_lines(
        [Library(name="torchvision", needs=">=0.24", problem="operator does not exist")]
    )
    assert lines == (requirements.INSTALL_TORCH,)


def test_a_torch_without_the_torchscript_exporter_limits_export(examined):
    states = requirements.judge_commands(
        examined.machine,
        examined.libraries,
        examined.cuda,
        examined.energy,
        torchscript_exporter=False,
    )
    limited = {state.command for state in states if any("JetPack 6.0" in x for x in state.limits)}
    assert limited == {"compress", "search", "export"}


def test_versions_are_compared_as_numbers():
    assert collect._is_older("2.9.1", ">=2.10")
    assert not collect._is_older("2.10.0+cu130", ">=2.10")
    assert not collect._is_older("1.0", "")


def test_the_measured_figures_are_those_of_the_benchmark():
    with (REPOSITORY / "benchmarks/results/cifar10.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    said = [
        (float(row["minutes"]), int(row["steps"]))
        for row in rows
        if f"{int(row['steps']):,}" in requirements.SLOWER
    ]
    assert sorted(said) == [(4.5, 20147), (15.0, 10800)]
    assert "in 15 minutes" in requirements.SLOWER
    assert "in 4.5" in requirements.SLOWER


def test_bf16_is_decided_as_in_a_run():
    (found,) = re.findall(
        r"flags & (\{[^}]*\})", (REPOSITORY / "distill/compute/device.py").read_text()
    )
    assert set(host.BF16_FLAGS) == ast.literal_eval(found)


def module_path(name):
    parts = name.split(".")[1:]
    path = REPOSITORY / "edgekd" / Path(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported(nodes):
    """Names that are imported when these statements run, not inside functions."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module.startswith("edgekd"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def function_of(module, name):
    """The definition of a function in the source of a module, if it has one."""
    body = ast.parse(module_path(module).read_text()).body
    return next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == name), None)


def imported_by(module, name, seen):
    """What a function imports when it is called, itself or through functions beside it and of the API."""
    function = function_of(module, name)
    if function is None or (module, name) in seen:
        return
    seen.add((module, name))
    yield module
    yield from imported(ast.walk(function))
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            yield from imported_by(module, node.id, seen)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "edgekd":
            yield from imported_by(HOMES[node.attr], node.attr, seen)


def third_party_of(callback):
    """Top-level packages that a command of the command line brings before it does anything."""
    waiting = list(imported_by(callback.__module__, callback.__name__, set()))
    assert waiting, callback
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.startswith("edgekd."):
            path = module_path(name)
            if path.is_file():  # else a name inside a module
                waiting += imported(ast.parse(path.read_text()).body)
    return {name.partition(".")[0] for name in seen}


def test_commands_need_what_they_import():
    modules = {requirements.module_of(name): name for name in collect.requirements()}
    assert modules, "edgekd has no metadata here: it is not installed"
    # Every command imports these through typer or the records: without them there is no doctor.
    always = {"typer", "pydantic", "rich"}
    found = {name: third_party_of(each.callback) for name, each in reference.commands().items()}
    assert {"torch", "numpy"} <= found["distill"]  # through the API
    for name, packages in found.items():
        if name == "doctor":
            continue
        needs = requirements.NEEDS[name.split()[0]]
        needed = {modules[module] for module in packages & set(modules)}
        assert needed - always <= set(needs.libraries), name


def test_nothing_that_is_installed_is_called_missing(tmp_path):
    # Names of distributions and of modules differ: torch-pruning is imported as torch_pruning.
    found = json.loads(run_doctor(tmp_path, "--json").stdout)
    assert [entry["name"] for entry in found["libraries"] if entry["problem"]] == []


def test_nvidias_parser_is_found_and_told_how_it_fails(tmp_path):
    (tmp_path / "tensorrt_rtx.py").write_text("__version__ = '1.7.1.116'\n")
    assert "TensorRT-RTX 1.7.1.116: `edgekd export check` asks it" in run_doctor(tmp_path).stdout
    (tmp_path / "tensorrt_rtx.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
    found = json.loads(run_doctor(tmp_path, "--json").stdout)["tensorrt"]
    assert found["rtx"] is None
    assert "libcudart" in found["rtx_reason"]
