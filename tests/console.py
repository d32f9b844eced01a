"""Run the console blocks of a page: commands after `$ `, and below them what they print."""

import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(?P<language>\S+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
# 1,024 and 9.5e-07 and 98a7d7635dc8: what differs between machines and runs.
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
_DIGEST = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,64}\b")
_MARK = "=== exit code"


@dataclass(frozen=True, kw_only=True)
class Command:
    line: str
    shown: tuple[str, ...]
    code: int  # that the page says, with `echo $?` after it; else 0


def blocks(text: str, language: str) -> list[str]:
    return [match["body"] for match in _FENCE.finditer(text) if match["language"] == language]


def commands(block: str) -> list[Command]:
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0][:-1].rstrip()} {line.strip()}", [])
        else:
            found[-1][1].append(line)
    codes = {
        number - 1: int(shown[0]) for number, (line, shown) in enumerate(found) if line == "echo $?"
    }
    return [
        Command(line=line, shown=tuple(shown), code=codes.get(number, 0))
        for number, (line, shown) in enumerate(found)
    ]


def run(block: str, *, cwd: Path, environment: dict[str, str]) -> None:
    """Run a block in one shell; its exit codes and every line that is shown must be met."""
    wanted = commands(block)
    script = "\n".join(
        f'{command.line}\ncode=$?; echo "{_MARK} $code"; (exit $code)' for command in wanted
    )
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=560,
    )
    parts = re.split(rf"{_MARK} (\d+)\n", ran.stdout)
    for command, printed, code in zip(wanted, parts[::2], parts[1::2], strict=False):
        assert int(code) == command.code, f"$ {command.line}\n{printed}\nexit code {code}"
        met(command, printed)
    assert len(parts) // 2 == len(wanted)


def met(command: Command, printed: str) -> None:
    """Every shown line occurs, in order; `...` stands for anything, and so does each number."""
    lines = iter(printed.splitlines())
    for shown in command.shown:
        if shown.strip() in {"", "..."}:
            continue
        pattern = pattern_of(shown)
        assert any(pattern.fullmatch(_numbers(line)) for line in lines), (
            f"$ {command.line}\nnot printed, or in another order: {shown}\n{printed}"
        )


def pattern_of(shown: str) -> re.Pattern[str]:
    parts = [re.escape(_numbers(part)) for part in shown.rstrip().split("...")]
    # Columns are as wide as the numbers in them.
    return re.compile(".*".join(re.sub(r"(\\ )+", r"\\s+", part) for part in parts) + r"\s*")


def _numbers(text: str) -> str:
    return _NUMBER.sub("#", _DIGEST.sub("#", text))


def tools(folder: Path) -> dict[str, str]:
    """An environment in which `edgekd` and `python` are those that run the tests."""
    repository = Path(__file__).parents[1]
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in (("edgekd", f"{sys.executable} -m edgekd"), ("python", sys.executable)):
        tool = folder / name
        tool.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return os.environ | {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(repository),
        "EXAMPLES": str(repository / "examples"),
        "COLUMNS": "80",
        "LC_ALL": "C.UTF-8",
    }
