"""How an agent is reached: here, on a board over ssh, or in what a carried kit brought back."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from edgekd.bench.protocol.responses import Response
from edgekd.bench.transport import agent_process

# By path and not by name: the agent must not bring edgekd into the process it measures.
AGENT: Final = (sys.executable, str(Path(__file__).parents[1] / "agent" / "__main__.py"))
# From the agent's own deadline to the host's patience
MARGIN_S: Final = 15.0


class Access(Protocol):
    """Where an agent runs."""

    @property
    def name(self) -> str:
        """For people."""

    def place(self, file: Path) -> str:
        """Bring a file to where the agent can read it; its path there."""

    def engine_path(self, name: str) -> str:
        """Where an engine of that name is kept there."""

    def ask(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        heard: Callable[[Response], None] | None = None,
    ) -> list[Response]:
        """Ask the agent one thing.

        Raises:
            DeviceError: it could not be reached, was lost, died, ran too long, or answered nonsense.
            MissingToolError: its runtime is not installed.
            InputFileError: the model or the inputs are not usable.
            IntegrityError: a file there is another one than was brought.
            IncompatibleError: its runtime cannot run the model, or build an engine of it.
            QualityError: an engine answers otherwise than its golden vectors.
        """


class LocalAccess:
    """This machine."""

    name = "this machine"

    def __init__(self, agent: Sequence[str] = AGENT, *, engines: Path | None = None) -> None:
        self._agent = tuple(agent)
        self._engines = engines or Path.home() / ".cache" / "edgekd" / "engines"

    def place(self, file: Path) -> str:
        return str(file)

    def engine_path(self, name: str) -> str:
        self._engines.mkdir(parents=True, exist_ok=True)
        return str(self._engines / name)

    def ask(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        heard: Callable[[Response], None] | None = None,
    ) -> list[Response]:
        return agent_process.ask(
            [*self._agent, *arguments, "--deadline-s", f"{timeout_s:g}"],
            timeout_s=timeout_s + MARGIN_S,
            environment=environment,
            heard=heard,
        )
