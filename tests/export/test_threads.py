"""Small graphs after real threads: what failed to build is refused, what built is not.

Each is the part of somebody's model that the thread turns on, under the TensorRT that it was tried
with; "failed" includes engines that were built and gave wrong answers.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.compatibility import check_model
from edgekd.targets.catalogue import load_target

SOFTWARE = load_target("jetson@jp6.2").software
SHAPE = (1, 4, 8, 8)


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


@dataclass
class Graph:
    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto] = field(default_factory=list)
    shape: tuple[int, ...] = SHAPE
    opset: int = 17


def one(kind, *constants, opset=17, shape=SHAPE, skipped=0, outputs=("logits",), **attributes):
    """A graph of one node, whose inputs after the first are constants; `skipped` are left out."""
    names = [entry.name for entry in constants]
    node = helper.make_node(
        kind, ["images", *[""] * skipped, *names], list(outputs), name="n", **attributes
    )
    return Graph([node], list(constants), shape, opset)


def pair(name, *, zero=0, kind=np.int8, axis=None, scale=0.1):
    """A Q/DQ pair after a tensor, and its constants."""
    size = () if axis is None else (4,)
    constants = [
        constant(f"{name}_s", np.full(size, scale, np.float32)),
        constant(f"{name}_z", np.full(size, zero, kind)),
    ]
    extra = {} if axis is None else {"axis": axis}
    both = [entry.name for entry in constants]
    nodes = [
        helper.make_node("QuantizeLinear", [name, *both], [f"{name}_q"], name=f"{name}_Q", **extra),
        helper.make_node(
            "DequantizeLinear", [f"{name}_q", *both], [f"{name}_d"], name=f"{name}_DQ", **extra
        ),
    ]
    return nodes, constants


def quantised_conv(*, zero=0, kind=np.int8, weights=0, quantised_bias=False, then=()):
    """A convolution of a pair on its input and a pair per channel on its weights."""
    weight = constant("w", np.ones((4, 4, 1, 1), np.float32))
    of_data, for_data = pair("images", zero=zero, kind=kind)
    of_weight, for_weight = pair("w", zero=weights, axis=0)
    nodes, constants = [*of_data, *of_weight], [weight, *for_data, *for_weight]
    inputs = ["images_d", "w_d"]
    if quantised_bias:
        constants += [
            constant("b_q", np.ones(4, np.int32)),
            constant("b_s", np.full(4, 0.01, np.float32)),
            constant("b_z", np.zeros(4, np.int32)),
        ]
        nodes.append(
            helper.make_node("DequantizeLinear", ["b_q", "b_s", "b_z"], ["b"], name="b_DQ", axis=0)
        )
        inputs.append("b")
    last = "made" if then else "logits"
    nodes.append(helper.make_node("Conv", inputs, [last], name="conv"))
    for place, kind_of in enumerate(then):
        made = "logits" if place == len(then) - 1 else f"made{place}"
        nodes.append(helper.make_node(kind_of, [last], [made], name=f"then{place}"))
        last = made
    return Graph(nodes, constants, opset=13)


def softmax_with_zero_point():
    node = helper.make_node("Softmax", ["images"], ["s"], name="softmax")
    after, constants = pair("s", zero=-128, scale=1 / 255)
    after[1].output[0] = "logits"
    return Graph([node, *after], constants, opset=13)


def layer_norm():
    return one("LayerNormalization", constant("s", np.ones(8, np.float32)), axis=-1)


def layer_norm_in_parts():
    """What the exporter writes at opset 14."""
    make = helper.make_node
    nodes = [
        make("ReduceMean", ["images"], ["mean"], name="mean", axes=[-1]),
        make("Sub", ["images", "mean"], ["centred"], name="sub"),
        make("Pow", ["centred", "two"], ["squared"], name="pow"),
        make("ReduceMean", ["squared"], ["variance"], name="variance", axes=[-1]),
        make("Add", ["variance", "epsilon"], ["safe"], name="add"),
        make("Sqrt", ["safe"], ["deviation"], name="sqrt"),
        make("Div", ["centred", "deviation"], ["logits"], name="div"),
    ]
    constants = [constant("two", np.float32(2)), constant("epsilon", np.float32(1e-5))]
    return Graph(nodes, constants, opset=14)


def group_norm(opset, *, groups=2):
    size = groups if opset < 21 else 4
    scale, bias = (constant(name, np.ones(size, np.float32)) for name in ("s", "b"))
    return one("GroupNormalization", scale, bias, opset=opset, num_groups=groups)


def instance_norm_of_groups(opset=17):
    """A group normalisation as the TorchScript exporter writes it."""
    make = helper.make_node
    nodes = [
        make("Reshape", ["images", "grouped"], ["g"], name="group"),
        make("InstanceNormalization", ["g", "s", "b"], ["i"], name="norm"),
        make("Reshape", ["i", "back"], ["logits"], name="back"),
    ]
    constants = [
        constant("grouped", np.array([1, 2, -1])),
        constant("back", np.array(SHAPE)),
        constant("s", np.ones(2, np.float32)),
        constant("b", np.zeros(2, np.float32)),
    ]
    return Graph(nodes, constants, opset=opset)


def resize(mode):
    return one("Resize", constant("sizes", np.array(SHAPE)), opset=13, skipped=2, mode=mode)


TRT = "https://github.com/NVIDIA/TensorRT/issues/"
# (thread, TensorRT, graph, the rule that refuses it; None: it built)
THREADS = (
    (f"{TRT}2774", "8.5", quantised_conv(zero=3), "zero point"),
    (f"{TRT}4698", "10.13", quantised_conv(weights=5), "zero point"),
    ("https://github.com/onnx/tensorflow-onnx/issues/1713", "8.2", quantised_conv(zero=-1), "zero point"),
    ("https://github.com/onnx/tensorflow-onnx/issues/1713", "8.2", quantised_conv(), None),
    ("https://github.com/onnx/onnx-tensorrt/issues/850", "8.4", quantised_conv(quantised_bias=True), "quantised type"),
    ("https://github.com/microsoft/onnxruntime/issues/14229", "8.5", quantised_conv(quantised_bias=True, then=("Relu",)), "quantised type"),
    (f"{TRT}3360", "8.6", quantised_conv(quantised_bias=True), "quantised type"),
    ("https://github.com/microsoft/onnxruntime/issues/14626", "8.4", softmax_with_zero_point(), "zero point"),
    (f"{TRT}2527", "8.5", quantised_conv(then=("Clip",)), None),
    ("https://github.com/ItayElam/SegmentAnything-TensorRT/issues/2", "8.5", layer_norm(), "operator"),
    ("https://github.com/ItayElam/SegmentAnything-TensorRT/issues/2", "8.6", layer_norm(), None),
    (f"{TRT}2657", "8.2", layer_norm(), "opset"),
    (f"{TRT}210", "8.4", layer_norm(), "operator"),
    (f"{TRT}2875", "8.5", layer_norm_in_parts(), None),
    (f"{TRT}3467", "8.6", one("ReduceMax", constant("a", np.array([-1])), opset=18, keepdims=1, shape=(1, 4, 8, 1)), "reduction"),
    (f"{TRT}3461", "8.6", one("LpPool", opset=18, kernel_shape=[1, 1]), "opset"),
    (f"{TRT}3761", "8.6", one("MaxPool", kernel_shape=[1, 1], outputs=("logits", "indices")), "restriction"),
    ("https://github.com/onnx/onnx-tensorrt/issues/694", "8.2", resize("cubic"), "restriction"),
    ("https://github.com/onnx/onnx-tensorrt/issues/694", "8.2", resize("linear"), None),
    ("https://github.com/onnx/onnx-tensorrt/issues/800", "8.0", one("Round", opset=13), "operator"),
    ("https://github.com/OAID/Tengine/issues/1235", "8.2", one("HardSwish", opset=14), "operator"),
    (f"{TRT}4639", "10.13", one("RMSNormalization", constant("s", np.ones(8, np.float32)), opset=23), "operator"),
    (f"{TRT}4336", "10.7", group_norm(21), "restriction"),
    (f"{TRT}4336", "10.7", group_norm(18), None),
    (f"{TRT}3950", "10.0", group_norm(18), None),
    (f"{TRT}4756", "10.16", group_norm(18, groups=1), "restriction"),
    (f"{TRT}3962", "8.6", instance_norm_of_groups(), None),
    (f"{TRT}3962", "10.0", instance_norm_of_groups(), None),
    (f"{TRT}4312", "10.3", instance_norm_of_groups(20), None),
)  # fmt: skip


@pytest.mark.parametrize(
    ("thread", "version", "graph", "rule"),
    THREADS,
    ids=[f"{t.split('/', 3)[3]}-{v}-{r or 'built'}" for t, v, _, r in THREADS],
)
def test_what_threads_tell(tmp_path, thread, version, graph, rule):
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, graph.shape)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, graph.shape)]
    made = helper.make_graph(graph.nodes, "g", inputs, outputs, graph.constants)
    opset = helper.make_opsetid("", graph.opset)
    onnx.save(helper.make_model(made, opset_imports=[opset], ir_version=10), tmp_path / "m.onnx")
    found = check_model(tmp_path / "m.onnx", replace(SOFTWARE, tensorrt=f"{version}.0"))
    rules = {violation.rule for violation in found}
    assert "checker" not in rules, thread
    assert rule in rules if rule else not rules, (thread, found)


def test_at_least_ten_of_each_kind_are_there():
    built = sum(rule is None for *_, rule in THREADS)
    assert built >= 10
    assert len(THREADS) - built >= 10
