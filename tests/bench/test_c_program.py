"""The C program that the bench is held against, on a model of one convolution."""

import dataclasses
import subprocess

import numpy as np
import onnxruntime
import pytest

from benchmarks.bench import against_c, c_program
from edgekd.bench.config import BenchConfig
from edgekd.bench.transport.agent_access import AGENT

CONFIG = BenchConfig(
    processes=1, seconds=0.02, max_runs=30, warmup_min_s=0.01, warmup_max_s=0.5, batch=2
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    try:
        c_program.library()
        return c_program.built(tmp_path_factory.mktemp("c"))
    except c_program.NoCompilerError as error:
        pytest.skip(str(error))


def test_it_answers_as_python_does(program, model, tmp_path):
    case = c_program.case_of(model, CONFIG)
    assert case.values.shape == (2, 3, 16, 16)
    command = c_program.command(program, case, CONFIG, tmp_path)
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = c_program.read(printed, tmp_path)
    against_c.check(case, found)
    assert found.version == onnxruntime.__version__
    np.testing.assert_allclose(found.output, case.expected.ravel(), rtol=0, atol=1e-5)
    assert found.warmup_runs >= 50
    assert 1 <= len(found.values_ns) <= 30
    assert min(found.values_ns) > 0


def test_a_pair_is_a_process_of_each(program, model, tmp_path):
    case = c_program.case_of(model, CONFIG)
    pair = against_c.take_pair(program, case, CONFIG, agent=AGENT, folder=tmp_path, ours_first=True)
    assert 0.1 < pair.ratio < 10


def test_an_answer_that_differs_stops_the_comparison(program, model, tmp_path):
    case = c_program.case_of(model, CONFIG)
    wrong = dataclasses.replace(case, expected=case.expected + 1)
    with pytest.raises(RuntimeError, match="output differs"):
        against_c.take_pair(program, wrong, CONFIG, agent=AGENT, folder=tmp_path, ours_first=False)


def test_the_interval_is_of_the_median_of_the_ratios():
    low, high = against_c.interval([0.99, 1.0, 1.01, 1.0, 5.0], seed=0)
    assert 0.99 <= low <= 1.0 <= high <= 5.0
    assert against_c.interval([1.0] * 5, seed=0) == (1.0, 1.0)
