import importlib.util

import pytest
import torch

from edgekd.distill.architectures import build
from edgekd.distill.said import TeacherOptions
from edgekd.distill.teacher import load_teacher
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
    teacher.unchanged()
    teacher.module.train()(torch.randn(4, 1, 28, 28))
    with pytest.raises(IntegrityError):
        teacher.unchanged()


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
    from edgekd.distill.data import normalised

    with torch.no_grad():
        logits = teacher.module(torch.from_numpy(normalised(images, teacher.info.input)))
    assert (logits.argmax(1).numpy() == labels).mean() > 0.905
