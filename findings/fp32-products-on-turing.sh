#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116: no engine with a matrix product in FP32 can be built for Turing, and none that is for Turing too.
#
# Expected: a GPU that the builder lists (compute capability 7.5) runs FP32, as convolutions in FP32 do. Seen: Gemm and MatMul in
# FP32 end the build for 7.5 in "FP32 GEMM is not supported", so nearly every classifier does, by its last layer; in FP16 the
# same graphs build, and so do convolutions in FP32. An engine for several kinds of GPU fails as a whole when 7.5 is among them.
# Who is hurt: whoever builds one portable FP32 engine for "GeForce RTX 20 to 50".
#
# Needs no GPU. Installs pinned packages into a temporary folder (some 400 MB); fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 numpy==2.4.6 \
  tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper, numpy_helper

TYPES = {"FP32": (TensorProto.FLOAT, np.float32), "FP16": (TensorProto.FLOAT16, np.float16)}
SHAPES = {  # input, weights
    "Conv": ((1, 8, 16, 16), (8, 8, 3, 3)),
    "Gemm": ((1, 64), (64, 10)),
    "MatMul": ((4, 64), (64, 10)),
}


class Words(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors = []

    def log(self, severity, msg):
        if severity.name in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(msg)


def model(kind, form):
    code, dtype = TYPES[form]
    given, weights = SHAPES[kind]
    node = helper.make_node(kind, ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", code, given)
    y = helper.make_tensor_value_info("y", code, None)
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(np.ones(weights, dtype), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def build(data, names):
    words.errors.clear()
    builder = trt.Builder(words)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, words).parse(data), words.errors
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(names)
    for place, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), place)
    if builder.build_serialized_network(network, config) is not None:
        return "built"
    return "refused" if "FP32 GEMM is not supported" in words.errors[0] else words.errors[0]


words = Words()
print(f"TensorRT-RTX {trt.__version__}")
for kind in SHAPES:
    for form in TYPES:
        data = model(kind, form).SerializeToString()
        found = {names: build(data, names) for names in (("SM75",), ("SM86",), ("SM75", "SM86"))}
        print(f"  {kind:6} {form}: " + "; ".join(f"{'+'.join(names)} {said}" for names, said in found.items()))
        turing = "refused" if kind != "Conv" and form == "FP32" else "built"
        assert found == {("SM75",): turing, ("SM86",): "built", ("SM75", "SM86"): turing}
print("as found: products in FP32 are not for Turing, convolutions are")
PYTHON
