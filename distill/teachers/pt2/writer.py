"""Networks written as `.pt2` programs: how a student is kept whose network no library can build again.

C channels, H x W pixels.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import nn

from edgekd.distill.teachers.pt2.loader import load_program
from edgekd.errors import InputFileError, UsageError

# Of the largest logit
TOLERANCE: Final = 1e-4
# What torch writes of each node beside its call: where in whose files it came from
TRACES: Final = ("stack_trace", "source_fn_stack", "torch_fn", "from_node")


def write_program(network: nn.Module, path: Path, *, shape: tuple[int, int, int]) -> None:
    """Write a network with its weights, for any number of images, as edgekd itself can run it.

    The file is the same for the same network; it names no file of this machine.

    Args:
        network: in evaluation mode, on the CPU.
        path: of the file.
        shape: of one image (C, H, W).

    Raises:
        UsageError: torch.export cannot follow it.
    """
    images = torch.zeros(2, *shape)
    try:
        with _quietly():
            program = torch.export.export(
                network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
    except Exception as error:  # whatever it raises on what it cannot follow
        raise UsageError(
            f"torch.export cannot follow the network ({_first_line(error)}), so a part of it could not be built again "
            "without the teacher's file."
        ) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for name in TRACES:
                node.meta.pop(name, None)
    with _quietly():
        torch.export.save(program, path)


def check_program(network: nn.Module, *, shape: tuple[int, int, int]) -> None:
    """Whether a network can be written as a program and answers alike when it is read again.

    Raises:
        UsageError: it cannot, or does not.
    """
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt2"
        write_program(network, path, shape=shape)
        try:
            read = load_program(path)
        except InputFileError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise UsageError(
                f"a part of the network cannot be built again without the teacher's file: {reason}"
            ) from error
    with torch.no_grad():
        wanted, found = network(images), read(images)
    if {name: each.shape for name, each in read.state_dict().items()} != {
        name: each.shape for name, each in network.state_dict().items()
    }:
        raise UsageError(
            "a part of the network cannot be built again without the teacher's file: its weights have other names there."
        )
    # Turned round, so that what is no number is refused
    if not float((found - wanted).abs().max()) <= TOLERANCE * (1 + float(wanted.abs().max())):
        raise UsageError(
            "a part of the network cannot be built again without the teacher's file: it answers otherwise there."
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what torch says of its own ways off stderr, and the graph, which it prints where it fails: the error says it."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
