"""Boards as functions of the API take them."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgekd.records import Target

if TYPE_CHECKING:
    from edgekd.bench.transport.fleet import Device

TargetLike: TypeAlias = str | Path | Target


def find_target(target: TargetLike) -> Target:
    """The board that a caller named, with its software.

    Raises:
        UsageError: There is none of that name.
        InputFileError: The board file cannot be used.
    """
    if isinstance(target, Target):
        return target
    from edgekd.targets.catalogue import load_target

    return load_target(str(target))


def find_device(address: str | None) -> "Device | None":
    """The board at an address; None for this machine."""
    if address is None:
        return None
    from edgekd.bench.transport.fleet import Device

    return Device(name=address, url=address)
