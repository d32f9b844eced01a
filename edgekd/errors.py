"""Every way that edgekd can fail, with the code the process exits with.

The table in `docs/exit-codes.md` is the contract; a test holds the two together.
A message says what happened, the likely reason, and what to run next.
"""

from typing import ClassVar


class EdgekdError(Exception):
    """A failure that edgekd understands. Anything else is a fault of ours: code 1, traceback in a log."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgekdError):
    """Options or configuration that cannot be used together or make no sense."""

    exit_code = 2


class InputFileError(EdgekdError):
    """A file that was given cannot be used: refused, truncated, of another kind, of the wrong shape."""

    exit_code = 2


class OutputError(EdgekdError):
    """The output cannot be written: it exists, the folder is read-only, or the disk is full."""

    exit_code = 2


class MissingToolError(EdgekdError):
    """A tool or runtime that this step needs is not installed."""

    exit_code = 3


class QualityError(EdgekdError):
    """A quality gate failed: parity, agreement, accuracy. Wins over `OverBudgetError`."""

    exit_code = 4


class CollapseError(QualityError):
    """Distillation cannot go on: the images or the student collapsed and did not recover."""


class OverBudgetError(EdgekdError):
    """Latency, memory, energy or size is over its limit, or was needed and not measured."""

    exit_code = 5


class DeviceError(EdgekdError):
    """A device could not be reached, was lost, or answered nonsense."""

    exit_code = 6


class RegistryError(EdgekdError):
    """A registry could not be reached, refused, or answered nonsense."""

    exit_code = 6


class IntegrityError(EdgekdError):
    """A digest or signature does not hold."""

    exit_code = 7


class IncompatibleError(EdgekdError):
    """This graph or engine cannot run on that board or its software."""

    exit_code = 8


class InterruptedRunError(EdgekdError):
    """SIGINT: the state is saved, and the same command continues."""

    exit_code = 130


class TerminatedRunError(InterruptedRunError):
    """SIGTERM: the state is saved, and the same command continues."""

    exit_code = 143
