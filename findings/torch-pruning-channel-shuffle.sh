#!/usr/bin/env bash
# Torch-Pruning 1.6.1 cannot look at torchvision's ShuffleNet: it divides by zero.
#
# Expected: a graph of its channels, or an error that names the layer that it cannot follow. Seen: building the graph ends in a
# ZeroDivisionError, for all widths of the network; the index of a reshape divides the channels before it by those behind it, and a
# channel shuffle makes two of many. The other small networks of torchvision (MobileNet, MNASNet, SqueezeNet) are followed.
#
# Installs pinned packages into a temporary folder (some 6 GB, mostly torch); fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 torch-pruning==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
import torch_pruning as tp
import torchvision
from torchvision import models


def outcome(name):
    network = models.get_model(name, weights=None, num_classes=10).eval()
    try:
        graph = tp.DependencyGraph().build_dependency(network, example_inputs=torch.randn(1, 3, 64, 64))
    except ZeroDivisionError as error:
        return f"ZeroDivisionError: {error}"
    return f"{len(list(graph.get_all_groups()))} groups"


names = ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "mobilenet_v2", "mnasnet0_5", "squeezenet1_1")
found = {name: outcome(name) for name in names}
print(f"Torch-Pruning {version('torch-pruning')}, torch {torch.__version__}, torchvision {torchvision.__version__}")
for name, said in found.items():
    print(f"  {name:20} {said}")
assert all(said.startswith("ZeroDivisionError") == name.startswith("shufflenet") for name, said in found.items())
print("as found: a channel shuffle ends in a division by zero")
PYTHON
