import threading

import pytest

from edgekd.errors import OutputError
from edgekd.files import (
    check_writable,
    check_writable_file,
    new_file,
    new_folder,
    write_atomically,
    write_together,
)
from edgekd.sole_writer import left_by_killed, remove_at_once, sole_writer, until_the_end


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


@pytest.mark.parametrize("name", ["f", "f[1]", "*"])
def test_what_a_killed_writer_of_a_file_left_is_removed(tmp_path, name):
    for leftover in ("123", "123-probe", "lock", "new"):
        (tmp_path / f".{name}.tmp-{leftover}").write_text("half")
    (tmp_path / ".other.tmp-1").write_text("of another output")
    write_atomically(tmp_path / name, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".other.tmp-1", name])


@pytest.mark.parametrize("form", ["file", "folder"])
def test_leftovers_of_either_form_are_removed_for_either(tmp_path, form):
    (tmp_path / ".out.tmp-1").write_text("a file")
    (tmp_path / ".out.tmp-2").mkdir()
    (tmp_path / ".out.tmp-3").symlink_to(tmp_path)
    if form == "file":
        write_atomically(tmp_path / "out", "new")
    else:
        fill(tmp_path / "out", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_was_only_moved_aside_goes_back(tmp_path):
    fill(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.tmp-old")
    with pytest.raises(BrokenError):
        fill(tmp_path / "out", "new", fail=True, force=True)
    assert (tmp_path / "out" / "file").read_text() == "old"


class KilledError(BaseException):
    """As a signal is raised."""


def killed():
    raise KilledError


@pytest.mark.parametrize("form", ["file", "folder"])
def test_an_output_whose_run_was_killed_after_it_is_written_again(tmp_path, form):
    out = tmp_path / "out"

    def write(done=None):
        if form == "file":
            check_writable_file(out, force=False)
            write_atomically(out, "new", done=done)
        else:
            check_writable(out, force=False)
            with new_folder(out, force=False, done=done) as folder:
                (folder / "file").write_text("new")

    with pytest.raises(KilledError):
        write(killed)
    assert left_by_killed(out)
    write()
    assert not left_by_killed(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OutputError, match="exists"):
        write()


def test_an_output_of_somebody_else_is_not_taken_for_that_of_a_killed_run(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KilledError):
        write_atomically(out, "new", done=killed)
    out.unlink()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "mine").rename(out)
    with pytest.raises(OutputError, match="exists"):
        check_writable_file(out, force=False)
    assert out.read_text() == "mine"


def test_what_is_interrupted_before_it_is_in_place_leaves_nothing(tmp_path):
    with pytest.raises(KilledError), new_folder(tmp_path / "out", force=False):
        killed()
    with pytest.raises(KilledError), new_file(tmp_path / "f"):
        killed()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    with new_folder(tmp_path / "out", force=True) as folder:
        with (
            pytest.raises(OutputError, match="another edgekd"),
            new_folder(tmp_path / "out", force=True),
        ):
            pass
        (folder / "file").write_text("first")
    assert (tmp_path / "out" / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_are_written_one_after_the_other(tmp_path):
    def write(number):
        with new_file(tmp_path / "f") as stream:
            for _ in range(100):
                stream.write(f"{number}\n".encode())

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "f").read_text().splitlines()
    assert len(lines) == 100
    assert len(set(lines)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_command_holds_its_outputs_until_it_ends(tmp_path):
    out = tmp_path / "out"
    with until_the_end():
        fill(out, "new")
        write_together([(tmp_path / "a", lambda: "a"), (tmp_path / "b", lambda: "b")])
        assert left_by_killed(out)
        assert [left_by_killed(tmp_path / name) for name in "ab"] == [True, False]
        # Once more in the same command
        fill(out, "newer", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]
    assert (out / "file").read_text() == "newer"


def test_of_several_files_the_first_is_marked_until_the_last_is_there(tmp_path):
    def broken():
        raise KilledError

    with pytest.raises(KilledError):
        write_together([(tmp_path / "a", lambda: "a"), (tmp_path / "b", broken)])
    assert left_by_killed(tmp_path / "a")
    with sole_writer(tmp_path / "a", wait=False):
        pass
    assert not left_by_killed(tmp_path / "a")


def test_a_folder_beside_an_output_goes_at_once(tmp_path):
    beside, going = tmp_path / "out.run", tmp_path / ".out.tmp-run"
    for folder in (beside, going):
        folder.mkdir()
        (folder / "state").write_text("")
    remove_at_once(beside, of=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
