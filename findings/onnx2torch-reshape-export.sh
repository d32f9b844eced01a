#!/usr/bin/env bash
# What onnx2torch 1.5.15 makes of a flattening ONNX network cannot be exported by torch.export again, nor run without values.
#
# Expected: a network whose ONNX file holds nothing but constant sizes comes back as a module that torch.export takes, as it took the
# network that the file was made of. Seen: the module of a Reshape looks at the values of its sizes at each pass ("is any of them
# zero?"), so torch.export refuses to guess, and raises; and a pass on meta tensors, which counts operations without memory,
# raises too. The answers are right.
#
# Installs pinned packages into a temporary folder (some 6 GB, mostly torch); fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.14.1 torchvision==0.29.1 onnx==1.23.2 onnx2torch==1.5.15
"$folder/venv/bin/python" -W ignore - "$folder/network.onnx" 2>/dev/null <<'PYTHON'
import contextlib
import io
import sys

import torch
from onnx2torch import convert
from torch import nn

class Rows(nn.Module):
    def forward(self, maps):
        return maps.reshape(-1, 8 * 16)


network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), Rows(), nn.Linear(8 * 16, 5)).eval()
images = torch.randn(2, 3, 16, 16)
open_batch = ({0: torch.export.Dim("batch")},)
torch.export.export(network, (images,), dynamic_shapes=open_batch)
with contextlib.redirect_stdout(io.StringIO()):
    # The file is one of many years: opset 13, Conv, Relu, Reshape to (-1, 128), Gemm
    torch.onnx.export(network, (images,), sys.argv[1], dynamo=False, opset_version=13, input_names=["images"],
                      dynamic_axes={"images": {0: "batch"}})
module = convert(sys.argv[1]).eval()
with torch.no_grad():
    apart = float((module(images) - network(images)).abs().max())
said = {}
try:
    torch.export.export(module, (images,), dynamic_shapes=open_batch)
except Exception as error:
    said["torch.export"] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
try:
    module.to("meta")(images.to("meta"))
except Exception as error:
    said["meta tensors"] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
print(f"torch {torch.__version__}: answers {apart:.1g} apart; {said}")
assert apart < 1e-5
assert set(said) == {"torch.export", "meta tensors"}, said
print("as found: a reshape to constant sizes cannot be exported again, nor counted")
PYTHON
