#!/usr/bin/env bash
# Torch-Pruning 1.6.1 takes a padding of channels for a layer that leaves them where they are.
#
# Expected: removing a channel gives the network that has this channel set to zero, whatever lies between its layers, or an
# error. Seen: where a shortcut pads channels (option A of the residual networks for CIFAR-10), channel k before the
# padding is tied to channel k behind it, though it lies at k plus the padding there. The pruned network runs without a word, and
# answers otherwise than the one with zeros, unless the channel lies before all that the padding moved past it.
#
# Installs pinned packages into a temporary folder (some 6 GB, mostly torch); fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torch-pruning==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy

import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        x = functional.relu(self.first(images))
        y = self.second(x) + functional.pad(x, (0, 0, 0, 0, 4, 4))
        return self.head(y.mean((2, 3)))


def apart(channel):
    """Pruned by the library against the same group of channels set to zero."""
    pruned, zeros = copy.deepcopy(network), copy.deepcopy(network)
    graph = tp.DependencyGraph().build_dependency(pruned, example_inputs=images)
    group = graph.get_pruning_group(pruned.first, tp.prune_conv_out_channels, [channel])
    touched = {item.dep.target.name.split(" ")[0]: item.idxs for item in group.items}
    assert touched["second"] == touched["head"] == [channel], touched
    group.prune()
    with torch.no_grad():
        for layer in (zeros.first, zeros.second):
            layer.weight[channel] = 0
            layer.bias[channel] = 0
        zeros.head.weight[:, channel] = 0
        return float((pruned(images) - zeros(images)).abs().max())


torch.manual_seed(0)
network, images = Padded().eval(), torch.randn(4, 3, 8, 8)
found = {channel: apart(channel) for channel in (0, 5)}
print(f"Torch-Pruning {tp.__version__}, torch {torch.__version__}: largest difference of a logit, by removed channel: {found}")
assert found[0] < 1e-5, "channel 0 used to make no difference"
assert found[5] > 1e-3, "a padding is followed now: this finding is over"
print("as found: a removed channel is looked for at its old place behind a padding of channels, without an error")
PYTHON
