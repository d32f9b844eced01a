"""What firmware wants to call, in the graph: camera bytes in, probabilities or a class out.

N images, C channels, H x W pixels, K classes.
"""

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import UsageError
from edgekd.export.parity import Array
from edgekd.records import InputSpec

Part = Literal["preprocessing", "bgr", "softmax", "top1"]
PARTS: Final[tuple[Part, ...]] = ("preprocessing", "bgr", "softmax", "top1")
PIXELS: Final = "pixels"
PROBABILITIES: Final = "probabilities"
TOP1: Final = "top1"


def parse_parts(parts: tuple[str, ...]) -> tuple[Part, ...]:
    """The parts that were asked for, each once, in the order of the graph.

    Raises:
        UsageError: an unknown part, two heads, or an order of colours without preprocessing.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise UsageError(f"--embed {unknown[0]}: choose from {', '.join(PARTS)}.")
    if {"softmax", "top1"} <= set(parts):
        raise UsageError("--embed takes one head: softmax or top1.")
    if "bgr" in parts and "preprocessing" not in parts:
        raise UsageError("--embed bgr is an order of bytes: add --embed preprocessing.")
    return tuple(part for part in PARTS if part in parts)


def add_parts(model: onnx.ModelProto, parts: tuple[Part, ...], spec: InputSpec) -> onnx.ModelProto:
    """A copy with preprocessing before its input and a head after its output.

    With `preprocessing` it takes `pixels`, uint8 (N, H, W, C) in RGB, or BGR with `bgr`; with `softmax`
    it gives `probabilities`, float32 (N, K); with `top1` the `top1` class, int32 (N,).

    Args:
        model: takes normalised float32 (N, C, H, W) and gives logits (N, K).
        parts: that were `checked`.
        spec: of the input.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    before = _preprocessing(changed, spec, bgr="bgr" in parts) if "preprocessing" in parts else []
    after = _head(changed, parts)
    nodes = [*before, *changed.graph.node, *after]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def _preprocessing(model: onnx.ModelProto, spec: InputSpec, *, bgr: bool) -> list[onnx.NodeProto]:
    graph = model.graph
    taken = graph.input[0]
    name, first = taken.name, taken.type.tensor_type.shape.dim[0]
    batch = first.dim_param or first.dim_value
    mean, std = (
        np.asarray(each, np.float32).reshape(1, -1, 1, 1) for each in (spec.mean, spec.std)
    )
    constants = {
        f"{PIXELS}_factor": np.asarray(1 / (255 * std), np.float32),
        f"{PIXELS}_shift": np.asarray(-mean / std, np.float32),
    }
    names = [PIXELS, f"{PIXELS}_nchw", f"{PIXELS}_rgb", f"{PIXELS}_float", f"{PIXELS}_scaled"]
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
    ]
    if bgr:
        constants[f"{PIXELS}_order"] = np.arange(spec.channels)[::-1].astype(np.int64)
        steps.append(("Gather", [f"{PIXELS}_order"], {"axis": 1}))
    steps += [("Mul", [f"{PIXELS}_factor"], {}), ("Add", [f"{PIXELS}_shift"], {})]
    nodes = []
    last = PIXELS
    for number, (kind, extra, attributes) in enumerate(steps):
        made = name if number == len(steps) - 1 else names[number + 1]
        node = helper.make_node(kind, [last, *extra], [made], name=f"{kind}_{PIXELS}", **attributes)
        nodes.append(node)
        last = made
    graph.initializer.extend(numpy_helper.from_array(each, key) for key, each in constants.items())
    shape = [batch, spec.height, spec.width, spec.channels]
    taken.CopyFrom(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape))
    return nodes


def _head(model: onnx.ModelProto, parts: tuple[Part, ...]) -> list[onnx.NodeProto]:
    given = model.graph.output[0]
    logits = given.name
    dims = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    if "softmax" in parts:
        shape = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, dims)
        given.CopyFrom(shape)
        return [helper.make_node("Softmax", [logits], [PROBABILITIES], name="Softmax_head", axis=1)]
    if "top1" in parts:
        given.CopyFrom(helper.make_tensor_value_info(TOP1, TensorProto.INT32, dims[:1]))
        # INT64 results are new in TensorRT 10, and no firmware needs them.
        return [
            helper.make_node(
                "ArgMax", [logits], [f"{TOP1}_int64"], name="ArgMax_head", axis=1, keepdims=0
            ),
            helper.make_node(
                "Cast", [f"{TOP1}_int64"], [TOP1], name="Cast_head", to=TensorProto.INT32
            ),
        ]
    return []


def inputs_for(
    parts: tuple[Part, ...], pixels: npt.NDArray[np.uint8], images: Array
) -> npt.NDArray[Any]:
    """What the embedded model takes: RGB bytes (N, H, W, C) in its order, or normalised images."""
    if "preprocessing" not in parts:
        return images
    return np.ascontiguousarray(pixels[..., ::-1]) if "bgr" in parts else pixels


def answers_for(parts: tuple[Part, ...], logits: Array) -> npt.NDArray[Any]:
    """What the embedded model gives where the plain one gives logits (N, K)."""
    if "top1" in parts:
        return np.asarray(logits.argmax(1), np.int32)
    if "softmax" in parts:
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(shifted / shifted.sum(1, keepdims=True), np.float32)
    return logits
