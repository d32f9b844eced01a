"""Whether calibration images reach what the network saw in training, as its batch-norms remember it.

N images, C channels, H x W pixels.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.export.parity import Array

_PART: Final = 64  # images at a time


def coverage(module: nn.Module, images: Array) -> dict[str, float]:
    """Of each batch-norm, the share of training's values that lie beyond what the images reach.

    Training's values of a channel are taken as normal, with the running mean and variance; the images
    reach from the smallest to the largest value that they cause there. Averaged over channels.

    Args:
        module: evaluation mode, on the CPU.
        images: normalised (N, C, H, W).
    """
    layers = {name: each for name, each in module.named_modules() if isinstance(each, _BatchNorm)}
    reached: dict[str, tuple[Tensor, Tensor]] = {}

    def watching(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def watch(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            values = inputs[0].transpose(0, 1).flatten(1)  # (C, N x H x W)
            low, high = values.amin(1), values.amax(1)
            if name in reached:
                low = torch.minimum(low, reached[name][0])
                high = torch.maximum(high, reached[name][1])
            reached[name] = low, high

        return watch

    hooks = [layer.register_forward_pre_hook(watching(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for start in range(0, len(images), _PART):
                module(torch.from_numpy(np.ascontiguousarray(images[start : start + _PART])))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _outside(layers[name], *found) for name, found in reached.items()}


def _outside(layer: _BatchNorm, low: Tensor, high: Tensor) -> float:
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None  # a batch-norm in evaluation mode without them could not have run
    assert variance is not None
    deviation = (variance + layer.eps).sqrt()
    below = torch.special.ndtr((low - mean) / deviation)
    above = torch.special.ndtr((mean - high) / deviation)
    return float((below + above).mean())
