"""ONNX graphs rewritten to what `onnx2torch` converts.

onnx2torch 1.5.15 stops at opset 17, while torch's exporter writes 18 or 20. The operators of classifiers
changed little since: where they did, the node is rewritten.
"""

import math
import re
from pathlib import Path
from typing import Final

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekd.errors import InputFileError

# What onnx2torch knows
CONVERTED: Final = 17
# Reductions that take their axes as an input since opset 18.
REDUCTIONS: Final = frozenset(
    {
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSumSquare",
    }
)
# Attributes that came after opset 17, and the value with which they say nothing.
NEUTRAL: Final = {
    ("Resize", "antialias"): 0,
    ("Resize", "keep_aspect_ratio_policy"): b"stretch",
    ("Cast", "saturate"): 1,
    ("CastLike", "saturate"): 1,
    ("ReduceMean", "noop_with_empty_axes"): 0,
}
# After opset 17 these got more types or a rewritten text, and mean the same for floats.
UNCHANGED: Final = frozenset(
    """
    Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos CumSum DepthToSpace Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor
    Gather GatherElements GatherND Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid
    HardSwish Identity InstanceNormalization LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    MatMul Max MaxPool Mean Min Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal ReduceSum Relu Reshape Resize
    Round ScatterND Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze
    Sub Sum Tanh Tile TopK Transpose Unsqueeze Where Xor
    """.split()  # noqa: SIM905
)


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def constants_to_initializers(graph: GraphProto) -> None:
    """And initialisers that go through Identity, as torch shares equal ones, to their uses.

    onnx2torch makes a layer only of a node whose weights are initialisers.
    """
    kept: list[NodeProto] = []
    same: dict[str, str] = {}
    known = {tensor.name for tensor in graph.initializer}
    results = {value.name for value in graph.output}
    for node in graph.node:
        held = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and held is not None and node.output[0] not in results:
            tensor = graph.initializer.add()
            tensor.CopyFrom(held)
            tensor.name = node.output[0]
            known.add(tensor.name)
            continue
        names = [same.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(names)
        if node.op_type == "Identity" and names[0] in known and node.output[0] not in results:
            same[node.output[0]] = names[0]
            continue
        kept.append(node)
    _replace_nodes(graph, kept)


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def cut(model: ModelProto, name: str) -> None:
    """Make the value called `name` the model's answer."""
    shape = next((v for v in model.graph.value_info if v.name == name), None)
    answer = model.graph.output[0]
    if shape is not None:
        answer.CopyFrom(shape)
    answer.name = name


def open_batch(model: ModelProto, images: str, fixed: int) -> None:
    """Rewrite a graph that was exported for `fixed` images so that it may run on any number.

    Reshapes to a constant that begins with that number are where it is written down. Whether the
    graph then answers alike has to be seen by running it.
    """
    graph = model.graph
    for value in graph.input:
        if value.name == images:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).astype(np.int64).reshape(-1)
        if len(shape) < 2 or shape[0] != fixed:
            continue
        # 0 takes the size from the data, where -1 is already taken.
        opened = np.array([0 if -1 in shape else -1, *shape[1:]], dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(opened, f"edgekd_shape_{number}"))
        node.input[1] = f"edgekd_shape_{number}"


def convertible(path: Path, model: ModelProto) -> None:
    """Rewrite the graph in place to opset 17, with names that are safe to put into a program.

    onnx2torch makes Python code of a graph by torch.fx, which quotes the names of nodes carelessly.

    Raises:
        InputFileError: an operator has no equal in opset 17.
    """
    graph = model.graph
    if opset_of(model) > CONVERTED:
        _lower(path, graph)
        changed = sorted({node.op_type for node in graph.node} - UNCHANGED - REDUCTIONS)
        if changed:
            raise InputFileError(
                f"{path}: uses {', '.join(name[:40] for name in changed[:5])}, which cannot be converted to "
                "PyTorch. Give the weights with --arch, or a .pt2 of torch.export.save."
            )
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("", CONVERTED))
        model.ir_version = min(model.ir_version, 8)
    for opset in model.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    for number, node in enumerate(graph.node):
        node.domain = ""
        words = re.sub(r"[^0-9A-Za-z]+", "_", node.name or node.op_type)[:120]
        node.name = f"n{number}_{words}"
        for attribute in list(node.attribute):
            if node.op_type == "Reshape" and attribute.name == "allowzero":
                # Only empty tensors have a size of 0, and a classifier makes none.
                node.attribute.remove(attribute)


def _lower(path: Path, graph: GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for number, node in enumerate(graph.node):
        for attribute in list(node.attribute):
            neutral = NEUTRAL.get((node.op_type, attribute.name))
            if neutral is not None and helper.get_attribute_value(attribute) == neutral:
                node.attribute.remove(attribute)
        if node.op_type in REDUCTIONS and len(node.input) > 1:
            _axes_to_attribute(path, node, constants)
        if node.op_type == "Split":
            _split_sizes(path, graph, node, number)
        extra = [a.name for a in node.attribute if a.name in ("antialias", "axes", "saturate")]
        if node.op_type in ("Resize", "Pad") and (extra or len(node.input) > 4):
            raise InputFileError(
                f"{path}: uses {node.op_type} with options that cannot be converted to PyTorch; export with "
                "opset_version=17, dynamo=False."
            )
        nodes += _gelu(graph, node, number) if node.op_type == "Gelu" else [node]
    _replace_nodes(graph, nodes)


def _axes_to_attribute(path: Path, node: NodeProto, constants: dict[str, TensorProto]) -> None:
    axes = constants.get(node.input[1])
    if node.input[1] and axes is None:
        raise InputFileError(
            f"{path}: {node.op_type} over axes that are computed cannot be converted."
        )
    del node.input[1:]
    for attribute in list(node.attribute):
        if attribute.name == "noop_with_empty_axes":
            node.attribute.remove(attribute)
    if axes is not None and math.prod(axes.dims):
        node.attribute.append(
            helper.make_attribute("axes", numpy_helper.to_array(axes).reshape(-1).tolist())
        )


def _split_sizes(path: Path, graph: GraphProto, node: NodeProto, number: int) -> None:
    """Opset 18 may say the number of parts; before it every size was said, or all were equal."""
    parts = next((a for a in node.attribute if a.name == "num_outputs"), None)
    if parts is None:
        return
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    known = {v.name: v.type.tensor_type.shape.dim for v in (*graph.value_info, *graph.input)}
    sizes = known.get(node.input[0])
    if sizes is None or not -len(sizes) <= axis < len(sizes) or not sizes[axis].dim_value:
        raise InputFileError(f"{path}: splits something of unknown size; it cannot be converted.")
    count, whole = len(node.output), sizes[axis].dim_value
    step = -(-whole // count)
    split = np.array([min(step, whole - step * part) for part in range(count)], dtype=np.int64)
    graph.initializer.append(numpy_helper.from_array(split, f"edgekd_split_{number}"))
    del node.input[1:]
    node.input.append(f"edgekd_split_{number}")
    node.attribute.remove(parts)


def _gelu(graph: GraphProto, node: NodeProto, number: int) -> list[NodeProto]:
    """Write Gelu out: x / 2 (1 + erf(x / sqrt 2)), or its approximation by tanh."""
    x, y, tag = node.input[0], node.output[0], f"edgekd_gelu_{number}"

    def constant(name: str, value: float) -> str:
        graph.initializer.append(
            numpy_helper.from_array(np.array(value, np.float32), f"{tag}_{name}")
        )
        return f"{tag}_{name}"

    one, half = constant("one", 1.0), constant("half", 0.5)
    approximate = next((a.s for a in node.attribute if a.name == "approximate"), b"none")
    if approximate == b"tanh":
        cube, scale = constant("cube", 0.044715), constant("scale", math.sqrt(2 / math.pi))
        inner = [
            helper.make_node("Mul", [x, x], [f"{tag}_a"]),
            helper.make_node("Mul", [f"{tag}_a", cube], [f"{tag}_b"]),
            helper.make_node("Add", [f"{tag}_b", one], [f"{tag}_c"]),
            helper.make_node("Mul", [f"{tag}_c", x], [f"{tag}_d"]),
            helper.make_node("Mul", [f"{tag}_d", scale], [f"{tag}_e"]),
            helper.make_node("Tanh", [f"{tag}_e"], [f"{tag}_f"]),
        ]
    else:
        scale = constant("scale", math.sqrt(0.5))
        inner = [
            helper.make_node("Mul", [x, scale], [f"{tag}_e"]),
            helper.make_node("Erf", [f"{tag}_e"], [f"{tag}_f"]),
        ]
    return [
        *inner,
        helper.make_node("Add", [f"{tag}_f", one], [f"{tag}_g"]),
        helper.make_node("Mul", [f"{tag}_g", x], [f"{tag}_h"]),
        helper.make_node("Mul", [f"{tag}_h", half], [y]),
    ]
