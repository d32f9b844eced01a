"""Watching a run for collapse: what is seen, said in words, and what the run does about it."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from edgekd.errors import CollapseError

Action = Literal["go on", "restart generator", "restart memory", "restore student"]

# Patience is in rounds of one image batch each; limits are shares of what a healthy run has.
ENTROPY_FLOOR: Final = 0.5  # of ln K
ENTROPY_PATIENCE: Final = 20
# A fresh generator's first batches show few classes
ROUNDS_TO_SETTLE: Final = 40
# Of an even share of the pool
RARE: Final = 0.1
MAX_RECOVERIES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    action: Action
    warning: str | None = None


FINE: Final = Verdict(action="go on")


@dataclass
class CollapseMonitor:
    """Counters that survive a checkpoint."""

    low_entropy_rounds: int = 0
    rounds_since_restart: int = 0
    generator_restarts: int = 0
    student_restores: int = 0
    memory_restarts: int = 0
    rare_said: bool = False

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def images(self, *, finite: bool, entropy: float) -> Verdict:
        """After a batch of images.

        Args:
            finite: whether every value of images and losses is.
            entropy: of the teacher's mean prediction over the batch, divided by ln K: 0..1.

        Raises:
            CollapseError: the generator was restarted `MAX_RECOVERIES` times to no avail.
        """
        self.rounds_since_restart += 1
        if not finite:
            return self._restart("the image losses are not finite")
        settled = self.rounds_since_restart > ROUNDS_TO_SETTLE
        low = settled and entropy < ENTROPY_FLOOR
        self.low_entropy_rounds = self.low_entropy_rounds + 1 if low else 0
        if self.low_entropy_rounds >= ENTROPY_PATIENCE:
            return self._restart(
                f"the images collapsed: for {ENTROPY_PATIENCE} batches the teacher saw few classes "
                f"(class entropy {entropy:.2f} of 1)"
            )
        return FINE

    def pool(self, histogram: list[int]) -> Verdict:
        """Say once which classes hardly occur in the memory."""
        even = sum(histogram) / len(histogram)
        rare = [number for number, count in enumerate(histogram) if count < RARE * even]
        if not rare or self.rare_said or self.rounds_since_restart <= ROUNDS_TO_SETTLE:
            return FINE
        self.rare_said = True
        shown = ", ".join(str(number) for number in rare[:8]) + (", ..." if len(rare) > 8 else "")
        return Verdict(
            action="go on",
            warning=f"{len(rare)} of {len(histogram)} classes hardly occur in the images ({shown}): "
            "the student will be weak on them",
        )

    def student(self, *, finite: bool) -> Verdict:
        """After the student's steps of a round.

        Raises:
            CollapseError: it was restored `MAX_RECOVERIES` times to no avail.
        """
        if finite:
            return FINE
        self.student_restores += 1
        if self.student_restores > MAX_RECOVERIES:
            raise CollapseError(
                f"the student's loss was not finite {self.student_restores} times, at ever smaller rates. "
                "Is the teacher's logit scale extreme? See what `edgekd compress` said before the run."
            )
        return Verdict(
            action="restore student",
            warning="the student's loss was not finite: restored from its average, learning rate halved",
        )

    def memory(self) -> Verdict:
        """After a step of the replay whose loss was not finite.

        Raises:
            CollapseError: it was started afresh `MAX_RECOVERIES` times to no avail.
        """
        self.memory_restarts += 1
        if self.memory_restarts > MAX_RECOVERIES:
            raise CollapseError(
                f"the loss of the replay VAE was not finite {self.memory_restarts} times. Take a recipe that keeps "
                "images: --recipe memory-bank or pool."
            )
        return Verdict(
            action="restart memory",
            warning="the loss of the replay VAE was not finite: it was started afresh",
        )

    def _restart(self, what: str) -> Verdict:
        self.generator_restarts += 1
        self.low_entropy_rounds = self.rounds_since_restart = 0
        if self.generator_restarts > MAX_RECOVERIES:
            raise CollapseError(
                f"{what}, {self.generator_restarts} times. The generator was started afresh each time. "
                "Does the teacher answer nearly everything with one class? `edgekd teacher check` says. Check --mean, "
                "--std and --input; a teacher with trained batch-norm inverts far better."
            )
        return Verdict(
            action="restart generator", warning=f"{what}: the generator was started afresh"
        )


def class_entropy(mean_prediction: list[float]) -> float:
    """Entropy over ln K of a distribution of K probabilities: 1 when even, 0 when one class has all."""
    terms = (-share * math.log(share) for share in mean_prediction if share > 0)
    return sum(terms) / math.log(len(mean_prediction))
