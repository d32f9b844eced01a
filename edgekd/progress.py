"""How a run is shown: a bar on a terminal, plain lines in a log. Both on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeAlias

from edgekd.records import HistoryPoint

# The last point, progress 0..1, and seconds left where that is known.
Show: TypeAlias = Callable[[HistoryPoint, float, float | None], None]

PLAIN_EVERY_S: Final = 10.0


class Display(Protocol):
    """What the pipeline says while it works."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def warn(self, text: str) -> None:
        """A line that should be read."""

    def running(
        self,
    ) -> contextlib.AbstractContextManager[Show]:
        """While the loop runs: what to call after each round."""


def summary(point: HistoryPoint, agreement: float | None) -> str:
    """One line of what matters of a round."""
    losses = " ".join(f"{name} {value:.3g}" for name, value in point.losses.items())
    agreed = "" if agreement is None else f"  agreement {agreement:.1%}"
    return f"step {point.step:,}  images {point.images:,}{agreed}  {losses}"


def duration(seconds: float | None) -> str:
    """`1:02:03`, `4:05`; `?` for what is not known."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class PlainDisplay:
    """For logs and pipes: a line now and then, nothing that moves."""

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    @contextlib.contextmanager
    def running(self) -> Iterator[Show]:
        last_said = -PLAIN_EVERY_S
        agreement: float | None = None

        def show(point: HistoryPoint, progress: float, left_s: float | None) -> None:
            nonlocal last_said, agreement
            agreement = agreement if point.agreement is None else point.agreement
            now = time.monotonic()
            if now - last_said >= PLAIN_EVERY_S or progress >= 1.0:
                last_said = now
                self.say(
                    f"  {progress:4.0%}  ETA {duration(left_s):>5}  {summary(point, agreement)}"
                )

        yield show


def _nothing(_: HistoryPoint, __: float, ___: float | None) -> None:
    """Show nothing."""


class SilentDisplay:
    """For the processes of a run that are not the first, which would say the same; and for work that is one of many."""

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Show]:
        yield _nothing


class TerminalDisplay:
    """For people who watch."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[Show]:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("ETA {task.fields[left]}"),
            TextColumn("{task.fields[line]}", markup=False),  # cut at its end on narrow terminals
        )
        agreement: float | None = None
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task("", total=1.0, line="starting", left="?")

            def show(point: HistoryPoint, progress: float, left_s: float | None) -> None:
                nonlocal agreement
                agreement = agreement if point.agreement is None else point.agreement
                bar.update(
                    task, completed=progress, line=summary(point, agreement), left=duration(left_s)
                )

            yield show


def display_for(stream_is_terminal: bool, *, leads: bool = True) -> Display:
    if not leads:
        return SilentDisplay()
    return TerminalDisplay() if stream_is_terminal else PlainDisplay()
