"""The operators that a program may use, by their names in its file, and what runs each.

N images, C channels.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

# A tensor, a size, a list of either: what a node gives.
Result: TypeAlias = Any

# Functions of aten, any overload: they compute, and touch nothing but their arguments.
# A list of 170 lines would hide what is missing
ATEN: Final = frozenset(
    """
    _softmax _log_softmax _to_copy _unsafe_view abs as_strided adaptive_avg_pool1d adaptive_avg_pool2d
    _adaptive_avg_pool2d adaptive_max_pool2d add add_ addcmul addmm alias amax amin any arange argmax
    avg_pool1d avg_pool2d baddbmm bitwise_and bitwise_not bitwise_or bmm broadcast_to cat channel_shuffle
    chunk clamp clamp_ clip clip_ clamp_max clamp_max_ clamp_min clamp_min_ clone constant_pad_nd contiguous
    conv1d conv2d conv3d copy cos cumsum detach detach_ div div_ elu elu_ empty_like eq erf exp expand
    expand_as eye fill fill_ flatten flip floor floor_divide fmod full full_like ge gelu gelu_ glu
    group_norm gt hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ index index_select
    instance_norm layer_norm le leaky_relu leaky_relu_ lift_fresh lift_fresh_copy linalg_vector_norm
    linear log log_softmax logical_and logical_not logical_or lt masked_fill masked_fill_ matmul max
    max_pool1d max_pool2d max_pool2d_with_indices maximum mean min minimum mish mish_ mm movedim mul mul_
    narrow ne neg new_empty new_full new_ones new_zeros norm one_hot ones ones_like pad permute
    pixel_shuffle pixel_unshuffle pow prelu _prelu_kernel reciprocal reflection_pad2d relu relu6 relu6_
    relu_ remainder repeat repeat_interleave replication_pad2d reshape roll rsqrt rsub scalar_tensor
    scaled_dot_product_attention select select_scatter selu selu_ sigmoid sigmoid_ silu silu_ sin slice
    slice_scatter softmax softplus split split_with_sizes sqrt square squeeze squeeze_ stack std std_mean
    sub sub_ sum swapaxes t tanh tanh_ tile to transpose type_as unbind unflatten unsqueeze unsqueeze_
    upsample_bicubic2d upsample_bilinear2d upsample_nearest2d _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa var var_mean view view_as where zeros zeros_like
    """.split()  # noqa: SIM905
)
# Checks that torch.export leaves in: they hold for the program as it was exported.
CHECKS: Final = frozenset(
    {
        "_assert_async",
        "_assert_scalar",
        "_assert_tensor_metadata",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)
DROPOUT: Final = frozenset(
    {
        "dropout",
        "dropout_",
        "feature_dropout",
        "feature_dropout_",
        "alpha_dropout",
        "native_dropout",
    }
)
BATCH_NORM: Final = frozenset(
    {
        "batch_norm",
        "cudnn_batch_norm",
        "native_batch_norm",
        "_batch_norm_with_update",
        "_batch_norm_with_update_functional",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional",
        "_native_batch_norm_legit_no_training",
    }
)
# Arithmetic on sizes.
SIZES: Final[Mapping[str, Callable[..., Result]]] = {
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv,
    "_operator.truediv": operator.truediv,
    "_operator.mod": operator.mod,
    "_operator.neg": operator.neg,
    "_operator.eq": operator.eq,
    "_operator.ne": operator.ne,
    "_operator.lt": operator.lt,
    "_operator.le": operator.le,
    "_operator.gt": operator.gt,
    "_operator.ge": operator.ge,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_int": int,
    "torch.sym_float": float,
}
_PREFIX: Final = "torch.ops.aten."
_LIMIT: Final = 1 << 62


def aten_name(target: str) -> str:
    """`relu` of `torch.ops.aten.relu.default`; empty for anything that is not aten's."""
    return target[len(_PREFIX) :].partition(".")[0] if target.startswith(_PREFIX) else ""


# --- operators that are run by another function --------------------------------------------------
# Those of decomposed programs are unknown to autocast, or name one kernel of several.


def _convolution(
    input: Tensor,  # noqa: A002  (N, C, ...) -> (N, C', ...); the names are those of aten's schema
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    at = input.ndim - 3
    if transposed:
        up = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
        transposing: Callable[..., Tensor] = up[at]
        return transposing(input, weight, bias, stride, padding, output_padding, groups, dilation)
    plain: Callable[..., Tensor] = (functional.conv1d, functional.conv2d, functional.conv3d)[at]
    return plain(input, weight, bias, stride, padding, dilation, groups)


def _softmax(self: Tensor, dim: int, half_to_float: bool = False) -> Tensor:  # noqa: ARG001
    return torch.softmax(self, dim)


def _log_softmax(self: Tensor, dim: int, half_to_float: bool = False) -> Tensor:  # noqa: ARG001
    return torch.log_softmax(self, dim)


def _layer_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, None, None]:
    return functional.layer_norm(input, normalized_shape, weight, bias, eps), None, None


def _group_norm(
    input: Tensor,  # noqa: A002
    weight: Tensor | None,
    bias: Tensor | None,
    group: int,
    eps: float,
    **_: int,  # the shape, said again
) -> tuple[Tensor, None, None]:
    return functional.group_norm(input, group, weight, bias, eps), None, None


def _attention(
    query: Tensor,  # (N, heads, tokens, width), as key and value
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    attn_bias: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    **_: object,  # dropout, and what only the backward of one kernel needs
) -> tuple[Tensor, *tuple[None, ...]]:
    mask = attn_mask if attn_mask is not None else attn_bias
    out = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, scale=scale
    )
    return out, *(None,) * 8


def first_of(input: Tensor | None = None, **rest: Tensor) -> Tensor:  # noqa: A002
    return input if input is not None else rest["self"]


def nothing(**_: object) -> None:
    return None


ADAPTED: Final[Mapping[str, Callable[..., Result]]] = {
    "convolution": _convolution,
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}


def find_unsupported(targets: frozenset[str]) -> tuple[str, ...]:
    """Those of the operators that are not run, sorted, as aten writes them."""
    return tuple(sorted(name.removeprefix("torch.ops.") for name in targets if not _known(name)))


def _known(target: str) -> bool:
    if target in SIZES:
        return True
    name = aten_name(target)
    if name in ATEN or name in ADAPTED or name in CHECKS or name in DROPOUT:
        return True
    return name in BATCH_NORM or target == "torch.ops.aten.sym_size.int"


def on_sizes(function: Callable[..., Result]) -> Callable[..., Result]:
    def call(**arguments: Result) -> Result:
        sizes = tuple(arguments.values())
        # A word times a number would be as long as the number says.
        if not all(isinstance(size, int | float) and abs(size) < _LIMIT for size in sizes):
            raise TypeError("arithmetic on something that is no size")
        return function(*sizes)

    return call


def overload_of(target: str) -> torch._ops.OpOverload:
    name, _, overload = target[len(_PREFIX) :].partition(".")
    found = getattr(getattr(torch.ops.aten, name, None), overload, None) if name in ATEN else None
    # What is not an overload is an attribute of Python's own: nothing of that is called.
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"there is no operator {target[:80]}")
    return found
