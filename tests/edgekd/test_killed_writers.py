"""Commands that are killed at every system call that writes: repeated, they end with the same bytes and nothing beside them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from edgekd.bundle import archive, packing
from tests.edgekd.bundles import key_pair, write_bundle

# Reading, mapping and closing change nothing on the disk
CALLS = (
    "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "link", "unlink", "unlinkat",
    "mkdir", "mkdirat", "rmdir", "flock", "sendfile", "copy_file_range",
)  # fmt: skip
LINE = re.compile(r"^(?:\d+ +)?(\w+)\(", re.MULTILINE)
# Of one kind: a long run of writes into one temporary file is one state to a reader of the disk
MOST = 2
ARGUMENTS = {
    "pack": ("bundle", "pack", "b", "--out", "b.tar"),
    "pack compressed": ("bundle", "pack", "b", "--out", "b.tar.zst"),
    "pack anew": ("bundle", "pack", "b", "--out", "old.tar", "--force"),
    "unpack": ("bundle", "unpack", "there.tar", "--out", "u"),
    "unpack over": ("bundle", "unpack", "there.tar", "--out", "c", "--force"),
    "sign a folder": ("bundle", "sign", "b", "--key", "release.pem"),
    "sign an archive": ("bundle", "sign", "there.tar", "--key", "release.pem", "--public", "public.pem"),
    "page": ("bundle", "report", "b"),
    "page elsewhere": ("bundle", "report", "b", "--out", "page.html"),
}  # fmt: skip


def trace(arguments, place, *options):
    """Run a command of edgekd under strace."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    return subprocess.run(
        ["strace", "-f", "-qq", *options, sys.executable, "-m", "edgekd", *arguments],
        cwd=place, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def strace():
    if shutil.which("strace") is None:
        pytest.skip("no strace: Debian's strace")
    tried = subprocess.run(["strace", "-qq", "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"strace may not trace here: {tried.stderr.strip()[:80]}")


def begin(place):
    """What a command starts from."""
    place.mkdir()
    write_bundle(place / "b")
    (place / "b" / "report.html").unlink(missing_ok=True)
    sums = place / "b" / "SHA256SUMS"
    kept = [
        line for line in sums.read_text().splitlines(True) if not line.endswith(" report.html\n")
    ]
    sums.write_text("".join(kept))
    packing.pack(place / "b", place / "there.tar", date=archive.DEFAULT_DATE, force=False)
    (place / "old.tar").write_bytes(b"of an earlier run")
    shutil.copytree(place / "b", place / "c")
    key_pair(place)
    return place


def state(place):
    """Every file with its bytes, and every folder."""
    return {
        path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(place.rglob("*"))
    }


def points(log):
    """Each call and its number, a few of each kind where there are many."""
    counts: dict[str, int] = {}
    for name in LINE.findall(log):
        counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        chosen = np.unique(np.linspace(1, count, min(count, MOST)).astype(int))
        for number in chosen.tolist():
            yield name, number


@pytest.mark.slow
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("what", ARGUMENTS)
def test_a_command_that_was_killed_anywhere_can_be_repeated(tmp_path, what):
    arguments = ARGUMENTS[what]
    begin(tmp_path / "begin")
    shutil.copytree(tmp_path / "begin", tmp_path / "whole")
    log = tmp_path / "log"
    done = trace(arguments, tmp_path / "whole", "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    assert done.returncode == 0, done.stderr
    expected = state(tmp_path / "whole")
    tried = 0
    for name, number in points(log.read_text()):
        place = tmp_path / "place"
        shutil.copytree(tmp_path / "begin", place)
        inject = f"inject={name}:signal=KILL:when={number}"
        killed = trace(arguments, place, "-o", os.devnull, "-e", f"trace={name}", "-e", inject)
        after = state(place)
        tried += 1
        if killed.returncode == 0:
            # A process that it started was killed, and it went on without
            assert after == expected, f"{name} {number}"
            shutil.rmtree(place)
            continue
        again = subprocess.run(
            [sys.executable, "-m", "edgekd", *arguments],
            cwd=place, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert again.returncode == 0, f"{name} {number}: {again.stderr}\n{sorted(after)}"
        assert state(place) == expected, f"{name} {number}"
        shutil.rmtree(place)
    assert tried > 5
