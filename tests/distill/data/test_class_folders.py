"""Which class a folder is: by name, by number, by order, and what is asked about instead."""

from pathlib import Path

import pytest

from edgekd.distill.data.class_folders import is_left_out, number_folders
from edgekd.errors import InputFileError

SET = Path("set")
ANIMALS = ("zebra", "polar bear", "ant")


def numbered(folders, classes=None, names=None):
    found, notes = number_folders(SET, folders, classes=classes, class_names=names)
    return found.tolist(), " ".join(notes)


@pytest.mark.parametrize(
    ("folders", "classes", "names", "expected", "said"),
    [
        pytest.param(["0", "1", "10", "2"], 11, None, [0, 1, 10, 2], "as text", id="numbers"),
        pytest.param(["00", "01", "02"], 3, None, [0, 1, 2], "", id="padded"),
        pytest.param(["03", "05", "08"], 12, None, [3, 5, 8], "3, 5, 8", id="some-numbers"),
        pytest.param(["1", "2", "3"], 3, None, [0, 1, 2], "from 1", id="from-one"),
        pytest.param(["1", "10", "2"], 11, ANIMALS, [1, 10, 2], "", id="numbers-beside-names"),
        pytest.param(["ant", "zebra"], 3, ANIMALS, [2, 0], "", id="names"),
        pytest.param(["Polar_Bear"], 3, ANIMALS, [1], "Polar_Bear is polar bear", id="alike"),
        pytest.param(["7", "3"], 2, ("3", "7"), [1, 0], "", id="numbers-as-names"),
        pytest.param(["01", "02"], 2, ("1", "2"), [0, 1], "", id="padded-numbers-as-names"),
        pytest.param(["tench"], 1, ("tench, Tinca tinca",), [0], "tench", id="one-of-its-names"),
        pytest.param(["n01", "n02"], 2, None, [0, 1], "", id="sorted"),
        pytest.param(["cafe\u0301"], 1, ("caf\u00e9",), [0], "", id="accents-of-macos"),
        pytest.param(["0", "1", "2"], None, None, [0, 1, 2], "", id="all-there-are"),
        pytest.param(
            [*map(str, range(1, 11))], None, None, [*range(10)], "from 1", id="all-from-1"
        ),
        pytest.param(["c1", "c10", "c2"], None, None, [0, 1, 2], "two orders", id="all-as-text"),
    ],
)
def test_folders_are_the_classes_that_they_are_called_after(
    folders, classes, names, expected, said
):
    found, notes = numbered(folders, classes, names)
    assert found == expected
    assert said in notes


@pytest.mark.parametrize(
    ("folders", "classes", "names", "said"),
    [
        pytest.param(["ant", "horse"], 3, ANIMALS, "called horse", id="no-such-name"),
        pytest.param(["a", "b", "c"], 3, ANIMALS, "called a, b, c", id="other-names"),
        pytest.param(["ant", "Ant"], 3, ANIMALS, "same class, 2", id="twice-by-name"),
        pytest.param(["3", "03"], 9, None, "same class, 3", id="twice-by-number"),
        pytest.param(["crane"], 2, ("crane", "crane"), "several classes", id="two-of-a-name"),
        pytest.param(["1", "2", "3"], 12, None, "or from 1", id="either-count"),
        pytest.param(["3", "12"], 12, None, "counted from 1", id="one-too-many"),
        pytest.param(["0", "12"], 12, None, "0 to 11", id="beyond"),
        pytest.param(["c1", "c10", "c2"], 3, None, "in the order of", id="two-orders"),
        pytest.param(["n01", "n02"], 1000, None, "2 folders", id="synsets-of-some"),
        pytest.param(["train", "val"], 2, None, "parts of a set", id="parts"),
        pytest.param(["3", "5"], None, None, "every number from 0", id="gaps"),
    ],
)
def test_what_fits_no_class_or_several_is_asked_about(folders, classes, names, said):
    with pytest.raises(InputFileError, match=said) as caught:
        numbered(folders, classes, names)
    assert caught.value.exit_code == 2


def test_folders_of_tools_are_no_classes():
    assert all(map(is_left_out, (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git")))
    assert not any(map(is_left_out, ("cat", "_other", "0")))
