"""What runs on a board after an update: made once, tried, and the last good one kept."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.transport.agent_zipapp import agent_archive
from tests.bench.booting import current_is_whole, digest, save_bundle, start
from tests.standin.cudart import Cudart

STANDIN = Path(__file__).parents[2] / "standin"


@pytest.fixture
def bundles(tmp_path):
    return [save_bundle(tmp_path / f"bundle-{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def status(state):
    return json.loads((state / "status.json").read_text())


def made(state):
    return sorted(each.name for each in state.iterdir() if re.match("[0-9a-f]{16}-", each.name))


def test_the_first_start_makes_and_tries_it_and_the_second_takes_it(bundles, state):
    first = start(bundles[0], state)["firstboot"]
    assert not first["reused"]
    assert first["parity"]["top1_agreement"] == 1.0
    assert current_is_whole(state) == digest(bundles[0])
    assert (state / "current").resolve() == Path(first["file"]).resolve().parent
    before = Path(first["file"]).stat()
    second = start(bundles[0], state)["firstboot"]
    assert second["reused"]
    assert Path(second["file"]).stat() == before
    assert status(state)["ok"]


def test_an_update_keeps_the_one_before_and_the_other_slot_takes_it_back(bundles, state):
    names = [start(bundle, state)["firstboot"]["current"] for bundle in bundles[:2]]
    assert made(state) == sorted(names)
    assert (state / "previous").readlink() == Path(names[0])
    back = start(bundles[0], state)["firstboot"]
    assert (back["reused"], back["current"], back["previous"]) == (True, names[0], names[1])
    third = start(bundles[2], state)["firstboot"]
    assert made(state) == sorted([names[0], third["current"]])


def test_one_that_answers_otherwise_is_not_kept_and_the_last_good_one_stays(
    bundles, state, tmp_path
):
    start(bundles[0], state)
    wrong = save_bundle(tmp_path / "wrong", seed=7, changed=True)
    with pytest.raises(RefusedError, match="golden vectors") as refused:
        start(wrong, state)
    assert refused.value.kind == "deviates"
    assert current_is_whole(state) == digest(bundles[0])
    assert not status(state)["ok"]
    assert "golden vectors" in status(state)["reason"]
    assert status(state)["current"] == (state / "current").readlink().name
    start(bundles[0], state)
    assert sorted(each.name for each in state.iterdir()) == sorted(
        ["current", "lock", "status.json", *made(state)]
    )


def test_another_processor_makes_it_anew(bundles, state, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("CPU part\t: 0xd42\nFeatures\t: fp asimd\n")
    first = start(bundles[0], state)["firstboot"]["current"]
    other = start(bundles[0], state, "--proc", tmp_path / "proc")["firstboot"]
    assert not other["reused"]
    assert other["current"] != first


@pytest.mark.parametrize("damage", ["bits", "missing", "record"])
def test_a_damaged_one_is_made_anew_under_another_name(bundles, state, damage):
    first = start(bundles[0], state)["firstboot"]
    file = Path(first["file"])
    if damage == "bits":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "missing":
        file.unlink()
    else:
        file.with_name("record.json").write_text("{")
    second = start(bundles[0], state)["firstboot"]
    assert not second["reused"]
    assert second["current"] != first["current"]
    assert current_is_whole(state) == digest(bundles[0])
    assert made(state) == [second["current"]]


def test_what_a_cut_start_left_is_removed(bundles, state):
    (state / ".new").mkdir(parents=True)
    (state / ".new" / "model.onnx").write_text("half")
    (state / ".old-0123456789abcdef-1").mkdir()
    (state / ".link").symlink_to("nowhere")
    start(bundles[0], state)
    assert [each.name for each in state.iterdir() if each.name.startswith(".")] == []


def test_two_starts_do_not_meet(bundles, state):
    start(bundles[0], state)
    with (state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RefusedError, match="another start") as refused:
            start(bundles[0], state)
    assert refused.value.kind == "busy"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda bundle: (bundle / "manifest.json").unlink(), "No such file"),
        (lambda bundle: (bundle / "manifest.json").write_text("{}"), "schema"),
        (lambda bundle: (bundle / "manifest.json").write_text("[" * 9), "manifest.json"),
        (lambda bundle: (bundle / "model-fp32.onnx").write_text("another"), "SHA-256"),
        (lambda bundle: (bundle / "golden-fp32.json").write_text("{}"), "SHA-256"),
        (lambda bundle: (bundle / "logits.bin").write_bytes(b"\0" * 48), "digest does not hold"),
    ],
    ids=["no manifest", "empty", "no json", "model", "vectors", "values"],
)
def test_a_bundle_that_is_not_what_was_made_is_refused_and_nothing_changes(
    bundles, state, change, why
):
    start(bundles[0], state)
    change(bundles[1])
    with pytest.raises(RefusedError, match=why):
        start(bundles[1], state)
    assert current_is_whole(state) == digest(bundles[0])
    assert not status(state)["ok"]


@pytest.mark.parametrize(("version", "is_read"), [(1, True), (2, True), (3, False), (None, False)])
def test_manifests_of_formats_1_and_2_are_read(bundles, state, version, is_read):
    path = bundles[0] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
    if is_read:
        start(bundles[0], state)
        assert current_is_whole(state) == digest(bundles[0])
    else:
        with pytest.raises(RefusedError, match="not a manifest of format 1 or 2"):
            start(bundles[0], state)


def test_a_precision_without_a_model_is_refused(bundles, state):
    with pytest.raises(RefusedError, match="no int8 model"):
        start(bundles[0], state, "--precision", "int8")


def test_a_state_that_cannot_be_written_is_named(bundles, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError, match="file") as refused:
        start(bundles[0], tmp_path / "file")
    assert refused.value.kind == "state"


# --- as a process ---------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path):
    (tmp_path / "agent.pyz").write_bytes(agent_archive())
    return [sys.executable, str(tmp_path / "agent.pyz"), "firstboot"]


def test_the_archive_runs_it_and_its_code_says_how_it_ended(agent, bundles, state, tmp_path):
    words = ["--state", str(state), "--bundle"]
    done = subprocess.run([*agent, *words, str(bundles[0])], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "end"}
    wrong = save_bundle(tmp_path / "wrong", seed=7, changed=True)
    done = subprocess.run([*agent, *words, str(wrong)], capture_output=True, text=True)
    assert done.returncode == 4
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == [
        "hello",
        "kept",
        "refused",
    ]


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace: apt install strace")
@pytest.mark.parametrize("updates", [0, 2])
def test_data_is_flushed_before_the_names_that_lead_to_it(agent, bundles, state, tmp_path, updates):
    """The kernel's own record of the calls, in order: what a power cut could leave."""
    state.mkdir()
    for bundle in bundles[:updates]:
        start(bundle, state)
    log = tmp_path / "calls"
    traced = ["strace", "-f", "-y", "-o", str(log), "-e"]
    traced.append(
        "trace=?open,openat,write,?pwrite64,fsync,?rename,?renameat,?renameat2,?symlink,?symlinkat"
    )
    command = [*traced, *agent, "--bundle", str(bundles[2]), "--state", str(state)]
    subprocess.run(command, check=True, capture_output=True)
    calls = _calls(log.read_text(), state)
    name = (state / "current").readlink().name
    dirty: set[str] = set()
    named: set[str] = set()  # renamed or linked, and its folder not flushed since
    published = removed = False
    for call, path, to in calls:
        if call == "write":
            dirty.add(path)
        elif call == "fsync":
            dirty.discard(path)
            if path == ".":
                named.clear()
        elif call in {"rename", "symlink"}:
            inside = {each for each in dirty if each == path or each.startswith(f"{path}/")}
            assert not inside, f"{to} leads to {inside}, which may not be on the disk"
            if to == name:
                published = True
                assert ("fsync", ".new", "") in calls[: calls.index((call, path, to))]
            if (path, to) == (".link", "current"):
                assert published
                assert name not in named, "current leads to a name that may not be on the disk"
            if to.startswith(".old-"):
                assert not named & {"current", "previous"}, "removed before the link is on the disk"
                removed = True
            named.add(to)
    assert ("rename", ".link", "current") in calls
    assert removed == (updates == 2)
    assert not named & {name, "current", "previous", "status.json"}, "not flushed at the end"


def _calls(text, state):
    """(call, path, new path), relative to the state's folder; only of what lies in it."""
    found = []
    patterns = {
        "write": r"p?write(?:64)?\(\d+<(?P<path>[^>]+)>",
        "fsync": r"fsync\(\d+<(?P<path>[^>]+)>",
        "rename": r'rename(?:at2?)?\((?:AT_FDCWD[^,]*, )?"(?P<path>[^"]+)", (?:AT_FDCWD[^,]*, )?"(?P<to>[^"]+)"',
        "symlink": r'symlink(?:at)?\("(?P<what>[^"]*)", (?:AT_FDCWD[^,]*, )?"(?P<path>[^"]+)"',
    }
    for line in text.splitlines():
        for call, pattern in patterns.items():
            match = re.search(pattern, line)
            if match is not None and match["path"].startswith(str(state)):
                names = [match["path"], match.groupdict().get("to") or ""]
                path, to = (os.path.relpath(each, state) if each else "" for each in names)
                found.append((call, path, to))
    assert len(found) > 10, text[-2000:]
    return found


# --- on TensorRT, which is stood in for -----------------------------------------------------------


@pytest.fixture(params=[1, "N"], ids=["one image", "open batch"])
def board(request, tmp_path, monkeypatch, state):
    bundle = save_bundle(tmp_path / "bundle", seed=0, runtime="tensorrt", batch=request.param)
    monkeypatch.syspath_prepend(STANDIN)

    def run(version, fails=""):
        monkeypatch.setenv("STANDIN_TENSORRT", version)
        monkeypatch.setenv("STANDIN_FAILS", fails)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
        library = Cudart()
        try:
            return start(bundle, state, "--root", tmp_path, library=library)["firstboot"]
        finally:
            assert not library.held

    return run


def test_an_engine_is_built_for_each_tensorrt_and_taken_back(board, state):
    first = board("10.3.0")
    assert (first["runtime"], first["tensorrt"]) == ("tensorrt", "10.3.0")
    assert Path(first["file"]).name == "model.engine"
    assert json.loads((state / "current" / "record.json").read_text())["precision"] == "fp16"
    update = board("10.13.3")
    assert not update["reused"]
    assert update["previous"] == first["current"]
    back = board("10.3.0")
    assert back["reused"]
    assert back["current"] == first["current"]


def test_an_engine_that_cannot_be_built_leaves_the_last_good_one(board, state):
    first = board("10.3.0")
    with pytest.raises(RefusedError):
        board("10.13.3", fails="build")
    assert (state / "current").readlink().name == first["current"]
    assert not status(state)["ok"]
