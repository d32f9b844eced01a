"""A network with only those channels, heads and blocks that a record of a cut keeps.

No library is asked: a student is rebuilt from its record alone, years after it was cut.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from edgekd.distill.models.networks import PadShortcut
from edgekd.errors import InputFileError
from edgekd.records import Cut, LayerCut

Positions = Sequence[int]

# Layers whose channels can be cut; of each, what its outputs are called.
NORMS: Final = (_NormBase, nn.LayerNorm, nn.GroupNorm)
LAYERS: Final = (_ConvNd, nn.Linear, *NORMS, nn.PReLU, PadShortcut)


def is_cuttable(layer: nn.Module) -> bool:
    """Whether `apply_cut` knows how to cut this layer."""
    if isinstance(layer, _ConvNd):
        return not layer.transposed
    if isinstance(layer, nn.LayerNorm):
        return len(layer.normalized_shape) == 1
    return isinstance(layer, LAYERS)


def is_attention(layer: nn.Module) -> bool:
    """Whether its heads can be cut: self-attention with one matrix for queries, keys and values, as timm writes it."""
    found: Any = layer
    return (
        isinstance(getattr(layer, "qkv", None), nn.Linear)
        and isinstance(getattr(layer, "proj", None), nn.Linear)
        and isinstance(getattr(layer, "num_heads", None), int)
        # Older ones take the width of their input for that of their heads
        and found.qkv.out_features
        == 3 * found.proj.in_features
        == 3 * getattr(layer, "attn_dim", 0)
        and getattr(layer, "gate", None) is None
        and isinstance(getattr(layer, "norm", nn.Identity()), nn.Identity)
        and not any(True for _ in layer.named_parameters(recurse=False))
    )


def apply_cut(network: nn.Module, cut: Cut, *, origin: str = "the cut") -> nn.Module:
    """Cut a network in place, and give it back.

    Args:
        network: of the cut's architecture; its weights are kept where they stay.
        cut: the record, which may come from a file that nobody vouches for.
        origin: what the record is called in messages.

    Raises:
        InputFileError: the record names what the network has not.
    """
    for name, kept in cut.layers.items():
        layer = _find(network, name, origin)
        try:
            _replace(network, name, _cut_layer(layer, kept))
        except ValueError as error:
            raise InputFileError(f"{origin}: layer {name}: {error}.") from error
    for name in cut.removed:
        _find(network, name, origin)
        _replace(network, name, nn.Identity())
    return network


def _find(network: nn.Module, name: str, origin: str) -> nn.Module:
    try:
        found = network.get_submodule(name) if name else None
    except AttributeError:
        found = None
    if found is None:
        raise InputFileError(
            f"{origin}: the network has no layer {name!r}. Is the record that of another teacher?"
        )
    return found


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    holder = network.get_submodule(parent)
    if holder._modules[last] is not layer:
        holder._modules[last] = layer


def _cut_layer(layer: nn.Module, kept: LayerCut) -> nn.Module:
    if kept.heads is not None:
        return _cut_heads(layer, kept.heads)
    for kinds, cutter in _CUTTERS:
        if isinstance(layer, kinds):
            return cutter(layer, kept)
    raise ValueError(f"{type(layer).__name__} cannot be cut")


def _check(positions: Positions | None, count: int) -> tuple[int, ...]:
    """Positions as they may be used: of `count`, in order, at least one."""
    if positions is None:
        return tuple(range(count))
    rising = all(first < second for first, second in itertools.pairwise(positions))
    if not positions or not rising or positions[-1] >= count:
        raise ValueError(f"positions should rise from 0 to below {count}, and there should be some")
    return tuple(positions)


def _take(tensor: Tensor, positions: Positions, dim: int = 0) -> Tensor:
    return tensor.index_select(dim, torch.tensor(positions, device=tensor.device))


def _set(layer: nn.Module, name: str, positions: Positions, dim: int = 0) -> None:
    """Keep these positions of a parameter or buffer, where the layer has it."""
    found = getattr(layer, name, None)
    if isinstance(found, nn.Parameter):
        taken = _take(found.detach(), positions, dim).contiguous()
        setattr(layer, name, nn.Parameter(taken, requires_grad=found.requires_grad))
    elif isinstance(found, Tensor):
        setattr(layer, name, _take(found, positions, dim).contiguous())


def _cut_conv(layer: Any, kept: LayerCut) -> nn.Module:  # noqa: ANN401  # kinds share attributes, no base
    outputs = _check(kept.outputs, layer.out_channels)
    depthwise = layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels
    if depthwise:
        inputs = outputs
        layer.groups = len(outputs)
    else:
        inputs = _check(kept.inputs, layer.in_channels)
        _set(layer, "weight", _same_in_each(inputs, layer.in_channels, layer.groups), 1)
        _same_in_each(outputs, layer.out_channels, layer.groups)
    for name in ("weight", "bias"):
        _set(layer, name, outputs)
    layer.in_channels, layer.out_channels = len(inputs), len(outputs)
    return layer  # type: ignore[no-any-return]


def _same_in_each(positions: Positions, count: int, sections: int) -> tuple[int, ...]:
    """Positions within a section of the channels, the same in each of them."""
    size = count // sections
    parts = [
        tuple(position - start for position in positions if start <= position < start + size)
        for start in range(0, count, size)
    ]
    if len(set(parts)) != 1:
        raise ValueError(f"what is kept should be the same in each of {sections} groups")
    return parts[0]


def _cut_linear(layer: nn.Linear, kept: LayerCut) -> nn.Module:
    outputs = _check(kept.outputs, layer.out_features)
    inputs = _check(kept.inputs, layer.in_features)
    _set(layer, "weight", inputs, 1)
    for name in ("weight", "bias"):
        _set(layer, name, outputs)
    layer.in_features, layer.out_features = len(inputs), len(outputs)
    return layer


def _cut_norm(layer: Any, kept: LayerCut) -> nn.Module:  # noqa: ANN401
    if isinstance(layer, nn.GroupNorm):
        outputs = _check(kept.outputs, layer.num_channels)
        _same_in_each(outputs, layer.num_channels, layer.num_groups)
        layer.num_channels = len(outputs)
    elif isinstance(layer, nn.LayerNorm):
        outputs = _check(kept.outputs, layer.normalized_shape[-1])
        layer.normalized_shape = (len(outputs),)
    else:
        outputs = _check(kept.outputs, layer.num_features)
        layer.num_features = len(outputs)
    for name in ("weight", "bias", "running_mean", "running_var"):
        _set(layer, name, outputs)
    return layer  # type: ignore[no-any-return]


def _cut_prelu(layer: nn.PReLU, kept: LayerCut) -> nn.Module:
    if layer.num_parameters > 1:
        outputs = _check(kept.outputs, layer.num_parameters)
        _set(layer, "weight", outputs)
        layer.num_parameters = len(outputs)
    return layer


def _cut_padding(layer: PadShortcut, kept: LayerCut) -> nn.Module:
    """A 1x1 convolution that selects: what is left of padded channels is no longer in one piece."""
    inputs = _check(kept.inputs, layer.inputs)
    outputs = _check(kept.outputs, layer.outputs)
    selection = nn.Conv2d(len(inputs), len(outputs), 1, stride=layer.stride, bias=False)
    weight = torch.zeros(len(outputs), len(inputs), 1, 1)
    where = {position + layer.before: index for index, position in enumerate(inputs)}
    for index, position in enumerate(outputs):
        if position in where:
            weight[index, where[position]] = 1.0
    selection.weight = nn.Parameter(weight)
    return selection


def _cut_heads(layer: Any, kept: Positions) -> nn.Module:  # noqa: ANN401
    if not is_attention(layer):
        raise ValueError(f"{type(layer).__name__} has no heads that can be cut")
    heads = _check(kept, layer.num_heads)
    size = layer.proj.in_features // layer.num_heads
    inner = [head * size + place for head in heads for place in range(size)]
    rows = [part * layer.proj.in_features + place for part in range(3) for place in inner]
    _cut_linear(layer.qkv, LayerCut(outputs=tuple(rows)))
    _cut_linear(layer.proj, LayerCut(inputs=tuple(inner)))
    layer.num_heads = len(heads)
    if hasattr(layer, "attn_dim"):
        layer.attn_dim = len(inner)
    return layer  # type: ignore[no-any-return]


_CUTTERS: Final[tuple[tuple[Any, Callable[[Any, LayerCut], nn.Module]], ...]] = (
    (_ConvNd, _cut_conv),
    (nn.Linear, _cut_linear),
    (NORMS, _cut_norm),
    (nn.PReLU, _cut_prelu),
    (PadShortcut, _cut_padding),
)


@torch.no_grad()
def fold_computed_weights(network: nn.Module) -> nn.Module:
    """The network, in place, with weights that are computed of others (`weight_norm`, `spectral_norm`) as they are now."""
    for layer in list(network.modules()):
        if parametrize.is_parametrized(layer):
            # Not by torch's own removal: a copy has the class of what it was copied from, and that loses its weight
            # with the copy (findings/parametrized-copy.sh)
            names = list(layer.parametrizations)  # type: ignore[arg-type]
            folded = {name: getattr(layer, name).clone() for name in names}
            layer.__class__ = type(layer).__mro__[1]
            del layer._modules["parametrizations"]
            for name, tensor in folded.items():
                layer.register_parameter(name, nn.Parameter(tensor))
        for hook in list(layer._forward_pre_hooks.values()):
            # Of the functions before parametrizations
            if isinstance(hook, WeightNorm):
                remove_weight_norm(layer, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(layer, hook.name)
    return network
