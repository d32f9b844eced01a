"""Where to compute: device and precision, through accelerate."""

import os
from pathlib import Path
from typing import Final, Literal

import torch

from edgekd.distill.engine import Place
from edgekd.errors import MissingToolError, UsageError

DeviceName = Literal["auto", "cpu", "cuda"]
DEVICES: Final[tuple[DeviceName, ...]] = ("auto", "cpu", "cuda")


def choose_place(device: str, *, threads: int | None) -> Place:
    """The device asked for, with bfloat16 autocast where the hardware multiplies in it.

    Decided by what the hardware says, never by timing: a run that was killed must find the same
    precision again.

    Args:
        device: "auto" takes CUDA when there is a device.
        threads: of the CPU; None for all cores that this process may use.

    Raises:
        UsageError: an unknown device, or no threads.
        MissingToolError: CUDA was asked for and is not there.
    """
    from accelerate import Accelerator

    if device not in DEVICES:
        raise UsageError(f"--device {device}: choose from {', '.join(DEVICES)}.")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: at least 1.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("edgekd runs on one device for now: start it without torchrun.")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise MissingToolError(
            "--device cuda: torch sees no CUDA device. Check nvidia-smi and that torch is a CUDA build, "
            "or use --device cpu."
        )
    on_cpu = device == "cpu" or not available
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    bf16 = _cpu_has_bf16() if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="bf16" if bf16 else "no")
    return Place(
        device=accelerator.device,
        precision="bf16" if bf16 else "fp32",
        autocast=accelerator.autocast,
        backward=accelerator.backward,
    )


def _cpu_has_bf16() -> bool:
    """Instructions that multiply bfloat16; without them autocast is slower than float32.

    Read from the kernel: torch says it under another name in each release.
    """
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
