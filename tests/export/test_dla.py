"""Small graphs whose multiply-accumulates can be counted by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.dla import has_dla, on_dla

make = helper.make_node


def graph(nodes, *, shape, out, constants=()):
    weights = [numpy_helper.from_array(np.ones(size, np.float32), name) for name, size in constants]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (("images", shape), ("logits", out))
    ]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def judged(model, *, version=(8, 5), orin=True):
    onnx.checker.check_model(model, full_check=True)
    found = on_dla(model, version=version, orin=orin)
    return found.share, dict(found.cannot)


def network(*, kernel=3):
    """Conv: 8*8 places x 4 channels x 2*k*k; then pooling; then Gemm: 4 x 10."""
    pad = kernel // 2
    nodes = [
        make("Conv", ["images", "w"], ["c"], pads=[pad] * 4),
        make("Relu", ["c"], ["r"]),
        make("GlobalAveragePool", ["r"], ["p"]),
        make("Flatten", ["p"], ["f"]),
        make("Gemm", ["f", "v"], ["logits"]),
    ]
    constants = [("w", (4, 2, kernel, kernel)), ("v", (4, 10))]
    return graph(nodes, shape=(1, 2, 8, 8), out=(1, 10), constants=constants)


def test_convolutions_and_rows_by_weights_run_there_and_the_mean_over_a_map_does_not():
    share, cannot = judged(network())
    assert share == 1.0
    assert cannot == {"GlobalAveragePool": "no DLA layer", "Flatten": "no DLA layer"}


def test_a_share_is_of_multiply_accumulates():
    # 37 x 37 is a kernel that no DLA has; the Gemm's 40 products are what is left.
    share, cannot = judged(network(kernel=37))
    conv = 8 * 8 * 4 * 2 * 37 * 37
    assert share == pytest.approx(40 / (conv + 40))
    assert cannot["Conv"] == "kernel outside 1..32"


def attention(size=5, width=6):
    """q = x w; s = q x^T; softmax; s x: products of 5 x 6 x 6, 5 x 6 x 5 and 5 x 5 x 6."""
    nodes = [
        make("MatMul", ["images", "w"], ["q"]),
        make("Transpose", ["images"], ["t"], perm=[0, 2, 1]),
        make("MatMul", ["q", "t"], ["s"]),
        make("Softmax", ["s"], ["a"], axis=-1),
        make("MatMul", ["a", "images"], ["logits"]),
    ]
    shape = (1, size, width)
    return graph(nodes, shape=shape, out=shape, constants=[("w", (width, width))])


def test_attention_stays_on_the_gpu():
    share, cannot = judged(attention(), version=(10, 3))
    assert share == 0.0
    assert list(cannot) == ["MatMul", "Transpose", "Softmax"]


def test_half_of_a_graph_is_half():
    # A convolution of 4 x 4 x 2 x 2 products, and a matrix product of two tensors with as many.
    nodes = [
        make("Conv", ["images", "w"], ["c"]),
        make("MatMul", ["c", "c"], ["logits"]),
    ]
    model = graph(nodes, shape=(1, 4, 4, 4), out=(1, 4, 4, 4), constants=[("w", (4, 4, 1, 1))])
    share, cannot = judged(model)
    assert share == 0.5
    assert cannot == {"MatMul": "both factors are computed"}


@pytest.mark.parametrize(
    ("node", "constants", "out", "why"),
    [
        (make("Conv", ["images", "w"], ["logits"], strides=[9, 9]), [("w", (4, 4, 1, 1))], (1, 4, 2, 2), "stride"),
        (make("Conv", ["images", "w"], ["logits"], dilations=[2, 2], pads=[2] * 4), [("w", (4, 4, 3, 3))], (1, 4, 16, 16), None),
        (make("Conv", ["images", "w"], ["logits"], group=4), [("w", (4, 1, 1, 1))], (1, 4, 16, 16), None),
        (make("ConvTranspose", ["images", "w"], ["logits"], strides=[2, 2]), [("w", (4, 4, 2, 2))], (1, 4, 32, 32), None),
        (make("ConvTranspose", ["images", "w"], ["logits"], pads=[1] * 4), [("w", (4, 4, 3, 3))], (1, 4, 16, 16), "padding"),
        (make("ConvTranspose", ["images", "w"], ["logits"], group=4), [("w", (4, 1, 1, 1))], (1, 4, 16, 16), "groups"),
        (make("MaxPool", ["images"], ["logits"], kernel_shape=[8, 8], strides=[8, 8]), [], (1, 4, 2, 2), None),
        (make("MaxPool", ["images"], ["logits"], kernel_shape=[9, 9], strides=[7, 7]), [], (1, 4, 2, 2), "window"),
        (make("HardSwish", ["images"], ["logits"]), [], (1, 4, 16, 16), "no DLA layer"),
        (make("Add", ["images", "b"], ["logits"]), [("b", (4, 1, 1))], (1, 4, 16, 16), None),
        (make("Add", ["images", "b"], ["logits"]), [("b", (16,))], (1, 4, 16, 16), "broadcasts"),
        (make("LeakyRelu", ["images"], ["logits"], alpha=-0.1), [], (1, 4, 16, 16), "negative slope"),
        (make("Concat", ["images", "images"], ["logits"], axis=2), [], (1, 4, 32, 16), "channels"),
        (make("Concat", ["images", "images"], ["logits"], axis=1), [], (1, 8, 16, 16), None),
    ],
)  # fmt: skip
def test_forms_are_those_of_the_published_restrictions(node, constants, out, why):
    _, cannot = judged(graph([node], shape=(1, 4, 16, 16), out=out, constants=constants))
    if why is None:
        assert not cannot
    else:
        assert why in cannot[node.op_type]


@pytest.mark.parametrize(("most", "able"), [(6.0, True), (127.0, True), (200.0, False)])
def test_a_clip_from_zero_is_a_clipped_relu(most, able):
    model = graph(
        [make("Clip", ["images", "low", "high"], ["logits"])],
        shape=(1, 4, 8, 8),
        out=(1, 4, 8, 8),
    )
    for name, value in (("low", 0.0), ("high", most)):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    assert ("Clip" in judged(model)[1]) is not able


def test_what_came_later_or_with_orin_is_told_apart():
    shape = (1, 4, 8, 8)
    divided = graph([make("Div", ["images", "images"], ["logits"])], shape=shape, out=shape)
    assert judged(divided, version=(8, 6))[1] == {"Div": "needs TensorRT 10"}
    assert judged(divided, version=(10, 3))[1] == {}
    softmax = graph([make("Softmax", ["images"], ["logits"], axis=1)], shape=shape, out=shape)
    assert judged(softmax, orin=False)[1] == {"Softmax": "Orin's DLA only"}
    assert judged(softmax, orin=True)[1] == {}


def test_a_graph_without_products_has_no_share():
    model = graph([make("Relu", ["images"], ["logits"])], shape=(1, 4, 8, 8), out=(1, 4, 8, 8))
    assert judged(model)[0] is None


def test_a_dla_went_and_came_back():
    versions = (
        "8.2.1",
        "8.5.2",
        "8.6.2",
        "10.3.0",
        "10.7.0",
        "10.13.3",
        "10.16.2",
        "11.0.0",
        "11.4.0",
        "11.4.1",
    )
    assert [each for each in versions if has_dla(each)] == [*versions[:5], "11.4.1"]
