"""What is measured runs in a child process: this one waits, looks at the machine once a second, and tells how it ended.

A runtime that crashes takes the child with it and not the answer. The parent sleeps in `select`, so that it takes
next to nothing of what is measured, and says how much it took.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional

from edgekd.bench.agent.errors import DIED
from edgekd.bench.agent.state_sampler import StateSampler

INNER = "--inner"
# As timeout(1)
DEADLINE_CODE = 124
_PR_SET_PDEATHSIG = 1


def program() -> List[str]:
    """The command that started this agent: Python, and a folder's `__main__.py` or an archive."""
    flags = (
        ("-S", sys.flags.no_site),
        ("-E", sys.flags.ignore_environment),
        ("-I", sys.flags.isolated),
    )
    return [sys.executable, *[flag for flag, given in flags if given], sys.argv[0]]


def supervise(
    arguments: List[str],
    lines: Any,
    *,
    look: Callable[..., Dict[str, Any]],
    deadline_s: Optional[float],
    watch_stdin: bool,
) -> int:
    """Run the agent's own command in a child, hand its whole lines on, and tell how it ended.

    Args:
        arguments: of the command.
        lines: where whole lines go (text).
        look: at temperatures, clocks and events (`state.looker`).
        deadline_s: after which the child is ended; None: never.
        watch_stdin: end with all that was started once stdin closes: the host is gone, or the link to it.

    Returns:
        The exit code: the child's, or `DIED`'s.
    """
    # Before the fork: a child of a fork should not load libraries
    libc = ctypes.CDLL(None)

    def set_apart() -> None:
        # So that all that it starts can be ended at once
        os.setpgid(0, 0)
        # It goes when this process is killed
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    child = subprocess.Popen(
        [*program(), *arguments, INNER],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        preexec_fn=set_apart,
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _stop(child))
    begin, before = time.monotonic(), time.process_time()
    deadline = None if deadline_s is None else begin + deadline_s
    try:
        looks = StateSampler(look)
        over = _forward(child, lines, deadline, watch_stdin, looks)
        if over:
            _end(child)
    except BaseException:
        _end(child)
        raise
    code = child.wait()
    if over:
        return _report_death(lines, "it did not end within {:g} s".format(deadline_s or 0))
    if code < 0:
        return _report_death(lines, "it was killed by {}".format(_name(-code)))
    if code == 0:
        looks.take(whole=True)
        _say(lines, event="state", **looks.summarize())
        _say(
            lines,
            event="load",
            agent_cpu_s=time.process_time() - before,
            wall_s=time.monotonic() - begin,
        )
    return code


def _forward(
    child: Any, lines: Any, deadline: Optional[float], watch_stdin: bool, looks: StateSampler
) -> bool:
    """Hand on what the child says until it ends; whether it ran too long."""
    source = child.stdout.fileno()
    watched = [source] + ([0] if watch_stdin else [])
    held = b""
    while True:
        if deadline is not None and time.monotonic() >= deadline:
            return True
        if not looks.wait_s():
            looks.take()
        left = looks.wait_s()
        if deadline is not None:
            left = min(left, max(0.0, deadline - time.monotonic()))
        ready, _, _ = select.select(watched, [], [], left)
        if 0 in ready and not os.read(0, 4096):
            _stop(child)
        if source in ready:
            data = os.read(source, 1 << 16)
            if not data:
                return False
            whole, _, held = (held + data).rpartition(b"\n")
            if whole:
                lines.write(whole.decode("utf-8", "replace") + "\n")
                lines.flush()


def _end(child: Any) -> None:
    """End a child and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _stop(child: Any) -> None:
    """Nobody listens any more."""
    _end(child)
    os._exit(128 + signal.SIGTERM)


def _report_death(lines: Any, how: str) -> int:
    message = "The process that runs the model died: {}".format(how)
    _say(lines, event="refused", kind="died", message=message)
    return DIED


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal {}".format(number)


def _say(lines: Any, **fields: Any) -> None:
    told: Dict[str, Any] = fields
    json.dump(told, lines, allow_nan=False)
    lines.write("\n")
    lines.flush()
