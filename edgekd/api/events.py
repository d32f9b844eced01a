"""What a running function reports: events, for a caller that has a display of its own."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgekd.progress import Display, Show, SilentDisplay, summary
from edgekd.records import HistoryPoint


@dataclass(frozen=True, kw_only=True)
class Event:
    """One report of a running function; `str(event)` is its text.

    Attributes:
        kind: `message` and `warning` carry a text. `begin` and `end` enclose a loop, and `progress` is one round of it.
        text: What a person would read.
        progress: Share of the loop that is done (0..1), for `progress`.
        remaining_s: Estimated seconds until the loop ends, for `progress`; None if unknown.
        point: Step, losses and agreement after the round, for `progress`.
    """

    kind: Literal["message", "warning", "begin", "progress", "end"]
    text: str = ""
    progress: float | None = None
    remaining_s: float | None = None
    point: HistoryPoint | None = None

    def __str__(self) -> str:
        return self.text


OnEvent: TypeAlias = Callable[[Event], None]


class EventDisplay:
    """A display that hands everything to a callback."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event

    def say(self, text: str) -> None:
        """Report a message."""
        self._on_event(Event(kind="message", text=text))

    def warn(self, text: str) -> None:
        """Report a warning."""
        self._on_event(Event(kind="warning", text=text))

    @contextlib.contextmanager
    def running(self) -> Iterator[Show]:
        """Report the rounds of a loop, and that it ends, however it ends."""

        def show(point: HistoryPoint, progress: float, remaining_s: float | None) -> None:
            self._on_event(
                Event(
                    kind="progress",
                    text=summary(point, point.agreement),
                    progress=progress,
                    remaining_s=remaining_s,
                    point=point,
                )
            )

        self._on_event(Event(kind="begin", text="started"))
        try:
            yield show
        finally:
            self._on_event(Event(kind="end", text="ended"))


def display_to(on_event: OnEvent | None) -> Display:
    """The display that workflows report to; without a callback nobody hears it."""
    return SilentDisplay() if on_event is None else EventDisplay(on_event)


class EventPrinter:
    """A callback that shows events on a display; the inverse of `EventDisplay`."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._loop = contextlib.ExitStack()
        self._show: Show | None = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.kind == "message":
            self._display.say(event.text)
        elif event.kind == "warning":
            self._display.warn(event.text)
        elif event.kind == "begin":
            self._show = self._loop.enter_context(self._display.running())
        elif event.kind == "end":
            self._loop.close()
            self._show = None
        elif self._show is not None and event.point is not None:
            self._show(event.point, event.progress or 0.0, event.remaining_s)
