"""The documents against the disk and the source: links, messages, options, figures."""

import ast
import csv
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from edgekd.cli.framework import completion
from edgekd.cli.generate import commands as reference
from tests import console
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + PAGES
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
STAGES = ("edgekd", "distill", "export", "bench", "targets")


def name_of(path):
    return path.relative_to(REPOSITORY).as_posix()


def prose(path):
    return FENCE.sub("", path.read_text())


def anchors(path):
    """Of the headings, as GitHub and myst make them."""
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).lower()
        slug = kept.strip().replace(" ", "-")
        yield f"{slug}-{seen[slug]}" if seen[slug] else slug
        seen[slug] += 1


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        if anchor:
            assert anchor in set(anchors(target)), link


def test_every_page_is_in_the_table_of_contents():
    listed = []
    for match in re.finditer(
        r"^```\{toctree\}\n(.*?)^```$", (DOCS / "index.md").read_text(), re.MULTILINE | re.DOTALL
    ):
        listed += [line for line in match[1].splitlines() if line and not line.startswith(":")]
    pages = [page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES]
    assert sorted(listed) == sorted(set(pages) - {"index"})


def sphinx(pages, out):
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(pages), str(out)],
        capture_output=True,
        text=True,
    )


def test_sphinx_builds_the_pages_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the extra docs is not installed: make docs")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    ran = sphinx(DOCS, tmp_path)
    assert ran.returncode == 0, ran.stderr
    fetched = re.compile(r"""(?:src=|<link[^>]*href=|url\()["']?https?:""")
    for page in [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]:
        assert fetched.search(page.read_text(encoding="utf-8")) is None, page.name


def test_sphinx_refuses_a_link_that_leads_nowhere(tmp_path):
    pytest.importorskip("sphinx", reason="the extra docs is not installed: make docs")
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "edgekd").mkdir()
    shutil.copy(REPOSITORY / "edgekd" / "__init__.py", tmp_path / "edgekd")
    with (tmp_path / "docs" / "bundle.md").open("a") as page:
        page.write("\n[one](exit-codes.md#no-such-heading) [two](no-such-page.md)\n")
    ran = sphinx(tmp_path / "docs", tmp_path / "out")
    assert ran.returncode != 0
    assert "no-such-heading" in ran.stderr
    assert "no-such-page.md" in ran.stderr


# --- messages -------------------------------------------------------------------------------------


def texts_of_the_source():
    """Every string of the source, f-strings in the pieces between their values."""
    for stage in STAGES:
        for path in (REPOSITORY / stage).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def quoted_messages():
    for section in (DOCS / "troubleshooting.md").read_text().split("| message |")[1:]:
        for line in section.split("\n\n")[0].splitlines()[2:]:
            found = CODE.match(line.removeprefix("| "))
            assert found is not None, line
            yield found[1]


def test_the_messages_that_are_explained_are_those_of_the_source():
    texts = "\0".join(texts_of_the_source())
    quoted = list(quoted_messages())
    assert len(quoted) > 30
    assert [message for message in quoted if message not in texts] == []


def test_a_message_that_the_source_does_not_have_would_be_noticed():
    assert "the moon is not in phase" not in "\0".join(texts_of_the_source())


# --- commands -------------------------------------------------------------------------------------


def test_pages_of_the_commands_show_the_options_that_there_are():
    for page in (DOCS / "commands").glob("*.md"):
        text = page.read_text()
        assert reference.update_page(text) == text, f"{page.name} is out of date: make options"


def test_every_command_has_a_page_and_examples():
    for name in reference.commands():
        page = DOCS / "commands" / f"{name.split()[0]}.md"
        assert f"<!-- options of {name} -->" in page.read_text()
        assert completion.EXAMPLES[name]


def test_options_in_examples_exist():
    known = reference.commands()
    for name, lines in completion.EXAMPLES.items():
        for line in lines:
            assert line.startswith(f"edgekd {name}")
            assert len(line) <= 76
            if name in known:
                options = {
                    word
                    for option in known[name].params
                    for word in [*option.opts, *option.secondary_opts]
                }
                assert {word for word in line.split() if word.startswith("-")} <= options, line


def test_commands_in_the_documents_exist():
    known = set(reference.commands()) | set(completion.EXAMPLES)
    groups = {name.split()[0] for name in known if " " in name}
    for page in PAGES:
        if page.name in {"architecture.md", "log.md"}:
            continue  # a plan, and a history
        for span in CODE.findall(prose(page)):
            found = re.match(r"edgekd ([a-z]+)(?: ([a-z]+))?", span)
            if found is not None:
                words = " ".join(part for part in found.groups() if part)
                assert words in known | groups or found[1] in known, span


# --- figures --------------------------------------------------------------------------------------


def test_figures_of_the_benchmark_are_those_of_its_rows():
    text = (DOCS / "choosing.md").read_text()
    with (REPOSITORY / "benchmarks/results/cifar10.csv").open() as stream:
        for row in csv.DictReader(stream):
            assert f"{float(row['student_accuracy']):.2%}".replace("%", " %") in text
            assert f"{int(row['steps']):,}" in text
            assert f"{int(row['images']):,}" in text


def test_figures_quoted_from_the_log_are_in_it():
    log = (DOCS / "log.md").read_text()
    for figure in (
        "96.9",
        "98.9 %",
        "84.6 %",
        "96.4 and 98.2 %",
        "101 us against 52 us",
        "8,000 steps",
    ):
        assert figure in log


def test_no_page_names_a_host_but_those_of_projects():
    hosts = set()
    for page in WRITTEN:
        hosts |= set(re.findall(r"https?://([^/\s)`\"]+)", page.read_text()))
    assert hosts <= {"download.pytorch.org", "github.com", "keepachangelog.com", "semver.org"}


def test_console_blocks_are_run():
    """A block with `$` is a promise; pages that are not run use `sh` or `text`."""
    with_console = {page.name for page in PAGES if console.blocks(page.read_text(), "console")}
    assert with_console == {"tutorial.md"}
