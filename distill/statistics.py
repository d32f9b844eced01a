"""Batch-norm: reading a teacher's statistics as images pass, re-estimating a student's.

N images, C channels, H x W pixels.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """All batch-norm layers that carry running statistics, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    }


@dataclass
class Watched:
    """The statistics of the last forward pass, layer by layer."""

    seen: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    stored: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def distance(self) -> Tensor:  # -> ()
        """Sum over layers of the Euclidean distances of means and of variances (DeepInversion, eq. 4).

        Yin et al. 2020; norms are not squared, the variance is the biased one of the batch.
        """
        parts = []
        for name, (mean, variance) in self.seen.items():
            stored_mean, stored_variance = self.stored[name]
            parts.append((mean - stored_mean).norm() + (variance - stored_variance).norm())
        return torch.stack(parts).sum()


@contextlib.contextmanager
def watch_batch_norm(module: nn.Module) -> Iterator[Watched]:
    """Record the mean and variance of every batch-norm layer's *input* for passes inside the block.

    Statistics are taken in float32 whatever the autocast says: variances of half-precision
    inputs overflow.
    """
    watched = Watched()
    handles = []

    def hook(name: str, layer: _BatchNorm) -> torch.utils.hooks.RemovableHandle:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        watched.stored[name] = (layer.running_mean, layer.running_var)

        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            watched.seen[name] = batch_statistics(inputs[0])

        return layer.register_forward_pre_hook(record)

    try:
        handles += [hook(name, layer) for name, layer in batch_norms(module).items()]
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:  # (N, C, ...) -> (C,), (C,)
    """Mean and biased variance of each channel, in float32, differentiable."""
    if x.device.type == "cpu" and x.ndim == 4:
        mean, variance = _CpuStatistics.apply(x)
        return mean, variance
    variance, mean = torch.var_mean(x.float(), dim=_reduced(x), correction=0)
    return mean, variance


class _CpuStatistics(torch.autograd.Function):
    """`var_mean` by the kernels of batch-norm: on the CPU they take a seventh of its time.

    The reduction over a channels-last tensor was two thirds of an inversion step (docs/log.md).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        single = x.detach().float()
        mean, variance = torch.batch_norm_update_stats(single, None, None, 0.0)
        ctx.save_for_backward(single, mean)
        ctx.kind = x.dtype
        return mean, variance

    @staticmethod
    def backward(ctx: Any, for_mean: Tensor, for_variance: Tensor) -> Tensor:  # noqa: ANN401
        # d mean / dx = 1 / n and d variance / dx = 2 (x - mean) / n: an affine map of each channel,
        # which is what batch-norm in evaluation mode computes.
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        scale = 2 * for_variance / count
        offset = for_mean / count - scale * mean
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        grad = functional.batch_norm(x, zero, one, scale, offset, training=False, eps=0.0)
        return grad.to(ctx.kind)


def _reduced(x: Tensor) -> tuple[int, ...]:
    """All dimensions but the channels, which are second."""
    return (0, *range(2, x.ndim))


@torch.no_grad()
def reestimate(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running statistics by the average over `batches` of normalised images (N, C, H, W).

    A student that learned on changing synthetic images ends with statistics of all of them; those
    of the images closest to the teacher's own are nearer to what real images will bring.
    """
    layers = batch_norms(module)
    momenta: Mapping[str, float | None] = {name: layer.momentum for name, layer in layers.items()}
    was_training = module.training
    try:
        for layer in layers.values():
            layer.reset_running_stats()
            layer.momentum = None  # cumulative average
        module.train()
        for images in batches:
            module(images)
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
        module.train(was_training)
