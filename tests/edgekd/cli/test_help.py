"""What the help says of each command, argument and option."""

import re

import pytest

from edgekd.cli.framework import completion
from edgekd.cli.generate import commands as reference

COMMANDS = reference.commands()
# Fragments that make sense only after the option's name, and words of another time.
FRAGMENTS = re.compile(
    r"^(Of|At|For|With|Likewise|Into|That|Whose|What that|How far)\b|\ba class\b|\ban image\b"
)


def parameters(command):
    return [part for part in command.params if part.name != "help" and not part.hidden]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_part_of_a_command_has_a_sentence_of_its_own(name):
    texts = [part.help for part in parameters(COMMANDS[name])]
    assert all(texts), [part.name for part in parameters(COMMANDS[name]) if not part.help]
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert text[0].isupper() or text.startswith((".", "edgekd")), text
        assert text.endswith((".", ".)")), text
        assert FRAGMENTS.search(text) is None, text
        assert "|" not in text, text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_described_by_a_verb(name):
    described = COMMANDS[name].help or ""
    first = described.split()[0]
    assert first in {
        "Attach", "Check", "Compare", "Condense", "Describe", "Estimate", "Evaluate", "Export", "Find", "Import", "List",
        "Make", "Measure", "Pack", "Pull", "Push", "Remove", "Show", "Synthesize", "Train", "Verify", "Write",
    }  # fmt: skip
    assert described.rstrip().endswith("."), described


@pytest.mark.parametrize("name", COMMANDS)
def test_a_default_is_stated_once(name):
    """By the library where there is a value, and in the text only where there is none."""
    for part in parameters(COMMANDS[name]):
        shown = part.param_type_name == "option" and part.default not in {None, False, True}
        if shown and not callable(part.default):
            assert "(default" not in (part.help or ""), part.name


def test_the_word_for_the_default_verb_is_never_shown():
    assert not any(completion.DEFAULT_VERB in name for name in COMMANDS)
