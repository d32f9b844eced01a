"""Images as people have them: types of pixels, names of files and arrays, what is left out and said."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from edgekd.distill.data.image_files import read_images
from edgekd.distill.data.labelled import load_labelled
from edgekd.errors import InputFileError
from edgekd.records import InputSpec

SIDE = 12
# Dark to bright, so that clipping and scaling both show
GREY = np.linspace(8, 248, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8)
RGB = np.repeat(GREY[..., None], 3, 2)


def spec_of(channels, side=SIDE):
    zero, one = (0.0,) * channels, (1.0,) * channels
    return InputSpec(channels=channels, height=side, width=side, mean=zero, std=one)


def transparent_palette():
    image = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE)
    image.info["transparency"] = bytes(range(256))
    return image


PICTURES = {
    "grey.png": Image.fromarray(GREY),
    "rgb.tif": Image.fromarray(RGB),
    "sixteen.png": Image.fromarray(GREY.astype(np.uint16) * 257),
    "sixteen.tif": Image.fromarray(GREY.astype(np.uint16) * 257),
    "integers.tif": Image.fromarray(GREY.astype(np.int32) * 257),
    "unit.tiff": Image.fromarray((GREY / 255).astype(np.float32)),
    "bytes.tiff": Image.fromarray(GREY.astype(np.float32)),
    "alpha.png": Image.fromarray(RGB).convert("RGBA"),
    "grey-alpha.png": Image.fromarray(GREY).convert("LA"),
    "palette.png": Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE),
    "transparent.png": transparent_palette(),
    "cmyk.tif": Image.fromarray(RGB).convert("CMYK"),
    "picture.gif": Image.fromarray(GREY),
    "picture.pgm": Image.fromarray(GREY),
}


@pytest.mark.parametrize("channels", [1, 3], ids=["as-grey", "as-rgb"])
@pytest.mark.parametrize("name", PICTURES)
def test_every_type_of_pixels_is_as_bright_as_it_was(tmp_path, name, channels):
    PICTURES[name].save(tmp_path / name)
    found = read_images(tmp_path, shape=(channels, SIDE, SIDE)).images[0].astype(int)
    assert found.shape == (SIDE, SIDE, channels)
    assert abs(found - GREY[..., None]).max() <= 2


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(GREY > 128).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_images(tmp_path).images[0, ..., 0], (GREY > 128) * 255)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_pictures_are_turned_as_their_orientation_says(tmp_path, suffix):
    exif = Image.Exif()
    # Shown after a quarter turn clockwise
    exif[0x0112] = 6
    tall = np.zeros((16, 8), np.uint8)
    tall[:8] = 255
    Image.fromarray(tall).save(tmp_path / f"a.{suffix}", exif=exif)
    found = read_images(tmp_path).images[0, ..., 0]
    assert found.shape == (8, 16)
    assert found[:, 10:].mean() > 250
    assert found[:, :6].mean() < 5


def test_a_set_has_one_scale(tmp_path):
    for name, values in (("dark", np.full_like(GREY, 1)), ("bright", GREY)):
        Image.fromarray(values.astype(np.float32)).save(tmp_path / f"{name}.tif")
    bright, dark = read_images(tmp_path).images
    np.testing.assert_array_equal(bright[..., 0], GREY)
    assert (dark == 1).all()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param((GREY / 40 - 3).astype(np.float32), "no pixels", id="normalised"),
        pytest.param(GREY.astype(np.float32) * 100, "which is white", id="float-counts"),
        pytest.param(GREY.astype(np.int32) * 10**6, "which is white", id="large-integers"),
        pytest.param(GREY.astype(np.uint16), "all would be black", id="bytes-in-16-bits"),
    ],
)
def test_values_without_a_scale_are_refused(tmp_path, values, said):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(InputFileError, match=said):
        read_images(tmp_path)


def test_twelve_bits_are_doubted_and_transparency_is_said(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 16).save(tmp_path / "a.png")
    half = Image.fromarray(RGB).convert("RGBA")
    half.putalpha(128)
    half.save(tmp_path / "b.png")
    notes = " ".join(read_images(tmp_path, shape=(3, SIDE, SIDE)).notes)
    assert "12 bits" in notes
    assert "transparent in parts" in notes


# --- folders --------------------------------------------------------------------------------------


def folders(root, names, suffix="png"):
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.fromarray(np.full_like(GREY, 10 * place)).save(root / name / f"0.{suffix}")
    return root


def test_numbers_names_and_junk_of_a_folder_become_labels(tmp_path):
    root = folders(tmp_path / "set", [".hidden", "0", "1", "10", "2", "__MACOSX"])
    (root / "0" / "Thumbs.db").write_bytes(b"x")
    (root / "0" / "deeper").mkdir()
    Image.fromarray(GREY).save(root / "0" / "deeper" / "1.png")
    found = load_labelled(root, spec=spec_of(1), classes=12)
    assert found.labels.tolist() == [0, 0, 1, 10, 2]
    notes = " ".join(found.notes)
    assert "left out, no classes: .hidden, __MACOSX" in notes
    assert ".db (1)" in notes
    assert "4 of 12 classes" in notes
    names = tuple(f"{place}" for place in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9))
    by_name = load_labelled(root, spec=spec_of(1), classes=12, class_names=names)
    assert by_name.labels.tolist() == [0, 0, 1, 2, 4]


def test_a_class_without_a_readable_file_is_not_dropped(tmp_path):
    root = folders(tmp_path / "set", ["a", "b"])
    (root / "b" / "0.png").rename(root / "b" / "0.heic")
    with pytest.raises(InputFileError, match="none is an image that edgekd reads"):
        load_labelled(root, spec=spec_of(1), classes=2)


@pytest.mark.parametrize("kind", ["flat", "beside"])
def test_images_without_classes_are_no_evaluation_set(tmp_path, kind):
    root = folders(tmp_path / "set", ["a", "b"] if kind == "beside" else [])
    root.mkdir(exist_ok=True)
    Image.fromarray(GREY).save(root / "0.png")
    with pytest.raises(InputFileError, match="without labels" if kind == "flat" else "beside"):
        load_labelled(root, spec=spec_of(1), classes=2)


# --- arrays ---------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(2, 256, (6, SIDE, SIDE), np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2], np.uint8)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        pytest.param({"images": IMAGES, "labels": LABELS}, "", id="ours"),
        pytest.param({"x_test": IMAGES, "y_test": LABELS[:, None]}, "", id="keras"),
        pytest.param({"test_images": IMAGES, "test_labels": LABELS[:, None]}, "", id="medmnist"),
        pytest.param(
            {"x_train": IMAGES[:2], "y_train": LABELS[:2], "x_test": IMAGES, "y_test": LABELS},
            *("x_test of it are taken",),
            id="both-parts",
        ),
        pytest.param({"images": IMAGES, "labels": np.eye(3)[LABELS]}, "one-hot", id="one-hot"),
        pytest.param({"images": IMAGES, "labels": LABELS.astype(float)}, "", id="float-labels"),
        pytest.param(
            {"images": (IMAGES / 255).astype(np.float32), "labels": LABELS}, "1 is white", id="unit"
        ),
        pytest.param(
            {"images": IMAGES.astype(np.uint16) * 257, "labels": LABELS}, "65535", id="sixteen"
        ),
        pytest.param({"images": IMAGES.astype(np.int64), "labels": LABELS}, "255", id="integers"),
        pytest.param({"images": IMAGES[:, None], "labels": LABELS}, "turned", id="channels-first"),
    ],
)
def test_arrays_are_read_under_the_names_and_types_they_have(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    found = load_labelled(tmp_path / "a.npz", spec=spec_of(1), classes=3)
    np.testing.assert_array_equal(found.images[..., 0], IMAGES)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert said in " ".join(found.notes)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        pytest.param({"images": IMAGES / 100 - 1, "labels": LABELS}, "floats of 0..1", id="normal"),
        pytest.param({"images": IMAGES, "labels": np.eye(3)[LABELS] / 2}, "Soft", id="soft"),
        pytest.param({"images": IMAGES, "labels": np.ones((6, 3))}, "several", id="several"),
        pytest.param({"images": IMAGES, "labels": LABELS + 1}, "counted from 1", id="from-one"),
        pytest.param({"images": IMAGES, "labels": LABELS + 0.5}, "whole-number", id="halves"),
        pytest.param({"pictures": IMAGES}, "it has pictures", id="other-names"),
        pytest.param({"images": IMAGES}, "without labels", id="no-labels"),
    ],
)
def test_arrays_that_are_something_else_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputFileError, match=said):
        load_labelled(tmp_path / "a.npz", spec=spec_of(1), classes=3)


def idx(path, array, kind=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    data = head + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


NAMES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DOTS = ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte")


@pytest.mark.parametrize(
    ("files", "asked"),
    [
        pytest.param(NAMES, "", id="folder"),
        pytest.param(DOTS, "", id="dots"),
        pytest.param(DOTS, DOTS[0], id="file-with-a-dot"),
        pytest.param([f"{name}.gz" for name in NAMES], "", id="packed"),
        pytest.param([f"{name}.gz" for name in DOTS], f"{DOTS[0]}.gz", id="packed-dots"),
        pytest.param((NAMES[0], f"{NAMES[1]}.gz"), "", id="labels-packed"),
        pytest.param([f"{name}/{name}" for name in NAMES], "", id="kaggle"),
        pytest.param([f"{name}/{name}" for name in NAMES], NAMES[0], id="kaggle-images"),
        pytest.param((*NAMES, *(f"{name}.gz" for name in NAMES)), "", id="both"),
    ],
)
def test_idx_files_are_found_as_they_are_called_and_packed(tmp_path, files, asked):
    for name in files:
        idx(tmp_path / "set" / name, IMAGES if "images" in name else LABELS)
    found = load_labelled(tmp_path / "set" / asked, spec=spec_of(1), classes=3)
    np.testing.assert_array_equal(found.images[..., 0], IMAGES)
    np.testing.assert_array_equal(found.labels, LABELS)


def test_idx_files_of_several_sets_or_cut_short_are_refused(tmp_path):
    idx(tmp_path / NAMES[0], IMAGES)
    with pytest.raises(InputFileError, match="its labels, t10k-labels-idx1-ubyte"):
        read_images(tmp_path)
    idx(tmp_path / NAMES[1], LABELS.astype(">i4"), kind=12)
    assert read_images(tmp_path).labels is not None
    (tmp_path / NAMES[1]).write_bytes((tmp_path / NAMES[1]).read_bytes()[:-1])
    with pytest.raises(InputFileError, match="24 bytes of values are claimed, 23 are there"):
        read_images(tmp_path)
    idx(tmp_path / "train-images-idx3-ubyte", IMAGES)
    with pytest.raises(InputFileError, match="several sets"):
        read_images(tmp_path)
