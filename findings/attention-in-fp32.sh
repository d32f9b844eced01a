#!/usr/bin/env bash
# torch 2.14.1 and TensorRT-RTX 1.7.1.116: from opset 23 on a transformer in FP32 is read and not built.
#
# Expected: a later opset takes nothing away; the newest parser documents Attention for FP32, FP16 and BF16. Seen: up to opset 22
# torch.onnx.export writes scaled dot-product attention as two products and a softmax, which builds. From 23 on it writes the
# operator Attention. NVIDIA's parser reads that, and its builder has kernels for it in FP16 alone: in FP32 the build ends in
# "Attention operation was not supported by a dedicated kernel", on Ampere, Ada and Blackwell alike. Who is hurt: whoever
# raises opset_version of a vision transformer's export to that of the newest TensorRT, and does not export in FP16.
#
# Needs no GPU. Installs pinned packages into a temporary folder (some 6 GB); fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 onnx==1.23.2 onnxscript==0.7.2 \
  tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import onnx
import tensorrt_rtx_bindings as trt
import torch


class Heads(torch.nn.Module):
    """Three heads of 64, as the small vision transformers have."""

    def forward(self, x):
        q, k, v = x.reshape(1, 17, 3, 3, 64).permute(2, 0, 3, 1, 4).unbind(0)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


class Words(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors = []

    def log(self, severity, msg):
        if severity.name in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(msg)


def build(data, name):
    words.errors.clear()
    builder = trt.Builder(words)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, words).parse(data), words.errors
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    if builder.build_serialized_network(network, config) is not None:
        return "built"
    return "no kernel" if "not supported by a dedicated kernel" in words.errors[0] else words.errors[0]


words, found = Words(), {}
print(f"torch {torch.__version__}, TensorRT-RTX {trt.__version__}")
for opset in (20, 22, 23):
    for dtype in (torch.float32, torch.float16):
        path = f"{sys.argv[1]}/{opset}.onnx"
        x = torch.rand(1, 17, 576, dtype=dtype)
        torch.onnx.export(Heads().eval(), (x,), path, opset_version=opset, dynamo=True, external_data=False, verbose=False)
        with open(path, "rb") as stream:
            data = stream.read()
        operators = {node.op_type for node in onnx.load_from_string(data).graph.node}
        kind = "Attention" if "Attention" in operators else "products and softmax"
        for sm in ("SM80", "SM86", "SM89", "SM120"):
            found[opset, dtype, sm] = kind, build(data, sm)
        outcomes = {found[opset, dtype, sm][1] for sm in ("SM80", "SM86", "SM89", "SM120")}
        print(f"  opset {opset} {str(dtype):14} {kind}: {', '.join(sorted(outcomes))}")
for (opset, dtype, _), outcome in found.items():
    fails = opset == 23 and dtype == torch.float32
    assert outcome == ("Attention" if opset == 23 else "products and softmax", "no kernel" if fails else "built")
print("as found: what opset 22 builds, opset 23 does not in FP32")
PYTHON
