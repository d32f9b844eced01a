"""Running the graph of a `.pt2` archive as a differentiable module, by a list of what may be run.

N images, C channels, H x W pixels, K classes.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.distill.pt2 import Archive, Argument, Constant, Node, Value

# A tensor, a size, a list of either: what a node gives.
Result: TypeAlias = Any

# Elements of one result. 1 GiB of float32 is far over what any image classifier makes of two images.
MAX_ELEMENTS: Final = 1 << 28

# Functions of aten, any overload: they compute, and touch nothing but their arguments.
ATEN: Final = frozenset(  # a list of 170 lines would hide what is missing
    """
    _softmax _log_softmax _to_copy _unsafe_view abs as_strided adaptive_avg_pool1d adaptive_avg_pool2d
    _adaptive_avg_pool2d adaptive_max_pool2d add add_ addcmul addmm alias amax amin any arange argmax
    avg_pool1d avg_pool2d baddbmm bitwise_and bitwise_not bitwise_or bmm broadcast_to cat channel_shuffle
    chunk clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clone constant_pad_nd contiguous
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


def _first_of(input: Tensor | None = None, **rest: Tensor) -> Tensor:  # noqa: A002
    return input if input is not None else rest["self"]


def _nothing(**_: object) -> None:
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


def unsupported(targets: frozenset[str]) -> tuple[str, ...]:
    """Those of the operators that are not run, sorted, as aten writes them."""
    return tuple(sorted(name.removeprefix("torch.ops.") for name in targets if not _known(name)))


def _known(target: str) -> bool:
    if target in SIZES:
        return True
    name = aten_name(target)
    if name in ATEN or name in ADAPTED or name in CHECKS or name in DROPOUT:
        return True
    return name in BATCH_NORM or target == "torch.ops.aten.sym_size.int"


# --- the module ----------------------------------------------------------------------------------


class _Step:
    """One node, made ready: what to call, with what, and which names it gives and takes last."""

    def __init__(
        self, node: Node, call: Callable[..., Result], arguments: Mapping[str, Argument]
    ) -> None:
        self.node = node
        self.call = call
        self.arguments = arguments
        self.plural = len(node.outputs) > 1 or isinstance(node.outputs[0], tuple)
        self.done: tuple[str, ...] = ()


class Program(nn.Module):
    """The network of an archive: images (N, C, H, W) to logits (N, K).

    Parameters, buffers and batch-norm layers carry the names of the network that was exported.

    Attributes:
        batch: the number of images that it insists on, `None` for any.
    """

    def __init__(self, archive: Archive, tensors: Mapping[str, Tensor], answer: str) -> None:
        """Build the modules and the list of calls.

        Args:
            archive: what to run.
            tensors: the values of its weights and constants, by the names of the exported network.
            answer: the name of the result to give, in the graph.

        Raises:
            ValueError: the names clash, or an operator is called as it cannot be.
        """
        super().__init__()
        self.batch: int | None = None
        self._images = archive.input
        self._answer = answer
        norms = _norms(archive, tensors)
        for name, layer in norms.items():
            self._put(name, layer)
        owned = {f"{name}.{part}" for name, layer in norms.items() for part in layer.state_dict()}
        for name, tensor in tensors.items():
            if name in owned:
                continue
            stored = archive.weights.get(name)
            if stored is not None and stored.is_parameter:
                self._put(name, nn.Parameter(tensor, requires_grad=False))
            else:
                self._put(name, tensor, persistent=stored is not None)
        self._literals = dict(archive.literals)
        self._names = dict(archive.attributes)
        self._steps = self._planned(_live(archive, answer))
        used = {name for step in self._steps for name in _references(list(step.arguments.values()))}
        self._attributes = [
            (name, *path.rpartition(".")[::2])
            for name, path in archive.attributes.items()
            if name in used or name == answer
        ]

    def _put(self, name: str, value: Tensor | nn.Module, *, persistent: bool = True) -> None:
        *parents, last = name.split(".")
        holder: nn.Module = self
        for parent in parents:
            if parent not in holder._modules:
                holder.add_module(parent, nn.Module())
            inner = holder._modules[parent]
            assert inner is not None
            holder = inner
        try:
            if isinstance(value, nn.Module):
                holder.add_module(last, value)
            elif isinstance(value, nn.Parameter):
                holder.register_parameter(last, value)
            else:
                holder.register_buffer(last, value, persistent=persistent)
        except KeyError as error:
            raise ValueError(f"two parts are called {name}") from error

    def _planned(self, nodes: list[Node]) -> list[_Step]:
        steps = [self._step(node) for node in nodes]
        seen = {self._answer}
        for step in reversed(steps):
            names = set(_references(list(step.arguments.values())))
            step.done = tuple(names - seen)
            seen |= names
        return steps

    def _step(self, node: Node) -> _Step:
        name = aten_name(node.target)
        arguments = dict(node.arguments)
        if name in BATCH_NORM:
            key = _norm_name(node, self._names)
            images = {"images": arguments["input"]}
            # Looked up each time it runs: a copy of the module must use its own layers.
            return _Step(node, lambda module, images: module.get_submodule(key)(images), images)
        if name in DROPOUT:
            first = "input" if "input" in arguments else "self"
            return _Step(node, _first_of, {first: arguments[first]})
        if name in CHECKS:
            return _Step(node, _nothing, {})
        if name in ADAPTED:
            return _Step(node, ADAPTED[name], arguments)
        if node.target in SIZES:
            return _Step(node, _on_sizes(SIZES[node.target]), arguments)
        if name == "sym_size":
            return _Step(node, lambda self, dim: self.shape[dim], arguments)
        call = _overload(node.target)
        if any(argument.name == "device" for argument in call._schema.arguments):
            arguments["device"] = Constant("device", 0)
        return _Step(node, call, arguments)

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, K)
        """Run the program."""
        values: dict[str, Result] = {
            name: getattr(self.get_submodule(holder), last)
            for name, holder, last in self._attributes
        }
        values |= self._literals
        values[self._images] = images
        for step in self._steps:
            ready = {
                name: _ready(argument, values, images.device)
                for name, argument in step.arguments.items()
            }
            if aten_name(step.node.target) in BATCH_NORM:
                result = step.call(self, **ready)
            else:
                result = step.call(**ready)
            _bind(step, result, values)
            for name in step.done:
                values.pop(name, None)
        answer = values[self._answer]
        if not isinstance(answer, Tensor):
            raise TypeError("the answer is not a tensor")
        return answer


def _bind(step: _Step, result: Result, values: dict[str, Result]) -> None:
    outputs = step.node.outputs
    if not step.plural:
        if isinstance(outputs[0], str):
            values[outputs[0]] = _bounded(result)
        return
    names = outputs[0] if isinstance(outputs[0], tuple) else outputs
    # A layer that stands for an operator of several results gives the first alone.
    results = result if isinstance(result, tuple | list) else (result,)
    for name, value in zip(names, results, strict=False):
        if isinstance(name, str):
            values[name] = _bounded(value)


def _bounded(result: Result) -> Result:
    tried = isinstance(result, Tensor) and result.device.type == "meta"
    if tried and result.numel() > MAX_ELEMENTS:
        raise ValueError(f"it makes a tensor of {result.numel():,} values of two images")
    return result


def _ready(argument: Argument, values: Mapping[str, Result], device: torch.device) -> Result:
    match argument:
        case Value(name):
            return values[name]
        case Constant():
            return device if argument.kind == "device" else _torch_constant(argument)
        case list():
            return [_ready(item, values, device) for item in argument]
        case _:
            return argument


_WHOLE: Final[Mapping[int, torch.dtype]] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    12: torch.bool,
}
_FORMATS: Final[Mapping[int, torch.memory_format]] = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}


def _torch_constant(constant: Constant) -> torch.dtype | torch.layout | torch.memory_format:
    if constant.kind == "layout":
        return torch.strided
    if constant.kind == "memory_format":
        return _FORMATS[constant.number]
    # Every float is single precision here, whatever the program was exported in.
    return _WHOLE.get(constant.number, torch.float32)


def _references(argument: Argument) -> list[str]:
    if isinstance(argument, Value):
        return [argument.name]
    if isinstance(argument, list):
        return [name for item in argument for name in _references(item)]
    return []


def _live(archive: Archive, answer: str) -> list[Node]:
    """The nodes that the answer needs, and those that write into something on its way.

    What training mode adds to counters of batches, and writes back to buffers, is left out.
    """
    counting = {
        name for name, path in archive.attributes.items() if path.endswith("num_batches_tracked")
    }
    needed = {answer}
    kept = []
    for node in reversed(archive.nodes):
        name = aten_name(node.target)
        into = next(iter(node.arguments.values()), None)
        if isinstance(into, Value) and into.name in counting:
            continue
        given = [
            name
            for output in node.outputs
            for name in (output if isinstance(output, tuple) else (output,))
        ]
        writes = name.endswith("_") and not name.startswith("_")
        if writes or needed.intersection(name for name in given if name is not None):
            needed.update(_references(list(node.arguments.values())))
            kept.append(node)
    return kept[::-1]


def _on_sizes(function: Callable[..., Result]) -> Callable[..., Result]:
    def call(**arguments: Result) -> Result:
        sizes = tuple(arguments.values())
        # A word times a number would be as long as the number says.
        if not all(isinstance(size, int | float) and abs(size) < _LIMIT for size in sizes):
            raise TypeError("arithmetic on something that is no size")
        return function(*sizes)

    return call


def _overload(target: str) -> torch._ops.OpOverload:
    name, _, overload = target[len(_PREFIX) :].partition(".")
    found = getattr(getattr(torch.ops.aten, name, None), overload, None) if name in ATEN else None
    # What is not an overload is an attribute of Python's own: nothing of that is called.
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"there is no operator {target[:80]}")
    return found


# --- batch-norm ----------------------------------------------------------------------------------


def _norm_name(node: Node, attributes: Mapping[str, str]) -> str:
    """The name of a batch-norm node's layer: that of its statistics.

    Raises:
        ValueError: the node has no stored statistics.
    """
    mean = node.arguments.get("running_mean")
    path = attributes.get(mean.name, "") if isinstance(mean, Value) else ""
    if not path:
        raise ValueError(
            "a batch-norm layer has no running statistics of its own: it was exported in training mode, "
            "or keeps none. Export again after model.eval()"
        )
    return path.removesuffix(".running_mean") if "." in path else f"{path}_layer"


def _norms(archive: Archive, tensors: Mapping[str, Tensor]) -> dict[str, _BatchNorm]:
    layers: dict[str, _BatchNorm] = {}
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    for node in archive.nodes:
        if aten_name(node.target) not in BATCH_NORM:
            continue
        name = _norm_name(node, archive.attributes)

        def stored(argument: str, node: Node = node) -> Tensor | None:
            value = node.arguments.get(argument)
            if value is None:
                return None
            if not isinstance(value, Value) or value.name not in archive.attributes:
                raise ValueError(f"the {argument} of a batch-norm layer is computed, not stored")
            return tensors[archive.attributes[value.name]]

        mean, variance = stored("running_mean"), stored("running_var")
        weight, bias = stored("weight"), stored("bias")
        data, eps = (
            node.arguments["input"],
            node.arguments.get("eps", node.arguments.get("epsilon")),
        )
        if mean is None or variance is None or not isinstance(data, Value):
            raise ValueError(f"{name} has no running statistics")
        if not isinstance(eps, int | float):
            raise TypeError(f"the eps of {name} is no number")
        affine = weight is not None or bias is not None
        layer = kinds[len(archive.metas[data.name].sizes)](len(mean), eps=float(eps), affine=affine)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(_as_long(name, mean, mean))
        layer.running_var.copy_(_as_long(name, variance, mean))
        if affine:
            nn.init.ones_(layer.weight) if weight is None else layer.weight.data.copy_(
                _as_long(name, weight, mean)
            )
            nn.init.zeros_(layer.bias) if bias is None else layer.bias.data.copy_(
                _as_long(name, bias, mean)
            )
        counted = tensors.get(f"{name}.num_batches_tracked")
        if counted is not None and layer.num_batches_tracked is not None and counted.ndim == 0:
            layer.num_batches_tracked.copy_(counted)
        layers[name] = layer
    return layers


def _as_long(name: str, tensor: Tensor, other: Tensor) -> Tensor:
    if tensor.shape != (len(other),):
        raise ValueError(
            f"{name} has statistics of shapes {tuple(tensor.shape)} and {tuple(other.shape)}"
        )
    return tensor
