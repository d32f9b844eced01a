#!/usr/bin/env bash
# onnxruntime 1.31.1 and TensorRT-RTX 1.7.1.116: symmetric Q/DQ as NVIDIA asks for, refused for one constant without dimensions.
#
# Expected: quantize_static with symmetric INT8, weights per channel and biases in float gives what TensorRT's documents ask of
# explicit quantisation. Seen: where the graph multiplies by, adds or divides by a single number (GELU's halves, scales of
# attention), ONNX Runtime quantises that number too, as an INT8 constant of no dimensions with its DequantizeLinear. NVIDIA's
# parser reads the file, and the builder refuses it: a quantised constant "is only allowed before DQ", though it is before one.
# The same number written with one dimension builds. Who is hurt: whoever quantises ConvNeXt or a transformer with ONNX Runtime
# for TensorRT; the message names the constant and a reason that is not true.
#
# Needs no GPU. Installs pinned packages into a temporary folder (some 500 MB); fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 numpy==2.4.6 onnxruntime==1.31.1 \
  tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import logging
import sys

import numpy as np
import onnx
import onnxruntime
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

logging.disable(logging.WARNING)
folder = sys.argv[1]


class Words(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors = []

    def log(self, severity, msg):
        if severity.name in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(msg)


class Images(quantization.CalibrationDataReader):
    def __init__(self):
        self.left = [{"x": np.random.default_rng(0).random((1, 4, 8, 8), np.float32)} for _ in range(4)]

    def get_next(self):
        return self.left.pop() if self.left else None


def write(half):
    """A convolution whose output is halved."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Mul", ["c", "half"], ["y"], name="halve"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4, 8, 8)) for name in "xy"]
    weights = np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(np.float32)
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(half, "half")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), f"{folder}/f.onnx")


def build(path):
    words.errors.clear()
    builder = trt.Builder(words)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    with open(path, "rb") as stream:
        read = trt.OnnxParser(network, words).parse(stream.read())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    built = read and builder.build_serialized_network(network, config) is not None
    refused = not built and "is only allowed before DQ" in words.errors[0]
    return "read" if read else "not read", "built" if built else "refused before a DQ" if refused else words.errors[0]


words = Words()
print(f"onnxruntime {onnxruntime.__version__}, TensorRT-RTX {trt.__version__}")
found = {}
for shape in ((), (1,)):
    write(np.full(shape, 0.5, np.float32))
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    quantization.quantize_static(
        f"{folder}/f.onnx", f"{folder}/q.onnx", Images(), per_channel=True, extra_options=options
    )
    constants = {entry.name: entry for entry in onnx.load(f"{folder}/q.onnx").graph.initializer}
    number = constants["half_quantized"]
    zeros = [numpy_helper.to_array(entry) for name, entry in constants.items() if name.endswith("zero_point")]
    assert all((zero == 0).all() and zero.dtype == np.int8 for zero in zeros)
    found[shape] = build(f"{folder}/q.onnx")
    print(f"  a factor of shape {shape!s:5}: {TensorProto.DataType.Name(number.data_type)} {list(number.dims)}; {', '.join(found[shape])}")
assert found == {(): ("read", "refused before a DQ"), (1,): ("read", "built")}
print("as found: a quantised number needs a dimension")
PYTHON
