#!/usr/bin/env bash
# torch 2.14.1: removing a parametrization from a deep copy breaks the module that it was copied from.
#
# Expected: copy.deepcopy gives a module of its own, and torch.nn.utils.parametrize.remove_parametrizations on the copy leaves
# the original as it was. Seen: both share the class that the parametrization made, the removal takes the property `weight` off
# that class, and the next call of the original ends in an AttributeError (it "has no attribute 'weight'"). Two modules that
# were parametrized each by itself have a class each, and are not affected. Who is hurt: whoever folds weight_norm into a copy
# for export or pruning and goes on to use the teacher.
#
# Installs a pinned package into a temporary folder (some 6 GB); fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy

import torch
from torch.nn.utils import parametrizations, parametrize


def call(layer):
    try:
        layer(torch.zeros(1, 3))
    except AttributeError as error:
        return str(error)
    return "answers"


print(f"torch {torch.__version__}")
outcomes = {}
for norm in (parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal):
    first = norm(torch.nn.Linear(3, 2))
    copied, other = copy.deepcopy(first), norm(torch.nn.Linear(3, 2))
    parametrize.remove_parametrizations(copied, "weight", leave_parametrized=True)
    outcomes[norm.__name__] = call(first), call(other)
    print(f"  {norm.__name__:14} copy: {call(copied)}; original: {call(first)}; another: {call(other)}")
for original, another in outcomes.values():
    assert "no attribute 'weight'" in original and another == "answers"
print("as found: the original lost its weight with the copy's parametrization")
PYTHON
