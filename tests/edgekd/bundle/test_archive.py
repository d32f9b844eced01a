"""Archives of bundles: the same bytes anywhere, and nothing else is taken for one."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edgekd.bundle import archive, packing, verification
from edgekd.bundle.archive import BLOCK, ArchiveLimits, zstd
from edgekd.errors import IntegrityError, OutputError, UsageError
from tests.edgekd.bundles import reseal, write_bundle

DATE = archive.DEFAULT_DATE


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bundle's folder; not to be changed."""
    return write_bundle(tmp_path_factory.mktemp("whole") / "b")


@pytest.fixture(scope="module")
def packed(whole):
    out = whole.with_name("b.tar")
    packing.pack(whole, out, date=DATE, force=False)
    return out


def contents(path, *, limits=archive.LIMITS):
    """Of an archive, by name, through the reader."""
    found: dict[str, bytearray] = {}

    def take(entry):
        return found.setdefault(entry.name, bytearray()).extend

    with path.open("rb") as stream:
        archive.read_archive(path, stream, take, limits=limits)
    return {name: bytes(data) for name, data in found.items()}


def by_tarfile(path, members, *, form=tarfile.USTAR_FORMAT):
    """An archive of `(TarInfo, bytes)` as Python writes it."""
    with tarfile.open(path, "w", format=form) as tar:
        for info, data in members:
            info.size = len(data)
            info.mtime, info.mode = DATE, 0o644
            tar.addfile(info, io.BytesIO(data))
    return path


# --- the same bytes -------------------------------------------------------------------------------


def test_two_packs_in_two_folders_at_two_times_are_the_same_bytes(whole, packed, tmp_path):
    other = tmp_path / "elsewhere" / "another name"
    other.mkdir(parents=True)
    for number, path in enumerate(sorted(whole.iterdir(), reverse=True)):
        copy = other / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        os.utime(copy, (10**9 + number, 10**9 + number))
    packing.pack(other, tmp_path / "x.tar", date=DATE, force=False)
    assert (tmp_path / "x.tar").read_bytes() == packed.read_bytes()
    for name in ("one.tar.zst", "two.tar.zst"):
        packing.pack(other if name < "p" else whole, tmp_path / name, date=DATE, force=False)
    assert (tmp_path / "one.tar.zst").read_bytes() == (tmp_path / "two.tar.zst").read_bytes()


def test_gnu_tar_writes_the_same_bytes(whole, packed, tmp_path):
    if b"GNU tar" not in subprocess.run(["tar", "--version"], capture_output=True).stdout:
        pytest.skip("tar is not GNU's")
    names = sorted(path.name for path in whole.iterdir())
    asked = f"--format=ustar --owner=0 --group=0 --numeric-owner --mode=0644 --mtime=@{DATE}"
    made = tmp_path / "gnu.tar"
    subprocess.run(["tar", *asked.split(), "-C", str(whole), "-cf", str(made), *names], check=True)
    assert made.read_bytes() == packed.read_bytes()


def test_tarfile_reads_what_was_written(whole, packed):
    with tarfile.open(packed) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == sorted(p.name for p in whole.iterdir())
        for member in members:
            assert (member.mode, member.uid, member.gid) == (0o644, 0, 0)
            assert (member.mtime, member.uname, member.type) == (DATE, "", tarfile.REGTYPE)
            stream = tar.extractfile(member)
            assert stream is not None
            assert stream.read() == (whole / member.name).read_bytes()


def test_the_command_takes_its_date_from_the_environment(whole, tmp_path, edgekd, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    code, _, _ = edgekd("bundle", "pack", whole, "--out", tmp_path / "d.tar")
    assert code == 0
    with tarfile.open(tmp_path / "d.tar") as tar:
        assert {member.mtime for member in tar.getmembers()} == {1_700_000_000}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    code, _, err = edgekd("bundle", "pack", whole, "--out", tmp_path / "e.tar")
    assert code == UsageError.exit_code
    assert "SOURCE_DATE_EPOCH=yesterday" in err
    assert not (tmp_path / "e.tar").exists()


names = st.from_regex(
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,8})?", fullmatch=True
)


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    files=st.dictionaries(names, st.binary(max_size=3000), min_size=1, max_size=6),
    compressed=st.booleans(),
)
def test_what_is_written_is_read(tmp_path_factory, files, compressed):
    folder = tmp_path_factory.mktemp("files")
    kept = {
        name: data
        for name, data in files.items()
        if "/" in name or not any(other.startswith(f"{name}/") for other in files)
    }
    for name, data in kept.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    out = folder.with_name(folder.name + (".tar.zst" if compressed else ".tar"))
    with out.open("wb") as sink:
        archive.write_archive(folder, kept, sink, date=DATE, compressed=compressed)
    assert contents(out) == kept


# --- flipped bits ---------------------------------------------------------------------------------


def places(size):
    """All bytes of the first two headers, and one in 37 of the rest."""
    return [*range(2 * BLOCK), *range(2 * BLOCK, size, 37)]


def test_any_flipped_byte_of_an_archive_is_found_and_located(packed, tmp_path):
    data = packed.read_bytes()
    spoilt = tmp_path / "s.tar"
    for place in places(len(data)):
        spoilt.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises(IntegrityError) as caught:
            verification.verify_bundle(spoilt)
        assert located(str(caught.value), place), (place, str(caught.value))


def located(message, place):
    """Whether a message names a byte near the place, or a range that holds it, or the sums that differ."""
    import re

    ranges = [(int(a), int(b)) for a, b in re.findall(r"bytes (\d+) to (\d+)", message)]
    near = [int(byte) for byte in re.findall(r"at byte (\d+)", message)]
    return any(a <= place < b for a, b in ranges) or any(
        abs(byte - place) <= BLOCK for byte in near
    )


def test_any_flipped_byte_of_a_compressed_archive_is_found(whole, tmp_path):
    out = tmp_path / "z.tar.zst"
    packing.pack(whole, out, date=DATE, force=False)
    data, inside = out.read_bytes(), contents(out)
    spoilt = tmp_path / "s.tar.zst"
    unfound = 0
    for place in range(0, len(data), 3):
        spoilt.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        problem = problem_of(spoilt)
        if problem is None:
            # A bit of zstd that says nothing of what is inside: a signature finds it.
            assert contents(spoilt) == inside
            unfound += 1
        else:
            assert "byte" in problem
    assert unfound < len(data) / 600


def problem_of(path):
    try:
        verification.verify_bundle(path)
    except IntegrityError as error:
        return str(error)
    return None


def test_archives_that_are_cut_or_longer_are_refused(packed, tmp_path):
    data = packed.read_bytes()
    spoilt = tmp_path / "s.tar"
    for size in (0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 7, len(data) - BLOCK, len(data) - 1):
        spoilt.write_bytes(data[:size])
        with pytest.raises(IntegrityError, match="cut short"):
            verification.verify_bundle(spoilt)
    for more in (b"\0", bytes(archive.RECORD), data):
        spoilt.write_bytes(data + more)
        with pytest.raises(IntegrityError, match="after its end"):
            verification.verify_bundle(spoilt)


# --- archives of others ---------------------------------------------------------------------------


def info(name, kind=tarfile.REGTYPE, link=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([(info("../x"), b"")], "no name for a file"),
        ([(info("a/../../x"), b"")], "no name for a file"),
        ([(info("/outside"), b"")], "no name for a file"),
        ([(info(".hidden"), b"")], "no name for a file"),
        ([(info("a\\b"), b"")], "no name for a file"),
        ([(info("a\nb"), b"")], "no name for a file"),
        ([(info("a", tarfile.SYMTYPE, "b"), b"")], "a is a link"),
        ([(info("a", tarfile.LNKTYPE, "b"), b"")], "a is a hard link"),
        ([(info("a", tarfile.CHRTYPE), b"")], "character device"),
        ([(info("a", tarfile.BLKTYPE), b"")], "block device"),
        ([(info("a", tarfile.FIFOTYPE), b"")], "a pipe"),
        ([(info("a", tarfile.DIRTYPE), b"")], "a folder"),
        ([(info("a"), b"1"), (info("a"), b"2")], "a second time"),
        ([(info("b"), b"1"), (info("a"), b"2")], "out of order"),
        ([(info("a"), b"1"), (info("a/b"), b"2")], "lies in a file"),
    ],
)
def test_what_no_bundle_holds_is_refused(tmp_path, edgekd, members, said):
    path = by_canonical(tmp_path / "h.tar", members)
    for command in (("verify", path), ("unpack", path, "--out", tmp_path / "out")):
        code, _, err = edgekd("bundle", *command)
        assert code == IntegrityError.exit_code
        assert said in err
        assert "at byte" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.tar"]


def by_canonical(path, members):
    """As `by_tarfile`, with no device numbers where there is no device, as we and GNU tar write."""
    out = io.BytesIO()
    for made, data in members:
        made.size, made.mtime, made.mode = len(data), DATE, 0o644
        block = bytearray(made.tobuf(tarfile.USTAR_FORMAT, "utf-8")[:BLOCK])
        block[329:345] = b"0000000\0" * 2
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        out.write(bytes(block) + data + bytes(-len(data) % BLOCK))
    size = out.tell()
    out.write(bytes(-(-(size + 2 * BLOCK) // archive.RECORD) * archive.RECORD - size))
    path.write_bytes(out.getvalue())
    return path


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_other_formats_of_tar_are_refused(tmp_path, form):
    path = by_tarfile(tmp_path / "p.tar", [(info("n" * 150), b"")], form=form)
    with pytest.raises(IntegrityError, match=r"pax|GNU|not what edgekd writes|no name"):
        verification.verify_bundle(path)


def test_other_owners_modes_and_dates_are_refused(tmp_path):
    for field, value in (("uid", 1000), ("mode", 0o755), ("uname", "root"), ("gid", 5)):
        made = info("a")
        made.mtime = DATE
        made.mode = 0o644
        setattr(made, field, value)
        data = made.tobuf(tarfile.USTAR_FORMAT, "utf-8")
        (tmp_path / "o.tar").write_bytes(data + bytes(archive.RECORD - BLOCK))
        with pytest.raises(IntegrityError, match="not what edgekd writes"):
            verification.verify_bundle(tmp_path / "o.tar")
    first, second = archive.header(b"a", 0, DATE), archive.header(b"b", 0, DATE + 1)
    (tmp_path / "o.tar").write_bytes(first + second + bytes(archive.RECORD - 2 * BLOCK))
    with pytest.raises(IntegrityError, match="another date"):
        verification.verify_bundle(tmp_path / "o.tar")


def test_extra_missing_and_changed_files_in_an_archive_are_named(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "b")
    (folder / "zzz-extra").write_bytes(b"more")
    (folder / "golden-inputs.bin").unlink()
    (folder / "model-int8.onnx").write_bytes(b"another")
    out = tmp_path / "b.tar"
    with out.open("wb") as sink:
        archive.write_archive(
            folder, [path.name for path in folder.iterdir()], sink, date=DATE, compressed=False
        )
    with pytest.raises(IntegrityError) as caught:
        verification.verify_bundle(out)
    for said in ("zzz-extra (bytes", "golden-inputs.bin: missing", "model-int8.onnx (bytes"):
        assert said in str(caught.value)
    with pytest.raises(IntegrityError):
        packing.pack(folder, tmp_path / "again.tar", date=DATE, force=False)
    assert not (tmp_path / "again.tar").exists()


def test_links_in_a_folder_are_not_packed(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "b")
    inside = folder / "student.safetensors"
    inside.rename(tmp_path / "outside")
    inside.symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match=r"student\.safetensors"):
        packing.pack(folder, tmp_path / "b.tar", date=DATE, force=False)
    inside.unlink()
    (tmp_path / "outside").rename(inside)
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(IntegrityError, match="linked"):
        verification.verify_bundle(folder)


def test_limits_are_kept(packed, whole, tmp_path):
    with pytest.raises(IntegrityError, match="more than 3 files"):
        contents(packed, limits=ArchiveLimits(files=3))
    with pytest.raises(IntegrityError, match="more than the 4096 bytes"):
        contents(packed, limits=ArchiveLimits(bytes=4096))
    out = tmp_path / "z.tar.zst"
    packing.pack(whole, out, date=DATE, force=False)
    with pytest.raises(IntegrityError, match="more than the 4096 bytes"):
        contents(out, limits=ArchiveLimits(bytes=4096))
    with pytest.raises(IntegrityError, match="unpacks to more than"):
        contents(out, limits=ArchiveLimits(ratio=1, ratio_from=0))


def test_a_compressed_archive_is_one_frame(whole, tmp_path):
    out = tmp_path / "z.tar.zst"
    packing.pack(whole, out, date=DATE, force=False)
    data = out.read_bytes()
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"hide"
    for more in (skippable, zstd.compress(b""), b"\0"):
        out.write_bytes(data + more)
        with pytest.raises(IntegrityError, match="after its end"):
            verification.verify_bundle(out)
    out.write_bytes(skippable + data)
    with pytest.raises(IntegrityError, match="byte"):
        verification.verify_bundle(out)
    for size in range(0, len(data), 41):
        out.write_bytes(data[:size])
        with pytest.raises(IntegrityError, match=r"byte"):
            verification.verify_bundle(out)
    encoder = zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.window_log: 27,
            zstd.CompressionParameter.checksum_flag: 1,
        }
    )
    out.write_bytes(encoder.compress(bytes(2**20), mode=encoder.FLUSH_BLOCK) + encoder.flush())
    with pytest.raises(IntegrityError, match=r"no zstd"):
        verification.verify_bundle(out)


# --- packing and unpacking ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b.tar", "b.tar.zst"])
def test_what_is_unpacked_is_what_was_packed(whole, tmp_path, edgekd, name):
    code, out, _ = edgekd("bundle", "pack", whole, "--out", tmp_path / name)
    assert code == 0
    assert "content" in out
    code, out, _ = edgekd("bundle", "unpack", tmp_path / name, "--out", tmp_path / "u")
    assert code == 0
    assert " OK: " in out
    compared = subprocess.run(["diff", "-r", str(whole), str(tmp_path / "u")])
    assert compared.returncode == 0
    code, out, _ = edgekd("bundle", "inspect", tmp_path / name)
    assert code == 0
    assert "lenet5" in out


def test_an_archive_that_does_not_hold_leaves_no_folder(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    data[-archive.RECORD] ^= 1
    (tmp_path / "s.tar").write_bytes(data)
    with pytest.raises(IntegrityError):
        packing.unpack(tmp_path / "s.tar", tmp_path / "u", trusted=(), signature=None, force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.tar"]


def test_outputs_that_exist_or_lie_in_the_bundle_are_refused(whole, tmp_path, edgekd):
    (tmp_path / "b.tar").touch()
    code, _, err = edgekd("bundle", "pack", whole, "--out", tmp_path / "b.tar")
    assert code == OutputError.exit_code
    assert "exists" in err
    code, _, err = edgekd("bundle", "pack", whole, "--out", whole / "b.tar")
    assert code == OutputError.exit_code
    assert "lies in the bundle" in err
    code, _, err = edgekd("bundle", "pack", whole, "--out", tmp_path / "b.zip")
    assert code == 2
    assert ".tar.zst" in err
    code, _, err = edgekd("bundle", "verify", tmp_path / "none.tar")
    assert code == 2
    assert "none.tar" in err


def test_a_pipe_with_the_name_of_an_archive_is_not_waited_for(tmp_path, edgekd):
    os.mkfifo(tmp_path / "b.tar")
    code, _, err = edgekd("bundle", "verify", tmp_path / "b.tar")
    assert code == 2
    assert "not a plain file" in err


def test_names_that_an_archive_does_not_hold_are_said_when_packing(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "b")
    (folder / ("n" * 101)).write_bytes(b"")
    reseal(folder)
    with pytest.raises(Exception, match="longer than 100 bytes") as caught:
        packing.pack(folder, tmp_path / "b.tar", date=DATE, force=False)
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]
    assert not Path(tmp_path / "b.tar").exists()
