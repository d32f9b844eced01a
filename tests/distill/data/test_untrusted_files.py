"""Arrays and pictures that are damaged, hostile or too large: an error of ours, and nothing allocated."""

import gzip
import io
import os
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from edgekd.distill.compute.memory import available_bytes
from edgekd.distill.data.image_files import read_images
from edgekd.distill.data.untrusted_arrays import open_npz, read_idx, read_npy
from edgekd.distill.data.untrusted_pictures import MOST_PIXELS, open_picture
from edgekd.errors import InputFileError

SUFFIXES = (".png", ".jpg", ".bmp", ".webp", ".pgm", ".ppm")
PIXELS = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)


def npy(array, **header):
    """Bytes of a .npy file whose header claims something else."""
    stream = io.BytesIO()
    claims = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | header
    np.lib.format.write_array_header_1_0(stream, claims)
    return stream.getvalue() + array.tobytes()


def npy_with(text):
    """Bytes of a .npy file with a header of any text."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + PIXELS.tobytes()


def objects():
    stream = io.BytesIO()
    np.save(stream, np.array([{}, []], dtype=object), allow_pickle=True)
    return stream.getvalue()


BAD_NPY = {
    "empty": b"",
    "of another kind": b"GIF89a" + bytes(100),
    "a zip archive": b"PK\x03\x04" + bytes(100),
    "cut in the magic": npy(PIXELS)[:5],
    "cut in the header": npy(PIXELS)[:40],
    "cut in the values": npy(PIXELS)[:-1],
    "longer than it claims": npy(PIXELS) + b"x",
    "a petabyte": npy(PIXELS, shape=(1 << 50,)),
    "beyond 64 bits": npy(PIXELS, shape=(1 << 80,)),
    "a size below zero": npy(PIXELS, shape=(-2, -16)),
    "a size that is a truth": npy(PIXELS, shape=(True, 32)),
    "objects": objects(),
    "a record": npy(PIXELS, descr=[("a", "<u1"), ("b", "<u1")]),
    "bytes of no kind": npy(PIXELS, descr="|V1"),
    "dates": npy(PIXELS, descr="<M8[s]"),
    "values of no bytes": npy(PIXELS[:0], descr="<U0", shape=(1 << 60,)),
    "a type that is none": npy(PIXELS, descr="<q9"),
    "a version of the future": b"\x93NUMPY\x09\x00" + npy(PIXELS)[8:],
    "a header that is none": npy_with("{'descr': '|u1', 'fortran_order'"),
    "a header that is a list": npy_with("[1]"),
    "a nested header": npy_with("(" * 5_000),
    "a header of signs": npy_with("-" * 9_000 + "1"),
    "a header of many digits": npy_with(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5_000 + ",)}"
    ),
}


@pytest.mark.parametrize("what", BAD_NPY)
@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
def test_a_npy_file_that_is_none_is_refused(tmp_path, what, mapped):
    path = tmp_path / "a.npy"
    path.write_bytes(BAD_NPY[what])
    with pytest.raises(InputFileError, match=r"a\.npy") as refused:
        read_npy(path, mapped=mapped)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("what", BAD_NPY)
def test_a_member_that_is_no_array_is_refused(tmp_path, what):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", BAD_NPY[what])
    with open_npz(path) as content, pytest.raises(InputFileError, match=r"a\.npz.*images"):
        content["images"]


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        np.asfortranarray(PIXELS),
        PIXELS.astype(">i4"),
        PIXELS.astype(np.float16),
        PIXELS[:0],
        np.array("text"),
        np.array(""),
        np.array(7),
        PIXELS > 7,
    ],
    ids=["bytes", "columns", "swapped", "halves", "none", "text", "no text", "scalar", "truths"],
)
def test_what_numpy_writes_is_read_alike(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    np.savez_compressed(tmp_path / "b.npz", array)
    found = [read_npy(tmp_path / "a.npy"), read_npy(tmp_path / "a.npy", mapped=True)]
    for name in ("a.npz", "b.npz"):
        with open_npz(tmp_path / name) as content:
            assert content.files == ("arr_0",)
            found.append(content["arr_0"])
    for each in found:
        np.testing.assert_array_equal(each, array)
        assert each.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")


def member(path, *, flags=0, method=0, size=None):
    """A .npz with one array, whose entries claim something else."""
    content = npy(PIXELS)
    size = len(content) if size is None else size
    head = struct.pack(
        "<HHHHHIII", 20, flags, method, 0, 0x21, zlib.crc32(content), len(content), size
    )
    local = b"PK\x03\x04" + head + struct.pack("<HH", 10, 0) + b"images.npy" + content
    entry = (
        b"PK\x01\x02\x14\x00" + head + struct.pack("<HHHHHII", 10, 0, 0, 0, 0, 0, 0) + b"images.npy"
    )
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)
    path.write_bytes(local + entry + end)


@pytest.mark.parametrize(
    ("claim", "match"),
    [
        ({}, None),
        ({"flags": 1}, "encrypted"),
        *[({"method": method}, rf"method {method}") for method in (1, 6, 9, 12, 14, 93, 97, 99)],
        ({"method": 8}, "images cannot be read as an array"),
        ({"size": 0xFFFFFFF0}, "claimed"),
    ],
    ids=lambda value: str(value),
)
def test_members_are_read_as_numpy_writes_them_or_refused(tmp_path, claim, match):
    path = tmp_path / "a.npz"
    member(path, **claim)
    with open_npz(path) as content:
        if match is None:
            np.testing.assert_array_equal(content["images"], PIXELS)
        else:
            with pytest.raises(InputFileError, match=match):
                content["images"]


def test_a_name_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", npy(PIXELS))
        archive.writestr("images", npy(PIXELS))
    with pytest.raises(InputFileError, match="twice"), open_npz(path):
        pass


def idx(array, *, kind=8, shape=None):
    shape = array.shape if shape is None else shape
    return (
        bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()
    )


BAD_IDX = {
    "empty": b"",
    "cut": idx(PIXELS)[:-1],
    "longer": idx(PIXELS) + b"x",
    "cut in the sizes": idx(PIXELS)[:7],
    "another type": idx(PIXELS, kind=7),
    "no dimensions": bytes([0, 0, 8, 0, 5]),
    "too many": bytes([0, 0, 8, 255]) + bytes(4 * 255),
    "more than memory": idx(PIXELS, shape=(0xFFFFFFFF,) * 4),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("what", BAD_IDX)
def test_an_idx_file_that_is_none_is_refused(tmp_path, what, packed):
    path = tmp_path / "a-images-idx3-ubyte"
    path.write_bytes(gzip.compress(BAD_IDX[what]) if packed else BAD_IDX[what])
    with pytest.raises(InputFileError, match="idx3"):
        read_idx(path)


def test_gzip_that_is_damaged_is_refused(tmp_path):
    whole = gzip.compress(idx(PIXELS))
    path = tmp_path / "a-images-idx3-ubyte.gz"
    for content in (whole[:-4], whole[:12], whole[:-6] + b"\0" * 6, b"\x1f\x8b\x09" + whole[3:]):
        path.write_bytes(content)
        with pytest.raises(InputFileError, match="idx3"):
            read_idx(path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_idx(path), PIXELS)


def picture(kind, size=(8, 6)):
    stream = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(stream, kind)
    return stream.getvalue()


def png_of(width, height):
    """A PNG whose header claims a size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + crc + picture("PNG")[33:]


BAD_PICTURES = {
    "empty": b"",
    "text": b"no picture",
    "GIF": picture("GIF"),
    "TIFF": picture("TIFF"),
    "ICO": picture("ICO", (16, 16)),
    "PDF": b"%PDF-1.4\n",
    "EPS": picture("EPS"),
    "more than is allowed": png_of(MOST_PIXELS // 1_000 + 1, 1_000),
    "more than twice": png_of(60_000, 60_000),
    "no pixels": png_of(0, 8),
    "a size below zero": b"P6 -4 4 255\n" + bytes(48),
    **{f"{kind} cut short": picture(kind, (64, 64))[:-200] for kind in ("PNG", "JPEG", "PPM", "BMP", "WEBP")},
    **{f"{kind} of a header": picture(kind)[:20] for kind in ("PNG", "JPEG", "PPM", "BMP", "WEBP")},
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_PICTURES)
def test_a_picture_that_is_not_promised_or_damaged_is_refused(tmp_path, capfd, what):
    path = tmp_path / "a.png"
    path.write_bytes(BAD_PICTURES[what])
    with pytest.raises(InputFileError, match=r"a\.png"):
        open_picture(path, suffixes=SUFFIXES)
    assert capfd.readouterr() == ("", "")


def test_what_libraries_print_over_a_picture_is_not_seen(tmp_path, capfd):
    content = bytearray(picture("TIFF", (64, 64)))
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.tif", compression="tiff_lzw")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[40:400] = b"\xff" * 360
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputFileError, match=r"a\.tif"):
        open_picture(tmp_path / "a.tif", suffixes=(".tif",))
    assert capfd.readouterr() == ("", "")
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM", "BMP", "WEBP"])
def test_pictures_are_read_whatever_their_name(tmp_path, kind):
    path = tmp_path / "a.png"
    path.write_bytes(picture(kind))
    found = open_picture(path, suffixes=SUFFIXES)
    assert (found.format, found.frames, found.image.size) == (kind, 1, (8, 6))
    assert np.asarray(found.image).shape == (6, 8, 3)


@pytest.mark.parametrize("reader", [read_npy, read_idx, lambda path: open_picture(path, suffixes=SUFFIXES)], ids=["npy", "idx", "picture"])  # fmt: skip
def test_what_is_no_file_is_refused_without_waiting(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent"):
        with pytest.raises(InputFileError, match=path.name):
            reader(path)


def test_memory_is_what_the_system_says(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4 kB\n")
    assert available_bytes(tmp_path / "meminfo") == 4096
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\n")
    assert available_bytes(tmp_path / "meminfo") is None


def mutated(content, chance):
    """Damaged in one of the ways that files are."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) or 1)
        way = chance.randrange(5)
        if way == 0 and found:
            found[at] = chance.randrange(256)
        elif way == 1:
            del found[at : at + chance.randint(1, 40)]
        elif way == 2:
            found[at:at] = chance.choice([b"\0" * 8, b"\xff" * 8, bytes(found[:30])])
        elif way == 3 and found:
            found[at : at + 4] = struct.pack("<I", chance.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF]))
        else:
            del found[max(1, at) :]
    return bytes(found)


@pytest.mark.parametrize("kind", ["npy", "npz", "packed npz", "idx", "packed idx", "PNG", "JPEG", "PPM", "BMP", "WEBP"])  # fmt: skip
def test_damaged_files_are_read_or_an_input_error(tmp_path, capfd, kind):
    chance = random.Random(kind)
    labels = np.arange(2)
    name = "set.npz"
    if kind == "npy":
        name, whole = "set.npy", npy(PIXELS)
    elif "npz" in kind:
        save = np.savez_compressed if "packed" in kind else np.savez
        save(tmp_path / name, images=PIXELS, labels=labels)
        whole = (tmp_path / name).read_bytes()
    elif "idx" in kind:
        name = "a-images-idx3-ubyte"
        (tmp_path / "a-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
        whole = gzip.compress(idx(PIXELS)) if "packed" in kind else idx(PIXELS)
    else:
        name, whole = "set/a.png", picture(kind, (16, 16))
        (tmp_path / "set").mkdir()
    path = tmp_path / name
    outcomes = set()
    for _ in range(150):
        path.write_bytes(mutated(whole, chance))
        try:
            read_images(path.parent if name.startswith("set/") else path, strict=True)
            outcomes.add("read")
        except InputFileError:
            outcomes.add("refused")
    assert "refused" in outcomes
    assert capfd.readouterr() == ("", "")
