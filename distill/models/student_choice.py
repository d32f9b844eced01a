"""The size of a network, and the student that a teacher of a size gets."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd.distill.models import architectures
from edgekd.distill.models.architectures import (
    GRAMMAR,
    NAMES,
    build,
    family_of,
    find_architecture,
)
from edgekd.errors import UsageError
from edgekd.records import Architecture, Cut

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Size:
    parameters: int
    # Of one image
    macs: int


def size_of(module: nn.Module, *, shape: Shape) -> Size:
    """Parameters and multiply-accumulates of one image of (channels, height, width).

    Counts convolutions and matrix products, half of torch's count of floating-point operations.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    _pass_under(counter, module, shape)
    return Size(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        macs=counter.get_total_flops() // 2,
    )


def _pass_under(counter: AbstractContextManager[object], module: nn.Module, shape: Shape) -> None:
    """One image of zeros through a network in evaluation mode, its operators counted."""
    # A frozen script has no parameters
    first = next(module.parameters(), torch.empty(0))
    image = torch.zeros(1, *shape, device=first.device, dtype=first.dtype)
    was_training = module.training
    module.eval()
    with torch.no_grad(), counter:
        module(image)
    module.train(was_training)


class _MapBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what operators make; what they hand on or work on in place is there already."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        del types
        made = func(*args, **(kwargs or {}))
        if not any(each.alias_info for each in func._schema.returns):
            found = made if isinstance(made, tuple | list) else (made,)
            self.total += sum(each.nbytes for each in found if isinstance(each, Tensor))
        return made


def map_bytes(module: nn.Module, *, shape: Shape) -> int:
    """Bytes of all maps that a network makes of one image of (channels, height, width); of scripts and programs, too."""
    counter = _MapBytes()
    _pass_under(counter, module, shape)
    return counter.total


@dataclass(frozen=True, kw_only=True)
class InitialStudent:
    """A student that begins with weights of its teacher. Not a record."""

    # Evaluation mode
    module: nn.Module
    # Of it out of the teacher; None: whole layers are inherited
    cut: Cut | None = None
    # Whether all of its batch-norm layers are the teacher's
    statistics: bool = True


# Of a student on its board: faster than the teacher beyond doubt, perhaps, or slower or over a budget
Worth = Literal["gains", "unsure", "too costly"]


@dataclass(frozen=True, kw_only=True)
class StudentVariant:
    """A student before its first step. Not a record."""

    architecture: Architecture
    reason: str
    # With the weights that it inherits; None: they are drawn
    initial: InitialStudent | None = None

    @property
    def cut(self) -> Cut | None:
        """Of it out of the teacher, where it is one."""
        return None if self.initial is None else self.initial.cut

    @property
    def initial_weights(self) -> Literal["drawn", "inherited", "cut"]:
        """Where its first weights are from."""
        if self.initial is None:
            return "drawn"
        return "inherited" if self.initial.cut is None else "cut"

    def build(self) -> nn.Module:
        """The network, with whatever weights."""
        if self.initial is None:
            return architectures.build(self.architecture)
        return copy.deepcopy(self.initial.module)


# A student has at most one SHARE-th of the teacher's parameters and MACs
SHARE: Final = 4


def _never(_: Architecture) -> bool:
    return False


def choose_student(
    asked: str,
    *,
    teacher: Architecture,
    size: Size,
    too_costly: Callable[[Architecture], bool] = _never,
    most_fewer: int | None = None,
) -> StudentVariant:
    """The student that was asked for, or for `auto` the largest of ours that is small enough.

    Args:
        asked: a name, or "auto".
        teacher: its architecture.
        size: of the teacher.
        too_costly: whether a student is slower on its board than the teacher, or over a budget; such a one is not chosen.
        most_fewer: a student with fewer parameters than the teacher's by more than this factor is not chosen; None: by any.

    Raises:
        UsageError: an unknown name, or nothing small enough for `auto`.
    """
    shape: dict[str, Any] = {"channels": teacher.channels, "classes": teacher.classes}
    shape |= {"height": teacher.height, "width": teacher.width}
    if asked != "auto":
        return StudentVariant(
            architecture=find_architecture(asked, **shape), reason="asked for with --student"
        )
    family = _teacher_family(teacher)
    # A family may have nothing small enough (VGG-11 is our only VGG); residual networks always do.
    for tried in dict.fromkeys((family, "resnet")):
        fitting = [
            each
            for each in _fitting(tried, size=size, shape=shape)
            if most_fewer is None or each[0].parameters * most_fewer >= size.parameters
        ]
        best = next((each for each in fitting if not too_costly(each[1])), None)
        if best is not None:
            found, chosen = best
            return StudentVariant(
                architecture=chosen,
                reason=(
                    f"the largest built-in {tried} with at most a quarter of the teacher's parameters and MACs: "
                    f"{found.parameters:,} of {size.parameters:,} and {found.macs:,} of {size.macs:,}"
                    + (
                        ""
                        if best is fitting[0]
                        else f"; {fitting[0][1].name} would cost the board too much"
                    )
                    + ("" if tried == family else f"; no built-in {family} is small enough")
                ),
            )
    few = "" if most_fewer is None else f", at least 1/{most_fewer} of its parameters,"
    raise UsageError(
        f"none of our networks has at most a quarter of the teacher's {size.parameters:,} parameters "
        f"and {size.macs:,} MACs{few} and costs the board no more than it may. Name one with --student: {GRAMMAR}."
    )


def _fitting(family: str, *, size: Size, shape: dict[str, Any]) -> list[tuple[Size, Architecture]]:
    """Those that are small enough, the largest first."""
    fitting = []
    for name in NAMES:
        if family_of(name) != family:
            continue
        candidate = Architecture(source="edgekd", name=name, **shape)
        with torch.device("meta"):
            module = build(candidate)
        found = size_of(module, shape=(shape["channels"], shape["height"], shape["width"]))
        if found.parameters * SHARE <= size.parameters and found.macs * SHARE <= size.macs:
            fitting.append((found, candidate))
    return sorted(fitting, key=lambda pair: (pair[0].parameters, pair[0].macs), reverse=True)


def _teacher_family(teacher: Architecture) -> str:
    if teacher.source == "edgekd":
        family = family_of(teacher.name)
        # A built architecture has a family
        assert family is not None
        return family
    name = teacher.name.lower()
    for part, family in (("mobilenet", "mobilenetv2"), ("vgg", "vgg"), ("wide_resnet", "wrn")):
        if part in name:
            return family
    # Residual networks are the best students we have for anything else
    return "resnet"
