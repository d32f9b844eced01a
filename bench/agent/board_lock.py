"""The agent's folder on a board: one user at a time, and nothing left behind but what the next run would send again.

<home>/store/<sha256>   agents, models, vectors, by digest
<home>/engines/         TensorRT engines with their records
<home>/runs/<id>/       of one contact; `pids` in it
<home>/lock             held while a contact lasts
"""

import errno
import fcntl
import os
import select
import shutil
import signal
from typing import Any, Callable, List, Optional

from edgekd.bench.agent.errors import RefusedError

# A host that says nothing for so long is gone, with its link
SILENCE_S = 30.0
PIDS = "pids"

Emit = Callable[..., None]


def hold(home: str, owner: str, emit: Emit, silence_s: float = SILENCE_S) -> None:
    """Keep the board for one host until its end of the pipe closes, then clean up.

    What a contact that was cut left behind goes first: its processes, and its folder.

    Args:
        home: the agent's folder.
        owner: who asks, for who else asks meanwhile.
        emit: told of the folder of this contact.
        silence_s: how long the host may say nothing on stdin.

    Raises:
        RefusedError: somebody else has the board.
    """
    for name in ("store", "engines", "runs"):
        os.makedirs(os.path.join(home, name), mode=0o700, exist_ok=True)
    with open(os.path.join(home, "lock"), "a+", encoding="utf-8") as lock:
        _take(lock, owner)
        cleaned = _clean(os.path.join(home, "runs"))
        folder = os.path.join(home, "runs", "{}-{}".format(os.getpid(), _start_time(os.getpid())))
        os.makedirs(os.path.join(folder, PIDS), mode=0o700)
        signal.signal(signal.SIGTERM, lambda *_: _give_up(folder))
        signal.signal(signal.SIGHUP, lambda *_: _give_up(folder))
        try:
            space = os.statvfs(home)
            emit("held", folder=folder, cleaned=cleaned, free_bytes=space.f_bavail * space.f_frsize)
            _wait(silence_s)
        finally:
            _remove(folder)


def enrol(folder: str) -> None:
    """Let whoever cleans a contact's folder up find this process."""
    with open(os.path.join(folder, PIDS, str(os.getpid())), "w", encoding="ascii") as stream:
        stream.write(_start_time(os.getpid()) or "")


def _take(lock: Any, owner: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        lock.seek(0)
        other = lock.read(200).strip() or "somebody"
        raise RefusedError("busy", "{} is measuring on this board".format(other)) from error
    lock.seek(0)
    lock.truncate()
    lock.write(owner)
    lock.flush()


def _wait(silence_s: float) -> None:
    """Until stdin closes, or nothing came on it for too long."""
    while True:
        ready, _, _ = select.select([0], [], [], silence_s)
        if not ready or not os.read(0, 4096):
            return


def _give_up(folder: str) -> None:
    _remove(folder)
    os._exit(128 + signal.SIGTERM)


def _clean(runs: str) -> int:
    """Remove what other contacts left; how many did. None of them lives: this process has the lock."""
    left = os.listdir(runs)
    for name in left:
        _remove(os.path.join(runs, name))
    return len(left)


def _remove(folder: str) -> None:
    for number in _processes(folder):
        try:
            os.kill(number, signal.SIGTERM)
        except ProcessLookupError:
            continue
    shutil.rmtree(folder)


def _processes(folder: str) -> List[int]:
    """Of a contact, those that still run what they ran: numbers are given again."""
    found = []
    pids = os.path.join(folder, PIDS)
    for name in os.listdir(pids) if os.path.isdir(pids) else []:
        with open(os.path.join(pids, name), encoding="ascii", errors="replace") as stream:
            recorded = stream.read()
        if recorded and _start_time(int(name)) == recorded:
            found.append(int(name))
    return found


def _start_time(number: int) -> Optional[str]:
    """The start time of a process, which its number alone does not tell; None where it has ended."""
    try:
        with open("/proc/{}/stat".format(number), encoding="ascii", errors="replace") as stream:
            # After the name, which may hold anything, in parentheses: field 22 is the start time.
            return stream.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
