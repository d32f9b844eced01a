"""What the TorchScript exporter is given in parts, because it does not know the whole.

Below opset 14 that is attention. At every opset it is a batch-norm that takes its statistics from what it is given, as
networks without normalisation have it for their weights (ScaledStdConv2d): its operator could not be folded into
constants, and weights that are computed are neither INT8 nor known to TensorRT below 8.5.
"""

import inspect
from collections.abc import Callable
from typing import Any, Final

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgekd.errors import IncompatibleError

# The opset from which the exporter writes it
ATTENTION_SINCE: Final = 14


class DecompositionMode(TorchFunctionMode):
    """While it is open, calls of these functions become calls of what they are made of."""

    def __init__(self, opset: int) -> None:
        super().__init__()
        self.opset = opset

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        given = kwargs or {}
        if func is functional.scaled_dot_product_attention and self.opset < ATTENTION_SINCE:
            return _attention(*args, **given)
        if func is functional.multi_head_attention_forward and self.opset < ATTENTION_SINCE:
            return _multi_head_attention(*args, **given)
        if func is functional.batch_norm:
            return _batch_norm(*args, **given)
        return func(*args, **given)


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
            f"attention that is causal or grouped cannot be written below opset {ATTENTION_SINCE}. "
            "Choose another student, or a target with newer software."
        )
    scores = query @ key.transpose(-2, -1)  # (..., L, S)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return scores.softmax(-1) @ value


def _multi_head_attention(*args: Any, **given: Any) -> tuple[torch.Tensor, torch.Tensor | None]:  # noqa: ANN401
    """As `functional.multi_head_attention_forward`, which computes in parts where its weights are asked for.

    Otherwise it calls the whole by itself, where no mode sees it.
    """
    bound = _MULTI_HEAD.bind(*args, **given)
    bound.apply_defaults()
    asked = bound.arguments["need_weights"]
    bound.arguments["need_weights"] = True
    answer, weights = functional.multi_head_attention_forward(*bound.args, **bound.kwargs)
    return answer, weights if asked else None


_MULTI_HEAD: Final = inspect.signature(functional.multi_head_attention_forward)


def _batch_norm(
    values: torch.Tensor,  # (N, C, ...)
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:  # (N, C, ...)
    if not training:
        return functional.batch_norm(
            values, running_mean, running_var, weight, bias, training, momentum, eps
        )
    others = [0, *range(2, values.ndim)]
    centred = values - values.mean(others, keepdim=True)
    normal = centred / (centred.square().mean(others, keepdim=True) + eps).sqrt()
    shape = (1, -1, *(1 for _ in others[1:]))
    normal = normal if weight is None else normal * weight.reshape(shape)
    return normal if bias is None else normal + bias.reshape(shape)
