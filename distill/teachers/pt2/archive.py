"""The container of a `.pt2` file: a zip archive that nobody vouches for.

What `torch.export.save` writes is stored, never compressed, so that no member can be larger than the
file. Names, sizes and checksums are looked at before anything is read; pickles are not opened.
"""

import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from edgekd.errors import InputFileError

MAX_MEMBERS: Final = 100_000


MAX_NAME: Final = 512


AGAIN: Final = (
    "Save it again: torch.export.save(torch.export.export(model.eval(), (images,), "
    'dynamic_shapes=({0: torch.export.Dim("batch")},)), "teacher.pt2").'
)


def members(path: Path, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The bytes of each wanted member, compared with its checksum.

    Raises:
        InputFileError: the archive is damaged.
    """
    with open_archive(path) as archive:
        for name in wanted:
            yield name, read_member(path, archive, name)


def open_archive(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        what = "a folder, not a program" if path.is_dir() else "no such file"
        raise InputFileError(f"{path}: {what}.")
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            _check_directory(path, stream, size)
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise InputFileError(
            f"{path}: not a .pt2 archive ({error}). Was it cut short, or is it something else?"
        ) from error
    try:
        _check_members(path, archive, size)
    except InputFileError:
        archive.close()
        raise
    return archive


def _check_directory(path: Path, stream: BinaryIO, size: int) -> None:
    """The table of contents is parsed whole by `zipfile`: its size is looked at before."""
    tail = min(size, 22 + 65_535)
    stream.seek(size - tail)
    data = stream.read(tail)
    at = data.rfind(b"PK\x05\x06")
    if at < 0 or len(data) < at + 22:
        raise zipfile.BadZipFile("no end of a zip file")
    # The sample inputs are a zip file too: without this, theirs is taken where the last bytes are gone.
    if at + 22 + int.from_bytes(data[at + 20 : at + 22], "little") != len(data):
        raise zipfile.BadZipFile("the end of a zip file is not at its end")
    (count,) = struct.unpack_from("<H", data, at + 10)
    (extent,) = struct.unpack_from("<I", data, at + 12)
    if count == 0xFFFF or extent == 0xFFFFFFFF:
        record = data.rfind(b"PK\x06\x06")
        if record < 0 or len(data) < record + 56:
            raise zipfile.BadZipFile("no end of a zip64 file")
        count, extent = struct.unpack_from("<QQ", data, record + 32)
    # 46 bytes and the name for each; torch's alignment padding is in the local headers.
    if count > MAX_MEMBERS or extent > MAX_MEMBERS * (46 + MAX_NAME):
        raise InputFileError(
            f"{path}: refused. Its table of contents claims {count:,} members; torch.export.save "
            f"writes a few hundred. {AGAIN}"
        )


def _check_members(path: Path, archive: zipfile.ZipFile, size: int) -> None:
    entries = archive.infolist()
    for entry in entries:
        name = entry.filename
        # `zipfile` cuts names at a zero byte and turns separators: what it was is in orig_filename.
        spelt = entry.orig_filename
        parts = spelt.split("/")
        if spelt != name or "\\" in spelt or ".." in parts or spelt.startswith("/") or ":" in spelt:
            raise unsupported_file_error(path, f"a member is called {spelt[:80]!r}")
        if len(spelt) > MAX_NAME:
            raise unsupported_file_error(path, f"a member has a name of {len(spelt):,} characters")
        if entry.flag_bits & 1:
            raise unsupported_file_error(path, f"{name} is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise unsupported_file_error(
                path,
                f"{name} is compressed, which torch.export.save never does; unpacked it may fill the memory",
            )
    double = [name for name, count in Counter(e.filename for e in entries).items() if count > 1]
    if double:
        raise unsupported_file_error(path, f"{double[0]} is there twice")
    claimed = sum(entry.file_size for entry in entries)
    if claimed > size:
        raise unsupported_file_error(
            path, f"its members claim {claimed:,} bytes of a file of {size:,}"
        )


def root_of(path: Path, archive: zipfile.ZipFile) -> str:
    """The folder that everything is in, with its slash; older writers have none."""
    names = archive.namelist()
    found = [name for name in names if name.rpartition("/")[2] == "archive_format"]
    if not found:
        if "serialized_exported_program.json" in names:
            raise InputFileError(
                f"{path}: written by torch before 2.8, whose weights are pickles. Load it there, or with "
                f"a newer torch where you trust it. {AGAIN}"
            )
        raise InputFileError(
            f"{path}: a zip file, but not one of torch.export.save. {_what_else(names)}"
        )
    entry = archive.getinfo(found[0])
    if len(found) > 1 or entry.file_size > 16 or read_member(path, archive, found[0]) != b"pt2":
        raise unsupported_file_error(
            path, "it says of itself that it is something else than a pt2 archive"
        )
    return found[0][: -len("archive_format")]


def _what_else(names: list[str]) -> str:
    if any(name.endswith("constants.pkl") for name in names):
        return "It is TorchScript: " + AGAIN
    if any(name.endswith("data.pkl") for name in names):
        return "It looks like torch.save's: call it .pt."
    return AGAIN


def model_of(path: Path, root: str, names: set[str]) -> str:
    prefix = f"{root}models/"
    models = sorted(
        name[len(prefix) : -len(".json")]
        for name in names
        if name.startswith(prefix) and name.endswith(".json")
    )
    if not models:
        compiled = any(name.startswith(f"{root}data/aotinductor/") for name in names)
        what = "compiled code, not a program" if compiled else "no program"
        raise InputFileError(f"{path}: holds {what}. {AGAIN}")
    if len(models) > 1 and "model" not in models:
        raise InputFileError(
            f"{path}: holds {len(models)} programs ({', '.join(models[:5])}); edgekd takes one. {AGAIN}"
        )
    model = "model" if "model" in models else models[0]
    for kind in ("weights", "constants"):
        if f"{root}data/{kind}/{model}.pt" in names:
            raise pickled_file_error(path, f"data/{kind}/{model}.pt")
    return model


def read_member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise damaged_file_error(path, str(error)) from error


def unsupported_file_error(path: Path, why: str) -> InputFileError:
    return InputFileError(f"{path}: refused, {why}. Nothing was executed. {AGAIN}")


def damaged_file_error(path: Path, why: str) -> InputFileError:
    return InputFileError(
        f"{path}: cannot be read as a .pt2 archive ({why[:240]}). Was the copy cut short? {AGAIN}"
    )


def pickled_file_error(path: Path, name: str) -> InputFileError:
    return InputFileError(
        f"{path}: refused. The values of {name[:80]} are a pickle, which can run code when it is loaded. "
        f"Nothing was executed. {AGAIN} torch 2.9 and newer write plain bytes; or pass --trust-pickle "
        "if you trust its author."
    )
