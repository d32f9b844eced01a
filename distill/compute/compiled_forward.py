"""Compiled forward passes, where torch can make them; the same module otherwise, with the reason said."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgekd.distill.compute.device import Compute

Pass = Callable[[Tensor], Tensor]


def compile_forward(
    module: nn.Module, example: Tensor, *, compute: Compute, say: Callable[[str], None]
) -> Pass:
    """A forward pass of a module, compiled; its parameters stay the module's own.

    On CUDA its kernels are replayed as a graph. What it computes differs from the plain pass in the
    last bits.

    Args:
        module: in the mode in which it is called.
        example: images (N, C, H, W) of the shape of later calls.
        compute: where it computes.
        say: takes the reason where it cannot be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException

    mode = "reduce-overhead" if compute.device.type == "cuda" else "default"
    made: Pass = torch.compile(module, mode=mode)
    try:
        with compute.autocast():
            answers = made(example)
        if torch.is_grad_enabled() and answers.requires_grad:
            answers.float().sum().backward()  # type: ignore[no-untyped-call]
            module.zero_grad()
    except (TorchDynamoException, RuntimeError, OSError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        say(f"--compile: the plain pass is used, for torch could not compile it here ({reason})")
        torch.compiler.reset()
        return module
    return made
