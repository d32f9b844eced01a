"""What a cut network is left with, fitted layer by layer to what the whole one made of the same images.

After He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017: weights by least squares
(section 3.1, the second step), and a layer whose output is added to a shortcut makes up for what is amiss there (section
3.3). No gradient goes through more than one layer, so a few hundred images suffice, and one pass of each network: a
layer of what is left is fitted when its inputs come, before it is called. The loop repairs the rest.

N images, P places of them, I inputs of a place, O outputs.
"""

import collections
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from edgekd.distill.pruning.plain_products import Padding, find_padding, padding_mode
from edgekd.distill.pruning.residual_sums import Shortcut, find_shortcuts
from edgekd.records import Cut

# Places of all images together, that a layer is fitted on; some for each of its inputs
LEAST_PLACES: Final = 8192
PLACES_PER_INPUT: Final = 8
# Of the mean square of the inputs: how strongly weights stay what they were
RIDGE: Final = 0.1
# Multiply-accumulates of both passes, and bytes of the largest map, which bound the number of images
MOST_MACS: Final = 1e12
MOST_BYTES: Final = 2**29
LEAST_IMAGES: Final = 32
MOST_IMAGES: Final = 1024
# Inputs of places (P, I) that are multiplied at once
AT_ONCE: Final = 2**24
# Of the largest scale of a batch-norm: a channel that is scaled by less makes up for nothing
LEAST_SCALE: Final = 1e-2


@dataclass(frozen=True, kw_only=True)
class _Call:
    """How a layer is called, seen on one image."""

    padding: Padding
    mode: str
    # Height and width of what a convolution gives; places of it, or of what a linear layer gives
    size: tuple[int, ...]
    places: int


@dataclass(kw_only=True)
class _Layer:
    """A layer to fit."""

    name: str
    layer: Any
    call: _Call
    # That takes what it gives
    norm: _NormBase | None = None
    # Where that is added to something else
    shortcut: Shortcut | None = None
    # Of the teacher's outputs; None: all
    kept: Tensor | None = None
    # Places (P,) of all images, and what the teacher gave there (P, O), and what that was added to
    places: Tensor = field(default_factory=lambda: torch.empty(0))
    wanted: Tensor = field(default_factory=lambda: torch.empty(0))
    beside: Tensor = field(default_factory=lambda: torch.empty(0))


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
    layers, largest = _find_layers(student, teacher, cut, images[:1])
    most = min(int(MOST_MACS / (2.0 * max(1, macs))), MOST_BYTES // largest)
    images = images[: min(MOST_IMAGES, max(LEAST_IMAGES, most))]
    _draw_places(layers, len(images))
    _ask_teacher(teacher, layers, images)
    _fit_student(student, layers, images)


def _find_layers(
    student: nn.Module, teacher: nn.Module, cut: Cut | None, image: Tensor
) -> tuple[list[_Layer], int]:
    """The layers to fit, and the bytes of the largest map of an image."""
    norms, called, largest = _order(student, teacher, image)
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
                call=called[name],
                norm=norm,
                shortcut=shortcut,
                kept=None if kept is None else torch.tensor(kept, device=image.device),
            )
        )
    return found, largest


def _gives_as_many(layer: nn.Module, other: nn.Module) -> bool:
    """Whether two layers have as many outputs; what has no weights is judged by its own count."""
    widths = [
        len(each.weight) if isinstance(each, nn.Linear | nn.Conv2d) else getattr(each, "outputs", 0)
        for each in (layer, other)
    ]
    return widths[0] == widths[1]


def _order(
    student: nn.Module, teacher: nn.Module, image: Tensor
) -> tuple[dict[str, _NormBase | None], dict[str, _Call], int]:
    """Layers to fit and the batch-norm that takes what each gives; how each is called; bytes of the teacher's largest map.

    Layers that are called twice, or share their weights, have two inputs, and stay. So do those that are no plain product,
    whatever they are derived from.
    """
    called: list[str] = []
    behind: dict[str, _NormBase | None] = {}
    given: list[tuple[Tensor, str]] = []
    calls: dict[str, _Call] = {}
    largest = image.nbytes

    def record_layer(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            called.append(name)
            # What comes by name is not seen
            padding = find_padding(layer, inputs[0], output) if inputs else None
            if padding is None:
                return
            calls[name] = _Call(
                padding=padding,
                mode=padding_mode(layer),
                size=tuple(output.shape[2:]),
                places=len(_by_place(layer, output)),
            )
            given.append((output, name))
            behind[name] = None

        return hook

    def record_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for output, name in given:
            if output is inputs[0] and isinstance(norm, _NormBase):
                behind[name] = norm

    weights = {name: layer._parameters.get("weight") for name, layer in student.named_modules()}
    holders = collections.Counter(map(id, weights.values()))
    theirs = dict(teacher.named_modules())
    reached: set[str] = set()

    def record_reached(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            nonlocal largest
            reached.add(name)
            if isinstance(output, Tensor):
                largest = max(largest, output.nbytes)

        return hook

    handles = [
        layer.register_forward_hook(record_reached(name)) for name, layer in theirs.items() if name
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
        name: norm
        for name, norm in behind.items()
        if called.count(name) == 1 and name in reached and holders[id(weights[name])] == 1
    }
    return found, calls, largest


# --- what is looked at ------------------------------------------------------------------------------


def _draw_places(layers: list[_Layer], count: int) -> None:
    """Where each layer is looked at, in so many images."""
    generator = torch.Generator().manual_seed(0)
    for each in layers:
        wanted = max(LEAST_PLACES, PLACES_PER_INPUT * each.layer.weight[0].numel())
        chosen = torch.randperm(each.call.places * count, generator=generator)[:wanted]
        each.places = chosen.to(each.layer.weight.device)


def _ask_teacher(teacher: nn.Module, layers: list[_Layer], images: Tensor) -> None:
    """Keep what the teacher gives at the places of each layer; one pass.

    Taken when it is given, for a network may go on to work on it in place.
    """

    def take(each: _Layer, what: str, output: Tensor) -> None:
        rows = _by_place(each.layer, output)[each.places]
        setattr(each, what, _select_channels(rows, each.kept))

    handles = []
    for each in layers:
        own = Shortcut(name=each.name, side="outputs")
        handles.append(own.watch(teacher, functools.partial(take, each, "wanted")))
        if each.shortcut is not None:
            beside = functools.partial(take, each, "beside")
            handles.append(each.shortcut.watch(teacher, beside))
    try:
        teacher(images)
    finally:
        for handle in handles:
            handle.remove()


def _fit_student(student: nn.Module, layers: list[_Layer], images: Tensor) -> None:
    """Fit each layer when its inputs come; one pass, in which what is behind sees what was fitted before."""
    # What the outputs of a layer are added to, where that came before
    added: dict[str, Tensor] = {}

    def take(each: _Layer, output: Tensor) -> None:
        added[each.name] = _by_place(each.layer, output)[each.places].float()

    def fit(each: _Layer, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        wanted = each.wanted
        if each.shortcut is not None:
            missing = each.beside - added.pop(each.name, torch.zeros_like(each.beside))
            wanted = wanted + _unscale(missing, each.norm)
        _fit(each, _sum_moments(each, inputs[0], wanted))
        each.wanted = each.beside = torch.empty(0)

    handles = []
    for each in layers:
        handles.append(each.layer.register_forward_pre_hook(functools.partial(fit, each)))
        if each.shortcut is not None:
            handles.append(each.shortcut.watch(student, functools.partial(take, each)))
    try:
        student(images)
    finally:
        for handle in handles:
            handle.remove()


def _select_channels(rows: Tensor, kept: Tensor | None) -> Tensor:
    return (rows if kept is None else rows.index_select(1, kept)).float()


def _by_place(layer: nn.Module, output: Tensor) -> Tensor:
    """An output (N, C, H, W) of a convolution, or (..., C) of a linear layer, as (places of all images, C)."""
    if isinstance(layer, nn.Linear):
        return output.reshape(-1, output.shape[-1])
    return output.permute(0, 2, 3, 1).reshape(-1, output.shape[1])


def _gather_patches(each: _Layer, inputs: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """What a layer takes at its places, part by part: which of them, and (P, groups, I)."""
    layer = each.layer
    size = max(1, AT_ONCE // max(1, layer.weight[0].numel() * getattr(layer, "groups", 1)))
    parts = [
        slice(start, min(start + size, len(each.places)))
        for start in range(0, len(each.places), size)
    ]
    if isinstance(layer, nn.Linear):
        rows = inputs.reshape(-1, 1, inputs.shape[-1])
        for part in parts:
            yield part, rows[each.places[part]]
        return
    height, width = each.call.size
    high, wide = layer.kernel_size
    padded = functional.pad(inputs, each.call.padding, mode=each.call.mode)
    for part in parts:
        places = each.places[part]
        of_image, place = places // (height * width), places % (height * width)
        down = (place // width * layer.stride[0])[:, None]
        right = (place % width * layer.stride[1])[:, None]
        down = down + layer.dilation[0] * torch.arange(high, device=places.device)
        right = right + layer.dilation[1] * torch.arange(wide, device=places.device)
        # (P, kernel, kernel, C), for the slice stands between the indices
        patches = padded[of_image[:, None, None], :, down[:, :, None], right[:, None, :]]
        yield part, patches.permute(0, 3, 1, 2).reshape(len(places), layer.groups, -1)


# --- least squares ----------------------------------------------------------------------------------


class _Moments:
    """First and second moments of inputs (groups, P, I) and outputs (groups, P, O) over all places."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        products = (x.sum(1, keepdim=True), y.sum(1, keepdim=True), x.mT @ x, x.mT @ y)
        new = [each.double() for each in products]
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


def _sum_moments(each: _Layer, inputs: Tensor, wanted: Tensor) -> _Moments:
    """Of what a layer takes, and of what it should give (P, O)."""
    moments = _Moments()
    for part, x in _gather_patches(each, inputs):
        y = wanted[part].reshape(len(x), x.shape[1], -1)
        moments.add(x.float().transpose(0, 1), y.transpose(0, 1))
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
