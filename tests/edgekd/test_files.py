import pytest

from edgekd.errors import OutputError
from edgekd.files import new_folder, write_atomically


class BrokenError(Exception):
    pass


def fill(folder, content, *, fail=False, force=False):
    with new_folder(folder, force=force) as inside:
        (inside / "file").write_text(content)
        if fail:
            raise BrokenError


def test_a_folder_appears_whole(tmp_path):
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_what_was_there(tmp_path):
    fill(tmp_path / "out", "old")
    with pytest.raises(BrokenError):
        fill(tmp_path / "out", "new", fail=True, force=True)
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_exchanges_the_folder_and_removes_the_old(tmp_path):
    fill(tmp_path / "out", "old")
    fill(tmp_path / "out", "new", force=True)
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_force_an_existing_folder_is_refused(tmp_path):
    fill(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="--force"):
        fill(tmp_path / "out", "new")


def test_what_a_killed_run_left_is_removed(tmp_path):
    (tmp_path / ".out.tmp-123").mkdir()
    (tmp_path / ".out.tmp-123" / "half").write_text("")
    fill(tmp_path / "out", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_replaced_in_one_step(tmp_path):
    (tmp_path / "f").write_text("old")
    write_atomically(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
