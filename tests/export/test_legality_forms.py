"""Forms and types of operators: edgekd's verdict on each, and NVIDIA's parser and builder beside it where they are installed."""

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.compatibility import check_model
from edgekd.export.nvidia_parser import NvidiaParser, ParserRequest, find_module
from edgekd.targets.catalogue import load_target

SOFTWARE = load_target("jetson@jp7.2").software
NEWEST = "11.4.1"
FLOAT, BYTES = TensorProto.FLOAT, TensorProto.UINT8


@dataclass(frozen=True, kw_only=True)
class Form:
    """A graph of a few nodes from `x` to `y`.

    Attributes:
        rule: that refuses it for TensorRT 11.4; None: it is legal.
        differs: why NVIDIA's parser says otherwise, if it does.
        since: the first TensorRT that takes it, where that is not 11.0, and the one before.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...] = ()
    kinds: tuple[int, int] = (FLOAT, FLOAT)
    shape: tuple[int, ...] = (1, 4, 8, 8)
    opset: int = 19
    rule: str | None = None
    differs: str | None = None
    since: tuple[str, str] | None = None
    rank: int = 4


def node(kind, *inputs, **attributes):
    return helper.make_node(kind, inputs, ["y"], **attributes)


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def typed(name, kind, dims, values):
    return helper.make_tensor(name, kind, dims, values)


def pair(name, out, *, scale, zero=None, axis=None, **more):
    """A Q/DQ pair after a tensor."""
    kept = {} if axis is None else {"axis": axis}
    given = [scale] if zero is None else [scale, zero]
    blocks = {key: value for key, value in more.items() if key == "block_size"}
    return (
        helper.make_node("QuantizeLinear", [name, *given], [f"{out}_q"], **kept, **more),
        helper.make_node("DequantizeLinear", [f"{out}_q", *given], [out], **kept, **blocks),
    )


WEIGHT = constant("w", np.ones((4, 4, 1, 1), np.float32))
ONE = constant("s", np.float32(0.1))
FOUR = constant("s4", np.full(4, 0.1, np.float32))
ZERO = constant("z", np.int8(0))
ZEROS = constant("z4", np.zeros(4, np.int8))
CONVOLVED = node("Conv", "xd", "wd")
OF_DATA = pair("x", "xd", scale="s", zero="z")
OF_WEIGHT = pair("w", "wd", scale="s4", zero="z4", axis=0)
QUANTISED = (ONE, ZERO, WEIGHT, FOUR, ZEROS)
NARROW = typed("nz", TensorProto.FLOAT8E4M3FN, [], [0.0])


def product(kind, size, since):
    """Float data and weights of a type with scales for blocks of them."""
    values = typed("mq", kind, [64, 8], np.ones(64 * 8))
    scales = constant("ms", np.full((64 // size, 8), 0.05, np.float32))
    dequantised = helper.make_node(
        "DequantizeLinear", ["mq", "ms"], ["md"], axis=0, block_size=size
    )
    return Form(
        nodes=(dequantised, node("MatMul", "x", "md")),
        constants=(values, scales),
        shape=(4, 64),
        rank=2,
        opset=21,
        since=since,
    )


def resize(*, mode="linear", **attributes):
    sizes = constant("sizes", np.array([1, 4, 16, 16]))
    made = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode, **attributes)
    return (made,), (sizes,)


def resized(rule=None, **attributes):
    nodes, constants = resize(**attributes)
    return Form(nodes=nodes, constants=constants, rule=rule)


def norm(opset):
    size = 2 if opset < 21 else 4
    constants = (
        constant("g", np.ones(size, np.float32)),
        constant("b", np.zeros(size, np.float32)),
    )
    return node("GroupNormalization", "x", "g", "b", num_groups=2), constants


def training(kind):
    constants = tuple(constant(name, np.ones(4, np.float32)) for name in ("g", "b", "m", "v"))
    made = helper.make_node(kind, ["x", "g", "b", "m", "v"], ["y", "m2", "v2"], training_mode=1)
    return Form(nodes=(made,), constants=constants, rule="restriction")


FORMS = {
    "pooling over one dimension": Form(
        nodes=(node("AveragePool", "x", kernel_shape=[2], strides=[2]),), shape=(1, 4, 8), rank=3
    ),
    "cubic": replace(resized(mode="cubic"), since=("11.0", "10.16")),
    "coordinates of Keras": resized("restriction", coordinate_transformation_mode="half_pixel_symmetric"),
    "coordinates of a crop": resized(coordinate_transformation_mode="align_corners"),
    "antialias": resized("restriction", antialias=1),
    "groups by channel": Form(
        nodes=(norm(21)[0],), constants=norm(21)[1], opset=21, since=("10.15", "10.8")
    ),
    "batch norm in training": training("BatchNormalization"),
    "order of a pooling norm": Form(nodes=(node("LpPool", "x", kernel_shape=[2, 2], p=3),), rule="restriction"),
    "axes of a sum": Form(
        nodes=(node("CumSum", "x", "a"),), constants=(constant("a", np.int64(1)),), since=("8.6", "")
    ),
    "a clip of INT8": Form(
        nodes=(node("Clip", "x", "low"),),
        constants=(constant("low", np.int8(0)),),
        kinds=(TensorProto.INT8, TensorProto.INT8),
    ),
    "a clip of INT8 between computed bounds": Form(
        nodes=(
            helper.make_node("ReduceMin", ["x", "axes"], ["low"], keepdims=0),
            node("Clip", "x", "low"),
        ),
        constants=(constant("axes", np.array([0, 1, 2, 3])),),
        kinds=(TensorProto.INT8, TensorProto.INT8),
        rule="restriction",
    ),
    "a clip of INT8 whose bounds have empty names": Form(
        nodes=(node("Clip", "x", "", ""),),
        kinds=(TensorProto.INT8, TensorProto.INT8),
        rule="restriction",
    ),
    "a quantised number": Form(
        nodes=(
            helper.make_node("DequantizeLinear", ["c", "s", "z"], ["d"]),
            node("Mul", "x", "d"),
        ),
        constants=(ONE, ZERO, constant("c", np.int8(3))),
        rule="quantised scalar",
        since=None,
    ),
    "a quantised number of one dimension": Form(
        nodes=(
            helper.make_node("DequantizeLinear", ["c", "s", "z"], ["d"]),
            node("Mul", "x", "d"),
        ),
        constants=(ONE, ZERO, constant("c", np.array([3], np.int8))),
    ),
    "a product of whole numbers": Form(
        nodes=(node("MatMul", "x", "x"),),
        kinds=(TensorProto.INT32, TensorProto.INT32),
        rule="restriction",
    ),
    "axes from the end": Form(
        nodes=(
            helper.make_node(
                "Resize", ["x", "", "scales"], ["y"], mode="linear", axes=[-4, -3, -2, -1]
            ),
        ),
        constants=(constant("scales", np.array([1, 1, 2, 2], np.float32)),),
    ),
    "scales in a Constant of numbers": Form(
        nodes=(
            helper.make_node("Constant", [], ["s4"], value_floats=[0.1, 0.2, 0.1, 0.2]),
            *OF_DATA,
            *OF_WEIGHT,
            CONVOLVED,
        ),
        constants=(ONE, ZERO, WEIGHT, ZEROS),
    ),
    "bytes into a cast": Form(
        nodes=(helper.make_node("Cast", ["x"], ["y"], to=FLOAT),), kinds=(BYTES, FLOAT)
    ),
    "bytes into a transposition": Form(
        nodes=(
            helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 2, 3]),
            helper.make_node("Cast", ["t"], ["y"], to=FLOAT),
        ),
        kinds=(BYTES, FLOAT),
        rule="element type",
    ),
    "bytes that are added": Form(nodes=(node("Add", "x", "x"),), kinds=(BYTES, BYTES), rule="element type"),
    "16 bits": Form(
        nodes=(node("Add", "x", "x"),), kinds=(TensorProto.INT16, TensorProto.INT16), rule="element type"
    ),
    "double": Form(nodes=(node("Add", "x", "x"),), kinds=(TensorProto.DOUBLE, TensorProto.DOUBLE)),
    "brain floats": Form(
        nodes=(node("Add", "x", "x"),),
        kinds=(TensorProto.BFLOAT16, TensorProto.BFLOAT16),
        since=("9.2", "8.6"),
    ),
    "FP8 as an output": Form(
        nodes=(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN),),
        kinds=(FLOAT, TensorProto.FLOAT8E4M3FN),
        rule="element type",
    ),
    "FP8 pairs": Form(
        nodes=(
            *pair("x", "xd", scale="s", zero="nz"),
            *pair("w", "wd", scale="s", zero="nz"),
            CONVOLVED,
        ),
        constants=(ONE, NARROW, WEIGHT),
        since=("10.15", "8.6"),
    ),
    "the other FP8": Form(
        nodes=(
            *pair("x", "xd", scale="s", zero="nz"),
            *pair("w", "wd", scale="s", zero="nz"),
            CONVOLVED,
        ),
        constants=(ONE, typed("nz", TensorProto.FLOAT8E5M2, [], [0.0]), WEIGHT),
        rule="element type",
    ),
    "INT8 pairs": Form(nodes=(*OF_DATA, *OF_WEIGHT, CONVOLVED), constants=QUANTISED),
    "data alone": Form(
        nodes=(*OF_DATA, node("Conv", "xd", "w")), constants=(ONE, ZERO, WEIGHT), since=("11.0", "10.16")
    ),
    "a type by attribute": Form(
        nodes=(*pair("x", "xd", scale="s", output_dtype=TensorProto.INT8), *OF_WEIGHT, CONVOLVED),
        constants=(ONE, WEIGHT, FOUR, ZEROS),
        opset=21,
        since=("10.15", ""),
    ),
    "no zero point at all": Form(
        nodes=(*pair("x", "xd", scale="s"), *OF_WEIGHT, CONVOLVED),
        constants=(ONE, WEIGHT, FOUR, ZEROS),
        rule="quantised type",
        differs="UINT8 is read as INT8, with a warning",
    ),
    "a zero point that is not 0": Form(
        nodes=(*pair("x", "xd", scale="s", zero="z3"), *OF_WEIGHT, CONVOLVED),
        constants=(ONE, constant("z3", np.int8(3)), WEIGHT, FOUR, ZEROS),
        rule="zero point",
    ),
    "one zero point for four scales": Form(
        nodes=(*OF_DATA, *pair("w", "wd", scale="s4", zero="z", axis=0), CONVOLVED),
        constants=(ONE, ZERO, WEIGHT, FOUR),
        rule="zero point",
    ),
    "scales of an activation's channels": Form(
        nodes=(*pair("x", "xd", scale="s4", zero="z4", axis=1), *OF_WEIGHT, CONVOLVED),
        constants=(WEIGHT, FOUR, ZEROS),
        rule="activation per channel",
        differs="its compiler takes it, NVIDIA's documents do not",
    ),
    "a scale of infinity": Form(
        nodes=(*OF_DATA, *OF_WEIGHT, CONVOLVED),
        constants=(constant("s", np.float32(np.inf)), ZERO, WEIGHT, FOUR, ZEROS),
        rule="scale",
        differs="it does not look at scales",
    ),
    "a quantised bias": Form(
        nodes=(
            *OF_DATA,
            *OF_WEIGHT,
            helper.make_node("DequantizeLinear", ["bq", "s4"], ["b"], axis=0),
            node("Conv", "xd", "wd", "b"),
        ),
        constants=(*QUANTISED, constant("bq", np.ones(4, np.int32))),
        rule="quantised type",
    ),
    "blocks of INT8": product(TensorProto.INT8, 16, ("11.0", "10.16")),
    "blocks of INT4": product(TensorProto.INT4, 32, ("10.15", "9.3")),
}  # fmt: skip


def write(form, path):
    inputs = [helper.make_tensor_value_info("x", form.kinds[0], form.shape)]
    outputs = [helper.make_tensor_value_info("y", form.kinds[1], [None] * form.rank)]
    graph = helper.make_graph(form.nodes, "g", inputs, outputs, form.constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", form.opset)], ir_version=10
    )
    onnx.save(model, path)
    return path


def refusals(path, version):
    found = check_model(path, replace(SOFTWARE, tensorrt=version))
    return {violation.rule for violation in found if violation.refuses}


@pytest.mark.parametrize("name", FORMS)
def test_forms_are_refused_by_the_rule_that_is_about_them(tmp_path, name):
    form = FORMS[name]
    found = refusals(write(form, tmp_path / "m.onnx"), NEWEST)
    assert "checker" not in found
    assert found == (set() if form.rule is None else found | {form.rule})
    assert form.rule is None or form.rule in found


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.since])
def test_forms_are_taken_from_the_version_that_has_them(tmp_path, name):
    path = write(FORMS[name], tmp_path / "m.onnx")
    first, before = FORMS[name].since
    # The opset of the file is another matter.
    assert refusals(path, f"{first}.0") <= {"opset"}
    assert not before or refusals(path, f"{before}.0") - {"opset"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What NVIDIA's parser says of every form, built for a GPU that has all types."""
    if find_module() is None:
        pytest.skip("NVIDIA's parser is not installed: pip install 'edgekd[tensorrt-rtx]'")
    folder = tmp_path_factory.mktemp("forms")
    requests = [
        ParserRequest(model=write(form, folder / f"{place}.onnx"), sms=("12.0",))
        for place, form in enumerate(FORMS.values())
    ]
    with NvidiaParser(requests) as parser:
        return dict(zip(FORMS, parser.answers(), strict=True))


@pytest.mark.parametrize("name", FORMS)
def test_nvidias_parser_says_the_same(answers, name):
    form = FORMS[name]
    legal = form.rule is None
    assert answers[name].taken is (legal if form.differs is None else not legal), answers[name]
