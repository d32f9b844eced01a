"""What a classifier answers with: logits, or probabilities; and whether it answers the same twice.

A softmax over probabilities makes every confidence small, and a temperature over them softens nothing.
N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekd.errors import InputFileError
from edgekd.records import InputSpec

AnswerKind = Literal["logits", "probabilities", "log-probabilities"]
PROBABILITIES: Final = "its answers are probabilities: their logarithms are taken for logits"
# Of the sum of a row; FP16 and INT8 files round every one of its values
_SUM: Final = 0.01
# For 0: some kernels take the smallest numbers of float32 for it
TINY: Final = 1e-30
# Of the largest answer. Batches of other sizes are summed in another order: some 1e-6
_SAME: Final = 1e-3
_ASKED: Final = 4


def kind_of(answers: npt.NDArray[Any]) -> AnswerKind:  # (N, K)
    """What rows of answers are, by their values: no row of logits sums to 1 by chance on every image."""
    values = np.asarray(answers, np.float64)
    if values.ndim != 2 or not values.size or values.shape[1] < 2 or not np.isfinite(values).all():
        return "logits"
    if values.min() >= 0 and np.abs(values.sum(1) - 1).max() <= _SUM:
        return "probabilities"
    if values.max() <= _SUM and np.abs(np.exp(values).sum(1) - 1).max() <= _SUM:
        return "log-probabilities"
    return "logits"


def as_logits(answers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:  # (N, K) -> (N, K)
    """Logits with the same softmax: of probabilities their logarithms, of all else what is there."""
    values = np.asarray(answers, np.float32)
    return np.log(np.maximum(values, TINY)) if kind_of(values) == "probabilities" else values


class LogProbabilities(nn.Module):
    """Around a network that ends in a softmax that cannot be taken off: logits with the same softmax."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # No name that readers of weights take for a wrapper's, and leave out
        self.wrapped = network

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, K)
        probabilities: Tensor = self.wrapped(images)
        return probabilities.clamp_min(TINY).log()


@torch.no_grad()
def with_logits(module: nn.Module, spec: InputSpec) -> tuple[nn.Module, tuple[str, ...]]:
    """A teacher that answers with logits, and what was found out about its answers.

    Args:
        module: of a classifier, evaluation mode.
        spec: of its input.

    Raises:
        InputFileError: it answers the same images otherwise when asked again, or alone.
    """
    generator = torch.Generator().manual_seed(0)
    strengths = torch.linspace(0.3, 3.0, _ASKED).view(-1, 1, 1, 1)
    images = strengths * torch.randn(_ASKED, *spec.shape, generator=generator)
    first = module(images)
    if first.ndim != 2:
        # Said by whoever looks at shapes
        return module, ()
    _require_same(module, first, lambda: module(images), images, images, what="asked again")
    alone = images[:1]
    _require_same(module, first[:1], lambda: module(alone), images, alone, what="asked alone")
    kind = kind_of(first.numpy())
    if kind == "probabilities":
        return LogProbabilities(module).eval(), (PROBABILITIES,)
    if kind == "log-probabilities":
        return module, ("its answers are log-probabilities, which are logits as well",)
    return module, ()


# --- the same answers -----------------------------------------------------------------------------


def _require_same(
    module: nn.Module,
    first: Tensor,
    again: Callable[[], Tensor],
    images: Tensor,
    others: Tensor,
    *,
    what: Literal["asked again", "asked alone"],
) -> None:
    second = again()
    apart = float((second - first).abs().max())
    if apart <= _SAME * (1e-6 + float(first.abs().max())) or not np.isfinite(apart):
        return
    name = _culprit(module, images, others)
    where = f"{name} changes" if name else "the code of its forward changes"
    if what == "asked again":
        raise InputFileError(
            f"the teacher answers the same images otherwise when it is asked again, by up to {apart:.3g}: {where} what "
            "it answers at random, as dropout or noise do that stay on in evaluation. Switch it off in the network's "
            "code (F.dropout(x, training=self.training)), or export it again after model.eval()."
        )
    raise InputFileError(
        f"the teacher answers an image alone otherwise than among {len(images)}, by up to {apart:.3g}: {where} with the "
        "batch, as batch-norm does that takes its statistics from it. A board runs one image at a time: train with "
        "track_running_stats=True, or export it again after model.eval()."
    )


def _culprit(module: nn.Module, images: Tensor, others: Tensor) -> str | None:
    """The innermost part that answers the same otherwise; None where it cannot be seen."""
    seen: list[dict[str, tuple[Tensor, Tensor]]] = []
    for given in (images, others):
        with _recorded(module) as found:
            module(given)
        seen.append(found)
    rows = len(others)
    for name, (given, made) in seen[0].items():
        if name not in seen[1]:
            continue
        given_again, made_again = seen[1][name]
        if _alike(given[:rows], given_again[:rows]) and not _alike(made[:rows], made_again[:rows]):
            part = module.get_submodule(name)
            return f"{name} ({type(part).__name__})" if name else None
    return None


@contextmanager
def _recorded(module: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Inputs and outputs of parts while a network runs, in the order in which they end: innermost first."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:  # noqa: ANN401
            if given and isinstance(given[0], Tensor) and isinstance(made, Tensor):
                found.setdefault(name, (given[0].clone(), made.clone()))

        return hook

    for name, part in module.named_modules():
        # Scripted parts are run inside of TorchScript, which asks no hook
        if not isinstance(part, torch.jit.ScriptModule):
            hooks.append(part.register_forward_hook(keep(name)))
    try:
        yield found
    finally:
        for each in hooks:
            each.remove()


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return float((one - other).abs().max()) <= _SAME * (1e-6 + float(one.abs().max()))
