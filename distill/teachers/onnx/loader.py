"""Teachers that are ONNX files, converted to a differentiable module by onnx2torch.

N images, C channels, H x W pixels, K classes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from edgekd.distill.teachers.onnx import adaptation, checks, rewriting
from edgekd.errors import InputFileError, MissingToolError

# torch takes seconds to come in, and what a file says is wanted at once
if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule

FOLDED: Final = "batch-norm is folded into the convolutions: inversion loses its best signal"
AGAIN: Final = (
    "Export it with an open batch: torch.onnx.export(model.eval(), (images,), 'teacher.onnx', "
    "dynamic_shapes=({0: torch.export.Dim('batch')},))."
)
# Of the largest logit. Two float32 implementations of a deep network differ by some 1e-5.
TOLERANCE: Final = 1e-3
_WHOLE: Final = frozenset({TensorProto.INT32, TensorProto.INT64})


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """Everything that can be said of an ONNX classifier without running it."""

    producer: str
    opset: int
    nodes: int
    # Distinct, sorted
    operators: tuple[str, ...]
    # Channels, height, width; None where open or not 4-d
    input: tuple[int, int, int] | None
    batch: int | None  # None: any
    # Without the statistics of batch-norm
    parameters: int
    batch_norm_layers: int
    classes: int | None
    # Mean and std are inside
    takes_bytes: bool
    notes: tuple[str, ...]


def read_onnx(path: Path) -> OnnxFile:
    """What an ONNX file holds. Brings in no torch.

    Raises:
        InputFileError: damaged, refused, quantised, a detector, multi-label, or of operators that
            are not standard.
    """
    model, adapted = adaptation.adapt(path, checks.read_model(path))
    images, answer = _images(path, model), _answer(path, model)
    _, ending = _logits(path, model)
    notes = (*adapted, *ending)
    names = [node.op_type for node in model.graph.node]
    norms = names.count("BatchNormalization")
    others = {"LayerNormalization", "GroupNormalization", "InstanceNormalization"}
    if "Conv" in names and not norms and not others.intersection(names):
        notes = (*notes, FOLDED)
    sizes, results = _sizes(images), _sizes(answer)
    spatial = sizes[1:]
    channels, height, width = spatial if len(spatial) == 3 else (None, None, None)
    known = channels is not None and height is not None and width is not None
    return OnnxFile(
        producer=f"{model.producer_name} {model.producer_version}".strip()[:80],
        opset=rewriting.opset_of(model),
        nodes=len(names),
        operators=tuple(sorted(set(names))),
        input=(channels, height, width) if known else None,  # type: ignore[arg-type]  # known says so
        batch=sizes[0] if sizes else None,
        parameters=_parameters(model),
        batch_norm_layers=norms,
        classes=results[-1] if len(results) == 2 else None,
        takes_bytes=adaptation.BYTES in adapted,
        notes=notes,
    )


def load_onnx(path: Path) -> "nn.Module":
    """The model as a module, (N, C, H, W) -> (N, K): float32, evaluation mode, differentiable.

    Its logits are compared with those of ONNX Runtime before it is given out. Batch-norm nodes are
    `nn.BatchNorm` layers; a last softmax is left out. A model for a fixed number of images is opened
    to any, and accepted where it then answers the same. Its parameters ask for no gradients.

    Raises:
        InputFileError: as `read_onnx`; values that are not finite; operators without a conversion; a
            model that does not run, or not on any number of images.
        MissingToolError: onnx2torch is not installed.
    """
    convert = _converter()
    from edgekd.distill.teachers.onnx.reshaping import fix_reshapes

    model, _ = adaptation.adapt(path, checks.read_model(path))
    _check_values(path, model)
    images = _images(path, model)
    _answer(path, model)
    logits, _ = _logits(path, model)
    rewriting.cut(model, logits)
    sizes = _sizes(images)
    fixed = sizes[0]
    channels = _channels(model)
    shape = tuple(size or (224 if place else channels) for place, size in enumerate(sizes[1:]))
    if len(shape) != 3 or max(shape) > 1 << 14:
        raise InputFileError(f"{path}: takes {sizes}, not images (N, channels, height, width).")
    if fixed is not None and fixed > 4096:
        raise InputFileError(f"{path}: was exported for {fixed} images at a time. {AGAIN}")
    count = fixed or 2
    other = 3 if count == 2 else 2
    data = np.random.default_rng(0).random((max(count, other), *shape), dtype=np.float32)
    expected = _by_runtime(path, model, images.name, data[:count])  # (count, K)
    if fixed is not None:
        rewriting.open_batch(model, images.name, fixed)
    rewriting.convertible(path, model)
    try:
        module = convert(model)
        fix_reshapes(module)
    except Exception as error:  # the converters fail as they may on what they do not know
        raise _not_converted(path, error) from error
    module.float().eval().requires_grad_(False)
    _try(path, module, data, expected, other=other, fixed=fixed)
    setattr(module, "batch", None)  # noqa: B010  nn.Module types attributes as its parts
    return module


def _converter() -> "Callable[[ModelProto], GraphModule]":
    try:
        from onnx2torch import convert
    except ImportError as error:
        raise MissingToolError(
            "onnx2torch is not installed; ONNX teachers need it: pip install 'edgekd[onnx-teachers]'"
        ) from error
    return cast("Callable[[ModelProto], GraphModule]", convert)


# --- the ends of the graph -----------------------------------------------------------------------


def _images(path: Path, model: ModelProto) -> ValueInfoProto:
    constants = {tensor.name for tensor in model.graph.initializer}
    found = [value for value in model.graph.input if value.name not in constants]
    if len(found) != 1:
        raise InputFileError(
            f"{path}: takes {len(found)} inputs; a classifier takes one batch of images."
        )
    if found[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(found[0].type.tensor_type.elem_type).lower()
        raise InputFileError(
            f"{path}: takes {kind}; images are float32, float16, or uint8. Export the float32 model."
        )
    images: ValueInfoProto = found[0]
    return images


def _answer(path: Path, model: ModelProto) -> ValueInfoProto:
    found = model.graph.output
    if len(found) != 1:
        names = ", ".join(value.name[:40] for value in found[:5])
        raise InputFileError(
            f"{path}: answers with {len(found)} outputs ({names}), as detectors and networks with auxiliary heads "
            "do; a classifier answers with one, (N, classes)."
        )
    kind = found[0].type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        alone = ": the class alone, of which nothing can be learned" if kind in _WHOLE else ""
        raise InputFileError(
            f"{path}: answers with {TensorProto.DataType.Name(kind).lower()}{alone}, not with float32 logits. Export without "
            "what comes after the logits, such as an ArgMax."
        )
    answer: ValueInfoProto = found[0]
    return answer


def _logits(path: Path, model: ModelProto) -> tuple[str, tuple[str, ...]]:
    """The name of the logits, and what there is to say of how the model ends."""
    makers: dict[str, NodeProto] = {out: node for node in model.graph.node for out in node.output}
    name = model.graph.output[0].name
    for _ in model.graph.node:
        node = makers.get(name)
        if node is None:
            break
        if node.op_type == "Sigmoid":
            raise InputFileError(
                f"{path}: ends in a sigmoid: a multi-label network, which answers for each class by itself. "
                "edgekd distils networks that choose one of the classes."
            )
        if node.op_type in ("Softmax", "LogSoftmax"):
            ending = node.op_type.lower()
            return node.input[0], (f"ends in a {ending}: taken off, distillation needs logits",)
        exponent = _softmax_by_parts(node, makers)
        if exponent is not None:
            return exponent, (
                "ends in a softmax, written in parts: taken off, distillation needs logits",
            )
        if node.op_type not in ("Identity", "Dropout"):
            break
        name = node.input[0]
    return model.graph.output[0].name, ()


def _softmax_by_parts(node: NodeProto, makers: Mapping[str, NodeProto]) -> str | None:
    """What is raised to e where a node ends e^x / sum(e^x), as old exporters write a softmax; None where it does not."""
    if node.op_type != "Div":
        return None
    raised, total = makers.get(node.input[0]), makers.get(node.input[1])
    if raised is None or total is None or raised.op_type != "Exp" or total.op_type != "ReduceSum":
        return None
    return raised.input[0] if total.input[0] == node.input[0] else None


def _channels(model: ModelProto) -> int:
    """Of the images, by the first convolution; those of colour images where there is none."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            return int(weights[node.input[1]].dims[1]) * groups
    return 3


def _sizes(value: ValueInfoProto) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)


def _parameters(model: ModelProto) -> int:
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    statistics = {name for node in norms for name in node.input[3:5]}
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type in floats and tensor.name not in statistics
    )


def _check_values(path: Path, model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.BFLOAT16:
            values = values.astype(np.float32)
        # Bounds of Clip are single infinities; weights are neither.
        if values.dtype.kind != "f" or values.size < 2:
            continue
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise InputFileError(
                f"{path}: {tensor.name[:80]} has {bad:,} values that are NaN or infinite. The training diverged, "
                "or the file is damaged; take an earlier checkpoint."
            )


# --- trying it -----------------------------------------------------------------------------------


def _by_runtime(
    path: Path, model: ModelProto, images: str, data: np.ndarray
) -> np.ndarray:  # (N, C, H, W) -> (N, K)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # What is wrong is raised
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (answer,) = session.run(None, {images: data})
    except Exception as error:  # onnxruntime's errors share no class with a name
        raise _not_converted(path, error) from error
    found = np.asarray(answer)
    if found.ndim != 2 or len(found) != len(data):
        raise InputFileError(
            f"{path}: answers {len(data)} images with {found.shape}; a classifier answers with one row of logits "
            "for each."
        )
    return found


def _try(
    path: Path,
    module: "nn.Module",
    data: np.ndarray,
    expected: np.ndarray,
    *,
    other: int,
    fixed: int | None,
) -> None:
    """Compare with ONNX Runtime, on the number of images that it ran on and on another one."""
    import torch

    images = torch.from_numpy(data)
    wanted = torch.from_numpy(expected)
    try:
        found: Tensor = module(images[: len(expected)])
    except Exception as error:  # any converter's forward
        raise _not_converted(path, error) from error
    if not _close(found, wanted):
        raise _not_converted(path, ValueError("the conversion answers otherwise than ONNX Runtime"))
    probe = images[:1].clone().requires_grad_(True)
    try:
        more: Tensor = module(images[:other])
        alone: Tensor = module(probe)
        rows = min(other, len(expected))
        alike = len(more) == other and _close(more[:rows], wanted[:rows])
        alike = alike and _close(alone.detach(), more[:1])
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InputFileError(
            f"{path}: does not run on any number of images ({str(error).splitlines()[0][:120]}). {AGAIN}"
        ) from error
    if not alike:
        number = "two" if fixed is None else str(fixed)
        raise InputFileError(
            f"{path}: answers otherwise in a batch of {number} than in another. {AGAIN}"
        )
    if not alone.requires_grad:
        raise InputFileError(f"{path}: no gradient reaches its images; edgekd cannot invert it.")


def _close(found: "Tensor", wanted: "Tensor") -> bool:
    if found.shape != wanted.shape:
        return False
    scale = float(wanted.abs().max()) + 1e-6
    return float((found - wanted).abs().max()) <= TOLERANCE * scale


def _not_converted(path: Path, error: Exception) -> InputFileError:
    lines = str(error).splitlines()
    reason = lines[0][:200] if lines else type(error).__name__
    return InputFileError(
        f"{path}: cannot be converted to PyTorch ({reason}). Give the weights with --arch, or a .pt2 of "
        "torch.export.save."
    )
