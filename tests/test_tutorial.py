"""The tutorial, as a reader would follow it."""

import pytest

from tests import console
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "tutorial.md"


@pytest.mark.slow
def test_the_tutorial_does_what_it_shows(tmp_path):
    text = PAGE.read_text()
    folder = tmp_path / "tutorial"
    folder.mkdir()
    environment = console.tools(tmp_path / "bin")
    for block in console.blocks(text, "python"):
        name, _, _ = block.partition("\n")
        (folder / name.removeprefix("# ")).write_text(block)
    written = {path.name for path in folder.iterdir()}
    assert written == {"run.py"}
    (folder / "run.py").rename(tmp_path / "run.py")  # the reader has not come to it yet
    for block in console.blocks(text, "console"):
        if "python run.py" in block:
            (tmp_path / "run.py").rename(folder / "run.py")
        console.run(block, cwd=folder, environment=environment)
    assert (folder / "run.py").is_file()


def test_a_line_that_is_not_printed_is_noticed():
    block = "$ printf 'step 12 of 60\\nloss 0.5\\n'\nstep 7 of 9\n...\nloss 0.25\n"
    console.met(console.commands(block)[0], "step 12 of 60\nloss 0.5\n")
    for printed in ("", "loss 0.5\nstep 12 of 60\n", "step x of 60\nloss 0.5\n"):
        with pytest.raises(AssertionError, match="not printed"):
            console.met(console.commands(block)[0], printed)


def test_an_exit_code_that_is_not_said_is_noticed(tmp_path):
    environment = console.tools(tmp_path / "bin")
    with pytest.raises(AssertionError, match="exit code 3"):
        console.run("$ (exit 3)\n", cwd=tmp_path, environment=environment)
    console.run("$ (exit 3)\n$ echo $?\n3\n", cwd=tmp_path, environment=environment)
