"""Folders that transformers and timm's hub write."""

import json
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from edgekd.distill.teachers.hugging_face import read_folder, weights_in
from edgekd.distill.teachers.inspection import inspect_teacher
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import InputFileError, UsageError

LABELS = {"0": "cat", "1": "dog", "2": "owl"}


def written(folder, config, processor=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def said(tmp_path, config, processor=None):
    config = {"architectures": ["ViTForImageClassification"], "id2label": LABELS, **config}
    found = read_folder(written(tmp_path / "f", config, processor))
    assert found is not None
    return found.said


def test_labels_are_in_the_order_of_the_logits(tmp_path):
    shuffled = {"2": "owl", "10": "yak", "0": "cat", "1": "dog"}
    shuffled |= {str(number): f"n{number}" for number in range(3, 10)}
    names = said(tmp_path, {"id2label": shuffled}).class_names
    assert names is not None
    assert (names[0], names[2], names[10]) == ("cat", "owl", "yak")


def test_labels_that_the_library_made_up_are_none(tmp_path):
    found = said(tmp_path, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})
    assert (found.class_names, found.classes) == (None, 2)


@pytest.mark.parametrize(
    ("processor", "shape"),
    [
        pytest.param({"size": 48}, (3, 48, 48), id="a number"),
        pytest.param({"size": {"height": 40, "width": 56}}, (3, 40, 56), id="height and width"),
        pytest.param({"size": {"shortest_edge": 64}}, (3, 64, 64), id="an edge"),
        pytest.param(
            {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 56},
            (3, 56, 56),
            id="cropped",
        ),
        pytest.param({"size": {"longest_edge": 64}}, (3, 32, 32), id="of the network"),
    ],
)
def test_the_size_of_images_is_what_the_processor_ends_with(tmp_path, processor, shape):
    assert said(tmp_path, {"image_size": 32}, processor).input == shape


@pytest.mark.parametrize(
    ("processor", "mean"),
    [
        pytest.param({"image_mean": [0.5, 0.4, 0.3]}, (0.5, 0.4, 0.3), id="normalised"),
        pytest.param({"do_normalize": False, "image_mean": [0.5] * 3}, (0.0,), id="not normalised"),
        pytest.param(
            {"rescale_factor": 1 / 127.5, "image_mean": [0.5] * 3}, None, id="other pixels"
        ),
        pytest.param({}, None, id="nothing said"),
        pytest.param(
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3},
            (0.5, 0.5, 0.5),
            id="bytes",
        ),
    ],
)
def test_means_are_taken_where_they_are_of_pixels_of_0_to_1(tmp_path, processor, mean):
    assert said(tmp_path, {}, processor).mean == mean


@pytest.mark.parametrize(
    ("config", "processor", "word"),
    [
        pytest.param(
            {"problem_type": "multi_label_classification"}, None, "multi_label", id="labels"
        ),
        pytest.param({"problem_type": "regression"}, None, "regression", id="regression"),
        pytest.param({}, {"do_flip_channel_order": True}, "BGR", id="BGR"),
    ],
)
def test_what_edgekd_does_not_compress_is_refused(tmp_path, config, processor, word):
    with pytest.raises(InputFileError, match=word):
        said(tmp_path, config, processor)


@pytest.mark.parametrize(
    ("processor", "std"),
    [
        pytest.param({}, 0.25, id="twice"),
        pytest.param({"include_top": True}, 0.25, id="twice, said"),
        pytest.param({"include_top": False}, 0.5, id="once"),
    ],
)
def test_a_processor_that_divides_twice_has_the_square_of_its_deviation(tmp_path, processor, std):
    kind = {"image_processor_type": "EfficientNetImageProcessor"}
    given = {**kind, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **processor}
    assert said(tmp_path, {}, given).std == (std,) * 3


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"model_args": {"act_layer": "silu"}}, id="arguments"),
        pytest.param({"global_pool": "max"}, id="pool"),
    ],
)
def test_what_changes_a_network_of_timm_without_a_trace_is_asked_for(tmp_path, changed):
    network = timm.create_model("resnet18", num_classes=3)
    config = {"architecture": "resnet18", "num_classes": 3, **changed}
    save_file(network.state_dict(), written(tmp_path / "f", config))
    with pytest.raises(UsageError, match=r"timm\.create_model\('resnet18', num_classes=3, "):
        inspect_teacher(tmp_path / "f", TeacherOptions())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="cut short"),
        pytest.param("[]", id="a list"),
        pytest.param("[" * 100_000, id="nested without end"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path, text):
    path = written(tmp_path / "f", {})
    path.with_name("config.json").write_text(text)
    with pytest.raises(InputFileError, match=r"config\.json"):
        inspect_teacher(tmp_path / "f", TeacherOptions())


def test_a_folder_without_weights_or_with_many_files_is_explained(tmp_path):
    with pytest.raises(InputFileError, match=r"model\.safetensors"):
        weights_in(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputFileError, match="max_shard_size"):
        weights_in(tmp_path)


def test_the_name_without_its_configuration_is_explained(tmp_path):
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    given = TeacherOptions(arch="transformers:ViTForImageClassification")
    with pytest.raises(UsageError, match=r"config\.json beside"):
        inspect_teacher(tmp_path, given)


def test_a_folder_of_timms_hub_names_its_network_and_its_images(tmp_path):
    network = timm.create_model("resnet18", num_classes=3).eval()
    config = {
        "architecture": "resnet18",
        "num_classes": 3,
        "label_names": ["cat", "dog", "owl"],
        "pretrained_cfg": {"input_size": [3, 40, 40], "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    save_file(network.state_dict(), written(tmp_path / "f", config))
    teacher = load_teacher(
        tmp_path / "f", TeacherOptions(), generator=torch.Generator().manual_seed(0)
    )
    assert teacher.info.class_names == ("cat", "dog", "owl")
    assert teacher.info.input.shape == (3, 40, 40)
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(images), network(images))


transformers = pytest.importorskip("transformers", reason="pip install 'edgekd[transformers]'")


def classifier(name):
    given = {"id2label": {int(place): label for place, label in LABELS.items()}}
    made: Any = {
        "ResNet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
        "ViT": {
            "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 96, "image_size": 32, "patch_size": 8,
        },
        "MobileNetV2": {"depth_multiplier": 0.35, "image_size": 32},
        "ConvNext": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "image_size": 32},
    }[name]  # fmt: skip
    config = getattr(transformers, f"{name}Config")(**{**given, **made})
    return getattr(transformers, f"{name}ForImageClassification")(config).eval()


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("name", ["ResNet", "ViT", "MobileNetV2", "ConvNext"])
def test_networks_of_transformers_answer_as_they_did(tmp_path, name, pickled):
    network = classifier(name)
    network.save_pretrained(tmp_path)
    if pickled:
        (tmp_path / "model.safetensors").unlink()
        torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": 32, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    teacher = load_teacher(tmp_path, TeacherOptions(), generator=torch.Generator().manual_seed(0))
    assert str(teacher.info.architecture) == f"transformers:{name}ForImageClassification"
    assert teacher.info.class_names == ("cat", "dog", "owl")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(images), network(images).logits)


def test_weights_of_another_network_than_the_configuration_are_refused(tmp_path):
    classifier("ResNet").save_pretrained(tmp_path / "a")
    classifier("ViT").save_pretrained(tmp_path / "b")
    config = (tmp_path / "b" / "config.json").read_text()
    (tmp_path / "a" / "config.json").write_text(config)
    given = TeacherOptions(input=(3, 32, 32), mean=(0.5,), std=(0.25,))
    with pytest.raises(InputFileError, match="are not those of ViTForImageClassification"):
        load_teacher(tmp_path / "a", given, generator=torch.Generator().manual_seed(0))


def test_deits_two_classifiers_are_told_by_the_name_that_the_configuration_gives(tmp_path):
    given = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 4}
    config = transformers.DeiTConfig(intermediate_size=32, image_size=32, patch_size=8, **given)
    said = TeacherOptions(input=(3, 32, 32), mean=(0.5,), std=(0.25,))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for name in ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"):
        network = getattr(transformers, name)(config).eval()
        network.save_pretrained(tmp_path / name)
        teacher = load_teacher(tmp_path / name, said, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(teacher.module(images), network(images).logits)
