"""Which channels of a network hang together: what is cut of one layer must be cut of others.

The dependency graph is that of Torch-Pruning (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023).

C channels of a group.
"""

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from edgekd.distill.models.networks import PadShortcut, find_head
from edgekd.distill.pruning.apply_cut import is_attention, is_cuttable
from edgekd.errors import UsageError

Side = Literal["outputs", "inputs"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One side of a layer, and the channel of the group that each of its positions belongs to."""

    layer: str
    side: Side
    positions: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that are kept or cut together wherever they are seen."""

    # The layer that makes them
    name: str
    channels: int
    members: tuple[Member, ...]
    importance: Tensor  # (C,)
    # Of grouped convolutions and normalisations: the same places are kept in each
    sections: int

    def least_important(self, kept: int) -> frozenset[int]:
        """The channels that are not kept, where `kept` are: the same places in each section."""
        size = self.channels // self.sections
        score = self.importance.view(self.sections, size).sum(0)
        order = torch.argsort(score, stable=True).tolist()
        places = order[: size - kept // self.sections]
        return frozenset(
            start + place for start in range(0, self.channels, size) for place in places
        )


def find_channel_groups(
    network: nn.Module, *, shape: tuple[int, int, int], classes: int
) -> list[ChannelGroup]:
    """The groups of a network that can be cut, the answer left as it is.

    Args:
        network: a classifier; it is copied.
        shape: of one image (channels, height, width).
        classes: that it answers.

    Raises:
        UsageError: its graph cannot be traced, or the library that does it is missing.
    """
    try:
        import torch_pruning as tp
    except ImportError as error:
        raise UsageError(
            f"students are cut by Torch-Pruning, which cannot be imported ({error}). Install it: pip install "
            "torch-pruning. Or take a student by name with --student."
        ) from error
    traced = copy.deepcopy(network).cpu().eval()
    # The graph is read from the gradients
    for parameter in traced.parameters():
        parameter.requires_grad_(True)
    names = {module: name for name, module in traced.named_modules()}
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            # It warns of parameters that it finds by itself
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(
                traced,
                example_inputs=torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)),
                customized_pruners={PadShortcut: _padding_pruner(tp)},
                verbose=False,
            )
            groups = _groups(graph, tp, names, shielded=_find_shielded(traced, classes))
            found = list(_without_overlaps(groups))
    except (
        RuntimeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        TypeError,
    ) as error:
        raise UsageError(
            f"the network cannot be cut: its graph cannot be traced ({error}). Take a student by name with --student."
        ) from error
    return found


def _find_shielded(network: nn.Module, classes: int) -> set[nn.Module]:
    """Layers whose outputs stay: the one that makes the logits, and those inside of attention."""
    head = find_head(network, classes=classes)
    found: set[nn.Module] = set() if head is None else {head}
    for layer in network.modules():
        if (
            is_attention(layer)
            or isinstance(layer, nn.MultiheadAttention)
            or _is_named_attention(layer)
        ):
            found.update(layer.modules())
    return found


def _is_named_attention(layer: nn.Module) -> bool:
    """What is called attention and holds a matrix of its own kind; that of channels has convolutions or sizes."""
    return "Attention" in type(layer).__name__ and any(
        isinstance(part, nn.Linear) for part in layer.modules()
    )


def _groups(
    graph: Any,  # noqa: ANN401
    tp: Any,  # noqa: ANN401
    names: dict[nn.Module, str],
    *,
    shielded: set[nn.Module],
) -> Iterator[ChannelGroup]:
    # Sum of squares over all that a channel is made by and goes into (DepGraph, section 3.3)
    score = tp.importance.GroupMagnitudeImportance(p=2)
    for group in graph.get_all_groups(root_module_types=(nn.modules.conv._ConvNd, nn.Linear)):
        items = group.items
        members, sections = [], 1
        for item in items:
            target = item.dep.target
            outputs = graph.is_out_channel_pruning_fn(item.dep.handler)
            if target.module not in names:
                if isinstance(target.module, nn.Parameter):
                    # A parameter of no layer, like the scale of a ConvNeXt block
                    break
                # An operation: nothing of it is stored
                continue
            if not is_cuttable(target.module) or (outputs and target.module in shielded):
                break
            if target.module in shielded and not isinstance(target.module, nn.Linear | _ConvNd):
                break
            if any(root is None for root in item.root_idxs):
                break
            sections = math.lcm(sections, _sections(target.module))
            members.append(
                Member(
                    layer=names[target.module],
                    side="outputs" if outputs else "inputs",
                    positions=tuple(item.idxs),
                    channels=tuple(item.root_idxs),
                )
            )
        else:
            root = items[0].dep.target.module
            channels = len(items[0].idxs)
            try:
                importance = score(group)
            except IndexError:
                # Channels that a reshape mixed up: it names some that there are not
                continue
            if importance is None or channels % sections or channels == sections:
                continue
            yield ChannelGroup(
                name=names[root],
                channels=channels,
                members=tuple(members),
                importance=importance.detach(),
                sections=sections,
            )


def _without_overlaps(groups: Iterable[ChannelGroup]) -> Iterator[ChannelGroup]:
    """Those that share no place of a layer with one before: what two of them cut together, none of them keeps."""
    taken: set[tuple[str, Side, int]] = set()
    for group in groups:
        places = {
            (member.layer, member.side, position)
            for member in group.members
            for position in member.positions
        }
        if taken.isdisjoint(places):
            yield group
        taken |= places


def _sections(layer: Any) -> int:  # noqa: ANN401
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    if isinstance(layer, _ConvNd) and not layer.groups == layer.in_channels == layer.out_channels:
        return layer.groups
    return 1


def _padding_pruner(tp: Any) -> Any:  # noqa: ANN401
    """Tells the graph that channels before and after a padding shortcut are not the same."""

    class PaddingPruner(tp.pruner.function.BasePruningFunc):  # type: ignore[misc]
        TARGET_MODULES = PadShortcut

        def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
            raise NotImplementedError  # apply_cut cuts

        def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
            raise NotImplementedError

        def get_out_channels(self, layer: PadShortcut) -> int:
            return layer.outputs

        def get_in_channels(self, layer: PadShortcut) -> int:
            return layer.inputs

    return PaddingPruner()
