"""edgekd's verdicts beside those of NVIDIA's own parser and builder (TensorRT-RTX), which need no GPU."""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from benchmarks.distill.running import commit
from benchmarks.export import (
    parser_exports,
    parser_foreign,
    parser_forms,
    parser_graphs,
    parser_operators,
)
from benchmarks.export.parser_files import File, Group, newest
from benchmarks.export.parser_graphs import operators_of
from benchmarks.export.parser_reasons import (
    NO,
    OUT_OF_SCOPE,
    YES,
    agree,
    ours_text,
    refusing,
    shorten,
    theirs,
    why_not,
)
from benchmarks.rows import append_row, read_rows
from edgekd.export import parser_process
from edgekd.export.compatibility import check_each
from edgekd.export.nvidia_parser import (
    DEFAULT_SM,
    MODULES,
    NvidiaParser,
    ParserAnswer,
    ParserDiedError,
    ParserRequest,
    require_module,
)
from edgekd.export.tensorrt_operators import opsets_of, version_of
from edgekd.export.tensorrt_rules import opset_of

# Of operators, that a row names
KINDS: Final = 3
# Of files, that are said to differ for one reason
NAMES: Final = 6


@dataclass(frozen=True, kw_only=True)
class Set:
    """One kind of files."""

    groups: Callable[[], Iterator[Group]]
    sms: tuple[str, ...]
    # Seconds that NVIDIA's process may take for each
    timeout_s: float
    # What no parser reads is none of edgekd's matters
    scoped: bool = False


SETS: Final = {
    # The first GPU with FP8
    "nodes": Set(groups=parser_graphs.nodes, sms=("8.9",), timeout_s=10, scoped=True),
    "threads": Set(groups=parser_graphs.threads, sms=(DEFAULT_SM,), timeout_s=30),
    # What Orin is nearest to, and the first GPUs with all types
    "forms": Set(groups=parser_forms.forms, sms=("8.6", "12.0"), timeout_s=30),
    "foreign": Set(groups=parser_foreign.foreign, sms=(DEFAULT_SM,), timeout_s=120),
    "exports": Set(groups=parser_exports.exports, sms=(DEFAULT_SM,), timeout_s=120),
}
# Whose verdicts are compared between versions
VERSIONED: Final = ("threads", "forms")


@dataclass(frozen=True, kw_only=True)
class Parser:
    """One version of TensorRT-RTX."""

    python: Path
    module: str
    version: str
    operators: frozenset[str]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", choices=SETS, help="of --table parser")
    parser.add_argument("--anew", action="store_true", help="make rows again that are there")
    parser.add_argument(
        "--rtx-python",
        action="append",
        type=Path,
        help="a Python with another version of TensorRT-RTX: compares versions instead",
    )


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Every row that is not there yet, then what they come to."""
    require_module()
    here = find_parser(Path(sys.executable))
    if options.rtx_python:
        path = options.results / "export-parser-versions.csv"
        chosen = options.set or list(VERSIONED)
        parsers = [*map(find_parser, options.rtx_python), here]
        versions = [parser.version for parser in parsers]
        for parser in parsers:
            _fill(path, chosen, parser, anew=options.anew, say=say)
        print("\n".join(changes(read_rows(path), versions)))
        return
    path = options.results / "export-parser.csv"
    chosen = options.set or list(SETS)
    _fill(path, chosen, here, anew=options.anew, say=say)
    print("\n".join(summary(read_rows(path))))


def find_parser(python: Path) -> Parser:
    """Ask a Python which version it has, and what that reads."""
    names = sorted({each.name for each in onnx.defs.get_all_schemas_with_history()})
    done = subprocess.run(
        [str(python), "-P", parser_operators.__file__, *MODULES],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{python}: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    return Parser(
        python=python,
        module=found["module"],
        version=found["version"],
        operators=frozenset(found["operators"]),
    )


class _Process(NvidiaParser):
    """The same child process, by another Python: it needs nothing of edgekd but that one file."""

    def __init__(
        self, requests: Sequence[ParserRequest], *, parser: Parser, timeout_s: float
    ) -> None:
        super().__init__(requests, timeout_s=timeout_s)
        self._command = [str(parser.python), "-P", parser_process.__file__, parser.module]


def ask(
    requests: Sequence[ParserRequest], parser: Parser, timeout_s: float
) -> list[ParserAnswer | str]:
    """An answer to each request, or how the process ended over it."""
    answers: list[ParserAnswer | str] = []
    while len(answers) < len(requests):
        rest = requests[len(answers) :]
        with _Process(rest, parser=parser, timeout_s=timeout_s) as process:
            try:
                answers.extend(process.answers())
            except ParserDiedError as died:
                answers.append(str(died))
    return answers


def _fill(
    path: Path,
    chosen: Iterable[str],
    parser: Parser,
    *,
    anew: bool,
    say: Callable[[str], None],
) -> None:
    if anew:
        _drop(path, lambda row: row["set"] in chosen and row["version"] == parser.version)
    there = {_key(row) for row in read_rows(path)}
    of_versions = path.stem.endswith("versions")
    # NVIDIA's process works on one group while the next is made here.
    with ThreadPoolExecutor(max_workers=1) as pool, ExitStack() as last:
        waiting: Callable[[], None] | None = None
        for name in chosen:
            what = SETS[name]
            for group in what.groups():
                missing = {
                    (*key, sm)
                    for key in group.keys
                    for sm in what.sms
                    if (name, *key, sm, parser.version) not in there
                }
                if not missing:
                    continue
                stack = ExitStack()
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                files = [
                    (file, sm)
                    for file in group.make(folder)
                    for sm in what.sms
                    if (file.name, file.variant, sm) in missing
                ]
                asked = [
                    ParserRequest(model=file.path, sms=(sm,))
                    for file, sm in files
                    if file.path is not None
                ]
                answers = pool.submit(ask, asked, parser, what.timeout_s)
                rows = list(_rows(name, what, files, parser))
                if waiting is not None:
                    waiting()

                def finish(
                    files: list[tuple[File, str]] = files,
                    rows: list[_Row] = rows,
                    answers: Future[list[ParserAnswer | str]] = answers,
                    stack: ExitStack = stack,
                    name: str = name,
                ) -> None:
                    given = iter(answers.result())
                    for (file, _), row in zip(files, rows, strict=True):
                        answer = None if file.path is None else next(given)
                        found = row.with_answer(answer)
                        append_row(path, _of_version(found) if of_versions else found)
                    stack.close()
                    say(f"{parser.version} {name}: {files[-1][0].name}")

                waiting = finish
                last.callback(stack.close)
        if waiting is not None:
            waiting()


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[each] for each in ("set", "name", "variant", "sm", "version"))


def _drop(path: Path, dropped: Callable[[Mapping[str, str]], bool]) -> None:
    rows = read_rows(path)
    kept = [row for row in rows if not dropped(row)]
    if len(kept) == len(rows):
        return
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What is known of a row before NVIDIA's answer."""

    of: str
    file: File
    sm: str
    operators: str
    opset: str
    rules: Mapping[str, str]
    in_scope: bool
    version: str
    commit: str

    def with_answer(self, answer: ParserAnswer | str | None) -> dict[str, object]:
        """The whole row.

        Args:
            answer: what it said, or how its process ended; None: there was no file.
        """
        file = self.file
        ours, said, same, why, seconds = ours_text(self.rules), "not asked", OUT_OF_SCOPE, "", 0.0
        if answer is None and file.refused:
            ours = shorten(file.refused)
        elif answer is None:
            ours, same, why = shorten(f"failed: {file.failed}"), NO, "it was not made"
        else:
            found = theirs(answer)
            said = found.text
            if self.in_scope:
                same = YES if agree(self.rules, found) else NO
                why = "" if same == YES else why_not(self.rules, found)
            if isinstance(answer, ParserAnswer):
                seconds = answer.parse_s + (answer.build_s or 0.0)
        return {
            "set": self.of,
            "name": file.name,
            "variant": file.variant,
            "operators": self.operators,
            "opset": self.opset,
            "edgekd": ours,
            "nvidia": said,
            "sm": self.sm,
            "agree": same,
            "why": why,
            "version": self.version,
            "seconds": f"{seconds:.2f}",
            "commit": self.commit,
        }


def _of_version(row: Mapping[str, object]) -> dict[str, object]:
    return {each: row[each] for each in ("set", "name", "variant", "sm", "version", "nvidia")}


def _rows(
    name: str, what: Set, files: Iterable[tuple[File, str]], parser: Parser
) -> Iterator[_Row]:
    at = commit()
    highest = opsets_of(version_of(newest()))[1]
    for file, sm in files:
        operators, opset, rules, in_scope = "", "", {}, True
        if file.path is not None:
            model = onnx.load(file.path, load_external_data=False)
            names = operators_of(model)
            more = f" and {len(names) - KINDS} more" if len(names) > KINDS else ""
            operators, opset = "+".join(names[:KINDS]) + more, str(opset_of(model))
            found = [each for told in check_each(file.path, file.softwares) for each in told]
            rules = refusing(found, sm)
            in_scope = not what.scoped or (
                opset_of(model) <= highest and set(names) <= parser.operators
            )
        yield _Row(
            of=name,
            file=file,
            sm=sm,
            operators=operators,
            opset=opset,
            rules=rules,
            in_scope=in_scope,
            version=parser.version,
            commit=at,
        )


def summary(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Of each set: how many, how many agree, and why the others do not."""
    for name in dict.fromkeys(row["set"] for row in rows):
        of = [row for row in rows if row["set"] == name]
        counted = [row for row in of if row["agree"] != OUT_OF_SCOPE]
        same = [row for row in counted if row["agree"] == YES]
        share = len(same) / max(len(counted), 1)
        yield f"{name}: {len(of)} files, {len(counted)} in scope, {len(same)} agree ({share:.1%})"
        if name == "exports":
            yield from _of_exports(of)
        groups = Counter(
            (row["why"], "edgekd" if row["edgekd"] != "legal" else "NVIDIA")
            for row in counted
            if row["agree"] == NO
        )
        for (why, who), count in groups.most_common():
            yield f"  {count:>4}  {who} alone refuses: {why}"


def _of_exports(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    made = [row for row in rows if row["nvidia"] != "not asked"]
    read = [row for row in made if row["nvidia"].startswith(("built", "read"))]
    built = [row for row in made if row["nvidia"] == "built"]
    refused = [row for row in rows if row["edgekd"].startswith("refused by edgekd")]
    networks = len({row["name"] for row in rows})
    yield (
        f"  of {networks} architectures {len(made)} files, {len(read)} read, {len(built)} built; "
        f"{len(refused)} refused by edgekd itself"
    )


def changes(rows: Sequence[Mapping[str, str]], versions: Sequence[str]) -> Iterator[str]:
    """Files of which the versions do not say the same, by what they say."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        found.setdefault(_key(row)[:-1], {})[row["version"]] = row["nvidia"]
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for (of, name, *_), said in found.items():
        kinds = [said.get(version, "not asked").partition(":")[0] for version in versions]
        if len(set(kinds)) > 1:
            told = next((text for text in said.values() if ":" in text), "")
            groups.setdefault((" > ".join(kinds), told), {})[f"{of} {name}"] = None
    yield f"{len(found)} files, {' '.join(versions)}"
    for (way, told), names in sorted(groups.items(), key=lambda each: -len(each[1])):
        some = list(names)[:NAMES]
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        yield f"  {len(names):>4}  {way}: {', '.join(some)}{more} ({told})"
