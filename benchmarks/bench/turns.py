"""Two programs that take turns on a machine whose speed others change."""

import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Final

TURN_S: Final = 0.2


def run_in_turns(
    commands: Sequence[Sequence[str]], *, turn_s: float = TURN_S, timeout_s: float = 120.0
) -> list[str]:
    """Run programs together, each stopped (SIGSTOP) while another one runs; what each wrote to stdout.

    What happens to the machine meanwhile so happens to all of them. A call during which the turn ends takes as long as the
    others' turns: a median does not mind, a mean would.

    Raises:
        RuntimeError: one failed, or they take too long.
    """
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        outputs = (first, second)
        running = [
            subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output)
            for words, output in zip(commands, outputs, strict=True)
        ]
        try:
            _alternate(running, turn_s, time.monotonic() + timeout_s)
        finally:
            for process in running:
                process.kill()
                process.wait()
        for words, process in zip(commands, running, strict=True):
            if process.returncode:
                raise RuntimeError(f"{words[0]} ended with code {process.returncode}")
        found = []
        for output in outputs:
            output.seek(0)
            found.append(output.read().decode())
        return found


def _alternate(running: Sequence[subprocess.Popen[bytes]], turn_s: float, deadline: float) -> None:
    for process in running:
        process.send_signal(signal.SIGSTOP)
    while left := [process for process in running if process.poll() is None]:
        for process in left:
            if time.monotonic() > deadline:
                raise RuntimeError("they did not end in time")
            process.send_signal(signal.SIGCONT)
            time.sleep(turn_s)
            process.send_signal(signal.SIGSTOP)
