import importlib.util
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.distill.models.architectures import build
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import InputFileError, IntegrityError, UsageError
from edgekd.records import Architecture

TOLD = TeacherOptions(input=(1, 28, 28), mean=(0.5,), std=(0.25,))


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def checkpoint(tmp_path):
    module = build(
        Architecture(source="edgekd", name="resnet8-w4", channels=1, classes=4, height=28, width=28)
    )
    module.train()(torch.randn(16, 1, 28, 28))
    torch.save(module.state_dict(), tmp_path / "t.pt")
    return tmp_path / "t.pt"


def test_a_teacher_is_understood_from_its_weights_and_options(checkpoint):
    info = load_teacher(checkpoint, TOLD, generator=generator()).info
    assert str(info.architecture) == "resnet8-w4"
    assert (info.classes, info.input.shape, info.input.mean) == (4, (1, 28, 28), (0.5,))
    assert info.batch_norm_layers == 9
    assert info.batch_norm_trained


def test_untrained_batch_norm_is_noticed(tmp_path):
    module = build(
        Architecture(source="edgekd", name="resnet8-w4", channels=1, classes=4, height=28, width=28)
    )
    torch.save(module.state_dict(), tmp_path / "t.pt")
    assert not load_teacher(tmp_path / "t.pt", TOLD, generator=generator()).info.batch_norm_trained


def test_options_win_over_toml_and_toml_over_the_file(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    inside = {
        "input": [1, 28, 28],
        "mean": [0.3],
        "std": [0.3],
        "class_names": ["a", "b", "c", "d"],
    }
    torch.save({"state_dict": state, "edgekd": inside}, checkpoint)
    checkpoint.with_suffix(".toml").write_text("mean = [0.2]\nstd = [0.2]\n")
    info = load_teacher(checkpoint, TeacherOptions(mean=(0.1,)), generator=generator()).info
    assert (info.input.mean, info.input.std) == ((0.1,), (0.2,))
    assert info.class_names == ("a", "b", "c", "d")
    assert info.metadata_from == "options and t.toml and the edgekd entry of t.pt"


def test_everything_missing_is_named_at_once(checkpoint):
    with pytest.raises(UsageError) as caught:
        load_teacher(checkpoint, TeacherOptions(), generator=generator())
    assert all(option in str(caught.value) for option in ("--input 1xHxW", "--mean", "--std"))
    assert "--arch" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("men = [0.1]", "men"),
        ("mean = 'x'", "mean"),
        ("mean = [", "TOML"),
        ("schema_version = 9", "9"),
    ],
)
def test_toml_is_read_strictly(checkpoint, text, word):
    checkpoint.with_suffix(".toml").write_text(text)
    with pytest.raises(InputFileError, match=word):
        load_teacher(checkpoint, TOLD, generator=generator())


def test_class_names_must_be_as_many_as_classes(checkpoint):
    checkpoint.with_suffix(".toml").write_text("class_names = ['a', 'b']")
    with pytest.raises(UsageError, match="2 class_names for 4"):
        load_teacher(checkpoint, TOLD, generator=generator())


def test_a_pass_in_training_mode_is_found_out(checkpoint):
    teacher = load_teacher(checkpoint, TOLD, generator=generator())
    teacher.verify_unchanged()
    teacher.module.train()(torch.randn(4, 1, 28, 28))
    with pytest.raises(IntegrityError):
        teacher.verify_unchanged()


@pytest.mark.parametrize("arch", ["timm:resnet10t", "torchvision:shufflenet_v2_x0_5"])
def test_library_teachers_load_by_name(tmp_path, arch):
    source, name = arch.split(":")
    architecture = Architecture(
        source=source, name=name, channels=3, classes=6, height=64, width=64
    )
    torch.save({"model": build(architecture).state_dict()}, tmp_path / "t.pth")
    told = TeacherOptions(arch=arch, input=(3, 64, 64), mean=(0.5,), std=(0.5,))
    info = load_teacher(tmp_path / "t.pth", told, generator=generator()).info
    assert str(info.architecture) == arch
    assert info.classes == 6


def test_a_library_name_needs_no_prefix(tmp_path):
    architecture = Architecture(
        source="timm", name="resnet10t", channels=3, classes=6, height=64, width=64
    )
    torch.save(build(architecture).state_dict(), tmp_path / "t.pth")
    told = TeacherOptions(arch="resnet10t", input=(3, 64, 64), mean=(0.5,), std=(0.5,))
    assert (
        load_teacher(tmp_path / "t.pth", told, generator=generator()).info.architecture
        == architecture
    )


@pytest.mark.shared
def test_a_real_third_party_teacher_is_as_good_as_published(shared):
    told = TeacherOptions(input=(3, 32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    path = shared / "teachers" / "resnet20-12fca82f.th"
    teacher = load_teacher(path, told, generator=generator())
    assert str(teacher.info.architecture) == "resnet20a"
    assert teacher.info.weights_key == "state_dict"
    spec = importlib.util.spec_from_file_location("load", shared / "data" / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images, labels = (part[:1000] for part in module.cifar10("test"))
    from edgekd.distill.data.labelled import normalise

    with torch.no_grad():
        logits = teacher.module(torch.from_numpy(normalise(images, teacher.info.input)))
    assert (logits.argmax(1).numpy() == labels).mean() > 0.905


def test_the_toml_of_another_teacher_is_not_taken(checkpoint):
    checkpoint.with_name("teacher.toml").write_text("mean = [0.9]\n")
    assert load_teacher(
        checkpoint, TeacherOptions(input=TOLD.input, std=TOLD.std), generator=generator()
    ).info.input.mean == (0.9,)
    checkpoint.with_name("teacher.pt").write_bytes(checkpoint.read_bytes())
    with pytest.raises(UsageError, match="--mean"):
        load_teacher(
            checkpoint, TeacherOptions(input=TOLD.input, std=TOLD.std), generator=generator()
        )


# --- whatever people bring ------------------------------------------------------------------------

SMALL: dict[str, Any] = {"input": (3, 32, 32), "mean": (0.5,), "std": (0.25,)}
NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 30 * 30, 5))

def silent():
    return None

def failing():
    raise ValueError("no such thing")

def a_map():
    return nn.Conv2d(3, 4, 3)

def multi_label():
    return nn.Sequential(*make(), nn.Sigmoid())
"""


@pytest.fixture
def own(tmp_path):
    """A network of the user's own: weights, and the code that makes it."""
    (tmp_path / "net.py").write_text(NET)
    code: dict[str, Any] = {}
    exec(NET, code)
    module = code["make"]()
    torch.save(module.state_dict(), tmp_path / "t.pt")
    return tmp_path / "t.pt", module


def loaded(path, **said):
    return load_teacher(path, TeacherOptions(**said), generator=generator())


def same(teacher, module):
    images = torch.randn(3, *teacher.info.input.shape, generator=generator())
    with torch.no_grad():
        return torch.allclose(teacher.module(images), module.eval()(images), atol=1e-5)


def test_a_network_of_ones_own_comes_from_a_factory_and_that_is_said(own):
    path, module = own
    heard: list[str] = []
    teacher = load_teacher(
        path,
        TeacherOptions(arch=f"{path.parent}/net.py:make", **SMALL),
        generator=generator(),
        say=heard.append,
    )
    assert same(teacher, module)
    assert str(teacher.info.architecture) == "file:net.py:make"
    assert (teacher.info.classes, teacher.info.batch_norm_layers) == (5, 1)
    assert "net.py" in heard[0]


def test_a_factory_may_be_named_in_the_toml_beside_the_weights(own):
    path, module = own
    path.with_suffix(".toml").write_text(
        'arch = "net.py:make"\ninput = [3, 32, 32]\nmean = [0.5]\nstd = [0.25]\n'
    )
    assert same(loaded(path), module)


@pytest.mark.parametrize(
    ("factory", "error", "word"),
    [
        ("silent", UsageError, "not a torch.nn.Module"),
        ("failing", UsageError, "no such thing"),
        ("absent", UsageError, "absent"),
        ("a_map", InputFileError, "does not load"),
        ("multi_label", InputFileError, "multi-label"),
    ],
)
def test_factories_that_make_no_classifier_are_explained(own, factory, error, word):
    path, _ = own
    with pytest.raises(error, match=word):
        loaded(path, arch=f"{path.parent}/net.py:{factory}", **SMALL)


def test_a_factory_without_its_file_is_explained(own):
    with pytest.raises(UsageError, match="no such file"):
        loaded(own[0], arch="nowhere.py:make", **SMALL)


def test_networks_that_answer_with_a_map_are_called_segmentation(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), tmp_path / "t.pt")
    with pytest.raises(InputFileError, match="segmentation"):
        loaded(tmp_path / "t.pt", arch=f"{tmp_path}/net.py:a_map", **SMALL)


def saved_whole(folder):
    module = build(
        Architecture(source="edgekd", name="resnet8-w4", channels=3, classes=4, height=32, width=32)
    )
    module.train()(torch.randn(8, 3, 32, 32))
    torch.save({"epoch": 1, "model": module}, folder / "t.pt")
    return folder / "t.pt", module


def test_a_module_saved_whole_is_left_alone_until_it_is_trusted(tmp_path):
    path, module = saved_whole(tmp_path)
    with pytest.raises(UsageError, match="--trust-pickle"):
        loaded(path, **SMALL)
    teacher = loaded(path, trust_pickle=True, **SMALL)
    assert teacher.info.architecture.source == "pickle"
    assert same(teacher, module)


def test_the_weights_of_a_module_saved_whole_can_be_read_without_its_code(tmp_path, monkeypatch):
    path, module = saved_whole(tmp_path)
    monkeypatch.setattr(torch, "load", None)  # whoever calls it fails
    teacher = loaded(path, arch="resnet8-w4", **SMALL)
    assert same(teacher, module)
    assert "none of its code was run" in " ".join(teacher.info.notes)


def scripted(folder, *, frozen):
    module = build(
        Architecture(source="edgekd", name="resnet8-w4", channels=3, classes=4, height=32, width=32)
    )
    module.train()(torch.randn(8, 3, 32, 32))
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(module, torch.randn(2, 3, 32, 32))
        script = torch.jit.freeze(script) if frozen else script
        script.save(folder / "t.pt")
    return folder / "t.pt", module


@pytest.mark.parametrize("frozen", [False, True])
def test_a_script_is_run_only_when_trusted(tmp_path, frozen):
    path, module = scripted(tmp_path, frozen=frozen)
    with pytest.raises(UsageError, match="--trust-pickle"):
        loaded(path, **SMALL)
    teacher = loaded(path, trust_pickle=True, **SMALL)
    assert same(teacher, module)
    assert teacher.info.parameters > 1000
    assert teacher.info.batch_norm_layers == 0
    assert "batch-norm statistics cannot be watched" in " ".join(teacher.info.notes)


def test_a_script_of_a_known_network_offers_its_batch_norm(tmp_path):
    models = pytest.importorskip("torchvision.models")
    module = models.shufflenet_v2_x0_5(num_classes=6)
    module.train()(torch.randn(4, 3, 64, 64))
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(tmp_path / "t.pt")
    teacher = loaded(
        tmp_path / "t.pt", trust_pickle=True, input=(3, 64, 64), mean=(0.5,), std=(0.25,)
    )
    assert same(teacher, module)
    assert teacher.info.batch_norm_layers == 56
    assert str(teacher.info.architecture) == "torchvision:shufflenet_v2_x0_5"


def test_the_average_of_the_weights_is_taken_when_it_is_asked_for(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    average = {name: tensor * 0.5 for name, tensor in state.items()}
    torch.save({"state_dict": state, "ema": average}, checkpoint)
    plain = load_teacher(checkpoint, TOLD, generator=generator())
    said = TeacherOptions(input=TOLD.input, mean=TOLD.mean, std=TOLD.std, weights="ema")
    taken = load_teacher(checkpoint, said, generator=generator())
    assert (plain.info.weights_key, taken.info.weights_key) == ("state_dict", "ema")
    assert plain.info.state_digest != taken.info.state_digest
    assert "ema" in plain.info.notes[0]


def test_weights_that_are_not_there_are_named_with_those_that_are(checkpoint):
    with pytest.raises(UsageError, match="'swa'"):
        loaded(checkpoint, weights="swa", input=(1, 28, 28), mean=(0.5,), std=(0.5,))


def test_a_network_that_two_libraries_pad_differently_is_asked_about(tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("tf_efficientnet_b0").state_dict(), tmp_path / "t.pt")
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path / "t.pt")
    assert "timm:efficientnet_b0" in str(caught.value)
    assert "timm:tf_efficientnet_b0" in str(caught.value)


def test_a_known_network_brings_its_librarys_input_mean_and_std(tmp_path):
    models = pytest.importorskip("torchvision.models")
    module = models.mobilenet_v3_small()
    torch.save(module.state_dict(), tmp_path / "t.pt")
    info = loaded(tmp_path / "t.pt").info
    assert info.input.shape == (3, 224, 224)
    assert info.input.mean == (0.485, 0.456, 0.406)
    assert info.metadata_from == "torchvision's configuration of mobilenet_v3_small"


def test_versions_that_modules_look_at_are_kept(tmp_path):
    models = pytest.importorskip("torchvision.models")
    torch.save(models.mnasnet0_5(num_classes=7).state_dict(), tmp_path / "t.pt")
    said = {"input": (3, 64, 64), "mean": (0.5,), "std": (0.25,)}
    assert loaded(tmp_path / "t.pt", **said).info.classes == 7


def test_a_body_with_another_head_is_named(tmp_path):
    models = pytest.importorskip("torchvision.models")
    module = models.densenet121()
    module.classifier = nn.Sequential(nn.Linear(1024, 32), nn.ReLU(), nn.Linear(32, 4))
    torch.save(module.state_dict(), tmp_path / "t.pt")
    with pytest.raises(UsageError, match=r"all but the head is .*densenet121"):
        loaded(tmp_path / "t.pt")


def test_a_program_that_edgekd_does_not_read_is_torchs_when_it_is_trusted(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(27, 4)

        def forward(self, images):
            return self.fc(
                torch.linalg.vector_norm(images.unfold(2, 10, 10), dim=-1).flatten(1)[:, :27]
            )

    module = Odd().eval()
    program = torch.export.export(
        module, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, tmp_path / "t.pt2")
    said = {"mean": (0.5,), "std": (0.25,)}
    with pytest.raises(InputFileError, match="--trust-pickle"):
        loaded(tmp_path / "t.pt2", **said)
    teacher = loaded(tmp_path / "t.pt2", trust_pickle=True, **said)
    assert same(teacher, module)
    assert "batch-norm cannot be watched" in " ".join(teacher.info.notes)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_programs_are_teachers_with_their_batch_norm(tmp_path, suffix):
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 30 * 30, 5)
    )
    module.train()(torch.randn(8, 3, 32, 32))
    module.eval()
    batch = {0: torch.export.Dim("batch")}
    example = (torch.randn(2, 3, 32, 32),)
    path = tmp_path / f"t{suffix}"
    if suffix == ".pt2":
        torch.export.save(torch.export.export(module, example, dynamic_shapes=(batch,)), path)
    else:
        pytest.importorskip("onnx2torch")
        torch.onnx.export(module, example, path, dynamic_shapes=(batch,), verbose=False)
    teacher = loaded(path, mean=(0.5,), std=(0.25,))
    assert same(teacher, module)
    assert teacher.info.architecture.source == suffix.removeprefix(".")
    assert (teacher.info.batch_norm_layers, teacher.info.batch_norm_trained) == (1, True)
    with pytest.raises(UsageError, match="the program takes 3x32x32"):
        loaded(path, input=(3, 64, 64), mean=(0.5,), std=(0.25,))
    with pytest.raises(UsageError, match="--arch and --weights"):
        loaded(path, arch="resnet8", mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize("side", [160, 64])
def test_a_transformer_is_built_for_the_size_of_its_images(tmp_path, side):
    import timm

    # The library's own size is 160
    network = timm.create_model("test_vit", num_classes=4, img_size=side)
    torch.save(network.state_dict(), tmp_path / "t.pt")
    told = TeacherOptions(arch="timm:test_vit", input=(3, side, side), mean=(0.5,), std=(0.5,))
    info = load_teacher(tmp_path / "t.pt", told, generator=generator()).info
    assert info.input.shape == (3, side, side)


def test_the_size_that_a_transformer_was_trained_at_is_asked_for(tmp_path):
    import timm

    torch.save(
        timm.create_model("test_vit", num_classes=4, img_size=64).state_dict(), tmp_path / "t.pt"
    )
    told = TeacherOptions(arch="timm:test_vit", mean=(0.5,), std=(0.5,))
    with pytest.raises(InputFileError, match=r"160 x 160 here\): say it with --input"):
        load_teacher(tmp_path / "t.pt", told, generator=generator())
