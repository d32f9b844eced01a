"""`edgekd teacher describe` and `check`, as a user types them."""

import json
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from jsonschema import validate

from edgekd.schemas import SCHEMAS, schema_text
from tests.edgekd.conftest import IMAGES, REPOSITORY, TEACHER

TEN = REPOSITORY / "examples" / "teachers" / "save_ten.py"
# What nobody can know of these files; everything else is said without a question.
ASKS = {
    "wrapped.pth": "--arch",
    "lightning.ckpt": "--arch",
    "scripted.pt": "--trust-pickle",
    "safe.safetensors": "--mean",
}


@pytest.fixture(scope="session")
def ten(tmp_path_factory):
    """Ten checkpoints, with the network that was saved in each."""
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("ten")
    done = subprocess.run(
        [sys.executable, str(TEN), str(folder)], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines() if " " in line]
    return folder, {line[0]: line[1] for line in lines if (folder / line[0]).is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "state-dict.pt",
        "wrapped.pth",
        "data-parallel.pth",
        "compiled.pt",
        "ema.pth",
        "lightning.ckpt",
        "exported.pt2",
        "scripted.pt",
        "safe.safetensors",
        "model.onnx",
    ],
)
def test_ten_ways_to_save_a_network_are_understood_or_asked_about(edgekd, ten, name):
    folder, truth = ten
    code, out, err = edgekd("teacher", "describe", folder / name, "--json", "--no-write")
    assert code == 0, err
    found = json.loads(out)
    validate(found, json.loads(schema_text("teacher-description")))
    named = [found["network"], *found["same_as"]]
    offered = [value for question in found["questions"] for value in question["choices"]]
    program = name in {"exported.pt2", "model.onnx"}
    assert program or truth[name] in [*named, *offered]
    asked = " ".join(question["option"] for question in found["questions"])
    if name in ASKS:
        assert ASKS[name] in asked
    elif not program:
        # Heads of their own: what the library's weights take is an offer
        assert asked == "--input CxHxW --mean M,... --std S,..."
        assert "3x224x224" in offered
    assert found["classes"] not in {None, 0, 1000}


def test_the_toml_that_is_written_answers_what_was_open(edgekd, tmp_path):
    pytest.importorskip("timm")
    import timm

    path = tmp_path / "t.pt"
    torch.save(timm.create_model("efficientnet_b0", num_classes=5).state_dict(), path)
    code, out, err = edgekd("teacher", "describe", path)
    assert code == 0
    assert "missing" in out
    text = (tmp_path / "t.toml").read_text()
    assert str(tmp_path / "t.toml") in err
    assert "arch" not in tomllib.loads(text)
    for key in ("arch", "input", "mean", "std"):
        text = text.replace(f"# {key} = ", f"{key} = ", 1)
    # Of each list of candidates the first was taken; the others stay comments.
    assert tomllib.loads(text)["arch"] == "timm:efficientnet_b0"
    (tmp_path / "t.toml").write_text(text)
    code, out, err = edgekd("teacher", "describe", path)
    assert "missing" not in out
    assert "named in the t.toml" in out
    assert "kept" in err


def test_a_toml_that_stands_is_kept_unless_forced(edgekd, tmp_path):
    path = tmp_path / "t.pt"
    path.write_bytes(TEACHER.read_bytes())
    (tmp_path / "t.toml").write_text("flip = true\n")
    assert "kept" in edgekd("teacher", "describe", path)[2]
    assert (tmp_path / "t.toml").read_text() == "flip = true\n"
    assert "wrote" in edgekd("teacher", "describe", path, "--force")[2]
    assert tomllib.loads((tmp_path / "t.toml").read_text())["flip"] is True


def test_describing_imports_no_framework_where_the_index_knows_the_network(ten):
    folder, _ = ten
    program = (
        "import sys; from edgekd.cli import app as cli;"
        "cli.run(lambda: cli.app(sys.argv[1:], standalone_mode=False));"
        "sys.exit(bool({'torch', 'timm', 'torchvision', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "teacher",
            "describe",
            str(folder / "ema.pth"),
            "--no-write",
        ],
        check=False,
    )
    assert done.returncode == 0


def test_a_damaged_value_is_named(edgekd, tmp_path):
    torch.save({"conv.weight": torch.full((2, 3, 3, 3), float("nan"))}, tmp_path / "t.pt")
    code, _, err = edgekd("teacher", "describe", tmp_path / "t.pt")
    assert code == 2
    assert "conv.weight has 54 values" in err


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["backbone.conv1.weight", "rpn.head.conv.weight"], "detection"),
        (["backbone.conv1.weight", "decode_head.conv_seg.weight"], "segmentation"),
        (["model.22.dfl.conv.weight", "model.0.conv.weight"], "YOLO"),
        (["conv.weight", "head.decoder.duplicate_pooling"], "multi-label"),
    ],
)
def test_other_tasks_are_refused_by_name(edgekd, tmp_path, names, word):
    torch.save({name: torch.ones(2, 3, 3, 3) for name in names}, tmp_path / "t.pt")
    code, _, err = edgekd("teacher", "describe", tmp_path / "t.pt")
    assert code == 2
    assert word in err
    assert "refused" in err


def test_torchvisions_detectors_are_refused_by_their_name(edgekd, tmp_path):
    from torchvision import models

    module = models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3
    )
    torch.save(module.state_dict(), tmp_path / "t.pt")
    code, _, err = edgekd("teacher", "describe", tmp_path / "t.pt")
    assert code == 2
    assert "fasterrcnn_mobilenet_v3_large" in err


# --- check ----------------------------------------------------------------------------------------


def check(edgekd, *arguments, teacher=TEACHER):
    code, out, err = edgekd("teacher", "check", teacher, "--json", *arguments)
    return code, json.loads(out), err


def test_a_teacher_that_is_fed_rightly_passes(edgekd):
    code, found, _ = check(edgekd, "--eval", IMAGES)
    validate(found, json.loads(schema_text("teacher-check")))
    assert code == 0
    assert found["verdict"] == "right"
    assert found["accuracy"] > 0.98
    assert found["accuracy"] > max(each["accuracy"] for each in found["variants"]) - 0.01


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda images: 255 - images, "inverted"),
        (lambda images: images.transpose(0, 2, 1), "transposed"),
    ],
)
def test_images_that_were_prepared_otherwise_are_recognised(edgekd, tmp_path, change, hint):
    with np.load(IMAGES) as data:
        images, labels = data["images"], data["labels"]
    images = images[..., 0] if images.ndim == 4 else images
    np.savez(tmp_path / "e.npz", images=change(images), labels=labels)
    code, found, err = check(edgekd, "--eval", tmp_path / "e.npz")
    assert (code, found["verdict"]) == (4, "wrong")
    assert hint in err


def test_pixels_that_were_never_normalised_are_recognised(edgekd):
    # The teacher wants 0..1 less its mean; told 0..255, what it gets is far from it.
    code, found, err = check(edgekd, "--eval", IMAGES, "--mean", "0", "--std", "255")
    assert (code, found["verdict"]) == (4, "wrong")
    assert "looks like" in err


def test_a_mean_and_std_that_are_not_the_trainings_are_recognised(edgekd):
    code, found, err = check(edgekd, "--eval", IMAGES, "--mean", "0.5", "--std", "0.5")
    assert (code, found["verdict"]) == (4, "wrong")
    assert "--mean 0.1" in err


def test_another_order_of_classes_is_recognised_and_told(edgekd, tmp_path):
    with np.load(IMAGES) as data:
        np.savez(tmp_path / "e.npz", images=data["images"], labels=(data["labels"] + 1) % 10)
    code, found, err = check(edgekd, "--eval", tmp_path / "e.npz")
    assert (code, found["verdict"]) == (4, "wrong")
    assert found["class_order"]["label_of"] == [*range(1, 10), 0]
    assert "another order of classes" in err


def test_images_of_another_task_are_called_chance(edgekd, tmp_path):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (300, 28, 28), np.uint8)
    np.savez(tmp_path / "e.npz", images=images, labels=draw.integers(0, 10, 300))
    code, found, err = check(edgekd, "--eval", tmp_path / "e.npz")
    assert (code, found["verdict"]) == (4, "chance")
    assert "right file" in err


def test_bgr_is_recognised(edgekd, tmp_path):
    # No renaming of the classes and no negative does what an exchange of red and blue does.
    weights = torch.tensor([[2.0, -1, 0], [0, 1, -1], [-1.0, 0.5, 0.5]]).reshape(3, 3, 1, 1)
    torch.save({"conv.weight": weights}, tmp_path / "t.pt")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 3, 1, bias=False)\n"
        "    def forward(self, images):\n"
        "        return self.conv(images).mean((2, 3))\n"
        "def make():\n"
        "    return Net()\n"
    )
    (tmp_path / "t.toml").write_text(
        'arch = "net.py:make"\ninput = [3, 16, 16]\nmean = [0.5]\nstd = [0.25]\n'
    )
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (400, 16, 16, 3), np.uint8)
    colours = images.mean((1, 2)) - 127.5
    labels = (colours @ weights.reshape(3, 3).numpy().T).argmax(1)
    np.savez(tmp_path / "e.npz", images=images[..., ::-1], labels=labels)
    code, found, err = check(edgekd, "--eval", tmp_path / "e.npz", teacher=tmp_path / "t.pt")
    assert (code, found["verdict"]) == (4, "wrong")
    assert "looks like BGR" in err


def test_both_records_are_published():
    assert {"teacher-check", "teacher-description"} <= set(SCHEMAS)
