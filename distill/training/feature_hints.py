"""Feature hints: a student that inherits its layers is held to what those gave in the teacher.

After FitNets (Romero et al., ICLR 2015), per stage, normalised by how much the teacher's map varies, so that no weight
depends on a network's scale.

N images, C channels, H x W places.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekd.records import Cut


@dataclass(frozen=True, kw_only=True)
class _Hint:
    name: str
    # Positions in the teacher's channels; None: all
    kept: Tensor | None


class FeatureHints:
    """Where a student is compared with its teacher, and by how much they differ."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, cut: Cut | None, image: Tensor
    ) -> None:
        """Find the last map of each size that both have, channel by channel.

        Args:
            student: inherited or cut.
            teacher: whose layers have the same names.
            cut: of the one out of the other; None: the shapes say what is the same.
            image: (1, C, H, W) normalised, that maps are seen at.
        """
        self.student, self.teacher = student, teacher
        self.hints = _find(student, teacher, cut, image)
        self._seen: dict[tuple[int, str], Tensor] = {}

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Record the maps of passes inside the block."""
        handles = [
            network.get_submodule(hint.name).register_forward_hook(
                self._recorder(number, hint.name)
            )
            for number, network in enumerate((self.student, self.teacher))
            for hint in self.hints
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _recorder(self, number: int, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def record(_: nn.Module, __: object, output: Tensor) -> None:
            self._seen[number, name] = output

        return record

    def loss(self) -> Tensor:
        """The mean squared difference in units of the teacher's mean variance, over the hints; of the last passes."""
        parts = []
        for hint in self.hints:
            learned, wanted = (
                self._seen.pop((0, hint.name)),
                self._seen.pop((1, hint.name)).detach(),
            )
            if hint.kept is not None:
                wanted = wanted.index_select(1, hint.kept)
            learned, wanted = learned.float(), wanted.float()
            # Of the whole map: a channel that is nearly dead is worth little
            spread = wanted.var((0, *range(2, wanted.ndim)), correction=0).mean().clamp_min(1e-12)
            parts.append((learned - wanted).square().mean() / spread)
        return torch.stack(parts).mean()


@torch.no_grad()
def _find(student: nn.Module, teacher: nn.Module, cut: Cut | None, image: Tensor) -> list[_Hint]:
    theirs = _maps(teacher, image)
    found: dict[tuple[int, ...], _Hint] = {}
    # The channels that the last cut layer of a shape kept: those of what surrounds it, too
    kept: dict[tuple[int, ...], tuple[int, ...] | None] = {}
    for name, shape in _maps(student, image).items():
        layer = cut.layers.get(name) if cut is not None else None
        if layer is not None and layer.outputs is not None:
            kept[shape] = layer.outputs
        positions = kept.get(shape)
        wanted = theirs.get(name)
        if wanted is None or wanted[1:] != shape[1:]:
            continue
        if positions is None and wanted != shape:
            continue
        if positions is not None and (len(positions) != shape[0] or positions[-1] >= wanted[0]):
            continue
        index = None if positions is None else torch.tensor(positions, device=image.device)
        found[shape[1:]] = _Hint(name=name, kept=index)
    return list(found.values())


def _maps(network: nn.Module, image: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes (C, H, W) of maps of more than one place, by module, in the order in which they are given."""
    shapes: dict[str, tuple[int, ...]] = {}

    def recorder(name: str) -> Callable[[nn.Module, object, object], None]:
        def record(_: nn.Module, __: object, output: object) -> None:
            if (
                isinstance(output, Tensor)
                and output.ndim == 4
                and output.shape[2] * output.shape[3] > 1
            ):
                shapes.pop(name, None)
                shapes[name] = tuple(output.shape[1:])

        return record

    handles = [
        module.register_forward_hook(recorder(name))
        for name, module in network.named_modules()
        if name
    ]
    was_training = network.training
    try:
        network.eval()(image)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return shapes
