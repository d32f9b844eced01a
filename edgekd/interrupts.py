"""SIGINT and SIGTERM: at once where nothing is lost, at the next safe point where something would be."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from edgekd.errors import InterruptedRunError, TerminatedRunError


class _SignalError(BaseException):
    """A signal, where it arrived: past all that takes what libraries raise for an answer."""

    def __init__(self, error: InterruptedRunError) -> None:
        super().__init__(str(error))
        self.error = error


class Interrupts:
    """Which signal came, and whether it may be raised where it arrives."""

    def __init__(self, left: str) -> None:
        # What the signal leaves behind
        self.left = left
        self.pending: InterruptedRunError | None = None
        self.waiting = False

    def handle(self, number: int, _: FrameType | None) -> None:
        kind = TerminatedRunError if number == signal.SIGTERM else InterruptedRunError
        again = self.pending is not None
        stopped = self.stop(kind)
        if again or not self.waiting:
            raise _SignalError(stopped)
        again_by = "another SIGTERM" if kind is TerminatedRunError else "Ctrl-C again"
        _say_at_once(
            f"stopping after this round, which is then saved; large images can take minutes. {again_by} stops now, and "
            "what was made since the last checkpoint is made again."
        )

    def stop(self, kind: type[InterruptedRunError]) -> InterruptedRunError:
        """As if the signal of that kind had come, without raising it."""
        self.pending = kind(f"interrupted. {self.left}")
        return self.pending

    @contextlib.contextmanager
    def defer(self) -> Iterator[None]:
        """Within the block a first signal only sets `pending`, and says so; a second one is raised at once."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False


def _say_at_once(text: str) -> None:
    """Past the buffers of stderr, which the code that was interrupted may be writing to."""
    # Of several processes the first one speaks
    if os.environ.get("RANK", "0") != "0":
        return
    # What follows is best said, and no reason to fail: stderr may be closed or full
    with contextlib.suppress(OSError):
        # A bar may stand in the line
        start = "\r\x1b[K" if os.isatty(2) else ""
        os.write(2, f"{start}edgekd: {text}\n".encode())


@contextlib.contextmanager
def caught(
    left: str = "Nothing is half written; the same command continues.",
) -> Iterator[Interrupts]:
    """Install handlers for the block; the main thread only, elsewhere signals stay as they are.

    Raises:
        InterruptedRunError: a signal came; at the end of the block, so that nothing inside takes it for a failure of its own.
    """
    interrupts = Interrupts(left)
    try:
        before = {
            number: signal.signal(number, interrupts.handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not the main thread
        yield interrupts
        return
    try:
        yield interrupts
    except _SignalError as arrived:
        raise arrived.error from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
