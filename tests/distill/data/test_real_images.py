"""Condensed sets of ours and of others, and a few samples: what is read, and what is refused."""

import json
import math
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from edgekd.distill.data.condensed_files import STATISTICS
from edgekd.distill.data.real_images import correlation, read_condensed, read_samples
from edgekd.errors import InputFileError, UsageError
from edgekd.options import CondenseOptions, RunOptions
from edgekd.progress import PlainDisplay
from edgekd.records import InputSpec
from edgekd.workflows.condense import CondenseJob, condense
from tests.distill.teachers.checkpoints.untrusted import Call

CLASSES = 3
SIDE = 16
MEAN, STD = STATISTICS["cifar10"]
SPEC = InputSpec(channels=3, height=SIDE, width=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
CIFAR = replace(SPEC, mean=MEAN, std=STD)


def smooth(count=12, channels=3, seed=0):
    """Images with blotches, as natural ones have: 0..1, (N, C, H, W)."""
    coarse = torch.rand(count, channels, 3, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)


def labels_of(count=12):
    return torch.arange(CLASSES).repeat_interleave(count // CLASSES)


def by(statistics, images):
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
    return (images - mean) / std


def vico(path, images, labels, *, sets=1):
    """As DatasetCondensation saves it, accuracies as scalars of numpy included."""
    pairs = [[images + place / 1000 if place else images, labels] for place in range(sets)]
    torch.save({"data": pairs, "accs_all_exps": {"ConvNet": [np.float64(0.45)]}}, path)
    return path


def mtt(folder, images, labels):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(images, folder / "images_best.pt")
    torch.save(labels, folder / "labels_best.pt")
    return folder / "images_best.pt"


def read(path, spec=SPEC, classes=CLASSES, **options):
    return read_condensed(path, spec=spec, classes=classes, **options)


def refused(match, path, kind=InputFileError, **options):
    with pytest.raises(kind, match=match) as caught:
        read(path, **options)
    assert caught.value.exit_code == 2
    assert path.name in str(caught.value)


# --- ours -----------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """A set that the command made, of three classes."""
    images = (smooth(18) * 255).byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "data.npz", images=images, labels=labels_of(18).numpy())
    options = CondenseJob(
        data=tmp_path / "data.npz",
        per_class=2,
        settings=CondenseOptions(method="random", steps=None),
        run=RunOptions(device="cpu", threads=1),
        out=tmp_path / "c.npz",
    )
    condense(options, PlainDisplay())
    return tmp_path / "c.npz"


def changed(path, **arrays):
    with np.load(path) as content:
        kept = {**content, **arrays}
    np.savez(path, **{name: value for name, value in kept.items() if value is not None})
    return path


def test_a_set_of_ours_comes_as_the_teacher_takes_it(own):
    found = read(own)
    with np.load(own) as content:
        pixels = torch.from_numpy(content["images"]).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.images, by((SPEC.mean, SPEC.std), pixels))
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (found.kind, found.name, len(found.digest)) == ("condensed", "c.npz", 64)
    assert "random, 2 a class, from 18 images of data.npz" in found.notes[0]


def test_sets_of_ours_that_do_not_fit_are_refused(own):
    refused("made of 3 classes, the teacher knows 4", own, classes=4)
    refused("the teacher takes 3x32x32", own, spec=replace(SPEC, height=32, width=32))
    refused("no number 1", own, kind=UsageError, number=1)
    images, labels = np.load(own)["images"], np.load(own)["labels"]
    refused("labels run from 0 to 3", changed(own, labels=labels + (labels == 2)))
    refused("images of 2 classes", changed(own, labels=labels.clip(0, 1)))
    refused("labels are int32", changed(own, labels=labels.astype(np.int32)))
    changed(own, labels=labels)
    bad = images.copy()
    bad[0, 0, 0, 0] = math.nan
    refused("NaN", changed(own, images=bad))
    refused("float64", changed(own, images=images.astype(np.float64)))
    refused("of shape", changed(own, images=images[:1]))
    changed(own, images=images)
    refused("not an edgekd condensed-set", changed(own, about=np.asarray(json.dumps({"a": 1}))))
    refused("not JSON", changed(own, about=np.asarray("{")))
    refused("lacks about", changed(own, about=None))
    own.write_bytes(own.read_bytes()[:300])
    refused("cannot be read", own)
    refused("no such file", own.with_name("none.npz"))


# --- DatasetCondensation --------------------------------------------------------------------------


def test_the_statistics_are_found_by_name_and_images_converted(tmp_path):
    pixels = smooth()
    path = vico(tmp_path / "res_DM_CIFAR10_ConvNet_4ipc.pt", by((MEAN, STD), pixels), labels_of())
    found = read(path)
    torch.testing.assert_close(found.images, by((SPEC.mean, SPEC.std), pixels))
    assert any("cifar10" in note for note in found.notes)
    assert any("converted" in note for note in found.notes)


def test_nothing_changes_where_the_teacher_takes_the_same(tmp_path):
    images = by((MEAN, STD), smooth())
    found = read(vico(tmp_path / "res_DC_CIFAR10_ConvNet_4ipc.pt", images, labels_of()), CIFAR)
    assert torch.equal(found.images, images)
    assert any("left as it is" in note for note in found.notes)


def test_of_several_sets_one_is_taken_and_said(tmp_path):
    images = by((MEAN, STD), smooth())
    path = vico(tmp_path / "res_DC_CIFAR10_ConvNet_4ipc.pt", images, labels_of(), sets=5)
    for number in (0, 3):
        found = read(path, CIFAR, number=number)
        assert torch.equal(found.images, images + number / 1000)
        assert any(
            f"holds 5 sets of as many experiments; number {number}" in n for n in found.notes
        )
    refused("holds 5 sets, 0 to 4", path, kind=UsageError, number=5)
    refused("holds 5 sets", path, kind=UsageError, number=-1)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("res_DC_CIFAR100_ConvNet_1ipc.pt", STATISTICS["cifar100"]),
        ("res_CIFAR100_ConvNet_1ipc.pt", STATISTICS["cifar10"]),
        ("res_DSA_SVHN_ConvNet_1ipc.pt", STATISTICS["svhn"]),
    ],
)
def test_each_data_set_has_its_numbers(tmp_path, name, numbers):
    pixels = smooth()
    found = read(vico(tmp_path / name, by(numbers, pixels), labels_of()))
    torch.testing.assert_close(found.images, by((SPEC.mean, SPEC.std), pixels))


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_grey_sets_are_told_apart(tmp_path, name):
    pixels, numbers = smooth(channels=1), STATISTICS[name.lower()]
    spec = InputSpec(channels=1, height=SIDE, width=SIDE, mean=(0.0,), std=(1.0,))
    path = vico(tmp_path / f"res_DSA_{name}_ConvNet_4ipc.pt", by(numbers, pixels), labels_of())
    torch.testing.assert_close(read(path, spec).images, pixels)


def test_statistics_that_nobody_says_are_asked_for(tmp_path):
    images = by((SPEC.mean, SPEC.std), smooth())
    path = vico(tmp_path / "mine.pt", images, labels_of())
    refused("neither its name nor its folder", path)
    # The name of a grey data set says nothing of colour images.
    refused("neither its name", vico(tmp_path / "res_DC_MNIST_x.pt", images, labels_of()))
    found = read(path, statistics=(SPEC.mean, SPEC.std))
    assert torch.equal(found.images, images)
    refused("each of 3 channels", path, statistics=((0.5,), (0.5,)))


@pytest.mark.parametrize("scale", [1, 255])
def test_pixels_that_were_saved_without_normalising_are_noticed(tmp_path, scale):
    pixels = smooth() if scale == 1 else (smooth() * 255).byte()
    found = read(vico(tmp_path / "mine.pt", pixels, labels_of()))
    torch.testing.assert_close(found.images, by((SPEC.mean, SPEC.std), pixels.float() / scale))
    assert any("without normalising" in note for note in found.notes)


# --- mtt-distillation -----------------------------------------------------------------------------


def test_a_set_of_mtt_is_two_files_named_after_its_folder(tmp_path):
    pixels = smooth()
    path = mtt(tmp_path / "CIFAR100" / "run-1", by(STATISTICS["cifar10"], pixels), labels_of())
    found = read(path)
    torch.testing.assert_close(found.images, by((SPEC.mean, SPEC.std), pixels))
    before = found.digest
    torch.save(labels_of().flip(0), path.with_name("labels_best.pt"))
    assert read(path).digest != before
    path.with_name("labels_best.pt").unlink()
    refused("labels_NAME.pt beside it", path)


def whitened(images, epsilon):
    """ZCA with the covariance of these images (N, C, H, W)."""
    flat = images.flatten(1).double()
    flat = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(flat.T @ flat / (len(flat) - 1))
    return ((flat @ (vectors / (values.clamp(0) + epsilon).sqrt())) @ vectors.T).view_as(images)


def natural(count):
    """Parts of images whose spectrum falls as that of photographs does: (N, 3, H, W), 0..1 about."""
    generator = torch.Generator().manual_seed(3)
    whole = 4 * SIDE  # what is cut out of them is not periodic
    rows, columns = (torch.fft.fftfreq(whole).view(shape) for shape in ((-1, 1), (1, -1)))
    fall = (rows.square() + columns.square()).sqrt().clamp_min(1 / whole) ** -1.5

    def drawn(channels):
        noise = torch.randn(count, channels, whole, whole, generator=generator)
        images = torch.fft.ifft2(torch.fft.fft2(noise) * fall).real
        return (images / images.std())[..., :SIDE, :SIDE]

    return 0.5 + 0.25 * drawn(1) + 0.05 * drawn(3)


@pytest.mark.parametrize("epsilon", [0.1, 1e-3])
def test_whitened_sets_are_refused_and_the_same_ones_unwhitened_taken(tmp_path, epsilon):
    images = natural(1000)
    plain, white = images[:12].float(), whitened(images, epsilon)[:12].float()
    assert correlation(plain, 4) > 0.5 * correlation(plain, 1)
    path = mtt(tmp_path / "CIFAR10", by((MEAN, STD), plain), labels_of())
    assert len(read(path).images) == 12
    refused("without --zca", mtt(tmp_path / "CIFAR10", white, labels_of()))


def test_noise_is_refused(tmp_path):
    images = torch.randn(12, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    refused("are noise, or", vico(tmp_path / "res_DC_CIFAR10_x.pt", images, labels_of()))


# --- files that cannot be used --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"data": []}, "no condensed set"),
        ({"data": [[torch.zeros(2)]]}, "no condensed set"),
        ({"state_dict": {"w": torch.zeros(2, 2)}}, "no condensed set"),
        ([1, 2], "no condensed set"),
        (OrderedDict(a=torch.zeros(2)), "no condensed set"),
        ({"data": [[smooth(), labels_of().float()]]}, "Soft labels"),
        ({"data": [[smooth(), torch.zeros(12, 3)]]}, "Soft labels"),
        ({"data": [[smooth(), labels_of()[:5]]]}, "with 5 labels"),
        ({"data": [[smooth().flatten(1), labels_of()]]}, r"expected \(N, C, H, W\)"),
        ({"data": [[smooth() * 255, labels_of()]]}, "neither normalised nor"),
        ({"data": [[smooth() / 0, labels_of()]]}, "NaN or infinite"),
        ({"data": [[smooth(), labels_of() + 1]]}, "labels run from 1 to 3"),
        ({"data": [[smooth(), labels_of() - 1]]}, "labels run from -1 to 1"),
        ({"data": [[smooth(), labels_of() * 0]]}, "images of 1 classes"),
        ({"data": [[smooth(1), labels_of(3)[:1]]]}, "1 images in all"),
        ({"data": [[smooth()[..., :8], labels_of()]]}, "the teacher takes 3x16x16"),
        ({"data": [[smooth(channels=1), labels_of()]]}, "the teacher takes 3x16x16"),
    ],
)
def test_files_that_are_no_set_for_this_teacher(tmp_path, content, match):
    torch.save(content, tmp_path / "set.pt")
    refused(match, tmp_path / "set.pt")


def test_untrusted_and_damaged_files_are_refused_unrun(tmp_path):
    created = tmp_path / "created"
    torch.save({"data": [[smooth(), labels_of()]], "x": Call(created)}, tmp_path / "planted.pt")
    refused("refused", tmp_path / "planted.pt")
    assert not created.exists()
    whole = vico(tmp_path / "whole.pt", smooth(), labels_of()).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    refused("cannot be read", tmp_path / "cut.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    refused("empty", tmp_path / "empty.pt")
    refused("a folder", tmp_path)


# --- samples --------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    for number, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for place, image in enumerate((smooth(2, seed=number) * 255).byte()):
            file = tmp_path / "photos" / name / f"{place}.png"
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return tmp_path / "photos"


def samples(path, **options):
    return read_samples(path, spec=SPEC, **{"classes": CLASSES, **options})


def no_samples(match, path, **options):
    with pytest.raises(InputFileError, match=match) as caught:
        samples(path, **options)
    assert caught.value.exit_code == 2


def test_folders_by_class_are_samples_with_labels(photos):
    found = samples(photos)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.kind == "samples"
    pixels = (smooth(2, seed=1) * 255).byte().float() / 255
    torch.testing.assert_close(found.images[2:4], by((SPEC.mean, SPEC.std), pixels))
    assert found.notes == (
        "6 images of 3 of 3 classes",
        "classes are the folders in the order of their names: ant is 0, bee is 1, cat is 2",
    )


def test_names_of_the_teacher_place_folders_that_are_fewer(photos):
    found = samples(photos, classes=5, class_names=("zoo", "cat", "dog", "bee", "ant"))
    assert found.labels is not None
    assert found.labels.tolist() == [4, 4, 3, 3, 1, 1]
    no_samples("3 folders, the teacher knows 5", photos, classes=5)


def test_a_flat_folder_has_no_labels(photos):
    found = samples(photos / "ant")
    assert found.labels is None
    assert "without labels" in found.notes[0]


def test_archives_have_labels_or_not(tmp_path):
    images = (smooth() * 255).byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "bare.npz", images=images)
    assert samples(tmp_path / "bare.npz").labels is None
    np.savez(tmp_path / "labelled.npz", images=images, labels=labels_of().numpy())
    found = samples(tmp_path / "labelled.npz")
    assert found.labels is not None
    assert found.labels.tolist() == labels_of().tolist()
    assert found.digest != samples(tmp_path / "bare.npz").digest
    no_samples("labels run from 0 to 2", tmp_path / "labelled.npz", classes=2)


def test_samples_that_cannot_be_read_are_counted_or_refused(photos):
    (photos / "ant" / "0.png").write_bytes(b"nothing")
    found = samples(photos)
    assert len(found.images) == 5
    assert any("1 of 6 files" in note and "ant/0.png" in note for note in found.notes)
    no_samples("not an image that can be read", photos, strict=True)


def test_samples_that_cannot_be_used(photos, tmp_path, own):
    (tmp_path / "empty").mkdir()
    no_samples("no images in it", tmp_path / "empty")
    no_samples("no such file", tmp_path / "none")
    no_samples("a condensed set", own)
    (photos / "ant" / "1.png").unlink()
    no_samples("one image in all", photos / "ant")
    Image.new("RGB", (SIDE, 9)).save(photos / "ant" / "9.png")
    no_samples("resize the set first", photos)
    only = tmp_path / "only"
    only.mkdir()
    (photos / "bee").rename(only / "bee")
    no_samples("1 folders, the teacher knows 3", only)
    no_samples("of one class", only, class_names=("bee", "ant", "cat"))


def test_numbers_as_folders_are_classes_in_the_order_of_numbers(photos, tmp_path):
    numbered = tmp_path / "numbered"
    numbered.mkdir()
    for old, new in zip(("ant", "bee", "cat"), ("2", "10", "9"), strict=True):
        (photos / old).rename(numbered / new)
    found = samples(numbered, classes=11)
    assert found.labels is not None
    # Read in the order of text: 10, 2, 9
    assert found.labels.tolist() == [10, 10, 2, 2, 9, 9]
    assert any("class numbers" in note and "2, 9, 10" in note for note in found.notes)
    no_samples("numbered to 10", numbered)


# --- pixels or normalised -------------------------------------------------------------------------


def stored(folder, images, name="images_zca_5000.pt"):
    """As mtt-distillation leaves a run with --zca: the labels are called after the whitened images."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(images, folder / name)
    torch.save(labels_of(len(images)), folder / "labels_5000.pt")
    return folder / name


def noisy(images, strength, seed=4):
    draw = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return images + strength * draw


@pytest.mark.parametrize("folder", ["CIFAR10", "unknown"])
@pytest.mark.parametrize("strength", [0.05, 0.12], ids=["a-little", "far"])
def test_learned_pixels_a_little_beyond_0_to_1_stay_pixels(tmp_path, folder, strength):
    pixels = noisy(smooth(), strength)
    assert float(pixels.min()) < 0
    found = read(stored(tmp_path / folder, pixels))
    torch.testing.assert_close(found.images, by((SPEC.mean, SPEC.std), pixels))
    assert "0 to 1 but for" in " ".join(found.notes)


@pytest.mark.parametrize("contrast", [1.0, 0.6], ids=["full", "little"])
@pytest.mark.parametrize("statistics", [(MEAN, STD), ((0.5,) * 3, (0.5,) * 3)], ids=["own", "half"])
def test_normalised_images_stay_normalised(tmp_path, statistics, contrast):
    pixels = 0.47 + contrast * (smooth() - smooth().mean())
    given = by(statistics, pixels)
    path = stored(tmp_path / "CIFAR10", given)
    found = read(path, statistics=None if statistics == (MEAN, STD) else statistics)
    torch.testing.assert_close(found.images, by((SPEC.mean, SPEC.std), pixels), rtol=0, atol=1e-5)


def test_what_fits_both_is_asked_about_and_can_be_said(tmp_path):
    given = 0.33 * (smooth() - smooth().mean()) / smooth().std() + 0.35
    path = stored(tmp_path / "CIFAR10", given)
    refused("--condensed-mean 0 --condensed-std 1", path)
    pixels = read(path, statistics=((0.0,) * 3, (1.0,) * 3)).images
    torch.testing.assert_close(pixels, by((SPEC.mean, SPEC.std), given))
    refused("for each of 3 channels", path, statistics=((0.0,), (1.0,)))


def test_a_set_with_names_has_the_labels_of_the_teacher(tmp_path, photos):
    options = CondenseJob(
        data=photos,
        per_class=2,
        settings=CondenseOptions(method="random", steps=None),
        run=RunOptions(device="cpu", threads=1),
        out=tmp_path / "named.npz",
    )
    condense(options, PlainDisplay())
    found = read(tmp_path / "named.npz", class_names=("cat", "ant", "bee"))
    assert found.labels is not None
    assert found.labels.tolist() == [1, 1, 2, 2, 0, 0]
    other = read(tmp_path / "named.npz", class_names=("x", "y", "z"))
    assert other.labels is not None
    assert other.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert any("called otherwise" in note for note in other.notes)
