"""Batch-norm: reading a teacher's statistics as images pass, re-estimating a student's.

N images, C channels, H x W pixels.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.distill.compute.distributed import SINGLE_PROCESS, ProcessGroup


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """All batch-norm layers that carry running statistics, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    }


@dataclass
class BatchStatistics:
    """The statistics of the last forward pass, layer by layer."""

    seen: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    stored: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def distance(
        self, *, first: float = 1.0, group: ProcessGroup = SINGLE_PROCESS
    ) -> Tensor:  # -> ()
        """Sum over layers of the Euclidean distances of means and of variances (DeepInversion, eq. 4).

        Yin et al. 2020; norms are not squared, the variance is the biased one of the batch.

        Args:
            first: weight of the first layer, which sees the images themselves.
            group: whose batches, of one size, are one batch.
        """
        parts: list[Tensor] = []
        for means, variances in self._of_all(group):
            apart = means.norm() + variances.norm()
            parts.append(apart if parts else first * apart)
        return torch.stack(parts).sum()

    # [(C,), (C,)]
    def _of_all(self, group: ProcessGroup) -> list[tuple[Tensor, Tensor]]:
        """For each layer, how far means and variances of the whole batch are from what is stored."""
        pairs = [(*found, *self.stored[name]) for name, found in self.seen.items()]
        means = [mean - stored for mean, _, stored, _ in pairs]
        if group.is_single:
            return [
                (apart, variance - stored)
                for apart, (_, variance, _, stored) in zip(means, pairs, strict=True)
            ]
        # Second moments about the stored means: about zero they would lose most of their digits
        # where a channel's mean is far larger than its deviation.
        moments = [
            variance + apart.square()
            for apart, (_, variance, _, _) in zip(means, pairs, strict=True)
        ]
        sizes = [len(mean) for mean in means]
        found = group.all_reduce_mean(torch.cat([*means, *moments]), alike=True)
        parts = torch.split(found, [*sizes, *sizes])
        return [
            (apart, moment - apart.square() - stored)
            for apart, moment, (_, _, _, stored) in zip(
                parts[: len(sizes)], parts[len(sizes) :], pairs, strict=True
            )
        ]


@contextlib.contextmanager
def watch_batch_norm(module: nn.Module) -> Iterator[BatchStatistics]:
    """Record the mean and variance of every batch-norm layer's *input* for passes inside the block.

    Statistics are taken in float32 whatever the autocast says: variances of half-precision
    inputs overflow.
    """
    watched = BatchStatistics(stored=_running_statistics(module))

    def record(name: str, values: Tensor) -> None:
        watched.seen[name] = batch_statistics(values)

    with _record_inputs(module, record):
        yield watched


@dataclass
class InputRanges:
    """The smallest and largest input of each channel of every batch-norm layer, over all passes."""

    stored: dict[str, tuple[Tensor, Tensor]]
    # Variance, by layer, above which a channel says anything
    least: dict[str, float]
    lowest: dict[str, Tensor] = field(default_factory=dict)
    highest: dict[str, Tensor] = field(default_factory=dict)

    def outside(self) -> dict[str, float]:
        """Of each layer, the share of training's values that lie beyond what was reached.

        Those of a channel are taken as normal, with the running mean and variance; averaged over channels.
        """
        return {name: self._outside(name) for name in self.lowest}

    def _outside(self, name: str) -> float:
        mean, variance = self.stored[name]
        # A channel that hardly changed in training has no tails: what came before it is dead.
        varied = variance > self.least[name]
        deviation = torch.where(varied, variance, 1.0).sqrt()
        below = torch.special.ndtr((self.lowest[name] - mean) / deviation)
        above = torch.special.ndtr((mean - self.highest[name]) / deviation)
        return min(1.0, float(torch.where(varied, below + above, 0.0).mean()))


@contextlib.contextmanager
def watch_reach(module: nn.Module) -> Iterator[InputRanges]:
    """Record how far the inputs of every batch-norm layer reach, in all passes inside the block."""
    reached = InputRanges(
        stored=_running_statistics(module),
        least={name: layer.eps for name, layer in batch_norms(module).items()},
    )

    def record(name: str, values: Tensor) -> None:
        channels = values.detach().float().transpose(0, 1).flatten(1)  # (C, N x H x W)
        low, high = channels.amin(1), channels.amax(1)
        reached.lowest[name] = torch.minimum(reached.lowest.get(name, low), low)
        reached.highest[name] = torch.maximum(reached.highest.get(name, high), high)

    with _record_inputs(module, record):
        yield reached


def _running_statistics(module: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Running means and variances by layer."""
    found = {}
    for name, layer in batch_norms(module).items():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        found[name] = (layer.running_mean, layer.running_var)
    return found


@contextlib.contextmanager
def _record_inputs(module: nn.Module, record: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `record` with each batch-norm layer's name and input, for passes inside the block."""
    handles = []

    def hook(name: str, layer: _BatchNorm) -> torch.utils.hooks.RemovableHandle:
        def record_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            record(name, inputs[0])

        return layer.register_forward_pre_hook(record_input)

    try:
        handles += [hook(name, layer) for name, layer in batch_norms(module).items()]
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:  # (N, C, ...) -> (C,), (C,)
    """Mean and biased variance of each channel, in float32, differentiable."""
    if x.device.type == "cpu" and x.ndim == 4:
        mean, variance = _CpuStatistics.apply(x)
        return mean, variance
    variance, mean = torch.var_mean(x.float(), dim=_reduction_dims(x), correction=0)
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


def _reduction_dims(x: Tensor) -> tuple[int, ...]:
    """All dimensions but the channels, which are second."""
    return (0, *range(2, x.ndim))


def train(module: nn.Module, *, frozen_statistics: bool) -> None:
    """Put a network into training mode; batch-norm may keep its running statistics, and normalise by them."""
    module.train()
    if frozen_statistics:
        for layer in batch_norms(module).values():
            layer.eval()


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
            # Cumulative average
            layer.momentum = None
        module.train()
        for images in batches:
            module(images)
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
        module.train(was_training)
