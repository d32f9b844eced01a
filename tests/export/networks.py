"""Small float graphs that tests build in place, weights drawn from a seed."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def graph(nodes, constants, *, shape, classes, batch="batch"):
    """A model from images (N, C, H, W) to logits (N, K); `batch` is a number where it is fixed."""
    built = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (batch, *shape))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (batch, classes))],
        [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    return model


def drawn(draw, *shape):
    """A weight whose sums stay as large as what goes in."""
    return draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))


def mixed_network(*, batch="batch", seed=0, gain=8.0):
    """Strided, depthwise and dilated convolutions, groups, a residual addition and a Gemm; images are (N, 3, 12, 12).

    `gain` is how far the logits lie apart.
    """
    draw = np.random.default_rng(seed)
    constants = {
        "stem.w": drawn(draw, 8, 3, 3, 3),
        "depthwise.w": drawn(draw, 8, 1, 3, 3) * 2,
        "grouped.w": drawn(draw, 8, 4, 3, 3) * 2,
        "point.w": drawn(draw, 8, 8, 1, 1),
        "fc.w": drawn(draw, 5, 8) * gain,
        **{f"{name}.b": draw.standard_normal(8) / 8 for name in ("stem", "depthwise", "point")},
        "fc.b": draw.standard_normal(5) / 8,
    }
    nodes = [
        conv("stem", "images", "a", bias=True, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        conv("depthwise", "b", "c", bias=True, group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        # Another padding on every side, and no bias
        conv("grouped", "d", "e", group=2, dilations=[2, 1], pads=[2, 0, 2, 2]),
        conv("point", "e", "f", bias=True),
        helper.make_node("Add", ["f", "b"], ["g"], name="add"),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["i"]),
        helper.make_node("Flatten", ["i"], ["j"]),
        helper.make_node("Gemm", ["j", "fc.w", "fc.b"], ["logits"], name="fc", transB=1),
    ]
    return graph(nodes, constants, shape=(3, 12, 12), classes=5, batch=batch)


def conv(name, given, made, *, bias=False, **attributes):
    inputs = [given, f"{name}.w", *([f"{name}.b"] if bias else [])]
    return helper.make_node("Conv", inputs, [made], name=name, **attributes)


def constants_of(model):
    return {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}


def smooth_images(count, *, seed, channels=3, size=12):
    """Normalised images (N, C, H, W) whose neighbours are alike, as those of pictures are."""
    draw = np.random.default_rng(seed)
    rough = draw.standard_normal((count, channels, size, size))
    blurred = sum(
        np.roll(rough, (down, across), (2, 3)) for down in range(3) for across in range(3)
    )
    return np.asarray(blurred / 3, np.float32)
