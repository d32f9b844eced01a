"""Graphs folded into kernels, against what can be counted by hand."""

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.bench.estimator.graph_cost import network_of, read_network
from edgekd.bench.estimator.kernel_fusion import Kernel
from edgekd.errors import InputFileError
from tests.bench.conftest import save_convolution


def weights(name, *shape):
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def model_of(nodes, initialisers=(), *, taken=(1, 4, 8, 8), outputs=("y",)):
    graph = helper.make_graph(
        [helper.make_node(kind, given, made, **said) for kind, given, made, said in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(initialisers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def kernels(*said, **options):
    return network_of(model_of(*said, **options), origin="m").kernels


SAME = {"pads": [1, 1, 1, 1]}


def test_a_convolution_counts_its_macs_and_elements():
    (kernel,) = kernels([("Conv", ["x", "w"], ["y"], SAME)], [weights("w", 6, 4, 3, 3)])
    assert kernel == Kernel(
        kind="dense3x3",
        macs=6 * 8 * 8 * 4 * 9,
        inputs=4 * 64,
        weights=6 * 4 * 9,
        outputs=6 * 64,
        depth=36,
        in_channels=4,
        out_channels=6,
    )
    assert kernel.bytes_moved(2) == 2 * (256 + 216 + 384)


def test_depthwise_strided_and_wider_convolutions_are_of_their_kinds():
    depthwise = [("Conv", ["x", "w"], ["y"], SAME | {"group": 4})]
    assert kernels(depthwise, [weights("w", 4, 1, 3, 3)])[0].kind == "grouped"
    assert kernels(depthwise, [weights("w", 4, 1, 3, 3)])[0].macs == 4 * 64 * 9
    strided = [("Conv", ["x", "w"], ["y"], SAME | {"strides": [2, 2]})]
    assert kernels(strided, [weights("w", 4, 4, 3, 3)])[0].kind == "dense"
    assert kernels([("Conv", ["x", "w"], ["y"], {})], [weights("w", 4, 4, 1, 1)])[0].kind == "dense"


def test_what_is_pointwise_behind_a_convolution_goes_along():
    found = kernels(
        [
            ("Conv", ["x", "w"], ["a"], SAME),
            ("BatchNormalization", ["a", "v", "v", "v", "v"], ["b"], {}),
            ("Add", ["b", "x"], ["c"], {}),
            ("Relu", ["c"], ["y"], {}),
        ],
        [weights("w", 4, 4, 3, 3), weights("v", 4)],
    )
    assert len(found) == 1
    assert found[0].inputs == 2 * 256  # the convolution's, and the residual


def test_a_gate_is_part_of_the_convolution():
    found = kernels(
        [
            ("Conv", ["x", "w"], ["a"], SAME),
            ("Sigmoid", ["a"], ["s"], {}),
            ("Mul", ["a", "s"], ["y"], {}),
        ],
        [weights("w", 4, 4, 3, 3)],
    )
    assert [kernel.kind for kernel in found] == ["dense3x3"]


def test_a_value_that_others_read_is_not_fused_away():
    found = kernels(
        [
            ("Conv", ["x", "w"], ["a"], SAME),
            ("Relu", ["a"], ["b"], {}),
            ("MaxPool", ["a"], ["y"], {"kernel_shape": [2, 2]}),
        ],
        [weights("w", 4, 4, 3, 3)],
        outputs=("b", "y"),
    )
    assert [kernel.kind for kernel in found] == ["dense3x3", "pointwise", "pool"]


def test_a_concatenation_copies_only_what_others_read_too():
    def joined(*extra):
        return kernels(
            [
                ("Conv", ["x", "w"], ["a"], SAME),
                ("Conv", ["x", "w"], ["b"], SAME),
                ("Concat", ["a", "b"], ["y"], {"axis": 1}),
                *extra,
            ],
            [weights("w", 4, 4, 3, 3)],
            outputs=("y", "z") if extra else ("y",),
        )

    assert [kernel.kind for kernel in joined()] == ["dense3x3"] * 2
    twice = joined(("MaxPool", ["a"], ["z"], {"kernel_shape": [2, 2]}))
    assert sorted(kernel.kind for kernel in twice) == ["copy", "dense3x3", "dense3x3", "pool"]


def test_views_and_quantisers_are_no_kernels():
    plain = kernels([("Conv", ["x", "w"], ["y"], SAME)], [weights("w", 4, 4, 3, 3)])
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    quantised = network_of(
        model_of(
            [
                ("QuantizeLinear", ["x", "s"], ["q"], {}),
                ("DequantizeLinear", ["q", "s"], ["d"], {}),
                ("Conv", ["d", "w"], ["a"], SAME),
                ("Reshape", ["a", "shape"], ["y"], {}),
            ],
            [
                weights("w", 4, 4, 3, 3),
                scale,
                numpy_helper.from_array(np.array([1, -1], np.int64), "shape"),
            ],
        ),
        origin="m",
    )
    # A scale without a zero point quantises to uint8, which shape inference knows.
    assert quantised.kernels == plain
    assert quantised.quantised


def test_a_product_of_two_activations_and_one_with_weights():
    (gemm,) = kernels([("Gemm", ["x", "w"], ["y"], {})], [weights("w", 8, 5)], taken=(1, 8))
    assert (gemm.kind, gemm.macs, gemm.weights) == ("product", 40, 40)
    attention = kernels(
        [("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}), ("MatMul", ["x", "t"], ["y"], {})],
        taken=(1, 6, 4),
    )
    assert [kernel.kind for kernel in attention] == ["copy", "product"]
    assert attention[1].macs == 6 * 6 * 4


def test_an_operator_without_a_rule_is_named():
    found = network_of(model_of([("Det", ["x"], ["y"], {})]), origin="m")
    assert found.notes == ("1 x Det: no rule for it, counted as a copy",)


def test_an_open_batch_is_one_image(tmp_path):
    path = save_convolution(tmp_path / "m.onnx", ["N", 3, 16, 16])
    assert read_network(path).input_shape == (1, 3, 16, 16)
    assert read_network(path).macs == 4 * 16 * 16 * 27


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "without a single operator"), (b"not an ONNX file at all", "not a readable ONNX model")],
)
def test_what_is_no_model_is_refused(tmp_path, content, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match=message):
        read_network(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputFileError, match=r"m\.onnx"):
        read_network(tmp_path / "m.onnx")


def test_sizes_that_are_open_are_refused_by_name(tmp_path):
    path = save_convolution(tmp_path / "m.onnx", ["N", 3, "H", 16])
    with pytest.raises(InputFileError, match=r"'images' is open in dimension 2 \(H\)"):
        read_network(path)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputFileError, match="do not fit"):
        kernels([("Add", ["x", "w"], ["y"], {})], [weights("w", 3)])
    with pytest.raises(InputFileError, match="is for 3 channels and gets 4"):
        kernels([("Conv", ["x", "w"], ["y"], {})], [weights("w", 4, 3, 3, 3)])


def test_sizes_that_follow_from_values_are_refused():
    nodes = [
        ("NonZero", ["x"], ["n"], {}),
        ("Cast", ["n"], ["f"], {"to": TensorProto.FLOAT}),
        ("Concat", ["f", "f"], ["y"], {"axis": 1}),
    ]
    with pytest.raises(InputFileError, match="follows from values"):
        kernels(nodes)


def test_every_truncation_of_a_file_is_refused_or_read(tmp_path):
    whole = save_convolution(tmp_path / "m.onnx", [1, 3, 16, 16]).read_bytes()
    for length in range(0, len(whole), 37):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:length])
        with contextlib.suppress(InputFileError):  # and nothing else
            assert read_network(path).kernels


def test_control_flow_is_refused():
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    test = numpy_helper.from_array(np.array(True), "test")
    model = model_of(
        [("If", ["test"], ["y"], {"then_branch": inner, "else_branch": inner})], [test]
    )
    with pytest.raises(InputFileError, match="If: how often"):
        network_of(model, origin="m")


def test_weights_in_a_file_beside_are_not_needed(tmp_path):
    model = onnx.load(save_convolution(tmp_path / "m.onnx", [1, 3, 16, 16]))
    onnx.save(
        model, tmp_path / "apart.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    (tmp_path / "w").unlink()
    assert read_network(tmp_path / "apart.onnx") == read_network(tmp_path / "m.onnx")


def test_damaged_files_are_refused_or_read(tmp_path):
    whole = save_convolution(tmp_path / "m.onnx", ["N", 3, 16, 16]).read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in draw.integers(len(whole), size=3):
            damaged[place] = draw.integers(256)
        (tmp_path / "m.onnx").write_bytes(damaged)
        with contextlib.suppress(InputFileError):  # and nothing else
            read_network(tmp_path / "m.onnx")
