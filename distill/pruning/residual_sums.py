"""Where the output of a layer is added to a shortcut, found by trial on one image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Of the largest value: what differs by less is the same
ALIKE: Final = 1e-5


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """What the output of a layer is added to."""

    # A module, and which side of it
    name: str
    side: Literal["inputs", "outputs"]

    def watch(self, network: nn.Module, take: Callable[[Tensor], None]) -> RemovableHandle:
        """Hand it over at each pass of a network that has the module."""
        module = network.get_submodule(self.name)
        if self.side == "inputs":
            return module.register_forward_pre_hook(lambda _, inputs: take(inputs[0]))
        return module.register_forward_hook(lambda _, __, output: take(output))


@torch.no_grad()
def find_shortcuts(
    network: nn.Module, outputs: Mapping[str, str], image: Tensor
) -> dict[str, Shortcut]:
    """Layers whose output is added to something that was there before, and to what.

    No name or class says so: a block gives the sum of two of the tensors inside of it, or its positive part.

    Args:
        network: in evaluation mode.
        outputs: by the name of a layer, the module that gives its output: itself, or the batch-norm behind.
        image: (1, C, H, W) normalised.
    """
    calls = _record(network, image)
    found: dict[str, Shortcut] = {}
    for block, (taken, given, began, ended) in calls.items():
        # In the order in which they were given
        inside = [
            (name, call[1])
            for name, call in calls.items()
            if call[3] < ended and call[2] > began and name.startswith(f"{block}.")
            if call[1].shape == given.shape
        ]
        for layer, source in outputs.items():
            place = next((at for at, (name, _) in enumerate(inside) if name == source), None)
            if place is None or layer in found:
                continue
            branch = inside[place][1]
            candidates = [
                (Shortcut(name=name, side="outputs"), tensor) for name, tensor in inside[:place]
            ]
            if taken.shape == given.shape:
                candidates.append((Shortcut(name=block, side="inputs"), taken))
            for shortcut, tensor in candidates:
                if any(is_alike(shape(branch + tensor), given) for shape in (_same, torch.relu)):
                    found[layer] = shortcut
                    break
    return found


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _record(network: nn.Module, image: Tensor) -> dict[str, tuple[Tensor, Tensor, int, int]]:
    """What modules take and give, when they began and when they ended, in the order in which they ended."""
    began: dict[str, tuple[int, Tensor]] = {}
    found: dict[str, tuple[Tensor, Tensor, int, int]] = {}
    clock = iter(range(1 << 30))

    def begin(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[object, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                # What works in place would change it
                began[name] = (next(clock), inputs[0].clone())

        return hook

    def end(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and name in began:
                start, taken = began[name]
                found.pop(name, None)
                found[name] = (taken, output.clone(), start, next(clock))

        return hook

    handles = []
    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(begin(name)))
            handles.append(module.register_forward_hook(end(name)))
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    return found


def is_alike(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one shape are the same but for rounding."""
    return float((first - second).abs().max()) <= ALIKE * (1 + float(second.abs().max()))
