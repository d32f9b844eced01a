"""Images of an export: the user's own, and what is made on the spot where none are brought."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from edgekd.distill.data.image_files import read_images
from edgekd.distill.synthesis.structured_noise import draw_shapes
from tests.edgekd.conftest import IMAGES, TEACHER
from tests.edgekd.making import SPEC, models_of, write_student


@pytest.fixture(scope="module")
def digits():
    """Real digits (N, H, W, C)."""
    with np.load(IMAGES) as found:
        return found["images"][:120]


def golden_inputs(folder):
    """Normalised float32 inputs, as bytes 0..255 (N, H, W)."""
    found = np.frombuffer((folder / "golden-inputs.bin").read_bytes(), np.float32)
    pixels = found.reshape(-1, 28, 28) * SPEC.std[0] + SPEC.mean[0]
    return np.rint(pixels * 255).astype(np.uint8)


def test_a_target_without_int8_needs_no_images(edgekd, tmp_path):
    code, _, err = edgekd(
        "export", "--teacher", TEACHER, "-t", "jetson-nano", "--out", tmp_path / "o"
    )
    assert code == 0, err
    found = models_of(tmp_path / "o")
    assert set(found) == {"fp32"}
    assert found["fp32"]["parity"]["images"] == 256
    assert "structured noise" in err
    assert len(golden_inputs(tmp_path / "o")) == 16


def test_neither_does_an_export_without_int8(edgekd, tmp_path):
    code, _, err = edgekd(
        *("export", "--teacher", TEACHER, "-t", "jetson-thor-t5000", "--no-int8"),
        *("--out", tmp_path / "o"),
    )
    assert code == 0, err
    found = models_of(tmp_path / "o")
    assert set(found) == {"fp32", "fp16"}
    assert found["fp16"]["parity"]["passed"]


@pytest.mark.parametrize("words", [("--tune", "3"), ("--keep-fp16", "0.1")])
def test_what_int8_alone_has_does_not_go_without_it(edgekd, tmp_path, words):
    code, _, err = edgekd(
        *("export", "--teacher", TEACHER, "-t", "jetson", "--no-int8", *words),
        *("--out", tmp_path / "o"),
    )
    assert code == 2
    assert f"{words[0]} is about the INT8 file" in err


def test_without_images_a_teacher_is_calibrated_on_noise_and_that_is_said(edgekd, tmp_path):
    code, _, err = edgekd("export", "--teacher", TEACHER, "-t", "x86", "--out", tmp_path / "o")
    assert code == 0, err
    found = models_of(tmp_path / "o")["int8"]
    assert found["calibration"]["made_of"] == "structured noise"
    assert found["calibration"]["compared_with"] == "teacher"
    assert 0 < max(found["calibration"]["outside"].values()) < 0.08
    assert "images   256 of structured noise" in err[: err.index("model-fp32.onnx")]
    assert '"made_of": "noise"' in (tmp_path / "o" / "models.json").read_text()


# --- the user's own -------------------------------------------------------------------------------


def as_folder(path, images):
    path.mkdir()
    for number, pixels in enumerate(images):
        Image.fromarray(pixels[..., 0]).save(path / f"{number:04}.png")
    return path


def as_classes(path, images):
    path.mkdir()
    as_folder(path / "a", images[: len(images) // 3])
    as_folder(path / "b", images[len(images) // 3 :])
    return path


def as_file(path, images):
    np.save(path.with_suffix(".npy"), images)
    return path.with_suffix(".npy")


def as_grey_file(path, images):
    return as_file(path, images[..., 0])


@pytest.mark.parametrize("write", [as_folder, as_classes, as_file, as_grey_file])
def test_own_images_calibrate_a_student_and_stay_out_of_its_files(edgekd, tmp_path, digits, write):
    student = write_student(tmp_path / "s")
    own = write(tmp_path / "own", digits)
    code, _, err = edgekd(
        *("export", student, "-t", "x86", "--calibration", own, "--out", tmp_path / "o"),
    )
    # Weights are random: what INT8 is worth is not asked here
    assert code in {0, 4}, err
    assert f"120 own images of {own.name}" in err
    assert "none of them goes into the files" in err
    found = models_of(tmp_path / "o")["int8"]
    assert found["calibration"]["made_of"] == "own images"
    assert found["calibration"]["images"] == 90
    # Of the 30 others every second judges
    assert found["parity"]["images"] == 15
    shown = {pixels.tobytes() for pixels in golden_inputs(tmp_path / "o")}
    assert not shown & {pixels.tobytes() for pixels in digits}
    assert '"made_of": "noise"' in (tmp_path / "o" / "models.json").read_text()
    assert not list((tmp_path / "o").glob("*.np[yz]"))


def test_a_teacher_answers_own_images_itself(edgekd, tmp_path, digits):
    own = as_file(tmp_path / "own", digits)
    code, _, err = edgekd(
        *("export", "--teacher", TEACHER, "-t", "x86", "--calibration", own),
        *("--out", tmp_path / "o"),
    )
    assert code == 0, err
    calibration = models_of(tmp_path / "o")["int8"]["calibration"]
    assert calibration["compared_with"] == "teacher"
    assert calibration["outside"]
    assert "over 90 images (own images)" in " ".join(err.split())


class Harmful:
    def __reduce__(self):
        raise AssertionError("unpickled")


def written_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"x")


def written_pickle(path):
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path.write_bytes(stream.getvalue())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(
            lambda path: np.save(path, np.zeros((60, 32, 32, 1), np.uint8)),
            "not 28 x 28 pixels and 1 channels; resize the set first",
            id="another size",
        ),
        pytest.param(
            lambda path: np.save(path, np.zeros((60, 28, 28, 3), np.uint8)),
            "not 28 x 28 pixels and 1 channels",
            id="another number of channels",
        ),
        pytest.param(
            lambda path: np.save(path, np.zeros((60, 28, 28), np.float32)),
            "expected uint8 (N, H, W, C)",
            id="floats",
        ),
        pytest.param(
            lambda path: np.save(path, np.zeros((39, 28, 28), np.uint8)),
            "39 images; at least 40 are needed",
            id="too few",
        ),
        pytest.param(
            lambda path: np.save(path, np.zeros((0, 28, 28), np.uint8)), "no images", id="none"
        ),
        pytest.param(lambda path: np.save(path, np.uint8(3)), "expected uint8", id="a number"),
        pytest.param(written_pickle, "cannot be read as a set of images", id="objects"),
        pytest.param(lambda path: path.write_bytes(pickle.dumps(3)), "cannot be read", id="pickle"),
        pytest.param(written_archive, "an archive of arrays", id="archive"),
        pytest.param(lambda path: path.write_bytes(b"\x93NUMPY"), "cannot be read", id="cut short"),
        pytest.param(lambda path: path.exists(), "no such file or folder", id="missing"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_words(edgekd, tmp_path, write, message):
    student = write_student(tmp_path / "s")
    own = tmp_path / "own.npy"
    write(own)
    code, _, err = edgekd(
        *("export", student, "-t", "x86", "--calibration", own, "--out", tmp_path / "o"),
    )
    assert code == 2
    assert message in err
    assert not (tmp_path / "o").exists()


def test_own_images_and_a_set_are_two_kinds_of_one_thing(edgekd, tmp_path):
    for subject in ((write_student(tmp_path / "s"),), ("--teacher", TEACHER)):
        code, _, err = edgekd(
            *("export", *subject, "-t", "x86", "--calibration", "a", "--images", "b"),
            *("--out", tmp_path / "o"),
        )
        assert code == 2
        assert "--images and --calibration are two kinds of one thing" in err


def test_of_many_images_some_are_taken_from_end_to_end(tmp_path):
    images = np.repeat(np.arange(100, dtype=np.uint8), 28 * 28).reshape(100, 28, 28)
    for own in (
        as_grey_file(tmp_path / "a", images[..., None]),
        as_folder(tmp_path / "b", images[..., None]),
    ):
        found = read_images(own, shape=(1, 28, 28), most=5)
        assert found.images[:, 0, 0, 0].tolist() == [0, 24, 49, 74, 99]


# --- made here ------------------------------------------------------------------------------------


def test_shapes_are_the_same_for_a_seed():
    first, again, other = (draw_shapes(SPEC, 4, seed=seed) for seed in (0, 0, 1))
    assert first.dtype == torch.uint8
    assert first.shape == (4, 1, 28, 28)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
