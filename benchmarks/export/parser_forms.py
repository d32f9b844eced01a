"""Q/DQ pairs in every form that somebody writes: types, blocks, axes, zero points, one side alone."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.export.parser_files import Group, Model, group_models

Values = npt.NDArray[Any] | np.generic
CHANNELS: Final = 8
MAPS: Final = (1, CHANNELS, 8, 8)
# Of a product of matrices
ROWS, DEPTH, COLUMNS = 4, 64, 32
INT8, FP8, INT4, FP4 = (
    TensorProto.INT8,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.INT4,
    TensorProto.FLOAT4E2M1,
)
TENTH, ZERO = np.float32(0.1), np.int8(0)
_OPSETS: Final[Mapping[int, int]] = {INT8: 21, INT4: 21, FP8: 21, FP4: 23}


class _Graph:
    """Nodes and constants, as they are added."""

    def __init__(self, opset: int = 20, kind: int = TensorProto.FLOAT) -> None:
        self.opset, self.kind = opset, kind
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, values: Values) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def small(self, name: str, kind: int, shape: tuple[int, ...], value: float = 0.0) -> str:
        """A constant of a type that numpy lacks."""
        values = [value] * int(np.prod(shape))
        self.constants[name] = helper.make_tensor(name, kind, shape, values)
        return name

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:  # noqa: ANN401
        name = f"{kind}_{output}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def pair(self, name: str, scale: str, zero: str = "", **attributes: Any) -> str:  # noqa: ANN401
        """A pair after a tensor; what it gives."""
        constants = [scale, *filter(None, [zero])]
        self.add("QuantizeLinear", [name, *constants], f"{name}_q", **attributes)
        attributes.pop("output_dtype", None)
        return self.add("DequantizeLinear", [f"{name}_q", *constants], f"{name}_d", **attributes)

    def finish(
        self, taken: tuple[int, ...] = MAPS, given: tuple[int, ...] = MAPS, kind: int = 0
    ) -> onnx.ModelProto:
        kind = kind or self.kind
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", self.kind, taken)],
            [helper.make_tensor_value_info("y", kind, given)],
            list(self.constants.values()),
        )
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def _weights(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _convolution(
    *,
    data: bool = True,
    weights: bool = True,
    scale: Values = TENTH,
    zero: Values | None = ZERO,
    weight_scale: Values | None = None,
    weight_zero: Values | None = None,
    opset: int = 20,
    half: bool = False,
    axis: int = 0,
    data_axis: int | None = None,
    groups: int = 1,
    then: str = "",
    **attributes: Any,  # noqa: ANN401
) -> onnx.ModelProto:
    """A convolution with pairs on its data, on its weights, or on both."""
    kind = np.float16 if half else np.float32
    graph = _Graph(opset, TensorProto.FLOAT16 if half else TensorProto.FLOAT)
    weight = graph.constant("w", _weights(CHANNELS, CHANNELS // groups, 1, 1).astype(kind))
    source = "x"
    if data:
        if data_axis is not None:
            attributes["axis"] = data_axis
        at = "" if zero is None else graph.constant("xz", zero)
        source = graph.pair("x", graph.constant("xs", np.asarray(scale, kind)), at, **attributes)
    if weights:
        scales = np.full(CHANNELS, 0.01) if weight_scale is None else weight_scale
        zeros = np.zeros(np.shape(scales), np.int8) if weight_zero is None else weight_zero
        weight = graph.pair(
            "w",
            graph.constant("ws", np.asarray(scales, kind)),
            graph.constant("wz", zeros),
            **({"axis": axis} if np.ndim(scales) else {}),
        )
    last = graph.add("Conv", [source, weight], "made" if then else "y", group=groups)
    if then:
        graph.add(then, [last], "y")
    return graph.finish()


def _int8_weights(*, data: bool, bias: bool = False) -> onnx.ModelProto:
    """Weights that are integers in the file, with or without a bias of integers."""
    graph = _Graph()
    levels = np.clip(np.rint(_weights(CHANNELS, CHANNELS, 1, 1) / 0.01), -128, 127)
    names = [
        graph.constant("wq", levels.astype(np.int8)),
        graph.constant("ws", np.full(CHANNELS, 0.01, np.float32)),
        graph.constant("wz", np.zeros(CHANNELS, np.int8)),
    ]
    weight = graph.add("DequantizeLinear", names, "w", axis=0)
    source = "x"
    if data:
        scale, zero = graph.constant("xs", TENTH), graph.constant("xz", ZERO)
        source = graph.pair("x", scale, zero)
    inputs = [source, weight]
    if bias:
        of_bias = [
            graph.constant("bq", np.ones(CHANNELS, np.int32)),
            graph.constant("bs", np.full(CHANNELS, 0.001, np.float32)),
        ]
        inputs.append(graph.add("DequantizeLinear", of_bias, "b", axis=0))
    graph.add("Conv", inputs, "y")
    return graph.finish()


def _fp8(kind: int = FP8, *, opset: int = 20, channels: bool = False) -> onnx.ModelProto:
    """A convolution in a type of eight bits with a point."""
    graph = _Graph(opset)
    scale = graph.constant("xs", TENTH)
    zero = graph.small("xz", kind, ())
    source = graph.pair("x", scale, zero)
    weight = graph.constant("w", _weights(CHANNELS, CHANNELS, 1, 1))
    if channels:
        scale = graph.constant("ws", np.full(CHANNELS, 0.01, np.float32))
        made = graph.pair(weight, scale, graph.small("wz", kind, (CHANNELS,)), axis=0)
    else:
        made = graph.pair(weight, scale, zero)
    graph.add("Conv", [source, made], "y")
    return graph.finish()


def _product(
    kind: int, *, block: int = 0, axis: int = 0, data: bool = False, zero: int = 0
) -> onnx.ModelProto:
    """A product with weights that the file holds quantised, by blocks of rows or by column."""
    graph = _Graph(_OPSETS[kind])
    shape = (DEPTH // block, COLUMNS) if block else (COLUMNS,)
    names = [
        graph.small("wq", kind, (DEPTH, COLUMNS), 1.0),
        graph.constant("ws", np.full(shape, 0.05, np.float32)),
    ]
    if zero:
        names.append(graph.small("wz", kind, shape, zero))
    weight = graph.add(
        "DequantizeLinear",
        names,
        "w",
        axis=axis if block else 1,
        **({"block_size": block} if block else {}),
    )
    source = "x"
    if data:
        scale, at = graph.constant("xs", TENTH), graph.constant("xz", ZERO)
        source = graph.pair("x", scale, at)
    graph.add("MatMul", [source, weight], "y")
    return graph.finish((ROWS, DEPTH), (ROWS, COLUMNS))


def _blocks(*, of_data: bool) -> onnx.ModelProto:
    """A pair with scales for blocks, on the weights or on the data of a product."""
    graph = _Graph(21)
    names = ["x", graph.constant("w", _weights(DEPTH, COLUMNS))]
    shape = (ROWS, DEPTH // 32) if of_data else (DEPTH // 32, COLUMNS)
    scale = graph.constant("s", np.full(shape, 0.05, np.float32))
    zero = graph.constant("z", np.zeros(shape, np.int8))
    place = 0 if of_data else 1
    names[place] = graph.pair(names[place], scale, zero, axis=1 - place, block_size=32)
    graph.add("MatMul", names, "y")
    return graph.finish((ROWS, DEPTH), (ROWS, COLUMNS))


def _gemm(*, transposed: bool) -> onnx.ModelProto:
    graph = _Graph()
    shape = (COLUMNS, DEPTH) if transposed else (DEPTH, COLUMNS)
    weight = graph.constant("w", _weights(*shape))
    scale, zero = graph.constant("xs", TENTH), graph.constant("xz", ZERO)
    scales = graph.constant("ws", np.full(COLUMNS, 0.01, np.float32))
    zeros = graph.constant("wz", np.zeros(COLUMNS, np.int8))
    made = graph.pair(weight, scales, zeros, axis=0 if transposed else 1)
    graph.add("Gemm", [graph.pair("x", scale, zero), made], "y", transB=int(transposed))
    return graph.finish((ROWS, DEPTH), (ROWS, COLUMNS))


def _transposed_convolution() -> onnx.ModelProto:
    graph = _Graph()
    weight = graph.constant("w", _weights(CHANNELS, CHANNELS, 1, 1))
    scale, zero = graph.constant("xs", TENTH), graph.constant("xz", ZERO)
    scales = graph.constant("ws", np.full(CHANNELS, 0.01, np.float32))
    zeros = graph.constant("wz", np.zeros(CHANNELS, np.int8))
    made = graph.pair(weight, scales, zeros, axis=1)
    graph.add("ConvTranspose", [graph.pair("x", scale, zero), made], "y")
    return graph.finish()


def _around(kind: str, inputs: int = 1, **attributes: Any) -> onnx.ModelProto:  # noqa: ANN401
    """An operator without weights between pairs."""
    graph = _Graph()
    scale, zero = graph.constant("xs", TENTH), graph.constant("xz", ZERO)
    source = graph.pair("x", scale, zero)
    graph.add(kind, [source] * inputs, "m", **attributes)
    graph.add("Identity", [graph.pair("m", scale, zero)], "y")
    return graph.finish()


def _products_of_data() -> onnx.ModelProto:
    """Both sides of a product are activations, as in attention."""
    graph = _Graph()
    scale, zero = graph.constant("xs", TENTH), graph.constant("xz", ZERO)
    source = graph.pair("x", scale, zero)
    graph.add("MatMul", [source, source], "y")
    return graph.finish()


def _alone(kind: str) -> onnx.ModelProto:
    """Half a pair, so that the network takes or gives integers."""
    graph = _Graph()
    names = [graph.constant("xs", TENTH), graph.constant("xz", ZERO)]
    if kind == "QuantizeLinear":
        graph.add(kind, ["x", *names], "y")
        return graph.finish(kind=INT8)
    graph.kind = INT8
    graph.add(kind, ["x", *names], "y")
    return graph.finish(kind=TensorProto.FLOAT)


def _folded_pair() -> onnx.ModelProto:
    """The scale comes out of a node, as exporters leave it that fold nothing."""
    graph = _Graph()
    graph.nodes.append(
        helper.make_node(
            "Constant",
            [],
            ["xs"],
            name="constant",
            value=numpy_helper.from_array(np.asarray(0.1, np.float32)),
        )
    )
    source = graph.pair("x", "xs", graph.constant("xz", ZERO))
    graph.add("Conv", [source, graph.constant("w", _weights(CHANNELS, CHANNELS, 1, 1))], "y")
    return graph.finish()


def forms() -> Iterator[Group]:
    """A file for each form."""
    channels = np.full(CHANNELS, 0.01)
    made: dict[str, Model] = {
        "pairs on both sides": _convolution,
        "data alone": partial(_convolution, weights=False),
        "weights alone": partial(_convolution, data=False),
        "relu after it": partial(_convolution, then="Relu"),
        "depthwise": partial(_convolution, groups=CHANNELS),
        "transposed convolution": _transposed_convolution,
        "gemm": partial(_gemm, transposed=False),
        "gemm, transposed": partial(_gemm, transposed=True),
        "type by output_dtype": partial(_convolution, zero=None, opset=21, output_dtype=INT8),
        "no zero point": partial(_convolution, zero=None),
        "UINT8, zero point 0": partial(_convolution, zero=np.uint8(0)),
        "UINT8, zero point 128": partial(_convolution, zero=np.uint8(128)),
        "INT8, zero point 3": partial(_convolution, zero=np.int8(3)),
        "INT8, zero point -128": partial(_convolution, zero=np.int8(-128)),
        "weights, zero point 5": partial(_convolution, weight_zero=np.full(CHANNELS, 5, np.int8)),
        "weights UINT8, zero point 128": partial(
            _convolution, weight_zero=np.full(CHANNELS, 128, np.uint8)
        ),
        "weights per tensor": partial(_convolution, weight_scale=np.float32(0.01)),
        "weights per input channel": partial(_convolution, axis=1),
        "one zero point for all channels": partial(_convolution, weight_zero=ZERO),
        "data per channel": partial(
            _convolution, scale=channels, zero=np.zeros(CHANNELS, np.int8), data_axis=1
        ),
        "INT16": partial(_convolution, zero=np.int16(0), opset=21),
        "negative scale": partial(_convolution, scale=np.float32(-0.1)),
        "scale of zero": partial(_convolution, scale=np.float32(0)),
        "subnormal scale": partial(_convolution, scale=np.float32(1e-40)),
        "infinite scale": partial(_convolution, scale=np.float32(np.inf)),
        "scale of a Constant": _folded_pair,
        "weights in INT8": partial(_int8_weights, data=True),
        "weights in INT8, data in float": partial(_int8_weights, data=False),
        "bias in INT32": partial(_int8_weights, data=True, bias=True),
        "INT8 blocks of a pair": partial(_blocks, of_data=False),
        "INT8 blocks of data": partial(_blocks, of_data=True),
        "INT4, zero point 1": partial(_product, INT4, block=32, zero=1),
        "INT4 weights, INT8 data": partial(_product, INT4, block=32, data=True),
        "INT8 blocks, INT8 data": partial(_product, INT8, block=32, data=True),
        "INT8 columns, INT8 data": partial(_product, INT8, data=True),
        "FP8 per channel": partial(_fp8, channels=True),
        "FP8 E5M2": partial(_fp8, TensorProto.FLOAT8E5M2),
        "quantised alone": partial(_alone, "QuantizeLinear"),
        "dequantised alone": partial(_alone, "DequantizeLinear"),
        "product of data": _products_of_data,
    }
    made |= {f"FP16, opset {o}": partial(_convolution, half=True, opset=o) for o in (17, 19, 20)}
    made |= {f"FP8, opset {o}": partial(_fp8, opset=o) for o in (19, 20, 21)}
    made |= {
        f"{name} {f'blocks of {block}' if block else 'columns'}": partial(
            _product, kind, block=block
        )
        for name, kind in (("INT8", INT8), ("INT4", INT4), ("FP4", FP4), ("FP8", FP8))
        for block in (0, 16, 32, 64)
    }
    made |= {f"around {kind}": partial(_around, kind) for kind in ("Softmax", "Sigmoid", "Relu")}
    made["around Add"] = partial(_around, "Add", 2)
    made["around MaxPool"] = partial(_around, "MaxPool", kernel_shape=[1, 1])
    made["around Concat"] = partial(_around, "Concat", axis=1)
    yield from group_models([(name, "", model) for name, model in made.items()])
