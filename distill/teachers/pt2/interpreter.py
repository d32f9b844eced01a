"""Running the graph of a `.pt2` archive as a differentiable module, by a list of what may be run.

N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from edgekd.distill.teachers.pt2.batch_norm import build_norms, norm_name
from edgekd.distill.teachers.pt2.layers import INPUT, build_layers, layer_name
from edgekd.distill.teachers.pt2.operators import (
    ADAPTED,
    BATCH_NORM,
    CHECKS,
    DROPOUT,
    SIZES,
    Result,
    aten_name,
    first_of,
    nothing,
    on_sizes,
    overload_of,
)
from edgekd.distill.teachers.pt2.records import Archive, Argument, Constant, Node, Value

# Elements of one result, when the program is tried: 1 GiB of float32.
MAX_ELEMENTS: Final = 1 << 28


class _Step:
    """One node, made ready: what to call, with what, and which names it gives and takes last."""

    def __init__(
        self, node: Node, call: Callable[..., Result], arguments: Mapping[str, Argument]
    ) -> None:
        self.node = node
        self.call = call
        self.arguments = arguments
        self.plural = len(node.outputs) > 1 or isinstance(node.outputs[0], tuple)
        # Called with the program first
        self.layer = False
        # What it takes, where it is the one that makes the logits
        self.features: str | None = None
        self.done: tuple[str, ...] = ()


class Program(nn.Module):
    """The network of an archive: images (N, C, H, W) to logits (N, K).

    Parameters, buffers and layers carry the names of the network that was exported.

    Attributes:
        batch: the number of images that it insists on, `None` for any.
        edgekd_before_head: what the input of the layer that makes the logits passes through, (N, F) or
            (N, F, H, W); `None` where no such layer is seen. A hook on it reads the features.
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
        self._layers = frozenset(layers := build_layers(archive, tensors))
        made: dict[str, nn.Module] = {**layers, **build_norms(archive, tensors)}
        # In the network's own order, in which a layer comes before what is inside of it
        places: dict[str, int] = {}
        for place, name in enumerate(archive.weights):
            places.setdefault(name.rpartition(".")[0], place)
        for name in sorted(made, key=lambda name: places.get(name, len(places))):
            self._put(name, made[name])
        owned = {f"{name}.{part}" for name, layer in made.items() for part in layer.state_dict()}
        for name, tensor in tensors.items():
            if name in owned:
                continue
            stored = archive.weights.get(name)
            if stored is not None and stored.is_parameter:
                self._put(name, nn.Parameter(tensor, requires_grad=False))
            else:
                self._put(name, tensor, persistent=stored is not None)
        self._literals = dict(archive.literals)
        # What the network overwrites is its own copy, as images are leaves that gradients go to.
        self._overwrites = any(
            _writes(node) and next(iter(node.arguments.values()), None) == Value(archive.input)
            for node in archive.nodes
        )
        self._steps = self._plan(archive, _live(archive, answer))
        head = _head(archive, answer)
        found = [step for step in self._steps if step.node is head]
        for step in found:
            step.features = _features(step.node)
        # A name that no network has for a part of its own.
        self.edgekd_before_head = nn.Identity() if found else None
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

    def _plan(self, archive: Archive, nodes: list[Node]) -> list[_Step]:
        steps = [self._step(archive, node) for node in nodes]
        seen = {self._answer}
        for step in reversed(steps):
            names = set(_references(list(step.arguments.values())))
            step.done = tuple(names - seen)
            seen |= names
        return steps

    def _step(self, archive: Archive, node: Node) -> _Step:
        name = aten_name(node.target)
        arguments = dict(node.arguments)
        if name in BATCH_NORM:
            return _run_layer(node, norm_name(node, archive.attributes), "input")
        layer = layer_name(node, archive)
        if layer in self._layers:
            return _run_layer(node, layer, INPUT[name])
        if name in DROPOUT:
            first = "input" if "input" in arguments else "self"
            return _Step(node, first_of, {first: arguments[first]})
        if name in CHECKS:
            return _Step(node, nothing, {})
        if name in ADAPTED:
            return _Step(node, ADAPTED[name], arguments)
        if node.target in SIZES:
            return _Step(node, on_sizes(SIZES[node.target]), arguments)
        if name == "sym_size":
            return _Step(node, lambda self, dim: self.shape[dim], arguments)
        call = overload_of(node.target)
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
        values[self._images] = images.clone() if self._overwrites else images
        for step in self._steps:
            if step.features is not None and self.edgekd_before_head is not None:
                values[step.features] = self.edgekd_before_head(values[step.features])
            ready = {
                name: _ready(argument, values, images.device)
                for name, argument in step.arguments.items()
            }
            result = step.call(self, **ready) if step.layer else step.call(**ready)
            _bind(step, result, values)
            for name in step.done:
                values.pop(name, None)
        answer = values[self._answer]
        if not isinstance(answer, Tensor):
            raise TypeError("the answer is not a tensor")
        return answer


def _run_layer(node: Node, name: str, images: str) -> _Step:
    """A node that runs a layer of the program."""
    # Looked up each time it runs: a copy of the program must use its own, and one that is cut another.
    found = _Step(
        node,
        lambda program, images: program.get_submodule(name)(images),
        {"images": node.arguments[images]},
    )
    found.layer = True
    return found


def _bind(step: _Step, result: Result, values: dict[str, Result]) -> None:
    outputs = step.node.outputs
    if not step.plural:
        if isinstance(outputs[0], str):
            values[outputs[0]] = _check_bounds(result)
        return
    names = outputs[0] if isinstance(outputs[0], tuple) else outputs
    # A layer that stands for an operator of several results gives the first alone.
    results = result if isinstance(result, tuple | list) else (result,)
    for name, value in zip(names, results, strict=False):
        if isinstance(name, str):
            values[name] = _check_bounds(value)


def _check_bounds(result: Result) -> Result:
    tried = isinstance(result, Tensor) and result.device.type == "meta"
    if tried and result.numel() > MAX_ELEMENTS:
        raise ValueError(f"it makes a tensor of {result.numel():,} values")
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


def _writes(node: Node) -> bool:
    """Whether it changes its first argument: aten marks that by the name."""
    return aten_name(node.target).endswith("_")


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
        into = next(iter(node.arguments.values()), None)
        if isinstance(into, Value) and into.name in counting:
            continue
        given = [
            name
            for output in node.outputs
            for name in (output if isinstance(output, tuple) else (output,))
        ]
        if _writes(node) or needed.intersection(name for name in given if name is not None):
            needed.update(_references(list(node.arguments.values())))
            kept.append(node)
    return kept[::-1]


# --- the layer that makes the logits -------------------------------------------------------------


# What it is called in a graph, with the name of the argument that the features are.
_HEADS: Final[Mapping[str, str]] = {
    "linear": "input",
    "addmm": "mat1",
    "mm": "self",
    "conv2d": "input",
    "convolution": "input",
}
# What may come after it. Of additions that of a bias, which decomposed programs have apart.
_AFTER_HEAD: Final = frozenset(
    """
    _to_copy _unsafe_view adaptive_avg_pool2d add alias avg_pool2d clone contiguous detach dropout flatten
    mean relu relu_ reshape squeeze to view
    """.split()  # noqa: SIM905
)


def _head(archive: Archive, answer: str) -> Node | None:
    """The linear layer or convolution that gives as many numbers as the answer (N, K) has."""
    makers = {output: node for node in archive.nodes for output in node.outputs}
    name = answer
    for _ in archive.nodes:
        node = makers.get(name)
        kind = "" if node is None else aten_name(node.target)
        if node is not None and kind in _HEADS:
            taken, given = archive.metas.get(_features(node)), archive.metas.get(name)
            dimensions = 4 if kind.startswith("conv") else 2
            if taken is None or given is None or len(taken.sizes) != dimensions:
                return None
            return node if given.sizes[1:2] == archive.metas[answer].sizes[-1:] else None
        first = None if node is None else next(iter(node.arguments.values()), None)
        if node is None or kind not in _AFTER_HEAD or not isinstance(first, Value):
            return None
        added = node.arguments.get("other")
        if isinstance(added, Value) and added.name not in archive.attributes:
            return None
        name = first.name
    return None


def _features(head: Node) -> str:
    value = head.arguments[_HEADS[aten_name(head.target)]]
    return value.name if isinstance(value, Value) else ""
