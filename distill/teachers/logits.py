"""The logits in what a classifier answers: alone, in an object of transformers, or one of several."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def place_of_logits(answer: object) -> str | int | None:
    """Where logits (N, K) are in an answer that is no tensor.

    Returns:
        `"logits"` for an entry or attribute of that name, as transformers has it; the place in a tuple or list, whose first
        is taken, or the second where the first is its softmax (Ultralytics). None where there are none.
    """
    named = _taken(answer, "logits")
    if isinstance(named, Tensor) and named.ndim == 2:
        return "logits"
    if not isinstance(answer, tuple | list) or not answer:
        return None
    first, second = answer[0], answer[1] if len(answer) > 1 else None
    if not isinstance(first, Tensor) or first.ndim != 2:
        return None
    if isinstance(second, Tensor) and second.shape == first.shape:
        return 1 if torch.allclose(second.softmax(1), first, atol=1e-4) else 0
    return 0


def _taken(answer: object, place: str | int) -> object:
    if isinstance(place, int):
        assert isinstance(answer, tuple | list)
        return answer[place]
    if isinstance(answer, Mapping):
        return answer.get(place)
    return getattr(answer, place, None)


class LogitsAlone(nn.Module):
    """Around a classifier that answers with more than its logits.

    Args:
        inner: that classifier.
        place: of its logits; see `place_of_logits`.
    """

    def __init__(self, inner: nn.Module, place: str | int) -> None:
        super().__init__()
        self.inner = inner
        self.place = place

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, K)
        logits = _taken(self.inner(images), self.place)
        assert isinstance(logits, Tensor)
        return logits
