"""What a teacher makes of images on the way to its logits: penultimate features, tokens of attention.

N images, C channels, H x W places, F features, K classes, P patches, D sizes of a token.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from edgekd.distill.models.networks import find_head
from edgekd.distill.teachers.pt2.interpreter import Program
from edgekd.errors import UsageError

# --- penultimate features ------------------------------------------------------------------------


@dataclass
class WatchedFeatures:
    """What the last forward pass fed to the layer that makes the logits."""

    features: Tensor = field(init=False)  # (N, F)


def has_features(module: nn.Module, *, classes: int) -> bool:
    """Whether `watch_features` finds a layer that makes the logits."""
    return _head(module, classes) is not None


@contextlib.contextmanager
def watch_features(module: nn.Module, *, classes: int) -> Iterator[WatchedFeatures]:
    """Record the penultimate features of passes inside the block, with their gradients.

    They are the input of the last linear layer that gives `classes` numbers, or of the last such
    convolution where there is none, averaged over places: also in what is read from `.pt2` and ONNX.
    TorchScript, and programs that torch itself unpickled, show no layers.

    Raises:
        UsageError: there is no such layer.
    """
    layer = _head(module, classes)
    if layer is None:
        raise UsageError(
            f"no linear or convolutional layer of the teacher makes {classes} logits, so its features cannot "
            "be read. Recipes with activation, contrastive or feature-alignment terms (those after DAFL, "
            "PRE-DFKD and CMI, and all with condensed or real images) need them: take another recipe, or "
            "give the weights with --arch."
        )
    watched = WatchedFeatures()

    def record(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        watched.features = _pool(inputs[0], channels_last=isinstance(part, nn.Linear))

    handle = layer.register_forward_pre_hook(record)
    try:
        yield watched
    finally:
        handle.remove()


def _head(module: nn.Module, classes: int) -> nn.Module | None:
    """The layer whose input is the features."""
    if isinstance(module, Program):
        return module.edgekd_before_head
    return find_head(module, classes=classes)


def _pool(x: Tensor, *, channels_last: bool) -> Tensor:  # (N, F), (N, ..., F), (N, F, H, W)
    """Averaged over places (N, F): what a linear layer makes of each place is averaged after it."""
    if x.ndim == 2:
        return x
    return x.flatten(1, -2).mean(1) if channels_last else x.flatten(2).mean(2)


# --- tokens of attention -------------------------------------------------------------------------


@dataclass
class WatchedAttention:
    """What the attention of each block gave in the last forward pass, in the order of the pass."""

    tokens: list[Tensor] = field(default_factory=list)  # (N, P, D) each


def has_attention(module: nn.Module) -> bool:
    """Whether it has layers of attention by their names; what they give is seen in a pass."""
    return bool(_attention(module))


@contextlib.contextmanager
def watch_attention(module: nn.Module) -> Iterator[WatchedAttention]:
    """Record the outputs (N, P, D) of attention layers for passes inside the block, with gradients.

    A first token is taken for that of the class, and left out, where the others fill a square.
    """
    watched = WatchedAttention()

    def start(*_: object) -> None:
        watched.tokens = []

    def record(layer: nn.Module, _: object, output: Any) -> None:  # noqa: ANN401
        x = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(x, Tensor) or x.ndim != 3:
            return
        if isinstance(layer, nn.MultiheadAttention) and not layer.batch_first:
            x = x.transpose(0, 1)
        watched.tokens.append(_patches(x))

    handles = [module.register_forward_pre_hook(start)]
    try:
        handles += [layer.register_forward_hook(record) for layer in _attention(module)]
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def _attention(module: nn.Module) -> list[nn.Module]:
    """The innermost modules that are called attention; those of maps, and pooling, give no tokens."""

    def named(part: nn.Module) -> bool:
        name = type(part).__name__
        return "Attention" in name and "Pool" not in name and not name.endswith("2d")

    return [
        part
        for part in module.modules()
        if named(part) and not any(named(inner) for inner in part.modules() if inner is not part)
    ]


def _patches(x: Tensor) -> Tensor:  # (N, P, D) or (N, P + 1, D) -> (N, P, D)
    others = x.shape[1] - 1
    return x[:, 1:] if others > 0 and math.isqrt(others) ** 2 == others else x
