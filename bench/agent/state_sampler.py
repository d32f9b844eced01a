"""Looks at temperatures, clocks and events while something runs; taken by the process that waits for it."""

import time
from typing import Any, Callable, Dict, List, Optional, Set

from edgekd.bench.agent.sensor import monotonic_ns

PERIOD_S = 1.0
# Then every second one is dropped, and the period is twice as long
MOST_LOOKS = 1200


class StateSampler:
    """Columns of what `look` finds; None where a look did not find what another did."""

    def __init__(self, look: Callable[..., Dict[str, Any]]) -> None:
        """Take the first look; `look` is what `state.looker` gives."""
        self._look = look
        self._at_ns: List[int] = []
        self._states: List[Dict[str, Any]] = []
        self._alarms: Set[str] = set()
        self._period_s = PERIOD_S
        self.take(whole=True)

    def take(self, whole: bool = False) -> None:
        """Look now; the next look is due a period after. Whole: nothing is measured now that it could disturb."""
        self._at_ns.append(monotonic_ns())
        self._states.append(self._look(whole))
        self._counts = self._states[-1]["counts"]
        self._alarms.update(self._states[-1]["alarms"])
        if len(self._states) >= MOST_LOOKS:
            self._at_ns, self._states = self._at_ns[::2], self._states[::2]
            self._period_s *= 2
        self._due = time.monotonic() + self._period_s

    def wait_s(self) -> float:
        """Until the next look is due."""
        return max(0.0, self._due - time.monotonic())

    def summarize(self) -> Dict[str, Any]:
        """The columns, by how much events became more from the first look to the last, and all alarms."""
        first, last = self._states[0]["counts"], self._counts
        return {
            "at_ns": self._at_ns,
            "temperatures_c": self._columns("temperatures_c"),
            "clocks_mhz": self._columns("clocks_mhz"),
            "counts": {name: count - first.get(name, count) for name, count in last.items()},
            "alarms": sorted(self._alarms),
        }

    def _columns(self, field: str) -> Dict[str, List[Optional[float]]]:
        names = sorted({name for state in self._states for name in state[field]})
        return {name: [state[field].get(name) for state in self._states] for name in names}
