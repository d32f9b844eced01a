"""A network from its records: whole, or cut."""

from dataclasses import replace

from torch import nn

from edgekd.distill.models import architectures
from edgekd.distill.pruning.apply_cut import apply_cut
from edgekd.errors import InputFileError
from edgekd.records import Architecture, Cut


def build_network(architecture: Architecture, cut: Cut | None, *, origin: str) -> nn.Module:
    """A freshly built module; parameters as the library draws them.

    Args:
        architecture: whole, or with the name of its cut.
        cut: the record of that.
        origin: what the record is called in messages.

    Raises:
        InputFileError: the record is missing, or of another network.
        UsageError: the network cannot be built.
    """
    whole = replace(architecture, cut="")
    if not architecture.cut:
        if cut is not None:
            raise InputFileError(
                f"{origin}: a record of a cut, and {architecture} is a whole network."
            )
        return architectures.build(whole)
    if cut is None:
        raise InputFileError(
            f"{origin}: {architecture} is a part of a network, and the record that says which is missing."
        )
    if cut.architecture != whole or str(cut.asked) != architecture.cut:
        raise InputFileError(
            f"{origin}: the record is that of {cut.architecture} {cut.asked}, not of {architecture}."
        )
    return apply_cut(architectures.build(whole), cut, origin=origin)
