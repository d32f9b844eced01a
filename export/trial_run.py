"""Whether ONNX Runtime runs a file, which to load it does not tell: shapes of weights are compared while it runs.

The run is in a process of its own (`trial_process`), with limits on time and memory.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgekd.export.tensorrt_rules import Violation
from edgekd.records import printable

# Of one file, two images; a network of billions of MACs takes seconds
TIMEOUT_S: Final = 120.0
# Of the memory that is free, so that the machine goes on
_MEMORY_SHARE: Final = 0.8
_LONGEST: Final = 300


def run_once(path: Path, *, timeout_s: float = TIMEOUT_S) -> tuple[Violation, ...]:
    """What stops ONNX Runtime from running a file on zeros and noise; empty where nothing does.

    Args:
        path: of the file, with its external data beside it.
        timeout_s: seconds that it may take; then whether it runs is not known, and that is said.
    """
    command = [sys.executable, "-m", "edgekd.export.trial_process", str(path.resolve())]
    try:
        ended = subprocess.run(
            [*command, str(_memory_limit())],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return (_not_seen(f"one image takes longer than {timeout_s:.0f} s"),)
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        return (_refused("session", f"ONNX Runtime dies of it ({name})"),)
    lines = ended.stdout.decode(errors="replace").strip().splitlines()
    if ended.returncode != 0 or not lines:
        words = ended.stderr.decode(errors="replace").strip().splitlines()
        if words and "MemoryError" in words[-1]:
            return (_not_seen("it needs more memory than is free"),)
        return (_not_seen(printable(words[-1] if words else "no answer")[:_LONGEST]),)
    return tuple(_violations(json.loads(lines[-1])))


def _violations(answer: dict[str, Any]) -> Iterator[Violation]:
    stage = answer["stage"]
    lines = str(answer.get("error", "")).strip().splitlines()
    words = printable(lines[0] if lines else "")[:_LONGEST]
    if stage == "session":
        yield _refused("session", words)
    elif stage == "memory" or "bad_alloc" in words or "Failed to allocate memory" in words:
        yield _not_seen("it needs more memory than is free")
    elif stage == "inputs":
        yield _not_seen(words)
    elif stage == "run" and answer["guessed"]:
        yield _not_seen(f"its input is of open size, and one of 224 pixels fails: {words}")
    elif stage == "run":
        yield _refused("run", f"ONNX Runtime starts and fails to run it: {words}")
    elif not answer["finite"]:
        yield Violation(
            rule="not finite",
            where="model",
            message="its answers to zeros or noise are NaN or infinite",
            advice="look at the weights, or at a logarithm or division without a bound",
            refuses=False,
        )


def _refused(rule: str, message: str) -> Violation:
    return Violation(
        rule=rule, where="model", message=message, advice="export again for this target"
    )


def _not_seen(why: str) -> Violation:
    return Violation(
        rule="not run",
        where="model",
        message=f"whether ONNX Runtime runs it was not seen: {why}",
        advice="run it on the board",
        refuses=False,
    )


def _memory_limit() -> int:
    """Bytes of address space; 0 where the system does not say what is free."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return int(found[0] * 1024 * _MEMORY_SHARE) if found else 0
