"""What a cut network is left with, fitted layer by layer to what the whole one made of the same images.

After He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017: weights by least squares
(section 3.1, the second step), and a layer whose output is added to a shortcut makes up for what is amiss there (section
3.3). No gradient goes through more than one layer, so a few hundred images suffice, one pass of the whole network and one
per layer of what is left; the loop repairs the rest.

N images, P places of them, I inputs of a place, O outputs.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from edgekd.distill.pruning.residual_sums import Shortcut, find_shortcuts
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
# Of the largest scale of a batch-norm: a channel that is scaled by less makes up for nothing
LEAST_SCALE: Final = 1e-2


# Of the largest output: how far a layer may be from the product of its inputs and weights
ALIKE: Final = 1e-3

# Left, right, top and bottom, as `functional.pad` takes them
Padding = tuple[int, int, int, int]


class _ReachedError(Exception):
    """The layer was reached: the rest of the pass is not needed."""


@dataclass(kw_only=True)
class _Layer:
    """A layer to fit."""

    name: str
    layer: Any
    # Of its inputs
    padding: Padding
    # That takes what it gives
    norm: _NormBase | None = None
    # Where that is added to something else
    shortcut: Shortcut | None = None
    # Of the teacher's outputs; None: all
    kept: Tensor | None = None
    # Places of one image
    per_image: int
    # By group of images: places (P,), and what the teacher gave there (P, O)
    places: list[Tensor] = field(default_factory=list)
    wanted: list[Tensor] = field(default_factory=list)
    beside: list[Tensor] = field(default_factory=list)


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
    layers = _find_layers(student, teacher, cut, images[:1])
    share = sum(part.numel() for part in student.parameters()) / max(
        1, sum(part.numel() for part in teacher.parameters())
    )
    # Each layer takes a pass of its own, of half of what is left on average
    passes = 1 + share * len(layers) / 2
    most = int(MOST_MACS / max(1.0, passes * macs))
    groups = torch.split(images[: min(MOST_IMAGES, max(LEAST_IMAGES, most))], AT_ONCE)
    _draw_places(layers, groups)
    _ask_teacher(teacher, layers, groups)
    for each in layers:
        _fit(each, _sum_moments(student, each, groups))


def _find_layers(
    student: nn.Module, teacher: nn.Module, cut: Cut | None, image: Tensor
) -> list[_Layer]:
    norms, sizes, paddings = _order(student, teacher, image)
    names = {module: name for name, module in student.named_modules()}
    shortcuts = find_shortcuts(
        teacher, {name: names[norm] if norm else name for name, norm in norms.items()}, image
    )
    found = []
    for name, norm in norms.items():
        layer = student.get_submodule(name)
        of_cut = cut.layers.get(name) if cut is not None else None
        kept = None if of_cut is None else of_cut.outputs
        if kept is None and not _gives_as_many(layer, teacher.get_submodule(name)):
            # A layer that shares the name alone: its weights were drawn
            continue
        shortcut = shortcuts.get(name)
        if shortcut is not None and shortcut.name not in names.values():
            shortcut = None
        found.append(
            _Layer(
                name=name,
                layer=layer,
                padding=paddings[name],
                norm=norm,
                shortcut=shortcut,
                per_image=sizes[name],
                kept=None if kept is None else torch.tensor(kept, device=image.device),
            )
        )
    return found


def _gives_as_many(layer: nn.Module, other: nn.Module) -> bool:
    """Whether two layers have as many outputs; what has no weights is judged by its own count."""
    widths = [
        len(each.weight) if isinstance(each, nn.Linear | nn.Conv2d) else getattr(each, "outputs", 0)
        for each in (layer, other)
    ]
    return widths[0] == widths[1]


def _order(
    student: nn.Module, teacher: nn.Module, image: Tensor
) -> tuple[dict[str, _NormBase | None], dict[str, int], dict[str, Padding]]:
    """Layers to fit, as they are called, and the batch-norm that takes what each gives; places of one image; paddings.

    Layers that are called twice have two inputs, and stay. So do those that are no plain product, whatever they are
    derived from.
    """
    called: list[str] = []
    behind: dict[str, _NormBase | None] = {}
    given: list[tuple[Tensor, str]] = []
    paddings: dict[str, Padding] = {}

    def record_layer(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            called.append(name)
            padding = _find_padding(layer, inputs[0], output)
            if padding is None:
                return
            paddings[name] = padding
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
        if name in theirs and isinstance(layer, nn.Linear | nn.Conv2d):
            handles.append(layer.register_forward_hook(record_layer(name)))
    try:
        teacher(image)
        student(image)
    finally:
        for handle in handles:
            handle.remove()
    # A name alone is no layer: programs that were read from a file keep weights under names, and call nothing there
    found = {
        name: norm for name, norm in behind.items() if called.count(name) == 1 and name in reached
    }
    sizes = {name: len(_by_place(student.get_submodule(name), output)) for output, name in given}
    return found, sizes, paddings


def _find_padding(layer: Any, inputs: Tensor, output: Tensor) -> Padding | None:  # noqa: ANN401
    """The zeros about its inputs with which a layer is the product of them and its weights; None: it is no such product.

    Classes that are derived from a convolution pad by themselves (TensorFlow's "same"), or standardise their weights.
    """
    if layer._parameters.get("weight") is None:
        # Computed from others, and lost with the next pass
        return None
    if isinstance(layer, nn.Linear):
        plain = functional.linear(inputs, layer.weight, layer.bias)
        return (0, 0, 0, 0) if _is_alike(plain, output) else None
    found: list[Padding] = []
    if not isinstance(layer.padding, str):
        down, right = layer.padding
        found.append((right, right, down, down))
    # One more at the end, where their number is odd
    same: list[int] = []
    for axis in (1, 0):
        reached = (output.shape[2 + axis] - 1) * layer.stride[axis]
        reached += (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
        missing = max(0, reached - inputs.shape[2 + axis])
        same += [missing // 2, missing - missing // 2]
    found.append((same[0], same[1], same[2], same[3]))
    for padding in found:
        plain = functional.conv2d(
            functional.pad(inputs, padding),
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


def _is_alike(plain: Tensor, output: Tensor) -> bool:
    if plain.shape != output.shape:
        return False
    # Turned round, so that what is no number is none
    return bool((plain - output).abs().max() <= ALIKE * (1e-6 + output.abs().max()))


# --- what is looked at ------------------------------------------------------------------------------


def _draw_places(layers: list[_Layer], groups: tuple[Tensor, ...]) -> None:
    """Where each layer is looked at, by group of images."""
    generator = torch.Generator().manual_seed(0)
    count = sum(map(len, groups))
    for images in groups:
        for each in layers:
            wanted = max(LEAST_PLACES, PLACES_PER_INPUT * each.layer.weight[0].numel())
            share = max(1, wanted * len(images) // count)
            chosen = torch.randperm(each.per_image * len(images), generator=generator)[:share]
            each.places.append(chosen.to(images.device))


def _ask_teacher(teacher: nn.Module, layers: list[_Layer], groups: tuple[Tensor, ...]) -> None:
    """Keep what the teacher gives at the places of each layer; one pass."""
    for number, images in enumerate(groups):
        with _watch(teacher, layers, number) as seen:
            teacher(images)
        for each in layers:
            each.wanted.append(_select_channels(seen[each.name], each.kept))
            if each.shortcut is not None:
                each.beside.append(_select_channels(seen[each.name, "shortcut"], each.kept))


@contextlib.contextmanager
def _watch(network: nn.Module, layers: list[_Layer], number: int) -> Iterator[dict[Any, Tensor]]:
    """What layers give, and what that is added to, at their places (P, O), of a pass in the block.

    Taken when it is given, for a network may go on to work on it in place.
    """
    seen: dict[Any, Tensor] = {}

    def take(each: _Layer, key: object, output: Tensor) -> None:
        seen[key] = _by_place(each.layer, output)[each.places[number]]

    handles = []
    for each in layers:
        own = Shortcut(name=each.name, side="outputs")
        handles.append(own.watch(network, functools.partial(take, each, each.name)))
        if each.shortcut is not None:
            key = (each.name, "shortcut")
            handles.append(each.shortcut.watch(network, functools.partial(take, each, key)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _reach(student: nn.Module, each: _Layer, number: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer takes at its places (P, groups, I), and what its output would be added to (P, O) or 0."""
    found: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(_gather_patches(each, inputs[0], output, each.places[number]))
        raise _ReachedError

    handle = each.layer.register_forward_hook(stop)
    try:
        with _watch(student, [each], number) as seen, contextlib.suppress(_ReachedError):
            student(images)
    finally:
        handle.remove()
    return found[0].float(), seen.get((each.name, "shortcut"), torch.zeros(())).float()


def _select_channels(rows: Tensor, kept: Tensor | None) -> Tensor:
    return (rows if kept is None else rows.index_select(1, kept)).float()


def _by_place(layer: nn.Module, output: Tensor) -> Tensor:
    """An output (N, C, H, W) of a convolution, or (..., C) of a linear layer, as (places of all images, C)."""
    if isinstance(layer, nn.Linear):
        return output.reshape(-1, output.shape[-1])
    return output.permute(0, 2, 3, 1).reshape(-1, output.shape[1])


def _gather_patches(each: _Layer, inputs: Tensor, output: Tensor, places: Tensor) -> Tensor:
    """What a layer takes at places (P,) of its output: (P, groups, I)."""
    layer = each.layer
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, 1, inputs.shape[-1])[places]
    height, width = output.shape[2:]
    high, wide = layer.kernel_size
    padded = functional.pad(inputs, each.padding)
    of_image, place = places // (height * width), places % (height * width)
    rows = (place // width * layer.stride[0])[:, None]
    columns = (place % width * layer.stride[1])[:, None]
    rows = rows + layer.dilation[0] * torch.arange(high, device=places.device)
    columns = columns + layer.dilation[1] * torch.arange(wide, device=places.device)
    # (P, kernel, kernel, C), for the slice stands between the indices
    patches = padded[of_image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return patches.permute(0, 3, 1, 2).reshape(len(places), layer.groups, -1)


# --- least squares ----------------------------------------------------------------------------------


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


def _sum_moments(student: nn.Module, each: _Layer, groups: tuple[Tensor, ...]) -> _Moments:
    """Of what the student's layer takes, and of what it should give."""
    moments = _Moments()
    for number, images in enumerate(groups):
        x, added = _reach(student, each, number, images)
        y = each.wanted[number]
        if each.shortcut is not None:
            y = y + _unscale(each.beside[number] - added, each.norm)
        y = y.reshape(len(y), x.shape[1], -1)
        moments.add(x.transpose(0, 1).double(), y.transpose(0, 1).double())
    return moments


def _unscale(missing: Tensor, norm: _NormBase | None) -> Tensor:
    """What a batch-norm must be given more, to give this much more (P, O)."""
    if norm is None:
        return missing
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    usable = scale.abs() > LEAST_SCALE * scale.abs().max()
    return torch.where(usable, missing / torch.where(usable, scale, 1.0), 0.0)


def _fit(each: _Layer, moments: _Moments) -> None:
    """Ridge regression towards the weights as they are; of each group of a convolution by itself.

    What is left of the mean goes into the bias, or into the running mean of the batch-norm behind.
    """
    layer, norm = each.layer, each.norm
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
