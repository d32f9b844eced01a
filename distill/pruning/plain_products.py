"""Layers that are a plain product of their (padded) inputs and weights, found by trial: what least squares can fit.

N images, C channels, H x W pixels.
"""

from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional

# Of the largest output: how far a layer may be from the product of its inputs and weights
ALIKE: Final = 1e-3

# Left, right, top and bottom, as `functional.pad` takes them
Padding = tuple[int, int, int, int]


def find_padding(layer: Any, inputs: Tensor, output: Tensor) -> Padding | None:  # noqa: ANN401
    """What is padded to its inputs, with which a layer is the product of them and its weights; None: it is no such product.

    Classes that are derived from a convolution pad by themselves (TensorFlow's "same"), or standardise their weights.
    """
    if layer._parameters.get("weight") is None:
        # Computed from others, and lost with the next pass
        return None
    if isinstance(layer, nn.Linear):
        plain = functional.linear(inputs, layer.weight, layer.bias)
        return (0, 0, 0, 0) if _is_alike(plain, output) else None
    if inputs.ndim != 4:
        return None
    # One more at the end, where their number is odd
    same: list[int] = []
    for axis in (1, 0):
        reached = (output.shape[2 + axis] - 1) * layer.stride[axis]
        reached += (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
        missing = max(0, reached - inputs.shape[2 + axis])
        same += [missing // 2, missing - missing // 2]
    found: list[Padding] = [(same[0], same[1], same[2], same[3])]
    if not isinstance(layer.padding, str):
        down, right = layer.padding
        found.insert(0, (right, right, down, down))
    # Beyond its edges a map is zero; what is mirrored or goes round is as much as the layer says
    for padding in found if padding_mode(layer) == "constant" else found[:1]:
        plain = functional.conv2d(
            functional.pad(inputs, padding, mode=padding_mode(layer)),
            layer.weight,
            layer.bias,
            tuple(layer.stride),
            0,
            layer.dilation,
            layer.groups,
        )
        if _is_alike(plain, output):
            return padding
    return None


def padding_mode(layer: Any) -> str:  # noqa: ANN401
    """As `functional.pad` calls it."""
    mode: str = getattr(layer, "padding_mode", "zeros")
    return "constant" if mode == "zeros" else mode


def _is_alike(plain: Tensor, output: Tensor) -> bool:
    if plain.shape != output.shape:
        return False
    # Turned round, so that what is no number is none
    return bool((plain - output).abs().max() <= ALIKE * (1e-6 + output.abs().max()))
