"""How much of each layer is kept, so that what is left has the size that was asked for.

C channels of a group.
"""

import copy
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgekd.distill.models.networks import PadShortcut
from edgekd.distill.models.student_choice import Size, size_of
from edgekd.distill.pruning.apply_cut import apply_cut, fold_computed_weights, is_attention
from edgekd.distill.pruning.channel_groups import ChannelGroup, Member, find_channel_groups
from edgekd.distill.pruning.residual_blocks import find_removable
from edgekd.distill.pruning.residual_sums import find_shortcuts
from edgekd.errors import InputFileError, UsageError
from edgekd.records import Architecture, Cut, CutRequest, LayerCut

# Channels are kept in multiples of what the board likes, but of no more than a part of a layer
ROUND_TO: Final = 8
LEAST_STEPS: Final = 4
# The width of what shortcuts carry, where that of all else is w: w to this power (docs/log.md)
CARRIED: Final = 0.25
# Of the size that was asked for, what is near enough; and halvings of the interval that it lies in
NEAR: Final = 0.05
HALVINGS: Final = 7
# Tries to give layers a step back, where steps left less than was asked for
FILLS: Final = 16
# Of the largest logit: a cut and the same channels set to zero answer alike
ALIKE: Final = 1e-3
# What a network raises that was cut where it cannot be
BROKEN: Final = (
    RuntimeError,
    ValueError,
    IndexError,
    TypeError,
    AssertionError,
    ArithmeticError,
    InputFileError,
)


class _MisreadGraphError(Exception):
    """What is left of a network is no longer that network."""


@dataclass(frozen=True, kw_only=True)
class _Widths:
    """What is kept: channels of each group, heads by layer of attention."""

    channels: tuple[int, ...]
    heads: dict[str, int]


class CutPlanner:
    """Plans cuts of one network; its graph is traced once."""

    def __init__(
        self,
        network: nn.Module,
        *,
        architecture: Architecture,
        teacher_digest: str,
        round_to: int = ROUND_TO,
    ) -> None:
        """Trace a network.

        Args:
            network: the teacher's, in evaluation mode; it is copied.
            architecture: of it.
            teacher_digest: of its weights.
            round_to: channels are kept in multiples of this where a layer is wide enough.

        Raises:
            UsageError: nothing of it can be cut.
        """
        self.network = fold_computed_weights(copy.deepcopy(network).cpu().eval())
        self.architecture = architecture
        self.teacher_digest = teacher_digest
        self.round_to = round_to
        self.shape = (architecture.channels, architecture.height, architecture.width)
        self.groups = find_channel_groups(
            self.network, shape=self.shape, classes=architecture.classes
        )
        self.heads = {
            name: _rank_heads(layer)
            for name, layer in self.network.named_modules()
            if is_attention(layer)
        }
        if not self.groups and not self.heads:
            raise UsageError(
                f"no layer of {architecture} can be cut. Take a student by name with --student."
            )
        noise = torch.randn(4, *self.shape, generator=torch.Generator().manual_seed(0))
        self.blocks = find_removable(self.network, noise)
        modules = {name: name for name, _ in self.network.named_modules() if name}
        added = find_shortcuts(self.network, modules, noise[:1])
        self.carried = frozenset(
            group.name
            for group in self.groups
            if any(each.side == "outputs" and each.layer in added for each in group.members)
        )
        self.whole = size_of(self.network, shape=self.shape)
        self._measured = copy.deepcopy(self.network).to("meta")
        try:
            size_of(self._measured, shape=self.shape)
        except (RuntimeError, NotImplementedError):
            # Some networks look at values, and those of a meta tensor are not there
            self._measured = self.network
        self._tried = False

    def plan(self, asked: CutRequest) -> Cut:
        """The cut that leaves as much as was asked for.

        Groups of channels that cannot be cut by themselves, whatever the graph says, are left whole.

        Raises:
            UsageError: the smallest that can be left is larger, or what is left is no longer the network.
        """
        try:
            return self._plan(asked)
        except _MisreadGraphError as error:
            reason = error
        if not self._tried:
            self._tried = True
            self._leave_out_unsound()
            if self.groups or self.heads:
                return self.plan(asked)
        raise UsageError(
            f"{self.architecture} cannot be cut: {reason}. Take a student by name with --student."
        )

    def _plan(self, asked: CutRequest) -> Cut:
        removed = self._choose_removed(asked.depth)
        if asked.measure == "width":
            found = self._cut(self._widths(asked.share, asked), asked, removed)
        else:
            found = self._search(asked, removed)
        self._check(found)
        return found

    def _leave_out_unsound(self) -> None:
        """Try each group and each layer's heads by itself, and keep those whose cut is sound."""
        groups, heads = self.groups, self.heads
        self.groups, self.heads = [], {}
        sound_groups, sound_heads = [], {}
        for group in groups:
            self.groups = [group]
            if self._is_sound():
                sound_groups.append(group)
        self.groups = []
        for name, ranked in heads.items():
            self.heads = {name: ranked}
            if self._is_sound():
                sound_heads[name] = ranked
        self.groups, self.heads = sound_groups, sound_heads

    def _is_sound(self) -> bool:
        """Whether half of what is there can be cut, and all but the least."""
        asked = CutRequest(measure="width", share=0.5)
        try:
            for share in (0.5, 0.0):
                self._check(self._cut(self._widths(share, asked), asked, ()))
        except _MisreadGraphError:
            return False
        return True

    def apply(self, cut: Cut) -> nn.Module:
        """What is left of the network, with its weights."""
        return apply_cut(copy.deepcopy(self.network), cut)

    def size(self, cut: Cut) -> Size:
        try:
            return size_of(apply_cut(copy.deepcopy(self._measured), cut), shape=self.shape)
        except BROKEN as error:
            raise _MisreadGraphError(f"what is left does not fit together ({error})") from error

    def _search(self, asked: CutRequest, removed: tuple[str, ...]) -> Cut:
        """The widest cut of about the size that was asked for."""
        whole = self._of(asked, self.whole)
        limit = asked.share * whole * (1 + NEAR)
        low, high = 0.0, 1.0
        widths = self._widths(low, asked)
        best = self._cut(widths, asked, removed)
        least = self._of(asked, self.size(best))
        if least > limit:
            raise UsageError(
                f"{asked}: at least one step of channels is left of each layer, and that is already {least / whole:.1%} "
                "of the teacher. Ask for more, or take a student by name."
            )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            wider = self._widths(middle, asked)
            tried = self._cut(wider, asked, removed)
            if self._of(asked, self.size(tried)) <= limit:
                low, widths, best = middle, wider, tried
            else:
                high = middle
        return self._fill(widths, best, asked, removed, limit=limit)

    def _fill(
        self,
        widths: _Widths,
        best: Cut,
        asked: CutRequest,
        removed: tuple[str, ...],
        *,
        limit: float,
    ) -> Cut:
        """Where steps are wide, all layers together stop short: give back single ones, of shortcuts first."""
        if self._of(asked, self.size(best)) >= limit / (1 + NEAR):
            return best
        growing = list(range(len(self.groups)))
        for _ in range(FILLS):
            if not growing:
                break
            place = min(
                growing,
                key=lambda each: (
                    self.groups[each].name not in self.carried,
                    widths.channels[each] / self.groups[each].channels,
                ),
            )
            group = self.groups[place]
            more = widths.channels[place] + group.sections * self._step(group)
            if more <= group.channels:
                channels = (*widths.channels[:place], more, *widths.channels[place + 1 :])
                wider = replace(widths, channels=channels)
                tried = self._cut(wider, asked, removed)
                if self._of(asked, self.size(tried)) <= limit:
                    widths, best = wider, tried
                    continue
            # Nor will it fit when others have grown
            growing.remove(place)
        return best

    def _of(self, asked: CutRequest, size: Size) -> float:
        return float(size.macs if asked.measure == "macs" else size.parameters)

    def _choose_removed(self, depth: float) -> tuple[str, ...]:
        """The blocks that add least to what goes through them."""
        count = len(self.blocks) - math.ceil(depth * len(self.blocks))
        order = sorted(self.blocks, key=lambda name: self.blocks[name])
        return tuple(name for name in self.blocks if name in set(order[:count]))

    # --- one cut ---------------------------------------------------------------------------------

    def _widths(self, share: float, asked: CutRequest) -> _Widths:
        """This share of each layer's width; of what shortcuts carry a larger one, where a size was asked for.

        A channel that is gone there is gone for all blocks behind.
        """
        found = []
        for group in self.groups:
            of_size = asked.measure != "width" and group.name in self.carried
            found.append(self._count_kept(group, share**CARRIED if of_size else share))
        heads = {name: max(1, round(share * len(ranked))) for name, ranked in self.heads.items()}
        return _Widths(channels=tuple(found), heads=heads)

    def _cut(self, widths: _Widths, asked: CutRequest, removed: tuple[str, ...]) -> Cut:
        gone: dict[tuple[str, str], set[int]] = {}
        for group, kept in zip(self.groups, widths.channels, strict=True):
            cut = group.least_important(kept)
            if not cut:
                continue
            for member in group.members:
                gone.setdefault((member.layer, member.side), set()).update(_positions(member, cut))
        layers: dict[str, LayerCut] = {}
        for (name, side), positions in sorted(gone.items()):
            if _inside(name, removed):
                continue
            count = _count(self.network.get_submodule(name), side)
            kept_positions = tuple(each for each in range(count) if each not in positions)
            before = layers.get(name, LayerCut())
            layers[name] = replace(before, **{side: kept_positions})
        for name, ranked in self.heads.items():
            left = widths.heads[name]
            if left < len(ranked) and not _inside(name, removed):
                layers[name] = LayerCut(heads=tuple(sorted(ranked[:left])))
        return Cut(
            teacher_digest=self.teacher_digest,
            architecture=self.architecture,
            asked=asked,
            importance="magnitude",
            layers=layers,
            removed=removed,
        )

    def _count_kept(self, group: ChannelGroup, share: float) -> int:
        """How many channels of a group are kept: a multiple of its step."""
        size, step = group.channels // group.sections, self._step(group)
        return group.sections * min(size, max(step, step * round(share * size / step)))

    def _step(self, group: ChannelGroup) -> int:
        size, step = group.channels // group.sections, self.round_to
        while step > 1 and size < LEAST_STEPS * step:
            step //= 2
        return step

    @torch.no_grad()
    def _check(self, cut: Cut) -> None:
        """That what is left answers as the network with the same channels set to zero.

        Raises:
            _MisreadGraphError: it does not.
        """
        images = torch.randn(2, *self.shape, generator=torch.Generator().manual_seed(1))
        try:
            answer = self.apply(cut).eval()(images)
        except BROKEN as error:
            raise _MisreadGraphError(f"what is left does not fit together ({error})") from error
        if answer.shape != (2, self.architecture.classes):
            raise _MisreadGraphError(f"what is left answers {tuple(answer.shape)}")
        masked = _masked(copy.deepcopy(self.network), cut)
        if masked is None:
            return
        wanted = masked(images)
        apart = float((answer - wanted).abs().max())
        # Turned round, so that what is no number is refused
        if not apart <= ALIKE * (1 + float(wanted.abs().max())):
            raise _MisreadGraphError(
                f"with its channels set to zero it answers otherwise than without them ({apart:.2g} apart): its graph was "
                "misread, or its layers depend on how many channels they have, as those with standardised weights do"
            )


def _positions(member: Member, channels: Iterable[int]) -> set[int]:
    cut = set(channels)
    return {
        position
        for position, channel in zip(member.positions, member.channels, strict=True)
        if channel in cut
    }


def _count(layer: nn.Module, side: str) -> int:
    """Channels that a layer has on one side."""
    ends = {"outputs": ("out_channels", "out_features", "num_features", "num_channels", "num_parameters", "outputs"),
            "inputs": ("in_channels", "in_features", "inputs")}  # fmt: skip
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[-1]
    return next(int(getattr(layer, name)) for name in ends[side] if hasattr(layer, name))


def _inside(name: str, blocks: Iterable[str]) -> bool:
    return any(name == block or name.startswith(f"{block}.") for block in blocks)


def _attention(layer: Any) -> tuple[nn.Linear, nn.Linear, int]:  # noqa: ANN401
    """The two matrices of an attention layer, and how many heads they are of."""
    return layer.qkv, layer.proj, layer.num_heads


def _rank_heads(layer: nn.Module) -> list[int]:
    """Heads by the squares of their weights, the largest first."""
    qkv, proj, heads = _attention(layer)
    rows = qkv.weight.detach().square().view(3, heads, -1).sum((0, 2))
    columns = proj.weight.detach().square().sum(0).view(heads, -1).sum(1)
    return torch.argsort(rows + columns, descending=True, stable=True).tolist()


@torch.no_grad()
def _masked(network: nn.Module, cut: Cut) -> nn.Module | None:
    """The whole network with what is cut set to zero; None where zero channels are not like none.

    Normalisations over channels count those that are zero.
    """
    for name, kept in cut.layers.items():
        layer = network.get_submodule(name)
        if kept.outputs is None:
            continue
        if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
            return None
        gone = [each for each in range(_count(layer, "outputs")) if each not in set(kept.outputs)]
        if isinstance(layer, PadShortcut):
            layer.register_forward_hook(functools.partial(_silence, gone))
        elif not isinstance(layer, nn.PReLU):
            for part in ("weight", "bias"):
                found: Tensor | None = getattr(layer, part, None)
                if found is not None:
                    found[gone] = 0.0
    for name, kept in cut.layers.items():
        layer = network.get_submodule(name)
        if kept.heads is not None:
            _, proj, heads = _attention(layer)
            size = proj.in_features // heads
            gone = [place for place in range(proj.in_features) if place // size not in kept.heads]
            proj.weight[:, gone] = 0.0
    for name in cut.removed:
        parent, _, last = name.rpartition(".")
        network.get_submodule(parent)._modules[last] = nn.Identity()
    return network


def _silence(gone: list[int], _: nn.Module, __: object, output: Tensor) -> Tensor:
    return output.index_fill(1, torch.tensor(gone), 0.0)
