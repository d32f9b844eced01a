"""What this process holds in memory, from /proc."""

import gc
import os
from typing import Dict, Optional, Union

from edgekd.bench.agent import board

# Private pages are this process's alone; their sum is the USS.
_PRIVATE = ("Private_Clean", "Private_Dirty")


def memory_of(proc: str) -> Dict[str, Union[int, str, None]]:
    """Bytes: `pss`, `uss`, `peak_rss`; None where it cannot be read, and `reason` then says why."""
    gc.collect()
    reason: Optional[str] = None
    pss: Optional[int] = None
    uss: Optional[int] = None
    path = os.path.join(proc, "self", "smaps_rollup")  # Linux 4.14
    try:
        fields = _kibibytes(path)
        pss = fields["Pss"]
        uss = sum(fields[name] for name in _PRIVATE)
    except (OSError, KeyError, ValueError) as error:
        reason = "{} cannot be read ({})".format(path, _cause(error))
    return {"pss": pss, "uss": uss, "peak_rss": _peak_rss(proc), "reason": reason}


class BoardMemory:
    """How far a board's memory shrinks: GPU and CPU of a Jetson share it, and no process owns all that it takes.

    MemAvailable, not MemFree, which leaves out the page cache; NvMapMemUsed where the GPU's driver counts.
    """

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self._before = self._least = board.memory_bytes(proc, "MemAvailable")
        self._gpu_before = self._gpu_most = board.memory_bytes(proc, "NvMapMemUsed")

    def look(self) -> None:
        """Take the state of now into account."""
        available = board.memory_bytes(self._proc, "MemAvailable")
        gpu = board.memory_bytes(self._proc, "NvMapMemUsed")
        if available is not None and self._least is not None:
            self._least = min(self._least, available)
        if gpu is not None and self._gpu_most is not None:
            self._gpu_most = max(self._gpu_most, gpu)

    def measure_growth(self) -> Dict[str, Optional[int]]:
        """Bytes since the start, at the worst; negative where others gave memory back meanwhile."""
        return {
            "board": None
            if self._before is None or self._least is None
            else self._before - self._least,
            "gpu": None
            if self._gpu_before is None or self._gpu_most is None
            else self._gpu_most - self._gpu_before,
        }


def _peak_rss(proc: str) -> Optional[int]:
    try:
        return _kibibytes(os.path.join(proc, "self", "status"))["VmHWM"]
    except (OSError, KeyError, ValueError):
        pass
    try:
        # Trimmed images of Python leave the module out.
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _kibibytes(path: str) -> Dict[str, int]:
    """The `Name:  123 kB` lines of a file, in bytes."""
    fields = {}
    with open(path, encoding="ascii", errors="replace") as stream:
        for line in stream:
            words = line.split()
            if len(words) == 3 and words[2] == "kB":
                fields[words[0].rstrip(":")] = int(words[1]) * 1024
    return fields


def _cause(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "no {} line".format(error.args[0])
    return getattr(error, "strerror", None) or str(error)
