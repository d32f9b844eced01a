"""Every file that nobody vouches for is refused with its reason, and none of its code is run."""

import re

import pytest

from edgekd.distill.teachers.checkpoints import module_tree, safe_unpickle, zip_archive
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import InputFileError, UsageError
from edgekd.workflows.describe_teacher import describe_teacher, format_description
from tests.distill.teachers.checkpoints.untrusted import KINDS, LIMITS

# What can be described without its code is described, and its code left alone.
DESCRIBED = {
    "a_module_saved_whole",
    "a_scripted_module",
    "a_program_whose_sample_inputs_ask_for_a_call",
}


@pytest.fixture
def small_limits(monkeypatch):
    limited = {"OPCODES": safe_unpickle, "MEMBERS": zip_archive, "_DEEP": module_tree}
    for name, limit in LIMITS.items():
        monkeypatch.setattr(limited[name], name, limit)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", list(KINDS))
def test_untrusted_files_are_refused_and_nothing_of_them_is_run(tmp_path, name):
    folder = tmp_path / "files"
    folder.mkdir()
    make, message = KINDS[name]
    path = make(folder)
    try:
        found, _ = describe_teacher(path, TeacherOptions())
        told, described = format_description(found), True
    except (InputFileError, UsageError) as error:
        told, described = str(error), False
    assert not (folder / "created").exists(), told
    assert re.search(message, told), told
    assert described == (name in DESCRIBED), told


def test_there_are_thirty_kinds_and_more():
    assert len(KINDS) >= 30
