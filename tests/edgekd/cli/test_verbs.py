"""Groups with a default verb: words that are verbs, paths, or both."""

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_verb_is_a_verb_where_no_path_bears_its_name(edgekd):
    code, _, err = edgekd("export", "check", "-t", "jetson")
    assert (code, "Missing argument 'MODEL'" in err) == (2, True)


@pytest.mark.parametrize("written", ["check", "./check"])
def test_a_student_folder_with_a_verbs_name_is_exported(edgekd, folder, written):
    (folder / "check").mkdir()
    code, _, err = edgekd("export", written, "-t", "jetson")
    # It gets as far as looking into the folder.
    assert (code, "check/student.json" in err) == (2, True)


def test_a_rest_that_fits_the_verb_alone_makes_it_one(edgekd, folder):
    (folder / "check").mkdir()
    code, _, err = edgekd("export", "check", "model.onnx", "-t", "jetson")
    assert (code, "model.onnx" in err, "student.json" in err) == (2, True, False)


@pytest.mark.parametrize(
    ("group", "word", "rest"), [("bench", "compare", ["a.json"]), ("bench", "estimate", ["m.onnx"])]
)
def test_a_word_that_can_be_both_is_refused_with_how_to_write_each(
    edgekd, folder, group, word, rest
):
    (folder / word).write_text("")
    code, _, err = edgekd(group, word, *rest)
    assert code == 2
    assert f"`{word}` is a verb of `edgekd {group}`, and also a path here" in err
    assert f"edgekd {group} ./{word}" in err
    assert f"`edgekd {group} {word}` in another folder" in err
    # As a path it is taken for a model: another one of its kind is not there.
    code, _, err = edgekd(group, f"./{word}", *rest)
    assert (code, "is a verb" in err) == (2, False)


def test_help_of_a_verb_is_its_own_and_that_of_the_group_names_the_verbs(edgekd, folder):
    (folder / "check").mkdir()
    code, out, _ = edgekd("export", "check", "--help")
    assert (code, "export check [OPTIONS]" in out) == (0, True)
    code, out, _ = edgekd("export", "--help")
    assert code == 0
    assert "edgekd export check model.onnx" in out
    assert "(default)" not in out


def test_the_default_verb_cannot_be_typed(edgekd):
    code, _, err = edgekd("export", "(default)", "-t", "jetson")
    assert (code, "(default)/student.json" in err) == (2, True)
