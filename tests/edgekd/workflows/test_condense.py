"""`edgekd condense`: data in, one file out; each bad input with its message and code."""

import contextlib
import json
import signal

import numpy as np
import pytest
from jsonschema import validate
from PIL import Image

from edgekd.cli.framework import completion
from edgekd.distill.data import condensation
from edgekd.distill.data.image_files import read_images
from edgekd.errors import InputFileError, InterruptedRunError
from edgekd.options import CondenseOptions, RunOptions
from edgekd.progress import PlainDisplay
from edgekd.schemas import schema_text
from edgekd.workflows.condense import CondenseJob, condense

SIDE = 12
QUICK = ("--device", "cpu", "--threads", 1)


def pixels(classes=3, each=6, channels=3):
    random = np.random.default_rng(1)
    labels = np.arange(classes).repeat(each)
    images = random.integers(0, 100, (len(labels), SIDE, SIDE, channels))
    images += 50 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


@pytest.fixture
def archive(tmp_path):
    images, labels = pixels()
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    return tmp_path / "data.npz"


@pytest.fixture
def folder(tmp_path):
    images, labels = pixels()
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        below = tmp_path / "photos" / "abc"[label]
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(below / f"{place:02}.png")
    return tmp_path / "photos"


def refused(edgekd, tmp_path, *arguments):
    found, out, err = edgekd("condense", *arguments, *QUICK, "--out", tmp_path / "c.npz")
    assert found == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "c.npz").exists()
    return err


@pytest.mark.parametrize("method", condensation.METHODS)
def test_a_set_is_one_file_that_says_what_it_is(edgekd, tmp_path, archive, method):
    out = tmp_path / "c.npz"
    code, printed, err = edgekd(
        *("condense", archive, "--per-class", 2, "--method", method, "--steps", 2, *QUICK),
        *("--out", out, "--json"),
    )
    assert code == 0, err
    record = json.loads(printed)
    validate(record, json.loads(schema_text("condensed-set")))
    with np.load(out, allow_pickle=False) as content:
        assert set(content.files) == {"images", "labels", "mean", "std", "about"}
        assert json.loads(str(content["about"])) == record
        assert content["images"].shape == (6, SIDE, SIDE, 3)
        assert content["images"].dtype == np.float32
        assert content["labels"].tolist() == [0, 0, 1, 1, 2, 2]
        assert content["labels"].dtype == np.int64
        images, _ = pixels()
        np.testing.assert_allclose(content["mean"], (images / 255).mean((0, 1, 2)))
        np.testing.assert_allclose(content["std"], (images / 255).std((0, 1, 2)))
        assert content["mean"].tolist() == record["input"]["mean"]
    assert "keep it as you keep the data" in err
    assert f"next     edgekd distill TEACHER --condensed {out}" in err
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["c.npz", "data.npz"]


def test_the_same_command_gives_the_same_bytes(edgekd, tmp_path, archive):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        command = ("condense", archive, "--per-class", 1, "--steps", 2, *QUICK)
        code, _, err = edgekd(*command, "--out", tmp_path / name / "c.npz")
        assert code == 0, err
    assert (tmp_path / "one/c.npz").read_bytes() == (tmp_path / "two/c.npz").read_bytes()


def test_a_folder_of_images_by_class_is_read_in_the_order_of_the_names(edgekd, tmp_path, folder):
    code, out, err = edgekd(
        *("condense", folder, "--per-class", 3, "--method", "random", *QUICK),
        *("--out", tmp_path / "c.npz", "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["class_names"] == ["a", "b", "c"]
    images, labels = pixels()
    with np.load(tmp_path / "c.npz") as content:
        for image, label in zip(content["images"], content["labels"], strict=True):
            apart = np.abs(images[labels == label] / 255 - image).max((1, 2, 3))
            assert apart.min() < 1e-6


def test_the_input_says_how_image_files_are_read(edgekd, tmp_path, folder):
    code, out, err = edgekd(
        *("condense", folder, "--per-class", 1, "--method", "random", *QUICK),
        *("--input", f"1x{SIDE}x{SIDE}", "--out", tmp_path / "c.npz", "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["input"]["channels"] == 1


def test_idx_files_are_read(edgekd, tmp_path):
    images, labels = pixels(channels=1)
    head = np.array(images.shape[:3], ">u4").tobytes()
    (tmp_path / "x-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + head + images.tobytes())
    head = np.array(len(labels), ">u4").tobytes()
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(
        bytes([0, 0, 8, 1]) + head + labels.astype(np.uint8).tobytes()
    )
    found = read_images(tmp_path)
    np.testing.assert_array_equal(found.images, images)
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels, labels)
    command = ("condense", tmp_path, "--per-class", 2, "--method", "random", *QUICK)
    code, _, err = edgekd(*command, "--out", tmp_path / "c.npz")
    assert (code, "1x12x12" in err) == (0, True)


def test_images_that_cannot_be_read_are_named_counted_and_left_out(edgekd, tmp_path, folder):
    whole = (folder / "a" / "00.png").read_bytes()
    (folder / "a" / "00.png").write_bytes(whole[:60])
    (folder / "b" / "99.jpg").write_bytes(b"not an image")
    (folder / "b" / "98.png").write_bytes(b"")
    (folder / "b" / "notes.txt").write_text("is no image and says so")
    command = ("condense", folder, "--per-class", 2, "--method", "random", *QUICK)
    code, out, err = edgekd(*command, "--out", tmp_path / "c.npz", "--json")
    assert code == 0, err
    assert json.loads(out)["source_skipped"] == 3
    assert json.loads(out)["source_images"] == 17
    assert "3 of 20 files" in err
    assert "a/00.png, b/98.png, b/99.jpg" in err
    again = refused(edgekd, tmp_path / "a", folder, "--per-class", 2, "--strict")
    assert "00.png: not an image" in again


def test_an_output_that_exists_is_replaced_only_when_told(edgekd, tmp_path, archive):
    out = tmp_path / "c.npz"
    out.write_bytes(b"mine")
    command = ("condense", archive, "--per-class", 1, "--method", "random", *QUICK, "--out", out)
    code, _, err = edgekd(*command)
    assert code == 2
    assert "--force" in err
    assert out.read_bytes() == b"mine"
    assert edgekd(*command, "--force")[0] == 0
    assert out.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": None}, "images without classes"),
        ({"images": None}, "lacks images"),
        ({"labels": np.zeros(18, np.int64)}, "all images are of one class"),
        ({"labels": np.zeros(5, np.int64)}, "as many whole-number labels"),
        ({"labels": np.full(18, -1)}, "counted from 0"),
        ({"labels": np.full(18, 1)}, "classes have fewer images"),
        ({"images": pixels()[0].astype(np.float32)}, "expected uint8"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, "no images"),
        ({"images": np.zeros((18, 8, 8, 3), np.uint8)}, "same value everywhere"),
        ({"images": pixels()[0][:, :4, :4]}, "8 to 4096 pixels"),
        ({"about": np.asarray("{}")}, "a condensed set"),
    ],
)
def test_archives_that_cannot_be_condensed(edgekd, tmp_path, change, said):
    images, labels = pixels()
    content = {"images": images, "labels": labels, **change}
    kept = {name: value for name, value in content.items() if value is not None}
    np.savez(tmp_path / "data.npz", **kept)
    err = refused(edgekd, tmp_path, tmp_path / "data.npz", "--per-class", 2, "--method", "random")
    assert said in err


def test_damaged_and_missing_data_is_named(edgekd, tmp_path, archive):
    archive.write_bytes(archive.read_bytes()[:200])
    for path in (archive, tmp_path / "none", tmp_path / "data.csv"):
        (tmp_path / "data.csv").write_text("1,2")
        assert str(path) in refused(edgekd, tmp_path, path, "--per-class", 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--per-class", 7), "fewer images"),
        (("--per-class", 1, "--method", "magic"), "choose from dm, dsa"),
        (("--per-class", 1, "--input", "3x12"), "channels x height x width"),
        (("--per-class", 1, "--input", "3x10x10"), "resize the set first"),
        (("--per-class", 0), "per-class"),
        (("--per-class", 1, "--steps", "-1"), "steps"),
        ((), "per-class"),
    ],
)
def test_options_that_cannot_be(edgekd, tmp_path, archive, options, said):
    assert said in refused(edgekd, tmp_path, archive, *options)


def test_outputs_that_cannot_be(edgekd, tmp_path, archive):
    for out, said in ((tmp_path, "end in .npz"), (tmp_path / "c.pt", "end in .npz")):
        code, _, err = edgekd("condense", archive, "--per-class", 1, *QUICK, "--out", out)
        assert (code, said in err) == (2, True)
    (tmp_path / "f.npz").mkdir()
    command = ("condense", archive, "--per-class", 1, *QUICK, "--out", tmp_path / "f.npz")
    code, _, err = edgekd(*command, "--force")
    assert (code, "is a folder" in err) == (2, True)


def test_folders_that_cannot_be(edgekd, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    assert "no images in it" in refused(edgekd, tmp_path, tmp_path / "empty", "--per-class", 1)
    assert "one folder for each class" in refused(
        edgekd, tmp_path, folder / "a", "--per-class", 1, "--method", "random"
    )
    (folder / "d").mkdir()
    assert "3 (0)" in refused(edgekd, tmp_path, folder, "--per-class", 1)
    Image.new("RGB", (SIDE + 1, SIDE)).save(folder / "d" / "wide.png")
    assert "resize the set first" in refused(edgekd, tmp_path, folder, "--per-class", 1)
    (folder / "loose.png").write_bytes((folder / "d" / "wide.png").read_bytes())
    with pytest.raises(InputFileError, match="beside folders"):
        read_images(folder)


class Impatient(PlainDisplay):
    """Somebody who sends a signal at the second step."""

    def __init__(self, number):
        self.number = number

    @contextlib.contextmanager
    def running(self):
        def show(point, *_):
            if point.step == 2:
                signal.raise_signal(self.number)

        yield show


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_leaves_nothing(tmp_path, archive, number, code):
    options = CondenseJob(
        data=archive,
        per_class=1,
        settings=CondenseOptions(method="dm", steps=5),
        run=RunOptions(device="cpu", threads=1),
        out=tmp_path / "c.npz",
    )
    with pytest.raises(InterruptedRunError, match="starts again") as caught:
        condense(options, Impatient(number))
    assert caught.value.exit_code == code
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_methods_that_are_completed_are_those_that_there_are():
    assert completion.methods("") == list(condensation.METHODS)
    assert completion.methods("d") == ["dm", "dsa"]


def test_folders_of_numbers_are_the_classes_of_their_numbers(edgekd, tmp_path):
    for number in range(11):
        (tmp_path / "data" / str(number)).mkdir(parents=True)
        for place in range(2):
            image = np.full((SIDE, SIDE), 20 * number + place, np.uint8)
            Image.fromarray(image).save(tmp_path / "data" / str(number) / f"{place}.png")
    command = ("condense", tmp_path / "data", "--per-class", 1, "--method", "random", *QUICK)
    code, out, err = edgekd(*command, "--out", tmp_path / "c.npz", "--json")
    assert code == 0, err
    assert json.loads(out)["class_names"] == [str(number) for number in range(11)]
    with np.load(tmp_path / "c.npz") as content:
        brightness = content["images"].mean((1, 2, 3)) * 255 // 20
        np.testing.assert_array_equal(brightness, content["labels"])
