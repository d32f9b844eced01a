"""What a cut network is left with, fitted layer by layer to what the whole one made of the same images.

After He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1, the second
step: weights by least squares. No gradient goes through more than one layer, so a few hundred images and one pass per
layer suffice; the loop repairs the rest.

N images, P places, I inputs of a place, O outputs.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from edgekd.records import Cut

# Places of all images together, that a layer is fitted on; some for each of its inputs
LEAST_PLACES: Final = 8192
PLACES_PER_INPUT: Final = 8
# Of the mean square of the inputs: how strongly weights stay what they were
RIDGE: Final = 0.1
# Multiply-accumulates of all passes, which bound the number of images; and images in one pass
MOST_MACS: Final = 1e12
LEAST_IMAGES: Final = 32
MOST_IMAGES: Final = 768
AT_ONCE: Final = 64
# Numbers of one unfolded input: 256 MiB
MOST_ELEMENTS: Final = 1 << 26


class _ReachedError(Exception):
    """The layer was reached: the rest of the pass is not needed."""


@torch.no_grad()
def reconstruct(
    student: nn.Module, teacher: nn.Module, cut: Cut | None, images: Tensor, *, macs: int
) -> None:
    """Fit each convolution and linear layer that both have, in place, in the order of the pass.

    Args:
        student: in evaluation mode.
        teacher: in evaluation mode, with layers of the same names.
        cut: of the one out of the other; None: whole layers are the same.
        images: (N, C, H, W) normalised; some of them suffice.
        macs: of a pass of the teacher.
    """
    generator = torch.Generator().manual_seed(0)
    layers = _order(student, teacher, images[:1])
    # Each layer takes a pass of its own, of half of both networks on average
    most = int(MOST_MACS / max(1, len(layers) * macs))
    images = images[: min(MOST_IMAGES, max(LEAST_IMAGES, most))]
    for name, norm in layers.items():
        layer = student.get_submodule(name)
        found = cut.layers.get(name) if cut is not None else None
        kept = None if found is None else found.outputs
        if kept is None and not _gives_as_many(layer, teacher.get_submodule(name)):
            # A layer that shares the name alone: its weights were drawn
            continue
        moments = _Moments()
        for part in torch.split(images, AT_ONCE):
            inputs = _reach(student, name, part)[0]
            outputs = _reach(teacher, name, part)[1]
            if kept is not None:
                channel = -1 if isinstance(layer, nn.Linear) else 1
                outputs = outputs.index_select(channel, torch.tensor(kept, device=outputs.device))
            at_once = max(1, MOST_ELEMENTS // _elements(layer, inputs, outputs))
            for some, given in zip(
                torch.split(inputs, at_once), torch.split(outputs, at_once), strict=True
            ):
                x, y = _rows(layer, some, given)  # (P, groups, I), (P, groups, O)
                places = max(LEAST_PLACES, PLACES_PER_INPUT * x.shape[2])
                share = max(1, places * len(some) // len(images))
                if len(x) > share:
                    chosen = torch.randperm(len(x), generator=generator)[:share].to(x.device)
                    x, y = x[chosen], y[chosen]
                moments.add(x.transpose(0, 1).double(), y.transpose(0, 1).double())
        _fit(layer, moments, norm)


def _gives_as_many(layer: nn.Module, other: nn.Module) -> bool:
    """Whether two layers have as many outputs; what has no weights is judged by its own count."""
    widths = [
        len(each.weight) if isinstance(each, nn.Linear | nn.Conv2d) else getattr(each, "outputs", 0)
        for each in (layer, other)
    ]
    return widths[0] == widths[1]


class _Moments:
    """First and second moments of inputs (groups, P, I) and outputs (groups, P, O) over all places."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        new = [x.sum(1, keepdim=True), y.sum(1, keepdim=True), x.mT @ x, x.mT @ y]
        self.count += x.shape[1]
        self.sums = (
            [old + more for old, more in zip(self.sums, new, strict=True)] if self.sums else new
        )

    def centre(self, *, about_zero: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means (groups, 1, .), and sums of products about them: (groups, I, I) and (groups, I, O)."""
        x_sum, y_sum, xx, xy = self.sums
        if about_zero:
            return torch.zeros_like(x_sum), torch.zeros_like(y_sum), xx, xy
        x_mean, y_mean = x_sum / self.count, y_sum / self.count
        return x_mean, y_mean, xx - x_mean.mT @ x_sum, xy - x_mean.mT @ y_sum


def _elements(layer: Any, inputs: Tensor, outputs: Tensor) -> int:  # noqa: ANN401
    """Numbers that the inputs of all places of one image are."""
    if isinstance(layer, nn.Linear):
        return max(1, inputs[0].numel())
    taken: int = inputs.shape[1] * math.prod(layer.kernel_size)
    return max(1, taken * outputs[0, 0].numel())


def _order(student: nn.Module, teacher: nn.Module, image: Tensor) -> dict[str, _NormBase | None]:
    """Layers to fit, as they are called, and the batch-norm that takes what each gives.

    Layers that are called twice have two inputs, and stay.
    """
    called: list[str] = []
    behind: dict[str, _NormBase | None] = {}
    given: list[tuple[Tensor, str]] = []

    def record_layer(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            called.append(name)
            given.append((output, name))
            behind[name] = None

        return hook

    def record_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for output, name in given:
            if output is inputs[0] and isinstance(norm, _NormBase):
                behind[name] = norm

    theirs = dict(teacher.named_modules())
    reached: set[str] = set()
    handles = [
        layer.register_forward_pre_hook(lambda *_, name=name: reached.add(name))
        for name, layer in theirs.items()
        if name
    ]
    for name, layer in student.named_modules():
        if isinstance(layer, _NormBase) and layer.running_mean is not None:
            handles.append(layer.register_forward_pre_hook(record_norm))
        if (
            name in theirs
            and isinstance(layer, nn.Linear | nn.Conv2d)
            and getattr(layer, "padding_mode", "zeros") == "zeros"
            and not isinstance(getattr(layer, "padding", 0), str)
        ):
            handles.append(layer.register_forward_hook(record_layer(name)))
    try:
        teacher(image)
        student(image)
    finally:
        for handle in handles:
            handle.remove()
    # A name alone is no layer: programs that were read from a file keep weights under names, and call nothing there
    return {
        name: norm for name, norm in behind.items() if called.count(name) == 1 and name in reached
    }


def _reach(network: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer takes and gives."""
    found: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.extend((inputs[0], output))
        raise _ReachedError

    handle = network.get_submodule(name).register_forward_hook(stop)
    try:
        with contextlib.suppress(_ReachedError):
            network(images)
    finally:
        handle.remove()
    return found[0].float(), found[1].float()


def _rows(layer: Any, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Inputs (P, groups, I) and outputs (P, groups, O) of each place."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, 1, inputs.shape[-1]), outputs.reshape(-1, 1, outputs.shape[-1])
    columns = functional.unfold(
        inputs,
        layer.kernel_size,
        dilation=layer.dilation,
        padding=layer.padding,
        stride=layer.stride,
    )  # (N, C x k, L)
    x = columns.transpose(1, 2).reshape(-1, layer.groups, columns.shape[1] // layer.groups)
    y = outputs.flatten(2).transpose(1, 2)
    return x, y.reshape(-1, layer.groups, outputs.shape[1] // layer.groups)


def _fit(layer: Any, moments: _Moments, norm: _NormBase | None) -> None:  # noqa: ANN401
    """Ridge regression towards the weights as they are; of each group by itself.

    What is left of the mean goes into the bias, or into the running mean of the batch-norm behind.
    """
    without = layer.bias is None and norm is None
    x_mean, y_mean, gram, product = moments.centre(about_zero=without)
    groups, size = gram.shape[:2]
    before = layer.weight.detach().double().reshape(groups, -1, size).mT  # (groups, I, O)
    scale = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    ridge = scale[:, None, None] * torch.eye(size, dtype=gram.dtype, device=gram.device)
    fitted = torch.linalg.solve(gram + ridge, product + ridge @ before)
    layer.weight.copy_(fitted.mT.reshape(layer.weight.shape))
    left = (y_mean - x_mean @ fitted).reshape(-1)  # (O,)
    if layer.bias is not None:
        layer.bias.copy_(left)
    elif norm is not None and norm.running_mean is not None:
        norm.running_mean.sub_(left.to(norm.running_mean.dtype))
