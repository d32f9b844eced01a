"""The power goes while `firstboot` runs: its disk as it is at random moments, each mounted and booted from."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.transport.agent_zipapp import agent_archive
from tests.bench.booting import current_is_whole, digest, save_bundle, start

MIB = 2**20
DISK = 16 * MIB
UPDATES, COPIES = 10, 10  # of each
# Between the calls that matter nothing happens for so long, so that moments fall there and not into the start of Python.
PAUSE_US = 60_000
CALLS = "?fsync,?rename,?renameat,?renameat2,?symlink,?symlinkat,?mkdir,?mkdirat,?unlink,?unlinkat"
NEEDED = ("strace", "mkfs.ext4", "losetup", "mount")
SEED = 5

pytestmark = pytest.mark.slow


def why_not(tmp_path):
    """Why disks cannot be mounted here; empty where they can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in NEEDED if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    try:
        with mounted(new_disk(tmp_path / "probe.img"), tmp_path / "probe"):
            return ""
    except subprocess.CalledProcessError as error:
        return f"no loop device can be mounted: {error.stderr}"


_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def run(*words):
    done = subprocess.run(
        list(map(str, words)),
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": _PATH},
    )
    return done.stdout.strip()


def new_disk(path):
    with path.open("wb") as stream:
        stream.truncate(DISK)
    run("mkfs.ext4", "-q", path)
    return path


@contextlib.contextmanager
def mounted(disk, place, *options):
    """Where a disk is mounted, and its device."""
    place.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", disk)
    try:
        run("mount", *options, device, place)
        try:
            yield device
        finally:
            run("umount", place)
    finally:
        run("losetup", "--detach", device)


def written(device):
    """What tells whether a device was written to: requests done, sectors, and those under way."""
    words = Path(f"/sys/block/{Path(device).name}/stat").read_text().split()
    return words[4], words[6], words[8], words[15:16]


def copied(disk, device, to):
    """The disk as it was at one moment: a copy during which something was written is taken again."""
    for _ in range(1000):
        before = written(device)
        shutil.copyfile(disk, to)
        if before == written(device) and before[2] == "0":
            return
    pytest.fail("the disk is written to without end")


def booted(copy, place, bundles, before):
    """A start from a copy: what was current, which must be whole, and then is the newest."""
    new = bundles[-1]
    with mounted(copy, place):
        state = place / "state"
        found = current_is_whole(state)
        allowed = {digest(new)} if before is None else {digest(before), digest(new)}
        assert found in allowed or (found is None and before is None)
        said = start(new, state)["firstboot"]
        assert current_is_whole(state) == digest(new)
        assert [each.name for each in state.iterdir() if each.name.startswith(".")] == []
    return found, said["reused"]


@pytest.mark.timeout(1200)
def test_there_is_always_a_valid_one_or_the_previous_one(tmp_path):
    reason = why_not(tmp_path)
    if reason:
        pytest.skip(reason)
    (tmp_path / "agent.pyz").write_bytes(agent_archive())
    draw = random.Random(SEED)
    disk = new_disk(tmp_path / "disk.img")
    found: list[tuple[str | None, bool]] = []
    bundles: list[Path] = []
    for number in range(UPDATES):
        before = bundles[-1] if bundles else None
        bundles.append(save_bundle(tmp_path / f"bundle-{number}", seed=number, wide=20_000))
        with mounted(disk, tmp_path / "board") as device:
            copies = cut(tmp_path, bundles[-1], disk, device, draw)
        for copy in copies:
            found.append(booted(copy, tmp_path / "copy", bundles, before))
            copy.unlink()
    assert len(found) == UPDATES * COPIES
    # Moments fell before and after the change, and between the making and the change.
    new = {digest(bundle) for bundle in bundles}
    assert {None} < {each for each, _ in found} <= {None} | new
    assert {reused for _, reused in found} == {True, False}


def cut(folder, bundle, disk, device, draw):
    """Copies of the disk at random moments of one start on it."""
    command = ["strace", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-e", f"trace={CALLS}"]
    command += ["-e", f"inject={CALLS}:delay_exit={PAUSE_US}", sys.executable]
    command += [str(folder / "agent.pyz"), "firstboot", "--bundle", str(bundle)]
    command += ["--state", str(folder / "board" / "state")]
    # The first tells how long a start takes; its disk is a copy, so that the next one has as much to do.
    shutil.copyfile(disk, folder / "dry.img")
    with mounted(folder / "dry.img", folder / "dry"):
        dry = [*command[:-1], str(folder / "dry" / "state")]
        began = time.monotonic()
        subprocess.run(dry, check=True, capture_output=True)
        takes_s = time.monotonic() - began
    moments = sorted(draw.uniform(0, takes_s) for _ in range(COPIES))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    began = time.monotonic()
    copies = []
    for number, moment in enumerate(moments):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        copies.append(folder / f"copy-{number}.img")
        copied(disk, device, copies[-1])
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    return copies


def test_a_full_disk_leaves_the_last_good_one_and_room_for_it(tmp_path):
    reason = why_not(tmp_path)
    if reason:
        pytest.skip(reason)
    small = save_bundle(tmp_path / "small", seed=0)
    large = save_bundle(tmp_path / "large", seed=1, wide=40_000)
    place = tmp_path / "full"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place)
    try:
        start(small, place / "state")
        with pytest.raises(RefusedError):
            start(large, place / "state")
        assert current_is_whole(place / "state") == digest(small)
        assert not json.loads((place / "state" / "status.json").read_text())["ok"]
        assert start(small, place / "state")["firstboot"]["reused"]
    finally:
        run("umount", place)


def test_without_flushing_a_damaged_one_would_be_seen(tmp_path):
    """The same with a kernel that flushes nothing when asked: what this test could not see, it could not promise."""
    reason = why_not(tmp_path)
    if reason:
        pytest.skip(reason)
    (tmp_path / "agent.pyz").write_bytes(agent_archive())
    bundle = save_bundle(tmp_path / "bundle", seed=0, wide=20_000)
    disk = new_disk(tmp_path / "disk.img")
    command = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=fsync"]
    command += ["-e", "inject=fsync:retval=0", sys.executable, str(tmp_path / "agent.pyz")]
    command += ["firstboot", "--bundle", str(bundle), "--state", str(tmp_path / "board" / "state")]
    with mounted(disk, tmp_path / "board", "-o", "commit=1") as device:
        subprocess.run(command, check=True, capture_output=True)
        time.sleep(3)  # names are on the disk after a second, and data after thirty
        copied(disk, device, tmp_path / "copy.img")
    with (
        mounted(tmp_path / "copy.img", tmp_path / "copy"),
        pytest.raises((AssertionError, ValueError)),
    ):
        current_is_whole(tmp_path / "copy" / "state")
