"""What an engine is bound to beside TensorRT: the board, its software and its memory."""

import os
import re
from typing import Optional

MIB = 2**20
LEAST_WORKSPACE = 64 * MIB
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")


def l4t(root: str) -> Optional[str]:
    """The release of a Jetson's software ("36.4.3"); None elsewhere."""
    try:
        with open(
            os.path.join(root, "etc", "nv_tegra_release"), encoding="ascii", errors="replace"
        ) as stream:
            found = _RELEASE.search(stream.read())
    except OSError:
        return None
    return "{}.{}".format(*found.groups()) if found else None


def memory_bytes(proc: str, field: str) -> Optional[int]:
    """A line of /proc/meminfo, in bytes."""
    try:
        with open(os.path.join(proc, "meminfo"), encoding="ascii", errors="replace") as stream:
            for line in stream:
                words = line.split()
                if words[:1] == [field + ":"]:
                    return int(words[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def workspace_bytes(proc: str) -> int:
    """What the builder may take: 256 MiB on a board of 4 GB.

    A sixteenth of the memory, which CPU and GPU of a Jetson share, and at most half of what is free.
    """
    total, free = memory_bytes(proc, "MemTotal"), memory_bytes(proc, "MemAvailable")
    wanted = (total or 0) // 16
    if free is not None:
        wanted = min(wanted, free // 2)
    return max(LEAST_WORKSPACE, wanted)
