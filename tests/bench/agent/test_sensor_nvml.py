import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.bench import agent
from edgekd.bench.agent import sensor_nvml
from edgekd.bench.agent.sensor import Place
from tests.standin.nvml import build_nvml

MAIN = Path(agent.__file__).parent / "__main__.py"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build_nvml(tmp_path_factory.mktemp("nvml") / "lib")


@pytest.fixture
def ask(library, tmp_path):
    """What a process that loads the stand-in says of its power."""

    def sample(kind, *more):
        environment = os.environ | {"LD_LIBRARY_PATH": str(library), "NVML_STANDIN": kind}
        trees = ["--sysfs", str(tmp_path), "--proc", str(tmp_path), "--root", str(tmp_path)]
        done = subprocess.run(
            [sys.executable, MAIN, "sample", "--on-gpu", "--seconds", "0.3", *trees, *more],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        said = [json.loads(line) for line in done.stdout.splitlines()]
        return {each["event"]: each for each in said}

    return sample


def test_a_card_counts_its_energy(ask):
    said = ask("card")
    sensor = said["sensor"]
    assert sensor["name"] == "NVML energy counter"
    assert sensor["kind"] == "counter"
    assert "Stand-in 9000" in sensor["scope"]
    assert sensor["settle_s"] == 2.0
    counts = said["power"]["values"][0]
    assert counts[-1] - counts[0] in {10000 * steps for steps in range(1, 6)}


def test_a_card_without_a_counter_says_its_power_of_the_moment(ask):
    said = ask("no-counter")
    assert said["sensor"]["name"] == "NVML power"
    assert set(said["power"]["values"][0]) == {100000}


def test_an_average_of_a_second_says_that_it_is_one_and_is_waited_for(ask):
    sensor = ask("average")["sensor"]
    assert sensor["name"] == "NVML power (average of a second)"
    assert sensor["interval_s"] == 1.0
    assert sensor["settle_s"] == 2.0


def test_a_jetson_whose_library_starts_and_reads_nothing_has_no_sensor_in_it(ask):
    reason = ask("jetson")["no-energy"]["reason"]
    assert "NVML: nvmlDeviceGetTotalEnergyConsumption: not supported" in reason


def test_a_card_that_is_not_there_and_a_driver_that_is_not_running(ask):
    assert "card 3: NVML error 2" in ask("card", "--gpu", "3")["no-energy"]["reason"]
    assert "nvmlInit: NVML error 9" in ask("no-driver")["no-energy"]["reason"]


def test_heat_clock_and_throttling_of_a_card(library):
    script = (
        "from edgekd.bench.agent import sensor_nvml as nvml; print(nvml.state_of(nvml.Card(0)))"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(library), "NVML_STANDIN": "card"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(61, 1980, ['GPU hardware thermal slowdown'])"


def test_a_machine_without_the_library_says_so(monkeypatch):
    monkeypatch.setattr(sensor_nvml, "NAME", "libnvidia-ml-that-is-not-there.so")
    sensor, reason = sensor_nvml.find(Place("/", "/", "/"))
    assert sensor is None
    assert "cannot open shared object" in reason
    assert sensor_nvml.card_or_none(0) is None
