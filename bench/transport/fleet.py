"""Boards by name: `fleet.toml`.

[boards.bench-1]
url = "ssh://nvidia@192.168.55.1"
target = "jetson-orin-nano-8gb@jp6.2"    # optional
python = "/opt/venv/bin/python"          # optional: the Python there that has ONNX Runtime
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from edgekd.bench.transport.ssh_address import read_address
from edgekd.errors import InputFileError, UsageError
from edgekd.files import read_text
from edgekd.records import Target, record
from edgekd.targets.catalogue import load_target
from edgekd.toml_text import parse_toml


@dataclass(frozen=True)
class Device:
    """A board to contact."""

    name: str
    url: str
    target: Target | None = None
    ssh_options: tuple[str, ...] = ()
    # The program there
    python: str | None = None


@record
class _Entry:
    url: Annotated[str, Field(min_length=1, max_length=300)]
    target: str | None = None
    python: Annotated[str, Field(min_length=1, max_length=300)] | None = None


@record
class _Fleet:
    boards: Annotated[dict[str, _Entry], Field(min_length=1, max_length=1000)]


def devices(
    addresses: Sequence[str],
    fleet: Path | None,
    *,
    ssh_config: Path | None = None,
    python: str | None = None,
) -> tuple[Device, ...]:
    """Boards of the command line and of a fleet file, each once.

    Args:
        addresses: `ssh://user@host:port`, or names of boards in the fleet file: these alone are taken of it then.
        fleet: the file.
        ssh_config: of OpenSSH, instead of the user's.
        python: the program on boards that the file says none of.

    Raises:
        UsageError: an address is none, or a board is named twice.
        InputFileError: the file cannot be used.
        UsageError: a target is not known.
    """
    if ssh_config is not None and not ssh_config.is_file():
        raise InputFileError(f"{ssh_config}: no such file.")
    options = ("-F", str(ssh_config)) if ssh_config is not None else ()
    known = {} if fleet is None else _read(fleet, options, python)
    found = []
    for text in addresses or list(known):
        if text in known:
            found.append(known[text])
        else:
            address = read_address(text)
            found.append(
                Device(name=address.url, url=address.url, ssh_options=options, python=python)
            )
    if not found and (ssh_config is not None or python is not None):
        option = "--ssh-config" if ssh_config is not None else "--device-python"
        raise UsageError(
            f"{option} is of boards, and none was named. Give --device ssh://user@host, or --fleet FILE."
        )
    urls = [device.url for device in found]
    for url in urls:
        if urls.count(url) > 1:
            raise UsageError(
                f"{url} is given twice: two benches on one board would measure each other."
            )
    return tuple(found)


def _read(path: Path, options: tuple[str, ...], python: str | None) -> dict[str, Device]:
    try:
        plain = parse_toml(read_text(path))
    except ValueError as error:
        raise InputFileError(f"{path}: not TOML ({error}).") from error
    try:
        fleet = TypeAdapter(_Fleet).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputFileError(f"{path}: {where}: {first['msg']}.") from error
    return {
        name: Device(
            name=name,
            url=read_address(entry.url).url,
            target=None if entry.target is None else load_target(entry.target),
            ssh_options=options,
            python=entry.python or python,
        )
        for name, entry in fleet.boards.items()
    }
