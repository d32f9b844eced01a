"""Convolutions, linear layers and normalisations of a `.pt2` program as layers, under the names of the exported network.

Pruning, feature hints and least squares look for layers, not for calls of operators. What is no layer of its own stays a
call: weights that are computed, used in two ways, or not called `weight` and `bias`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from torch import Tensor, nn

from edgekd.distill.teachers.pt2.operators import aten_name
from edgekd.distill.teachers.pt2.records import Archive, Node, Value

# What a layer is fed with
INPUT: Final[Mapping[str, str]] = {
    "conv1d": "input",
    "conv2d": "input",
    "convolution": "input",
    "linear": "input",
    "layer_norm": "input",
    "native_layer_norm": "input",
    "group_norm": "input",
    "native_group_norm": "input",
    "prelu": "self",
    "_prelu_kernel": "self",
}


def layer_name(node: Node, archive: Archive) -> str:
    """The name of the network's layer that a node runs; "" where it is none."""
    if aten_name(node.target) not in INPUT:
        return ""
    weight = archive.attributes.get(_value(node, "weight"), "")
    name, _, last = weight.rpartition(".")
    bias = node.arguments.get("bias")
    if not name or last != "weight":
        return ""
    if bias is not None and archive.attributes.get(_value(node, "bias"), "") != f"{name}.bias":
        return ""
    return name


def build_layers(archive: Archive, tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """The layers of a program, by name.

    Args:
        archive: of the program.
        tensors: the values of its weights and constants, by the names of the exported network.
    """
    # Whoever else takes a weight would be left with the old one when the layer is cut
    uses = Counter(name for node in archive.nodes for name in _names(node.arguments.values()))
    shared = Counter(archive.attributes.values())
    found: dict[str, nn.Module] = {}
    for node in archive.nodes:
        name = layer_name(node, archive)
        taken = [_value(node, part) for part in ("weight", "bias")]
        if not name or any(uses[each] > 1 for each in taken if each):
            continue
        if any(shared[archive.attributes[each]] > 1 for each in taken if each):
            continue
        weight, bias = (tensors[archive.attributes[each]] if each else None for each in taken)
        assert weight is not None
        layer = _BUILDERS[aten_name(node.target)](node, weight, bias)
        if layer is None:
            continue
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)
        found[name] = layer
    return found


def _value(node: Node, argument: str) -> str:
    found = node.arguments.get(argument)
    return found.name if isinstance(found, Value) else ""


def _names(arguments: Iterable[object]) -> Iterable[str]:
    for argument in arguments:
        if isinstance(argument, Value):
            yield argument.name
        elif isinstance(argument, list):
            yield from _names(argument)


def _sizes(node: Node, argument: str, *, default: int, count: int) -> tuple[int, ...] | None:
    """A setting as one number for each direction; None where it is no such thing."""
    found = node.arguments.get(argument, default)
    values = found if isinstance(found, list) else [found]
    numbers = [each for each in values if type(each) is int]
    if len(numbers) != len(values) or len(numbers) not in {1, count}:
        return None
    return tuple(numbers * count if len(numbers) == 1 else numbers)


def _convolution(node: Node, weight: Tensor, bias: Tensor | None) -> nn.Module | None:
    count = weight.ndim - 2
    kinds = {1: nn.Conv1d, 2: nn.Conv2d}
    groups = node.arguments.get("groups", 1)
    stride, padding, dilation = (
        _sizes(node, name, default=default, count=count)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    known = stride is not None and padding is not None and dilation is not None
    if not known or count not in kinds or node.arguments.get("transposed", False):
        return None
    if not isinstance(groups, int) or groups < 1 or weight.shape[0] % groups:
        return None
    kind: Callable[..., nn.Module] = kinds[count]
    return kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        device="meta",
    )


def _linear(_: Node, weight: Tensor, bias: Tensor | None) -> nn.Module | None:
    if weight.ndim != 2:
        return None
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")


def _layer_norm(node: Node, weight: Tensor, bias: Tensor | None) -> nn.Module | None:
    shape, eps = node.arguments.get("normalized_shape"), node.arguments.get("eps", 1e-5)
    if shape != list(weight.shape) or not isinstance(eps, float):
        return None
    return nn.LayerNorm(tuple(weight.shape), eps=eps, bias=bias is not None, device="meta")


def _group_norm(node: Node, weight: Tensor, bias: Tensor | None) -> nn.Module | None:
    groups = node.arguments.get("num_groups", node.arguments.get("group"))
    eps = node.arguments.get("eps", 1e-5)
    if not isinstance(groups, int) or groups < 1 or not isinstance(eps, float) or bias is None:
        return None
    if weight.ndim != 1 or len(weight) % groups:
        return None
    return nn.GroupNorm(groups, len(weight), eps=eps, device="meta")


def _prelu(_: Node, weight: Tensor, bias: Tensor | None) -> nn.Module | None:
    return nn.PReLU(len(weight), device="meta") if bias is None and weight.ndim == 1 else None


_BUILDERS: Final[Mapping[str, Callable[[Node, Tensor, Tensor | None], nn.Module | None]]] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "convolution": _convolution,
    "linear": _linear,
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "native_group_norm": _group_norm,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
}
