"""Where to compute: device, precision and other processes, through accelerate."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from edgekd.distill.compute.distributed import (
    SINGLE_PROCESS,
    ProcessGroup,
    init_process_group,
    local_world_size,
    world_size,
)
from edgekd.errors import MissingToolError, UsageError

DeviceName = Literal["auto", "cpu", "cuda"]
DEVICES: Final[tuple[DeviceName, ...]] = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where a run computes: device, autocast and backward pass, from accelerate; and with whom."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    autocast: Callable[[], AbstractContextManager[None]]
    backward: Callable[[Tensor], None]
    group: ProcessGroup = SINGLE_PROCESS

    @property
    def rank(self) -> int:
        return self.group.rank

    @property
    def world_size(self) -> int:
        """Processes that compute the run together."""
        return self.group.world_size

    @property
    def is_main(self) -> bool:
        """Whether this process shows and writes."""
        return self.group.is_main

    @property
    def memory_format(self) -> torch.memory_format:
        """How networks and images lie in memory: channels last where that is faster and works.

        Contiguous in float32 on the CPU, where another format corrupted memory in torch 2.15 (docs/log.md).
        """
        plain = self.device.type == "cpu" and self.precision == "fp32"
        return torch.contiguous_format if plain else torch.channels_last

    def synchronize(self) -> None:
        """Until the device has done what it was told; for clocks."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def choose_compute(device: str, *, threads: int | None, several: bool = False) -> Compute:
    """The device asked for, with bfloat16 autocast where the hardware multiplies in it.

    Decided by what the hardware says, never by timing: a run that was killed must find the same
    precision again.

    Args:
        device: "auto" takes CUDA when there is a device.
        threads: of the CPU; None for what OMP_NUM_THREADS says, or all cores that this process may use,
            shared with the others on this machine.
        several: whether the caller can be one process of several.

    Raises:
        UsageError: an unknown device, no threads, or more processes than devices.
        DeviceError: the other processes were not found.
        MissingToolError: CUDA was asked for and is not there.
    """
    from accelerate import Accelerator

    if device not in DEVICES:
        raise UsageError(f"--device {device}: choose from {', '.join(DEVICES)}.")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: at least 1.")
    if world_size() > 1 and not several:
        raise UsageError(
            "only `distill` and `compress` run in several processes: start this without torchrun."
        )
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise MissingToolError(
            "--device cuda: torch sees no CUDA device. Check nvidia-smi and that torch is a CUDA build, "
            "or use --device cpu."
        )
    on_cpu = device == "cpu" or not available
    here = local_world_size()
    if not on_cpu and here > torch.cuda.device_count():
        raise UsageError(
            f"{here} processes on a machine with {torch.cuda.device_count()} CUDA devices: "
            "start one per device, torchrun --nproc-per-node."
        )
    torch.set_num_threads(threads or _threads_wanted(here))
    group = init_process_group(on_cpu=on_cpu)
    bf16 = _cpu_has_bf16() if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="bf16" if bf16 else "no")
    return Compute(
        # With several processes accelerate says cpu:0, which torch.load knows nothing of.
        device=torch.device("cpu") if on_cpu else accelerator.device,
        precision="bf16" if bf16 else "fp32",
        autocast=accelerator.autocast,
        backward=accelerator.backward,
        group=group,
    )


def _threads_wanted(processes: int) -> int:
    """What OMP_NUM_THREADS says, or a share of the cores that this process may use."""
    threads_setting = os.environ.get("OMP_NUM_THREADS", "")
    # torchrun sets it to 1 where nobody did, whatever the machine.
    if processes == 1 and threads_setting.isdigit() and int(threads_setting):
        return int(threads_setting)
    return max(1, len(os.sched_getaffinity(0)) // processes)


def _cpu_has_bf16() -> bool:
    """Instructions that multiply bfloat16; without them autocast is slower than float32.

    Read from the kernel: torch says it under another name in each release.
    """
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
