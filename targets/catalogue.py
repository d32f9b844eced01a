"""Boards by name, alias or a user's own TOML file, read strictly. docs/targets.md has the keys."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgekd.errors import InputFileError, UsageError
from edgekd.records import (
    Board,
    Fact,
    Software,
    Target,
    is_rtx,
)
from edgekd.targets.board_schema import (
    BoardFile,
    SoftwareTable,
    read_board,
    read_software,
    suggestion,
)

FOLDER: Final = Path(__file__).parent
SOFTWARE_FILE: Final = "software.toml"
_LIST: Final = "See what there is with: edgekd targets list"


def target_names() -> list[str]:
    """The names of the boards that come with edgekd, sorted."""
    return sorted(_catalogue())


def boards() -> list[Board]:
    """The boards that come with edgekd, by name."""
    catalogue = _catalogue()
    return [_board(catalogue[name], origin=f"{name}.toml") for name in sorted(catalogue)]


def aliases() -> dict[str, str]:
    """Short names that people type, and the board each stands for."""
    return {alias: name for name, file in sorted(_catalogue().items()) for alias in file.aliases}


def tensorrts() -> list[Software]:
    """Each TensorRT (not TensorRT-RTX) that some board here brings, oldest first, by the first software that has it."""
    found: dict[tuple[int, ...], Software] = {}
    for board in boards():
        for software in board.software.values():
            if software.tensorrt is not None and not is_rtx(software.tensorrt):
                version = tuple(int(part) for part in software.tensorrt.split("."))
                known = found.setdefault(version, software)
                found[version] = min(known, software, key=lambda each: each.name)
    return [found[version] for version in sorted(found)]


def load_target(spec: str) -> Target:
    """A board with its software, from what a user typed.

    Args:
        spec: `BOARD[@SOFTWARE]`, where the board is a name, an alias, or the path of a TOML file.
            Without software, the board's default is taken.

    Raises:
        UsageError: no such board, or the board does not run that software.
        InputFileError: the TOML file is missing or wrong.
    """
    match = re.fullmatch(r"(.*\.toml|[^@]*)(?:@(.*))?", spec, re.DOTALL)
    if match is None:
        raise UsageError(f"Target {spec!r} is not of the form BOARD[@SOFTWARE]. {_LIST}")
    name, software_name = match.groups()
    board = _own_board(Path(name)) if name.endswith(".toml") else _find_board(name)
    if software_name is None:
        software_name = board.default_software
    if software_name not in board.software:
        raise UsageError(
            f"{board.name} does not run {software_name!r}; it runs {', '.join(board.software)}."
            f"{suggestion(software_name, board.software)} {_LIST}"
        )
    return Target(board=board, software=board.software[software_name], asked=spec)


def _find_board(name: str) -> Board:
    catalogue = _catalogue()
    known = aliases()
    resolved = known.get(name, name)
    if resolved not in catalogue:
        near = suggestion(name, [*catalogue, *known])
        raise UsageError(f"Unknown target {name!r}.{near} {_LIST}")
    return _board(catalogue[resolved], origin=f"{resolved}.toml")


def _own_board(path: Path) -> Board:
    file = read_board(path)
    if file.name in _catalogue() or file.name in aliases():
        raise InputFileError(
            f"{path}: name: {file.name!r} comes with edgekd, and figures for the two could not be "
            "told apart. Choose another name."
        )
    return _board(file, origin=str(path))


@functools.cache
def _catalogue() -> dict[str, BoardFile]:
    return {path.stem: read_board(path) for path in (FOLDER / "boards").glob("*.toml")}


@functools.cache
def _load_software() -> dict[str, SoftwareTable]:
    return read_software(FOLDER / SOFTWARE_FILE)


def _board(file: BoardFile, *, origin: str) -> Board:
    shared = _load_software()
    for name in file.software:
        if name in shared:
            raise InputFileError(
                f"{origin}: software.{name}: comes with edgekd. List it in `runs`, or rename yours."
            )
    tables = shared | file.software
    names = dict.fromkeys([*file.runs, *file.software])
    for name in names:
        if name not in tables:
            near = suggestion(name, tables)
            raise InputFileError(f"{origin}: runs: unknown software {name!r}.{near}")
    if file.default_software not in names:
        near = suggestion(file.default_software, names)
        raise InputFileError(
            f"{origin}: default_software: {file.default_software!r} is neither in `runs` nor a "
            f"[software] table.{near}"
        )
    return Board(
        name=file.name,
        title=file.title,
        family=file.family,
        facts={**file.facts, **file.other_facts},
        software={name: _software(name, tables[name], file.facts) for name in names},
        default_software=file.default_software,
        notes=file.notes,
        budget=dict(file.budget),
    )


def _software(name: str, table: SoftwareTable, facts: Mapping[str, Fact]) -> Software:
    # INT8 needs both: the software offers it, and the hardware has a path for it.
    hardware = facts.get("int8")
    return Software(
        name=name,
        runtime=table.runtime,
        exporter=table.exporter,
        opset=table.opset,
        typing=table.typing,
        int8=table.int8 and (hardware is None or bool(hardware.value)),
        source=table.source,
        jetpack=table.jetpack,
        l4t=table.l4t,
        tensorrt=table.tensorrt,
        cuda=table.cuda,
        python=table.python,
        int8_weights=table.int8_weights,
    )
