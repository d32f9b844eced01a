"""What this machine lets a process have: processors, memory, disk. Read, never guessed.

Control groups are looked at, because a container sees all of its host in `/proc/meminfo` and is
killed long before it reaches that.
"""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgekd.records import record

PROC: Final = Path("/proc")
SYSFS: Final = Path("/sys")
# Instructions that multiply bfloat16: avx512_bf16 and amx_bf16 on x86, bf16 on Arm.
BF16_FLAGS: Final = ("avx512_bf16", "amx_bf16", "bf16")
# That add products of bytes in 32 bits: INT8 for the target x86-vnni needs one of them
VNNI_FLAGS: Final = ("avx512_vnni", "avx_vnni")
# A cgroup 1 without a limit says a number near 2^63; no machine has an exbibyte.
_NO_LIMIT: Final = 2**60


@record
class Machine:
    """None: could not be read."""

    processor: str
    architecture: str
    os: str
    python: str
    processors: int
    # By affinity, and by the quota of the control group
    usable_processors: float
    # Of the machine, or the control group's limit where that is less
    memory_bytes: int | None
    available_bytes: int | None
    # By a control group
    memory_is_limited: bool
    # In the folder it was started in
    disk_free_bytes: int | None
    bf16_instructions: tuple[str, ...]
    vnni_instructions: tuple[str, ...] = ()


def examine(*, proc: Path = PROC, sysfs: Path = SYSFS, folder: Path = Path()) -> Machine:
    """This machine, as this process may use it."""
    words = _cpu_words(proc)
    total, available = _meminfo(proc)
    limit, left = _memory_limit(proc, sysfs)
    limited = limit is not None and (total is None or limit < total)
    return Machine(
        processor=_processor(proc),
        architecture=platform.machine(),
        os=platform.platform(),
        python=platform.python_version(),
        processors=os.cpu_count() or 1,
        usable_processors=_usable(proc, sysfs),
        memory_bytes=limit if limited else total,
        available_bytes=_least(available, left) if limited else available,
        memory_is_limited=limited,
        disk_free_bytes=_disk_free(folder),
        bf16_instructions=tuple(flag for flag in BF16_FLAGS if flag in words),
        vnni_instructions=tuple(flag for flag in VNNI_FLAGS if flag in words),
    )


def _processor(proc: Path) -> str:
    board = _text(proc / "device-tree" / "model")
    if board:
        return board.strip("\0\n ")
    for line in (_text(proc / "cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            return value.strip()
    return "unknown processor"


def _cpu_words(proc: Path) -> set[str]:
    return set((_text(proc / "cpuinfo") or "").split())


def _meminfo(proc: Path) -> tuple[int | None, int | None]:
    """Bytes in all, and what new programs can have without swapping."""
    fields = {}
    for line in (_text(proc / "meminfo") or "").splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB" and words[1].isdigit():
            fields[words[0].rstrip(":")] = int(words[1]) * 1024
    return fields.get("MemTotal"), fields.get("MemAvailable")


def _usable(proc: Path, sysfs: Path) -> float:
    cores: float = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    for group in _groups(proc, sysfs, "cpu"):
        quota = _quota(group)
        if quota is not None:
            cores = min(cores, quota)
    return round(float(cores), 2)


def _quota(group: Path) -> float | None:
    """Processors' worth of time that a control group may take."""
    words = (_text(group / "cpu.max") or "").split()
    if not words:
        words = [_text(group / name) or "" for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    numbers = [_number(word) for word in words]
    if len(numbers) != 2 or not numbers[0] or not numbers[1]:
        # "max", -1 or nothing there
        return None
    return numbers[0] / numbers[1]


def _memory_limit(proc: Path, sysfs: Path) -> tuple[int | None, int | None]:
    """The lowest limit of the control groups that this process is in, and what is left of it."""
    limits: list[int] = []
    lefts: list[int] = []
    for group in _groups(proc, sysfs, "memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit = _number(_text(group / limit_name))
            if limit is None or limit >= _NO_LIMIT:
                continue
            limits.append(limit)
            used = _number(_text(group / used_name))
            if used is not None:
                # File pages that nobody used lately are given back before anything is killed.
                lefts.append(max(0, limit - used + _inactive_file(group)))
    return min(limits, default=None), min(lefts, default=None)


def _inactive_file(group: Path) -> int:
    for line in (_text(group / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name in {"inactive_file", "total_inactive_file"}:
            return _number(value) or 0
    return 0


def _groups(proc: Path, sysfs: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, versions 2 and 1."""
    root = sysfs / "fs" / "cgroup"
    for line in (_text(proc / "self" / "cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        mount = root / controller if names else root
        inside = Path(path.lstrip("/"))
        # Inside a container the path may be the host's and not be there; the top then is ours.
        yield from (mount / part for part in (inside, *inside.parents) if (mount / part).is_dir())


def _disk_free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _least(first: int | None, second: int | None) -> int | None:
    known = [value for value in (first, second) if value is not None]
    return min(known, default=None)


def _number(text: str | None) -> int | None:
    """A whole number of 0 or more; None for `max`, -1 and anything else."""
    text = (text or "").strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
