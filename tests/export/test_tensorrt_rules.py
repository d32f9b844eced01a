"""One planted defect for each rule; the same graph without it is clean."""

import contextlib
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from edgekd.errors import IncompatibleError, InputFileError, UsageError
from edgekd.export.compatibility import check_model, require_legal
from edgekd.export.qdq import WEIGHTED
from edgekd.export.tensorrt_operators import CONTROL_FLOW, OPERATORS
from edgekd.export.torch_to_onnx import write_fp32
from edgekd.targets.catalogue import load_target
from tests.export.making import write_int8

JP62 = load_target("jetson@jp6.2").software
JP60 = load_target("jetson@jp6.0").software
ORT = load_target("raspberry-pi-5").software
JP51 = load_target("jetson@jp5.1").software
JP46 = load_target("jetson-nano").software


@pytest.fixture
def quantised(fp32, images, tmp_path):
    write_int8(fp32, out=tmp_path / "m.onnx", calibration=images(8), held_out=images(8, seed=1))
    return tmp_path / "m.onnx"


@pytest.fixture(scope="module")
def fp32_int8(fp32, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "m.onnx"
    write_int8(fp32, out=out, calibration=images(8), held_out=images(8, seed=1))
    return out  # and not its bytes: a failure is told with its arguments


def rules(path, software=JP62):
    return {violation.rule for violation in check_model(path, software)}


def edited(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def replace_constant(model, ending, value):
    for entry in model.graph.initializer:
        if entry.name.endswith(ending):
            entry.CopyFrom(numpy_helper.from_array(value(numpy_helper.to_array(entry)), entry.name))
            return
    raise AssertionError(ending)


def test_what_we_quantise_is_legal(quantised):
    assert check_model(quantised, JP62) == ()


class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches of one."""

    def __init__(self, images):
        self.left = [image[None] for image in images]

    def get_next(self):
        return {"images": self.left.pop()} if self.left else None


@pytest.mark.parametrize("software", [JP62, JP60, JP51], ids=lambda each: each.name)
def test_what_onnx_runtime_quantises_by_itself_is_refused_with_every_reason(
    network, images, tmp_path, software
):
    module, spec = network("resnet8-w4")
    write_fp32(module, spec=spec, software=software, out=tmp_path / "f.onnx")
    quantization.quantize_static(tmp_path / "f.onnx", tmp_path / "m.onnx", Images(images(4)))
    with pytest.raises(IncompatibleError):
        require_legal(tmp_path / "m.onnx", software)
    found = check_model(tmp_path / "m.onnx", software)
    said = "\n".join(map(str, found))
    assert "the zero point is not 0" in said
    assert "a ReLU was folded" in said
    assert "INT32: TensorRT takes INT8 only, and no quantised bias" in said
    coarse = {each.where for each in found if each.rule == "weights per tensor"}
    layers = {n.name for n in onnx.load(tmp_path / "m.onnx").graph.node if n.op_type in WEIGHTED}
    assert coarse == layers
    # One reason, said once with its places.
    assert len({each.message for each in found if each.rule == "weights per tensor"}) == 1
    write_int8(
        tmp_path / "f.onnx", out=tmp_path / "q.onnx", calibration=images(8), held_out=images(8)
    )
    require_legal(tmp_path / "q.onnx", software)
    assert check_model(tmp_path / "q.onnx", software) == ()


def test_weights_with_one_scale_are_legal_and_it_is_said_that_they_do_harm(quantised):
    def coarse(model):
        for entry in model.graph.initializer:
            values = numpy_helper.to_array(entry)
            if entry.name.endswith(("_scale", "_zero")) and values.ndim:
                entry.CopyFrom(numpy_helper.from_array(values.max(), entry.name))
        for node in model.graph.node:
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
                del node.attribute[:]

    edited(quantised, coarse)
    found = check_model(quantised, JP62)
    assert {violation.rule for violation in found} == {"weights per tensor"}
    require_legal(quantised, JP62)


@pytest.mark.parametrize(
    ("ending", "value", "rule"),
    [
        ("_zero", lambda old: np.full_like(old, 3), "zero point"),
        ("_zero", lambda old: old.astype(np.uint8), "quantised type"),
        ("_zero", lambda old: old.astype(np.int32), "quantised type"),
        ("_scale", lambda old: np.zeros_like(old), "scale"),
        ("_scale", lambda old: np.full_like(old, np.nan), "scale"),
        ("_scale", lambda old: np.full_like(old, -1), "scale"),
        ("_scale", lambda old: np.full_like(old, 1e-12), "dead scale"),
    ],
    ids=["not zero", "uint8", "int32", "zero scale", "nan scale", "negative scale", "dead scale"],
)
def test_bad_scales_and_zero_points_are_found(quantised, ending, value, rule):
    edited(quantised, lambda model: replace_constant(model, ending, value))
    assert rule in rules(quantised)


def test_a_zero_point_left_out_is_uint8(quantised):
    def drop(model):
        for node in model.graph.node:
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
                del node.input[2]

    edited(quantised, drop)
    assert "quantised type" in rules(quantised)


@pytest.mark.parametrize("software", [JP62, ORT], ids=["tensorrt", "onnxruntime"])
def test_int8_is_refused_where_the_board_runs_none(quantised, software):
    assert rules(quantised, software) == set()
    assert rules(quantised, replace(software, int8=False)) == {"no INT8"}


def test_a_product_with_one_side_quantised_is_found(quantised):
    def bypass(model):
        makers = {node.output[0]: node for node in model.graph.node}
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        dequantise = makers[node.input[1]]
        node.input[1] = makers[dequantise.input[0]].input[0]

    edited(quantised, bypass)
    assert "half quantised" in rules(quantised)


def test_an_activation_with_a_scale_for_each_channel_is_found(tmp_path):
    scale = numpy_helper.from_array(np.ones(4, np.float32), "s")
    zero = numpy_helper.from_array(np.zeros(4, np.int8), "z")
    first = helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], name="q", axis=1)
    second = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["logits"], name="d", axis=1)
    path = small(tmp_path / "m.onnx", second, extra=[first], initializers=[scale, zero])
    assert rules(path) == {"activation per channel"}


def test_fp16_scales_need_opset_19(tmp_path):
    scale = numpy_helper.from_array(np.ones((), np.float16), "s")
    zero = numpy_helper.from_array(np.zeros((), np.int8), "z")
    nodes = [
        helper.make_node("Cast", ["images"], ["half"], name="c", to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
    ]
    back = helper.make_node("Cast", ["d"], ["logits"], name="b", to=TensorProto.FLOAT)
    for opset, found in ((18, True), (20, False)):
        path = small(
            tmp_path / "m.onnx", back, opset=opset, extra=nodes, initializers=[scale, zero]
        )
        assert ("FP16 scale" in rules(path)) is found


def test_scales_in_constant_nodes_are_read(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["s"], name="cs", value_float=0.5),
        helper.make_node(
            "Constant", [], ["z"], name="cz", value=numpy_helper.from_array(np.zeros((), np.int8))
        ),
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], name="q"),
    ]
    last = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["logits"], name="d")
    assert rules(small(tmp_path / "m.onnx", last, extra=nodes)) == set()


@pytest.mark.parametrize(("opset", "software"), [(21, JP62), (18, JP60), (18, JP51), (8, JP62)])
def test_opsets_outside_the_range_are_found(fp32, tmp_path, opset, software):
    model = onnx.load(fp32)
    model.opset_import[0].version = opset
    onnx.save(model, tmp_path / "m.onnx")
    assert "opset" in rules(tmp_path / "m.onnx", software)


def test_opset_18_reductions_on_tensorrt_8_are_found(fp32):
    assert "reduction" in rules(fp32, JP60)
    assert "reduction" not in rules(fp32, JP62)


def small(path, node, *, opset=20, initializers=(), extra=None, shape=(1, 4, 4, 4), metadata=None):
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)]
    graph = helper.make_graph([*(extra or []), node], "g", inputs, outputs, list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if metadata:
        entry = model.metadata_props.add()
        entry.key, entry.value = "source", metadata
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("operator", "opset", "software", "legal"),
    [
        ("Relu", 17, JP60, True),
        ("Gelu", 20, JP62, True),
        ("Gelu", 17, JP60, False),
        ("Celu", 17, JP62, True),
        ("Det", 17, JP62, False),
        ("HardSwish", 16, JP51, True),
    ],
)
def test_operators_are_judged_by_version_and_unknown_ones_never_pass(
    tmp_path, operator, opset, software, legal
):
    path = small(
        tmp_path / "m.onnx",
        helper.make_node(operator, ["images"], ["logits"], name="n"),
        opset=opset,
    )
    assert ("operator" in rules(path, software)) is not legal


def published():
    """(operator, version, whether onnx-tensorrt's table for that version has it); not where it says nothing."""
    with (Path(__file__).parent / "onnx-tensorrt-operators.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            name = row.pop("operator")
            for version, said in row.items():
                if said and name not in CONTROL_FLOW:
                    yield name, version, said == "Y"


@pytest.mark.parametrize("version", ["8.4", "8.5", "9.2", "10.15"])
def test_operators_are_those_of_the_published_tables(version):
    major, minor = map(int, version.split("."))
    found = {name: said for name, of, said in published() if of == version}
    ours = {name: OPERATORS.get(name, (99, 0)) <= (major, minor) for name in found}
    assert len(found) > 150
    assert ours == found


def test_what_no_tensorrt_reads_is_told_from_what_nobody_knows(tmp_path):
    said = {}
    for name in ("Det", "Undreamt"):
        node = helper.make_node(name, ["images"], ["logits"], name="n")
        path = small(tmp_path / f"{name}.onnx", node, opset=24)
        said[name] = " ".join(map(str, check_model(path, JP62)))
    assert "read by no TensorRT" in said["Det"]
    assert "unknown to this check" in said["Undreamt"]


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


@pytest.mark.parametrize(
    ("kind", "attributes", "legal"),
    [
        ("MaxPool", {"kernel_shape": [2, 2]}, True),
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [1, 1]}, True),
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, False),
        ("AveragePool", {"kernel_shape": [2]}, True),
        ("LpPool", {"kernel_shape": [2, 2], "dilations": [2, 1]}, False),
    ],
)
def test_pooling_is_plain(tmp_path, kind, attributes, legal):
    same = attributes | {"auto_pad": "SAME_UPPER"}
    node = helper.make_node(kind, ["images"], ["logits"], name="n", **same)
    shape = (1, 4, *(4 for _ in attributes["kernel_shape"]))
    path = small(tmp_path / "m.onnx", node, opset=19, shape=shape)
    assert rules(path) == (set() if legal else {"restriction"})


@pytest.mark.parametrize(
    ("attributes", "legal"),
    [
        ({}, True),
        ({"mode": "linear"}, True),
        ({"mode": "cubic"}, False),
        ({"mode": "linear", "antialias": 1}, False),
        ({"keep_aspect_ratio_policy": "not_larger"}, False),
    ],
)
def test_resizing_is_plain(tmp_path, attributes, legal):
    sizes = constant("sizes", np.array([1, 4, 4, 4]))
    node = helper.make_node(
        "Resize", ["images", "", "", "sizes"], ["logits"], name="n", **attributes
    )
    path = small(tmp_path / "m.onnx", node, opset=19, initializers=[sizes])
    assert rules(path) == (set() if legal else {"restriction"})


def test_indices_of_pooling_are_not_read(tmp_path):
    node = helper.make_node("MaxPool", ["images"], ["logits", "at"], name="n", kernel_shape=[1, 1])
    assert "restriction" in rules(small(tmp_path / "m.onnx", node, opset=17))


def test_weights_that_are_computed_need_tensorrt_8_5(tmp_path):
    weight = constant("w", np.ones((4, 4, 1, 1), np.float32))
    make = helper.make_node("Neg", ["w"], ["v"], name="m")
    node = helper.make_node("Conv", ["images", "v"], ["logits"], name="n")
    path = small(tmp_path / "m.onnx", node, opset=13, initializers=[weight], extra=[make])
    assert "restriction" in rules(path, JP46)
    assert "restriction" not in rules(path, JP51)


def test_layer_normalisation_needs_tensorrt_8_6(tmp_path):
    scale = numpy_helper.from_array(np.ones(4, np.float32), "s")
    node = helper.make_node("LayerNormalization", ["images", "s"], ["logits"], name="n")
    path = small(tmp_path / "m.onnx", node, opset=17, initializers=[scale])
    assert "operator" in rules(path, JP51)
    assert "operator" not in rules(path, JP60)


def test_padding_that_is_computed_is_found(tmp_path):
    make = helper.make_node("Shape", ["images"], ["pads"], name="s")
    pad = helper.make_node("Pad", ["images", "pads"], ["logits"], name="p")
    assert "computed shape" in rules(small(tmp_path / "m.onnx", pad, opset=18, extra=[make]))


@pytest.mark.parametrize(
    ("kind", "place", "software", "legal"),
    [
        ("Reshape", 1, JP46, True),
        ("Expand", 1, JP51, True),
        ("Slice", 1, JP51, True),
        ("Slice", 3, JP60, False),
        ("Slice", 3, JP62, True),
        ("Squeeze", 1, JP62, False),
        ("Unsqueeze", 1, JP62, False),
        ("ReduceSum", 1, JP62, False),
    ],
)
def test_what_the_tables_want_constant_is_not_computed(tmp_path, kind, place, software, legal):
    others = [
        numpy_helper.from_array(np.zeros(1, np.int64), f"c{each}") for each in range(1, place)
    ]
    given = ["images", *(each.name for each in others), "computed"]
    if kind == "Slice" and place == 1:
        others.append(numpy_helper.from_array(np.full(4, 4), "ends"))
        given.append("ends")
    make = helper.make_node("Shape", ["images"], ["computed"], name="s")
    node = helper.make_node(kind, given, ["logits"], name="n")
    path = small(tmp_path / "m.onnx", node, opset=13, extra=[make], initializers=others)
    assert ("computed shape" not in rules(path, software)) == legal


def test_computed_scales_of_instance_norms_need_tensorrt_9_2(tmp_path):
    make = helper.make_node("GlobalMaxPool", ["images"], ["scale"], name="m")
    node = helper.make_node(
        "InstanceNormalization", ["images", "scale", "scale"], ["logits"], name="n"
    )
    path = small(tmp_path / "m.onnx", node, opset=13, extra=[make])
    assert "restriction" in rules(path, JP60)
    assert "restriction" not in rules(path, JP62)


def test_padding_by_axes_needs_tensorrt_10_4(tmp_path):
    pads = numpy_helper.from_array(np.zeros(2, np.int64), "p")
    axes = numpy_helper.from_array(np.array([1]), "a")
    pad = helper.make_node("Pad", ["images", "p", "", "a"], ["logits"], name="pad")
    path = small(tmp_path / "m.onnx", pad, opset=18, initializers=[pads, axes])
    assert rules(path, JP62) == {"padding axes"}
    assert rules(path, load_target("jetson-thor-t5000@jp7.2").software) == set()


def test_a_dynamic_height_is_found_and_a_dynamic_batch_is_fine(tmp_path):
    node = helper.make_node("Relu", ["images"], ["logits"], name="n")
    assert "dynamic dimension" in rules(small(tmp_path / "h.onnx", node, shape=(1, 3, "height", 4)))
    assert rules(small(tmp_path / "b.onnx", node, shape=("batch", 3, 4, 4))) == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/home/me/project/train.py", True),
        ('File "/workspace/net/train.py", line 3', True),
        ("C:\\Users\\me\\train.py", True),
        ("file:///var/lib/train.py", True),
        ("https://example.org/a/b", False),
        ("classifier of rgb/bgr images", False),
    ],
)
def test_paths_of_the_build_machine_are_found(tmp_path, text, found):
    node = helper.make_node("Relu", ["images"], ["logits"], name="/features/0/relu")
    path = small(tmp_path / "m.onnx", node, metadata=text)
    assert rules(path) == ({"build path"} if found else set())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param("/root/0/Conv", False, id="module called root"),
        pytest.param("/data/home/Relu", False, id="modules called data and home"),
        pytest.param("/root/block.py/Relu", False, id="module called py"),
        pytest.param("/home/me/train.py", True, id="file"),
        pytest.param('File "/opt/net/train.py", line 3', True, id="line of a traceback"),
        pytest.param("C:\\Users\\me\\net.pth", True, id="file of Windows"),
    ],
)
def test_names_of_modules_are_no_paths_and_files_are(tmp_path, name, found):
    node = helper.make_node("Relu", ["images"], ["logits"], name=name)
    assert rules(small(tmp_path / "m.onnx", node)) == ({"build path"} if found else set())
    first = helper.make_node("Relu", ["images"], [name], name="first")
    last = helper.make_node("Relu", [name], ["logits"], name="last")
    path = small(tmp_path / "n.onnx", last, extra=[first])
    assert rules(path) == ({"build path"} if found else set())


@pytest.mark.parametrize("version", [None, "10", "ten.three"])
def test_a_version_that_makes_no_sense_is_a_usage_error(fp32, version):
    with pytest.raises(UsageError, match="TensorRT version"):
        check_model(fp32, replace(JP62, tensorrt=version))


def test_what_onnx_runtime_cannot_start_is_found(tmp_path, capfd):
    # onnx.checker does not look at the values of attributes.
    node = helper.make_node("Pad", ["images", "p"], ["logits"], name="n", mode="nonsense")
    pads = numpy_helper.from_array(np.zeros(8, np.int64), "p")
    path = small(tmp_path / "m.onnx", node, initializers=[pads])
    assert "session" in rules(path, ORT)
    assert capfd.readouterr() == ("", "")


def test_external_data_is_found(tmp_path):
    weight = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w")
    node = helper.make_node("Conv", ["images", "w"], ["logits"], name="n")
    path = small(tmp_path / "m.onnx", node, initializers=[weight])
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0)
    assert "external data" in rules(path)


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        ("Conv", np.nan, True),
        ("Conv", np.inf, True),
        ("Conv", 1e30, False),
        ("Add", np.nan, True),
        ("Add", -np.inf, False),  # a mask
    ],
)
@pytest.mark.parametrize("software", [JP62, ORT], ids=lambda each: each.name)
def test_weights_that_are_not_finite_are_found(tmp_path, software, kind, value, found):
    values = np.ones((4, 4, 1, 1), np.float32)
    values.flat[5] = value
    node = helper.make_node(kind, ["images", "w"], ["logits"], name="n")
    path = small(tmp_path / "m.onnx", node, initializers=[numpy_helper.from_array(values, "w")])
    told = [each for each in check_model(path, software) if each.rule == "not finite"]
    assert [(each.where, each.refuses) for each in told] == [("w", True)] * found
    assert all("1 of 16 values" in each.message for each in told)


def test_a_refusal_names_every_reason(quantised):
    edited(
        quantised, lambda model: replace_constant(model, "_zero", lambda old: np.full_like(old, 3))
    )
    with pytest.raises(IncompatibleError, match=r"(?s)zero point.*opset|opset.*zero point"):
        require_legal(quantised, JP60)


@hypothesis_settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_an_input_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InputFileError):
        check_model(path, JP62)


def test_a_graph_whose_own_name_is_no_text_is_an_input_error(fp32, tmp_path):
    name = onnx.load(fp32).graph.name.encode()
    damaged = fp32.read_bytes().replace(name, b"\x80" * len(name))
    (tmp_path / "m.onnx").write_bytes(damaged)
    with pytest.raises(InputFileError, match="not UTF-8"):
        check_model(tmp_path / "m.onnx", ORT)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    place=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    tensorrt=st.booleans(),
)
def test_a_damaged_model_is_judged_or_refused(fp32_int8, tmp_path_factory, place, byte, tensorrt):
    data = bytearray(fp32_int8.read_bytes())
    data[int(place * len(data))] = byte
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(data)
    with contextlib.suppress(InputFileError):
        check_model(path, JP62 if tensorrt else ORT)


def test_a_truncated_model_is_never_called_legal(fp32, tmp_path):
    data = fp32.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "m.onnx").write_bytes(data[: int(share * len(data))])
        try:
            assert check_model(tmp_path / "m.onnx", JP62)
        except InputFileError:
            continue


RTX = load_target("x86-rtx").software


@pytest.mark.parametrize(
    ("kind", "inputs", "refused"),
    [
        ("RoiAlign", ("images", "rois", "places"), {"operator"}),
        ("NonZero", ("images",), {"operator"}),
        ("Attention", ("images", "images", "images"), {"operator"}),
        ("MatMul", ("images", "images"), set()),
        ("Softmax", ("images",), set()),
    ],
)
def test_what_tensorrt_rtx_lacks_of_tensorrt_is_told(tmp_path, kind, inputs, refused):
    node = helper.make_node(kind, list(inputs), ["logits"], name="n")
    given = [
        constant("rois", np.zeros((1, 4), np.float32)),
        constant("places", np.zeros(1, np.int64)),
    ]
    used = [entry for entry in given if entry.name in inputs]
    path = small(tmp_path / "m.onnx", node, opset=23, initializers=used)
    found = check_model(path, RTX)
    # RoiAlign and NonZero give another shape or type than the graph says here.
    ours = {each.rule for each in found if each.refuses} - {"checker"}
    assert ours == refused
    newest = check_model(path, replace(JP62, tensorrt="11.4.1"))
    assert {each.rule for each in newest if each.refuses} - {"checker"} == set()


def test_products_in_fp32_are_said_to_be_for_newer_cards(tmp_path):
    node = helper.make_node("MatMul", ["images", "images"], ["logits"], name="n")
    found = check_model(small(tmp_path / "m.onnx", node), RTX)
    assert [(each.rule, each.refuses) for each in found] == [("GPU", False)]
    assert "compute capability 7.5" in found[0].message


@pytest.mark.parametrize("kind", ["Constant", "Resize", "MatMul"])
def test_a_damaged_node_is_a_reason_and_no_traceback(tmp_path, kind):
    node = helper.make_node(kind, [], [], name="n")
    if kind == "Constant":
        node.attribute.append(helper.make_attribute("value", constant("v", np.float32(1))))
    assert "checker" in rules(small(tmp_path / "m.onnx", node), RTX)
