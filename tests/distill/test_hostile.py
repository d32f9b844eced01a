"""Every hostile file is refused in a process of its own: no code run, little memory taken."""

import re
import resource
import subprocess
import sys

import pytest

from tests.distill.hostile import KINDS

DESCRIBED = {
    "a_module_saved_whole_that_creates_a_file_when_built",
    "a_scripted_module",
    "a_program_whose_sample_inputs_run_code",
}
MEMORY_BYTES = 1_000_000_000
# The figure is the child's own, read before it ends; other children of the tests do not count.
PROGRAM = """
import resource, sys
from edgekd.cli import app as cli
code = cli.run(lambda: cli.app(sys.argv[1:], standalone_mode=False))
sys.stderr.write(f"\\npeak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}\\n")
sys.exit(code)
"""


def described(path, folder):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "teacher", "describe", str(path), "--no-write"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        # Twice what is allowed: a file that takes more fails here and not on somebody's machine.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY_BYTES,) * 2),
    )


@pytest.mark.parametrize("name", list(KINDS))
def test_hostile_files_are_refused_unrun_and_cheaply(tmp_path, name):
    folder = tmp_path / "files"
    folder.mkdir()
    make, message = KINDS[name]
    path = make(folder)
    found = described(path, folder)
    told = found.stdout + found.stderr
    assert not (folder / "created").exists(), told
    assert re.search(message, told), told
    assert "Traceback" not in told
    # What can be described without its code is described, and its code left alone.
    assert found.returncode == (0 if name in DESCRIBED else 2), told
    peak = int(found.stderr.rpartition("peak ")[2])
    assert peak < MEMORY_BYTES, f"{peak:,} bytes"


def test_there_are_thirty_kinds_and_more():
    assert len(KINDS) >= 30
