"""Every Jetson with every JetPack that it runs: three students, every check, and the same bytes from elsewhere.

Boards with the same software get the same graph, so each is made once; that every board is covered is asserted.
"""

import json
import os
import subprocess
import sys

import pytest

from edgekd.targets import catalogue
from tests.conftest import REPOSITORY

STUDENTS = ("resnet", "mobilenet", "vit")

# In a process of its own, from a folder of its own: FP32, FP16 where typed and INT8, by the functions that
# check parity and legality before a file appears.
EXPORT = """
import json, sys
from pathlib import Path
import numpy as np
import timm
import torch
from edgekd.distill.models.architectures import build
from edgekd.export import convert as models
from edgekd.records import Architecture, InputSpec
from edgekd.targets.catalogue import load_target

SIDE = {"resnet": 32, "mobilenet": 32, "vit": 64}
MADE = {
    "resnet": lambda: build(Architecture(source="edgekd", name="resnet8-w4", channels=3, classes=10, height=32, width=32)),
    "mobilenet": lambda: timm.create_model("mobilenetv2_050", num_classes=10),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64, depth=4),
}

def images(count, side, seed):
    "Ten patterns, each with noise of its own, and which it is."
    patterns = np.random.default_rng(0).standard_normal((10, 3, side, side))
    labels = np.arange(count) % 10
    noise = 0.1 * np.random.default_rng(seed).standard_normal((count, 3, side, side))
    return (patterns[labels] + noise).astype(np.float32), labels

@torch.no_grad()
def network(student):
    "Random, but for its last layer: it tells the patterns apart, so that decisions are no matter of luck."
    side = SIDE[student]
    torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
    module = MADE[student]().train()
    shown, labels = images(60, side, 3)
    for _ in range(8):  # batch-norms have seen the images
        module(torch.from_numpy(shown))
    module.eval().requires_grad_(False)
    last = [part for part in module.modules() if isinstance(part, torch.nn.Linear)][-1]
    seen = []
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module(torch.from_numpy(shown))
    hook.remove()
    features = torch.cat([seen[0], torch.ones(len(labels), 1)], 1).double()
    wanted = 10 * torch.eye(10, dtype=torch.double)[torch.from_numpy(labels)]
    ridge = 1e-2 * features.square().mean() * len(labels) * torch.eye(features.shape[1], dtype=torch.double)
    found = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted)
    last.weight.copy_(found[:-1].T)
    last.bias.copy_(found[-1])
    return module, side

found = {}
for student in sys.argv[2:]:
    module, side = network(student)
    spec = InputSpec(channels=3, height=side, width=side, mean=(0.5,) * 3, std=(0.25,) * 3)
    for board in json.loads(sys.argv[1]):
        target = load_target(board)
        held_out = images(40, side, 1)[0]
        out = Path(f"{student}-{target.board.name}-{target.software.name}")
        fp32 = models.export_fp32(
            module, spec=spec, target=target, out=Path(f"{out}-fp32.onnx"), images=held_out, made_from="0" * 64
        )
        made = [fp32]
        if target.software.typing == "strong":
            made.append(models.export_fp16(Path(fp32.path), target=target, out=Path(f"{out}-fp16.onnx"), images=held_out))
        if target.software.int8:
            made.append(
                models.export_int8(
                    Path(fp32.path), target=target, out=Path(f"{out}-int8.onnx"),
                    calibration=images(40, side, 2)[0], held_out=held_out,
                )
            )
        found[f"{student} {board}"] = {
            each.precision: [each.digest, each.parity.passed, list(each.legal_for)] for each in made
        }
print(json.dumps(found))
"""


def distinct():
    """A target for each software that there is, with and without INT8; and which of them stands for each board."""
    chosen: dict[tuple[object, ...], str] = {}
    covered = {}
    for board in catalogue.boards():
        if board.family != "jetson":
            continue
        for software in board.software.values():
            decides = (
                software.exporter,
                software.opset,
                software.tensorrt,
                software.typing,
                software.int8,
            )
            chosen.setdefault(decides, f"{board.name}@{software.name}")
            covered[f"{board.name}@{software.name}"] = chosen[decides]
    return covered


def exported(folder, boards):
    folder.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", EXPORT, json.dumps(boards), *STUDENTS],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": folder.name[-1], "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)  # two minutes of a core that it has for itself
def test_every_board_gets_files_that_pass_and_that_are_the_same_from_elsewhere(tmp_path):
    covered = distinct()
    boards = sorted(set(covered.values()))
    first = exported(tmp_path / "first1", boards)
    again = exported(tmp_path / "elsewhere2", boards)
    assert first == again
    jetsons = {board.name for board in catalogue.boards() if board.family == "jetson"}
    assert {name.partition("@")[0] for name in covered} == jetsons
    for target, stand_in in covered.items():
        board = catalogue.load_target(target)
        expected = {"fp32"}
        expected |= {"fp16"} if board.software.typing == "strong" else set()
        expected |= {"int8"} if board.software.int8 else set()
        for student in STUDENTS:
            found = first[f"{student} {stand_in}"]
            assert set(found) == expected, (student, target)
            for precision, (_, passed, legal_for) in found.items():
                assert passed, (student, target, precision)
                assert legal_for == [stand_in]
