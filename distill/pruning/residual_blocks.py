"""Residual blocks that can be left out whole: what goes in is what comes out, plus what the block adds."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from edgekd.distill.pruning.residual_sums import is_alike


@torch.no_grad()
def find_removable(network: nn.Module, images: Tensor) -> dict[str, float]:
    """Blocks that give back what they take when all their weights are zero, and how much each adds.

    Such a block is a sum of a branch and of its own input; without it the shortcut is left. No name or class says
    which these are: each module is tried.

    Args:
        network: in evaluation mode; it is copied.
        images: (N, C, H, W) normalised, that the blocks are seen at.

    Returns:
        By name, in the order of the pass, how far what comes out is from what goes in: norm of the difference over
        norm of the input (Veit et al., NeurIPS 2016, leave blocks out; the measure is that of "block influence").
    """
    tried = copy.deepcopy(network).eval()
    seen = _record_blocks(tried, images)
    found: dict[str, float] = {}
    # Inner ones first: a sequence of blocks is like one, and is not left out in one
    for name, (taken, given) in reversed(seen.items()):
        if any(inner.startswith(f"{name}.") for inner in found):
            continue
        block = tried.get_submodule(name)
        emptied = copy.deepcopy(block)
        _empty(emptied)
        if is_alike(emptied(taken), taken):
            found[name] = float((given - taken).norm() / taken.norm().clamp_min(1e-12))
    return {name: found[name] for name in seen if name in found}


def _record_blocks(network: nn.Module, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What modules with weights take and give, where both are of one shape; outer ones first."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str) -> "object":
        def hook(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if (
                len(inputs) != 1
                or not isinstance(inputs[0], Tensor)
                or not isinstance(output, Tensor)
            ):
                return
            if inputs[0].shape == output.shape and name not in seen:
                seen[name] = (inputs[0].clone(), output.clone())

        return hook

    handles = []
    for name, module in network.named_modules():
        inner = sum(1 for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear))
        if name and inner > 1:
            handles.append(module.register_forward_hook(record(name)))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    order = [name for name, _ in network.named_modules() if name in seen]
    return {name: seen[name] for name in order}


def _empty(block: nn.Module) -> None:
    """All weights to zero, and running statistics to those that change nothing."""
    for parameter in block.parameters():
        parameter.zero_()
    for part in block.modules():
        if isinstance(part, _NormBase):
            if part.running_mean is not None:
                part.running_mean.zero_()
            if part.running_var is not None:
                part.running_var.fill_(1.0)
