"""Two processes that compute one run, on the CPU through gloo."""

import functools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgekd.cli.app import app, run
from edgekd.distill.compute.distributed import SINGLE_PROCESS
from edgekd.distill.recipes.adaptation import for_ranks
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.errors import UsageError

HERE = Path(__file__).parent
TEACHER = HERE.parents[2] / "examples" / "mnist" / "teacher.pt"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# Rounds of one step each: what is saved and what stops it need not wait long.
DISTIL = ("distill", TEACHER, "--recipe", "dafl", "--student", "resnet8-w4", "--threads", "1")


def started(*arguments, cwd):
    """A Python of one thread a process."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, timeout_s=300):
    """Its exit code and stderr; never left behind, nor its ranks, which end when it is terminated."""
    try:
        _, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate(timeout=60)
        raise
    return process.returncode, err


def ranks_of(process):
    """Process numbers by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found: dict[int, int] = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {
            int(entry.removeprefix(b"RANK=")): int(child)
            for entry in environment
            if entry.startswith(b"RANK=")
        }
    return found


def saved(process, path, timeout_s=300):
    """Wait for the first checkpoint."""
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """By (ranks, rank), what `ranked.py` found: alone, and as two."""
    folder = tmp_path_factory.mktemp("ranked")
    for more in ((), TORCHRUN):
        code, err = ended(started(*more, HERE / "distributed_program.py", folder, cwd=folder))
        assert code == 0, err
    return {
        (ranks, rank): torch.load(folder / f"{ranks}-{rank}.pt")
        for ranks, rank in ((1, 0), (2, 0), (2, 1))
    }


@pytest.mark.slow
def test_ranks_end_with_the_same_weights_whatever_the_recipe(results):
    first, second = results[2, 0]["digests"], results[2, 1]["digests"]
    assert len(first) == 8
    assert first == second


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(results):
    alone, two = results[1, 0], results[2, 0]
    assert two["history"] == results[2, 1]["history"]
    # Of ten classes; the same images in another order, and batch-norm over halves of a batch.
    assert alone["agreement"] > 0.7
    assert two["agreement"] == pytest.approx(alone["agreement"], abs=0.12)


@pytest.mark.slow
def test_ranks_that_have_parted_leave_no_thread_to_abort_the_process_at_its_end(results):
    for rank in (0, 1):
        assert not [name for name in results[2, rank]["threads"] if "gloo" in name]


@pytest.mark.slow
def test_the_losses_of_a_whole_batch_have_the_gradient_that_they_have_in_one_process(results):
    whole, first, second = (results[key]["gradients"] for key in ((1, 0), (2, 0), (2, 1)))
    close = functools.partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    assert float(whole["shared"].abs().max()) > 0.01
    for part in (first, second):
        close(part["loss"], whole["loss"])
        close(part["shared"], whole["shared"])
    images = torch.cat([first["images"], second["images"]])
    close(images, whole["images"])


@pytest.mark.slow
def test_each_rank_makes_its_own_half_of_a_batch_and_the_first_has_all_in_the_end(results):
    first, second = results[2, 0], results[2, 1]
    assert not torch.equal(first["own images"], second["own images"])
    made = first["images"].shape[0]
    both = torch.cat([first["own images"][:made], second["own images"][:made]], 1)
    assert torch.equal(first["images"], both)
    assert first["batches"] == results[1, 0]["batches"]


@pytest.mark.slow
def test_a_run_of_two_that_was_saved_goes_on_to_the_same_student(results):
    for rank in range(2):
        whole, continued = results[2, rank]["continued"]
        assert continued == whole
    assert results[2, 0]["continued"] != results[2, 1]["continued"]  # each has its own images


def test_a_batch_that_cannot_be_shared_is_refused_with_what_can():
    recipe = RECIPES["pool"]
    assert for_ranks(recipe, 4).learning.batch * 4 == recipe.learning.batch
    odd = replace(recipe, learning=replace(recipe.learning, batch=12))
    with pytest.raises(UsageError, match=r"12 images of a student's step.*1 or 2 or 4: torchrun"):
        for_ranks(odd, 8)


def test_alone_nothing_is_exchanged_or_copied():
    values = torch.rand(3)
    assert SINGLE_PROCESS.all_reduce_mean(values) is values
    assert SINGLE_PROCESS.gather(values) is values
    assert (
        SINGLE_PROCESS.broadcast_number(0.1),
        SINGLE_PROCESS.all_reduce_max(3),
        SINGLE_PROCESS.all_reduce_sum([1, 2]),
    ) == (0.1, 3, [1, 2])


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_with_a_message_and_the_same_command_goes_on(tmp_path):
    command = (*TORCHRUN, "-m", "edgekd", *DISTIL, "--minutes", "0.12", "--out", "s")
    process = started(*command, cwd=tmp_path)
    saved(process, tmp_path / "s.run" / "state.pt")
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    code, err = ended(process, timeout_s=60)
    assert code != 0
    assert "another process of this job was lost" in err
    assert "same command continues" in err
    assert not (tmp_path / "s").exists()
    code, err = ended(started(*command, cwd=tmp_path))
    assert code == 0, err
    assert "goes on from step" in err
    assert "rank 1" not in err
    assert {path.name for path in tmp_path.iterdir()} == {"s"}


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_after_the_same_round(tmp_path, capfd):
    command = (*TORCHRUN, "-m", "edgekd", *DISTIL, "--steps", "100000", "--out", "s")
    process = started(*command, cwd=tmp_path)
    saved(process, tmp_path / "s.run" / "state.pt")
    os.kill(ranks_of(process)[1], signal.SIGTERM)
    code, err = ended(process, timeout_s=60)
    assert code != 0
    assert err.count("interrupted. Nothing is half written; the same command continues.") == 1
    assert "was lost" not in err
    # One process may not go on with what two have begun.
    alone = [*map(str, DISTIL), "--steps", "100000", "--out", str(tmp_path / "s")]
    assert run(lambda: app(alone, standalone_mode=False)) == 2
    assert "(different: ranks)" in capfd.readouterr().err


def test_other_commands_are_refused_under_torchrun(tmp_path):
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    process = subprocess.run(
        [sys.executable, "-m", "edgekd", "synthesize", TEACHER, "--count", "10"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 2
    assert "without torchrun" in process.stderr
