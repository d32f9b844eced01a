"""Teachers that are programs: `.pt2` archives of `torch.export.save`, read without unpickling anything.

N images, C channels, H x W pixels, K classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekd.distill.teachers.pt2.archive import AGAIN, members
from edgekd.distill.teachers.pt2.reader import read_archive
from edgekd.distill.teachers.pt2.records import Archive, Node, TensorPayload, Value
from edgekd.errors import InputFileError

# torch takes seconds to come in, and what a file says is wanted at once
if TYPE_CHECKING:
    from torch import Tensor, nn

_ATEN: Final = "torch.ops.aten."
_SOFTMAX: Final = frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax"})
_SIGMOID: Final = frozenset({"sigmoid", "sigmoid_"})
_SAME: Final = frozenset({"alias", "clone", "contiguous", "detach", "dropout", "to", "_to_copy"})
_TRAINING: Final = (
    "exported in training mode; run as in evaluation. Export after model.eval() to be sure"
)


@dataclass(frozen=True, kw_only=True)
class ProgramFile:
    """Everything that can be said of a program without running it."""

    nodes: int
    # Distinct, sorted
    operators: tuple[str, ...]
    # Channels, height, width; None where open or not 4-d
    input: tuple[int, int, int] | None
    batch: int | None  # None: any
    parameters: int
    batch_norm_layers: int
    classes: int | None
    notes: tuple[str, ...]
    # Of the state dict, by the exported network's names
    shapes: Mapping[str, tuple[int, ...]]


def read_program(path: Path) -> ProgramFile:
    """What a `.pt2` archive holds. Brings in no torch and reads no weights.

    Raises:
        InputFileError: damaged, refused because it would take a pickle to load, or no classifier.
    """
    archive = read_archive(path)
    _, notes = _logits(archive)
    images, answer = archive.metas[archive.input], archive.metas[archive.output]
    spatial = images.sizes[1:]
    channels, height, width = spatial if len(spatial) == 3 else (None, None, None)
    known = channels is not None and height is not None and width is not None
    parameters = {
        (p.member, p.offset, p.sizes, p.strides) for p in archive.weights.values() if p.is_parameter
    }
    if images.sizes[:1] != (None,):
        notes = (*notes, f"exported for {images.sizes[0]} images at a time")
    return ProgramFile(
        nodes=len(archive.nodes),
        operators=tuple(sorted({node.target.removeprefix("torch.ops.") for node in archive.nodes})),
        input=(channels, height, width) if known else None,  # type: ignore[arg-type]  # known says so
        batch=images.sizes[0] if images.sizes else None,
        parameters=sum(math.prod(sizes) for _, _, sizes, _ in parameters),
        batch_norm_layers=len(_normalized_inputs(archive)),
        classes=answer.sizes[-1] if len(answer.sizes) == 2 else None,
        notes=notes,
        shapes={name: payload.sizes for name, payload in archive.weights.items()},
    )


def load_program(path: Path) -> "nn.Module":
    """The program as a module, (N, C, H, W) -> (N, K): float32, evaluation mode, differentiable.

    Batch-norm nodes are `nn.BatchNorm` layers under their original names; a last softmax is left out.
    A program that was exported for a fixed number of images is accepted where it is seen to answer
    the same whatever the number. Its parameters ask for no gradients.

    Raises:
        InputFileError: as `read_program`; values that are not finite; operators that are not on the
            list; a program that does not run, or not on any number of images.
    """
    import torch

    from edgekd.distill.teachers.pt2 import interpreter, operators

    archive = read_archive(path)
    answer, _ = _logits(archive)
    missing = operators.find_unsupported(frozenset(node.target for node in archive.nodes))
    if missing:
        raise InputFileError(
            f"{path}: uses {', '.join(name[:80] for name in missing[:5])}, which edgekd does not run from a "
            ".pt2; give the weights with --arch instead, or let torch run it with --trust-pickle. Where it was exported in training mode, export "
            "after model.eval()."
        )
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in _tensors(path, {**archive.constants, **archive.weights}).items()
    }
    try:
        with torch.no_grad():
            module = interpreter.Program(archive, tensors, answer)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _not_run(path, error) from error
    module.eval().requires_grad_(False)
    _try(path, archive, module)
    return module


def state_of(path: Path) -> "dict[str, Tensor]":
    """Parameters and persistent buffers by the names of the exported network, as they are stored.

    Raises:
        InputFileError: as `read_archive`, or values that are not finite.
    """
    return _tensors(path, read_archive(path).weights)


# --- the end of the graph ------------------------------------------------------------------------


def _logits(archive: Archive) -> tuple[str, tuple[str, ...]]:
    """The name of the logits in the graph, and what there is to say about the program."""
    for name in (archive.input, archive.output):
        if name not in archive.metas:
            raise InputFileError(f"{archive.path}: its input or output is no tensor. {AGAIN}")
    makers = {output: node for node in archive.nodes for output in node.outputs}
    name, notes = archive.output, list(_training(archive.nodes))
    for _ in archive.nodes:
        node = makers.get(name)
        operator = _operator(node)
        source = _first(node)
        if node is None or source is None:
            break
        if operator in _SIGMOID:
            raise InputFileError(
                f"{archive.path}: ends in a sigmoid: a multi-label network, which answers for each class by "
                "itself. edgekd distils networks that choose one of the classes."
            )
        if operator in _SOFTMAX:
            notes.append(f"ends in a {operator.strip('_')}: taken off, distillation needs logits")
            return source, tuple(notes)
        if operator not in _SAME:
            break
        name = source
    return archive.output, tuple(notes)


def _operator(node: Node | None) -> str:
    if node is None or not node.target.startswith(_ATEN):
        return ""
    return node.target[len(_ATEN) :].partition(".")[0]


def _first(node: Node | None) -> str | None:
    value = None if node is None else next(iter(node.arguments.values()), None)
    return value.name if isinstance(value, Value) else None


def _training(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    training = any(
        node.arguments.get("training") is True or node.arguments.get("train") is True
        for node in nodes
    )
    return (_TRAINING,) if training else ()


def _normalized_inputs(archive: Archive) -> set[str]:
    means = (node.arguments.get("running_mean") for node in archive.nodes)
    return {mean.name for mean in means if isinstance(mean, Value)}


# --- values --------------------------------------------------------------------------------------


def _tensors(path: Path, payloads: Mapping[str, TensorPayload]) -> "dict[str, Tensor]":
    import torch

    flat: dict[tuple[str, str], Tensor] = {}
    kinds = {name: set[str]() for name in {p.member for p in payloads.values()}}
    for payload in payloads.values():
        kinds[payload.member].add(payload.dtype)
    for member, data in members(path, kinds):
        for dtype in kinds[member]:
            raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            # Any byte but 0 and 1 is no truth value, and undefined in C++.
            flat[member, dtype] = raw != 0 if dtype == "bool" else raw.view(getattr(torch, dtype))
    found: dict[str, Tensor] = {}
    shared: dict[TensorPayload, Tensor] = {}
    for name, payload in payloads.items():
        key = replace(payload, is_parameter=False)
        if key not in shared:
            whole = flat[payload.member, payload.dtype]
            shared[key] = whole.as_strided(payload.sizes, payload.strides, payload.offset)
        found[name] = shared[key]
        # Masks of attention are constants made of minus infinities; weights are not.
        weight = not payload.member.rpartition("/")[2].startswith("tensor_")
        if weight and found[name].is_floating_point():
            bad = int((~torch.isfinite(found[name])).sum())
            if bad:
                raise InputFileError(
                    f"{path}: {name} has {bad:,} values that are NaN or infinite. The training diverged, "
                    "or the file is damaged; take an earlier checkpoint."
                )
    return found


# --- trying it -----------------------------------------------------------------------------------


def _try(path: Path, archive: Archive, module: "nn.Module") -> None:
    """Run it on no data, then, where its batch was fixed, on some."""
    meta = archive.metas[archive.input]
    sizes = tuple(size or 224 for size in meta.hints[1:])
    if len(sizes) != 3 or max(sizes) > 1 << 14:
        raise InputFileError(
            f"{path}: takes {meta.hints}, not images (N, channels, height, width). {AGAIN}"
        )
    fixed = meta.sizes[0]
    if fixed is not None:
        _try_any_number(path, module, sizes, fixed)
    else:
        _try_shapes(path, module, sizes, 2)


def _try_shapes(path: Path, module: "nn.Module", sizes: tuple[int, ...], count: int) -> None:
    """Run without memory for values: shapes, operators, gradients, and that nothing is written to."""
    import torch

    state = dict(module.named_parameters()) | dict(module.named_buffers())
    empty = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    versions = {name: tensor._version for name, tensor in empty.items()}
    images = torch.empty((count, *sizes), device="meta", requires_grad=True)
    try:
        answer = torch.func.functional_call(module, empty, (images * 1,))
    except Exception as error:  # any of a few hundred operators, called with anything
        raise _not_run(path, error) from error
    if answer.ndim != 2 or answer.shape[0] != count:
        raise InputFileError(
            f"{path}: answers {count} images with {tuple(answer.shape)}; a classifier answers with one row of "
            "logits for each. Export it without what comes after them."
        )
    if not answer.requires_grad:
        raise InputFileError(
            f"{path}: no gradient reaches its images: they are detached on the way. Export the network "
            "without torch.no_grad() or detach() in its forward."
        )
    written = [name for name, tensor in empty.items() if tensor._version != versions[name]]
    if written:
        raise InputFileError(
            f"{path}: writes to its own {written[0]} as it runs. Export after model.eval()."
        )


def _try_any_number(path: Path, module: "nn.Module", sizes: tuple[int, ...], fixed: int) -> None:
    """Whether a program for a fixed number of images answers each image alike in any number."""
    import torch

    advice = (
        f"{path}: was exported for {fixed} images at a time and does not run on other numbers. Export it again "
        'with dynamic_shapes=({0: torch.export.Dim("batch")},).'
    )
    if not 1 <= fixed <= 4096:
        raise InputFileError(advice)
    _try_shapes(path, module, sizes, fixed)
    other = 3 if fixed == 2 else 2
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((max(fixed, other), *sizes), generator=generator)
    try:
        _try_shapes(path, module, sizes, other)
        with torch.no_grad():
            found = module(images[:other])
            rows = min(fixed, other)
            expected = module(images[:fixed])[:rows]
            last = module(images[1:2]) if fixed == 1 else expected[:0]
    except (InputFileError, RuntimeError, ValueError, TypeError) as error:
        raise InputFileError(advice) from error
    expected = torch.cat([expected, last])
    scale = float(expected.abs().max()) + 1e-6
    if float((found[: len(expected)] - expected).abs().max()) > 1e-3 * scale:
        raise InputFileError(advice)


def _not_run(path: Path, error: Exception) -> InputFileError:
    lines = str(error).splitlines()
    reason = lines[0][:240] if lines else type(error).__name__
    return InputFileError(
        f"{path}: cannot be run ({reason}). {AGAIN} Or give the weights with --arch."
    )
