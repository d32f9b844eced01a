"""Attention for the TorchScript exporter, which below opset 14 knows every part of it and not the whole."""

import contextlib
from collections.abc import Callable
from typing import Any, Final

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgekd.errors import IncompatibleError

SINCE: Final = 14  # the opset from which the exporter writes it


def written_for(opset: int) -> contextlib.AbstractContextManager[object]:
    """While it is open, attention is traced so that the TorchScript exporter can write it at this opset."""
    return contextlib.nullcontext() if opset >= SINCE else _InParts()


class _InParts(TorchFunctionMode):
    """Calls of attention become the products and the softmax that it is made of."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        inner = _attention if func is functional.scaled_dot_product_attention else func
        return inner(*args, **(kwargs or {}))


def _attention(
    query: torch.Tensor,  # (..., L, E)
    key: torch.Tensor,  # (..., S, E)
    value: torch.Tensor,  # (..., S, V)
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 - of training
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:  # (..., L, V)
    if is_causal or enable_gqa:
        raise IncompatibleError(
            f"attention that is causal or grouped cannot be written below opset {SINCE}. "
            "Choose another student, or a target with newer software."
        )
    scores = query @ key.transpose(-2, -1)  # (..., L, S)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return scores.softmax(-1) @ value
