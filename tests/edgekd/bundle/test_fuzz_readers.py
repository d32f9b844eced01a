"""Readers of what nobody has vouched for: whatever comes, an error of ours or a result."""

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edgekd.bundle import (
    archive,
    layout,
    packing,
    signing,
    verification,
)
from edgekd.errors import EdgekdError, IntegrityError
from edgekd.records import from_json
from edgekd.records.manifest import Manifest, Report
from tests.conftest import REPOSITORY
from tests.edgekd.bundles import key_pair, reseal, write_bundle


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz")
    folder = write_bundle(place / "b")
    for name in ("b.tar", "b.tar.zst"):
        packing.pack(folder, place / name, date=archive.DEFAULT_DATE, force=False)
    key_pair(place)
    return place


@st.composite
def edits(draw, size):
    """Up to four changes of bytes: (place, how many go, what comes)."""
    places = st.integers(0, size - 1)
    lengths = st.sampled_from([0, 1, 1, 8, 512])
    return draw(
        st.lists(st.tuples(places, lengths, st.binary(max_size=16)), min_size=1, max_size=4)
    )


def edited(data, changes):
    for place, gone, come in changes:
        data = data[:place] + come + data[place + gone :]
    return data


@pytest.mark.parametrize("name", ["b.tar", "b.tar.zst"])
@hypothesis_settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_archives_that_were_changed_anyhow(place, name, data):
    whole = (place / name).read_bytes()
    changed = edited(whole, data.draw(edits(len(whole))))
    path = place / f"fuzzed-{name}"
    path.write_bytes(changed)
    if changed == whole:
        return
    try:
        verification.verify_bundle(path)
    except IntegrityError:
        return
    # Bits of zstd that say nothing of what is inside; a plain archive has none.
    assert name == "b.tar.zst"


@hypothesis_settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=2000))
def test_bytes_that_are_no_archive(place, data):
    for name in ("x.tar", "x.tar.zst"):
        (place / name).write_bytes(data)
        with pytest.raises(IntegrityError):
            verification.verify_bundle(place / name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def paths_in(value, above=()):
    """Every place in a tree of JSON."""
    yield above
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from paths_in(inner, (*above, key))


def with_value(tree, path, value):
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = with_value(tree[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize(("name", "kind"), [("manifest", Manifest), ("report", Report)])
@hypothesis_settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_records_with_anything_anywhere(place, name, kind, data):
    tree = json.loads((place / "b" / f"{name}.json").read_text())
    path = data.draw(st.sampled_from(list(paths_in(tree))))
    text = json.dumps(with_value(tree, path, data.draw(json_values)))
    try:
        from_json(kind, text, origin="x", schema=name)
    except EdgekdError:
        return


@hypothesis_settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_bundles_whose_manifest_holds_anything_under_sums_that_hold(place, data):
    """What a forger without the key can write."""
    folder = place / "b"
    kept = (folder / "manifest.json").read_text()
    tree = json.loads(kept)
    path = data.draw(st.sampled_from(list(paths_in(tree))))
    try:
        changed = with_value(tree, path, data.draw(json_values))
        (folder / "manifest.json").write_text(json.dumps(changed))
        reseal(folder)
        try:
            found = verification.verify_bundle(folder)
        except EdgekdError:
            return
        # Another way to write the same values: 1.0 for 1.
        assert found.manifest == from_json(Manifest, kept, origin="x", schema="manifest")
    finally:
        (folder / "manifest.json").write_text(kept)
        reseal(folder)


@pytest.mark.parametrize(
    "value",
    ['"\\ud800"', "1" * 5000, "1e999", "-1e999", "NaN", "[" * 100_000, '{"\\udc00": 1}', "1e-999"],
)
@pytest.mark.parametrize(
    "key", ["made_with", "classes", "warnings", "data_used", "tolerance", "value"]
)
def test_values_that_json_can_say_and_records_cannot_hold(place, key, value):
    folder = place / "b"
    kept = (folder / "manifest.json").read_text()
    changed = re.sub(
        rf'"{key}": ("[^"]*"|[^,\[{{\n]+|\[[^\]]*\]|{{[^}}]*}})',
        lambda _: f'"{key}": {value}',
        kept,
        count=1,
    )
    assert changed != kept
    try:
        (folder / "manifest.json").write_text(changed)
        reseal(folder)
        with pytest.raises(EdgekdError):
            verification.verify_bundle(folder)
    finally:
        (folder / "manifest.json").write_text(kept)
        reseal(folder)


@hypothesis_settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=500) | st.text(max_size=200).map(str.encode))
def test_anything_as_a_record_a_signature_or_sums(place, data):
    with pytest.raises(EdgekdError):
        from_json(Manifest, data, origin="x", schema="manifest")
    keys = [signing.public_key(place / "release.pub")]
    assert signing.fault(data, kind="archive", digest="0" * 64, trusted=keys) is not None
    sums = place / "b" / layout.SUMS
    kept = sums.read_bytes()
    try:
        sums.write_bytes(data)
        with pytest.raises(IntegrityError):
            verification.verify_bundle(place / "b")
    finally:
        sums.write_bytes(kept)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_atheris_finds_nothing_in_ten_minutes(place):
    pytest.importorskip(
        "atheris", reason="the extra soak is not installed: no wheel for this Python"
    )
    command = [
        sys.executable,
        str(REPOSITORY / "tests/edgekd/bundle/fuzz_archive.py"),
        str(place),
        "300",
    ]
    for what in ("archive", "manifest"):
        ran = subprocess.run([*command, what], capture_output=True, text=True, cwd=REPOSITORY)
        assert ran.returncode == 0, ran.stderr[-4000:]
